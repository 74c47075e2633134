//! What lies between a client and a shard, and between shards: byte pipes of bounded size, and queues that are slow or full at times.

use std::collections::VecDeque;

use ringgate::protocol::envelope::Envelope;

/// One direction of a socket.
#[derive(Debug, Default)]
pub struct Pipe {
    bytes: Vec<u8>,
    /// Nothing more will be written.
    pub fin: bool,
    capacity: usize,
}

impl Pipe {
    fn new(capacity: usize) -> Self {
        Pipe { bytes: Vec::new(), fin: false, capacity }
    }

    /// Bytes that can be read.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that can be written.
    pub fn room(&self) -> usize {
        if self.fin { 0 } else { self.capacity.saturating_sub(self.bytes.len()) }
    }

    /// Writes what fits, at most `most`, and says how much that was.
    pub fn write(&mut self, bytes: &[u8], most: usize) -> usize {
        let taken = bytes.len().min(most).min(self.room());
        self.bytes.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// Takes at most `most` bytes out.
    pub fn read(&mut self, most: usize) -> Vec<u8> {
        let taken = self.bytes.len().min(most);
        self.bytes.drain(..taken).collect()
    }

    /// What is on its way is lost.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// The reader has seen everything there will ever be.
    pub fn at_end(&self) -> bool {
        self.fin && self.bytes.is_empty()
    }
}

/// A connection between a client and the gateway.
#[derive(Debug)]
pub struct Socket {
    /// From the client.
    pub up: Pipe,
    /// To the client.
    pub down: Pipe,
    /// The connection is gone: both sides get errors.
    pub reset: bool,
    /// The gateway has closed its end.
    pub closed: bool,
}

impl Socket {
    pub fn new(up: usize, down: usize) -> Self {
        Socket { up: Pipe::new(up), down: Pipe::new(down), reset: false, closed: false }
    }
}

/// The queue of one pair of shards.
#[derive(Debug)]
pub struct Lane {
    queue: VecDeque<(u64, Envelope)>,
    pub capacity: usize,
    last_due: u64,
}

impl Lane {
    pub fn new(capacity: usize) -> Self {
        Lane { queue: VecDeque::new(), capacity, last_due: 0 }
    }

    pub fn is_full(&self) -> bool {
        self.queue.len() >= self.capacity
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Adds an envelope that arrives in turn `due`, or later: never before what was added before it.
    pub fn push(&mut self, envelope: Envelope, due: u64) {
        assert!(!self.is_full(), "the shard was told that there is no room");
        self.last_due = self.last_due.max(due);
        self.queue.push_back((self.last_due, envelope));
    }

    /// The next envelope, if it has arrived.
    pub fn pop(&mut self, turn: u64) -> Option<Envelope> {
        match self.queue.front() {
            Some((due, _)) if *due <= turn => self.queue.pop_front().map(|(_, envelope)| envelope),
            _ => None,
        }
    }
}
