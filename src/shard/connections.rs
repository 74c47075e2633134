//! The rows of a shard with what hangs on them: outboxes, the list of connections to flush, the deadline column, and the actions for the driver.
//!
//! What they hold is added up as it changes: see [`Connections::reweigh`]. How messages get into outboxes and out of them is in
//! [`delivery`](super::delivery).

use std::collections::VecDeque;

use crate::config::Config;
use crate::ids::{ConnectionId, GlobalConnectionId, ShardId};
use crate::shard::blocks::Blocks;
use crate::shard::counters::{Counters, Distributions, DropReason};
use crate::shard::event::Action;
use crate::shard::frames::Deflaters;
use crate::shard::gauges::Gauges;
use crate::shard::outbox::{OutboxLimits, Outboxes, Stored};
use crate::shard::row::{NONE, Paused, Row, State};
use crate::shard::trace::Traces;
use crate::shard::weights::Weights;
use crate::time::Now;

/// A deadline that never comes.
pub(super) const NEVER: u32 = u32::MAX;

/// Every so many-th connection to be flushed is one of the bulk, however many others there are.
const BULK_SHARE: u32 = 4;
/// Outboxes asked for their oldest message per tick.
const AGED_PER_TICK: usize = 1024;

/// All connections of a shard.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) shard: ShardId,
    instance: u32,
    rows: Blocks<Row>,
    /// Tenths of a second since the shard's start at which the row wants to be looked at.
    deadlines: Vec<u32>,
    pub(super) outboxes: Outboxes,
    /// To be flushed: first those whom a message was meant for, then those who get what very many get.
    dirty: VecDeque<ConnectionId>,
    bulk: VecDeque<ConnectionId>,
    picks: u32,
    pub(super) actions: VecDeque<Action>,
    /// Connections whose outbox ran over while something was being delivered; closed when that is done.
    pub(super) overflowed: Vec<u32>,
    pub(super) counters: Counters,
    /// The users who are followed.
    pub(super) traces: Traces,
    pub(super) distributions: Distributions,
    pub(super) deflaters: Deflaters,
    /// The marks that hold now.
    pub(super) limits: OutboxLimits,
    /// The marks as configured.
    pub(super) limits_configured: OutboxLimits,
    /// What each connection has a part in that the shard is short of memory: what it does not take and does not finish.
    pub(super) weights: Weights,
    /// What the queued frames take up, each once.
    pub(super) stored: Stored,
    /// Bytes queued, over all outboxes.
    pub(super) queued_bytes: u64,
    /// Bytes of their rings.
    pub(super) ring_bytes: u64,
    /// Bytes held by rows for what is incomplete.
    partial_bytes: u64,
    states: [u32; State::COUNT],
    throttled: u32,
    paused_by_pressure: u32,
    asking: u32,
    oldest: Oldest,
    start_ms: u64,
}

/// The look for the oldest queued message: a round over all outboxes, some per tick.
#[derive(Debug, Default)]
struct Oldest {
    next: usize,
    /// The greatest age found in this round so far, and in the one before.
    age_ms: u32,
    age_before_ms: u32,
}

impl Connections {
    pub(super) fn new(shard: ShardId, instance: u32, config: &Config, now: Now) -> Self {
        let mut made = Connections {
            shard,
            instance,
            rows: Blocks::default(),
            deadlines: Vec::new(),
            outboxes: Outboxes::default(),
            dirty: VecDeque::new(),
            bulk: VecDeque::new(),
            picks: 0,
            actions: VecDeque::new(),
            overflowed: Vec::new(),
            counters: Counters::default(),
            traces: Traces::default(),
            distributions: Distributions::default(),
            deflaters: Deflaters::default(),
            limits: OutboxLimits::default(),
            limits_configured: OutboxLimits::default(),
            weights: Weights::default(),
            stored: Stored::default(),
            queued_bytes: 0,
            ring_bytes: 0,
            partial_bytes: 0,
            states: [0; State::COUNT],
            throttled: 0,
            paused_by_pressure: 0,
            asking: 0,
            oldest: Oldest::default(),
            start_ms: now.mono_ms,
        };
        made.configure(config);
        made
    }

    /// Takes over what may change at run time.
    pub(super) fn configure(&mut self, config: &Config) {
        let outbox = &config.outbox;
        self.limits_configured =
            OutboxLimits { high: outbox.high as usize, low: outbox.low as usize, max: outbox.max as usize };
        self.limits = self.limits_configured;
        self.deflaters.configure(&config.deflate);
    }

    /// Tenths of a second since the shard's start.
    pub(super) fn ds(&self, now: Now) -> u32 {
        (now.mono_ms.saturating_sub(self.start_ms) / 100) as u32
    }

    /// Number of connections.
    pub(super) fn len(&self) -> usize {
        self.states[State::Connecting as usize..].iter().sum::<u32>() as usize
    }

    /// Connections that are opening, or have no identity yet.
    pub(super) fn opening(&self) -> usize {
        (self.states[State::Connecting as usize] + self.states[State::Authenticating as usize]) as usize
    }

    /// Puts a connection into its row.
    pub(super) fn insert(&mut self, conn: ConnectionId, row: Row) {
        let slot = conn.slot as usize;
        self.rows.reach(conn.slot, Row::vacant);
        if slot >= self.deadlines.len() {
            self.deadlines.resize(slot + 1, NEVER);
        }
        debug_assert_eq!(self.rows[conn.slot].state, State::Vacant, "the driver hands out free rows");
        self.states[row.state as usize] += 1;
        self.rows[conn.slot] = row;
        self.reweigh(conn.slot);
    }

    /// Moves a connection on in its life.
    pub(super) fn set_state(&mut self, slot: u32, state: State) {
        let before = std::mem::replace(&mut self.rows[slot].state, state);
        self.states[before as usize] -= 1;
        self.states[state as usize] += 1;
    }

    /// Empties a row. The driver's socket is untouched.
    pub(super) fn remove(&mut self, slot: u32) -> Row {
        let row = std::mem::replace(&mut self.rows[slot], Row::vacant());
        if row.outbox != NONE {
            let outbox = self.outboxes.get(row.outbox);
            self.queued_bytes -= outbox.bytes() as u64;
            self.ring_bytes -= outbox.capacity_bytes() as u64;
            self.counters.drop_messages(DropReason::Closed, outbox.queued());
            self.outboxes.release(row.outbox);
        }
        self.partial_bytes -= u64::from(row.partial_bytes);
        self.weights.set(slot, 0);
        self.deadlines[slot as usize] = NEVER;
        self.states[row.state as usize] -= 1;
        self.throttled -= u32::from(row.paused.contains(Paused::THROTTLED));
        self.paused_by_pressure -= u32::from(row.paused.contains(Paused::PRESSURE));
        self.asking -= u32::from(row.paused.contains(Paused::ASKING));
        row
    }

    /// Adds up again what a connection holds. Call it after anything that changed that.
    ///
    /// What is queued weighs on a connection only once its socket has refused some of it: all others are flushed before this turn ends.
    #[inline]
    pub(super) fn reweigh(&mut self, slot: u32) {
        let row = &mut self.rows[slot];
        let partial = row.held_bytes();
        self.partial_bytes = self.partial_bytes - u64::from(row.partial_bytes) + partial as u64;
        row.partial_bytes = partial as u32;
        let stuck = row.blocked && row.outbox != NONE;
        let stuck = if stuck { self.outboxes.get(row.outbox).held_bytes() } else { 0 };
        self.weights.set(slot, partial + stuck);
    }

    /// Bytes held for all connections, each frame once: what counts against the budget.
    #[inline]
    pub(super) fn held_bytes(&self) -> u64 {
        self.stored.bytes() + self.ring_bytes + self.partial_bytes + self.idle_bytes()
    }

    /// Bytes of capacity kept for reuse.
    fn idle_bytes(&self) -> u64 {
        (self.outboxes.idle_bytes() + self.deflaters.held_bytes()) as u64
    }

    /// The row of a connection that is still the one meant.
    pub(super) fn find(&self, conn: ConnectionId) -> Option<u32> {
        let row = self.rows.get(conn.slot)?;
        (conn.shard == self.shard && row.generation == conn.generation && row.state != State::Vacant)
            .then_some(conn.slot)
    }

    pub(super) fn row(&self, slot: u32) -> &Row {
        &self.rows[slot]
    }

    pub(super) fn row_mut(&mut self, slot: u32) -> &mut Row {
        &mut self.rows[slot]
    }

    pub(super) fn id(&self, slot: u32) -> ConnectionId {
        self.row(slot).id(self.shard, slot)
    }

    /// The connection in a row, for everybody outside this process.
    pub(super) fn global_id(&self, slot: u32) -> GlobalConnectionId {
        self.id(slot).of(self.instance)
    }

    /// As [`find`](Self::find), for an id that came from outside this process.
    pub(super) fn find_global(&self, id: GlobalConnectionId) -> Option<u32> {
        if id.instance == self.instance { self.find(id.connection) } else { None }
    }

    /// Every row in use.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + use<> {
        let used: Vec<u32> = (0..self.rows.len()).filter(|s| self.rows[*s].state != State::Vacant).collect();
        used.into_iter()
    }

    /// Rows, free ones included.
    pub(super) fn capacity(&self) -> u32 {
        self.rows.len()
    }

    pub(super) fn set_deadline(&mut self, slot: u32, at_ds: u32) {
        self.deadlines[slot as usize] = at_ds;
    }

    /// Looks at a row no later than that.
    pub(super) fn bring_forward(&mut self, slot: u32, at_ds: u32) {
        let deadline = &mut self.deadlines[slot as usize];
        *deadline = at_ds.min(*deadline);
    }

    /// The deadline column, for the sweep.
    pub(super) fn deadlines(&self) -> &[u32] {
        &self.deadlines
    }

    pub(super) fn pause(&mut self, slot: u32, why: Paused) {
        let conn = self.id(slot);
        let row = &mut self.rows[slot];
        if row.paused.contains(why) {
            return;
        }
        if !row.paused.any() {
            self.actions.push_back(Action::PauseReading { conn });
        }
        row.paused.insert(why);
        self.throttled += u32::from(why == Paused::THROTTLED);
        self.paused_by_pressure += u32::from(why == Paused::PRESSURE);
        self.asking += u32::from(why == Paused::ASKING);
    }

    pub(super) fn resume(&mut self, slot: u32, why: Paused, now: Now) {
        let (conn, now_ds) = (self.id(slot), self.ds(now));
        let row = &mut self.rows[slot];
        if !row.paused.contains(why) {
            return;
        }
        row.paused.remove(why);
        self.throttled -= u32::from(why == Paused::THROTTLED);
        self.paused_by_pressure -= u32::from(why == Paused::PRESSURE);
        self.asking -= u32::from(why == Paused::ASKING);
        if !row.paused.any() {
            // The peer could not show a sign of life, or ask for anything, while nobody looked.
            row.last_receive_ds = now_ds;
            row.last_message_ds = now_ds;
            self.actions.push_back(Action::ResumeReading { conn });
        }
    }

    /// The outbox of a connection, where it has one.
    pub(super) fn outbox_of(&self, slot: u32) -> Option<&crate::shard::outbox::Outbox> {
        let handle = self.row(slot).outbox;
        (handle != NONE).then(|| self.outboxes.get(handle))
    }

    /// Puts a connection on the list to flush, unless it is there or waits for its socket.
    pub(super) fn mark_dirty(&mut self, slot: u32) {
        let conn = self.id(slot);
        let row = self.row_mut(slot);
        if (!row.dirty || row.bulk) && !row.blocked {
            // What it leaves behind in the other list finds the mark gone.
            (row.dirty, row.bulk) = (true, false);
            self.dirty.push_back(conn);
        }
    }

    /// The socket of a connection takes bytes again.
    pub(super) fn unblock(&mut self, slot: u32) {
        self.rows[slot].blocked = false;
        self.reweigh(slot);
        self.mark_dirty(slot);
    }

    /// As [`Connections::mark_dirty`], but for one of very many: they do not keep the others waiting.
    pub(super) fn mark_bulk(&mut self, slot: u32) {
        let conn = self.id(slot);
        let row = self.row_mut(slot);
        if !row.dirty && !row.blocked {
            (row.dirty, row.bulk) = (true, true);
            self.bulk.push_back(conn);
        }
    }

    /// The next connection to flush.
    pub(super) fn next_dirty(&mut self) -> Option<ConnectionId> {
        loop {
            self.picks = self.picks.wrapping_add(1);
            let bulk = self.dirty.is_empty() || self.picks.is_multiple_of(BULK_SHARE) && !self.bulk.is_empty();
            let conn = if bulk { self.bulk.pop_front()? } else { self.dirty.pop_front()? };
            let Some(slot) = self.find(conn) else { continue };
            let row = self.row_mut(slot);
            if row.dirty && row.bulk == bulk {
                (row.dirty, row.bulk) = (false, false);
                return Some(conn);
            }
        }
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.bulk.is_empty()
    }

    /// Goes on looking for the oldest queued message.
    pub(super) fn look_for_oldest(&mut self, now: Now) {
        let Oldest { next, age_ms, age_before_ms } = &mut self.oldest;
        if *next == 0 {
            (*age_before_ms, *age_ms) = (*age_ms, 0);
        }
        *next = self.outboxes.scan(*next, AGED_PER_TICK, |outbox| {
            *age_ms = outbox.oldest_age_ms(now.mono_ms).map_or(*age_ms, |age| age.max(*age_ms));
        });
    }

    /// What is held now, but for what only the shard knows.
    pub(super) fn gauges(&self) -> Gauges {
        let state = |state: State| self.states[state as usize];
        Gauges {
            connecting: state(State::Connecting),
            authenticating: state(State::Authenticating),
            moving: state(State::Moving),
            sessions: state(State::Active),
            echoing: state(State::Echo),
            closing: state(State::Closing),
            throttled: self.throttled,
            paused_by_pressure: self.paused_by_pressure,
            asking: self.asking,
            outboxes: self.outboxes.leased() as u32,
            queued_bytes: self.queued_bytes,
            stored_bytes: self.stored.bytes(),
            ring_bytes: self.ring_bytes,
            partial_bytes: self.partial_bytes,
            idle_bytes: self.idle_bytes(),
            held_bytes: self.held_bytes(),
            oldest_queued_ms: u64::from(self.oldest.age_ms.max(self.oldest.age_before_ms)),
            ..Gauges::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_rows(count: u32) -> Connections {
        let now = Now { mono_ms: 0, boot_ms: 0, sub_us: 0, unix_ms: 0 };
        let mut made = Connections::new(ShardId(0), 7, &Config::default(), now);
        for slot in 0..count {
            let conn = ConnectionId { shard: ShardId(0), slot, generation: 1 };
            made.insert(conn, Row::open(1, State::Active, ([127, 0, 0, 1], 9).into(), 0));
        }
        made
    }

    fn flushed(connections: &mut Connections) -> Vec<u32> {
        std::iter::from_fn(|| connections.next_dirty()).map(|conn| conn.slot).collect()
    }

    #[test]
    fn what_is_meant_for_one_goes_before_what_very_many_get_and_nobody_starves() {
        let mut connections = with_rows(20);
        (0..6).for_each(|slot| connections.mark_bulk(slot));
        // One of the many gets something of its own as well; the others have nothing to do with them.
        [5, 10, 11, 12, 13, 14, 5].into_iter().for_each(|slot| connections.mark_dirty(slot));
        let order = flushed(&mut connections);
        assert_eq!(order, [5, 10, 11, 0, 12, 13, 14, 1, 2, 3, 4], "each once, and every fourth is one of the bulk");
        connections.mark_bulk(5);
        connections.mark_bulk(5);
        connections.row_mut(6).blocked = true;
        connections.mark_bulk(6);
        assert!(connections.has_dirty());
        assert_eq!(flushed(&mut connections), [5]);
        assert!(!connections.has_dirty());
    }
}
