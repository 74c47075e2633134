//! Makes the verifier: reads the key files that the configuration names, for code that does no I/O.

use std::path::Path;

use super::error::{ConfigError, Problem};
use super::file::read_bounded;
use super::{Auth, AuthMode};
use crate::auth::{KeyMaterial, Verifier};

/// What checks tokens; `None` in mode none. Made anew on every reload: key files change under the same names.
///
/// # Errors
///
/// Key files that cannot be read or used.
pub fn verifier(auth: &Auth) -> Result<Option<Verifier>, ConfigError> {
    if auth.mode == AuthMode::None {
        return Ok(None);
    }
    let material = key_material(auth)?;
    let made = Verifier::new(auth, &material);
    made.map(Some).map_err(|error| ConfigError { problems: vec![Problem::other(error.to_string())] })
}

fn key_material(auth: &Auth) -> Result<KeyMaterial, ConfigError> {
    let mut problems = Vec::new();
    let mut material = KeyMaterial::default();
    let mut read = |key: &str, path: &Path| match read_bounded(path) {
        Ok(bytes) => Some((path.display().to_string(), bytes)),
        Err(error) => {
            problems.push(Problem::key(key, format!("{key}: cannot read {}: {error}", path.display())));
            None
        }
    };
    material.pem.extend(auth.public_keys.iter().filter_map(|path| read("auth.public_keys", path)));
    material.jwks = auth.jwks_file.as_deref().and_then(|path| read("auth.jwks_file", path));
    ConfigError::unless_empty(problems, material)
}
