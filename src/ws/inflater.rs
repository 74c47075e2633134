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

/// Decompresses messages one by one. Nothing but the window of a client with context takeover outlives a message: without it one
/// inflater serves a whole shard; with it each connection has its own (or swaps windows: [`window`](Inflater::window)).
///
/// Its memory, about 40 KiB and the output, is allocated with the first compressed message.
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
        self.window = Window::default();
        self.window.push(window);
    }

    /// With context takeover: the last 32 KiB inflated, oldest first. Empty without.
    pub fn window(&self) -> Vec<u8> {
        let (older, newer) = self.window.halves();
        [older, newer].concat()
    }

    /// Bytes of memory held, as far as they vary: what counts against a budget.
    pub fn held_bytes(&self) -> usize {
        self.output.capacity() + self.window.bytes.capacity()
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

/// The last [`WINDOW_BYTES`] of a stream, as a ring.
#[derive(Default)]
struct Window {
    bytes: Vec<u8>,
    /// Where the oldest byte is, once the ring is full.
    oldest: usize,
}

impl Window {
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
