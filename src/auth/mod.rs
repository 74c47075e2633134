//! Who a user is: tokens in, claims out.

use serde::{Deserialize, Serialize};

/// What a verified token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub user: Box<str>,
    /// Unix time in seconds at which the session ends; `None`: never.
    pub expires_unix_s: Option<u64>,
    /// Rooms to join at once.
    pub rooms: Vec<Box<str>>,
}
/// k
#[derive(Default)]
pub struct KeyMaterial {
    ///
    pub pem: Vec<(String, Vec<u8>)>,
    ///
    pub jwks: Option<(String, Vec<u8>)>,
}
