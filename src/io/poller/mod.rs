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
    use crate::ids::ShardId;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::{AsFd, AsRawFd};
    use std::time::{Duration, Instant};

    const CONN: ConnectionId = ConnectionId { shard: ShardId(0), slot: 3, generation: 9 };

    #[test]
    fn tokens_say_what_they_stand_for() {
        assert_eq!(Token::source(3).subject(), Subject::Source(3));
        for (slot, generation) in [(0, 0), (u32::MAX, 5), (7, u32::MAX)] {
            let low = generation & ((1 << GENERATION_BITS) - 1);
            assert_eq!(Token::row(slot, generation).subject(), Subject::Row(slot, low));
        }
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, peer)
    }

    fn collect<P: Poller>(poller: &mut P) -> Vec<Readiness> {
        // A call into the kernel, so that whatever has happened is reported.
        std::thread::sleep(Duration::from_millis(1));
        let mut ready = Vec::new();
        poller.collect(&mut ready).unwrap();
        ready.into_iter().map(|ready| ready.readiness).collect()
    }

    fn collect_until<P: Poller>(poller: &mut P, what: &str, holds: impl Fn(&Readiness) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !collect(poller).iter().any(&holds) {
            assert!(Instant::now() < deadline, "never: {what}");
        }
    }

    fn send<P: Poller>(poller: &mut P, socket: &TcpStream, data: &[u8]) -> i32 {
        let mut batch = [Send { conn: CONN, fd: socket.as_raw_fd(), data: data.as_ptr(), len: data.len(), result: 0 }];
        // SAFETY: `data` outlives the call.
        unsafe { poller.send(&mut batch).unwrap() };
        batch[0].result
    }

    fn receive<P: Poller>(poller: &mut P, socket: &TcpStream) -> Result<Vec<u8>, i32> {
        let mut batch = [Receive { slot: 0, fd: socket.as_raw_fd(), result: 0 }];
        poller.receive(&mut batch).unwrap();
        let len = usize::try_from(batch[0].result).map_err(|_| -batch[0].result)?;
        Ok(poller.received(0, len).to_vec())
    }

    /// A short send is seen, and the writer hears of room once there is some, and not before.
    fn a_blocked_writer_is_woken_when_there_is_room<P: Poller>(mut poller: P) {
        let (ours, mut peer) = pair();
        rustix::net::sockopt::set_socket_send_buffer_size(&ours, 4096).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&peer, 64 * 1024).unwrap();
        poller.arm(Token::row(3, 9), ours.as_fd(), Interest::Stream).unwrap();
        collect_until(&mut poller, "room at the beginning", |r| r.write && !r.read);
        let data: Vec<u8> = (0..1_000_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
        let mut sent = 0;
        // The peer's kernel takes some more at first, after its delayed acknowledgements; then nothing moves.
        let mut quiet = Instant::now();
        while quiet.elapsed() < Duration::from_millis(300) {
            if sent == 0 || collect(&mut poller).iter().any(|r| r.write) {
                let n = send(&mut poller, &ours, &data[sent..]);
                assert!(n > 0 || n == -libc::EAGAIN, "{n}");
                sent += usize::try_from(n).unwrap_or(0);
                assert!(sent < data.len(), "a short send is no success");
                quiet = Instant::now();
            }
        }
        peer.write_all(b"x").unwrap();
        collect_until(&mut poller, "the byte", |r| r.read && !r.write);
        assert!(collect(&mut poller).iter().all(|r| !r.write), "there is no room yet");
        let mut got = vec![0; data.len()];
        let mut at = 0;
        while at < data.len() {
            at += peer.read(&mut got[at..]).unwrap();
            if at == sent && sent < data.len() {
                collect_until(&mut poller, "room", |r| r.write);
                sent += usize::try_from(send(&mut poller, &ours, &data[sent..])).expect("there is room");
            }
        }
        assert_eq!(got, data);
    }

    fn the_end_is_reported_after_the_last_bytes<P: Poller>(mut poller: P) {
        let (ours, mut peer) = pair();
        poller.arm(Token::row(3, 9), ours.as_fd(), Interest::Stream).unwrap();
        assert_eq!(receive(&mut poller, &ours), Err(libc::EAGAIN));
        peer.write_all(b"last").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        collect_until(&mut poller, "the end", |r| r.hangup);
        assert_eq!(receive(&mut poller, &ours), Ok(b"last".to_vec()));
        assert_eq!(receive(&mut poller, &ours), Ok(Vec::new()));
    }

    fn after_its_last_word_nothing_is_reported_and_the_socket_closes<P: Poller>(mut poller: P) {
        let (ours, mut peer) = pair();
        poller.arm(Token::row(3, 9), ours.as_fd(), Interest::Stream).unwrap();
        collect_until(&mut poller, "room at the beginning", |r| r.write);
        if poller.disarm(Token::row(3, 9), ours.as_fd()) == Disarmed::Later {
            collect_until(&mut poller, "the last word", |r| r.gone && !r.failed);
        }
        peer.write_all(b"x").unwrap();
        assert_eq!(collect(&mut poller), []);
        assert_eq!(receive(&mut poller, &ours), Ok(b"x".to_vec()), "what came meanwhile is still there");
        drop(ours);
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    }

    /// What the hand-over rests on: the new registration reports what is in the socket already.
    fn arming_reports_what_is_there<P: Poller>(mut poller: P) {
        let (ours, mut peer) = pair();
        peer.write_all(b"early").unwrap();
        poller.arm(Token::row(3, 9), ours.as_fd(), Interest::Stream).unwrap();
        collect_until(&mut poller, "the bytes", |r| r.read);
        assert_eq!(receive(&mut poller, &ours), Ok(b"early".to_vec()));
    }

    fn a_descriptor_is_reported_at_every_ring<P: Poller>(mut poller: P) {
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        poller.arm(Token::source(1), bell.as_fd(), Interest::Read).unwrap();
        assert_eq!(collect(&mut poller), []);
        for _ in 0..3 {
            rustix::io::write(&bell, &1u64.to_ne_bytes()).unwrap();
            collect_until(&mut poller, "the ring, though nobody reads the count", |r| r.read);
            assert_eq!(collect(&mut poller), []);
        }
    }

    macro_rules! for_both {
        ($($name:ident),* $(,)?) => {
            mod uring_poller {
                $(#[test]
                fn $name() {
                    // A machine where it is forbidden tests the other one.
                    let _ = super::super::uring::Uring::new().map(super::$name);
                })*
            }
            mod epoll_poller {
                $(#[test]
                fn $name() {
                    super::$name(super::super::epoll::Epoll::new().unwrap());
                })*
            }
        };
    }

    for_both!(
        a_blocked_writer_is_woken_when_there_is_room,
        the_end_is_reported_after_the_last_bytes,
        after_its_last_word_nothing_is_reported_and_the_socket_closes,
        arming_reports_what_is_there,
        a_descriptor_is_reported_at_every_ring,
    );
}
