//! ringgate: a WebSocket gateway for Linux.

pub mod auth;
pub mod config;
pub mod error;
pub mod ids;
pub mod io;
pub mod limits;
pub mod mesh;
pub mod protocol;
pub mod settings;
pub mod shard;
pub mod time;
pub mod ws;
