//! One node: the shards, the mesh between them, signals, and the end in order.
//!
//! The control thread, which calls [`run`], resolves names, reads files, takes signals, and tells the shards. It serves no client.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admin;
use crate::bus::redis::target::TargetError;
use crate::config::{self, AuthMode, Config, ConfigError, Driver, Reloaded, Routing, Sources};
use crate::io::fd_table::Tables;
use crate::io::runtime::{self, DriverKind};
use crate::io::shards::{Command, Plan, Shards, StartError as ShardsError};
use crate::io::{clock, process};
use crate::log::Log;
use crate::protocol::permission::PermissionError;
use crate::settings::{Homes, Settings};
use crate::shard::Shard;

mod announce;
mod bus;
mod outage;
mod signals;
mod watchdog;

use signals::{Signal, Signals};
use watchdog::{Probed, Verdict, Watchdog};

/// How long the shards may take to close what is left and end, once they are told to.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// How long giving back what the node holds in the cluster may take: where it takes longer, it runs out by itself.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);

/// What the command line says beside the configuration.
#[derive(Debug)]
pub struct RunOptions {
    /// Where to write the bound addresses once connections are accepted.
    pub ready_file: Option<PathBuf>,
    /// Where the configuration came from: SIGHUP reads it again.
    pub sources: Sources,
    /// The log, whose level may change at run time.
    pub log: Log,
}

/// Why the node did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operating system gave no random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
    /// Key files.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `auth.default_permissions`.
    #[error("auth.default_permissions: {0}")]
    Permissions(#[from] PermissionError),
    /// The thread that resolves names.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// Signals.
    #[error("cannot take signals: {0}")]
    Signals(std::io::Error),
    /// `shards.driver = "io_uring"`.
    #[error("shards.driver: io_uring is not to be had here ({0}); expected \"auto\" or \"epoll\"")]
    Driver(std::io::Error),
    /// `hooks.url`, `hooks.connect_url` or `hooks.message_url`.
    #[error("{key} = {url}: {error}")]
    Hooks {
        /// Which.
        key: &'static str,
        /// Its value.
        url: String,
        /// Why.
        error: std::io::Error,
    },
    /// `redis.url`.
    #[error("redis.url: {0}")]
    Redis(#[from] TargetError),
    /// The shards.
    #[error(transparent)]
    Shards(#[from] ShardsError),
    /// `--ready-file`.
    #[error("cannot write the ready file {path}: {error}")]
    ReadyFile {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A shard ended by itself.
    #[error("a shard has failed: {0}")]
    ShardFailed(std::io::Error),
}

/// Runs until a signal ends it, in order: SIGTERM and SIGINT drain, a second one ends at once.
///
/// # Errors
///
/// Why it did not start; or that a shard broke while it ran.
pub fn run(config: Config, options: RunOptions) -> Result<(), StartError> {
    // Before anything can be sent one.
    let mut signals = Signals::new().map_err(StartError::Signals)?;
    let open_files = process::raise_open_files();
    let count = shard_count(&config);
    let connections = u64::from(config.limits.connections);
    let tables = Tables::decide(config.shards.fd_tables, count, open_files, connections);
    warn_of_capacity(&tables, connections);

    let mut settings = Arc::new(resolve(config, count)?);
    let (shards, driver) = start(&settings, &tables)?;
    announce(&settings, &shards, driver, &tables);
    if let Some(path) = &options.ready_file {
        let ready = announce::Ready {
            client: shards.address(),
            admin: shards.address_beside(),
            node_id: &settings.node_id,
            pid: std::process::id(),
            driver: driver.name(),
            shards: count,
        };
        let written = announce::write_ready_file(path, &ready);
        written.map_err(|error| StartError::ReadyFile { path: path.clone(), error })?;
    }
    announce::notify_supervisor("READY=1");
    shards.shared().set_ready();
    let ended = supervise(&mut signals, &shards, &mut settings, &options);
    if matches!(ended, End::Drained | End::Deadline) && settings.config.cluster.routing != Routing::Local {
        shards.command(&Command::Leave);
        if !shards.wait_left(LEAVE_PATIENCE) {
            tracing::warn!("the lease of this node could not be given back: it runs out by itself");
        }
    }
    let stopped = shards.stop(STOP_PATIENCE);
    match ended {
        End::Drained => tracing::info!("all connections are closed"),
        End::Deadline => tracing::warn!("drain.deadline has passed: what was left is closed"),
        End::AtOnce => tracing::warn!("told twice: ended at once"),
        End::ShardFailed => {
            let reason = stopped.err().unwrap_or_else(|| std::io::Error::other("it ended without being told"));
            return Err(StartError::ShardFailed(reason));
        }
    }
    if let Err(error) = stopped {
        tracing::warn!(%error, "a shard did not end in order");
    }
    Ok(())
}

/// How it came to an end.
enum End {
    Drained,
    Deadline,
    AtOnce,
    ShardFailed,
}

/// Waits for signals and for the shards.
fn supervise(signals: &mut Signals, shards: &Shards, settings: &mut Arc<Settings>, options: &RunOptions) -> End {
    let mut draining: Option<Option<Instant>> = None;
    // By a signal: a second one ends at once. One that follows the server API's drain is the first.
    let mut told = false;
    let [usec, watched] = ["WATCHDOG_USEC", "WATCHDOG_PID"].map(std::env::var_os);
    let mut watchdog = Watchdog::new(usec.as_deref(), watched.as_deref(), std::process::id(), Instant::now());
    loop {
        let deadline = draining.flatten().into_iter().chain(watchdog.as_ref().map(Watchdog::next)).min();
        signals.wait(shards.control_fd(), deadline);
        match watchdog.as_mut().map_or(Verdict::Nothing, |watchdog| watchdog.look(shards, Instant::now())) {
            Verdict::Nothing => {}
            Verdict::Well => announce::notify_supervisor("WATCHDOG=1"),
            Verdict::Silent(which) => {
                tracing::error!(shards = ?which, "shards hang: the service manager will end this")
            }
        }
        shards.clear_control();
        for signal in signals.pending() {
            match signal {
                Signal::End if told => return End::AtOnce,
                Signal::End => {
                    told = true;
                    shards.shared().request_drain();
                }
                Signal::Reload => {
                    announce::notify_reloading();
                    match reload(settings, options) {
                        Ok(next) => {
                            *settings = Arc::new(next);
                            shards.command(&Command::Reload(settings.clone()));
                        }
                        Err(error) => tracing::error!("the configuration stays as it was: {error}"),
                    }
                    announce::notify_supervisor("READY=1");
                }
            }
        }
        // By a signal, or over the server API.
        if draining.is_none() && shards.shared().draining() {
            announce::notify_stopping(Duration::from_millis(settings.config.drain.deadline_ms) + STOP_PATIENCE);
            tracing::info!(connections = shards.connections(), "draining");
            shards.command(&Command::Drain);
            let patience = settings.config.drain.deadline_ms;
            draining = Some((patience > 0).then(|| Instant::now() + Duration::from_millis(patience)));
        }
        if shards.any_ended() {
            return End::ShardFailed;
        }
        if draining.is_some() && shards.drained() {
            return End::Drained;
        }
        if draining.flatten().is_some_and(|deadline| Instant::now() >= deadline) {
            return End::Deadline;
        }
    }
}

impl Probed for Shards {
    fn count(&self) -> usize {
        self.shared().statuses.len()
    }

    fn probe(&self, shard: usize, number: u64) {
        Shards::probe(self, shard, number);
    }

    fn answered(&self, shard: usize) -> u64 {
        self.shared().statuses[shard].answered()
    }
}

fn shard_count(config: &Config) -> u16 {
    let cores = || std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX));
    let count = if config.shards.count == 0 { cores() } else { config.shards.count };
    count.clamp(1, crate::limits::SHARDS_MAX as u16)
}

/// What the shards need besides the configuration.
fn resolve(config: Config, shards: u16) -> Result<Settings, StartError> {
    let verifier = config::verifier(&config.auth)?;
    let node_id = match config.node.id.as_str() {
        "" => format!("{}-{:08x}", host_name(), getrandom::u32().map_err(StartError::Random)?),
        id => id.to_owned(),
    };
    let instance = getrandom::u32().map_err(StartError::Random)?;
    let homes = Homes::new(shards, getrandom::u64().map_err(StartError::Random)?);
    Ok(Settings::new(config, verifier, node_id, instance, homes)?)
}

/// SIGHUP: reads configuration and key files again. What cannot change at run time is logged and stays.
fn reload(settings: &Settings, options: &RunOptions) -> Result<Settings, StartError> {
    let Reloaded { config, changed, ignored, warnings } = config::reload(&settings.config, &options.sources)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if !ignored.is_empty() {
        tracing::warn!(keys = ignored.join(", "), "changed in the configuration, but take a restart");
    }
    let verifier = config::verifier(&config.auth)?;
    let next = settings.reloaded(config, verifier)?;
    options.log.set_level(next.config.log.level);
    tracing::info!(keys = changed.join(", "), "configuration reloaded");
    Ok(next)
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "ringgate".to_owned() } else { name }
}

/// Starts the shards; where io_uring may be and fails after all, with epoll.
fn start(settings: &Arc<Settings>, tables: &Tables) -> Result<(Shards, DriverKind), StartError> {
    let config = &settings.config;
    let choice = runtime::choose(config.shards.driver).map_err(StartError::Driver)?;
    if let Some(error) = &choice.fallback {
        tracing::warn!(%error, "io_uring is not to be had here: epoll");
    }
    let plan = Plan {
        shards: tables.shards,
        driver: choice.driver,
        pin: config.shards.pin,
        private_tables: tables.private,
        listen: config.listen.client,
        backlog: config.listen.backlog,
        connections: u64::from(config.limits.connections),
        table_capacity: tables.capacity_of_one(),
    };
    let facts = admin::Facts {
        settings: settings.clone(),
        fd_tables: tables.name(),
        open_files_max: tables.limit,
        fallback: choice.fallback.map(|error| error.to_string()),
        started_unix_ms: clock::now().unix_ms,
        hooks: hooks_targets(config)?,
    };
    let beside = admin::beside(config.listen.admin, facts);
    let seed = getrandom::u64().map_err(StartError::Random)?;
    let make_bus = bus::make(settings)?;
    let shards = |plan: &Plan| {
        let settings = settings.clone();
        Shards::start_with(plan, Some(&beside), make_bus.clone(), move |id, now| {
            let seed = seed ^ u64::from(id.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Shard::new(settings.clone(), id, seed, now)
        })
    };
    match shards(&plan) {
        Ok(started) => Ok((started, plan.driver)),
        Err(ShardsError::Runtime { driver: DriverKind::IoUring, error }) if config.shards.driver == Driver::Auto => {
            tracing::warn!(%error, "io_uring is not to be had for every shard: epoll");
            let plan = Plan { driver: DriverKind::Epoll, ..plan };
            Ok((shards(&plan)?, plan.driver))
        }
        Err(e) => Err(e.into()),
    }
}

/// Resolves the names of services, here on the control thread, and from then on beside it.
fn hooks_targets(config: &Config) -> Result<admin::Targets, StartError> {
    let resolved = admin::Targets::resolve(&config.hooks);
    let targets = resolved.map_err(|(key, url, error)| StartError::Hooks { key, url, error })?;
    let _blocked = process::SignalsBlocked::new();
    admin::keep_resolving(targets.all()).map_err(StartError::Thread)?;
    Ok(targets)
}

fn warn_of_capacity(tables: &Tables, connections: u64) {
    let capacity = tables.capacity();
    if connections == 0 || capacity >= connections {
        return;
    }
    match tables.shards_needed(connections) {
        Some(needed) => tracing::warn!(
            "limits.connections is {connections}, but RLIMIT_NOFILE ({}) allows {capacity} with {} shards and {} descriptor tables: \
             raise it, or set shards.count = {needed} and shards.fd_tables = \"private\"",
            tables.limit,
            tables.shards,
            tables.name(),
        ),
        None => tracing::warn!(
            "limits.connections is {connections}, but RLIMIT_NOFILE ({}) allows {capacity}: raise it",
            tables.limit,
        ),
    }
}

/// The one line at the start.
fn announce(settings: &Settings, shards: &Shards, driver: DriverKind, tables: &Tables) {
    let asks = settings.config.hooks.connect_url.is_some();
    let auth = match settings.config.auth.mode {
        AuthMode::None if asks => "none (a service decides: hooks.connect_url)",
        AuthMode::None => "none (for trying out: everybody is believed)",
        AuthMode::Jwt if asks => "jwt (and a service: hooks.connect_url)",
        AuthMode::Jwt => "jwt",
    };
    let routing = match settings.config.cluster.routing {
        Routing::Local => "local",
        Routing::Broadcast => "broadcast",
        Routing::Registry => "registry",
        Routing::Hash => "hash",
    };
    let client: SocketAddr = shards.address();
    tracing::info!(
        node = %settings.node_id,
        shards = tables.shards,
        driver = driver.name(),
        fd_tables = tables.name(),
        routing,
        auth,
        admin = shards.address_beside().map(tracing::field::display),
        "serving ws://{client}/ws"
    );
    tracing::debug!(at_unix_ms = clock::now().unix_ms, "started");
}
