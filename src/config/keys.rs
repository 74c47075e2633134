//! Reads the key files that the configuration names, for the verifier, which does no I/O.

use super::Auth;
use super::error::{ConfigError, Problem};
use super::file::read_bounded;
use crate::auth::KeyMaterial;

/// The contents of `auth.public_keys` and `auth.jwks_file`. Read anew on every reload: the files change under the same names.
///
/// # Errors
///
/// The files that cannot be read.
pub fn key_material(auth: &Auth) -> Result<KeyMaterial, ConfigError> {
    let mut problems = Vec::new();
    let mut material = KeyMaterial::default();
    let mut read = |key: &str, path: &std::path::Path| match read_bounded(path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            problems.push(Problem::key(key, format!("{key}: cannot read {}: {error}", path.display())));
            None
        }
    };
    for path in &auth.public_keys {
        material.pem.extend(read("auth.public_keys", path).map(|bytes| (path.display().to_string(), bytes)));
    }
    if let Some(path) = &auth.jwks_file {
        material.jwks = read("auth.jwks_file", path).map(|bytes| (path.display().to_string(), bytes));
    }
    ConfigError::unless_empty(problems, material)
}
