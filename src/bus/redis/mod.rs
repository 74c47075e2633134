//! Redis.
pub mod resp;
