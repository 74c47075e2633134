//! The state machine of one shard: events in, actions out.

use std::sync::Arc;

use crate::ids::{ConnectionId, ShardId};
use crate::protocol::envelope::Envelope;
use crate::settings::Settings;
use crate::time::Now;

pub mod event;
pub mod ip_table;
pub mod limiter;
pub mod outbox;

use event::{Action, Event, Gathered};

/// All that one shard decides.
#[derive(Debug)]
pub struct Shard {}

impl Shard {
    /// `seed` makes everything that must be unpredictable to peers.
    pub fn new(_settings: Arc<Settings>, _id: ShardId, _seed: u64, _now: Now) -> Self {
        Shard {}
    }
    /// Takes one event.
    pub fn handle(&mut self, _event: Event<'_>, _now: Now) {}
    /// The next thing the driver must do.
    pub fn next_action(&mut self) -> Option<Action> {
        None
    }
    /// The next connection with bytes to send; it is not returned again until [`Shard::sent`] is called for it.
    pub fn next_dirty(&mut self) -> Option<ConnectionId> {
        None
    }
    /// Bytes to send next.
    pub fn gather<'a>(&'a mut self, _conn: ConnectionId, _scratch: &'a mut [u8]) -> Gathered<'a> {
        Gathered::Empty
    }
    /// The kernel took `bytes` of what was gathered; fewer than offered means that [`Event::Writable`] will follow.
    /// Where more is queued and all was taken, the connection is dirty again.
    pub fn sent(&mut self, _conn: ConnectionId, _offered: usize, _bytes: usize, _now: Now) {}
    /// Whether an envelope waits for `to`.
    pub fn has_outgoing(&self, _to: ShardId) -> bool {
        false
    }
    /// Payload bytes of the envelope that waits first for `to`.
    pub fn outgoing_bytes(&self, _to: ShardId) -> Option<usize> {
        None
    }
    /// Takes the envelope that waits first for `to`; call it only when the mesh has room.
    pub fn take_outgoing(&mut self, _to: ShardId) -> Option<Envelope> {
        None
    }
    /// Connections this shard holds.
    pub fn connections(&self) -> usize {
        0
    }
}
