//! WebSocket, pure: handshake, frames, messages, compression, close.

pub mod deflate;
