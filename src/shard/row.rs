//! What a shard knows of one connection. An idle connection is this row and nothing else: no task, no buffer, no timer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::error::CloseReason;
use crate::ids::{ConnectionId, ShardId};
use crate::protocol::hook::Greeting;
use crate::protocol::permission::Permissions;
use crate::shard::delivery::Manner;
use crate::shard::event::Handover;
use crate::shard::hooks::Asked;
use crate::shard::limiter::RateWindow;
use crate::ws::deflate::{DeflateParams, Deflater, Inflater};
use crate::ws::message::Decoder;

/// "None" where a row refers to an entry of a table by its index.
pub(super) const NONE: u32 = u32::MAX;

/// Where a connection is in its life. `idle` is not stored: it is `Active` without a recent message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// No connection in this row.
    Vacant,
    /// The upgrade request is being read.
    Connecting,
    /// Upgraded, no identity yet.
    Authenticating,
    /// Authenticated here, on its way to the home shard: waits until what was queued is sent.
    Moving,
    /// A session.
    Active,
    /// `/echo`.
    Echo,
    /// A close frame or an HTTP refusal is queued or sent; nothing is delivered any more.
    Closing,
}

impl State {
    pub(super) const COUNT: usize = State::Closing as usize + 1;
}

/// Why nothing is received from a connection; a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Paused(u8);

impl Paused {
    /// Its outbox is above the high mark.
    pub(super) const THROTTLED: Paused = Paused(1);
    /// What it sent waits at another shard.
    pub(super) const CREDIT: Paused = Paused(2);
    /// It is about to move to its home shard.
    pub(super) const MOVING: Paused = Paused(4);
    /// Its request is complete, and whether its address may connect is not known yet.
    pub(super) const ADDRESS: Paused = Paused(8);
    /// The shard is short of memory, and this connection holds much of it.
    pub(super) const PRESSURE: Paused = Paused(16);
    /// Its session begins when the cluster knows of its user.
    pub(super) const BUS: Paused = Paused(32);
    /// A service was asked about it, or about what it sent.
    pub(super) const ASKING: Paused = Paused(64);

    pub(super) fn any(self) -> bool {
        self.0 != 0
    }
    pub(super) fn contains(self, why: Paused) -> bool {
        self.0 & why.0 != 0
    }
    pub(super) fn insert(&mut self, why: Paused) {
        self.0 |= why.0;
    }
    pub(super) fn remove(&mut self, why: Paused) {
        self.0 &= !why.0;
    }
}

/// A connection's place in a topic: the topic's index in this shard, and where in its member list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) topic: u32,
    pub(super) position: u32,
}

/// What is held only until a connection is upgraded.
#[derive(Debug)]
pub(super) struct Opening {
    /// What has been received so far: the request, and a PROXY header in front of it.
    pub(super) head: Vec<u8>,
    /// The PROXY header in front of it.
    pub(super) proxy: Preface,
    /// When it was accepted, on the clock of [`Now::mono_us`](crate::time::Now::mono_us).
    pub(super) accepted_us: u64,
    /// What the home of its address says.
    pub(super) address: AddressVerdict,
    /// The process is full: refuse it.
    pub(super) over_capacity: bool,
}

/// The PROXY header of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preface {
    /// It must come first.
    Awaited,
    /// It had so many bytes; 0 where none is wanted.
    Taken(usize),
}

/// Whether this address may open another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressVerdict {
    /// Not asked yet.
    Unasked,
    /// Asked at another shard.
    Asked,
    /// Yes.
    Admitted,
    /// No: seconds to wait.
    Refused(u32),
}

/// Compression contexts that are kept between messages, where that was negotiated.
#[derive(Debug)]
pub(super) struct Contexts {
    pub(super) inflater: Inflater,
    pub(super) deflater: Deflater,
}

impl Contexts {
    fn held_bytes(&self) -> usize {
        // An inflater that has been used has tables and a window of its own, about 48 KiB.
        size_of::<Self>() + 48 * 1024 + self.inflater.held_bytes() + self.deflater.held_bytes()
    }
}

/// What a connection holds only at times; absent at rest.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// While the upgrade request is read.
    pub(super) opening: Option<Opening>,
    /// While it waits to be handed over.
    pub(super) moving: Option<(ShardId, Box<Handover>)>,
    /// With context takeover only.
    pub(super) contexts: Option<Box<Contexts>>,
    /// Until a service is asked who it is: what its request said.
    pub(super) greeting: Option<Box<Greeting>>,
    /// While a service is asked.
    pub(super) asked: Option<Box<Asked>>,
    /// What it sent behind what a service is asked about, as it came.
    pub(super) behind: Vec<u8>,
    /// Tenths of a second since the shard's start: told to go to another node, it is closed then.
    pub(super) moves_at_ds: Option<u32>,
    /// Messages that came before its session had begun: nothing comes before `auth:ok`.
    pub(super) withheld: Vec<(Bytes, Manner)>,
}

impl Extra {
    fn held_bytes(&self) -> usize {
        let opening = self.opening.as_ref().map_or(0, |opening| opening.head.capacity());
        let moving =
            self.moving.as_ref().map_or(0, |(_, state)| state.leftover.capacity() + state.inflate_window.capacity());
        let contexts = self.contexts.as_ref().map_or(0, |contexts| contexts.held_bytes());
        let greeting = self.greeting.as_ref().map_or(0, |greeting| greeting.bytes());
        let asked = self.asked.as_ref().map_or(0, |asked| asked.bytes());
        let withheld = self.withheld.iter().map(|(frame, _)| frame.len() + size_of::<(Bytes, Manner)>()).sum::<usize>();
        size_of::<Self>() + opening + moving + contexts + greeting + asked + self.behind.capacity() + withheld
    }

    fn is_empty(&self) -> bool {
        let Extra { opening, moving, contexts, greeting, asked, behind, moves_at_ds, withheld } = self;
        opening.is_none()
            && moving.is_none()
            && contexts.is_none()
            && greeting.is_none()
            && asked.is_none()
            && behind.is_empty()
            && moves_at_ds.is_none()
            && withheld.is_empty()
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) generation: u32,
    pub(super) state: State,
    pub(super) paused: Paused,
    /// Why it is closing.
    pub(super) reason: CloseReason,
    /// In a list of connections to flush.
    pub(super) dirty: bool,
    /// In the list of those that come second.
    pub(super) bulk: bool,
    /// The kernel took less than it was offered: wait until it is writable.
    pub(super) blocked: bool,
    /// The client asked for `batch` messages.
    pub(super) batch: bool,
    /// The client was sent here by another node.
    pub(super) moved: bool,
    /// The sub-protocol was negotiated by name.
    pub(super) protocol_named: bool,
    /// Close as soon as everything is sent: the peer's close frame is here, or none will come.
    pub(super) close_when_sent: bool,
    /// Send FIN once everything is sent, then read to the end (bounded) before closing.
    pub(super) fin_when_sent: bool,
    /// Nothing that arrives is looked at any more.
    pub(super) discard_input: bool,
    /// The peer's stream has ended.
    pub(super) ended: bool,
    /// A heartbeat ping went out since the last sign of life.
    pub(super) pinged: bool,
    /// Index of its user, or [`NONE`].
    pub(super) user: u32,
    /// Handle of its outbox, or [`NONE`].
    pub(super) outbox: u32,
    /// Tenths of a second since the shard's start: the last frame received.
    pub(super) last_receive_ds: u32,
    /// Tenths of a second since the shard's start: the last message of the application, either way.
    pub(super) last_message_ds: u32,
    /// Tenths of a second since the shard's start: throttled since then.
    pub(super) throttled_ds: u32,
    /// Bytes that the filters of its subscriptions take up.
    pub(super) filter_bytes: u32,
    /// [`Row::held_bytes`] as of the last time it was added up.
    pub(super) partial_bytes: u32,
    pub(super) port: u16,
    pub(super) deflate: Option<DeflateParams>,
    pub(super) ip: IpAddr,
    pub(super) rate: RateWindow,
    /// A message that is incomplete.
    pub(super) decoder: Option<Box<Decoder>>,
    pub(super) extra: Option<Box<Extra>>,
    pub(super) permissions: Option<Rc<Permissions>>,
    pub(super) user_agent: Option<Rc<str>>,
    pub(super) memberships: SmallVec<[Membership; 2]>,
    /// Unix time in seconds at which the session's token runs out; 0: never.
    pub(super) expires_unix_s: u64,
    pub(super) created_unix_ms: u64,
    pub(super) received_messages: u64,
    pub(super) received_bytes: u64,
    pub(super) sent_messages: u64,
    pub(super) sent_bytes: u64,
}

impl Row {
    /// Whether it is in a topic, by the topic's index on this shard.
    pub(super) fn is_in(&self, topic: u32) -> bool {
        self.memberships.iter().any(|membership| membership.topic == topic)
    }

    /// A row without a connection.
    pub(super) fn vacant() -> Self {
        Row {
            generation: 0,
            state: State::Vacant,
            paused: Paused::default(),
            reason: CloseReason::PeerGone,
            dirty: false,
            bulk: false,
            blocked: false,
            batch: false,
            moved: false,
            protocol_named: false,
            close_when_sent: false,
            fin_when_sent: false,
            discard_input: false,
            ended: false,
            pinged: false,
            user: NONE,
            outbox: NONE,
            last_receive_ds: 0,
            last_message_ds: 0,
            throttled_ds: 0,
            filter_bytes: 0,
            partial_bytes: 0,
            port: 0,
            deflate: None,
            ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            rate: RateWindow::default(),
            decoder: None,
            extra: None,
            permissions: None,
            user_agent: None,
            memberships: SmallVec::new(),
            expires_unix_s: 0,
            created_unix_ms: 0,
            received_messages: 0,
            received_bytes: 0,
            sent_messages: 0,
            sent_bytes: 0,
        }
    }

    /// A row for a connection from `peer`.
    pub(super) fn open(generation: u32, state: State, peer: SocketAddr, now_ds: u32) -> Self {
        Row {
            generation,
            state,
            ip: peer.ip(),
            port: peer.port(),
            last_receive_ds: now_ds,
            last_message_ds: now_ds,
            ..Row::vacant()
        }
    }

    pub(super) fn id(&self, shard: ShardId, slot: u32) -> ConnectionId {
        ConnectionId { shard, slot, generation: self.generation }
    }

    pub(super) fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Gives back what holds nothing.
    pub(super) fn tidy(&mut self) {
        if self.extra.as_ref().is_some_and(|extra| extra.is_empty()) {
            self.extra = None;
        }
    }

    /// When it is closed because its user belongs on another node.
    pub(super) fn moves_at_ds(&self) -> Option<u32> {
        self.extra.as_ref()?.moves_at_ds
    }

    pub(super) fn opening(&mut self) -> Option<&mut Opening> {
        self.extra.as_mut()?.opening.as_mut()
    }

    /// It takes too little of what it gets, or holds too much of what the shard has: for longer than the grace, that ends it.
    pub(super) fn is_behind(&self) -> bool {
        self.paused.contains(Paused::THROTTLED) || self.paused.contains(Paused::PRESSURE)
    }

    /// Memory it holds besides its outbox and the row itself, in bytes.
    #[inline]
    pub(super) fn held_bytes(&self) -> usize {
        let decoder = self.decoder.as_ref().map_or(0, |decoder| size_of::<Decoder>() + decoder.held_bytes());
        let extra = self.extra.as_ref().map_or(0, |extra| extra.held_bytes());
        decoder + extra + self.filter_bytes as usize
    }

    pub(super) fn contexts(&mut self) -> Option<&mut Contexts> {
        self.extra.as_mut()?.contexts.as_deref_mut()
    }

    /// Frames of this connection are made when they are sent, not when they are queued: the order of compression must be the order of sending.
    pub(super) fn late(&self) -> bool {
        self.batch || self.extra.as_ref().is_some_and(|e| e.contexts.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_stays_small() {
        assert!(size_of::<Row>() <= 256, "{} bytes", size_of::<Row>());
    }
}
