//! Checks tokens: signature first, claims after (RFC 7515 §5.2, RFC 7519 §7.2).

use jsonwebtoken::Algorithm;
use serde::Deserialize;

use super::claims::{RawClaims, decode_base64url, parse_object};
use super::key::{self, Key, KeyError};
use super::{AuthError, Claims, KeyMaterial, jwks, pem};
use crate::config;
use crate::limits::TOKEN_BYTES_MAX;

/// Keys and expectations; made once and shared.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Vec<Key>,
    auth: config::Auth,
}

/// The header fields that decide. A field that comes twice is refused.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

impl Verifier {
    /// From the configuration and the contents of its key files.
    ///
    /// # Errors
    ///
    /// A key that cannot be used, or none at all.
    pub fn new(auth: &config::Auth, material: &KeyMaterial) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        if let Some(secret) = &auth.hmac_secret {
            keys.push(Key::hmac(secret.0.as_bytes()).map_err(|what| KeyError::new("auth.hmac_secret", what))?);
        }
        for (name, bytes) in &material.pem {
            keys.extend(pem::keys(name, bytes)?);
        }
        if let Some((name, bytes)) = &material.jwks {
            keys.extend(jwks::keys(name, bytes)?);
        }
        if keys.is_empty() {
            return Err(KeyError::new("auth", "no key to check tokens with"));
        }
        Ok(Verifier { keys, auth: auth.clone() })
    }

    /// What `token` says, if it may be believed at that Unix time.
    ///
    /// # Errors
    ///
    /// Why not. Nothing of a token with a bad signature is looked at beyond its header.
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Claims, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(AuthError::Malformed)?;
        let header = decode_base64url(header.as_bytes()).ok_or(AuthError::Malformed)?;
        let header: Header = parse_object(&header)?;
        if header.crit.is_some() {
            return Err(AuthError::Malformed);
        }
        // A dot more in the payload fails here too: it is not base64url.
        let payload = decode_base64url(payload.as_bytes()).ok_or(AuthError::Malformed)?;
        let algorithm = algorithm(&header.alg).ok_or(AuthError::UnsupportedAlgorithm)?;
        let mut candidates = self.candidates(algorithm, header.kid.as_deref())?;
        if !candidates.any(|key| key.verify(algorithm, message.as_bytes(), signature)) {
            return Err(AuthError::BadSignature);
        }
        parse_object::<RawClaims<'_>>(&payload)?.check(&self.auth, now_unix_s)
    }

    /// The keys that may have signed: those of the algorithm, and of these the one that `kid` names. Keys without a name (the shared
    /// secret, PEM files) may have any.
    fn candidates<'a>(
        &'a self,
        algorithm: Algorithm,
        kid: Option<&'a str>,
    ) -> Result<impl Iterator<Item = &'a Key>, AuthError> {
        let fits = move |key: &&Key| key.algorithms.contains(&algorithm);
        let named = move |key: &&Key| kid.is_none() || key.kid.is_none() || key.kid.as_deref() == kid;
        if !self.keys.iter().any(|key| fits(&key)) {
            return Err(AuthError::UnsupportedAlgorithm);
        }
        let mut candidates = self.keys.iter().filter(move |key| fits(key) && named(key)).peekable();
        if candidates.peek().is_none() { Err(AuthError::UnknownKey) } else { Ok(candidates) }
    }
}

/// The algorithms we speak (RFC 7518 §3.1, RFC 8037 §3.1). Names are case-sensitive; `none` is not among them.
fn algorithm(name: &str) -> Option<Algorithm> {
    let ours = |algorithm: &Algorithm| {
        key::HMAC.contains(algorithm) || key::RSA.contains(algorithm) || key::CURVES.contains(algorithm)
    };
    name.parse().ok().filter(ours)
}
