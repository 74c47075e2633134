//! WebSocket, pure: handshake, frames, messages, compression, close. Bytes in, values out; nothing here knows a socket or the time.
//!
//! | module | what it holds |
//! |---|---|
//! | [`handshake`] | the HTTP/1.1 upgrade: request head, checks, 101 and refusals |
//! | [`frame`] | frame headers, both ways, and whole server frames |
//! | [`proxy_protocol`] | who the client is, as a proxy in front says |
//! | [`mask`] | unmasking |
//! | [`message`] | the decoder: frames to messages, fragments, limits, UTF-8 |
//! | [`utf8`] | UTF-8 validation that goes on where it stopped |
//! | [`close`] | close payloads, and why a connection is failed |
//! | [`deflate`] | permessage-deflate: negotiation, [`Inflater`](deflate::Inflater), [`Deflater`](deflate::Deflater) |

pub mod close;
pub mod deflate;
mod deflater;
pub mod frame;
pub mod handshake;
mod head;
mod inflater;
pub mod mask;
pub mod message;
pub mod proxy_protocol;
mod refusal;
pub mod utf8;
