//! Every key from every source.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::schema::{CLASSES_PATH, KEYS};
use super::*;

mod errors;

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
    ("api.hosts", "[\"gate.example\", \"10.0.0.1\"]", "gate.example,10.0.0.1"),
    ("hooks.url", "\"http://127.0.0.1:9000/events\"", "http://127.0.0.1:9000/events"),
    ("hooks.events", "[\"join\", \"message\"]", "join,message"),
    ("hooks.secret", "\"hush\"", "hush"),
    ("hooks.batch_size", "7", "7"),
    ("hooks.batch_delay", "\"1s\"", "1s"),
    ("hooks.timeout", "\"1s\"", "1s"),
    ("hooks.retries", "0", "0"),
    ("hooks.queue", "1", "1"),
    ("hooks.connect_url", "\"http://127.0.0.1:9000/c\"", "http://127.0.0.1:9000/c"),
    ("hooks.connect_headers", "[\"x-a\", \"x-b\"]", "x-a,x-b"),
    ("hooks.connect_failure", "\"allow\"", "allow"),
    ("hooks.message_url", "\"http://127.0.0.1:9000/m\"", "http://127.0.0.1:9000/m"),
    ("hooks.messages", "[\"message:team-*\", \"event:order\"]", "message:team-*,event:order"),
    ("hooks.message_failure", "\"pass\"", "pass"),
    ("hooks.answer_timeout", "\"1s\"", "1s"),
    ("hooks.connections", "7", "7"),
    ("hooks.in_flight", "10000", "10000"),
    ("cluster.routing", "\"hash\"", "hash"),
    ("cluster.advertise", "\"wss://node-7.example.com/ws\"", "wss://node-7.example.com/ws"),
    ("cluster.weight", "250", "250"),
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
        // The file of the secret does not exist here, and an example must not become anybody's secret.
        let refused = ["auth.hmac_secret", "auth.hmac_secret_file"].contains(&key.path);
        assert_eq!(result.is_err(), refused, "{}: {result:?}", key.path);
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
                Some(file) => file::from_file(file, false),
                None if sources.set.is_empty() => file::from_environment(&sources.environment),
                None => file::from_set(&sources.set),
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
    let mut names: Vec<String> = KEYS.iter().map(|key| file::variable(key.path)).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), KEYS.len());
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
    let pem = dir.file("k.pem", include_bytes!("../../../tests/keys/ec256.pub.pem"));
    let jwt = Auth { mode: AuthMode::Jwt, public_keys: vec![pem], ..Auth::default() };
    assert!(verifier(&jwt).unwrap().is_some());
    assert!(verifier(&Auth { mode: AuthMode::None, ..jwt.clone() }).unwrap().is_none());
    let error = |auth: Auth| verifier(&auth).unwrap_err().to_string();
    let missing =
        Auth { public_keys: vec![dir.0.join("none.pem")], jwks_file: Some(dir.0.join("none.json")), ..jwt.clone() };
    let missing = error(missing);
    assert!(
        missing.starts_with("auth.public_keys: cannot read") && missing.contains("\nauth.jwks_file: cannot read"),
        "{missing}"
    );
    let broken = Auth { jwks_file: Some(dir.file("j.json", "{}")), ..jwt };
    assert!(error(broken).contains("j.json: not a JWK set"));
}
