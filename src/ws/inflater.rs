//! Decompression of messages (RFC 7692, section 7.2.2), with bounded output.

use std::collections::TryReserveError;
use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};

use super::close::Failure;
use super::deflate::{DeflateParams, WINDOW_BITS_MAX};

/// What the sender has cut from the end of each message's last block.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// An empty last block. It ends the stream exactly if all before it was whole blocks, up to a byte's boundary: how a message that was
/// cut short is told from a whole one.
const LAST_BLOCK: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];
/// Bytes that a sender's LZ77 window can reach back.
const WINDOW_BYTES: usize = 1 << WINDOW_BITS_MAX;
/// Output that is made room for at first.
const OUTPUT_BYTES_MIN: usize = 4 * 1024;
/// Output that is kept between messages.
const OUTPUT_BYTES_KEPT_MAX: usize = 64 * 1024;

/// Decompresses messages one by one. Nothing but the window of a client with context takeover outlives a message: without takeover one
/// inflater serves a whole shard; with it each connection has its own, or only its own [`Window`], which is lent to the shard's inflater
/// for the time of a call ([`swap_window`](Inflater::swap_window)).
///
/// Its memory, about 45 KiB and the output, is allocated with the first compressed message.
#[derive(Default)]
pub struct Inflater {
    stream: Option<Decompress>,
    /// Initialised room for output; the message is at its front.
    output: Vec<u8>,
    window: Window,
}

impl Inflater {
    /// An inflater that has seen nothing and holds nothing.
    pub fn new() -> Self {
        Inflater::default()
    }

    /// Goes on from what another inflater's [`window`](Inflater::window) was.
    pub fn set_window(&mut self, window: &[u8]) {
        self.window = Window::new(window);
    }

    /// With context takeover: the last 32 KiB inflated, oldest first. Empty without.
    pub fn window(&self) -> Vec<u8> {
        self.window.to_vec()
    }

    /// Exchanges the window: for one inflater that serves many connections with context takeover in turn.
    pub fn swap_window(&mut self, window: &mut Window) {
        std::mem::swap(&mut self.window, window);
    }

    /// Bytes of memory held, as far as they vary: what counts against a budget.
    pub fn held_bytes(&self) -> usize {
        self.output.capacity() + self.window.held_bytes()
    }

    /// Inflates one whole message, as received: without its tail.
    ///
    /// # Errors
    ///
    /// 1009 as soon as it inflates to more than `max` bytes; 1007 where it is not deflated data, or not all of it.
    pub(crate) fn inflate(&mut self, params: &DeflateParams, message: &[u8], max: usize) -> Result<&[u8], Failure> {
        if self.output.capacity() > OUTPUT_BYTES_KEPT_MAX {
            self.output = Vec::new();
        }
        if message.is_empty() {
            // Not even a block: zlib's sync flush of nothing right after another one, which clients send for an empty message.
            return Ok(&[]);
        }
        let takeover = !params.client_no_context_takeover;
        let stream = match &mut self.stream {
            Some(stream) => {
                stream.reset(false);
                stream
            }
            none => none.insert(Decompress::new(false)),
        };
        if takeover {
            let (older, newer) = self.window.halves();
            for half in [older, newer] {
                if !half.is_empty() {
                    stream.set_dictionary(half).map_err(|_| Failure::invalid("lost compression context"))?;
                }
            }
        }
        let mut run = Run { stream, output: &mut self.output, produced: 0, max, ended: false };
        run.feed(message)?;
        // A message may end with a last block (BFINAL) and without the empty block that should follow it: then it has no tail either.
        if !run.ended {
            let produced = run.produced;
            run.feed(&TAIL)?;
            run.feed(&LAST_BLOCK)?;
            if !run.ended || run.produced != produced {
                return Err(Failure::invalid("compressed message is not complete"));
            }
        }
        let produced = run.produced;
        let message = &self.output[..produced];
        if takeover {
            self.window.push(message);
        }
        Ok(message)
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").field("held_bytes", &self.held_bytes()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("len", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// One message on its way.
struct Run<'a> {
    stream: &'a mut Decompress,
    output: &'a mut Vec<u8>,
    produced: usize,
    max: usize,
    /// The input ended exactly with a last block.
    ended: bool,
}

impl Run<'_> {
    fn feed(&mut self, mut input: &[u8]) -> Result<(), Failure> {
        while !input.is_empty() || self.produced == self.output.len() {
            if self.ended {
                // Blocks after a last one (RFC 7692, section 7.2.3.4) are a new stream, on a byte's boundary.
                self.stream.reset(false);
                self.ended = false;
            }
            if self.produced == self.output.len() {
                self.grow(input.len())?;
            }
            let (read, written) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(input, &mut self.output[self.produced..], FlushDecompress::None)
                .map_err(|_| Failure::invalid("compressed data is corrupt"))?;
            let read = (self.stream.total_in() - read) as usize;
            let written = (self.stream.total_out() - written) as usize;
            input = &input[read..];
            self.produced += written;
            if self.produced > self.max {
                return Err(Failure::too_large());
            }
            self.ended = status == Status::StreamEnd;
            if self.ended && input.is_empty() {
                return Ok(());
            }
            if !self.ended && read == 0 && written == 0 {
                if input.is_empty() {
                    return Ok(());
                }
                return Err(Failure::invalid("compressed data is corrupt"));
            }
        }
        Ok(())
    }

    /// Makes room for more output: as much again, and never more than one byte over the limit.
    fn grow(&mut self, input: usize) -> Result<(), Failure> {
        let most = self.max.saturating_add(1);
        let more = self.output.len().max(OUTPUT_BYTES_MIN).max(input.saturating_mul(2));
        let len = self.output.len().saturating_add(more).min(most).max(self.produced + 1);
        let reserved: Result<(), TryReserveError> = self.output.try_reserve_exact(len - self.output.len());
        reserved.map_err(|_| Failure::too_large())?;
        self.output.resize(len, 0);
        Ok(())
    }
}

/// The last 32 KiB of what a client with context takeover has sent, inflated: what its next message may refer to. Grows as they come.
#[derive(Clone, Default)]
pub struct Window {
    bytes: Vec<u8>,
    /// Where the oldest byte is, once the ring is full.
    oldest: usize,
}

impl Window {
    /// A window that ends with these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        let mut window = Window::default();
        window.push(bytes);
        window
    }

    /// Its bytes, oldest first.
    pub fn to_vec(&self) -> Vec<u8> {
        let (older, newer) = self.halves();
        [older, newer].concat()
    }

    /// Capacity held, in bytes: what counts against a budget.
    pub fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    fn push(&mut self, data: &[u8]) {
        let data = &data[data.len().saturating_sub(WINDOW_BYTES)..];
        let (grow, wrap) = data.split_at(data.len().min(WINDOW_BYTES - self.bytes.len()));
        self.bytes.extend_from_slice(grow);
        if wrap.is_empty() {
            return;
        }
        let (end, start) = wrap.split_at(wrap.len().min(WINDOW_BYTES - self.oldest));
        self.bytes[self.oldest..self.oldest + end.len()].copy_from_slice(end);
        self.bytes[..start.len()].copy_from_slice(start);
        self.oldest = (self.oldest + wrap.len()) % WINDOW_BYTES;
    }

    /// The older and the newer part.
    fn halves(&self) -> (&[u8], &[u8]) {
        let (newer, older) = self.bytes.split_at(self.oldest);
        (older, newer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CloseReason;
    use crate::ws::deflate::Deflater;
    use crate::ws::frame::{Opcode, server_frame_payload};
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    const MAX: usize = 1 << 20;

    fn params(fresh: bool) -> DeflateParams {
        DeflateParams {
            server_no_context_takeover: fresh,
            client_no_context_takeover: fresh,
            server_max_window_bits: 15,
            client_max_window_bits: 15,
        }
    }

    fn once(message: &[u8], max: usize) -> Result<Vec<u8>, CloseReason> {
        Inflater::new().inflate(&params(true), message, max).map(<[u8]>::to_vec).map_err(|f| f.reason)
    }

    fn deflate(data: &[u8], flush: FlushCompress) -> Vec<u8> {
        let mut stream = Compress::new(Compression::new(6), false);
        let mut out = Vec::with_capacity(data.len() * 2 + 64);
        stream.compress_vec(data, &mut out, flush).unwrap();
        out
    }

    type Expected = Result<Vec<u8>, CloseReason>;

    #[test]
    fn examples_of_rfc_7692() {
        let hello = b"Hello".to_vec();
        let table: [(&str, &[u8], Expected); 14] = [
            ("7.2.3.1: one block", b"\xf2\x48\xcd\xc9\xc9\x07\x00", Ok(hello.clone())),
            ("7.2.3.3: no compression", b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", Ok(hello.clone())),
            ("7.2.3.4: BFINAL", b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", Ok(hello.clone())),
            ("BFINAL and nothing after it", b"\xf3\x48\xcd\xc9\xc9\x07\x00", Ok(hello.clone())),
            ("7.2.3.5: two blocks", b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", Ok(hello)),
            (
                "two streams with BFINAL",
                b"\xf3\x48\xcd\xc9\xc9\x07\x00\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
                Ok(b"HelloHello".to_vec()),
            ),
            ("7.2.3.6: empty", b"\x00", Ok(Vec::new())),
            ("no bytes at all", b"", Ok(Vec::new())),
            ("empty fixed block", b"\x02\x00", Ok(Vec::new())),
            ("cut short", b"\xf2\x48\xcd\xc9", Err(CloseReason::InvalidData)),
            ("without its empty block", b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f", Err(CloseReason::InvalidData)),
            (
                "stored block that would swallow the tail",
                b"\x00\x09\x00\xf6\xff\x48\x65\x6c\x6c\x6f",
                Err(CloseReason::InvalidData),
            ),
            ("reserved block type", b"\x06\x00", Err(CloseReason::InvalidData)),
            ("reaches back before the beginning", b"\xf2\x00\x11\x00\x00", Err(CloseReason::InvalidData)),
        ];
        for (what, message, expect) in table {
            assert_eq!(once(message, MAX), expect, "{what}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = deflate(&vec![0; 8 << 20], FlushCompress::Sync);
        let bomb = bomb.strip_suffix(&TAIL).unwrap();
        let mut inflater = Inflater::new();
        for max in [1, 100, OUTPUT_BYTES_MIN, 65_536, (8 << 20) - 1] {
            assert_eq!(inflater.inflate(&params(true), bomb, max), Err(Failure::too_large()), "{max}");
            assert!(inflater.held_bytes() <= (max + 1).max(OUTPUT_BYTES_MIN), "{max}: {}", inflater.held_bytes());
        }
        assert_eq!(inflater.inflate(&params(true), bomb, 8 << 20).map(<[u8]>::len), Ok(8 << 20));
        assert_eq!(inflater.inflate(&params(true), b"\x00", 0), Ok(&[][..]));
        assert!(inflater.held_bytes() <= OUTPUT_BYTES_KEPT_MAX, "what has grown is freed");
        assert_eq!(inflater.inflate(&params(true), b"\xf2\x48\xcd\xc9\xc9\x07\x00", 4), Err(Failure::too_large()));
        assert_eq!(inflater.inflate(&params(true), b"\xf2\x48\xcd\xc9\xc9\x07\x00", 5), Ok(&b"Hello"[..]));
    }

    #[test]
    fn many_last_blocks_cost_little() {
        let message = [b"\x03\x00".repeat(100_000), vec![0]].concat();
        assert_eq!(once(&message, MAX), Ok(Vec::new()));
    }

    #[test]
    fn a_bad_message_does_not_spoil_the_next_one() {
        let mut inflater = Inflater::new();
        for bad in [&b"\x06"[..], b"\xf2\x48", b"\xff\xff\xff"] {
            assert!(inflater.inflate(&params(true), bad, MAX).is_err());
            assert_eq!(inflater.inflate(&params(true), b"\xf2\x48\xcd\xc9\xc9\x07\x00", MAX), Ok(&b"Hello"[..]));
        }
    }

    /// Messages that refer to each other, in random sizes.
    fn messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let message = (0..40_000usize, any::<u8>(), 1..2000usize).prop_map(|(len, seed, period)| {
            (0..len).map(|i| ((i % period) * 7 + usize::from(seed)) as u8 ^ (i / 4096) as u8).collect()
        });
        prop::collection::vec(message, 1..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn round_trips(messages in messages(), level in 1..=9u32, bits in 9..=15u8, takeover: bool) {
            let mut deflater = Deflater::new(level, bits, takeover);
            let mut inflater = Inflater::new();
            let (mut shared, mut lent) = (Inflater::new(), Window::default());
            for message in &messages {
                let Some(frame) = deflater.frame(Opcode::Binary, message) else {
                    prop_assert!(!takeover);
                    continue;
                };
                prop_assert_eq!(frame[0], 0xc2);
                let payload = server_frame_payload(&frame);
                prop_assert_eq!(inflater.inflate(&params(!takeover), &payload, MAX).unwrap(), &message[..]);
                shared.swap_window(&mut lent);
                prop_assert_eq!(shared.inflate(&params(!takeover), &payload, MAX).unwrap(), &message[..]);
                shared.swap_window(&mut lent);
                prop_assert_eq!(shared.inflate(&params(false), b"\xca\xc9\xc9\x07\x00", MAX).ok(), Some(&b"llo"[..]));
                shared.set_window(&[]);
                // The client hands its window over after each message.
                let mut next = Inflater::new();
                next.set_window(&inflater.window());
                prop_assert_eq!(next.window(), inflater.window());
                inflater = next;
            }
        }

        #[test]
        fn the_window_is_the_last_32_kib(pieces in prop::collection::vec(0..80_000usize, 0..12)) {
            let (mut window, mut all) = (Window::default(), Vec::new());
            for (i, len) in pieces.into_iter().enumerate() {
                let piece: Vec<u8> = (0..len).map(|j| (i * 41 + j * 3) as u8).collect();
                window.push(&piece);
                all.extend_from_slice(&piece);
                prop_assert_eq!(window.to_vec(), &all[all.len().saturating_sub(WINDOW_BYTES)..]);
            }
        }

        #[test]
        fn never_panics_nor_exceeds(message: Vec<u8>, max in 0..100_000usize) {
            if let Ok(out) = once(&message, max) {
                prop_assert!(out.len() <= max);
            }
        }
    }
}
