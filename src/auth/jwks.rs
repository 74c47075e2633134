//! Keys in a JWK set (RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

use super::key::{Key, KeyError};

/// Keys of one set: without a `kid`, a token is tried against all that its algorithm allows.
const KEYS_MAX: usize = 64;

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// The keys of a set that can check signatures. Keys of unknown types and for other uses are passed over (§5); a key of a known type
/// that is broken is an error, and so is a set without any.
pub(super) fn keys(name: &str, bytes: &[u8]) -> Result<Vec<Key>, KeyError> {
    let set: Set = serde_json::from_slice(bytes)
        // Not the error's own text: it may repeat what is in the file, and an `oct` key is a secret.
        .map_err(|error| {
            KeyError::new(name, format!("not a JWK set at line {}: expected {{\"keys\":[...]}}", error.line()))
        })?;
    if set.keys.len() > KEYS_MAX {
        return Err(KeyError::new(name, format!("{} keys; expected at most {KEYS_MAX}", set.keys.len())));
    }
    let mut keys = Vec::new();
    for (i, value) in set.keys.into_iter().enumerate() {
        let wrong = |what: String| KeyError::new(name, format!("key {} of the set: {what}", i + 1));
        let jwk: Jwk = serde_json::from_value(value).map_err(|_| wrong("not a JWK".to_owned()))?;
        keys.extend(key(&jwk).map_err(wrong)?);
    }
    if keys.is_empty() {
        return Err(KeyError::new(name, "no key in it can check the signature of a token"));
    }
    Ok(keys)
}

fn key(jwk: &Jwk) -> Result<Option<Key>, String> {
    let for_signatures = jwk.common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
    let may_verify = jwk.common.key_operations.as_ref().is_none_or(|ops| ops.contains(&KeyOperations::Verify));
    if !for_signatures || !may_verify {
        return Ok(None);
    }
    let decoding = || DecodingKey::from_jwk(jwk).map_err(|_| "not base64url".to_owned());
    let mut key = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Key::rsa(decoding()?)?,
        AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
            EllipticCurve::P256 | EllipticCurve::P384 => {
                let key = Key::ec(decoding()?)?;
                let expected = if ec.curve == EllipticCurve::P256 { Algorithm::ES256 } else { Algorithm::ES384 };
                (key.algorithms == [expected]).then_some(key).ok_or("coordinates that are not of its curve")?
            }
            _ => return Ok(None),
        },
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Key::ed(decoding()?)?,
        AlgorithmParameters::OctetKey(_) => {
            let decoding = decoding()?;
            Key::hmac(decoding.try_get_as_bytes().unwrap_or_default())?
        }
        _ => return Ok(None),
    };
    if let Some(only) = jwk.common.key_algorithm {
        // `alg` narrows what the key is for; an algorithm that is not ours leaves nothing.
        key.algorithms.retain(|algorithm| Algorithm::try_from(only).is_ok_and(|only| only == *algorithm));
    }
    key.kid.clone_from(&jwk.common.key_id);
    Ok((!key.algorithms.is_empty()).then_some(key))
}
