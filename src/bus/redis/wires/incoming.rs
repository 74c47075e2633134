//! What comes out of the wires.

use std::rc::Rc;

use redis::ServerError;

use crate::bus::redis::open::OpenError;
use crate::bus::redis::wire::Ended;
use crate::cluster::agent::Event;
use crate::cluster::link::Side;
use crate::cluster::nodes::Polled;
use crate::cluster::registry::Rows;
use crate::cluster::registry::wants::{Op, WriteId};

/// What arrives.
#[derive(Debug)]
pub enum Incoming {
    /// For the agent.
    Agent(Event<'static>),
    /// A row write was done; for presence. Hand the agent its [`Event::Row`] as well.
    Row {
        /// Which.
        id: WriteId,
        /// Whose.
        user: Rc<str>,
        /// Written or deleted.
        op: Op,
        /// The user's rows on other nodes, of living and of dead leases.
        others: Rows,
    },
    /// A message on a channel; its name is without the prefix.
    Message {
        /// Where.
        channel: Vec<u8>,
        /// What.
        payload: Vec<u8>,
    },
    /// What [`Wires::publish`](super::Wires::publish) was answered: how many connections heard it, or nothing where Redis refused.
    Published {
        /// What was given with it.
        ticket: u64,
        /// Connections that heard it.
        heard: Option<u64>,
    },
    /// What [`Wires::find`](super::Wires::find) was answered, or nothing where Redis refused.
    Found {
        /// Who.
        user: Rc<str>,
        /// Where they are.
        rows: Option<Rows>,
    },
    /// What [`Wires::poll_leases`](super::Wires::poll_leases) was answered.
    Leases {
        /// All leases.
        leases: Vec<Polled>,
        /// When it was asked (the clock of the caller).
        asked_ms: u64,
    },
    /// The rows of these users have changed: their routes are void.
    Invalidated(Vec<Rc<str>>),
    /// All routes are void.
    InvalidatedAll,
    /// The connection for commands ended with these publishes on their way: what became of them is not known.
    Unanswered(Vec<u64>),
    /// Something to say in the log, once per kind and outage.
    Troubled(Complaint),
}

/// What Redis, or the way to it, would not do.
#[derive(Debug)]
pub enum Complaint {
    /// A connection could not be made.
    Open(Side, OpenError),
    /// A connection ended.
    Ended(Side, Ended),
    /// A command was refused.
    Refused(ServerError),
}
