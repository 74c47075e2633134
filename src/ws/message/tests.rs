use std::io::{Cursor, Read, Write};

use proptest::prelude::*;
use tungstenite::protocol::{Role, WebSocket};

use super::*;
use crate::error::CloseReason;
use crate::error::CloseReason::{InvalidData, ProtocolError, TooLarge};
use crate::ws::deflate::Deflater;
use crate::ws::frame::{server_frame, server_frame_payload};

const FRESH: DeflateParams = DeflateParams {
    server_no_context_takeover: true,
    client_no_context_takeover: true,
    server_max_window_bits: 15,
    client_max_window_bits: 15,
};

#[derive(Clone, Debug, PartialEq)]
enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Failed(CloseReason),
}

impl From<Incoming<'_>> for Got {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Text(text) => Got::Text(text.to_owned()),
            Incoming::Binary(bytes) => Got::Binary(bytes.to_vec()),
            Incoming::Ping(bytes) => Got::Ping(bytes.to_vec()),
            Incoming::Pong(bytes) => Got::Pong(bytes.to_vec()),
            Incoming::Close(close) => Got::Close(close.map(|(code, reason)| (code, reason.to_owned()))),
        }
    }
}

fn text(text: &str) -> Got {
    Got::Text(text.to_owned())
}

/// A masked client frame; `first` is its first byte.
fn client(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => frame.extend([&[0xfe][..], &(len as u16).to_be_bytes()].concat()),
        len => frame.extend([&[0xff][..], &(len as u64).to_be_bytes()].concat()),
    }
    frame.extend(key);
    frame.extend(payload.iter().enumerate().map(|(i, b)| b ^ key[i % 4]));
    frame
}

/// Feeds a stream in pieces that end at `cuts`; what came out, and how many bytes were used.
fn decode(config: &DecoderConfig, stream: &[u8], cuts: impl IntoIterator<Item = usize>) -> (Vec<Got>, usize) {
    let (mut decoder, mut inflater, mut got) = (Decoder::default(), Inflater::new(), Vec::new());
    let mut start = 0;
    for end in cuts.into_iter().chain([stream.len()]) {
        let mut piece = stream[start..end].to_vec();
        let mut pos = 0;
        loop {
            match decoder.next(config, &mut inflater, &mut piece, &mut pos) {
                Ok(Some(incoming)) => got.push(Got::from(incoming)),
                Ok(None) => break,
                Err(failure) => {
                    got.push(Got::Failed(failure.reason));
                    return (got, start + pos);
                }
            }
            if let Some(Got::Close(_)) = got.last() {
                return (got, start + pos);
            }
        }
        assert_eq!(pos, piece.len(), "all input is used");
        start = end;
    }
    (got, start)
}

fn deflated(payload: &[u8]) -> Vec<u8> {
    server_frame_payload(&Deflater::new(6, 15, false).frame(Opcode::Binary, payload).expect("it shrinks")).to_vec()
}

/// Streams of frames and what they must come to, after Autobahn's sections 1 to 7, 12 and 13.
fn table() -> Vec<(Vec<Vec<u8>>, Vec<Got>)> {
    let (long, huge) = ("x".repeat(126), vec![0xfe; 65_536]);
    let squeezed = deflated(long.as_bytes());
    let failed = |reason| vec![Got::Failed(reason)];
    vec![
        (vec![client(0x81, b"")], vec![text("")]),
        (vec![client(0x82, b"")], vec![Got::Binary(vec![])]),
        (vec![client(0x81, b"Hello"), client(0x82, &[0, 255])], vec![text("Hello"), Got::Binary(vec![0, 255])]),
        (vec![client(0x81, long.as_bytes())], vec![text(&long)]),
        (vec![client(0x82, &huge)], vec![Got::Binary(huge.clone())]),
        (vec![client(0x89, b""), client(0x8a, b"late")], vec![Got::Ping(vec![]), Got::Pong(b"late".to_vec())]),
        (vec![client(0x89, &[0xfe; 125])], vec![Got::Ping(vec![0xfe; 125])]),
        (vec![client(0x89, &[0xfe; 126])], failed(ProtocolError)),
        // fragments, with control frames between them
        (vec![client(0x01, b"frag"), client(0x80, b"ment")], vec![text("fragment")]),
        (
            vec![client(0x02, b"a"), client(0x89, b"p"), client(0x00, b""), client(0x8a, b"q"), client(0x80, b"b")],
            vec![Got::Ping(b"p".to_vec()), Got::Pong(b"q".to_vec()), Got::Binary(b"ab".to_vec())],
        ),
        (vec![client(0x01, b""), client(0x00, b""), client(0x80, b""), client(0x81, b"n")], vec![text(""), text("n")]),
        (vec![client(0x01, b"\xce"), client(0x80, b"\xba")], vec![text("\u{3ba}")]),
        (vec![client(0x01, b"a"), client(0x88, b"\x03\xe8")], vec![Got::Close(Some((1000, String::new())))]),
        (vec![client(0x80, b"x")], failed(ProtocolError)),
        (vec![client(0x00, b"x")], failed(ProtocolError)),
        (vec![client(0x01, b"a"), client(0x81, b"b")], failed(ProtocolError)),
        (vec![client(0x01, b"a"), client(0x02, b"b")], failed(ProtocolError)),
        (vec![client(0x81, b"a"), client(0x80, b"b")], vec![text("a"), Got::Failed(ProtocolError)]),
        (vec![client(0x09, b"a")], failed(ProtocolError)),
        // reserved bits and opcodes, after something good
        (vec![client(0x81, b"a"), client(0x91, b"b")], vec![text("a"), Got::Failed(ProtocolError)]),
        (vec![client(0x81, b"a"), client(0xa9, b"b")], vec![text("a"), Got::Failed(ProtocolError)]),
        (vec![client(0x83, b"")], failed(ProtocolError)),
        (vec![client(0x8b, b"")], failed(ProtocolError)),
        (vec![b"\x81\x01a".to_vec()], failed(ProtocolError)),
        // UTF-8
        (
            vec![client(0x81, "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}".as_bytes())],
            vec![text("\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}")],
        ),
        (vec![client(0x81, b"\xce\xba\xed\xa0\x80edited")], failed(InvalidData)),
        (vec![client(0x81, b"cut \xce")], failed(InvalidData)),
        (vec![client(0x01, b"cut \xce"), client(0x80, b"")], failed(InvalidData)),
        (vec![client(0x01, b"\xf4"), client(0x00, b"\x90"), client(0x80, b"\x80\x80")], failed(InvalidData)),
        (vec![client(0x82, b"\xff\xfe")], vec![Got::Binary(vec![0xff, 0xfe])]),
        // close
        (vec![client(0x88, b"")], vec![Got::Close(None)]),
        (vec![client(0x88, b"\x03\xe8bye"), client(0x83, b"")], vec![Got::Close(Some((1000, "bye".to_owned())))]),
        (vec![client(0x88, b"\x03")], failed(ProtocolError)),
        (vec![client(0x88, b"\x03\xed")], failed(ProtocolError)),
        (vec![client(0x88, b"\x03\xe8\xff")], failed(InvalidData)),
        // compression
        (vec![client(0xc1, &squeezed), client(0x81, b"plain")], vec![text(&long), text("plain")]),
        (
            vec![client(0x42, &squeezed[..3]), client(0x89, b"p"), client(0x80, &squeezed[3..])],
            vec![Got::Ping(b"p".to_vec()), Got::Binary(long.clone().into_bytes())],
        ),
        (vec![client(0xc1, b"\x00"), client(0xc2, b"")], vec![text(""), Got::Binary(vec![])]),
        (vec![client(0xc1, &deflated(&[0x80; 50]))], failed(InvalidData)),
        (vec![client(0xc1, &squeezed[..2])], failed(InvalidData)),
        (vec![client(0x41, b"\x00"), client(0xc0, b"")], failed(ProtocolError)),
        (vec![client(0xc9, b"")], failed(ProtocolError)),
        (vec![client(0xc2, &deflated(&vec![0; 70_000])), client(0x82, b"")], failed(TooLarge)),
        // limits
        (vec![client(0x02, &[0; 40_000]), client(0x80, &[0; 25_536])], vec![Got::Binary(vec![0; 65_536])]),
        (vec![client(0x02, &[0; 40_000]), client(0x80, &[0; 25_537])], failed(TooLarge)),
        (vec![b"\x82\xff\x40\0\0\0\0\0\0\0mask".to_vec()], failed(TooLarge)),
        (vec![b"\x82\xff\0\0\0\0\0\x01\0\x01mask".to_vec()], failed(TooLarge)),
    ]
}

#[test]
fn every_split_point_yields_the_same() {
    let config = DecoderConfig { message_size_max: 65_536, deflate: Some(FRESH) };
    for (frames, expect) in table() {
        let stream = frames.concat();
        assert_eq!(decode(&config, &stream, []).0, expect, "{:x?}", &stream[..stream.len().min(40)]);
        let ends = frames.iter().scan(0, |end, frame| {
            *end += frame.len();
            Some(*end)
        });
        // All points of short streams; of long ones those around the frames' ends.
        let near: Vec<usize> = ends.flat_map(|end| end.saturating_sub(3)..end + 20).chain(0..20).collect();
        let points: Vec<usize> = if stream.len() < 1000 { (0..=stream.len()).collect() } else { near };
        for cut in points.into_iter().filter(|&cut| cut <= stream.len()) {
            assert_eq!(
                decode(&config, &stream, [cut]).0,
                expect,
                "cut at {cut}: {:x?}",
                &stream[..stream.len().min(40)]
            );
        }
        for step in [1, 2, 7, 1448] {
            let cuts = (0..stream.len()).step_by(step);
            assert_eq!(
                decode(&config, &stream, cuts).0,
                expect,
                "every {step}: {:x?}",
                &stream[..stream.len().min(40)]
            );
        }
    }
}

#[test]
fn wrong_utf8_fails_at_its_byte_and_not_at_the_end() {
    // Autobahn 6.4: (first fragment's payload, index of the byte that is wrong), then more would follow
    let table: [(&[u8], usize); 4] = [
        (b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80", 12),
        (b"ok\xff", 2),
        (b"\xed\xa0", 1),
        (b"abc\x80d", 3),
    ];
    for (payload, wrong) in table {
        for first in [0x01, 0x81] {
            let mut stream = client(first, payload);
            // In a frame that claims more than has come.
            stream[1] += 20;
            for cuts in [vec![], (0..stream.len()).collect::<Vec<_>>()] {
                let bytewise = !cuts.is_empty();
                let (got, used) = decode(&DecoderConfig::default(), &stream, cuts);
                assert_eq!(got, [Got::Failed(InvalidData)], "{payload:x?}");
                assert!(!bytewise || used == 6 + wrong + 1, "{payload:x?}: {used}");
            }
        }
    }
}

#[test]
fn compression_must_be_negotiated() {
    let stream = client(0xc1, b"\x00");
    assert_eq!(decode(&DecoderConfig::default(), &stream, []).0, [Got::Failed(ProtocolError)]);
}

#[test]
fn claims_reserve_nothing() {
    let (mut decoder, mut inflater) = (Decoder::default(), Inflater::new());
    let no_limit = DecoderConfig { message_size_max: usize::MAX, deflate: Some(FRESH) };
    let mut header = *b"\x82\xff\x40\0\0\0\0\0\0\0\0\0\0\0abc";
    let mut pos = 0;
    assert_eq!(decoder.next(&no_limit, &mut inflater, &mut header, &mut pos), Ok(None));
    assert!(decoder.held_bytes() <= 64 && !decoder.is_idle());
    decoder.reset();
    let mut pos = 0;
    let refused = decoder.next(&DecoderConfig::default(), &mut inflater, &mut header[..14], &mut pos);
    assert_eq!(refused, Err(Failure::too_large()));
    assert_eq!(decoder.held_bytes() + inflater.held_bytes(), decoder.held_bytes());
}

#[test]
fn compressed_bytes_are_bounded_too() {
    let config = DecoderConfig { message_size_max: 1000, deflate: Some(FRESH) };
    // Empty stored blocks: they inflate to nothing, however many.
    let blocks = b"\x00\x00\x00\xff\xff".repeat(100);
    let frames = std::iter::once(client(0x42, &blocks)).chain((0..2).map(|_| client(0x00, &blocks)));
    let stream: Vec<u8> = frames.flatten().collect();
    assert_eq!(decode(&config, &stream, []).0, [Got::Failed(TooLarge)]);
}

#[test]
fn a_whole_frame_is_borrowed_from_the_input() {
    let (mut decoder, mut inflater) = (Decoder::default(), Inflater::new());
    let mut input = [client(0x81, b"first"), client(0x82, b"second")].concat();
    let range = input.as_ptr_range();
    let mut pos = 0;
    match decoder.next(&DecoderConfig::default(), &mut inflater, &mut input, &mut pos) {
        Ok(Some(Incoming::Text(text))) => assert!(text == "first" && range.contains(&text.as_ptr())),
        other => panic!("{other:?}"),
    }
    assert_eq!((pos, decoder.held_bytes(), decoder.is_idle()), (11, 0, true));
}

#[test]
fn a_reset_decoder_is_as_good_as_new() {
    let (mut decoder, mut inflater) = (Decoder::default(), Inflater::new());
    let config = DecoderConfig { deflate: Some(FRESH), ..DecoderConfig::default() };
    for beginning in [&b"\x81"[..], b"\x81\x85abc", &client(0x01, &[b'a'; 100_000]), &client(0x89, b"ping")[..7]] {
        let mut pos = 0;
        assert_eq!(decoder.next(&config, &mut inflater, &mut beginning.to_vec(), &mut pos), Ok(None));
        assert!(!decoder.is_idle());
        decoder.reset();
        assert!(decoder.is_idle() && decoder.held_bytes() <= KEPT_BYTES_MAX + 128);
        let (mut whole, mut pos) = (client(0x81, b"new"), 0);
        assert_eq!(decoder.next(&config, &mut inflater, &mut whole, &mut pos), Ok(Some(Incoming::Text("new"))));
    }
}

/// A stream that a tungstenite endpoint writes to and reads from.
#[derive(Default)]
struct Pipe {
    written: Vec<u8>,
    to_read: Cursor<Vec<u8>>,
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.to_read.read(buf)
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.written.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn message() -> impl Strategy<Value = Got> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..125);
    prop_oneof![
        4 => ".{0,200}".prop_map(Got::Text),
        4 => prop::collection::vec(any::<u8>(), 0..70_000).prop_map(Got::Binary),
        1 => bytes().prop_map(Got::Ping),
        1 => bytes().prop_map(Got::Pong),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reads_what_a_tungstenite_client_writes(
        messages in prop::collection::vec(message(), 1..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut oracle = WebSocket::from_raw_socket(Pipe::default(), Role::Client, None);
        for message in messages.clone() {
            oracle.send(match message {
                Got::Text(text) => tungstenite::Message::text(text),
                Got::Binary(bytes) => tungstenite::Message::binary(bytes),
                Got::Ping(bytes) => tungstenite::Message::Ping(bytes.into()),
                Got::Pong(bytes) => tungstenite::Message::Pong(bytes.into()),
                Got::Close(_) | Got::Failed(_) => unreachable!("not generated"),
            }).unwrap();
        }
        let stream = &oracle.get_ref().written;
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(decode(&DecoderConfig::default(), stream, cuts).0, messages);
    }

    #[test]
    fn a_tungstenite_client_reads_what_we_write(messages in prop::collection::vec(message(), 1..8)) {
        let frames: Vec<u8> = messages.iter().flat_map(|message| match message {
            Got::Text(text) => server_frame(Opcode::Text, text.as_bytes()),
            Got::Binary(bytes) => server_frame(Opcode::Binary, bytes),
            Got::Ping(bytes) => server_frame(Opcode::Ping, bytes),
            Got::Pong(bytes) => server_frame(Opcode::Pong, bytes),
            Got::Close(_) | Got::Failed(_) => unreachable!("not generated"),
        }).collect();
        let pipe = Pipe { to_read: Cursor::new(frames), ..Pipe::default() };
        let mut oracle = WebSocket::from_raw_socket(pipe, Role::Client, None);
        for message in messages {
            let got = match oracle.read().unwrap() {
                tungstenite::Message::Text(text) => Got::Text(text.to_string()),
                tungstenite::Message::Binary(bytes) => Got::Binary(bytes.to_vec()),
                tungstenite::Message::Ping(bytes) => Got::Ping(bytes.to_vec()),
                tungstenite::Message::Pong(bytes) => Got::Pong(bytes.to_vec()),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(got, message);
        }
    }

    /// Any bytes, cut anywhere, come to the same, and held memory is bounded by what has arrived.
    #[test]
    fn any_bytes_however_cut(stream: Vec<u8>, cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let config = DecoderConfig { message_size_max: 100, deflate: Some(FRESH) };
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(decode(&config, &stream, []).0, decode(&config, &stream, cuts).0);
    }
}
