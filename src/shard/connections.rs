//! The rows of a shard with what hangs on them: outboxes, the list of connections to flush, the deadline column, and the actions for the driver.
//!
//! What they hold is added up as it changes: see [`Connections::reweigh`]. How messages get into outboxes and out of them is in
//! [`delivery`](super::delivery).

use std::collections::VecDeque;

use crate::config::Config;
use crate::ids::{ConnectionId, ShardId};
use crate::shard::counters::{Counters, Distributions, DropReason};
use crate::shard::event::Action;
use crate::shard::frames::Deflaters;
use crate::shard::gauges::Gauges;
use crate::shard::outbox::{OutboxLimits, Outboxes, Stored};
use crate::shard::row::{NONE, Paused, Row, State};
use crate::shard::weights::Weights;
use crate::time::Now;

/// A deadline that never comes.
pub(super) const NEVER: u32 = u32::MAX;

/// Outboxes asked for their oldest message per tick.
const AGED_PER_TICK: usize = 1024;

/// All connections of a shard.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) shard: ShardId,
    rows: Vec<Row>,
    /// Tenths of a second since the shard's start at which the row wants to be looked at.
    deadlines: Vec<u32>,
    pub(super) outboxes: Outboxes,
    dirty: VecDeque<ConnectionId>,
    pub(super) actions: VecDeque<Action>,
    /// Connections whose outbox ran over while something was being delivered; closed when that is done.
    pub(super) overflowed: Vec<u32>,
    pub(super) counters: Counters,
    pub(super) distributions: Distributions,
    pub(super) deflaters: Deflaters,
    /// The marks that hold now.
    pub(super) limits: OutboxLimits,
    /// The marks as configured.
    pub(super) limits_configured: OutboxLimits,
    /// What each connection holds, frames in full.
    pub(super) weights: Weights,
    /// What the queued frames take up, each once.
    pub(super) stored: Stored,
    /// Bytes queued, over all outboxes.
    pub(super) queued_bytes: u64,
    states: [u32; State::COUNT],
    throttled: u32,
    paused_by_pressure: u32,
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
    pub(super) fn new(shard: ShardId, config: &Config, now: Now) -> Self {
        let mut made = Connections {
            shard,
            rows: Vec::new(),
            deadlines: Vec::new(),
            outboxes: Outboxes::default(),
            dirty: VecDeque::new(),
            actions: VecDeque::new(),
            overflowed: Vec::new(),
            counters: Counters::default(),
            distributions: Distributions::default(),
            deflaters: Deflaters::default(),
            limits: OutboxLimits::default(),
            limits_configured: OutboxLimits::default(),
            weights: Weights::default(),
            stored: Stored::default(),
            queued_bytes: 0,
            states: [0; State::COUNT],
            throttled: 0,
            paused_by_pressure: 0,
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
        if slot >= self.rows.len() {
            self.rows.resize_with(slot + 1, Row::vacant);
            self.deadlines.resize(slot + 1, NEVER);
        }
        debug_assert_eq!(self.rows[slot].state, State::Vacant, "the driver hands out free rows");
        self.states[row.state as usize] += 1;
        self.rows[slot] = row;
        self.reweigh(conn.slot);
    }

    /// Moves a connection on in its life.
    pub(super) fn set_state(&mut self, slot: u32, state: State) {
        let before = std::mem::replace(&mut self.rows[slot as usize].state, state);
        self.states[before as usize] -= 1;
        self.states[state as usize] += 1;
    }

    /// Empties a row. The driver's socket is untouched.
    pub(super) fn remove(&mut self, slot: u32) -> Row {
        let row = std::mem::replace(&mut self.rows[slot as usize], Row::vacant());
        if row.outbox != NONE {
            let outbox = self.outboxes.get(row.outbox);
            self.queued_bytes -= outbox.bytes() as u64;
            self.counters.drop_messages(DropReason::Closed, outbox.queued());
            self.outboxes.release(row.outbox);
        }
        self.weights.set(slot, 0);
        self.deadlines[slot as usize] = NEVER;
        self.states[row.state as usize] -= 1;
        self.throttled -= u32::from(row.paused.contains(Paused::THROTTLED));
        self.paused_by_pressure -= u32::from(row.paused.contains(Paused::PRESSURE));
        row
    }

    /// Adds up again what a connection holds. Call it after anything that changed that.
    #[inline]
    pub(super) fn reweigh(&mut self, slot: u32) {
        let row = &self.rows[slot as usize];
        let outbox = if row.outbox == NONE { 0 } else { self.outboxes.get(row.outbox).held_bytes() };
        self.weights.set(slot, outbox + row.held_bytes());
    }

    /// Bytes held for all connections, each frame once: what counts against the budget.
    #[inline]
    pub(super) fn held_bytes(&self) -> u64 {
        self.partial_bytes() + self.stored.bytes() + self.idle_bytes()
    }

    /// Bytes of capacity kept for reuse.
    fn idle_bytes(&self) -> u64 {
        (self.outboxes.idle_bytes() + self.deflaters.held_bytes()) as u64
    }

    /// Bytes held besides frames.
    fn partial_bytes(&self) -> u64 {
        self.weights.total().saturating_sub(self.queued_bytes)
    }

    /// The row of a connection that is still the one meant.
    pub(super) fn find(&self, conn: ConnectionId) -> Option<u32> {
        let row = self.rows.get(conn.slot as usize)?;
        (conn.shard == self.shard && row.generation == conn.generation && row.state != State::Vacant)
            .then_some(conn.slot)
    }

    pub(super) fn row(&self, slot: u32) -> &Row {
        &self.rows[slot as usize]
    }

    pub(super) fn row_mut(&mut self, slot: u32) -> &mut Row {
        &mut self.rows[slot as usize]
    }

    pub(super) fn id(&self, slot: u32) -> ConnectionId {
        self.row(slot).id(self.shard, slot)
    }

    /// Every row in use.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + use<> {
        let used: Vec<u32> =
            (0..self.rows.len() as u32).filter(|s| self.rows[*s as usize].state != State::Vacant).collect();
        used.into_iter()
    }

    /// Rows, free ones included.
    pub(super) fn capacity(&self) -> u32 {
        self.rows.len() as u32
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
        let row = &mut self.rows[slot as usize];
        if row.paused.contains(why) {
            return;
        }
        if !row.paused.any() {
            self.actions.push_back(Action::PauseReading { conn });
        }
        row.paused.insert(why);
        self.throttled += u32::from(why == Paused::THROTTLED);
        self.paused_by_pressure += u32::from(why == Paused::PRESSURE);
    }

    pub(super) fn resume(&mut self, slot: u32, why: Paused, now: Now) {
        let (conn, now_ds) = (self.id(slot), self.ds(now));
        let row = &mut self.rows[slot as usize];
        if !row.paused.contains(why) {
            return;
        }
        row.paused.remove(why);
        self.throttled -= u32::from(why == Paused::THROTTLED);
        self.paused_by_pressure -= u32::from(why == Paused::PRESSURE);
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

    /// Puts a connection on the dirty list, unless it is there or waits for its socket.
    pub(super) fn mark_dirty(&mut self, slot: u32) {
        let conn = self.id(slot);
        let row = self.row_mut(slot);
        if !row.dirty && !row.blocked {
            row.dirty = true;
            self.dirty.push_back(conn);
        }
    }

    /// The next connection to flush.
    pub(super) fn next_dirty(&mut self) -> Option<ConnectionId> {
        while let Some(conn) = self.dirty.pop_front() {
            if let Some(slot) = self.find(conn) {
                self.row_mut(slot).dirty = false;
                return Some(conn);
            }
        }
        None
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
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
            outboxes: self.outboxes.leased() as u32,
            queued_bytes: self.queued_bytes,
            stored_bytes: self.stored.bytes(),
            partial_bytes: self.partial_bytes(),
            idle_bytes: self.idle_bytes(),
            held_bytes: self.held_bytes(),
            oldest_queued_ms: u64::from(self.oldest.age_ms.max(self.oldest.age_before_ms)),
            ..Gauges::default()
        }
    }
}
