//! ringgate: a WebSocket gateway for Linux.

pub mod config;
pub mod error;
pub mod ids;
pub mod limits;
pub mod protocol;
pub mod time;
