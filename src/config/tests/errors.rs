//! Every way to be wrong, and what is said about it.

use std::ffi::OsString;

use proptest::prelude::*;

use super::*;

/// What is wrong in a file, with its line.
#[test]
fn errors_in_a_file() {
    let table = [
        ("[outbox]\n\nhigh = \"lots\"", "outbox.high = \"lots\" (FILE:3): expected a size such as 65536, \"64KiB\""),
        ("[outbox]\nhigh = -1", "outbox.high = -1 (FILE:2): expected a size"),
        ("[outbox]\nhigh = 1.5", "outbox.high = (float) (FILE:2): expected a size"),
        ("[outbox]\nhigh = \"2GiB\"", "from 1 to 1GiB, or 0 for off"),
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
        (
            "[hooks]\nurl = \"https://example.com/events\"",
            "hooks.url = \"https://example.com/events\" (FILE:2): expected a URL such as \"http://127.0.0.1:9000/events\"; https is not spoken here",
        ),
        (
            "[hooks]\nmessages = [\"join\"]",
            "hooks.messages = [\"join\"] (FILE:2): expected a list; each item: \"send_message\"",
        ),
        ("[hooks]\nconnect_headers = [\"a b\"]", "expected a list; each item: the name of a header"),
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
        (&["hooks.connect_failure=allow"], "hooks.connect_failure = \"allow\" (--set): needs auth.mode = \"jwt\""),
        (&["hooks.connect_failure=allow", "auth.mode=jwt", secret], ok),
        (&["hooks.in_flight=8"], "hooks.in_flight = 8 (--set): must be at least hooks.connections = 64 (default)"),
        (&["listen.client=0.0.0.0:8080", "hooks.connect_url=http://10.0.0.1/"], ok),
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
            "cluster.advertise = (not set) (default): must be set with cluster.routing = \"hash\": clients are sent there, such as \"ws://10.0.0.7:8080/ws\"",
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
        (
            &["session.heartbeat_interval=0", "session.heartbeat_timeout=40s"],
            "session.heartbeat_timeout = \"40s\" closes every client that says nothing",
        ),
    ];
    for (set, expect) in table {
        let warnings = load(&from_set(set)).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(expect), "{set:?}: {warnings:?}");
    }
    let neither = ["session.heartbeat_interval=0", "session.heartbeat_timeout=0"];
    assert_eq!(load(&from_set(&neither)).unwrap().warnings, [] as [String; 0]);
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

proptest! {
    #[test]
    fn garbage_never_panics(text in ".{0,200}", value in ".{0,60}", at in prop::sample::select(SAMPLES)) {
        let mut sources = from_set(&[&format!("{}={value}", at.0), &text]);
        sources.environment = vec![(file::variable(at.0).into(), (&value).into()), ("RINGGATE_CLASSES_X".into(), (&text).into())];
        let _ = load(&sources);
        let _ = file::from_text(&text, Path::new("c.toml"));
        let _ = file::from_text(&format!("{} = {value}", at.0), Path::new("c.toml"));
    }
}
