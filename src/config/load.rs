//! The layers on each other: defaults, file, environment, command line.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::check::check;
use super::error::{ConfigError, Origin, Problem};
use super::file::{Assignment, from_environment, from_file, from_set, read_bounded};
use super::schema::{self, KEYS};
use super::suggest::nearest;
use super::{Config, Secret};

/// The file that is read where none is named, if it exists.
pub const DEFAULT_FILE: &str = "/etc/ringgate/ringgate.toml";

/// Where a configuration comes from. Kept for the reload.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file that must exist; `None`: `default_file`, if it exists.
    pub file: Option<PathBuf>,
    /// The file that need not exist.
    pub default_file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(OsString, OsString)>,
    /// `KEY=VALUE`, in order.
    pub set: Vec<String>,
}

impl Sources {
    /// Those of this process.
    pub fn of_process(file: Option<PathBuf>, set: Vec<String>) -> Self {
        let environment =
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"RINGGATE_")).collect();
        Sources { file, default_file: Some(PathBuf::from(DEFAULT_FILE)), environment, set }
    }
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Environment and arguments may hold secrets.
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("default_file", &self.default_file)
            .finish_non_exhaustive()
    }
}

/// A configuration that is right.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What an operator should know but can live with.
    pub warnings: Vec<String>,
    pub(super) origins: Origins,
}

/// Where each key that was set got its value.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(HashMap<&'static str, Origin>);

impl Origins {
    /// Where the value of `path` comes from.
    pub(super) fn of(&self, path: &str) -> Origin {
        self.0.get(path).cloned().unwrap_or_default()
    }
}

/// Reads all sources.
///
/// # Errors
///
/// Everything that is wrong with them, at once.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let file = match (&sources.file, &sources.default_file) {
        (Some(path), _) => from_file(path, false),
        (None, Some(path)) => from_file(path, true),
        (None, None) => Default::default(),
    };
    let mut loaded = Loaded { config: Config::default(), warnings: Vec::new(), origins: Origins::default() };
    let mut problems = Vec::new();
    for source in [file, from_environment(&sources.environment), from_set(&sources.set)] {
        problems.extend(source.problems);
        loaded.warnings.extend(source.warnings);
        problems.extend(source.assignments.into_iter().filter_map(|assignment| assign(&mut loaded, assignment).err()));
    }
    if problems.is_empty() {
        problems.extend(read_secret(&mut loaded));
    }
    // Relations between values that were refused would only confuse.
    if problems.is_empty() {
        problems.extend(check(&loaded.config, &loaded.origins, &mut loaded.warnings));
    }
    ConfigError::unless_empty(problems, loaded)
}

fn assign(loaded: &mut Loaded, assignment: Assignment) -> Result<(), Problem> {
    let Assignment { path, raw, origin } = assignment;
    let Some(key) = schema::find(&path) else {
        return Err(unknown(&path, &origin));
    };
    if !(key.read)(&mut loaded.config, &raw) {
        let value = if key.secret { "(secret)".to_owned() } else { raw.shown() };
        let text = format!("{path} = {value} ({origin}): expected {}", (key.expects)());
        return Err(Problem::key(&path, text));
    }
    loaded.origins.0.insert(key.path, origin);
    Ok(())
}

/// The value of an unknown key is not shown: it may be the secret that a mistyped key was meant to take.
fn unknown(path: &str, origin: &Origin) -> Problem {
    let what = match (schema::is_section(path), path.contains('.')) {
        (true, _) => format!("is a section; expected [{path}] and keys below it"),
        (false, true) => "unknown key".to_owned(),
        (false, false) => "unknown section or key".to_owned(),
    };
    let candidates = KEYS.iter().map(|key| key.path).chain(schema::sections());
    let hint = match nearest(path, candidates) {
        Some(meant) if meant != path => format!("; did you mean {meant}?"),
        Some(_) => String::new(),
        None => "; `ringgate default-config` lists all keys".to_owned(),
    };
    Problem::key(path, format!("{path} ({origin}): {what}{hint}"))
}

/// Puts the content of `auth.hmac_secret_file` in place.
fn read_secret(loaded: &mut Loaded) -> Option<Problem> {
    let path = loaded.config.auth.hmac_secret_file.clone()?;
    let (key, origin) = ("auth.hmac_secret_file", loaded.origins.of("auth.hmac_secret_file"));
    if loaded.config.auth.hmac_secret.is_some() {
        let other = loaded.origins.of("auth.hmac_secret");
        let text = format!("{key} ({origin}): auth.hmac_secret is set too ({other}); expected one of them");
        return Some(Problem::key(key, text));
    }
    match secret_of(&path) {
        Ok(secret) => {
            loaded.config.auth.hmac_secret = Some(secret);
            None
        }
        Err(error) => {
            Some(Problem::key(key, format!("{key} = {} ({origin}): cannot read it: {error}", path.display())))
        }
    }
}

fn secret_of(path: &Path) -> Result<Secret, String> {
    let bytes = read_bounded(path).map_err(|error| error.to_string())?;
    let text =
        String::from_utf8(bytes).map_err(|_| "not UTF-8 text; write random bytes as hex or base64".to_owned())?;
    Ok(Secret(text.trim_end_matches(['\n', '\r']).to_owned()))
}
