//! Every key from every source, and every way to be wrong.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::schema::{CLASSES_PATH, KEYS};
use super::*;

/// A directory of one test, gone at its end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringgate-config-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn from_file(path: &Path) -> Sources {
    Sources { file: Some(path.to_owned()), ..Sources::default() }
}

fn from_set(set: &[&str]) -> Sources {
    Sources { set: set.iter().map(|text| (*text).to_owned()).collect(), ..Sources::default() }
}

fn from_env(variables: &[(&str, &str)]) -> Sources {
    let environment = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    Sources { environment, ..Sources::default() }
}

fn error_of(sources: &Sources) -> String {
    load(sources).map(|loaded| format!("loaded: {:?}", loaded.config)).unwrap_or_else(|error| error.to_string())
}

fn shown(config: &Config) -> Vec<(&'static str, Option<String>)> {
    KEYS.iter().map(|key| (key.path, (key.show)(config))).collect()
}

/// For every key a value that is not the default, as TOML and as it would stand in the environment.
const SAMPLES: &[(&str, &str, &str)] = &[
    ("node.id", "\"node-7\"", "node-7"),
    ("listen.client", "\"127.0.0.1:0\"", "127.0.0.1:0"),
    ("listen.admin", "\"[::1]:9\"", "[::1]:9"),
    ("listen.backlog", "128", "128"),
    ("listen.trusted_proxies", "[\"10.0.0.0/8\", \"::1/128\"]", "10.0.0.0/8, ::1"),
    ("listen.proxy_protocol", "true", "true"),
    ("listen.allowed_origins", "[\"https://example.com\"]", "https://example.com"),
    ("shards.count", "256", "256"),
    ("shards.pin", "false", "false"),
    ("shards.fd_tables", "\"private\"", "private"),
    ("shards.driver", "\"io_uring\"", "io_uring"),
    ("auth.mode", "\"jwt\"", "jwt"),
    ("auth.timeout", "\"90s\"", "90s"),
    ("auth.hmac_secret", "\"0123456789abcdef0123456789abcdef\"", "0123456789abcdef0123456789abcdef"),
    ("auth.hmac_secret_file", "\"/tmp/s\"", "/tmp/s"),
    ("auth.public_keys", "[\"/a.pem\", \"/b.pem\"]", "/a.pem,/b.pem"),
    ("auth.jwks_file", "\"/j\"", "/j"),
    ("auth.audience", "[\"chat\"]", "[\"chat\"]"),
    ("auth.issuer", "[\"https://id.example\"]", "https://id.example"),
    ("auth.allow_insecure", "true", "true"),
    ("auth.default_permissions", "[\"send:*\", \"broadcast\"]", "send:*,broadcast"),
    ("session.heartbeat_interval", "\"1s\"", "1s"),
    ("session.heartbeat_timeout", "\"0\"", "0"),
    ("session.idle_timeout", "\"1h\"", "60m"),
    ("session.handshake_timeout", "\"500ms\"", "500ms"),
    ("session.max_per_user", "0", "0"),
    ("session.max_subscriptions", "5", "5"),
    ("limits.connections", "4294967295", "4294967295"),
    ("limits.connections_per_ip", "0", "0"),
    ("limits.connections_per_ip_window", "\"1s\"", "1s"),
    ("limits.message_size", "\"16MiB\"", "16MiB"),
    ("limits.messages_per_second", "0", "0"),
    ("limits.bytes_per_second", "1000000", "1MB"),
    ("outbox.high", "\"2MiB\"", "2MiB"),
    ("outbox.low", "0", "0"),
    ("outbox.max", "\"8MiB\"", "8388608"),
    ("outbox.grace", "\"0\"", "0"),
    ("outbox.shard_budget", "\"8GiB\"", "8GiB"),
    ("rooms.announce_max", "0", "0"),
    ("deflate.enabled", "false", "false"),
    ("deflate.context_takeover", "true", "true"),
    ("deflate.min_size", "0", "0"),
    ("deflate.level", "9", "9"),
    ("echo.enabled", "true", "true"),
    ("api.keys", "[\"one\", \"two\"]", "one,two"),
    ("cluster.routing", "\"hash\"", "hash"),
    ("cluster.advertise", "\"wss://node-7.example.com/ws\"", "wss://node-7.example.com/ws"),
    ("cluster.ready_needs_bus", "true", "true"),
    ("redis.url", "\"rediss://user:password@host:6380/0\"", "rediss://user:password@host:6380/0"),
    ("redis.prefix", "\"chat:\"", "chat:"),
    ("redis.batch_size", "1", "1"),
    ("redis.batch_delay", "\"0\"", "0"),
    ("redis.timeout", "\"2s\"", "2s"),
    ("redis.entry_ttl", "\"2h\"", "2h"),
    ("redis.lease_ttl", "\"30s\"", "30s"),
    ("drain.grace", "\"3s\"", "3s"),
    ("drain.spread", "\"0\"", "0"),
    ("drain.deadline", "\"10m\"", "10m"),
    ("log.level", "\"trace\"", "trace"),
    ("log.format", "\"json\"", "json"),
];

#[test]
fn the_default_configuration_says_the_defaults() {
    let dir = Dir::new("defaults");
    let text = default_config();
    let loaded = load(&from_file(&dir.file("c.toml", &text))).unwrap();
    assert_eq!(shown(&loaded.config), shown(&Config::default()));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    for key in KEYS.iter().filter(|key| key.path != CLASSES_PATH) {
        let (_, name) = key.path.split_once('.').unwrap();
        assert!(text.contains(&format!("\n{name} = ")) || text.contains(&format!("\n# {name} = ")), "{}", key.path);
        assert!(!key.comment.is_empty() && !key.comment.contains('#'), "{}", key.path);
    }
    assert!(load(&Sources::default()).unwrap().warnings.is_empty());
}

#[test]
fn examples_of_keys_without_a_default_are_right() {
    for key in KEYS.iter().filter(|key| key.example.is_some()) {
        let dir = Dir::new("example");
        let (section, name) = key.path.split_once('.').unwrap();
        let path = dir.file("c.toml", format!("[{section}]\n{name} = {}\n", key.example.unwrap()));
        let result = load(&from_file(&path));
        // The file of the secret does not exist here.
        assert!(result.is_ok() || key.path == "auth.hmac_secret_file", "{}: {result:?}", key.path);
    }
}

#[test]
fn every_key_can_be_set_from_every_source() {
    let sampled: Vec<&str> = SAMPLES.iter().map(|(path, ..)| *path).collect();
    let without_a_choice = [CLASSES_PATH, "cluster.bus"];
    let known: Vec<&str> = KEYS.iter().map(|key| key.path).filter(|path| !without_a_choice.contains(path)).collect();
    assert_eq!(sampled, known);

    let dir = Dir::new("sources");
    for (path, in_toml, bare) in SAMPLES {
        let key = schema::find(path).unwrap();
        let (section, name) = path.split_once('.').unwrap();
        let file = from_file(&dir.file("c.toml", format!("[{section}]\n{name} = {in_toml}\n")));
        let variable = format!("RINGGATE_{}", path.to_uppercase().replace('.', "_"));
        let sources = [
            file,
            from_env(&[(&variable, bare)]),
            from_env(&[(&variable, in_toml)]),
            from_set(&[&format!("{path}={bare}")]),
            from_set(&[&format!("{path} = {in_toml}")]),
        ];
        for sources in sources {
            // Relations are for other tests: only that this key was read.
            let source = match &sources.file {
                Some(file) => super::file::from_file(file, false),
                None if sources.set.is_empty() => super::file::from_environment(&sources.environment),
                None => super::file::from_set(&sources.set),
            };
            assert_eq!((source.problems.len(), source.warnings.len(), source.assignments.len()), (0, 0, 1), "{path}");
            let mut config = Config::default();
            assert_ne!((key.show)(&config).as_deref(), Some(*in_toml), "{path}: the sample is the default");
            assert!((key.read)(&mut config, &source.assignments[0].raw), "{path}");
            assert_eq!((key.show)(&config).as_deref(), Some(*in_toml), "{path}");
            let mut copied = Config::default();
            (key.copy)(&config, &mut copied);
            assert_eq!(shown(&copied), shown(&config), "{path}");
        }
    }
}

#[test]
fn later_layers_win() {
    let dir = Dir::new("layers");
    let path = dir.file("c.toml", "[limits]\nconnections = 1\nmessage_size = \"1KiB\"\n[log]\nlevel = \"warn\"\n");
    let mut sources =
        from_env(&[("RINGGATE_LIMITS_CONNECTIONS", "2"), ("RINGGATE_LOG_LEVEL", "error"), ("OTHER", "x")]);
    sources.file = Some(path);
    sources.set = vec!["limits.connections=3".to_owned(), "limits.connections=4".to_owned()];
    let config = load(&sources).unwrap().config;
    assert_eq!((config.limits.connections, config.limits.message_size, config.log.level), (4, 1024, LogLevel::Error));
}

#[test]
fn the_default_file_need_not_exist_and_a_named_one_must() {
    let dir = Dir::new("missing");
    let missing = dir.0.join("none.toml");
    let optional = Sources { default_file: Some(missing.clone()), ..Sources::default() };
    assert!(load(&optional).is_ok());
    let error = error_of(&from_file(&missing));
    assert!(error.starts_with("cannot read the configuration file") && error.contains("none.toml"), "{error}");
    let found = Sources { default_file: Some(dir.file("c.toml", "[shards]\ncount = 3")), ..Sources::default() };
    assert_eq!(load(&found).unwrap().config.shards.count, 3);
    let named = Sources { file: Some(dir.file("d.toml", "")), ..found };
    assert_eq!(load(&named).unwrap().config.shards.count, 0);
    for (bytes, expect) in [(vec![0xff, 0xfe], "not UTF-8"), (vec![b'#'; 2 << 20], "larger than 1 MiB")] {
        let error = error_of(&from_file(&dir.file("bad.toml", bytes)));
        assert!(error.contains(expect), "{error}");
    }
}

#[test]
fn classes_add_to_the_defaults() {
    let dir = Dir::new("classes");
    let mut sources = from_env(&[("RINGGATE_CLASSES_TICK", "latest")]);
    sources.file = Some(
        dir.file("c.toml", "[classes]\nalarm = \"urgent\"\nprice_update = \"normal\"\n\"a b.c\" = \"droppable\"\n"),
    );
    sources.set = vec!["classes.x.y=urgent".to_owned()];
    let classes = load(&sources).unwrap().config.classes.0;
    let expect = [
        ("alarm", Class::Urgent),
        ("price_update", Class::Normal),
        ("a b.c", Class::Droppable),
        ("tick", Class::Latest),
        ("x.y", Class::Urgent),
        ("cursor_position", Class::Latest),
        ("typing_indicator", Class::Droppable),
    ];
    assert_eq!(classes, expect.into_iter().map(|(event, class)| (event.to_owned(), class)).collect());
}

#[test]
fn unknown_names_in_the_environment_are_warnings() {
    let sources =
        from_env(&[("RINGGATE_PORT", "tcp://10.0.0.1:80"), ("RINGGATE_SERVICE_HOST", "x"), ("RINGGATE_CLASSES", "y")]);
    let warnings = load(&sources).unwrap().warnings;
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[1].starts_with("environment variable RINGGATE_PORT "), "{warnings:?}");
}

#[test]
fn variables_are_unambiguous() {
    let mut names: Vec<String> = KEYS.iter().map(|key| super::file::variable(key.path)).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), KEYS.len());
}

/// What is wrong in a file, with its line.
#[test]
fn errors_in_a_file() {
    let table = [
        ("[outbox]\n\nhigh = \"lots\"", "outbox.high = \"lots\" (FILE:3): expected a size such as 65536, \"64KiB\""),
        ("[outbox]\nhigh = -1", "outbox.high = -1 (FILE:2): expected a size"),
        ("[outbox]\nhigh = 1.5", "outbox.high = (float) (FILE:2): expected a size"),
        ("[outbox]\nhigh = \"2GiB\"", "from 1B to 1GiB, or 0 for off"),
        ("[outbox]\nhihg = 1", "outbox.hihg (FILE:2): unknown key; did you mean outbox.high?"),
        ("message_size = 1", "message_size (FILE:1): unknown section or key; did you mean limits.message_size?"),
        ("[listne]\nclient = 1", "listne (FILE:1): unknown section or key; did you mean listen?"),
        ("[zzzzzzzz]\nq = 1", "unknown section or key; `ringgate default-config` lists all keys"),
        ("listen = 5", "listen (FILE:1): is a section; expected [listen] and keys below it"),
        ("[[listen]]\nclient = 1", "is a section; expected [listen]"),
        ("[listen.client]\na = 1", "listen.client = (table) (FILE:1): expected an IP address and a port"),
        (
            "[listen]\nclient = \"localhost\"",
            "listen.client = \"localhost\" (FILE:2): expected an IP address and a port",
        ),
        ("[listen]\nclient = 8080", "listen.client = 8080 (FILE:2): expected an IP address"),
        ("[listen]\nbacklog = 0", "listen.backlog = 0 (FILE:2): expected an integer from 1 to 65535"),
        (
            "[listen]\ntrusted_proxies = [\"10.0.0.0/33\"]",
            "listen.trusted_proxies = [\"10.0.0.0/33\"] (FILE:2): expected a list; each item: a network",
        ),
        ("[listen]\ntrusted_proxies = \"10.0.0.0/8\"", "expected a list; each item: a network"),
        ("[listen]\nallowed_origins = [\"https://example.com/\"]", "an origin such as \"https://example.com\""),
        ("[listen]\nproxy_protocol = \"yes\"", "listen.proxy_protocol = \"yes\" (FILE:2): expected true or false"),
        ("[shards]\ncount = 257", "shards.count = 257 (FILE:2): expected an integer from 0 to 256"),
        ("[shards]\ncount = 99999999999999999999", "shards.count = 99999999999999999999 (FILE:2): expected an integer"),
        (
            "[shards]\ndriver = \"uring\"",
            "shards.driver = \"uring\" (FILE:2): expected \"auto\", \"io_uring\" or \"epoll\"",
        ),
        ("[auth]\nmode = \"JWT\"", "auth.mode = \"JWT\" (FILE:2): expected \"none\" or \"jwt\""),
        ("[auth]\ntimeout = 30", "auth.timeout = 30 (FILE:2): expected a duration with its unit"),
        ("[auth]\ntimeout = \"1000h\"", "from 1ms to 720h, or 0 for off"),
        ("[auth]\ndefault_permissions = \"send:*\"", "auth.default_permissions = \"send:*\" (FILE:2): expected a list"),
        ("[limits]\nmessage_size = \"17MiB\"", "limits.message_size = \"17MiB\" (FILE:2): expected a size"),
        ("[deflate]\nlevel = 0", "deflate.level = 0 (FILE:2): expected an integer from 1 to 9"),
        (
            "[classes]\nx = \"slow\"",
            "classes.x = \"slow\" (FILE:2): expected an event name of 1 to 128 bytes = \"urgent\"",
        ),
        ("[cluster]\nbus = \"nats\"", "cluster.bus = \"nats\" (FILE:2): expected \"redis\""),
        ("[cluster]\nadvertise = \"10.0.0.1:80\"", "expected a URL such as \"ws://"),
        ("[redis]\nprefix = \"{x}\"", "redis.prefix = \"{x}\" (FILE:2): expected 1 to 64 printable"),
        ("[redis]\ntimeout = 0", "redis.timeout = 0 (FILE:2): expected a duration"),
        ("[node]\nid = \"a b\"", "node.id = \"a b\" (FILE:2): expected up to 64 letters"),
        ("[log]\nlevel = \"loud\"", "expected \"error\", \"warn\", \"info\", \"debug\" or \"trace\""),
        ("[log]\nlevel = info", "FILE:2: not TOML: "),
        ("[log]\nlevel = \"info\"\nlevel = \"warn\"", "FILE:3: not TOML: "),
        ("[log", "FILE:1: not TOML: "),
    ];
    let dir = Dir::new("errors");
    for (text, expect) in table {
        let path = dir.file("c.toml", text);
        let error = error_of(&from_file(&path)).replace(&path.display().to_string(), "FILE");
        assert!(error.contains(expect) && error.lines().count() == 1, "{text}\n  {error}\n  {expect}");
    }
}

#[test]
fn errors_name_variables_and_arguments() {
    let error = error_of(&from_env(&[("RINGGATE_SHARDS_COUNT", "many")]));
    assert_eq!(
        error,
        "shards.count = \"many\" (environment variable RINGGATE_SHARDS_COUNT): expected an integer from 0 to 256"
    );
    let error = error_of(&from_set(&["shards.count=many"]));
    assert_eq!(error, "shards.count = \"many\" (--set): expected an integer from 0 to 256");
    assert_eq!(
        error_of(&from_set(&["shards.cuont=1"])),
        "shards.cuont (--set): unknown key; did you mean shards.count?"
    );
    assert!(error_of(&from_set(&["shards.count"])).starts_with("--set: expected KEY=VALUE"));
    assert!(error_of(&from_set(&["=x"])).contains("unknown"));
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt as _;
        let environment = vec![("RINGGATE_NODE_ID".into(), OsString::from_vec(vec![0xff]))];
        let error = error_of(&Sources { environment, ..Sources::default() });
        assert_eq!(error, "node.id (environment variable RINGGATE_NODE_ID): not UTF-8");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let error = load(&from_set(&["shards.count=-1", "log.level=loud", "a.b=1"])).unwrap_err();
    let keys: Vec<Option<&str>> = error.problems.iter().map(|problem| problem.key.as_deref()).collect();
    assert_eq!(keys, [Some("shards.count"), Some("log.level"), Some("a.b")]);
}

/// Values that are right one by one.
#[test]
fn relations() {
    let secret = "auth.hmac_secret=0123456789abcdef0123456789abcdef";
    let ok = "";
    let table: &[(&[&str], &str)] = &[
        (&["outbox.low=512KiB"], ok),
        (
            &["outbox.low=600KiB"],
            "outbox.low = \"600KiB\" (--set): must be at most half of outbox.high = \"1MiB\" (default)",
        ),
        (&["outbox.high=0", "outbox.low=600KiB"], ok),
        (&["outbox.high=8MiB"], "outbox.high = \"8MiB\" (--set): must be at most outbox.max = \"4MiB\" (default)"),
        (&["outbox.high=8MiB", "outbox.max=0"], ok),
        (&["outbox.shard_budget=1MiB"], "outbox.shard_budget = \"1MiB\" (--set): must be at least outbox.max"),
        (&["outbox.shard_budget=0"], ok),
        (
            &["session.heartbeat_interval=60s"],
            "session.heartbeat_interval = \"1m\" (--set): must be less than session.heartbeat_timeout = \"1m\" (default)",
        ),
        (&["session.heartbeat_interval=60s", "session.heartbeat_timeout=0"], ok),
        (&["session.heartbeat_interval=0", "session.heartbeat_timeout=1s"], ok),
        (&["listen.admin=127.0.0.1:8080"], "listen.admin = \"127.0.0.1:8080\" (--set): must differ from listen.client"),
        (&["listen.admin=127.0.0.1:0", "listen.client=127.0.0.1:0"], ok),
        (
            &["listen.admin=0.0.0.0:8081"],
            "listen.admin = \"0.0.0.0:8081\" (--set): is not loopback, so api.keys must be set",
        ),
        (&["listen.admin=0.0.0.0:8081", "api.keys=k"], ok),
        (&["listen.admin=[::1]:8081"], ok),
        (&["listen.admin=[::ffff:127.0.0.1]:8081"], ok),
        (
            &["listen.client=0.0.0.0:8080"],
            "auth.mode = \"none\" (default): believes everybody, and listen.client = \"0.0.0.0:8080\" (--set) is not loopback",
        ),
        (&["listen.client=0.0.0.0:8080", "auth.allow_insecure=true"], ok),
        (&["listen.client=[::]:8080", "auth.mode=jwt", secret], ok),
        (&["listen.proxy_protocol=true"], "listen.proxy_protocol = true (--set): needs listen.trusted_proxies"),
        (
            &["auth.mode=jwt"],
            "auth.mode = \"jwt\" (--set): needs a key; expected one of auth.hmac_secret, auth.hmac_secret_file",
        ),
        (&["auth.mode=jwt", secret], ok),
        (&["auth.mode=jwt", "auth.public_keys=/k.pem"], ok),
        (&["auth.mode=jwt", "auth.jwks_file=/j"], ok),
        (&["auth.mode=jwt", "auth.hmac_secret="], "needs a key"),
        (
            &["auth.hmac_secret=0123456789abcdef0123456789abcde"],
            "auth.hmac_secret = (secret) (--set): the secret has 31 bytes; expected at least 32",
        ),
        (&["auth.hmac_secret=-----BEGIN PUBLIC KEY----- MFkwEwYHKoZIzj0"], "the secret is a PEM key"),
        (&["auth.default_permissions=fly:*"], "auth.default_permissions = [\"fly:*\"] (--set): "),
        (&["auth.default_permissions=[]"], ok),
        (
            &["drain.spread=30s"],
            "drain.deadline = \"25s\" (default): must be at least drain.grace = \"0\" (default) and drain.spread = \"30s\" (--set) together",
        ),
        (
            &["cluster.routing=hash"],
            "cluster.routing = \"hash\" (--set): not available in this build yet; expected \"local\"",
        ),
        (&["limits.message_size=0"], ok),
    ];
    for (set, expect) in table {
        match load(&from_set(set)) {
            Ok(_) => assert!(expect.is_empty(), "{set:?} is right; expected {expect}"),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    !expect.is_empty() && error.contains(expect) && error.lines().count() == 1,
                    "{set:?}\n  {error}\n  {expect}"
                );
            }
        }
    }
}

#[test]
fn what_one_can_live_with_is_a_warning() {
    let table: &[(&[&str], &str)] = &[
        (&["limits.message_size=16MiB"], "limits.message_size is more than limits.bytes_per_second"),
        (&["listen.client=0.0.0.0:1", "auth.allow_insecure=true"], "anybody who reaches it can be anybody"),
    ];
    for (set, expect) in table {
        let warnings = load(&from_set(set)).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(expect), "{set:?}: {warnings:?}");
    }
}

#[test]
fn the_secret_can_come_from_a_file() {
    let dir = Dir::new("secret");
    let secret = "0123456789abcdef0123456789abcdef";
    for end in ["", "\n", "\r\n", "\n\n"] {
        let path = dir.file("secret", format!("{secret}{end}"));
        let config = load(&from_set(&[&format!("auth.hmac_secret_file={}", path.display())])).unwrap().config;
        assert_eq!(config.auth.hmac_secret, Some(Secret(secret.to_owned())));
    }
    let path = dir.file("secret", secret);
    let file = format!("auth.hmac_secret_file={}", path.display());
    let both = error_of(&from_set(&[&file, &format!("auth.hmac_secret={secret}")]));
    assert!(
        both.contains("auth.hmac_secret is set too (--set); expected one of them") && !both.contains(secret),
        "{both}"
    );
    let unset = from_set(&[&file, &format!("auth.hmac_secret={secret}"), "auth.hmac_secret_file="]);
    assert!(load(&unset).is_ok());

    let short = dir.file("short", "not long enough\n");
    let error = error_of(&from_set(&[&format!("auth.hmac_secret_file={}", short.display())]));
    assert!(
        error.contains("auth.hmac_secret_file") && error.contains("15 bytes") && !error.contains("not long"),
        "{error}"
    );
    let binary = dir.file("binary", [0xff; 40]);
    assert!(error_of(&from_set(&[&format!("auth.hmac_secret_file={}", binary.display())])).contains("not UTF-8 text"));
    assert!(error_of(&from_set(&["auth.hmac_secret_file=/nonexistent/x"])).contains("cannot read it"));
}

#[test]
fn secrets_are_never_shown() {
    const SECRET: &str = "hunter2";
    let long = SECRET.repeat(8);
    let config = load(&from_set(&[
        &format!("auth.hmac_secret={long}"),
        &format!("api.keys={SECRET}"),
        &format!("redis.url=redis://u:{SECRET}@h"),
    ]));
    let loaded = config.unwrap();
    assert!(!format!("{loaded:?}").contains(SECRET));

    let dir = Dir::new("secrets");
    let mut shown = Vec::new();
    for set in [
        "auth.hmac_secret=",
        "api.keys=[[",
        "redis.url=http://",
        "auth.hmac_secrets=",
        "hmac_secret=",
        "auth.hmac_secret ",
    ] {
        let sources = from_set(&[&format!("{set}{SECRET}")]);
        assert!(!format!("{sources:?}").contains(SECRET));
        shown.push(error_of(&sources));
    }
    let files = [
        "hmac_secret = hunter2",
        "hmac_secret = [\"hunter2\"]",
        "hmac_secret = \"hunter2",
        "hmac_secrt = \"hunter2\"",
        "hunter2",
    ];
    for text in files {
        shown.push(error_of(&from_file(&dir.file("c.toml", format!("[auth]\n{text}")))));
    }
    shown.push(error_of(&from_env(&[("RINGGATE_AUTH_HMAC_SECRET", SECRET)])));
    shown.push(error_of(&from_env(&[("RINGGATE_REDIS_URL", SECRET)])));
    for error in shown {
        assert!(!error.contains(SECRET) && !error.starts_with("loaded"), "{error}");
    }
    for key in KEYS.iter().filter(|key| key.secret) {
        assert!(!schema::shown(key, &loaded.config).contains(SECRET));
    }
}

#[test]
fn reloading_changes_what_can_change_and_names_the_rest() {
    let dir = Dir::new("reload");
    let path = dir.file("c.toml", "[log]\nlevel = \"info\"\n[classes]\na = \"latest\"");
    let sources = from_file(&path);
    let running = load(&sources).unwrap().config;
    let same = reload(&running, &sources).unwrap();
    assert!(same.changed.is_empty() && same.ignored.is_empty());

    dir.file("c.toml", "[log]\nlevel = \"debug\"\nformat = \"json\"\n[shards]\ncount = 7\n[classes]\na = \"urgent\"\n[outbox]\nhigh = \"2MiB\"");
    let next = reload(&running, &sources).unwrap();
    assert_eq!(next.changed, ["outbox.high", "classes", "log.level"]);
    assert_eq!(next.ignored, ["shards.count", "log.format"]);
    assert_eq!((next.config.log.level, next.config.log.format), (LogLevel::Debug, LogFormat::Text));
    assert_eq!((next.config.shards.count, next.config.outbox.high), (0, 2 << 20));

    dir.file("c.toml", "[log]\nlevel = \"loud\"");
    assert!(reload(&running, &sources).unwrap_err().to_string().contains("log.level"));
    // Right by itself, but not with the mode that goes on until a restart.
    dir.file("c.toml", "[auth]\nmode = \"none\"");
    let jwt = load(&from_set(&["auth.mode=jwt", "auth.hmac_secret=0123456789abcdef0123456789abcdef"])).unwrap().config;
    assert!(reload(&jwt, &sources).unwrap_err().to_string().contains("needs a key"));
}

#[test]
fn key_files_are_read() {
    let dir = Dir::new("keys");
    let (pem, jwks) = (dir.file("k.pem", "pem"), dir.file("j.json", "jwks"));
    let auth = Auth { public_keys: vec![pem], jwks_file: Some(jwks), ..Auth::default() };
    let material = key_material(&auth).unwrap();
    assert_eq!((material.pem[0].1.as_slice(), material.jwks.unwrap().1.as_slice()), (&b"pem"[..], &b"jwks"[..]));
    let missing = Auth { public_keys: vec![dir.0.join("none.pem")], ..auth };
    assert!(key_material(&missing).unwrap_err().to_string().starts_with("auth.public_keys: cannot read"));
}
