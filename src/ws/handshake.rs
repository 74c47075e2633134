//! The WebSocket handshake of the server (RFC 6455, section 4.2).

use bytes::Bytes;

use crate::config;
use crate::error::RefusalReason;

pub use super::head::{HeadStatus, RequestHead, head_len, parse_head};
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
        return Err(Refusal::new(
            RefusalReason::NotWebSocket,
            "This is a WebSocket endpoint: the request needs \"Upgrade: websocket\".",
        ));
    }
    if !head.list("Connection").any(|token| token.eq_ignore_ascii_case(b"upgrade")) {
        return Err(Refusal::new(RefusalReason::BadRequest, "The request needs \"Connection: Upgrade\"."));
    }
    match single(head, "Sec-WebSocket-Version")? {
        Some(b"13") => {}
        Some(_) => return Err(Refusal::new(RefusalReason::NotWebSocket, "Sec-WebSocket-Version: 13 is spoken here.")),
        None => {
            return Err(Refusal::new(RefusalReason::NotWebSocket, "The request needs \"Sec-WebSocket-Version: 13\"."));
        }
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    const UPGRADE: &str = "Upgrade: websocket\r\n";
    const CONNECTION: &str = "Connection: Upgrade\r\n";
    const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";

    fn check(fields: &[&str]) -> Result<Upgrade, Refusal> {
        let text = format!("GET /ws HTTP/1.1\r\nHost: a\r\n{}\r\n", fields.concat());
        match parse_head(text.as_bytes()) {
            Ok(HeadStatus::Complete { head, .. }) => upgrade(&head, &config::Deflate::default()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_example_of_rfc_6455() {
        let upgrade = check(&[UPGRADE, CONNECTION, KEY, VERSION]).unwrap();
        assert_eq!(
            upgrade.response(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
    }

    #[test]
    fn sub_protocol_and_compression_are_named() {
        let protocol = "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: other, ringgate.v1.json\r\n";
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
        let response = check(&[UPGRADE, CONNECTION, KEY, VERSION, protocol, offer]).unwrap().response();
        assert!(response.ends_with(
            b"\r\nSec-WebSocket-Protocol: ringgate.v1.json\r\n\
              Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n\r\n"
        ));
        let unknown = check(&[UPGRADE, CONNECTION, KEY, VERSION, "Sec-WebSocket-Protocol: chat\r\n"]).unwrap();
        assert_eq!(unknown.protocol, None);
    }

    #[test]
    fn requests_good_and_bad() {
        let table: [(&[&str], Option<u16>); 21] = [
            (&[UPGRADE, CONNECTION, KEY, VERSION], None),
            (&["upgrade: WebSocket\r\nCONNECTION: keep-alive, upgrade\r\n", KEY, VERSION], None),
            (&["Upgrade: h2c, websocket\r\n", "Connection: keep-alive\r\nConnection: Upgrade\r\n", KEY, VERSION], None),
            (&[], Some(426)),
            (&[CONNECTION, KEY, VERSION], Some(426)),
            (&["Upgrade: h2c\r\n", CONNECTION, KEY, VERSION], Some(426)),
            (&["Upgrade: websocketx\r\n", CONNECTION, KEY, VERSION], Some(426)),
            (&[UPGRADE, KEY, VERSION], Some(400)),
            (&[UPGRADE, "Connection: close\r\n", KEY, VERSION], Some(400)),
            (&[UPGRADE, "Connection: upgraded\r\n", KEY, VERSION], Some(400)),
            (&[UPGRADE, CONNECTION, KEY], Some(426)),
            (&[UPGRADE, CONNECTION, KEY, "Sec-WebSocket-Version: 8\r\n"], Some(426)),
            (&[UPGRADE, CONNECTION, KEY, "Sec-WebSocket-Version: 013\r\n"], Some(426)),
            (&[UPGRADE, CONNECTION, KEY, VERSION, VERSION], Some(400)),
            (&[UPGRADE, CONNECTION, VERSION], Some(400)),
            (&[UPGRADE, CONNECTION, VERSION, KEY, KEY], Some(400)),
            (&[UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key:\r\n"], Some(400)),
            (&[UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=\r\n"], Some(400)),
            (&[UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQAA\r\n"], Some(400)),
            (&[UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!Q==\r\n"], Some(400)),
            (&[UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==AAAA\r\n"], Some(400)),
        ];
        for (fields, expect) in table {
            let status = check(fields).err().map(|refusal| refusal.reason.status());
            assert_eq!(status, expect, "{fields:?}");
        }
    }

    /// The wire of a tungstenite client whose request we answer.
    #[derive(Default)]
    struct Wire {
        request: Vec<u8>,
        response: Bytes,
    }

    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.request.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Read for Wire {
        fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
            if !self.request.is_empty() {
                let Ok(HeadStatus::Complete { head, len }) = parse_head(&self.request) else { panic!("complete") };
                assert_eq!((head.path, head.query_param("user_id").as_deref()), ("/ws", Some("ann")));
                assert_eq!(len, self.request.len());
                self.response = upgrade(&head, &config::Deflate::default()).unwrap().response();
                self.request.clear();
            }
            let part = self.response.split_to(room.len().min(self.response.len()));
            room[..part.len()].copy_from_slice(&part);
            Ok(part.len())
        }
    }

    #[test]
    fn a_tungstenite_client_takes_our_response() {
        let (_, response) = tungstenite::client("ws://example.org:8080/ws?user_id=ann", Wire::default()).unwrap();
        assert_eq!(response.status(), 101);
    }
}
