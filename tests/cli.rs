//! The commands of the binary that need no node: what they print and their exit codes.

use std::process::{Command, Output};

const SECRET: &str = "auth.hmac_secret=0123456789abcdef0123456789abcdef";

fn ringgate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RINGGATE_")) {
        command.env_remove(name);
    }
    command.args(arguments).output().expect("the binary was built with this test")
}

fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_is_wrong_ends_with_2_and_is_named_on_standard_error() {
    let rsa_private = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/rsa.key.pem");
    let public_keys = format!("auth.public_keys={rsa_private}");
    let table: &[(&[&str], &str)] = &[
        (&["--set", "shards.count=300"], "shards.count = \"300\" (--set): expected an integer from 0 to 256"),
        (&["serve", "--set", "shards.cuont=3"], "did you mean shards.count?"),
        (&["--config", "/nonexistent.toml"], "cannot read the configuration file /nonexistent.toml"),
        (&["check-config", "--set", "auth.mode=jwt"], "needs a key"),
        (&["check-config", "--set", "auth.mode=jwt", "--set", &public_keys], "a private key; expected the public one"),
        (&["--set", "auth.mode=jwt", "--set", &public_keys], "a private key; expected the public one"),
        (&["--set", "listen.client=0.0.0.0:0"], "is not loopback"),
        (&["gen-token", "--user", "ann"], "no key to sign with"),
        (&["gen-token", "--user", "events", "--set", SECRET], "bad user name"),
        (&["gen-token", "--user", "ann", "--ttl", "5"], "expected whole seconds"),
        (&["check-config", "--ready-file", "x"], "--ready-file"),
        (&["--ready-file", "x", "check-config"], "--ready-file is for serving only"),
        (&["--bogus"], "--bogus"),
    ];
    for (arguments, expect) in table {
        let output = ringgate(arguments);
        let (stdout, stderr) = texts(&output);
        assert_eq!((output.status.code(), stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expect), "{arguments:?}: {stderr}");
    }
}

#[test]
fn what_is_right_ends_with_0() {
    let (version, _) = texts(&ringgate(&["--version"]));
    assert_eq!(version.trim(), concat!("ringgate ", env!("CARGO_PKG_VERSION")));
    let table: &[(&[&str], &str)] = &[
        (&["check-config"], "configuration ok"),
        (&["--set", "echo.enabled=true", "check-config", "--set", SECRET], "configuration ok"),
        (&["default-config"], "[listen]"),
        (&["--help"], "default-config"),
        (&["gen-token", "--help"], "--permissions"),
    ];
    for (arguments, expect) in table {
        let output = ringgate(arguments);
        let (stdout, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(stdout.contains(expect), "{arguments:?}: {stdout}");
    }
}

#[test]
fn the_default_configuration_passes_its_own_check() {
    let (text, _) = texts(&ringgate(&["default-config"]));
    let path = std::env::temp_dir().join(format!("ringgate-cli-{}.toml", std::process::id()));
    std::fs::write(&path, text).expect("a temporary file");
    let output = ringgate(&["check-config", "--config", &path.to_string_lossy()]);
    let _ = std::fs::remove_file(&path);
    assert_eq!((output.status.code(), texts(&output).1.as_str()), (Some(0), ""));
}

#[test]
fn a_generated_token_is_one_line_that_the_verifier_accepts() {
    let arguments =
        ["gen-token", "--user", "ann", "--permissions", "send:*,broadcast", "--room", "lobby", "--set", SECRET];
    let (token, stderr) = texts(&ringgate(&arguments));
    assert!(token.ends_with('\n') && token.lines().count() == 1 && stderr.is_empty(), "{token}{stderr}");
    let sources = ringgate::config::Sources {
        set: vec![SECRET.to_owned(), "auth.mode=jwt".to_owned()],
        ..ringgate::config::Sources::default()
    };
    let config = ringgate::config::load(&sources).expect("right").config;
    let verifier = ringgate::config::verifier(&config.auth).expect("right").expect("mode jwt");
    let now_unix_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = verifier.verify(token.trim(), now_unix_s).expect("accepted");
    assert_eq!((&*claims.user, claims.rooms.len()), ("ann", 1));
    assert!(claims.expires_unix_s.is_some_and(|exp| (now_unix_s + 3590..=now_unix_s + 3600).contains(&exp)));
}
