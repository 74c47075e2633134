//! What a shard does when it is short of memory: the steps of the ladder in [`pressure`](super::pressure), and other housekeeping.
//!
//! Every look has a bounded cost, and looks are bounded by ticks and by the bytes that come in between. They happen at the end of an event,
//! never while bytes are being sent.

use crate::error::{CloseReason, RefusalReason};
use crate::limits::{OPENING_CONNECTIONS_MAX, USER_AGENTS_MAX};
use crate::protocol::class::Class;
use crate::shard::Shard;
use crate::shard::counters::DropReason;
use crate::shard::opening::RETRY_AFTER_S;
use crate::shard::pressure::{Change, Level};
use crate::shard::row::{NONE, Paused, State};
use crate::time::Now;
use crate::ws::handshake::Refusal;

/// Heavy connections looked at for something to do, per step and look.
const LOOKED_AT_MAX: usize = 2048;
/// Outboxes shed, connections paused, connections closed per look.
const TREATED_MAX: usize = 64;
/// Rows looked at, where nobody holds much and all together hold too much.
const LIGHT_ROWS_MAX: u32 = 1024;
/// Connections that are read from again per tick.
const RESUMED_PER_TICK: usize = 256;

impl Shard {
    /// After every event: up the ladder, where what is held calls for it.
    #[inline]
    pub(super) fn relieve(&mut self, now: Now) {
        if self.pressure.is_due(self.connections.held_bytes()) {
            self.take_steps(now);
        }
    }

    /// With every tick: down the ladder, and what else need not happen at once.
    pub(super) fn keep_house(&mut self, now: Now) {
        if self.pressure.level() > Level::Calm {
            self.take_steps(now);
        }
        self.resume_light(now);
        self.connections.look_for_oldest(now);
        if self.user_agents.len() >= USER_AGENTS_MAX {
            self.user_agents.retain(|agent, ()| std::rc::Rc::strong_count(agent) > 1);
        }
    }

    #[cold]
    fn take_steps(&mut self, now: Now) {
        let Change { from, to } = self.pressure.look(self.connections.held_bytes());
        if from != to {
            self.level_changed(from, to, now);
        }
        if to >= Level::Shed {
            self.shed_heaviest();
        }
        if to >= Level::Pause {
            self.pause_heaviest(now);
        }
        if to >= Level::Close {
            self.close_heaviest(now);
        }
        // Closing has told others, and somebody may have run over.
        self.close_overflowed(now);
        self.pressure.done(self.connections.held_bytes());
    }

    fn level_changed(&mut self, from: Level, to: Level, now: Now) {
        for level in Level::ALL.into_iter().filter(|level| (from..=to).contains(level) && *level > from) {
            self.connections.counters.pressure_levels[level as usize] += 1;
        }
        self.connections.limits = self.pressure.limits(self.connections.limits_configured);
        if from < Level::Release && to >= Level::Release {
            self.release_idle();
        }
        if self.pressure.may_log(to, now.mono_ms) {
            let gauges = self.gauges();
            let (shard, held, budget) = (self.id.0, gauges.held_bytes, gauges.budget_bytes);
            let (queued, stored, partial) = (gauges.queued_bytes, gauges.stored_bytes, gauges.partial_bytes);
            let rings = gauges.ring_bytes;
            match to {
                Level::Calm => tracing::info!(shard, held, budget, "enough memory again"),
                _ => tracing::warn!(
                    shard,
                    level = to.name(),
                    from = from.name(),
                    held,
                    budget,
                    queued,
                    stored,
                    rings,
                    partial,
                    "short of memory (outbox.shard_budget)"
                ),
            }
        }
    }

    /// Gives back what is only kept for speed.
    fn release_idle(&mut self) {
        self.connections.outboxes.shrink_idle();
        self.connections.deflaters.release();
        self.spare_decoders = Vec::new();
        self.inflater = Default::default();
    }

    /// Of the outboxes of the heaviest: droppable messages, and of each key all but the newest.
    fn shed_heaviest(&mut self) {
        let enough = self.pressure.enough(Level::Shed);
        let connections = &mut self.connections;
        let is_unshed = |slot: &u32| {
            let handle = connections.row(*slot).outbox;
            handle != NONE && !connections.outboxes.get(handle).is_shed()
        };
        let heaviest: Vec<u32> =
            connections.weights.heavy().take(LOOKED_AT_MAX).filter(is_unshed).take(TREATED_MAX).collect();
        for slot in heaviest {
            if connections.held_bytes() < enough {
                return;
            }
            let (freed, dropped, conflated) = connections.on_outbox(slot, |outbox| {
                let (dropped, conflated) = (outbox.dropped(Class::Droppable), outbox.conflated());
                let freed = outbox.shed();
                (freed, outbox.dropped(Class::Droppable) - dropped, outbox.conflated() - conflated)
            });
            if freed > 0 {
                let mut by_class = [0; 4];
                by_class[Class::Droppable as usize] = dropped;
                connections.counters.drop_messages(DropReason::Pressure, by_class);
                connections.counters.conflated += u64::from(conflated);
                connections.counters.pressure_sheds += 1;
                connections.counters.pressure_shed_bytes += freed as u64;
            }
        }
    }

    /// Those who take least of what they get are not read from: what they would still ask for would only add to it. Whoever is in the
    /// middle of a message is: the end of it frees more.
    fn pause_heaviest(&mut self, now: Now) {
        let connections = &mut self.connections;
        let (now_ds, mean) = (connections.ds(now), connections.weights.mean());
        let may_pause = |slot: &u32| {
            let row = connections.row(*slot);
            let heavy = u64::from(connections.weights.of(*slot)) >= mean && row.blocked && row.decoder.is_none();
            heavy && matches!(row.state, State::Active | State::Echo) && !row.is_behind()
        };
        let heaviest: Vec<u32> =
            connections.weights.heavy().take(LOOKED_AT_MAX).filter(may_pause).take(TREATED_MAX).collect();
        for slot in heaviest {
            connections.row_mut(slot).throttled_ds = now_ds;
            connections.pause(slot, Paused::PRESSURE);
            connections.bring_forward(slot, now_ds + 1);
            connections.counters.pressure_pauses += 1;
            self.paused_by_pressure.push(connections.id(slot));
        }
    }

    /// Reads again from those who do not hold much any more, and from all once there is memory enough.
    fn resume_light(&mut self, now: Now) {
        let relaxed = self.pressure.level() < Level::Pause;
        let mut left = RESUMED_PER_TICK;
        let connections = &mut self.connections;
        self.paused_by_pressure.retain(|conn| {
            let Some(slot) = connections.find(*conn) else { return false };
            if !connections.row(slot).paused.contains(Paused::PRESSURE) {
                return false;
            }
            if left == 0 || !(relaxed || connections.weights.is_light(slot)) {
                return true;
            }
            left -= 1;
            connections.resume(slot, Paused::PRESSURE, now);
            false
        });
    }

    /// Ends the connections that hold most, until there is enough.
    fn close_heaviest(&mut self, now: Now) {
        let enough = self.pressure.enough(Level::Close);
        for _ in 0..TREATED_MAX {
            if self.connections.held_bytes() < enough {
                return;
            }
            let heaviest = self.connections.weights.heaviest().or_else(|| self.heaviest_of_some());
            let Some(slot) = heaviest else { return };
            self.connections.counters.pressure_closes += 1;
            self.give_up(slot, now);
        }
    }

    /// Ends one connection and frees what it holds. The close frame still goes out, behind a frame that is partly sent.
    fn give_up(&mut self, slot: u32, now: Now) {
        match self.connections.row(slot).state {
            State::Vacant => debug_assert!(false, "a free row holds nothing"),
            State::Connecting => self.refuse(slot, &short_of_memory(), now),
            // It was told already, and still holds much.
            State::Closing => self.forget(slot),
            State::Authenticating | State::Moving | State::Active | State::Echo => {
                self.close(slot, CloseReason::SlowConsumer, "slow consumer: the node is short of memory", now);
            }
        }
    }

    /// Where nobody is heavy: the heaviest of some, others each time.
    fn heaviest_of_some(&mut self) -> Option<u32> {
        let rows = self.connections.capacity();
        let start = if rows == 0 { 0 } else { self.random.u32(..rows) };
        (0..rows.min(LIGHT_ROWS_MAX))
            .map(|offset| (start + offset) % rows)
            .max_by_key(|slot| self.connections.weights.of(*slot))
            .filter(|slot| self.connections.weights.of(*slot) > 0)
    }

    /// One more connection is opening: the oldest of those who take too long makes room, if there are too many.
    pub(super) fn bound_opening(&mut self, slot: u32, now: Now) {
        self.opening_order.push_back(self.connections.id(slot));
        let is_opening = |shard: &Shard, conn| {
            let found = shard.connections.find(conn);
            found.filter(|slot| matches!(shard.connections.row(*slot).state, State::Connecting | State::Authenticating))
        };
        while self.connections.opening() > OPENING_CONNECTIONS_MAX {
            let Some(oldest) = self.opening_order.pop_front() else { return };
            let Some(slot) = is_opening(self, oldest) else { continue };
            match self.connections.row(slot).state {
                State::Connecting => {
                    let text = "too many connections are opening at once";
                    let refusal = Refusal::new(RefusalReason::Opening, text).retry_after(RETRY_AFTER_S);
                    self.refuse(slot, &refusal, now);
                }
                _ => self.close(slot, CloseReason::TryAgainLater, CloseReason::TryAgainLater.text(), now),
            }
        }
        // Most have become sessions since: forget them, in time that their number pays for.
        if self.opening_order.len() > 2 * self.connections.opening() + 64 {
            let mut order = std::mem::take(&mut self.opening_order);
            order.retain(|conn| is_opening(self, *conn).is_some());
            order.shrink_to(4 * OPENING_CONNECTIONS_MAX);
            self.opening_order = order;
        }
    }

    /// Why a new connection cannot be had now, if it cannot.
    pub(super) fn refused_by_pressure(&self) -> Option<Refusal> {
        (self.pressure.level() >= Level::Refuse).then(short_of_memory)
    }
}

fn short_of_memory() -> Refusal {
    Refusal::new(RefusalReason::Pressure, "this node is short of memory").retry_after(RETRY_AFTER_S)
}
