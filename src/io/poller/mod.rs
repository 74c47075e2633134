//! Readiness, receives and sends for all descriptors of one shard, by io_uring or by epoll, behind one small trait.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

mod arena;
pub mod epoll;
pub mod uring;

use crate::ids::ConnectionId;

/// Receives in one batch.
pub const RECEIVE_BATCH: usize = 128;
/// Sends in one batch.
pub const SEND_BATCH: usize = 256;

/// What a registration is known by: the row and its generation, or one of the shard's own descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(u64);

/// What a [`Token`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A connection; of its generation only the low [`GENERATION_BITS`] are known.
    Row(u32, u32),
    /// One of the shard's own descriptors.
    Source(u32),
}

/// Bits of a row's generation that a token carries: the other four name the kind of operation.
pub const GENERATION_BITS: u32 = 28;
const KIND_SHIFT: u32 = 60;
const KIND_SOURCE: u64 = 1;

impl Token {
    /// The token of a connection.
    pub fn row(slot: u32, generation: u32) -> Self {
        Token(u64::from(generation & ((1 << GENERATION_BITS) - 1)) << 32 | u64::from(slot))
    }

    /// The token of one of the shard's own descriptors.
    pub const fn source(number: u32) -> Self {
        Token(KIND_SOURCE << KIND_SHIFT | number as u64)
    }

    /// What it stands for.
    pub fn subject(self) -> Subject {
        match self.0 >> KIND_SHIFT {
            KIND_SOURCE => Subject::Source(self.0 as u32),
            _ => Subject::Row(self.0 as u32, (self.0 >> 32) as u32 & ((1 << GENERATION_BITS) - 1)),
        }
    }
}

/// What a descriptor is registered for. Every registration reports edges, and once at the beginning what is the case already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something to read or accept.
    Read,
    /// A stream: something to read, room to write after there was none, the end.
    Stream,
}

/// What has become of a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There may be something to read.
    pub read: bool,
    /// There is room to write.
    pub write: bool,
    /// The peer has finished sending, or the connection failed: read to the end.
    pub hangup: bool,
    /// The registration is over: nothing more will be reported for it.
    pub gone: bool,
    /// It is over because it could not be made.
    pub failed: bool,
}

/// One report.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Of which registration.
    pub token: Token,
    /// What.
    pub readiness: Readiness,
}

/// Whether a registration ended at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disarmed {
    /// Nothing more will be reported.
    Now,
    /// A report with [`Readiness::gone`] will be the last.
    Later,
}

/// One receive of a batch, into the slice of the same index.
#[derive(Clone, Copy, Debug)]
pub struct Receive {
    /// The row.
    pub slot: u32,
    /// Its socket.
    pub fd: RawFd,
    /// Bytes, 0 at the end of the stream, or `-errno`.
    pub result: i32,
}

/// One send of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Send {
    /// Whose.
    pub conn: ConnectionId,
    /// Its socket.
    pub fd: RawFd,
    /// The bytes. They must stay where they are until the batch is done.
    pub data: *const u8,
    /// How many.
    pub len: usize,
    /// Bytes taken, or `-errno`.
    pub result: i32,
}

/// The two ways to do it. Nothing is in the kernel's hands between two calls but the registrations.
pub trait Poller: Sized {
    /// What becomes readable when [`Poller::collect`] has something: a duplicate, for the runtime to wait on.
    ///
    /// # Errors
    ///
    /// When there is no descriptor left.
    fn wait_fd(&self) -> io::Result<OwnedFd>;

    /// Registers a descriptor.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn arm(&mut self, token: Token, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()>;

    /// Ends a registration.
    fn disarm(&mut self, token: Token, fd: BorrowedFd<'_>) -> Disarmed;

    /// Hands to the kernel what [`Poller::arm`] and [`Poller::disarm`] have queued. Before a socket is closed this must have happened.
    ///
    /// # Errors
    ///
    /// When the poller itself is broken: the shard cannot go on.
    fn submit(&mut self) -> io::Result<()>;

    /// Appends what is reported by now; never waits.
    ///
    /// # Errors
    ///
    /// When the poller itself is broken: the shard cannot go on.
    fn collect(&mut self, ready: &mut Vec<Ready>) -> io::Result<()>;

    /// Whether [`Poller::collect`] would find something that does not make the descriptor of [`Poller::wait_fd`] readable any more.
    fn has_collected(&self) -> bool;

    /// One receive each of at most [`RECEIVE_BATCH`] sockets, without waiting.
    ///
    /// # Errors
    ///
    /// When the poller itself is broken: the shard cannot go on.
    fn receive(&mut self, batch: &mut [Receive]) -> io::Result<()>;

    /// The bytes of the `index`th receive of the last batch.
    fn received(&mut self, index: usize, len: usize) -> &mut [u8];

    /// One send each to at most [`SEND_BATCH`] sockets, without waiting.
    ///
    /// # Errors
    ///
    /// When the poller itself is broken: the shard cannot go on.
    ///
    /// # Safety
    ///
    /// `data` of each must be readable for `len` bytes until the call returns.
    unsafe fn send(&mut self, batch: &mut [Send]) -> io::Result<()>;

    /// Times that the completion queue had overflown.
    fn overflows(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_say_what_they_stand_for() {
        assert_eq!(Token::source(3).subject(), Subject::Source(3));
        for (slot, generation) in [(0, 0), (u32::MAX, 5), (7, u32::MAX)] {
            let low = generation & ((1 << GENERATION_BITS) - 1);
            assert_eq!(Token::row(slot, generation).subject(), Subject::Row(slot, low));
        }
    }
}
