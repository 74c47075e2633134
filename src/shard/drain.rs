//! An orderly end: everyone is told when to reconnect, and is closed at that moment; the moments are spread so that the next node is not run over.

use crate::error::{CloseReason, RefusalReason};
use crate::protocol::reply;
use crate::shard::Shard;
use crate::shard::event::Action;
use crate::shard::opening::{RETRY_AFTER_S, after};
use crate::shard::row::State;
use crate::time::Now;
use crate::ws::handshake::Refusal;

/// Connections told per tick.
const TOLD_PER_TICK: u32 = 2_000;

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    Off,
    Draining {
        /// Tenths of a second since the shard's start.
        since_ds: u32,
        /// Rows below this one have been told.
        told: u32,
        /// Makes each row's moment.
        seed: u64,
        /// The driver knows that everyone is gone.
        reported: bool,
    },
}

/// What a client is told that comes too late.
pub(super) fn refusal() -> Refusal {
    Refusal::new(RefusalReason::Draining, "this node is draining").retry_after(RETRY_AFTER_S)
}

impl Shard {
    pub(super) fn begin_drain(&mut self, now: Now) {
        if self.drain != Drain::Off {
            return;
        }
        let since_ds = self.connections.ds(now);
        self.drain = Drain::Draining { since_ds, told: 0, seed: self.random.u64(..), reported: false };
        self.connections.actions.push_back(Action::CloseListener);
        for slot in self.connections.slots() {
            match self.connections.row(slot).state {
                State::Authenticating => {
                    self.close(slot, CloseReason::GoingAway, CloseReason::GoingAway.text(), now);
                }
                State::Active | State::Echo => self.schedule(slot, now),
                State::Vacant | State::Connecting | State::Moving | State::Closing => {}
            }
        }
        self.retire(now);
        self.advance_drain(now);
        self.drain_progress();
    }

    /// The moment at which a connection is closed, while draining.
    pub(super) fn drain_deadline(&self, slot: u32) -> Option<u32> {
        let Drain::Draining { since_ds, seed, .. } = self.drain else { return None };
        let config = &self.settings.config.drain;
        let spread_ds = (config.spread_ms / 100).max(1);
        // SplitMix64: an even spread that needs no memory per connection.
        let mut z = seed.wrapping_add(u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let jitter_ds = (z ^ (z >> 31)) % spread_ds;
        Some(since_ds.saturating_add((config.grace_ms / 100 + jitter_ds) as u32))
    }

    pub(super) fn drain_due(&self, slot: u32, now: Now) -> bool {
        self.drain_deadline(slot).is_some_and(|at| at <= self.connections.ds(now))
    }

    /// Tells the next connections; closes whoever is left shortly before the deadline.
    pub(super) fn advance_drain(&mut self, now: Now) {
        let Drain::Draining { since_ds, told, .. } = self.drain else { return };
        let now_ds = self.connections.ds(now);
        let config = self.settings.config.drain.clone();
        if after(since_ds, config.deadline_ms) <= now_ds {
            // They were told to go, and had time.
            for slot in self.connections.slots() {
                self.abandon(slot, CloseReason::GoingAway, now);
            }
            return;
        }
        if after(since_ds, config.deadline_ms / 10 * 9) <= now_ds {
            for slot in self.connections.slots() {
                match self.connections.row(slot).state {
                    State::Vacant | State::Closing => {}
                    State::Connecting => self.refuse(slot, &refusal(), now),
                    State::Authenticating | State::Moving | State::Active | State::Echo => {
                        self.close(slot, CloseReason::GoingAway, CloseReason::GoingAway.text(), now);
                    }
                }
            }
            return;
        }
        if since_ds.saturating_add((config.grace_ms / 100) as u32) > now_ds {
            return;
        }
        let end = told.saturating_add(TOLD_PER_TICK).min(self.connections.capacity());
        for slot in told..end {
            self.tell_to_reconnect(slot, now);
        }
        if let Drain::Draining { told, .. } = &mut self.drain {
            *told = end;
        }
    }

    /// A session that began while draining: a hand-over that was on its way.
    pub(super) fn drain_newcomer(&mut self, slot: u32, now: Now) {
        if let Drain::Draining { told, .. } = self.drain
            && slot < told
        {
            self.tell_to_reconnect(slot, now);
        }
    }

    /// Its moment has come before its turn to be told.
    pub(super) fn tell_before_closing(&mut self, slot: u32, now: Now) {
        if let Drain::Draining { told, .. } = self.drain
            && slot >= told
        {
            self.tell_to_reconnect(slot, now);
        }
    }

    fn tell_to_reconnect(&mut self, slot: u32, now: Now) {
        if self.connections.row(slot).state != State::Active {
            return;
        }
        let now_ds = self.connections.ds(now);
        let left_ds = self.drain_deadline(slot).map_or(0, |at| at.saturating_sub(now_ds));
        let url = self.place_elsewhere(slot);
        let capacity = 96 + url.as_ref().map_or(0, String::len);
        let after_ms = u64::from(left_ds) * 100;
        self.say(slot, capacity, |out| reply::reconnect(out, after_ms, url.as_deref(), "draining"), now);
    }

    /// A connection has gone: the last one ends the drain.
    pub(super) fn drain_progress(&mut self) {
        if let Drain::Draining { reported, .. } = &mut self.drain
            && !*reported
            && self.connections.len() == 0
        {
            *reported = true;
            self.connections.actions.push_back(Action::Drained);
        }
    }
}
