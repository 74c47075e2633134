//! What clients and gateway say to each other.

use serde::{Deserialize, Serialize};

pub mod class;
pub mod envelope;
pub mod name;
pub mod permission;

pub use name::{RESERVED_USER, valid_name};
pub use permission::Permissions;

/// The `id` of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestId {
    /// A string.
    Text(Box<str>),
    /// An integer.
    Int(i64),
}
