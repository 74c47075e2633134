//! SIGHUP: what can change at run time changes, what cannot is named.

use super::Config;
use super::check::check;
use super::error::ConfigError;
use super::load::{Loaded, Sources, load};
use super::schema::KEYS;

/// The outcome of a reload.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// The configuration from now on.
    pub config: Config,
    /// Keys with a new value.
    pub changed: Vec<&'static str>,
    /// Keys whose new value waits for a restart.
    pub ignored: Vec<&'static str>,
    /// What an operator should know but can live with.
    pub warnings: Vec<String>,
}

/// Reads the sources again, next to the configuration that runs.
///
/// Key files may have changed though no key did: whoever holds a verifier makes a new one with [`verifier`](super::verifier).
///
/// # Errors
///
/// The sources are not right, or what can change does not go with what cannot. The configuration that runs stays.
pub fn reload(previous: &Config, sources: &Sources) -> Result<Reloaded, ConfigError> {
    let Loaded { config: mut next, origins, mut warnings } = load(sources)?;
    let (mut changed, mut ignored) = (Vec::new(), Vec::new());
    for key in KEYS.iter().filter(|key| (key.show)(previous) != (key.show)(&next)).collect::<Vec<_>>() {
        if key.live {
            changed.push(key.path);
        } else {
            ignored.push(key.path);
            (key.copy)(previous, &mut next);
        }
    }
    if !ignored.is_empty() {
        warnings.clear();
        let problems = check(&next, &origins, &mut warnings);
        ConfigError::unless_empty(problems, ())?;
    }
    Ok(Reloaded { config: next, changed, ignored, warnings })
}
