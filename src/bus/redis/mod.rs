//! Redis.
pub mod connect;
mod mailbox;
pub mod open;
pub mod pipeline;
pub mod pubsub;
pub mod resp;
pub mod scripts;
pub mod target;
pub mod trouble;
pub mod wire;
pub mod wires;
