//! What is fuzzed, as plain functions: `tests/fuzz_smoke.rs` runs them on seeded input, the cargo-fuzz crate beside this file without end.
//!
//! A target panics where an invariant does not hold; what the input means does not matter.

use ringgate::config;
use ringgate::ws::close::Failure;
use ringgate::ws::deflate::{self, DeflateParams, Deflater, Inflater};
use ringgate::ws::frame::{Opcode, server_frame_payload};
use ringgate::ws::handshake::{self, HeadStatus, parse_head};
use ringgate::ws::message::{Decoder, DecoderConfig, Incoming};

/// An HTTP request head, and the upgrade it may ask for.
pub(crate) fn http_head(data: &[u8]) {
    let whole = parse_head(data);
    // However much of it has arrived, the verdict is the same or open.
    let step = (data.len() / 16).max(1);
    for end in (0..data.len()).step_by(step) {
        match (parse_head(&data[..end]), &whole) {
            (Ok(HeadStatus::Incomplete), _) => {}
            (Ok(HeadStatus::Complete { len, .. }), Ok(HeadStatus::Complete { len: whole, .. })) => {
                assert_eq!(len, *whole)
            }
            (Err(refusal), Err(whole)) => assert_eq!(refusal, *whole),
            (early, whole) => panic!("{early:?} after {end} bytes, then {whole:?}"),
        }
    }
    match whole {
        Ok(HeadStatus::Complete { head, len }) => {
            assert!(data[..len].ends_with(b"\r\n\r\n"));
            let lines = data[..len - 4].split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
            assert!(
                lines.flatten().all(|b| !b"\r\n\0".contains(b)),
                "nothing another parser could take for a line's end"
            );
            assert!(
                head.path.starts_with('/') && head.path.bytes().chain(head.query.bytes()).all(|b| b.is_ascii_graphic())
            );
            assert_eq!(head.headers("host").count(), 1);
            assert!(!head.host().is_empty());
            let _ = (head.query_param("user_id"), head.authorization_bearer(), head.user_agent(), head.origin());
            assert!(head.forwarded_for().all(|address| !address.contains(',')));
            let response = match handshake::upgrade(&head, &config::Deflate::default()) {
                Ok(upgrade) => upgrade.response(),
                Err(refusal) => refusal.response(),
            };
            assert!(response.starts_with(b"HTTP/1.1 "));
        }
        Ok(HeadStatus::Incomplete) => assert!(data.len() < ringgate::limits::HTTP_HEAD_BYTES_MAX),
        Err(refusal) => assert!((400..600).contains(&refusal.reason.status())),
    }
}

/// A stream of client frames: two bytes choose the configuration and the pieces it arrives in, the rest is the stream.
pub(crate) fn frames(data: &[u8]) {
    let Some(([flags, step], stream)) = data.split_first_chunk::<2>() else { return };
    let params = DeflateParams {
        server_no_context_takeover: true,
        client_no_context_takeover: flags & 1 == 0,
        server_max_window_bits: 15,
        client_max_window_bits: 15,
    };
    let config = DecoderConfig { message_size_max: 2048, deflate: (flags & 2 == 0).then_some(params) };
    let whole = decode(&config, stream, stream.len().max(1));
    let pieces = decode(&config, stream, usize::from(*step).max(1));
    assert_eq!(whole, pieces, "the same in pieces of {step}");
}

/// One compressed message, then the same once more: raw deflate data, without a frame around it.
pub(crate) fn inflate(data: &[u8]) {
    let Some((flags, message)) = data.split_first() else { return };
    let mut stream = Vec::new();
    for _ in 0..2 {
        let message = &message[..message.len().min(2000)];
        stream.extend_from_slice(&[0xc2, 0xfe]);
        let at = stream.len();
        if message.len() < 126 {
            stream[at - 1] = 0x80 | message.len() as u8;
        } else {
            stream.extend_from_slice(&(message.len() as u16).to_be_bytes());
        }
        stream.extend_from_slice(&[0; 4]);
        stream.extend_from_slice(message);
    }
    frames(&[&[flags & 1, 255], &stream[..]].concat());
}

/// Messages compressed by us and inflated by us: two bytes choose level, window and takeover, the rest is cut into messages at each 0xff.
pub(crate) fn deflate(data: &[u8]) {
    let Some(([flags, window], rest)) = data.split_first_chunk::<2>() else { return };
    let takeover = flags & 0x80 != 0;
    let params = DeflateParams {
        server_no_context_takeover: !takeover,
        client_no_context_takeover: !takeover,
        server_max_window_bits: 15,
        client_max_window_bits: 15,
    };
    let config = DecoderConfig { message_size_max: 0, deflate: Some(params) };
    let mut deflater = Deflater::new(1 + u32::from(flags % 9), 9 + window % 7, takeover);
    let (mut decoder, mut inflater) = (Decoder::default(), Inflater::new());
    for message in rest.split(|&b| b == 0xff).take(32) {
        // Long enough to matter, and repeating.
        let message = message.repeat(1 + usize::from(flags & 0x7f));
        let Some(frame) = deflater.frame(Opcode::Binary, &message) else {
            assert!(!takeover, "with takeover every message is sent");
            continue;
        };
        // The same as a client's frame, with a mask of zeroes.
        let header = frame.len() - server_frame_payload(&frame).len();
        let mut frame = [&frame[..header], &[0; 4], &frame[header..]].concat();
        frame[1] |= 0x80;
        let got = decoder.next(&config, &mut inflater, &mut frame, &mut 0);
        assert!(got == Ok(Some(Incoming::Binary(&message))), "it comes back as it was");
    }
}

/// The value of `Sec-WebSocket-Extensions`.
pub(crate) fn extensions(data: &[u8]) {
    let config = config::Deflate { context_takeover: true, ..config::Deflate::default() };
    if let Some(params) = deflate::negotiate(data.split(|&b| b == b'\n'), &config) {
        assert!((9..=15).contains(&params.server_max_window_bits) && (9..=15).contains(&params.client_max_window_bits));
        // What is answered is an offer that comes to the same.
        assert_eq!(deflate::negotiate([params.response().as_bytes()].into_iter(), &config), Some(params));
    }
}

/// Everything that comes out of a stream fed in pieces of `step` bytes, as text that can be compared.
fn decode(config: &DecoderConfig, stream: &[u8], step: usize) -> (Vec<String>, Option<Failure>) {
    let (mut decoder, mut inflater, mut out) = (Decoder::default(), Inflater::new(), Vec::new());
    for piece in stream.chunks(step) {
        let mut piece = piece.to_vec();
        let mut pos = 0;
        loop {
            match decoder.next(config, &mut inflater, &mut piece, &mut pos) {
                Ok(Some(incoming)) => {
                    match incoming {
                        Incoming::Text(text) => assert!(text.len() <= config.message_size_max),
                        Incoming::Binary(bytes) => assert!(bytes.len() <= config.message_size_max),
                        Incoming::Ping(bytes) | Incoming::Pong(bytes) => assert!(bytes.len() <= 125),
                        Incoming::Close(_) => return (out, None),
                    }
                    out.push(format!("{incoming:?}"));
                }
                Ok(None) => break,
                Err(failure) => return (out, Some(failure)),
            }
        }
        assert_eq!(pos, piece.len(), "all input is used");
        assert!(decoder.held_bytes() <= 16 * 1024 && inflater.held_bytes() <= 128 * 1024);
    }
    (out, None)
}
