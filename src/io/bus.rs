//! The wires to other nodes, as the reactor sees them: it polls them in its own task, beside the poller, and cancels nothing.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::machine::Machine;
use super::poller::Poller;
use super::reactor::Reactor;
use crate::cluster::agent::{self, Action as AgentAction};
use crate::cluster::link::State;
use crate::cluster::wire::{Incoming, Outgoing};
use crate::ids::ShardId;
use crate::io::clock;
use crate::shard::event::Event;

/// What arrived that is taken in one turn.
const INCOMING_PER_TURN: usize = 512;

/// The connections of one shard to the bus.
pub trait Bus {
    /// Carries out what the shard asks for.
    fn carry_out(&mut self, outgoing: Outgoing, now_ms: u64);
    /// Sends what has gathered.
    fn flush(&mut self, now_ms: u64);
    /// What arrives next. Whoever polls is woken when there is more.
    fn poll_next(&mut self, now_ms: u64, cx: &mut Context<'_>) -> Poll<Incoming>;
    /// How long the oldest unanswered command has waited.
    fn oldest_unanswered_ms(&self, now_ms: u64) -> Option<u64>;
}

/// Makes the wires of a shard, on its thread.
pub type MakeBus = Arc<dyn Fn(ShardId) -> Box<dyn Bus> + Send + Sync>;

/// What a reactor keeps for its wires.
pub(super) struct Wired {
    bus: Box<dyn Bus>,
    /// What has arrived and was not taken yet.
    next: Option<Incoming>,
    /// Something was asked for since the last flush.
    asked: bool,
}

impl std::fmt::Debug for Wired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wired").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Wired {
    pub(super) fn new(bus: Box<dyn Bus>) -> Self {
        Wired { bus, next: None, asked: false }
    }
}

impl<P: Poller, M: Machine> Reactor<P, M> {
    /// Whether there are wires.
    pub(super) fn is_wired(&self) -> bool {
        self.wired.is_some()
    }

    /// Whether something has arrived.
    pub(super) fn poll_bus(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(wired) = &mut self.wired else { return false };
        if wired.next.is_none()
            && let Poll::Ready(incoming) = wired.bus.poll_next(clock::now().mono_ms, cx)
        {
            wired.next = Some(incoming);
        }
        wired.next.is_some()
    }

    /// Takes what has arrived, a bounded part of it, and what is due; whether there may be more.
    pub(super) fn take_bus(&mut self, cx: &mut Context<'_>) -> bool {
        self.now = clock::now();
        let mut left = INCOMING_PER_TURN;
        while left > 0 && self.poll_bus(cx) {
            let Some(incoming) = self.wired.as_mut().and_then(|wired| wired.next.take()) else { break };
            self.feed(None, Event::Bus(incoming));
            left -= 1;
        }
        if self.machine.bus_due_ms(self.now).is_some_and(|due| due <= self.now.mono_ms) {
            self.tick_bus();
        }
        left == 0
    }

    /// Milliseconds until the machine wants to be told that time has passed, beside the ticks.
    pub(super) fn bus_due_in_ms(&self) -> Option<u64> {
        let now = clock::now();
        self.machine.bus_due_ms(now).map(|due| due.saturating_sub(now.mono_ms))
    }

    /// Tells that time has passed, and how long Redis has not answered.
    pub(super) fn tick_bus(&mut self) {
        let Some(wired) = &self.wired else { return };
        let oldest_unanswered_ms = wired.bus.oldest_unanswered_ms(self.now.mono_ms);
        self.feed(None, Event::Bus(Incoming::Agent(agent::Event::Tick { oldest_unanswered_ms })));
    }

    pub(super) fn ask_bus(&mut self, outgoing: Outgoing) {
        if let Outgoing::Agent(AgentAction::Changed(state)) = outgoing {
            self.status().set_bus(state);
        }
        if let Some(wired) = &mut self.wired {
            wired.asked = true;
            wired.bus.carry_out(outgoing, self.now.mono_ms);
        }
    }

    /// A turn ends: what has gathered in it is asked for, and sent.
    pub(super) fn end_turn_of_bus(&mut self) {
        if self.is_wired() {
            self.machine.end_turn(self.now);
            self.act();
            self.flush_bus();
        }
    }

    fn flush_bus(&mut self) {
        if let Some(wired) = &mut self.wired
            && std::mem::take(&mut wired.asked)
        {
            wired.bus.flush(self.now.mono_ms);
        }
    }

    /// Shows that there are wires, before anything is known of them.
    pub(super) fn show_bus(&self) {
        if self.is_wired() {
            self.status().set_bus(State::Down);
        }
    }
}
