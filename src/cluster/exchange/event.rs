//! What is given to an exchange, and what it asks for.

use std::rc::Rc;

use bytes::Bytes;

use crate::ids::MessageId;
use crate::limits;
use crate::protocol::class::Class;
use crate::protocol::reply::Status;
use crate::protocol::tags::Tags;

use super::super::parcel::Origin;

/// How messages find their users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the rows of the registry, to the shards that have the user. Also for `cluster.routing = "hash"`.
    Registry,
    /// To all shards of all nodes, on [`BROADCAST_CHANNEL`](super::BROADCAST_CHANNEL).
    Broadcast,
}

/// What an exchange is made from.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How messages find their users.
    pub mode: Mode,
    /// Which shard of which process this is.
    pub me: Origin,
    /// How much it may hold.
    pub bounds: Bounds,
    /// How long a destination may take to answer; then the outcome is unknown. For a destination that died to be noticed within it, it is
    /// longer than a lease: see [`Settings::new`].
    pub answer_within_ms: u64,
    /// How long after Redis may have forgotten everything nobody is believed to be offline, unless it is shown before that it has not.
    pub doubt_ms: u64,
    /// Whether Redis says exactly how many have heard a publish: it does, except in Redis Cluster, where each node counts its own.
    pub exact_counts: bool,
}

impl Settings {
    /// What goes with a lease of `lease_ttl_ms` and a `redis.timeout` of `timeout_ms`.
    pub fn new(mode: Mode, me: Origin, lease_ttl_ms: u64, timeout_ms: u64) -> Self {
        // A lease that runs out is seen by the poll after it.
        let answer_within_ms = lease_ttl_ms + limits::LEASE_POLL_MS + timeout_ms;
        Settings { mode, me, bounds: Bounds::default(), answer_within_ms, doubt_ms: lease_ttl_ms, exact_counts: true }
    }
}

/// How much an exchange may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages that are not done with.
    pub messages_max: usize,
    /// Bytes of their frames.
    pub bytes_max: usize,
    /// Messages, times the destinations of each, that are not acknowledged.
    pub unanswered_max: usize,
    /// Of these, to one destination.
    pub unanswered_per_destination_max: usize,
    /// Messages to one user that wait for a look-up, or for the answers of a stale route.
    pub waiting_per_user_max: usize,
    /// How often one message may be sent again.
    pub moves_max: u32,
    /// Users whose rows are remembered.
    pub routes_max: usize,
    /// Shards of other nodes that are remembered as having sent something.
    pub origins_max: usize,
    /// Users that each of them is told have moved, until it knows.
    pub moved_per_origin_max: usize,
    /// Messages of others that are remembered as delivered.
    pub remembered_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            messages_max: limits::EXCHANGE_MESSAGES_MAX,
            bytes_max: limits::EXCHANGE_BYTES_MAX,
            unanswered_max: 2 * limits::EXCHANGE_MESSAGES_MAX,
            unanswered_per_destination_max: limits::EXCHANGE_PER_DESTINATION_MAX,
            waiting_per_user_max: limits::EXCHANGE_WAITING_PER_USER_MAX,
            moves_max: limits::EXCHANGE_MOVES_MAX,
            routes_max: limits::ROUTES_MAX,
            origins_max: limits::EXCHANGE_ORIGINS_MAX,
            moved_per_origin_max: limits::EXCHANGE_MOVED_PER_ORIGIN_MAX,
            remembered_max: limits::EXCHANGE_REMEMBERED_MAX,
        }
    }
}

/// A message to a user.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// To whom.
    pub user: Rc<str>,
    /// Its id, the same however often it is sent on.
    pub message_id: MessageId,
    /// What may be given up first.
    pub class: Class,
    /// For [`Class::Latest`]: what it is the latest of, by [`stable`](crate::cluster::hash::stable), which all nodes share.
    pub key: Option<u64>,
    /// What filters look at.
    pub tags: Option<Tags>,
    /// The user who sent it, where it is not to come back to them by another way.
    pub except_user: Option<Box<str>>,
    /// The whole server frame, uncompressed.
    pub frame: Bytes,
}

/// What the connections of this node have to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Here {
    /// The user has no connection here.
    Nobody,
    /// The user's connections here were given it already, and this came of it.
    Took(Status),
    /// The user has connections here, which have not been given it: see [`Exchange::defers`](super::Exchange::defers).
    Waits,
}

/// A message that is to go wherever its user is.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// The message.
    pub letter: Letter,
    /// What the connections of this node have to do with it.
    pub here: Here,
    /// Comes back with [`Effect::Settled`]. `None`: nobody wants to know.
    pub token: Option<u64>,
}

/// Why it cannot be said that a message was delivered, or that it was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// The bus is down, or this node has no lease.
    Link,
    /// Too much is under way already: it was not sent.
    Full,
    /// Redis would not look up or publish: it was not sent.
    Refused,
    /// The bus or the lease was lost while it was on its way.
    Lost,
    /// No answer came in time.
    Timeout,
    /// Its destination died with it.
    Died,
    /// Its destination has a living lease and does not listen: it was not delivered.
    Unheard,
    /// The user moved too often: it was not delivered.
    Moved,
    /// Redis has forgotten who is where.
    Forgotten,
}

impl Cause {
    /// Every cause, in the order of their labels in the metrics.
    pub const ALL: [Cause; 9] = [
        Cause::Link,
        Cause::Full,
        Cause::Refused,
        Cause::Lost,
        Cause::Timeout,
        Cause::Died,
        Cause::Unheard,
        Cause::Moved,
        Cause::Forgotten,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Link => "link",
            Cause::Full => "full",
            Cause::Refused => "refused",
            Cause::Lost => "lost",
            Cause::Timeout => "timeout",
            Cause::Died => "died",
            Cause::Unheard => "unheard",
            Cause::Moved => "moved",
            Cause::Forgotten => "forgotten",
        }
    }
}

/// What became of a message, over all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The best that any connection of the user can say.
    Known(Status),
    /// The error `unavailable`.
    Unavailable(Cause),
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Publish this, and say [`published`](super::Exchange::published) or [`unanswered`](super::Exchange::unanswered). Tickets are below
    /// 2⁶³; others who publish over the same connection have the upper half to themselves.
    Publish {
        /// Comes back with the answer.
        ticket: u64,
        /// Where, without `redis.prefix`.
        channel: Rc<str>,
        /// What.
        payload: Vec<u8>,
    },
    /// Read this user's rows, and say [`found`](super::Exchange::found).
    Find {
        /// Who.
        user: Rc<str>,
    },
    /// Give this to the user's connections here, if there are any, and say [`here`](super::Exchange::here) at once.
    Here {
        /// Comes back with the answer.
        ticket: u64,
        /// The message.
        letter: Rc<Letter>,
    },
    /// A message is answered: once for each token.
    Settled {
        /// Of the message.
        token: u64,
        /// How.
        outcome: Outcome,
    },
    /// A message came for this user, who is not here: if there is a row that says so, it is wrong
    /// ([`agent::Event::UserMissing`](crate::cluster::agent::Event::UserMissing)).
    Missing {
        /// Who.
        user: Rc<str>,
    },
}

/// What to do with a message that came.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Give it to the user's connections, and say [`delivered`](super::Exchange::delivered).
    Deliver,
    /// Nothing: it is answered already.
    Answered,
    /// Nothing: it does not count.
    Discarded(Discarded),
}

/// Why a message that came does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Discarded {
    /// This process has sent it.
    Own,
    /// It is for a lease that does not hold here (any more).
    Lease,
    /// It has come before.
    Twice,
    /// Others that were sent after it have come: it would be out of order.
    Late,
}
