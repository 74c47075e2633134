//! What the wires have to complain of.

use redis::ServerError;

use crate::bus::redis::open::OpenError;
use crate::bus::redis::trouble::Trouble;
use crate::bus::redis::wire::Ended;
use crate::cluster::link::Side;

/// What Redis, or the way to it, would not do. Its text has no secret in it.
#[derive(Debug, thiserror::Error)]
pub enum Complaint {
    /// A connection could not be made.
    #[error("no connection for {side}: {error}", side = .0.name(), error = .1)]
    Open(Side, OpenError),
    /// A connection ended.
    #[error("the connection for {side} ended: {why}", side = .0.name(), why = .1)]
    Ended(Side, Ended),
    /// A command was refused.
    #[error("Redis refuses: {0}")]
    Refused(ServerError),
}

impl Complaint {
    /// What it means, where Redis itself has said so.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Complaint::Open(_, error) => error.trouble(),
            Complaint::Ended(..) => None,
            Complaint::Refused(error) => Some(Trouble::of(error)),
        }
    }
}
