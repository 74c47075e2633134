//! Who a user is: tokens in, claims out. Pure: the time and the contents of the key files are arguments.
//!
//! A key is only ever used with the algorithms of its own family and curve, never with what a token's header asks for (RFC 8725 §3.1):
//! that is what keeps a public key from being taken for a shared secret.

use serde::{Deserialize, Serialize};

mod claims;
mod jwks;
mod key;
mod pem;
mod sign;
mod verifier;

#[cfg(test)]
mod tests;

pub use key::KeyError;
pub use sign::{NewToken, SignError, sign};
pub use verifier::Verifier;

use crate::protocol::Permissions;

/// What a verified token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub user: Box<str>,
    /// Unix time in seconds at which the session ends, at most the year 9999; `None`: never.
    pub expires_unix_s: Option<u64>,
    /// What the user may do; `None`: the token does not say, the defaults hold.
    pub permissions: Option<Permissions>,
    /// Rooms to join at once, each once.
    pub rooms: Vec<Box<str>>,
}

/// The contents of key files, with their names for error messages. The shared secret is in the configuration.
#[derive(Clone, Debug, Default)]
pub struct KeyMaterial {
    /// PEM files: one public key or several each.
    pub pem: Vec<(String, Vec<u8>)>,
    /// A JWKS file.
    pub jwks: Option<(String, Vec<u8>)>,
}

/// Why a token is not accepted. The texts are fit for clients: they hold nothing of the token or the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AuthError {
    /// `exp` is not after the present.
    #[error("token expired")]
    Expired,
    /// `nbf` is after the present.
    #[error("token not valid yet")]
    NotYetValid,
    /// No key of the right kind has made the signature.
    #[error("bad signature")]
    BadSignature,
    /// Not a JWT in compact form, too long, a claim twice or of the wrong type, or a critical header that nobody here knows.
    #[error("malformed token")]
    Malformed,
    /// `aud` has none of the configured audiences.
    #[error("wrong audience")]
    WrongAudience,
    /// `iss` is none of the configured issuers.
    #[error("wrong issuer")]
    WrongIssuer,
    /// `alg` is `none`, unknown, or of a family without a configured key.
    #[error("unsupported algorithm")]
    UnsupportedAlgorithm,
    /// There are keys for the algorithm, but not the one that `kid` names.
    #[error("unknown key")]
    UnknownKey,
    /// `sub` is missing, not a string, not a valid name, or reserved.
    #[error("bad sub claim: expected a user name of 1 to 128 bytes without control characters")]
    BadSubject,
    /// `permissions` is not a bounded list of permissions.
    #[error("bad permissions claim: expected a list such as [\"send:*\",\"join:team-7-*\"]")]
    BadPermissions,
    /// `rooms` is not a bounded list of valid names.
    #[error("bad rooms claim: expected a list of room names")]
    BadRooms,
}
