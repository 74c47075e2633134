//! Which module may know which, and what the pure ones must not name: `src/lib.rs` states it, this holds it.
//!
//! The sources are read as text, without comments, string contents and `#[cfg(test)]` modules: tests may use what they like.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The pure modules: time and randomness are arguments, nothing awaits, nothing is shared.
const PURE: &[&str] = &["ws", "protocol", "auth", "shard", "cluster"];

/// What a pure module must not name, and what it would use instead.
const FORBIDDEN: &[(&str, &str)] = &[
    ("monoio", "events and actions"),
    ("io_uring", "events and actions"),
    ("TcpStream", "events and actions"),
    ("TcpListener", "events and actions"),
    ("UdpSocket", "events and actions"),
    ("UnixStream", "events and actions"),
    ("UnixListener", "events and actions"),
    ("ToSocketAddrs", "addresses that are resolved already"),
    ("RawFd", "a ConnectionId"),
    ("OwnedFd", "a ConnectionId"),
    ("libc", "events and actions"),
    ("rustix", "events and actions"),
    ("std::io", "slices"),
    ("std::fs", "contents that are read already"),
    ("std::env", "Settings"),
    ("std::process", "nothing"),
    ("Instant", "time::Now"),
    ("SystemTime", "time::Now"),
    ("getrandom", "a seed"),
    ("Rng::new", "Rng::with_seed"),
    ("thread_rng", "a seed"),
    ("RandomState::new", "RandomState::with_seed"),
    ("thread", "one shard is one thread"),
    ("thread_local", "a field"),
    ("Mutex", "one shard is one thread"),
    ("RwLock", "one shard is one thread"),
    ("Condvar", "one shard is one thread"),
    ("OnceLock", "Settings"),
    ("LazyLock", "a const, or Settings"),
    ("AtomicBool", "a plain field"),
    ("AtomicU8", "a plain field"),
    ("AtomicU32", "a plain field"),
    ("AtomicU64", "a plain field"),
    ("AtomicUsize", "a plain field"),
    ("crossbeam", "envelopes"),
    ("async", "events and actions"),
    ("await", "events and actions"),
    ("println", "events and actions"),
    ("eprintln", "events and actions"),
    ("static mut", "a field"),
];

/// Values that everybody may know.
const GROUND: &[&str] = &["error", "ids", "limits", "time"];

/// `module → modules it may name besides [`GROUND`]`: `main → node → {io, admin, bus} → shard → {cluster, ws, protocol, auth} → settings`.
/// `a::b` allows only that part of `a`.
const LAYERS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("time", &[]),
    ("limits", &[]),
    ("ids", &[]),
    // What is set is said in values of those that it is for.
    ("config", &["protocol", "auth"]),
    ("protocol", &["config"]),
    ("ws", &["config"]),
    ("auth", &["config", "protocol"]),
    ("cluster", &["config", "protocol"]),
    ("settings", &["config", "protocol", "auth"]),
    ("metrics", &[]),
    ("shard", &["config", "protocol", "auth", "cluster", "ws", "settings", "metrics"]),
    // Moves envelopes and sockets, and looks into neither.
    ("mesh", &["protocol::envelope", "shard::event"]),
    ("io", &["config", "protocol", "auth", "cluster", "ws", "settings", "shard", "metrics", "mesh"]),
    ("bus", &["config", "protocol", "auth", "cluster", "ws", "settings", "shard", "metrics", "mesh"]),
    ("admin", &["config", "protocol", "auth", "cluster", "ws", "settings", "shard", "metrics", "mesh", "io"]),
    ("log", &["config"]),
    // Talks to a node over its admin listener, as any other program would.
    ("operator", &[]),
    ("cli", &["config", "auth", "protocol", "settings", "log", "operator"]),
    (
        "node",
        &[
            "config", "protocol", "auth", "cluster", "ws", "settings", "shard", "metrics", "mesh", "io", "bus",
            "admin", "log", "cli",
        ],
    ),
];

/// Modules that exist for the programs only and may know everything.
const TOP: &[&str] = &["main", "lib", "bin"];

#[test]
fn pure_modules_name_no_clock_socket_thread_lock_or_entropy() {
    let mut found = Vec::new();
    for module in PURE {
        for file in files_of(module) {
            let source = product_code(&fs::read_to_string(&file).unwrap());
            for (number, line) in source.lines().enumerate() {
                for (name, instead) in FORBIDDEN {
                    if contains_path(line, name) {
                        found.push(format!("{}:{}: `{name}`; use {instead}", file.display(), number + 1));
                    }
                }
                if line.contains("std::net") || line.contains("core::net") {
                    let rest = line.split_once("net::").map_or("", |(_, rest)| rest);
                    let names = identifiers(rest);
                    let addresses = [
                        "IpAddr",
                        "Ipv4Addr",
                        "Ipv6Addr",
                        "SocketAddr",
                        "SocketAddrV4",
                        "SocketAddrV6",
                        "AddrParseError",
                        "self",
                        "as",
                        "std",
                        "net",
                    ];
                    for name in names.iter().take_while(|name| name.chars().next().is_some_and(char::is_uppercase)) {
                        if !addresses.contains(&name.as_str()) {
                            found.push(format!(
                                "{}:{}: std::net::{name}; only address types",
                                file.display(),
                                number + 1
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(found.is_empty(), "pure modules must not name these:\n{}", found.join("\n"));
}

#[test]
fn modules_know_only_those_below_them() {
    let mut found = Vec::new();
    for module in modules() {
        if TOP.contains(&module.as_str()) {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            found.push(format!("module `{module}` has no place in LAYERS of {}", file!()));
            continue;
        };
        for file in files_of(&module) {
            let source = product_code(&fs::read_to_string(&file).unwrap());
            for path in crate_paths(&source) {
                let name = path.split("::").next().unwrap_or_default();
                let within = |allowed: &&str| path == **allowed || path.starts_with(&format!("{allowed}::"));
                if name != module && !GROUND.contains(&name) && !allowed.iter().any(within) {
                    found.push(format!("{}: `{module}` must not know `{path}`", file.display()));
                }
            }
        }
    }
    assert!(found.is_empty(), "imports against the direction:\n{}", found.join("\n"));
}

#[test]
fn only_io_is_unsafe() {
    let mut found = Vec::new();
    for file in all_files() {
        let inside_io = file.strip_prefix(source_root()).unwrap().starts_with("io");
        let source = product_code(&fs::read_to_string(&file).unwrap());
        for (number, line) in source.lines().enumerate() {
            if !inside_io && contains_path(line, "unsafe") {
                found.push(format!("{}:{}", file.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "unsafe outside of io/:\n{}", found.join("\n"));
}

#[test]
fn the_reader_of_sources_reads_well() {
    let source = "
        use crate::{ws::frame, protocol::{self, class::Class}}; // crate::comment
        /* crate::nested /* crate::deeper */ */
        let text = \"crate::string\\\"crate::escaped\"; let raw = r#\"crate::raw\"#;
        let tick = 'c'; fn f<'a>(x: &'a crate::ids::ConnectionId) {}
        #[cfg(test)]
        mod tests { use crate::io; mod inner { } }
        pub use crate::time::Now;
    ";
    let names: Vec<_> = crate_paths(&product_code(source)).into_iter().collect();
    assert_eq!(names, ["ids::ConnectionId", "protocol", "time::Now", "ws::frame"]);
    assert!(contains_path("let x = std::thread::spawn", "thread") && !contains_path("per_thread(x)", "thread"));
    assert!(contains_path("Instant::now()", "Instant") && !contains_path("InstantPudding", "Instant"));
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn all_files() -> Vec<PathBuf> {
    fn walk(directory: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                into.push(path);
            }
        }
    }
    let mut files = Vec::new();
    walk(&source_root(), &mut files);
    files.sort();
    files
}

/// The module at the top to which a file belongs: `ws` for `src/ws/frame.rs` and for `src/ws.rs`.
fn module_of(file: &Path) -> String {
    let relative = file.strip_prefix(source_root()).unwrap();
    relative.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned()
}

fn modules() -> BTreeSet<String> {
    all_files().iter().map(|file| module_of(file)).collect()
}

fn files_of(module: &str) -> Vec<PathBuf> {
    all_files().into_iter().filter(|file| module_of(file) == module && !is_test_file(file)).collect()
}

/// `foo/tests.rs` and `foo/tests/…`: declared under `#[cfg(test)]` by their parents.
fn is_test_file(file: &Path) -> bool {
    file.iter().any(|part| part == "tests" || part == "tests.rs")
}

/// Whether `line` names `path` as whole words.
fn contains_path(line: &str, path: &str) -> bool {
    let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(path)
        .any(|(at, _)| !word(line[..at].chars().next_back()) && !word(line[at + path.len()..].chars().next()))
}

fn identifiers(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// What follows `crate::` in all paths, those in a group included; `protocol` for `crate::protocol::{self, …}`.
fn crate_paths(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in source.match_indices("crate::") {
        if source[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &source[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            names.extend(heads_of_group(group));
        } else {
            names.insert(path_at(rest));
        }
    }
    names
}

/// `ws::frame::Opcode` at the front of `text`, without what opens a group.
fn path_at(text: &str) -> String {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
    text[..end].trim_end_matches(':').to_owned()
}

/// `ws::frame, protocol::{a, b}}…` gives `ws::frame` and `protocol`.
fn heads_of_group(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let (mut depth, mut expect_head) = (0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expect_head = true,
            c if depth == 0 && expect_head && (c.is_alphanumeric() || c == '_') => {
                heads.push(path_at(&group[at..]));
                expect_head = false;
            }
            _ => {}
        }
    }
    heads
}

/// The source without comments, contents of strings, and `#[cfg(test)]` items; line numbers stay.
fn product_code(source: &str) -> String {
    without_test_modules(&without_comments_and_strings(source))
}

fn without_comments_and_strings(source: &str) -> String {
    let bytes: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| bytes.get(at + i) == Some(&c));
    while at < bytes.len() {
        if starts(at, "//") {
            while at < bytes.len() && bytes[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            let mut depth = 0;
            loop {
                if starts(at, "/*") {
                    (depth, at) = (depth + 1, at + 2);
                } else if starts(at, "*/") {
                    (depth, at) = (depth - 1, at + 2);
                } else {
                    out.extend(bytes.get(at).filter(|&&c| c == '\n'));
                    at += 1;
                }
                if depth == 0 || at >= bytes.len() {
                    break;
                }
            }
        } else if bytes[at] == 'r' && (starts(at, "r\"") || starts(at, "r#\"") || starts(at, "r##\"")) {
            let hashes = bytes[at + 1..].iter().take_while(|&&c| c == '#').count();
            let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            at += 2 + hashes;
            while at < bytes.len() && !starts(at, &end) {
                out.extend(Some(bytes[at]).filter(|&c| c == '\n'));
                at += 1;
            }
            at += end.len();
            out.push_str("\"\"");
        } else if bytes[at] == '"' {
            at += 1;
            while at < bytes.len() && bytes[at] != '"' {
                out.extend(Some(bytes[at]).filter(|&c| c == '\n'));
                at += if bytes[at] == '\\' { 1 + usize::from(bytes.get(at + 1) != Some(&'\n')) } else { 1 };
            }
            at += 1;
            out.push_str("\"\"");
        } else if bytes[at] == '\'' && (bytes.get(at + 1) == Some(&'\\') || bytes.get(at + 2) == Some(&'\'')) {
            // A character, not a lifetime.
            at += if bytes.get(at + 1) == Some(&'\\') { 3 } else { 2 };
            while at < bytes.len() && bytes[at] != '\'' {
                at += 1;
            }
            at += 1;
            out.push_str("' '");
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

/// Blanks every item that follows `#[cfg(test)]`, up to its closing brace or semicolon.
fn without_test_modules(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let mut depth = 0usize;
        let mut end = item.len();
        for (index, c) in item.char_indices().skip("#[cfg(test)]".len()) {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && (c == '}' || c == ';') {
                end = index + 1;
                break;
            }
        }
        out.extend(item[..end].chars().filter(|&c| c == '\n'));
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}
