//! The WebSocket handshake of the server (RFC 6455, section 4.2).

use bytes::Bytes;

use crate::config;
use crate::error::RefusalReason;

pub use super::head::{HeadStatus, RequestHead, parse_head};
pub use super::refusal::Refusal;

use super::deflate::{self, DeflateParams};

/// The sub-protocol of the JSON codec.
pub const PROTOCOL_JSON: &str = "ringgate.v1.json";

/// A request that becomes a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: String,
    /// The sub-protocol, where the client named one that is spoken here.
    pub protocol: Option<&'static str>,
    /// permessage-deflate, where it was negotiated.
    pub deflate: Option<DeflateParams>,
}

/// Checks that a request asks for a WebSocket, and settles sub-protocol and compression.
///
/// # Errors
///
/// 426 without `Upgrade: websocket` or with another version than 13, 400 for anything else that is missing or malformed.
pub fn upgrade(head: &RequestHead<'_>, deflate: &config::Deflate) -> Result<Upgrade, Refusal> {
    if !head.list("Upgrade").any(|token| token.eq_ignore_ascii_case(b"websocket")) {
        return Err(Refusal::new(RefusalReason::NotWebSocket, "This is a WebSocket endpoint: the request needs \"Upgrade: websocket\"."));
    }
    if !head.list("Connection").any(|token| token.eq_ignore_ascii_case(b"upgrade")) {
        return Err(Refusal::new(RefusalReason::BadRequest, "The request needs \"Connection: Upgrade\"."));
    }
    match single(head, "Sec-WebSocket-Version")? {
        Some(b"13") => {}
        Some(_) => return Err(Refusal::new(RefusalReason::NotWebSocket, "Sec-WebSocket-Version: 13 is spoken here.")),
        None => return Err(Refusal::new(RefusalReason::NotWebSocket, "The request needs \"Sec-WebSocket-Version: 13\".")),
    }
    let key = match single(head, "Sec-WebSocket-Key")? {
        Some(key) if is_key(key) => key,
        Some(_) => return Err(Refusal::new(RefusalReason::BadRequest, "Sec-WebSocket-Key is not 16 bytes in base64.")),
        None => return Err(Refusal::new(RefusalReason::BadRequest, "Sec-WebSocket-Key is missing.")),
    };
    Ok(Upgrade {
        accept: tungstenite::handshake::derive_accept_key(key),
        protocol: head
            .list("Sec-WebSocket-Protocol")
            .any(|name| name == PROTOCOL_JSON.as_bytes())
            .then_some(PROTOCOL_JSON),
        deflate: deflate::negotiate(head.headers("Sec-WebSocket-Extensions"), deflate),
    })
}

impl Upgrade {
    /// The 101 response.
    pub fn response(&self) -> Bytes {
        let mut out = String::with_capacity(384);
        out.push_str(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        );
        out.push_str(&self.accept);
        if let Some(protocol) = self.protocol {
            out.push_str("\r\nSec-WebSocket-Protocol: ");
            out.push_str(protocol);
        }
        if let Some(deflate) = &self.deflate {
            out.push_str("\r\nSec-WebSocket-Extensions: ");
            out.push_str(&deflate.response());
        }
        out.push_str("\r\n\r\n");
        out.into()
    }
}

/// The value of a field that may come once.
fn single<'a>(head: &RequestHead<'a>, name: &str) -> Result<Option<&'a [u8]>, Refusal> {
    let mut values = head.headers(name);
    let first = values.next();
    if values.next().is_some() {
        return Err(Refusal::new(RefusalReason::BadRequest, format!("More than one {name}.")));
    }
    Ok(first)
}

/// 16 bytes in base64: 22 digits and two pads.
fn is_key(key: &[u8]) -> bool {
    match key {
        [digits @ .., b'=', b'='] => {
            digits.len() == 22 && digits.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
        }
        _ => false,
    }
}
