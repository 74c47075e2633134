//! STUB of branch `config`: the lead drops this file on merge, branch `protocol` owns it.

/// A user nobody can be.
pub const RESERVED_USER: &str = "events";

/// Whether `name` may name a user, room or channel.
pub fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= crate::limits::NAME_BYTES_MAX && !name.chars().any(char::is_control)
}
