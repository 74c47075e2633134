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
        Deflater { stream, context_takeover, used: false, scratch: Vec::new() }
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
        // Without takeover output of the payload's size and the tail is already useless; with it the output must be had, whatever its size.
        let room = payload.len() + TAIL.len() + if self.context_takeover { 64 } else { 0 };
        if self.scratch.len() < room {
            self.scratch.resize(room, 0);
        }
        let len = self.compress(payload, room)?;
        let compressed = self.scratch[..len].strip_suffix(&TAIL)?;
        let smaller =
            server_header_len(compressed.len()) + compressed.len() < server_header_len(payload.len()) + payload.len();
        (smaller || self.context_takeover).then(|| frame::compressed_frame(opcode, compressed))
    }

    /// Compresses up to and with a sync flush into the scratch. `None` where `room` bytes do not hold it, without context takeover.
    fn compress(&mut self, mut input: &[u8], mut room: usize) -> Option<usize> {
        let mut produced = 0;
        loop {
            let (read, written) = (self.stream.total_in(), self.stream.total_out());
            self.stream.compress(input, &mut self.scratch[produced..room], FlushCompress::Sync).ok()?;
            input = &input[(self.stream.total_in() - read) as usize..];
            produced += (self.stream.total_out() - written) as usize;
            // Room that is left says that the flush is complete (zlib's manual, `deflate`).
            if produced < room {
                return Some(produced);
            }
            if !self.context_takeover {
                return None;
            }
            room += room / 2;
            self.scratch.resize(room, 0);
        }
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater").field("context_takeover", &self.context_takeover).finish_non_exhaustive()
    }
}
