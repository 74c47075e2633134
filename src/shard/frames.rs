//! One frame for many receivers: encoded once, compressed at most once, stored once.

use bytes::Bytes;

use crate::config;
use crate::shard::outbox::{Frame, Stored};
use crate::ws::deflate::Deflater;
use crate::ws::frame::{Opcode, server_frame_payload, server_frame_with};

/// Window bits of connections that negotiated nothing smaller: their compressed frames are shared.
const WINDOW_BITS_MAX: u8 = 15;

/// A frame for many receivers.
#[derive(Debug)]
pub(super) struct Shared {
    /// Until an outbox holds it.
    fresh: Bytes,
    /// From then on.
    plain: Option<Frame>,
    /// What became of compressing it, once that was tried: `None` where it would not be smaller.
    compressed: Option<Option<Frame>>,
}

impl Shared {
    pub(super) fn new(frame: impl Into<Bytes>) -> Self {
        Shared { fresh: frame.into(), plain: None, compressed: None }
    }

    /// A text frame with the JSON that `build` appends.
    pub(super) fn text(capacity: usize, build: impl FnOnce(&mut Vec<u8>)) -> Self {
        Shared::new(server_frame_with(Opcode::Text, capacity, build))
    }

    /// Bytes of the frame, uncompressed.
    pub(super) fn len(&self) -> usize {
        self.bytes().len()
    }

    /// The frame as it is.
    #[inline]
    pub(super) fn plain(&mut self, stored: &Stored) -> Frame {
        let fresh = &mut self.fresh;
        self.plain.get_or_insert_with(|| stored.frame(std::mem::take(fresh))).clone()
    }

    /// The frame, uncompressed.
    pub(super) fn bytes(&self) -> &Bytes {
        self.plain.as_ref().map_or(&self.fresh, Frame::bytes)
    }

    /// The frame compressed for a window of that size, or as it is where that does not make it smaller.
    pub(super) fn compressed(&mut self, deflaters: &mut Deflaters, window_bits: u8, stored: &Stored) -> Frame {
        let bits = window_bits.clamp(9, WINDOW_BITS_MAX);
        if bits == WINDOW_BITS_MAX {
            if self.compressed.is_none() {
                self.compressed = Some(deflaters.compress_frame(bits, self.bytes()).map(|bytes| stored.frame(bytes)));
            }
            let made = self.compressed.clone().flatten();
            return made.unwrap_or_else(|| self.plain(stored));
        }
        let made = deflaters.compress_frame(bits, self.bytes()).map(|bytes| stored.frame(bytes));
        made.unwrap_or_else(|| self.plain(stored))
    }
}

/// One compressor per window size in use, for connections without context takeover.
#[derive(Debug, Default)]
pub(super) struct Deflaters {
    by_bits: [Option<Box<Deflater>>; (WINDOW_BITS_MAX + 1) as usize],
    /// Bytes of payload below which nothing is compressed.
    pub(super) min_size: usize,
    level: u32,
    held_bytes: usize,
}

impl Deflaters {
    /// Takes over what may change at run time.
    pub(super) fn configure(&mut self, config: &config::Deflate) {
        self.min_size = config.min_size as usize;
        if self.level != config.level {
            self.level = config.level;
            self.release();
        }
    }

    /// Frees them all; they come back as they are needed.
    pub(super) fn release(&mut self) {
        self.by_bits = Default::default();
        self.held_bytes = 0;
    }

    /// Memory held, in bytes, about.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// A whole compressed frame; `None` where it would not be smaller.
    pub(super) fn compress(&mut self, window_bits: u8, opcode: Opcode, payload: &[u8]) -> Option<Bytes> {
        let bits = window_bits.clamp(9, WINDOW_BITS_MAX);
        let Deflaters { by_bits, level, held_bytes, .. } = self;
        let deflater = by_bits[usize::from(bits)].get_or_insert_with(|| {
            let made = Box::new(Deflater::new(*level, bits, false));
            *held_bytes += made.held_bytes();
            made
        });
        deflater.frame(opcode, payload)
    }

    fn compress_frame(&mut self, window_bits: u8, frame: &Bytes) -> Option<Bytes> {
        self.compress(window_bits, opcode_of(frame), &server_frame_payload(frame))
    }
}

/// Text or binary, as the first byte of a whole server frame says.
pub(super) fn opcode_of(frame: &[u8]) -> Opcode {
    if frame.first().is_some_and(|b| b & 0x0f == 2) { Opcode::Binary } else { Opcode::Text }
}
