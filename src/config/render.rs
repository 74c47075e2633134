//! `default-config`: every key with its comment, loadable as it is.

use std::fmt::Write as _;

use super::Config;
use super::schema::{CLASSES_PATH, KEYS};

const HEAD: &str = "\
# The configuration of ringgate: every key, with its default.
#
# A value here is overridden by the environment (RINGGATE_LISTEN_CLIENT for listen.client), and that by --set listen.client=127.0.0.1:0.
# Durations are \"500ms\", \"30s\", \"5m\" or \"1h\"; sizes \"64KiB\", \"16KB\", \"1MiB\" or plain bytes. In a limit or a timeout 0 means off.
# Keys with (restart) change at a start only; the others also on SIGHUP.
";

/// The text of a configuration file that says what holds anyway.
pub fn default_config() -> String {
    let defaults = Config::default();
    let mut out = HEAD.to_owned();
    let mut section = "";
    for key in KEYS {
        let (this, name) = key.path.split_once('.').unwrap_or((key.path, ""));
        if this != section {
            section = this;
            let _ = write!(out, "\n[{section}]\n");
        } else {
            out.push('\n');
        }
        let restart = if key.live { "" } else { " (restart)" };
        let _ = writeln!(out, "# {}{restart}", key.comment.replace('\n', "\n# "));
        let _ = match ((key.show)(&defaults), key.example) {
            (Some(lines), _) if key.path == CLASSES_PATH => writeln!(out, "{lines}"),
            (Some(value), _) => writeln!(out, "{name} = {value}"),
            (None, example) => writeln!(out, "# {name} = {}", example.unwrap_or("\"\"")),
        };
    }
    out
}
