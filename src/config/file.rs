//! One source of the configuration at a time: what it assigns to which key, and from where.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::{Origin, Problem};
use super::schema::{self, CLASSES_PATH, KEYS};
use super::value::Raw;

/// Bytes of a configuration or key file; more is a mistake, such as a device.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// What names of ours start with in the environment.
const PREFIX: &str = "RINGGATE_";

/// A value for a key.
pub(super) struct Assignment {
    pub(super) path: String,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// What one source says.
#[derive(Default)]
pub(super) struct Source {
    pub(super) assignments: Vec<Assignment>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
}

/// Reads a whole file, up to a bound.
pub(super) fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    Ok(bytes)
}

/// A TOML file; with `optional` it need not exist.
pub(super) fn from_file(path: &Path, optional: bool) -> Source {
    let not_utf8 = |_| std::io::Error::new(std::io::ErrorKind::InvalidData, "not UTF-8");
    match read_bounded(path).and_then(|bytes| String::from_utf8(bytes).map_err(not_utf8)) {
        Ok(text) => from_text(&text, path),
        Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => Source::default(),
        Err(error) => {
            let text = format!("cannot read the configuration file {}: {error}", path.display());
            Source { problems: vec![Problem::other(text)], ..Source::default() }
        }
    }
}

/// The text of a TOML file.
pub(super) fn from_text(text: &str, path: &Path) -> Source {
    let at = |offset: usize| Origin::File { path: path.to_owned(), line: Some(line_of(text, offset)) };
    let mut source = Source::default();
    match DeTable::parse(text) {
        Ok(table) => walk(table.get_ref(), "", &at, &mut source),
        // Not the error's own Display: it repeats the line, which may hold a secret.
        Err(error) => {
            let origin = at(error.span().map_or(0, |span| span.start));
            source.problems.push(Problem::other(format!("{origin}: not TOML: {}", error.message())));
        }
    }
    source
}

/// Flattens tables into assignments.
fn walk(table: &DeTable<'_>, prefix: &str, at: &dyn Fn(usize) -> Origin, source: &mut Source) {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in entries {
        let path = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
        let origin = at(name.span().start);
        match value.get_ref() {
            DeValue::Table(inner) if schema::is_section(&path) => walk(inner, &path, at, source),
            _ if prefix == CLASSES_PATH => {
                let raw = Raw::Entry(name.get_ref().to_string(), Box::new(Raw::from_toml(value.get_ref())));
                source.assignments.push(Assignment { path, raw, origin });
            }
            value => source.assignments.push(Assignment { path, raw: Raw::from_toml(value), origin }),
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}

/// `RINGGATE_SECTION_KEY` variables. An unknown one is a warning only: Kubernetes injects such names for a service called ringgate.
pub(super) fn from_environment(variables: &[(OsString, OsString)]) -> Source {
    let mut source = Source::default();
    let mut ours: Vec<_> = variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value))).collect();
    ours.sort();
    for (name, value) in ours {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let Some((path, event)) = path_of_variable(rest) else {
            source.warnings.push(format!("environment variable {name} is no configuration key and does nothing"));
            continue;
        };
        let origin = Origin::Environment(name.to_owned());
        match value.to_str() {
            Some(value) => source.assignments.push(Assignment { path, raw: bare(value, event), origin }),
            None => source.problems.push(Problem::key(&path, format!("{path} ({origin}): not UTF-8"))),
        }
    }
    source
}

/// The variable of a key.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.to_ascii_uppercase().replace('.', "_"))
}

fn path_of_variable(rest: &str) -> Option<(String, Option<String>)> {
    if let Some(event) = rest.strip_prefix("CLASSES_").filter(|event| !event.is_empty()) {
        let event = event.to_ascii_lowercase();
        return Some((format!("{CLASSES_PATH}.{event}"), Some(event)));
    }
    let key =
        KEYS.iter().find(|key| key.path != CLASSES_PATH && variable(key.path).strip_prefix(PREFIX) == Some(rest))?;
    Some((key.path.to_owned(), None))
}

/// `--set KEY=VALUE` arguments, in order.
pub(super) fn from_set(arguments: &[String]) -> Source {
    let mut source = Source::default();
    for argument in arguments {
        let Some((path, value)) = argument.split_once('=') else {
            // The argument may be a mistyped secret: it is not repeated.
            source
                .problems
                .push(Problem::other("--set: expected KEY=VALUE, such as --set listen.client=127.0.0.1:0".to_owned()));
            continue;
        };
        let path = path.trim().to_owned();
        let event = path.strip_prefix(CLASSES_PATH).and_then(|rest| rest.strip_prefix('.')).map(str::to_owned);
        source.assignments.push(Assignment { raw: bare(value.trim(), event), path, origin: Origin::Set });
    }
    source
}

fn bare(value: &str, event: Option<String>) -> Raw {
    let raw = Raw::Bare(value.to_owned());
    match event {
        Some(event) => Raw::Entry(event, Box::new(raw)),
        None => raw,
    }
}
