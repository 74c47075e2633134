//! Makes tokens, for `ringgate gen-token` and tests.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::claims::valid_user;
use crate::config;
use crate::limits::{CLAIM_ENTRIES_MAX, TOKEN_BYTES_MAX};
use crate::protocol::{Permissions, valid_name};

/// What a token is to say.
#[derive(Clone, Debug, Default)]
pub struct NewToken {
    /// `sub`
    pub user: String,
    /// Seconds until it expires; 0: it never does.
    pub ttl_s: u64,
    /// `permissions`; `None`: no such claim.
    pub permissions: Option<Vec<String>>,
    /// `rooms`; none: no such claim.
    pub rooms: Vec<String>,
}

/// Why no token was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Only a shared secret can sign: public keys check.
    #[error("no key to sign with; expected auth.hmac_secret or auth.hmac_secret_file in the configuration")]
    NoKey,
    /// The user name is not valid.
    #[error("bad user name; expected 1 to 128 bytes without control characters, other than \"events\"")]
    BadUser,
    /// A permission is not valid.
    #[error("bad permission: {0}")]
    BadPermission(String),
    /// A room name is not valid, or there are too many.
    #[error("bad room; expected up to {CLAIM_ENTRIES_MAX} names of 1 to 128 bytes without control characters")]
    BadRoom,
    /// The gateway would not read it.
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes; expected fewer permissions and rooms")]
    TooLong,
    /// The signature could not be made.
    #[error("cannot sign")]
    Failed,
}

#[derive(Serialize)]
struct Payload<'a> {
    sub: &'a str,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<&'a [String]>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    rooms: &'a [String],
}

/// A token that a gateway of this configuration accepts, signed with HS256. It names the first configured audience and issuer.
///
/// # Errors
///
/// There is no key to sign with, or the token would be refused.
pub fn sign(auth: &config::Auth, token: &NewToken, now_unix_s: u64) -> Result<String, SignError> {
    let secret = auth.hmac_secret.as_ref().ok_or(SignError::NoKey)?;
    if !valid_user(&token.user) {
        return Err(SignError::BadUser);
    }
    let permissions = token.permissions.as_deref();
    let entries = permissions.unwrap_or_default();
    if entries.len() > CLAIM_ENTRIES_MAX {
        return Err(SignError::BadPermission(format!("expected at most {CLAIM_ENTRIES_MAX}")));
    }
    Permissions::parse(entries.iter().map(String::as_str))
        .map_err(|error| SignError::BadPermission(error.to_string()))?;
    if token.rooms.len() > CLAIM_ENTRIES_MAX || !token.rooms.iter().all(|room| valid_name(room)) {
        return Err(SignError::BadRoom);
    }
    let payload = Payload {
        sub: &token.user,
        iat: now_unix_s,
        exp: (token.ttl_s != 0).then(|| now_unix_s.saturating_add(token.ttl_s)),
        aud: auth.audience.first(),
        iss: auth.issuer.first(),
        permissions,
        rooms: &token.rooms,
    };
    let key = EncodingKey::from_secret(secret.0.as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &payload, &key).map_err(|_| SignError::Failed)?;
    if token.len() > TOKEN_BYTES_MAX { Err(SignError::TooLong) } else { Ok(token) }
}
