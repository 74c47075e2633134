//! The command line: what can be said, and the commands that need no node. Serving is left to `main`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};

use crate::auth::{self, NewToken};
use crate::config::{self, Config, ConfigError, Loaded, Sources};
use crate::operator::{self, ClientError, TopOptions, TraceOptions};

/// The exit code for a command line or configuration that is not right.
const EXIT_USAGE: u8 = 2;

/// A WebSocket gateway: holds client connections and routes messages between users, rooms and channels.
#[derive(Debug, Parser)]
#[command(
    name = "ringgate",
    version,
    after_help = "Without a command it serves. Configuration comes from the defaults, the file, the environment \
                  (RINGGATE_LISTEN_CLIENT for listen.client) and --set, the later over the earlier; `ringgate default-config` lists every key."
)]
pub struct Cli {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT (what happens without a command)
    Serve(ServeArgs),
    /// Read configuration and keys, say what is wrong with them, and end: 0 right, 2 wrong
    CheckConfig(SourceArgs),
    /// Print a configuration file with every key, its comment and its default
    DefaultConfig,
    /// Show a running node in the terminal: totals, rates, shards, the worst connections, the largest rooms
    Top(TopArgs),
    /// Follow one user's frames on a running node: types, sizes, timing
    Trace(TraceArgs),
    /// Print a token for a user, signed with the configured auth.hmac_secret (HS256)
    GenToken(TokenArgs),
}

#[derive(Clone, Debug, Default, Args)]
struct ServeArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Write the bound addresses there as JSON once connections are accepted
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

#[derive(Clone, Default, Args)]
struct SourceArgs {
    /// The configuration file [default: /etc/ringgate/ringgate.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set a key, over file and environment: --set listen.client=127.0.0.1:0 (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl std::fmt::Debug for SourceArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // `set` may hold secrets.
        f.debug_struct("SourceArgs").field("config", &self.config).finish_non_exhaustive()
    }
}

#[derive(Debug, Args)]
struct TokenArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The user the token is for
    #[arg(long)]
    user: String,
    /// How long it is valid: "30s", "5m", "1h"; 0: for ever
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = ttl)]
    ttl: u64,
    /// What the user may do, separated by commas: send:*,join:team-7-* [default: what auth.default_permissions says]
    #[arg(long, value_name = "VERB:PATTERN", value_delimiter = ',')]
    permissions: Option<Vec<String>>,
    /// A room to join at once (may be repeated)
    #[arg(long)]
    room: Vec<String>,
}

#[derive(Args)]
struct AdminArgs {
    /// The admin listener [default: listen.admin of the configuration]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Its key [default: the first of api.keys of the configuration]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

impl std::fmt::Debug for AdminArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminArgs").field("admin", &self.admin).finish_non_exhaustive()
    }
}

impl AdminArgs {
    /// Where the node's admin listener is, and its key.
    fn find(self, source: SourceArgs) -> Result<(SocketAddr, Option<String>), ConfigError> {
        let config = match (self.admin, &self.key) {
            (Some(admin), Some(_)) => return Ok((admin, self.key)),
            _ => config::load(&source.sources())?.config,
        };
        let key = self.key.or_else(|| config.api.keys.first().map(|key| key.0.clone()));
        Ok((self.admin.unwrap_or_else(|| operator::dialled(config.listen.admin)), key))
    }
}

#[derive(Debug, Args)]
struct TopArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    admin: AdminArgs,
    /// Between two looks: "500ms", "2s"
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = interval)]
    interval: Duration,
    /// What connections are sorted by: outbox_bytes, oldest_ms, dropped or rtt
    #[arg(long, default_value = "outbox_bytes", value_name = "WHAT")]
    by: String,
    /// Print once and end
    #[arg(long)]
    once: bool,
}

#[derive(Debug, Args)]
struct TraceArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    admin: AdminArgs,
    /// Whom to follow
    #[arg(long)]
    user: String,
    /// Show what the messages say, too
    #[arg(long)]
    content: bool,
    /// How long: "30s", "5m"; at most "1h"
    #[arg(long = "for", default_value = "60s", value_name = "DURATION", value_parser = bounded_time)]
    duration: Duration,
}

fn bounded_time(text: &str) -> Result<Duration, String> {
    config::parse_duration_ms(text)
        .filter(|ms| (1..=3_600_000).contains(ms))
        .map(Duration::from_millis)
        .ok_or_else(|| "expected up to an hour, such as \"30s\" or \"5m\"".to_owned())
}

fn interval(text: &str) -> Result<Duration, String> {
    config::parse_duration_ms(text)
        .filter(|ms| *ms >= 100)
        .map(Duration::from_millis)
        .ok_or_else(|| "expected at least 100ms, such as \"500ms\" or \"2s\"".to_owned())
}

fn ttl(text: &str) -> Result<u64, String> {
    config::parse_duration_ms(text)
        .filter(|ms| ms.is_multiple_of(1000))
        .map(|ms| ms / 1000)
        .ok_or_else(|| "expected whole seconds such as \"30s\", \"5m\" or \"1h\", or 0 for ever".to_owned())
}

/// What is left to do after the command line.
#[derive(Debug)]
pub enum Outcome {
    /// Serve.
    Serve(Box<Serve>),
    /// Nothing: this is the exit code.
    Done(ExitCode),
}

/// All that serving needs.
#[derive(Debug)]
pub struct Serve {
    /// The configuration. Its key files were usable just now.
    pub config: Config,
    /// What an operator should know but can live with, for the log.
    pub warnings: Vec<String>,
    /// Where the configuration came from, for the reload.
    pub sources: Sources,
    /// Where to write the bound addresses once connections are accepted.
    pub ready_file: Option<PathBuf>,
}

/// Does what the command line of this process says, short of serving.
///
/// Help, version and usage errors end the process, the latter with exit code 2.
pub fn run() -> Outcome {
    Cli::parse().run()
}

impl Cli {
    fn run(self) -> Outcome {
        let Cli { serve: outer, command } = self;
        if outer.ready_file.is_some() && !matches!(command, None | Some(Command::Serve(_))) {
            return Outcome::Done(usage("--ready-file is for serving only"));
        }
        let code = match command {
            None => return prepare(outer),
            Some(Command::Serve(inner)) => {
                let ready_file = inner.ready_file.or(outer.ready_file);
                return prepare(ServeArgs { source: outer.source.then(inner.source), ready_file });
            }
            Some(Command::CheckConfig(inner)) => check_config(outer.source.then(inner)),
            Some(Command::DefaultConfig) => print(&config::default_config()),
            Some(Command::GenToken(token)) => gen_token(outer.source, token),
            Some(Command::Top(args)) => top(outer.source, args),
            Some(Command::Trace(args)) => trace(outer.source, args),
        };
        Outcome::Done(code)
    }
}

impl SourceArgs {
    /// Arguments before and after the command.
    fn then(mut self, inner: SourceArgs) -> Self {
        self.config = inner.config.or(self.config);
        self.set.extend(inner.set);
        self
    }

    fn sources(self) -> Sources {
        Sources::of_process(self.config, self.set)
    }
}

fn prepare(args: ServeArgs) -> Outcome {
    let sources = args.source.sources();
    // A bad key file is a bad configuration, and is told before anything is bound.
    let loaded = config::load(&sources).and_then(|loaded| config::verifier(&loaded.config.auth).map(|_| loaded));
    match loaded {
        Ok(Loaded { config, warnings, .. }) => {
            Outcome::Serve(Box::new(Serve { config, warnings, sources, ready_file: args.ready_file }))
        }
        Err(error) => Outcome::Done(wrong_config(&error)),
    }
}

fn check_config(args: SourceArgs) -> ExitCode {
    let loaded = match config::load(&args.sources()) {
        Ok(loaded) => loaded,
        Err(error) => return wrong_config(&error),
    };
    for warning in &loaded.warnings {
        eprintln!("ringgate: warning: {warning}");
    }
    match config::verifier(&loaded.config.auth) {
        Ok(_) => print("configuration ok\n"),
        Err(error) => wrong_config(&error),
    }
}

fn gen_token(outer: SourceArgs, args: TokenArgs) -> ExitCode {
    let loaded = match config::load(&outer.then(args.source).sources()) {
        Ok(loaded) => loaded,
        Err(error) => return wrong_config(&error),
    };
    let token = NewToken { user: args.user, ttl_s: args.ttl, permissions: args.permissions, rooms: args.room };
    let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    match auth::sign(&loaded.config.auth, &token, now_unix_s) {
        Ok(token) => print(&format!("{token}\n")),
        Err(error) => usage(&error.to_string()),
    }
}

fn top(outer: SourceArgs, args: TopArgs) -> ExitCode {
    let TopArgs { source, admin, interval, by, once } = args;
    match admin.find(outer.then(source)) {
        Ok((admin, key)) => looked(operator::top(&TopOptions { admin, key, interval, once, by })),
        Err(error) => wrong_config(&error),
    }
}

fn trace(outer: SourceArgs, args: TraceArgs) -> ExitCode {
    let TraceArgs { source, admin, user, content, duration } = args;
    match admin.find(outer.then(source)) {
        Ok((admin, key)) => looked(operator::trace(&TraceOptions { admin, key, user, content, duration })),
        Err(error) => wrong_config(&error),
    }
}

fn looked(result: Result<(), ClientError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(ClientError::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ringgate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Standard output, where the reader may have gone: `ringgate default-config | head` is no error worth a panic.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn wrong_config(error: &ConfigError) -> ExitCode {
    for problem in &error.problems {
        eprintln!("ringgate: {}", problem.text);
    }
    ExitCode::from(EXIT_USAGE)
}

fn usage(text: &str) -> ExitCode {
    eprintln!("ringgate: {text}");
    ExitCode::from(EXIT_USAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_hold_before_and_after_the_command() {
        let table: [(&[&str], &[&str], Option<&str>); 5] = [
            (&["--set", "a=1"], &["a=1"], None),
            (&["serve", "--set", "a=1", "--config", "x"], &["a=1"], Some("x")),
            (&["--set", "a=1", "serve", "--set", "b=2"], &["a=1", "b=2"], None),
            (&["--config", "x", "serve", "--config", "y"], &[], Some("y")),
            (&["--config", "x", "--set=a=1", "serve"], &["a=1"], Some("x")),
        ];
        for (arguments, set, file) in table {
            let cli = Cli::try_parse_from([&["ringgate"], arguments].concat()).unwrap();
            let source = match cli.command {
                Some(Command::Serve(inner)) => cli.serve.source.then(inner.source),
                _ => cli.serve.source,
            };
            assert_eq!(source.set, set, "{arguments:?}");
            assert_eq!(source.config, file.map(PathBuf::from), "{arguments:?}");
        }
    }

    #[test]
    fn tokens() {
        let parsed = |arguments: &[&str]| {
            let all = [&["ringgate", "gen-token"], arguments].concat();
            match Cli::try_parse_from(all).map_err(|error| error.to_string())?.command {
                Some(Command::GenToken(args)) => Ok((args.ttl, args.permissions, args.room)),
                _ => Err("another command".to_owned()),
            }
        };
        assert_eq!(parsed(&["--user", "ann"]), Ok((3600, None, vec![])));
        let some = Some(vec!["send:*".to_owned(), "broadcast".to_owned()]);
        let rooms = vec!["a,b".to_owned(), "c".to_owned()];
        let arguments =
            ["--user", "ann", "--ttl", "5m", "--permissions", "send:*,broadcast", "--room", "a,b", "--room", "c"];
        assert_eq!(parsed(&arguments), Ok((300, some, rooms)));
        assert_eq!(parsed(&["--user", "ann", "--ttl", "0"]), Ok((0, None, vec![])));
        for wrong in [&["--user", "ann", "--ttl", "1500ms"][..], &["--user", "ann", "--ttl", "60"], &[], &["--user"]] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
