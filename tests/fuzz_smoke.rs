//! A bounded run of the fuzz targets on seeded input: made up, and mutated from a corpus. `RINGGATE_FUZZ_SEED` and
//! `RINGGATE_FUZZ_ROUNDS` change what and how much; without them every run is the same.

#[path = "fuzz/targets.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use fastrand::Rng;

const SEED: u64 = 0x5eed_0002;
const ROUNDS: u64 = 20_000;

const HEADS: [&[u8]; 4] = [
    b"GET /ws?user_id=ann HTTP/1.1\r\nHost: example.org:8080\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: https://example.org\r\n\
      Sec-WebSocket-Protocol: ringgate.v1.json\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n",
    b"GET ws://[::1]:80/ws?a=%e2%82%ac+b&c HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX-Forwarded-For: 1.1.1.1, ::1\r\n\r\n\x81\x80",
    b"\r\nPOST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
];

const STREAMS: [&[u8]; 5] = [
    b"\0\x03\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x89\x80\0\0\0\0\x82\x80\0\0\0\0",
    b"\0\x01\x01\x82\0\0\0\0\xce\xba\x89\x81\0\0\0\0p\x00\x80\0\0\0\0\x80\x81\0\0\0\0x\x88\x82\0\0\0\0\x03\xe8",
    b"\0\x05\x41\x83\0\0\0\0\xf2\x48\xcd\x80\x84\0\0\0\0\xc9\xc9\x07\0\xc2\x81\0\0\0\0\0",
    b"\x02\x02\x82\xfe\x00\x7e\x01\x02\x03\x04abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz\
      abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz\x8a\x80\0\0\0\0",
    b"\x02\x09\x82\xff\x40\0\0\0\0\0\0\0\0\0\0\0",
];

const MESSAGES: [&[u8]; 4] = [
    b"\0\xf2\x48\xcd\xc9\xc9\x07\x00",
    b"\x01\xf3\x48\xcd\xc9\xc9\x07\x00\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
    b"\x01\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
    b"\0\xed\xc1\x01\x01\x00\x00\x00\x80\x90\xfe\xaf\xee\x08\x0a\x00\x00",
];

const TEXTS: [&[u8]; 3] = [
    b"\x85\x06{\"type\":\"message\",\"content\":\"hello\"}\xff{\"type\":\"message\",\"content\":\"hello\"}\xff\xff\0",
    b"\x00\x00abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabc\xff1234567890",
    b"\xfe\x03\x9b\x02\x41\xd0\x77\x1c\xe3\x58\xa6\x0f\xff\x9b\x02\x41\xd0\x77\x1c\xe3\x58\xa6\x0f",
];

const EXTENSIONS: [&[u8]; 3] = [
    b"permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits=15",
    b"foo; a=\"b, \\\"c\"; d, permessage-deflate; client_max_window_bits\npermessage-deflate",
    b"permessage-deflate; server_max_window_bits=\"10\"; client_max_window_bits = 8",
];

#[test]
fn http_head() {
    run(targets::http_head, &HEADS, 1);
}

#[test]
fn frames() {
    run(targets::frames, &STREAMS, 1);
}

#[test]
fn inflate() {
    run(targets::inflate, &MESSAGES, 1);
}

#[test]
fn deflate() {
    run(targets::deflate, &TEXTS, 10);
}

#[test]
fn extensions() {
    run(targets::extensions, &EXTENSIONS, 1);
}

/// Feeds a target the corpus, then mutations of it, some of them made of noise only; fewer where a round costs more.
fn run(target: fn(&[u8]), corpus: &[&[u8]], cost: u64) {
    let number = |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, rounds) = (number("RINGGATE_FUZZ_SEED", SEED), number("RINGGATE_FUZZ_ROUNDS", ROUNDS));
    let mut rng = Rng::with_seed(seed);
    for &input in corpus {
        check(target, input, seed);
    }
    for _ in 0..rounds / cost {
        let mut input = Vec::new();
        for _ in 0..rng.usize(0..3) {
            input.extend_from_slice(corpus[rng.usize(..corpus.len())]);
        }
        for _ in 0..rng.usize(0..8) {
            mutate(&mut input, corpus, &mut rng);
        }
        check(target, &input, seed);
    }
}

fn check(target: fn(&[u8]), input: &[u8], seed: u64) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        eprintln!("seed {seed}, input b\"{}\"", input.escape_ascii());
        resume_unwind(panic);
    }
}

fn mutate(input: &mut Vec<u8>, corpus: &[&[u8]], rng: &mut Rng) {
    const TELLING: &[u8] = b"\0\x01\x7e\x7f\x80\x81\x88\x89\xc1\xfe\xff\r\n\t :;,=\"%?#";
    let at = rng.usize(..=input.len());
    match rng.u8(..7) {
        0 => input.insert(at, rng.u8(..)),
        1 => input.insert(at, TELLING[rng.usize(..TELLING.len())]),
        2 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
        3 if at < input.len() => input[at] = TELLING[rng.usize(..TELLING.len())],
        4 if at < input.len() => {
            let end = rng.usize(at..=input.len().min(at + 16));
            input.drain(at..end);
        }
        5 => {
            let other = corpus[rng.usize(..corpus.len())];
            let start = rng.usize(..=other.len());
            let end = rng.usize(start..=other.len());
            input.splice(at..at, other[start..end].iter().copied());
        }
        _ => input.truncate(at),
    }
}
