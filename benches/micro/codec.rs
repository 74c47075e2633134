//! Masking, frames, JSON.

use std::hint::black_box;

use ringgate::ids::MessageId;
use ringgate::protocol::reply::{self, Kind, MessageHead};
use ringgate::protocol::{Filter, Tags, parse};
use ringgate::ws::deflate::Inflater;
use ringgate::ws::frame::{Opcode, server_frame_with};
use ringgate::ws::mask::unmask;
use ringgate::ws::message::{Decoder, DecoderConfig};

use crate::harness::Bench;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub(crate) fn mask(bench: &Bench) {
    bench.group("mask");
    for len in [16, 125, 256, 4096, 65536] {
        let mut data = vec![b'x'; len];
        bench.run("mask", &format!("unmask {len} B"), 1, len as u64, || unmask(black_box(&mut data), black_box(KEY)));
    }
}

/// A client's frame of `payload`.
pub(crate) fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(KEY);
    let start = frame.len();
    frame.extend(payload);
    unmask(&mut frame[start..], KEY);
    frame
}

pub(crate) fn frame(bench: &Bench) {
    bench.group("frame");
    let config = DecoderConfig { message_size_max: 1 << 20, deflate: None };
    let mut inflater = Inflater::new();
    let mut decoder = Decoder::default();
    for (len, count) in [(32, 1), (256, 1), (256, 16), (4096, 1), (65536, 1)] {
        let input = client_frame(1, &vec![b'x'; len]).repeat(count);
        let mut buffer = input.clone();
        let name = format!("decode {count} text of {len} B, with a copy of the input");
        bench.run("frame", &name, count as u64, input.len() as u64, || {
            // Decoding unmasks in place: each round needs fresh bytes, as each recv brings some.
            buffer.copy_from_slice(&input);
            let mut pos = 0;
            let mut messages = 0;
            while let Ok(Some(incoming)) = decoder.next(&config, &mut inflater, &mut buffer, &mut pos) {
                black_box(incoming);
                messages += 1;
            }
            assert_eq!(messages, count);
        });
    }
    let input = client_frame(1, &[b'x'; 256]);
    let mut buffer = input.clone();
    bench.run("frame", "decode text of 256 B in 4 pieces", 1, input.len() as u64, || {
        buffer.copy_from_slice(&input);
        let mut messages = 0;
        for piece in buffer.chunks_mut(66) {
            let mut pos = 0;
            while let Ok(Some(incoming)) = decoder.next(&config, &mut inflater, piece, &mut pos) {
                black_box(incoming);
                messages += 1;
            }
        }
        assert_eq!(messages, 1);
    });
}

pub(crate) fn json(bench: &Bench) {
    bench.group("json");
    let filler = "x".repeat(200);
    let requests = [
        ("ping", r#"{"type":"ping"}"#.to_owned()),
        ("join", r#"{"type":"join","id":17,"roomId":"team-4711"}"#.to_owned()),
        ("message, 200 B", format!(r#"{{"type":"message","roomId":"team-4711","content":"{filler}"}}"#)),
        (
            "send_message, object of 200 B, id, event",
            format!(
                r#"{{"type":"send_message","id":"m-1","target_user":"u1234567","event":"chat","content":{{"text":"{filler}","n":[1,2,3]}}}}"#
            ),
        ),
        (
            "publish, tags",
            format!(
                r#"{{"type":"publish","channel":"prices","tags":{{"symbol":"ABC","price":12.5}},"content":"{filler}"}}"#
            ),
        ),
    ];
    for (name, text) in &requests {
        bench.run("json", &format!("parse {name}"), 1, text.len() as u64, || parse(black_box(text)).is_ok());
    }
    let content = format!("\"{filler}\"");
    let head = MessageHead {
        kind: Kind::Message,
        id: MessageId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        from: Some("u1234567"),
        content: &content,
        timestamp_ms: 1_700_000_000_000,
        room: Some("team-4711"),
        channel: None,
        event: None,
        tags_raw: None,
    };
    let len = reply::message_capacity(&head) as u64;
    bench.run("json", "encode a room message of 200 B, framed", 1, len, || {
        let capacity = reply::message_capacity(black_box(&head));
        server_frame_with(Opcode::Text, capacity, |out| reply::message(out, &head))
    });
    let filter = Filter::parse(
        r#"{"op":"and","nodes":[{"key":"symbol","op":"in","vals":["ABC","DEF"]},{"key":"price","op":"gt","val":10}]}"#,
    );
    let tags = Tags::parse(r#"{"symbol":"DEF","price":12.5}"#);
    if let (Ok(filter), Ok(tags)) = (filter, tags) {
        bench.run("json", "match a filter of two conditions", 1, 0, || filter.matches(black_box(&tags)));
    }
}
