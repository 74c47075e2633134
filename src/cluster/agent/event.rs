//! What happens to an agent, and what it asks its driver to do.

use std::rc::Rc;

use crate::cluster::lease;
use crate::cluster::link::{Cause, Side, State};
use crate::cluster::registry::Row;
use crate::cluster::registry::wants::{Pace, Write, WriteId};
use crate::ids::ShardId;
pub use crate::protocol::envelope::Standing;

/// One reading of the clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// CLOCK_MONOTONIC, in milliseconds.
    pub mono_ms: u64,
    /// CLOCK_BOOTTIME, in milliseconds: leases.
    pub boot_ms: u64,
    /// CLOCK_REALTIME, in milliseconds: where epochs start.
    pub unix_ms: u64,
}

/// What a shard is, for its agent.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its number.
    pub shard: ShardId,
    /// The number drawn at the start of this process.
    pub instance: u32,
    /// `redis.timeout`.
    pub timeout_ms: u64,
    /// How rows are written.
    pub rows: Pace,
    /// How channels are subscribed to.
    pub channels: Pace,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Time passed; how long the oldest unanswered command has waited.
    Tick {
        /// Milliseconds, where there is one.
        oldest_unanswered_ms: Option<u64>,
    },
    /// A connection was made and greeted.
    Connected(Side),
    /// A connection could not be made.
    Refused(Side),
    /// A connection ended, or an answer said that it is of no use.
    Ended(Side),
    /// A user's first connection on this shard; [`Agent::is_registered`](super::Agent::is_registered) says whether the answer has to be waited for.
    UserCame(&'a str),
    /// A user's last connection on this shard is gone.
    UserLeft(&'a str),
    /// A message came for a user who is not here although a row says so.
    UserMissing(&'a str),
    /// A channel is to be listened to.
    Listen(&'a str),
    /// A channel is not to be listened to any more.
    Unlisten(&'a str),
    /// A row write was answered.
    Row {
        /// Which.
        id: WriteId,
        /// How.
        answer: WriteAnswer,
    },
    /// A subscription or its end was answered.
    Channel {
        /// Which.
        id: WriteId,
        /// How.
        answer: WriteAnswer,
    },
    /// A question of the lease was answered; on the shard that has it.
    Lease {
        /// Which.
        ticket: u64,
        /// How.
        answer: lease::Answer,
    },
    /// The shard that has the lease tells how it stands; on the others.
    Standing(Option<Standing>),
    /// A probe came back.
    Probe {
        /// Which.
        nonce: u64,
    },
}

/// How a write was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAnswer {
    /// Done.
    Done,
    /// Refused: try again later.
    Refused,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make this connection; loading scripts and switching tracking on belong to it.
    Connect(Side),
    /// End this connection; hear nothing of it any more. With [`Side::Commands`] the routes that were read over it are void.
    Drop(Side, Cause),
    /// Write or delete a row.
    Row {
        /// Which, and of whom.
        write: Write,
        /// As what: node, epoch and shard.
        row: Row,
        /// When the lease of that epoch ends, on the clock of Redis.
        lease_ends_ms: u64,
    },
    /// Subscribe ([`Op::Put`](crate::cluster::registry::wants::Op)) or unsubscribe.
    Channel(Write),
    /// Ask this of the leases.
    Lease(lease::Command),
    /// Publish this probe to the shard's [`probe_channel`](super::probe_channel).
    Probe {
        /// What must come back.
        nonce: u64,
    },
    /// Tell the other shards how the lease stands.
    Standing(Option<Standing>),
    /// The registry has this user's row, or has it no more.
    UserSettled {
        /// Who.
        user: Rc<str>,
        /// Whether it has it.
        present: bool,
    },
    /// A channel is subscribed to, or is no more.
    ChannelSettled {
        /// Which.
        channel: Rc<str>,
        /// Whether it is.
        present: bool,
    },
    /// The link is in another state.
    Changed(State),
    /// The lease was lost, or the node has another name now: for the log and the metrics.
    LeaseChanged(lease::Change),
}
