//! What the reactor drives: the state machine of a shard, or a stand-in for it in a test.

use crate::ids::{ConnectionId, ShardId};
use crate::protocol::envelope::Envelope;
use crate::shard::Shard;
use crate::shard::event::{Action, Event, Gathered};
use crate::time::Now;

/// The surface of [`Shard`] towards its driver; see [`event`](crate::shard::event) for the order of calls.
///
/// # Safety
///
/// The bytes of [`Gathered::Direct`] must stay in place, readable and unchanged until [`Machine::sent`] is called for that connection,
/// whatever else of this trait is called in between: the kernel reads them by their address.
pub unsafe trait Machine {
    /// Takes one event.
    fn handle(&mut self, event: Event<'_>, now: Now);
    /// The next thing to do.
    fn next_action(&mut self) -> Option<Action>;
    /// The next connection with bytes to send; not returned again until [`Machine::sent`].
    fn next_dirty(&mut self) -> Option<ConnectionId>;
    /// Bytes to send next.
    fn gather<'a>(&'a mut self, conn: ConnectionId, scratch: &'a mut [u8]) -> Gathered<'a>;
    /// The kernel took `bytes` of the `offered` ones.
    fn sent(&mut self, conn: ConnectionId, offered: usize, bytes: usize, now: Now);
    /// Payload bytes of the envelope that waits first for `to`.
    fn outgoing_bytes(&self, to: ShardId) -> Option<usize>;
    /// Takes that envelope.
    fn take_outgoing(&mut self, to: ShardId, now: Now) -> Option<Envelope>;
    /// A turn ends in which anything came from the bus, or may have been asked of it.
    fn end_turn(&mut self, _now: Now) {}
    /// When it wants to be told that time has passed on the bus, before the next tick.
    fn bus_due_ms(&self, _now: Now) -> Option<u64> {
        None
    }
    /// The number drawn at the start of the process: how connections are named in the log.
    fn instance(&self) -> u32 {
        0
    }
    /// Appends what it shows of itself: always as many numbers, in the same order.
    fn figures(&self, _row: &mut Vec<u64>) {}
    /// How many numbers [`Machine::figures`] appends.
    fn figures_len() -> usize
    where
        Self: Sized,
    {
        0
    }
}

// SAFETY: gathered bytes are in frames that are shared and immutable, and a frame leaves the outbox only in `sent`.
unsafe impl Machine for Shard {
    fn handle(&mut self, event: Event<'_>, now: Now) {
        Shard::handle(self, event, now);
    }
    fn next_action(&mut self) -> Option<Action> {
        Shard::next_action(self)
    }
    fn next_dirty(&mut self) -> Option<ConnectionId> {
        Shard::next_dirty(self)
    }
    fn gather<'a>(&'a mut self, conn: ConnectionId, scratch: &'a mut [u8]) -> Gathered<'a> {
        Shard::gather(self, conn, scratch)
    }
    fn sent(&mut self, conn: ConnectionId, offered: usize, bytes: usize, now: Now) {
        Shard::sent(self, conn, offered, bytes, now);
    }
    fn outgoing_bytes(&self, to: ShardId) -> Option<usize> {
        Shard::outgoing_bytes(self, to)
    }
    fn take_outgoing(&mut self, to: ShardId, now: Now) -> Option<Envelope> {
        Shard::take_outgoing(self, to, now)
    }
    fn end_turn(&mut self, now: Now) {
        Shard::end_turn(self, now);
    }
    fn bus_due_ms(&self, now: Now) -> Option<u64> {
        Shard::bus_due_ms(self, now)
    }
    fn instance(&self) -> u32 {
        Shard::instance(self)
    }
    fn figures(&self, row: &mut Vec<u64>) {
        Shard::figures(self, row);
    }
    fn figures_len() -> usize {
        Shard::figures_len()
    }
}
