//! What goes between a shard and its connections to the bus, as plain values: the shard decides, the [wires](crate::bus) carry out.

use std::rc::Rc;

use super::agent::{Action, Event};
use super::nodes::Polled;
use super::registry::Rows;
use crate::ids::ShardId;

/// What a shard asks its wires to do. Names of channels are without the prefix.
#[derive(Debug)]
pub enum Outgoing {
    /// What the agent asks for.
    Agent(Action),
    /// Publish; answered by [`Incoming::Published`] or [`Incoming::Unanswered`].
    Publish {
        /// Comes back with the answer.
        ticket: u64,
        /// Where.
        channel: Rc<str>,
        /// What.
        payload: Vec<u8>,
    },
    /// Read a user's rows, and tell when they change; answered by [`Incoming::Found`].
    Find {
        /// Who.
        user: Rc<str>,
    },
    /// Read all leases; answered by [`Incoming::Leases`].
    PollLeases {
        /// Comes back with the answer: how long they live is reckoned from it.
        asked_ms: u64,
    },
    /// Name some users with a row of a dead node and epoch; answered by [`Incoming::Sampled`].
    Sample {
        /// Which shard of it.
        grave: Grave,
    },
    /// Delete the rows of these users that are of a dead node and epoch; answered by one [`Incoming::Removed`] each.
    Remove {
        /// Which shard of it.
        grave: Grave,
        /// Whose.
        users: Vec<Rc<str>>,
    },
    /// Say in the lease, from its next renewal on, that this node takes nobody any more: its weight is 0.
    Retire,
    /// Say in the lease, from its next renewal on, that everybody is announced under it. A new lease says that nobody is.
    Announced,
    /// All rows of a dead node and epoch are deleted: forget its lease.
    Bury {
        /// The node.
        node: Rc<str>,
        /// The epoch.
        epoch: u64,
    },
}

/// One shard of a node under an epoch that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grave {
    /// The node.
    pub node: Rc<str>,
    /// The epoch.
    pub epoch: u64,
    /// The shard.
    pub shard: ShardId,
}

/// What arrives.
#[derive(Debug)]
pub enum Incoming {
    /// For the agent.
    Agent(Event<'static>),
    /// A message on a channel; its name is without the prefix.
    Message {
        /// Where.
        channel: Vec<u8>,
        /// What.
        payload: Vec<u8>,
    },
    /// What [`Outgoing::Publish`] was answered: how many connections heard it, or nothing where Redis refused.
    Published {
        /// What was given with it.
        ticket: u64,
        /// Connections that heard it.
        heard: Option<u64>,
    },
    /// What [`Outgoing::Find`] was answered, or nothing where Redis refused or the connection ended.
    Found {
        /// Who.
        user: Rc<str>,
        /// Where they are.
        rows: Option<Rows>,
    },
    /// What [`Outgoing::PollLeases`] was answered.
    Leases {
        /// All leases.
        leases: Vec<Polled>,
        /// When it was asked (the clock of the caller).
        asked_ms: u64,
    },
    /// What [`Outgoing::Sample`] was answered; nothing where Redis refused.
    Sampled {
        /// Which shard of which dead node.
        grave: Grave,
        /// Some users who have a row of it, or had one.
        users: Option<Vec<Rc<str>>>,
    },
    /// [`Outgoing::Remove`] was answered for one user, whatever the answer was.
    Removed {
        /// Of which node.
        node: Rc<str>,
        /// Whose row.
        user: Rc<str>,
    },
    /// The rows of these users have changed, by this shard or by others: their routes are void.
    Invalidated(Vec<Rc<str>>),
    /// All routes are void.
    InvalidatedAll,
    /// The connection for commands ended with these publishes on their way: what became of them is not known.
    Unanswered(Vec<u64>),
}
