//! The server under load: started here or found at `--url`, and what it uses of the machine.

use std::fs;
use std::io::{Read as _, Write as _};
use std::iter::Sum;
use std::net::{SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::options::{Mode, Options};
use crate::sys;

/// A gateway that was started for this run ends with it.
pub(crate) struct Server {
    pub(crate) target: SocketAddrV4,
    /// Its admin listener, where it was started here.
    pub(crate) admin: Option<SocketAddrV4>,
    /// `None` when nobody said which process it is.
    pub(crate) pid: Option<u32>,
    /// The driver that the gateway says it uses.
    pub(crate) driver: Option<String>,
    pub(crate) shards: Option<u64>,
    child: Option<Child>,
    ready_file: Option<PathBuf>,
}

impl Server {
    /// Starts the gateway, or takes the one given by `--url`.
    pub(crate) fn new(options: &Options, connections: u32) -> Result<Server, String> {
        if let Some(target) = options.url {
            let pid = options.pid;
            return Ok(Server { target, admin: None, pid, driver: None, shards: None, child: None, ready_file: None });
        }
        Server::start(options, connections, "alone", &[])
    }

    /// Starts the gateway with more settings. `name` tells it from others of this run.
    pub(crate) fn start(options: &Options, connections: u32, name: &str, more: &[String]) -> Result<Server, String> {
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => find_or_build()?,
        };
        let ready_file = std::env::temp_dir().join(format!("ringgate-load-{}-{name}.json", std::process::id()));
        let _ = fs::remove_file(&ready_file);
        let mut command = Command::new(&binary);
        command.arg("serve").arg("--ready-file").arg(&ready_file);
        for setting in settings(options, connections).iter().chain(more) {
            command.arg("--set").arg(setting);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // What is said here is all there is: a variable for the tests would be warned about, and any other would change what is measured.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"RINGGATE_")) {
            command.env_remove(name);
        }
        sys::die_with_parent(&mut command);
        // A child inherits the affinity of the thread that starts it.
        let before = match options.pin_server {
            Some(core) => Some(sys::pin(core).map_err(|error| format!("core {core}: {error}"))?),
            None => None,
        };
        let child = command.spawn().map_err(|error| format!("{}: {error}", binary.display()));
        if let Some(before) = before {
            sys::unpin(&before);
        }
        let mut server = Server {
            target: SocketAddrV4::new([127, 0, 0, 1].into(), 0),
            admin: None,
            pid: None,
            driver: None,
            shards: None,
            child: Some(child?),
            ready_file: Some(ready_file),
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(15);
        let (Some(child), Some(file)) = (&mut self.child, &self.ready_file) else { return Ok(()) };
        while Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("the gateway ended at its start: {status}"));
            }
            let ready: Option<serde_json::Value> =
                fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            if let Some(ready) = ready {
                let client = ready["client"].as_str().unwrap_or_default();
                self.target = client.parse().map_err(|_| format!("the ready file says client = {client:?}"))?;
                self.admin = ready["admin"].as_str().and_then(|admin| admin.parse().ok());
                self.pid = Some(child.id());
                self.driver = ready["driver"].as_str().map(str::to_owned);
                self.shards = ready["shards"].as_u64();
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("the gateway was not ready within 15 s".into())
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        match (&mut self.child, self.pid) {
            (Some(child), _) => matches!(child.try_wait(), Ok(None)),
            (None, Some(pid)) => sys::alive(pid),
            (None, None) => true,
        }
    }

    /// What the server has used until now.
    pub(crate) fn usage(&self) -> Usage {
        self.pid.map_or_else(Usage::default, Usage::of)
    }

    /// A page of the admin listener.
    pub(crate) fn page(&self, path: &str) -> Result<String, String> {
        get(self.admin.ok_or("a server that was not started here")?, path)
    }

    /// The node that a user belongs on.
    pub(crate) fn route(&self, user: &str) -> Result<String, String> {
        let body = get(self.target, &format!("/route?user={user}"))?;
        let route: serde_json::Value = serde_json::from_str(&body).map_err(|_| format!("/route says {body:?}"))?;
        route["node"].as_str().map(str::to_owned).ok_or_else(|| format!("/route says {body:?}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            sys::terminate(child.id());
            let deadline = Instant::now() + Duration::from_secs(5);
            while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(file) = &self.ready_file {
            let _ = fs::remove_file(file);
        }
    }
}

/// The body of a page.
fn get(from: SocketAddrV4, path: &str) -> Result<String, String> {
    let read = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&from.into(), Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {from}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| format!("{path}: {error}"))?;
    let (_, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("{path}: no answer"))?;
    Ok(body.to_owned())
}

/// What a process has used, or several together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_ns: u64,
    pub(crate) rss: u64,
    /// The most there ever was of it.
    pub(crate) rss_peak: u64,
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Usage>>(all: I) -> Usage {
        all.fold(Usage::default(), |sum, one| Usage {
            cpu_ns: sum.cpu_ns + one.cpu_ns,
            rss: sum.rss + one.rss,
            rss_peak: sum.rss_peak + one.rss_peak,
        })
    }
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Usage {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        Usage {
            cpu_ns: sys::process_cpu_ns(pid).unwrap_or(0),
            rss: field(&status, "VmRSS:") * 1024,
            rss_peak: field(&status, "VmHWM:") * 1024,
        }
    }

    pub(crate) fn own() -> Usage {
        Usage::of(std::process::id())
    }
}

/// What the kernel holds for everybody on this machine, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) slab: u64,
    pub(crate) socket_buffers: u64,
}

impl Kernel {
    pub(crate) fn now() -> Kernel {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let pages = sockets.lines().find(|line| line.starts_with("TCP:")).map_or(0, |line| field(line, " mem"));
        Kernel { slab: field(&memory, "Slab:") * 1024, socket_buffers: pages * 4096 }
    }
}

/// The number after `name`.
fn field(text: &str, name: &str) -> u64 {
    let after = text.split(name).nth(1).unwrap_or_default();
    after.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn settings(options: &Options, connections: u32) -> Vec<String> {
    let mut settings: Vec<String> = [
        "listen.client=127.0.0.1:0",
        "listen.admin=127.0.0.1:0",
        "auth.mode=none",
        "session.idle_timeout=0s",
        "limits.connections_per_ip=0",
        "limits.messages_per_second=0",
        "limits.bytes_per_second=0",
        "log.level=warn",
        "drain.grace=0s",
    ]
    .map(str::to_owned)
    .to_vec();
    // As few as will do: from some number on the gateway needs private descriptor tables. Whoever comes back in a storm
    // may be there before the gateway has noticed that they were gone.
    let spare = if options.mode == Mode::Storm { connections / 2 } else { 0 };
    settings.push(format!("limits.connections={}", connections + spare + 64));
    settings.push(format!("echo.enabled={}", options.mode == Mode::Echo));
    // Announcing n members to each other costs n²/2 messages: only where that is part of the mix.
    if options.mode != Mode::Mix {
        settings.push("rooms.announce_max=1".into());
    }
    if options.mode == Mode::Slow {
        let small = ["outbox.high=64KiB", "outbox.low=16KiB", "outbox.max=256KiB", "outbox.grace=2s"];
        settings.extend(small.map(str::to_owned));
    }
    if let Some(size) = options.size {
        settings.push(format!("limits.message_size={}", (size + 4096).max(64 << 10)));
    }
    if options.pin_server.is_some() {
        settings.push("shards.pin=false".into());
    }
    if let Some(shards) = options.shards.or(options.pin_server.map(|_| 1)) {
        settings.push(format!("shards.count={shards}"));
    }
    if let Some(driver) = &options.driver {
        settings.push(format!("shards.driver={driver}"));
    }
    settings.extend(options.settings.iter().cloned());
    settings
}

/// The release build beside this executable (`target/release/deps/load-…`).
fn find_or_build() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let directory = own.parent().and_then(Path::parent).ok_or("the bench is not where cargo puts it")?;
    let binary = directory.join("ringgate");
    if !binary.exists() {
        eprintln!("building the gateway");
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let status = Command::new(cargo).args(["build", "--release", "--manifest-path", manifest]).status();
        if !status.map_err(|error| error.to_string())?.success() || !binary.exists() {
            return Err(format!("{} is not there and could not be built", binary.display()));
        }
    }
    Ok(binary)
}
