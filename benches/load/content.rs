//! What the messages carry, so that every delivery can be checked: who sent it, to whom, as which of how many, and when
//! it was meant to be sent.

use memchr::memmem;

/// Bytes of an encoded [`Mark`]: the smallest content there is.
pub(crate) const MARK_LEN: usize = 44;
const MAGIC: &[u8] = b"rg1";

/// The flow a message belongs to: each has its own targets and its own sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Echo,
    Room,
    Pair,
    Broadcast,
    /// As a pair, but of users on two nodes of a cluster.
    Hop,
}

impl Flow {
    pub(crate) const ALL: [Flow; 5] = [Flow::Echo, Flow::Room, Flow::Pair, Flow::Broadcast, Flow::Hop];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Flow::Echo => "echo",
            Flow::Room => "room",
            Flow::Pair => "p2p",
            Flow::Broadcast => "broadcast",
            Flow::Hop => "hop",
        }
    }

    fn letter(self) -> u8 {
        match self {
            Flow::Echo => b'E',
            Flow::Room => b'R',
            Flow::Pair => b'P',
            Flow::Broadcast => b'B',
            Flow::Hop => b'H',
        }
    }
}

/// The checked part of a message. Fixed width, plain ASCII: it stands in a JSON string as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) flow: Flow,
    /// Index of the sending connection.
    pub(crate) sender: u32,
    /// Index of the room or of the receiving connection.
    pub(crate) target: u32,
    /// Counts the messages of one sender to one target from 0.
    pub(crate) seq: u32,
    /// When it should have been sent, in nanoseconds since the start of the run.
    pub(crate) at: u64,
}

impl Mark {
    pub(crate) fn encode(&self) -> [u8; MARK_LEN] {
        let mut out = [0; MARK_LEN];
        out[..3].copy_from_slice(MAGIC);
        out[3] = self.flow.letter();
        hex(&mut out[4..12], self.sender.into());
        hex(&mut out[12..20], self.target.into());
        hex(&mut out[20..28], self.seq.into());
        hex(&mut out[28..44], self.at);
        out
    }

    /// Decodes the mark at the front of `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Mark> {
        let bytes = bytes.get(..MARK_LEN)?;
        if &bytes[..3] != MAGIC {
            return None;
        }
        let flow = Flow::ALL.into_iter().find(|flow| flow.letter() == bytes[3])?;
        Some(Mark {
            flow,
            sender: unhex(&bytes[4..12])? as u32,
            target: unhex(&bytes[12..20])? as u32,
            seq: unhex(&bytes[20..28])? as u32,
            at: unhex(&bytes[28..44])?,
        })
    }
}

/// Where the mark is in a message. Messages of one kind have it at the same place, so the last place is tried first.
pub(crate) struct Locator {
    finder: memmem::Finder<'static>,
    last: usize,
}

impl Locator {
    pub(crate) fn new() -> Locator {
        Locator { finder: memmem::Finder::new(MAGIC), last: 0 }
    }

    pub(crate) fn find(&mut self, payload: &[u8]) -> Option<usize> {
        if payload.get(self.last..self.last + MAGIC.len()) == Some(MAGIC) {
            return Some(self.last);
        }
        self.last = self.finder.find(payload)?;
        Some(self.last)
    }
}

/// What fills a message up to its size.
pub(crate) fn filler(len: usize) -> Vec<u8> {
    b"abcdefghijklmnopqrstuvwxyz 0123456789".iter().copied().cycle().take(len).collect()
}

/// What one receiver has seen of one sender's sequence.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stream {
    next: u32,
    /// Bit `k`: number `next - 1 - k` has arrived.
    seen: u64,
}

/// How a message arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    InOrder,
    /// After a later one of the same stream.
    Late,
    Duplicate,
}

impl Stream {
    pub(crate) fn arrive(&mut self, seq: u32) -> Arrival {
        if seq >= self.next {
            let shift = seq - self.next + 1;
            self.seen = if shift < 64 { self.seen << shift | 1 } else { 1 };
            self.next = seq + 1;
            return Arrival::InOrder;
        }
        let back = self.next - 1 - seq;
        if back >= 64 || self.seen >> back & 1 == 1 {
            return Arrival::Duplicate;
        }
        self.seen |= 1 << back;
        Arrival::Late
    }
}

fn hex(out: &mut [u8], mut value: u64) {
    for byte in out.iter_mut().rev() {
        *byte = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

fn unhex(digits: &[u8]) -> Option<u64> {
    let mut value = 0;
    for &digit in digits {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u64::from(nibble);
    }
    Some(value)
}
