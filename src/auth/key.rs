//! A key that can check signatures, and the only algorithms it may check them of.

use std::fmt;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey};

/// Bits of an RSA modulus: fewer are weak (RFC 7518 §3.3), more are not taken by the implementation.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// Bytes of a shared secret.
const HMAC_BYTES_MIN: usize = 32;

pub(super) const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
pub(super) const RSA: &[Algorithm] = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
pub(super) const CURVES: &[Algorithm] = &[Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];

/// A key file or secret that cannot be used. The text names the file, never the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {what}")]
pub struct KeyError {
    /// The file, or the configuration key.
    pub name: String,
    /// What is wrong and what would be right.
    pub what: String,
}

impl KeyError {
    pub(super) fn new(name: &str, what: impl Into<String>) -> Self {
        KeyError { name: name.to_owned(), what: what.into() }
    }
}

/// A key, ready to check signatures.
#[derive(Clone)]
pub(super) struct Key {
    /// The algorithms this key may be used with. Never empty.
    pub(super) algorithms: Vec<Algorithm>,
    /// Its name in a JWKS.
    pub(super) kid: Option<String>,
    decoding: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("algorithms", &self.algorithms).field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl Key {
    /// A shared secret.
    pub(super) fn hmac(secret: &[u8]) -> Result<Self, String> {
        if secret.len() < HMAC_BYTES_MIN {
            return Err(format!("the secret has {} bytes; expected at least {HMAC_BYTES_MIN}", secret.len()));
        }
        Ok(Key { algorithms: HMAC.to_vec(), kid: None, decoding: DecodingKey::from_secret(secret) })
    }

    /// An RSA public key.
    pub(super) fn rsa(decoding: DecodingKey) -> Result<Self, String> {
        let components = Jwk::from_decoding_key(&decoding, None).map_err(|_| "not an RSA public key".to_owned())?;
        let AlgorithmParameters::RSA(parameters) = components.algorithm else {
            return Err("not an RSA public key".to_owned());
        };
        let bits = bits_of(&parameters.n).ok_or("not an RSA public key")?;
        if !RSA_BITS.contains(&bits) {
            return Err(format!("an RSA key of {bits} bits; expected {} to {}", RSA_BITS.start(), RSA_BITS.end()));
        }
        if bits_of(&parameters.e).is_none_or(|bits| !(2..=33).contains(&bits)) {
            return Err("an RSA key with a bad exponent".to_owned());
        }
        Ok(Key { algorithms: RSA.to_vec(), kid: None, decoding })
    }

    /// An elliptic curve public key: the curve decides the algorithm (RFC 7518 §3.4).
    pub(super) fn ec(decoding: DecodingKey) -> Result<Self, String> {
        let algorithm = match decoding.try_get_as_bytes().map_or(0, <[u8]>::len) {
            65 => Algorithm::ES256,
            97 => Algorithm::ES384,
            _ => return Err("an EC key on a curve other than P-256 and P-384".to_owned()),
        };
        Key { algorithms: vec![algorithm], kid: None, decoding }.on_curve("a point that is not on P-256 or P-384")
    }

    /// An Ed25519 public key.
    pub(super) fn ed(decoding: DecodingKey) -> Result<Self, String> {
        // The library slices 32 bytes out of it and would panic.
        if decoding.try_get_as_bytes().map_or(0, <[u8]>::len) != 32 {
            return Err("not an Ed25519 public key: expected 32 bytes".to_owned());
        }
        Key { algorithms: vec![Algorithm::EdDSA], kid: None, decoding }.on_curve("not a point of Ed25519")
    }

    /// Whether this key has made `signature` (base64url) over `message`. False also for an algorithm that is not this key's.
    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &str) -> bool {
        self.algorithms.contains(&algorithm)
            && jsonwebtoken::crypto::verify(signature, message, &self.decoding, algorithm).unwrap_or(false)
    }

    /// Makes the library parse the key now, not at the first token.
    fn on_curve(self, otherwise: &str) -> Result<Self, String> {
        let tried = jsonwebtoken::crypto::verify("", b"", &self.decoding, self.algorithms[0]);
        tried.map(|_| self).map_err(|_| otherwise.to_owned())
    }
}

/// Significant bits of a base64url big-endian number.
fn bits_of(base64: &str) -> Option<usize> {
    let bytes = super::claims::decode_base64url(base64.as_bytes())?;
    let start = bytes.iter().position(|byte| *byte != 0)?;
    Some((bytes.len() - start) * 8 - bytes[start].leading_zeros() as usize)
}
