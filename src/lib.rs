//! ringgate: a WebSocket gateway for Linux.

pub mod auth;
pub mod cli;
pub mod config;
pub mod error;
pub mod ids;
pub mod limits;
pub mod log;
pub mod node;
pub mod protocol;
pub mod settings;
pub mod shard;
pub mod time;
pub mod ws;
