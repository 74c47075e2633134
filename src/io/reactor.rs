//! The reactor: takes a turn of everything that happened on one shard, drives its state machine, and writes.
//!
//! A turn is that of [`event`](crate::shard::event): feed, act, flush, pass on envelopes. It never waits. What the state machine asks for is
//! carried out after each single event, so that no event about a connection follows a decision that ended it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::bus::{Bus, Wired};
use super::clock::{self, Ticker};
use super::counters::{Counters, Distributions};
use super::desk::{Asking, Desk};
use super::flush::Flush;
use super::listener::Listener;
use super::machine::Machine;
use super::moves::Moves;
use super::poller::{Interest, Poller, RECEIVE_BATCH, Readiness, Ready, Receive, Subject, Token};
use super::rows::{Phase, Rows};
use super::shards::{Command, Shared};
use crate::ids::{ConnectionId, ShardId};
use crate::mesh::handoff::HandoffPort;
use crate::mesh::{DRAIN_PARCELS, MeshPort};
use crate::protocol::envelope::Envelope;
use crate::shard::event::{Action, Event};
use crate::time::Now;

/// Commands of the tasks beside it that are taken in one turn.
const COMMANDS_PER_TURN: usize = 256;

pub(super) const LISTENER: Token = Token::source(0);
const BELL: Token = Token::source(1);
const ARRIVALS: Token = Token::source(2);
const TICKER: Token = Token::source(3);

/// Envelopes taken from each neighbour per turn while the flush is behind.
const DRAIN_BEHIND: usize = 16;

/// What a reactor is made of, besides its poller and its state machine.
pub struct Parts {
    /// Its shard.
    pub id: ShardId,
    /// Its end of the mesh.
    pub mesh: MeshPort<Envelope>,
    /// Its end of the hand-overs.
    pub handoff: HandoffPort,
    /// What the control thread tells it.
    pub commands: Arc<ArrayQueue<Command>>,
    /// What all shards share.
    pub shared: Arc<Shared>,
    /// Its timer.
    pub ticker: Ticker,
    /// Where the tasks beside it leave commands.
    pub desk: Rc<Desk>,
    /// Its wires to other nodes, where there are any.
    pub bus: Option<Box<dyn Bus>>,
}

/// See the module.
#[derive(Debug)]
pub struct Reactor<P, M> {
    pub(super) id: ShardId,
    pub(super) machine: M,
    pub(super) poller: P,
    pub(super) rows: Rows,
    pub(super) now: Now,
    pub(super) counters: Counters,
    pub(super) distributions: Distributions,
    pub(super) mesh: MeshPort<Envelope>,
    pub(super) handoff: HandoffPort,
    pub(super) shared: Arc<Shared>,
    pub(super) listener: Option<Listener>,
    pub(super) moves: Moves,
    pub(super) flush: Flush,
    pub(super) wired: Option<Wired>,
    /// Connections that hold none of `limits.connections`.
    pub(super) unreserved: usize,
    commands: Arc<ArrayQueue<Command>>,
    desk: Rc<Desk>,
    row: Vec<u64>,
    ticker: Ticker,
    ready: Vec<Ready>,
    pub(super) readable: VecDeque<u32>,
    pub(super) receives: Vec<Receive>,
    pub(super) receiving: Vec<ConnectionId>,
    pub(super) closing: Vec<u32>,
    pub(super) stopped: bool,
}

/// Calls the state machine; a panic in it is the `Err`. It is one connection's then, which is ended: nothing goes on with what it left behind.
pub(super) fn caught<R>(call: impl FnOnce() -> R) -> std::thread::Result<R> {
    catch_unwind(AssertUnwindSafe(call))
}

impl<P: Poller, M: Machine> Reactor<P, M> {
    /// Registers the shard's own descriptors.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one of them.
    pub fn new(mut poller: P, machine: M, listener: Option<Listener>, parts: Parts) -> io::Result<Self> {
        let Parts { id, mesh, handoff, commands, shared, ticker, desk, bus } = parts;
        poller.arm(BELL, mesh.bell_fd(), Interest::Read)?;
        poller.arm(ARRIVALS, handoff.fd(), Interest::Read)?;
        poller.arm(TICKER, ticker.fd(), Interest::Read)?;
        if let Some(listener) = &listener {
            poller.arm(LISTENER, listener.fd(), Interest::Read)?;
        }
        let reactor = Reactor {
            id,
            machine,
            poller,
            rows: Rows::default(),
            now: clock::now(),
            counters: Counters::default(),
            distributions: Distributions::default(),
            mesh,
            handoff,
            shared,
            listener,
            moves: Moves::default(),
            flush: Flush::new(),
            unreserved: 0,
            commands,
            desk,
            row: Vec::new(),
            ticker,
            ready: Vec::new(),
            readable: VecDeque::new(),
            receives: Vec::with_capacity(RECEIVE_BATCH),
            receiving: Vec::with_capacity(RECEIVE_BATCH),
            closing: Vec::new(),
            stopped: false,
            wired: bus.map(Wired::new),
        };
        reactor.show_bus();
        Ok(reactor)
    }

    /// Takes one turn; whether there was anything to do, and so may be again.
    ///
    /// # Errors
    ///
    /// When the poller is broken: the shard cannot go on.
    pub fn turn(&mut self) -> io::Result<bool> {
        self.now = clock::now();
        let began_us = clock::mono_us();
        self.counters.turns += 1;
        let mut busy = self.take_readiness()?;
        busy |= self.take_commands();
        busy |= self.take_orders();
        busy |= self.take_envelopes();
        busy |= self.take_arrivals();
        busy |= self.accept();
        busy |= self.receive()?;
        busy |= self.flush()?;
        busy |= self.pass_on_envelopes();
        self.end_turn_of_bus();
        self.depart();
        self.finish_closes()?;
        self.poller.submit()?;
        self.status().set_rows(self.rows.in_use());
        if busy {
            self.distributions.turn_us.record(clock::mono_us().saturating_sub(began_us));
        }
        Ok(busy
            || !self.readable.is_empty()
            || self.listener.as_ref().is_some_and(|l| l.wants_accept(self.now.mono_ms)))
    }

    /// Announces that this shard sleeps; `false`: something came meanwhile, take another turn.
    pub fn sleep(&mut self) -> bool {
        let Reactor { machine, poller, mesh, handoff, moves, commands, desk, .. } = self;
        if poller.has_collected() {
            return false;
        }
        let asleep = mesh.sleep(|| {
            // A neighbour that made room while we were awake did not ring. So what waits for room looks for it once more, now that it would.
            let others = || (0..mesh.shards()).map(|to| ShardId(to as u16));
            handoff.waiting_for().for_each(|to| mesh.wait_for(to));
            !commands.is_empty()
                || !desk.is_empty()
                || others().any(|to| machine.outgoing_bytes(to).is_some_and(|bytes| mesh.has_room(to, bytes)))
                || moves.retry(handoff)
        });
        self.counters.sleeps += u64::from(asleep);
        asleep
    }

    /// Ends the sleep.
    pub fn awake(&mut self) {
        self.mesh.awake();
    }

    /// Whether the shard was told to stop.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Where the tasks beside it leave commands.
    pub fn desk(&self) -> Rc<Desk> {
        self.desk.clone()
    }

    /// What the runtime waits on.
    ///
    /// # Errors
    ///
    /// When there is no descriptor left.
    pub fn wait_fd(&self) -> io::Result<std::os::fd::OwnedFd> {
        self.poller.wait_fd()
    }

    /// Registers the socket of a row.
    pub(super) fn arm(&mut self, slot: u32) {
        let Some(row) = self.rows.get_mut(slot) else { return };
        let (token, conn) = (row.token(slot), row.generation);
        let Some(fd) = row.fd.as_ref() else { return };
        match self.poller.arm(token, std::os::fd::AsFd::as_fd(fd), Interest::Stream) {
            Ok(()) => row.armed = true,
            Err(e) => {
                tracing::warn!(error = %e, "a connection cannot be watched and is closed");
                self.end(slot, conn);
            }
        }
    }

    pub(super) fn connection(&self, slot: u32, generation: u32) -> ConnectionId {
        ConnectionId { shard: self.id, slot, generation }
    }

    pub(super) fn status(&self) -> &super::counters::Status {
        &self.shared.statuses[self.id.index()]
    }

    /// One event for the state machine, and what it asks for. A panic ends the connection that it was about, and no other.
    pub(super) fn feed(&mut self, conn: Option<ConnectionId>, event: Event<'_>) {
        let (machine, now) = (&mut self.machine, self.now);
        let handled = caught(|| machine.handle(event, now));
        self.after(conn, handled);
    }

    pub(super) fn after(&mut self, conn: Option<ConnectionId>, handled: std::thread::Result<()>) {
        match (handled, conn) {
            (Ok(()), _) => {}
            (Err(_), Some(conn)) => self.panicked(conn, false),
            (Err(_), None) => self.panicked_for_nobody(),
        }
        self.act();
    }

    fn panicked_for_nobody(&mut self) {
        self.counters.panics += 1;
        tracing::error!(shard = self.id.0, "a panic outside any connection's event was caught");
    }

    /// A panic was caught in an event of this connection, or while something was sent to it.
    pub(super) fn panicked(&mut self, conn: ConnectionId, sending: bool) {
        self.counters.panics += 1;
        let shown = conn.of(self.machine.instance());
        tracing::error!(connection = %shown, "a panic was caught; its connection is closed");
        let (machine, now) = (&mut self.machine, self.now);
        if caught(|| machine.handle(Event::Panicked { conn, sending }, now)).is_err() {
            // It still has what it knows of this connection, perhaps half of it: nobody may get that under the same number.
            self.counters.panics += 1;
            tracing::error!(connection = %shown, "its end could not be handled either; its row is not used again");
            if let Some(row) = self.rows.open(conn.slot, conn.generation) {
                row.quarantined = true;
            }
            self.close(conn);
        }
    }

    /// Carries out what the state machine asks for.
    pub(super) fn act(&mut self) {
        while let Some(action) = self.machine.next_action() {
            match action {
                Action::Close { conn } => self.close(conn),
                Action::ShutdownWrite { conn } => {
                    if let Some(fd) = self.rows.open(conn.slot, conn.generation).and_then(|row| row.fd.as_ref()) {
                        // Fails only where the peer has gone, and then the end follows.
                        let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Write);
                    }
                }
                Action::PauseReading { conn } => {
                    if let Some(row) = self.rows.open(conn.slot, conn.generation) {
                        row.paused = true;
                    }
                }
                Action::ResumeReading { conn } => {
                    if let Some(row) = self.rows.open(conn.slot, conn.generation) {
                        row.paused = false;
                        if std::mem::take(&mut row.missed) {
                            self.want_receive(conn.slot);
                        }
                    }
                }
                Action::HandOver { conn, to, state } => self.begin_move(conn, to, state),
                Action::Tell(happening) => {
                    self.counters.happenings_lost += u64::from(!self.shared.tell(self.id, happening));
                }
                Action::Ask { conn, number, question } => self.desk.ask(Asking { conn, number, question }),
                Action::CommandDone { ticket, outcome } => self.desk.done(ticket, outcome),
                Action::Probe { ticket, conns } => {
                    let rtts_us = conns.iter().map(|conn| self.rtt_us(*conn)).collect();
                    self.feed(None, Event::Probed { ticket, rtts_us });
                }
                Action::Bus(outgoing) => self.ask_bus(outgoing),
                Action::CloseListener => self.close_listener(),
                Action::Left => {
                    self.status().set_left();
                    self.shared.ring_control();
                }
                Action::Drained => {
                    self.status().set_drained();
                    self.shared.ring_control();
                }
            }
        }
    }

    fn take_readiness(&mut self) -> io::Result<bool> {
        let mut ready = std::mem::take(&mut self.ready);
        self.poller.collect(&mut ready)?;
        let busy = !ready.is_empty();
        for Ready { token, readiness } in ready.drain(..) {
            match token.subject() {
                Subject::Row(slot, low_generation) => self.row_ready(slot, low_generation, readiness),
                Subject::Source(_) => self.source_ready(token, readiness)?,
            }
        }
        self.ready = ready;
        Ok(busy)
    }

    fn source_ready(&mut self, source: Token, readiness: Readiness) -> io::Result<()> {
        match source {
            LISTENER => {
                if let Some(listener) = &mut self.listener {
                    listener.set_ready();
                    if readiness.gone {
                        self.poller.arm(LISTENER, listener.fd(), Interest::Read)?;
                    }
                }
                return Ok(());
            }
            BELL if readiness.gone => self.poller.arm(BELL, self.mesh.bell_fd(), Interest::Read)?,
            ARRIVALS => {
                self.moves.arrivals = true;
                if readiness.gone {
                    self.poller.arm(ARRIVALS, self.handoff.fd(), Interest::Read)?;
                }
            }
            TICKER => {
                if readiness.gone {
                    self.poller.arm(TICKER, self.ticker.fd(), Interest::Read)?;
                }
                if self.ticker.take() > 0 {
                    self.tick();
                }
            }
            _ => {}
        }
        if readiness.failed {
            return Err(io::Error::other("one of the shard's own descriptors cannot be watched"));
        }
        Ok(())
    }

    fn row_ready(&mut self, slot: u32, low_generation: u32, readiness: Readiness) {
        let Some(row) = self.rows.by_token(slot, low_generation) else { return };
        row.armed &= !readiness.gone;
        let generation = row.generation;
        match row.phase {
            Phase::Free | Phase::Quarantined => {}
            Phase::Closing => self.rows.free_if_done(slot),
            Phase::Moving if readiness.gone => self.moves.departing.push(slot),
            Phase::Moving => {}
            Phase::Open => {
                row.hangup |= readiness.hangup;
                let unblocked = readiness.write && std::mem::take(&mut row.blocked);
                if readiness.read || readiness.hangup {
                    self.want_receive(slot);
                }
                if unblocked {
                    let conn = self.connection(slot, generation);
                    self.feed(Some(conn), Event::Writable { conn });
                }
                if readiness.failed {
                    self.end(slot, generation);
                } else if readiness.gone && self.rows.open(slot, generation).is_some() {
                    // The kernel gave up on this poll (its completion did not fit): a new one reports anew.
                    self.arm(slot);
                }
            }
        }
    }

    fn tick(&mut self) {
        self.counters.doorbells = self.mesh.rings();
        self.counters.completion_overflows = self.poller.overflows();
        let mut row = std::mem::take(&mut self.row);
        self.status().publish(&self.counters, &self.distributions, &self.machine, &mut row);
        self.row = row;
        if let Some(listener) = &mut self.listener {
            listener.tick();
        }
        self.feed(None, Event::Tick);
        self.tick_bus();
        self.wake_stalled();
    }

    fn take_commands(&mut self) -> bool {
        let mut busy = false;
        while let Some(command) = self.commands.pop() {
            busy = true;
            match command {
                Command::Drain => self.feed(None, Event::Drain),
                Command::Leave => self.feed(None, Event::Leave),
                Command::Reload(settings) => {
                    self.desk.set_settings(settings.clone());
                    self.feed(None, Event::Reload(settings));
                }
                Command::Probe(number) => self.status().set_answered(number),
                Command::Stop => self.stop(),
            }
        }
        busy
    }

    /// What the tasks beside the reactor ask for, and what services say; a bounded part of it, so that clients are served between a large batch's parts.
    fn take_orders(&mut self) -> bool {
        for _ in 0..COMMANDS_PER_TURN {
            let Some((ticket, command)) = self.desk.take() else { break };
            self.feed(None, Event::Command { ticket, command });
        }
        for _ in 0..COMMANDS_PER_TURN {
            let Some((conn, number, verdict)) = self.desk.take_verdict() else { break };
            // Of another shard's connection it is only passed on.
            let about = (conn.shard == self.id).then_some(conn);
            self.feed(about, Event::Verdict { conn, number, verdict });
        }
        !self.desk.is_empty()
    }

    fn rtt_us(&mut self, conn: ConnectionId) -> Option<u32> {
        let row = self.rows.open(conn.slot, conn.generation)?;
        super::tcp::rtt_us(row.fd.as_ref()?.as_fd())
    }

    fn take_envelopes(&mut self) -> bool {
        let most = if self.flush.behind { DRAIN_BEHIND } else { DRAIN_PARCELS };
        let Reactor { mesh, machine, counters, now, .. } = self;
        let before = counters.envelopes_in;
        let mut panics = 0;
        let more = mesh.drain(most, |from, envelope| {
            counters.envelopes_in += 1;
            let event = Event::Envelope { from, envelope };
            panics += u64::from(caught(|| machine.handle(event, *now)).is_err());
        });
        let busy = more || self.counters.envelopes_in != before;
        for _ in 0..panics {
            self.panicked_for_nobody();
        }
        if busy {
            self.act();
        }
        busy
    }

    fn pass_on_envelopes(&mut self) -> bool {
        let Reactor { mesh, machine, counters, now, .. } = self;
        let mut busy = false;
        for to in (0..mesh.shards()).map(|to| ShardId(to as u16)) {
            let mut pushed = false;
            while machine.outgoing_bytes(to).is_some_and(|bytes| mesh.has_room(to, bytes)) {
                let Some(envelope) = machine.take_outgoing(to, *now) else { break };
                let push = mesh.push(to, envelope);
                debug_assert!(push.is_ok(), "there was room");
                counters.envelopes_out += 1;
                pushed = true;
            }
            if pushed {
                mesh.ring(to);
                busy = true;
            }
        }
        if busy {
            // What has left may let a client go on.
            self.act();
        }
        busy
    }
}
