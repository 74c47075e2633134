//! How a socket moves to another shard: one message with its state and its descriptor (SCM_RIGHTS) over a SOCK_SEQPACKET socket pair.
//!
//! There is one pair per destination, and all the others write to the same end of it. It is right in both settings of
//! `shards.fd_tables`: what arrives is a new number in the table of the receiver.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};

use crate::ids::ShardId;
use crate::shard::event::Handover;

/// Bytes of one message: 64 KiB of unread input, a 32 KiB inflate window, and claims, with room to spare. A socket pair of the default
/// size takes it; 256 KiB would be EMSGSIZE.
pub const HANDOFF_BYTES_MAX: usize = 160 * 1024;
/// Connections that wait on one shard because a destination takes no more for the moment.
pub const HANDOFF_PENDING_MAX: usize = 1024;
/// What the socket pairs ask the kernel for, so that a burst passes without waiting.
const SOCKET_BYTES: usize = 1024 * 1024;

const _: () = assert!(crate::limits::HANDOVER_LEFTOVER_BYTES_MAX + 64 * 1024 < HANDOFF_BYTES_MAX);

/// The two ends of every destination's socket pair.
#[derive(Debug)]
pub struct Handoffs {
    senders: Arc<[OwnedFd]>,
    receivers: Vec<OwnedFd>,
}

/// Makes one socket pair per shard.
///
/// # Errors
///
/// When the kernel gives no more descriptors.
pub fn build(shards: usize) -> io::Result<Handoffs> {
    let mut senders = Vec::with_capacity(shards);
    let mut receivers = Vec::with_capacity(shards);
    for _ in 0..shards {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (sender, receiver) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        sockopt::set_socket_send_buffer_size(&sender, SOCKET_BYTES)?;
        senders.push(sender);
        receivers.push(receiver);
    }
    Ok(Handoffs { senders: senders.into(), receivers })
}

impl Handoffs {
    /// One port per shard, in their order.
    pub fn into_ports(self) -> Vec<HandoffPort> {
        let senders = self.senders;
        let port = |(i, receiver)| HandoffPort {
            id: ShardId(i as u16),
            senders: senders.clone(),
            receiver,
            pending: VecDeque::new(),
            buffer: vec![0; HANDOFF_BYTES_MAX],
        };
        self.receivers.into_iter().enumerate().map(port).collect()
    }
}

/// What became of a connection that was to move.
#[derive(Debug)]
pub enum Sent {
    /// It is on its way.
    Away,
    /// The destination takes no more for the moment; it waits here, and [`HandoffPort::retry`] goes on.
    Waiting,
    /// It cannot move, for this reason. The socket comes back to be closed.
    Refused(OwnedFd, Errno),
}

/// What arrived.
#[derive(Debug)]
pub enum Arrival {
    /// A connection.
    Connection(OwnedFd, Box<Handover>),
    /// A message without its socket (MSG_CTRUNC: the table was full) or without a readable state: that connection is lost.
    Lost,
}

#[derive(Debug)]
struct Waiting {
    to: ShardId,
    message: Vec<u8>,
    socket: OwnedFd,
}

/// One shard's end of all hand-overs.
#[derive(Debug)]
pub struct HandoffPort {
    id: ShardId,
    senders: Arc<[OwnedFd]>,
    receiver: OwnedFd,
    pending: VecDeque<Waiting>,
    buffer: Vec<u8>,
}

impl HandoffPort {
    /// Moves `socket` with its `state` to `to`. The local descriptor is closed once the message is on its way.
    pub fn send(&mut self, to: ShardId, state: &Handover, socket: OwnedFd) -> Sent {
        debug_assert_ne!(to, self.id, "a connection is not handed to its own shard");
        let message = match postcard::to_allocvec(state) {
            Ok(message) if message.len() <= HANDOFF_BYTES_MAX => message,
            Ok(_) | Err(_) => return Sent::Refused(socket, Errno::MSGSIZE),
        };
        if self.pending.iter().any(|waiting| waiting.to == to) {
            return self.park(Waiting { to, message, socket });
        }
        match self.send_now(to, &message, socket.as_fd()) {
            Ok(()) => Sent::Away,
            Err(e) if is_full(e) => self.park(Waiting { to, message, socket }),
            Err(e) => Sent::Refused(socket, e),
        }
    }

    /// Tries those that wait again, first come first served per destination; `lost` gets what cannot move at all.
    pub fn retry(&mut self, mut lost: impl FnMut(OwnedFd, Errno)) {
        let mut full: Vec<ShardId> = Vec::new();
        for _ in 0..self.pending.len() {
            let Some(waiting) = self.pending.pop_front() else { return };
            if full.contains(&waiting.to) {
                self.pending.push_back(waiting);
                continue;
            }
            match self.send_now(waiting.to, &waiting.message, waiting.socket.as_fd()) {
                Ok(()) => {}
                Err(e) if is_full(e) => {
                    full.push(waiting.to);
                    self.pending.push_back(waiting);
                }
                Err(e) => lost(waiting.socket, e),
            }
        }
    }

    /// Destinations that connections wait for.
    pub fn waiting_for(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.pending.iter().map(|waiting| waiting.to)
    }

    /// Connections that wait.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Takes the next arrival; `None` when there is none.
    pub fn receive(&mut self) -> Option<Arrival> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = loop {
            let mut slices = [IoSliceMut::new(&mut self.buffer)];
            match recvmsg(&self.receiver, &mut slices, &mut control, flags) {
                Ok(received) if received.bytes == 0 => return None,
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        };
        let mut socket = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                socket = socket.or(descriptors.last());
            }
        }
        if received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
            return Some(Arrival::Lost);
        }
        let state = self.buffer.get(..received.bytes).map(postcard::from_bytes::<Box<Handover>>);
        match (socket, state) {
            (Some(socket), Some(Ok(state))) => Some(Arrival::Connection(socket, state)),
            _ => Some(Arrival::Lost),
        }
    }

    /// What becomes readable when a connection arrives.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }

    fn park(&mut self, waiting: Waiting) -> Sent {
        if self.pending.len() >= HANDOFF_PENDING_MAX {
            return Sent::Refused(waiting.socket, Errno::AGAIN);
        }
        self.pending.push_back(waiting);
        Sent::Waiting
    }

    fn send_now(&self, to: ShardId, message: &[u8], socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let sender = self.senders.get(to.index()).ok_or(Errno::INVAL)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [socket];
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Errno::NOBUFS);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match sendmsg(sender, &[IoSlice::new(message)], &mut control, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// The socket pair is full, or too many descriptors are on their way (`ETOOMANYREFS`): later it will go.
fn is_full(e: Errno) -> bool {
    matches!(e, Errno::AGAIN | Errno::TOOMANYREFS | Errno::NOBUFS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Claims;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn state(leftover: usize) -> Handover {
        let claims = serde_claims();
        Handover {
            peer: ([127, 0, 0, 1], 9).into(),
            user_agent: Some("test".into()),
            protocol_named: true,
            batch: false,
            moved: false,
            deflate: None,
            inflate_window: Vec::new(),
            claims,
            auth_request_id: None,
            created_unix_ms: 7,
            received_messages: 1,
            received_bytes: 2,
            leftover: vec![0x5a; leftover],
        }
    }

    /// Claims by their serialised form, so that a new field with a default does not break this test.
    fn serde_claims() -> Claims {
        let json = serde_json::json!({"user": "u", "expires_unix_s": null, "permissions": null, "rooms": []});
        serde_json::from_value(json).unwrap()
    }

    fn connected() -> (TcpStream, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0.into())
    }

    #[test]
    fn state_and_socket_arrive_whole_with_the_most_leftover() {
        let mut ports = build(2).unwrap().into_ports();
        let mut b = ports.pop().unwrap();
        let mut a = ports.pop().unwrap();
        let (mut client, server) = connected();
        let most = crate::limits::HANDOVER_LEFTOVER_BYTES_MAX;
        assert!(matches!(a.send(ShardId(1), &state(most), server), Sent::Away));
        let Some(Arrival::Connection(socket, state)) = b.receive() else { panic!("nothing arrived") };
        assert_eq!((state.leftover.len(), state.created_unix_ms, &*state.claims.user), (most, 7, "u"));
        TcpStream::from(socket).write_all(b"hello").unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello", "and the sender's descriptor is closed");
        assert!(b.receive().is_none());
    }

    #[test]
    fn a_full_socket_pair_parks_in_order_and_bounded() {
        let mut ports = build(2).unwrap().into_ports();
        let mut b = ports.pop().unwrap();
        let mut a = ports.pop().unwrap();
        let (_client, server) = connected();
        let copy = || server.try_clone().unwrap();
        let numbered = |n: u64| Handover { created_unix_ms: n, ..state(60_000) };
        let mut sent = 0;
        while matches!(a.send(ShardId(1), &numbered(sent), copy()), Sent::Away) {
            sent += 1;
            assert!(sent < 1000, "a socket pair without end");
        }
        for n in sent + 1..sent + 5 {
            assert!(matches!(a.send(ShardId(1), &numbered(n), copy()), Sent::Waiting));
        }
        assert_eq!(a.pending(), 5);
        let mut expected = 0;
        while expected < sent + 5 {
            while let Some(Arrival::Connection(_, state)) = b.receive() {
                assert_eq!(state.created_unix_ms, expected);
                expected += 1;
            }
            a.retry(|_, e| panic!("{e}"));
        }
        assert_eq!(a.pending(), 0);
    }
}
