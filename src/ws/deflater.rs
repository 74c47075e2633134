//! Compression of messages (RFC 7692, section 7.2.1).

use std::fmt;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};

use super::deflate::{WINDOW_BITS_MAX, WINDOW_BITS_MIN};
use super::frame::{self, Opcode, server_header_len};

/// What is cut from the end of each message's last block.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// An empty message, compressed (RFC 7692, section 7.2.3.6).
const EMPTY: [u8; 1] = [0x00];
/// Room that is kept between messages.
const SCRATCH_BYTES_KEPT_MAX: usize = 64 * 1024;

/// Compresses messages to whole server frames. Without context takeover one serves a whole shard (per window size); with it each
/// connection has its own, and every message of the connection must go through it, in order.
pub struct Deflater {
    stream: Compress,
    context_takeover: bool,
    window_bits: u8,
    /// Something went through since the last reset.
    used: bool,
    /// Initialised room for output.
    scratch: Vec<u8>,
}

impl Deflater {
    /// `level`: 1 (fast) to 9 (small). `window_bits`: 9 to 15, as negotiated (`server_max_window_bits`).
    pub fn new(level: u32, window_bits: u8, context_takeover: bool) -> Self {
        let window_bits = window_bits.clamp(WINDOW_BITS_MIN, WINDOW_BITS_MAX);
        let stream = Compress::new_with_window_bits(Compression::new(level.clamp(1, 9)), false, window_bits);
        Deflater { stream, context_takeover, window_bits, used: false, scratch: Vec::new() }
    }

    /// Bytes of memory held, about: what counts against a budget. Window and chains grow with the window; the hash table and the pending
    /// output do not.
    pub fn held_bytes(&self) -> usize {
        (1 << (self.window_bits + 2)) + 192 * 1024 + self.scratch.capacity()
    }

    /// A whole compressed server frame (RSV1). `None` where it would not be smaller than the uncompressed one, which the caller sends
    /// then; with context takeover never `None`, as the context has seen the message already.
    pub fn frame(&mut self, opcode: Opcode, payload: &[u8]) -> Option<Bytes> {
        debug_assert!(matches!(opcode, Opcode::Text | Opcode::Binary));
        if self.scratch.capacity() > SCRATCH_BYTES_KEPT_MAX {
            self.scratch = Vec::new();
        }
        if payload.is_empty() {
            return self.context_takeover.then(|| frame::compressed_frame(opcode, &EMPTY));
        }
        if self.used && !self.context_takeover {
            self.stream.reset();
        }
        self.used = true;
        let len = self.compress(payload)?;
        let compressed = self.scratch[..len].strip_suffix(&TAIL)?;
        let smaller =
            server_header_len(compressed.len()) + compressed.len() < server_header_len(payload.len()) + payload.len();
        (smaller || self.context_takeover).then(|| frame::compressed_frame(opcode, compressed))
    }

    /// Compresses up to and with a sync flush into the scratch, always to its end: zlib-rs 0.6.8 must not be reset while it has output
    /// pending (`Pending::reset_keep` forgets where it begins, and a later message panics).
    fn compress(&mut self, mut input: &[u8]) -> Option<usize> {
        // Fixed Huffman codes add an eighth to what does not compress.
        let room = input.len() + input.len() / 8 + 64;
        if self.scratch.len() < room {
            self.scratch.resize(room, 0);
        }
        let mut produced = 0;
        loop {
            let (read, written) = (self.stream.total_in(), self.stream.total_out());
            self.stream.compress(input, &mut self.scratch[produced..], FlushCompress::Sync).ok()?;
            input = &input[(self.stream.total_in() - read) as usize..];
            produced += (self.stream.total_out() - written) as usize;
            // Room that is left says that the flush is complete (zlib's manual, `deflate`).
            if produced < self.scratch.len() {
                return Some(produced);
            }
            self.scratch.resize(produced + produced / 2, 0);
        }
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater").field("context_takeover", &self.context_takeover).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::frame::server_frame_payload;
    use flate2::{Decompress, FlushDecompress};

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn what_would_not_shrink_is_left_alone_without_takeover() {
        let mut deflater = Deflater::new(1, 15, false);
        for len in [0, 1, 5, 125, 126, 300, 65_535, 65_536, 200_000] {
            assert_eq!(deflater.frame(Opcode::Text, &noise(len)), None, "{len}");
        }
        let frame = deflater.frame(Opcode::Text, &[b'a'; 1000]).unwrap();
        assert!(frame.len() < 40);
        // The same message, the same frame: no context is kept.
        assert_eq!(deflater.frame(Opcode::Text, &[b'a'; 1000]), Some(frame));
    }

    #[test]
    fn with_takeover_every_message_comes_out_and_repetition_is_cheap() {
        let mut deflater = Deflater::new(6, 15, true);
        assert_eq!(deflater.frame(Opcode::Text, b"").unwrap(), &b"\xc1\x01\x00"[..]);
        let message = noise(10_000);
        let first = deflater.frame(Opcode::Binary, &message).unwrap();
        assert!(first.len() > 10_000);
        assert!(deflater.frame(Opcode::Binary, &message).unwrap().len() < 300);
        assert_eq!(deflater.frame(Opcode::Binary, b"").unwrap(), &b"\xc2\x01\x00"[..]);
        assert!(deflater.frame(Opcode::Binary, &message).unwrap().len() < 300);
    }

    #[test]
    fn keeps_to_the_negotiated_window() {
        for bits in WINDOW_BITS_MIN..=WINDOW_BITS_MAX {
            for level in [1, 2, 6, 9] {
                let mut deflater = Deflater::new(level, bits, true);
                let mut client = Decompress::new_with_window_bits(false, bits);
                // Repeats at distances inside and outside of the window.
                let block = noise(700);
                let mut message = Vec::new();
                for gap in [0, 100, 1_000, 5_000, 20_000] {
                    message.extend_from_slice(&block);
                    message.extend_from_slice(&noise(gap));
                }
                for message in [&message[..], b"", &message] {
                    let frame = deflater.frame(Opcode::Binary, message).unwrap();
                    let input = [&server_frame_payload(&frame)[..], &TAIL].concat();
                    // In small steps, so that the window of the client is really used.
                    let (mut out, start) = (Vec::new(), client.total_in());
                    loop {
                        let used = (client.total_in() - start) as usize;
                        let (mut step, written) = ([0; 100], client.total_out());
                        client.decompress(&input[used..], &mut step, FlushDecompress::None).unwrap();
                        let written = (client.total_out() - written) as usize;
                        out.extend_from_slice(&step[..written]);
                        if written < step.len() && (client.total_in() - start) as usize == input.len() {
                            break;
                        }
                    }
                    assert!(out == message, "bits {bits}, level {level}");
                }
            }
        }
    }
}
