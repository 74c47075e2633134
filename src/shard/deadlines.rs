//! Time without timers: one column of deadlines, swept every tick; the rows that are due are looked at.

use crate::error::CloseReason;
use crate::shard::Shard;
use crate::shard::connections::NEVER;
use crate::shard::opening::after;
use crate::shard::row::State;
use crate::shard::session::row_expired;
use crate::time::Now;
use crate::ws::frame::{Opcode, server_frame};

/// Milliseconds after which a session that expires by the wall clock is looked at again.
const WALL_CLOCK_LOOK_MS: u64 = 60_000;

impl Shard {
    /// The periodic sweep.
    pub(super) fn tick(&mut self, now: Now) {
        let now_ds = self.connections.ds(now);
        let due: Vec<u32> = (0u32..)
            .zip(self.connections.deadlines())
            .filter(|(_, deadline)| **deadline <= now_ds)
            .map(|(slot, _)| slot)
            .collect();
        for slot in due {
            self.connections.set_deadline(slot, NEVER);
            self.due(slot, now);
        }
        self.connections.traces.expire(now);
        self.advance_drain(now);
        self.relay.tell_shed();
        self.tick_cluster(now);
        self.keep_house(now);
    }

    /// A row's deadline has come.
    fn due(&mut self, slot: u32, now: Now) {
        if self.expire_question(slot, now) {
            return;
        }
        match self.connections.row(slot).state {
            State::Vacant => {}
            State::Connecting => self.opening_timed_out(slot, now),
            State::Authenticating => {
                self.close(slot, CloseReason::Unauthorized, CloseReason::Unauthorized.text(), now);
            }
            // Its last bytes could not be sent, or the peer does not answer: enough.
            State::Moving => {
                self.close(slot, CloseReason::SlowConsumer, CloseReason::SlowConsumer.text(), now);
            }
            State::Closing => self.forget(slot),
            State::Active | State::Echo => self.check_session(slot, now),
        }
    }

    /// Sets a session's next deadline for the first time.
    pub(super) fn schedule(&mut self, slot: u32, now: Now) {
        let at = self.next_deadline(slot, now);
        self.connections.set_deadline(slot, at);
    }

    /// `/echo` has heartbeats and an idle timeout like any session.
    pub(super) fn start_heartbeat(&mut self, slot: u32, now: Now) {
        self.schedule(slot, now);
    }

    /// Closes a session whose time is up, pings a silent one.
    fn check_session(&mut self, slot: u32, now: Now) {
        if let Some(reason) = self.overdue(slot, now) {
            if reason == CloseReason::Draining {
                self.tell_before_closing(slot, now);
            }
            return self.close(slot, reason, reason.text(), now);
        }
        let now_ds = self.connections.ds(now);
        let interval = self.settings.config.session.heartbeat_interval_ms;
        let row = self.connections.row_mut(slot);
        if !row.pinged && !row.paused.any() && after(row.last_receive_ds, interval) <= now_ds {
            row.pinged = true;
            self.connections.counters.pings_sent += 1;
            self.connections.push_control(slot, server_frame(Opcode::Ping, &[]));
        }
        self.schedule(slot, now);
    }

    /// Why a session must end now, if it must.
    fn overdue(&self, slot: u32, now: Now) -> Option<CloseReason> {
        let (row, now_ds) = (self.connections.row(slot), self.connections.ds(now));
        let config = &self.settings.config;
        if row_expired(row, now) {
            return Some(CloseReason::TokenExpired);
        }
        if self.drain_due(slot, now) {
            return Some(CloseReason::Draining);
        }
        if row.moves_at_ds().is_some_and(|at| at <= now_ds) {
            return Some(CloseReason::Moved);
        }
        if row.is_behind() && after(row.throttled_ds, config.outbox.grace_ms) <= now_ds {
            return Some(CloseReason::SlowConsumer);
        }
        // While it is not read from, nothing can be heard from it.
        if row.paused.any() {
            return None;
        }
        if after(row.last_receive_ds, config.session.heartbeat_timeout_ms) <= now_ds {
            return Some(CloseReason::HeartbeatTimeout);
        }
        if after(row.last_message_ds, config.session.idle_timeout_ms) <= now_ds {
            return Some(CloseReason::IdleTimeout);
        }
        None
    }

    /// The earliest moment at which anything about this session can be due.
    fn next_deadline(&self, slot: u32, now: Now) -> u32 {
        let (row, now_ds) = (self.connections.row(slot), self.connections.ds(now));
        let config = &self.settings.config;
        let mut at = NEVER;
        if row.expires_unix_s != 0 {
            let left_ms = row.expires_unix_s.saturating_mul(1000).saturating_sub(now.unix_ms);
            // The wall clock may step meanwhile.
            let look_ms = left_ms.min(WALL_CLOCK_LOOK_MS);
            at = at.min(now_ds.saturating_add(look_ms.div_ceil(100) as u32));
        }
        if let Some(drained_ds) = self.drain_deadline(slot) {
            at = at.min(drained_ds);
        }
        at = at.min(row.moves_at_ds().unwrap_or(NEVER));
        if row.is_behind() {
            at = at.min(after(row.throttled_ds, config.outbox.grace_ms));
        }
        if !row.paused.any() {
            let session = &config.session;
            let silence = if row.pinged { session.heartbeat_timeout_ms } else { session.heartbeat_interval_ms };
            at = at.min(after(row.last_receive_ds, silence));
            at = at.min(after(row.last_receive_ds, session.heartbeat_timeout_ms));
            at = at.min(after(row.last_message_ds, session.idle_timeout_ms));
        } else {
            at = at.min(now_ds.saturating_add(10));
        }
        at.max(now_ds + 1)
    }
}
