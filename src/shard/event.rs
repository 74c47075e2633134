//! What happens to a shard, and what it asks its driver to do: the whole surface between the state machine and `io/`.
//!
//! The driver owns sockets, the rows' numbers and the clock; the [`Shard`](super::Shard) owns every decision. One turn of the driver:
//!
//! 1. feed what happened: [`Shard::handle`](super::Shard::handle) once per [`Event`];
//! 2. carry out every [`Action`] of [`Shard::next_action`](super::Shard::next_action);
//! 3. flush: for each [`Shard::next_dirty`](super::Shard::next_dirty), [`Shard::gather`](super::Shard::gather) bytes, send them, and tell
//!    how many went by [`Shard::sent`](super::Shard::sent);
//! 4. move the envelopes of [`Shard::take_outgoing`](super::Shard::take_outgoing) into the mesh while it takes them.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::auth::Claims;
use crate::cluster::wire::{Incoming, Outgoing};
use crate::ids::{ConnectionId, ShardId};
use crate::protocol::command::{Command, Outcome};
use crate::protocol::envelope::Envelope;
use crate::protocol::happening::Happening;
use crate::protocol::hook::{Question, Verdict};
use crate::settings::Settings;
use crate::ws::deflate::DeflateParams;

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A socket was accepted into row `conn.slot`.
    Accepted {
        /// The new connection.
        conn: ConnectionId,
        /// Its remote address.
        peer: SocketAddr,
        /// The process holds `limits.connections` already: refuse it with 503 once its request has been read.
        over_capacity: bool,
    },
    /// Bytes arrived. The state machine may unmask them in place.
    Bytes {
        /// Whose.
        conn: ConnectionId,
        /// The bytes.
        data: &'a mut [u8],
    },
    /// The peer's stream has ended or failed; everything before it was delivered as [`Event::Bytes`]. Sending goes on until
    /// [`Action::Close`]; a send that fails is told by this event too, however often that is.
    Ended {
        /// Whose.
        conn: ConnectionId,
    },
    /// A socket that had taken less than it was given takes bytes again.
    Writable {
        /// Whose.
        conn: ConnectionId,
    },
    /// A connection arrived from the shard that accepted it.
    Adopted {
        /// Its number here.
        conn: ConnectionId,
        /// What the other shard knew of it.
        state: Box<Handover>,
    },
    /// An envelope came over the mesh.
    Envelope {
        /// From which shard.
        from: ShardId,
        /// The envelope.
        envelope: Envelope,
    },
    /// A panic was caught while an event of this connection was handled: close it with 1011.
    Panicked {
        /// Whose.
        conn: ConnectionId,
        /// It was caught while its outbox was emptied, of which nothing can be relied on then: end the connection as it is.
        sending: bool,
    },
    /// The deadline sweep is due: every [`TICK_MS`](crate::limits::TICK_MS).
    Tick,
    /// Begin to drain: tell every connection to reconnect and close it, paced.
    Drain,
    /// The server API asks for something: [`Action::CommandDone`] answers.
    Command {
        /// What the answer will carry, so that the asker knows it.
        ticket: u64,
        /// What to do.
        command: Command,
    },
    /// The answer to [`Action::Probe`].
    Probed {
        /// The number of the question.
        ticket: u32,
        /// Round trips in microseconds, in the order of the question; `None` where there is none.
        rtts_us: Vec<Option<u32>>,
    },
    /// What a service says to an [`Action::Ask`], or that it says nothing. It follows every question once, in any order.
    Verdict {
        /// The connection that waits, perhaps on another shard.
        conn: ConnectionId,
        /// The number of the question.
        number: u32,
        /// What it says.
        verdict: Box<Verdict>,
    },
    /// The configuration was reloaded.
    Reload(Arc<Settings>),
    /// Something came from the bus to other nodes. Also when [`Shard::bus_due_ms`](super::Shard::bus_due_ms) has come, and with every tick: how
    /// long Redis has not answered.
    Bus(Incoming),
    /// The node ends: give back what it holds in the cluster. [`Action::Left`] answers.
    Leave,
}

/// What the driver has to do. Actions about a connection that is gone are ignored.
#[derive(Debug)]
pub enum Action {
    /// Close the socket and free the row once the kernel is done with it. The state machine has forgotten it already.
    Close {
        /// Which.
        conn: ConnectionId,
    },
    /// Send FIN (`shutdown(SHUT_WR)`) and go on reading.
    ShutdownWrite {
        /// Which.
        conn: ConnectionId,
    },
    /// Receive nothing from this connection until [`Action::ResumeReading`].
    PauseReading {
        /// Which.
        conn: ConnectionId,
    },
    /// Receive again, and look at once for what came meanwhile.
    ResumeReading {
        /// Which.
        conn: ConnectionId,
    },
    /// Move the socket with its state to another shard. The state machine has forgotten it already; its outbox is empty.
    HandOver {
        /// Which.
        conn: ConnectionId,
        /// The home shard.
        to: ShardId,
        /// What that shard must know.
        state: Box<Handover>,
    },
    /// What came of an [`Event::Command`].
    CommandDone {
        /// Its ticket.
        ticket: u64,
        /// What came of it.
        outcome: Box<Outcome>,
    },
    /// Tell the services (`[hooks]`). May be lost, where there is no room for it any more.
    Tell(Box<Happening>),
    /// Ask a service, and answer with [`Event::Verdict`]. Only the [first shard](crate::shard::hooks::ASKED_AT) says this.
    Ask {
        /// The connection that waits, perhaps on another shard.
        conn: ConnectionId,
        /// The number of the question.
        number: u32,
        /// What to ask.
        question: Box<Question>,
    },
    /// Look up the round trips that TCP measures (TCP_INFO), and answer with [`Event::Probed`].
    Probe {
        /// The number of the question.
        ticket: u32,
        /// Of which connections: at most [`RTT_CANDIDATES_MAX`](crate::limits::RTT_CANDIDATES_MAX).
        conns: Vec<ConnectionId>,
    },
    /// Carry this out on the bus to other nodes.
    Bus(Outgoing),
    /// After [`Event::Leave`]: nothing is held any more.
    Left,
    /// Stop listening.
    CloseListener,
    /// Every connection is gone after [`Event::Drain`].
    Drained,
}

/// Everything that a shard must know to go on with a connection that another shard accepted.
///
/// One plain, serialisable value: nothing in it refers to a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Handover {
    /// The remote address, after trusted proxies.
    pub peer: SocketAddr,
    /// The user agent of the upgrade request, cut to its bound.
    pub user_agent: Option<Box<str>>,
    /// The negotiated sub-protocol is `ringgate.v1.json` by name (an absent one behaves the same).
    pub protocol_named: bool,
    /// The client asked for `batch` messages.
    pub batch: bool,
    /// The client was sent to this node by another one (`moved=1`).
    pub moved: bool,
    /// Negotiated permessage-deflate.
    pub deflate: Option<DeflateParams>,
    /// With context takeover: the last 32 KiB the client has sent, inflated.
    pub inflate_window: Vec<u8>,
    /// Who the user is and what they may do.
    pub claims: Claims,
    /// The `id` of the `auth` request to be answered, where there was one.
    pub auth_request_id: Option<crate::protocol::RequestId>,
    /// Unix time of the accept, in milliseconds.
    pub created_unix_ms: u64,
    /// Messages and bytes received so far.
    pub received_messages: u64,
    /// Bytes received so far.
    pub received_bytes: u64,
    /// Bytes that were read from the socket and not handled yet.
    pub leftover: Vec<u8>,
}

/// Bytes to send next, from [`Shard::gather`](super::Shard::gather).
#[derive(Debug)]
pub enum Gathered<'a> {
    /// Nothing.
    Empty,
    /// That many bytes were copied to the front of the scratch.
    Copied(usize),
    /// These bytes, in place. They stay where they are until [`Shard::sent`](super::Shard::sent) is called for this row.
    Direct(&'a [u8]),
}
