//! A worker: one thread, one descriptor table, one epoll, its share of the connections.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddrV4;
use std::time::Duration;

use crate::client::{Connection, State};
use crate::content::{Locator, MARK_LEN, Stream, filler};
use crate::control::{Command, Control};
use crate::plan::Plan;
use crate::stats::{Outcome, histogram};
use crate::sys::{self, Epoll};
use crate::traffic::Schedule;

/// Connects in a row before what has arrived is looked at.
const CONNECTS_MAX: usize = 32;
/// The longest sleep: commands are seen this late.
const SLEEP_MAX: Duration = Duration::from_millis(20);
/// The longest sleep while other workers may complete what a sender here waits for.
const SLEEP_MAX_WAITING: Duration = Duration::from_micros(200);

/// Streams of a connection that are not from senders in its room.
pub(crate) const STREAMS_BESIDE_ROOMS: usize = 3;

/// The state of a worker. `client.rs` has what concerns one connection, `traffic.rs` what is sent and checked.
pub(crate) struct Worker<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) control: &'a Control,
    pub(crate) number: u32,
    /// The servers: one, or the nodes of a cluster.
    pub(crate) targets: &'a [SocketAddrV4],
    /// Index of the first connection of this worker.
    pub(crate) first: u32,
    pub(crate) connections: Vec<Connection>,
    /// Per connection: one per sender of its room, one for its partner, one for broadcasts, one for its partner on another node.
    pub(crate) streams: Vec<Stream>,
    /// Senders per room: what `streams` is indexed by.
    pub(crate) senders: u32,
    pub(crate) epoll: Epoll,
    pub(crate) locator: Locator,
    pub(crate) filler: Vec<u8>,
    /// Received bytes.
    pub(crate) buffer: Vec<u8>,
    /// Frames to be sent on the connection at hand.
    pub(crate) out: Vec<u8>,
    pub(crate) command: Command,
    /// Connects under way.
    pub(crate) inflight: u32,
    /// When to try which connection again.
    pub(crate) retries: VecDeque<(u64, usize)>,
    pub(crate) schedules: Vec<Schedule>,
    /// Senders that send when the last message of their room has reached everybody.
    pub(crate) waiting_rooms: Vec<u32>,
    pub(crate) broadcasts_sent: u32,
    pub(crate) outcome: Outcome,
    connects_done: usize,
    connects_began: u64,
    churn_next: u64,
    churn_turn: usize,
}

/// Runs worker `number` until it is told to quit.
pub(crate) fn run(plan: &Plan, control: &Control, number: u32, targets: &[SocketAddrV4]) -> io::Result<Outcome> {
    sys::private_descriptors()?;
    sys::precise_timers();
    let share = plan.share(number);
    let senders = plan.rooms.as_ref().map_or(0, |rooms| rooms.senders);
    let connections: Vec<_> = share.clone().map(|_| Connection::new()).collect();
    let mut worker = Worker {
        plan,
        control,
        number,
        targets,
        first: share.start,
        streams: vec![Stream::default(); connections.len() * (senders as usize + STREAMS_BESIDE_ROOMS)],
        connections,
        senders,
        epoll: Epoll::new()?,
        locator: Locator::new(),
        filler: filler(plan.size - MARK_LEN),
        buffer: Vec::new(),
        out: Vec::new(),
        command: Command::Wait,
        inflight: 0,
        retries: VecDeque::new(),
        schedules: Vec::new(),
        waiting_rooms: Vec::new(),
        broadcasts_sent: 0,
        outcome: Outcome::new(),
        connects_done: 0,
        connects_began: 0,
        churn_next: 0,
        churn_turn: 0,
    };
    worker.turns()?;
    Ok(worker.outcome)
}

impl Worker<'_> {
    fn turns(&mut self) -> io::Result<()> {
        let mut seen = 0;
        loop {
            let (count, command) = self.control.command();
            if count != seen {
                seen = count;
                self.obey(command);
            }
            if self.command == Command::Quit {
                self.control.publish(self.number, &self.outcome.tally);
                return Ok(());
            }
            if self.command != Command::Wait && self.command != Command::Cut {
                self.connect_due();
            }
            if self.command.sends() {
                self.churn_due();
                self.send_due();
            }
            let timeout = self.timeout();
            let events = self.epoll.wait(timeout)?;
            for event in 0..events {
                self.event(self.epoll.ready(event));
            }
            self.control.publish(self.number, &self.outcome.tally);
        }
    }

    fn obey(&mut self, command: Command) {
        self.command = command;
        let now = self.control.now();
        match command {
            Command::Wait => {}
            Command::Connect => {
                self.connects_done = 0;
                self.connects_began = now;
                self.outcome.connect.push(histogram());
            }
            Command::Run | Command::Hop => {
                self.churn_next = now;
                self.begin_traffic(now);
            }
            Command::Drain => {
                self.schedules.clear();
                self.waiting_rooms.clear();
            }
            Command::Wake => {
                for i in 0..self.connections.len() {
                    if self.plan.is_slow(self.first + i as u32) {
                        self.receive(i, true);
                    }
                }
            }
            Command::Cut | Command::Quit => {
                for connection in &mut self.connections {
                    connection.cut();
                    connection.attempts = 0;
                }
                // Nobody is connected, so what was under way is not any more either.
                self.inflight = 0;
                self.retries.clear();
                self.connects_done = self.connections.len();
                if command == Command::Cut {
                    self.outcome.tally.ready = 0;
                }
            }
        }
    }

    /// Where a connection goes: in a cluster by turns.
    pub(crate) fn target(&self, index: u32) -> SocketAddrV4 {
        self.targets[index as usize % self.targets.len()]
    }

    fn connect_due(&mut self) {
        while let Some(&(due, i)) = self.retries.front()
            && due <= self.control.now()
        {
            self.retries.pop_front();
            self.start(i, due);
        }
        for _ in 0..CONNECTS_MAX {
            let limit = self.plan.inflight;
            if self.connects_done >= self.connections.len() || (limit > 0 && self.inflight >= limit) {
                return;
            }
            let (due, now) = (self.next_connect(), self.control.now());
            if due > now {
                return;
            }
            let i = self.connects_done;
            self.connects_done += 1;
            if self.connections[i].state == State::Absent {
                // Without a rate there is no time at which it should have begun, other than now.
                self.start(i, if self.plan.connect_rate > 0.0 { due } else { now });
            }
        }
    }

    fn next_connect(&self) -> u64 {
        if self.plan.connect_rate > 0.0 {
            let interval = 1e9 * f64::from(self.plan.workers) / self.plan.connect_rate;
            let offset = interval * f64::from(self.number) / f64::from(self.plan.workers);
            self.connects_began + (self.connects_done as f64 * interval + offset) as u64
        } else {
            self.connects_began
        }
    }

    /// Cuts the next of the connections that come and go, and lets it come back.
    fn churn_due(&mut self) {
        let own = (0..self.connections.len()).filter(|&i| self.plan.is_churner(self.first + i as u32));
        let (Some(first), count) = (own.clone().next(), own.count()) else { return };
        let now = self.control.now();
        if now < self.churn_next {
            return;
        }
        let share = count as f64 / f64::from(self.plan.churners);
        self.churn_next += (1e9 / (self.plan.churn_per_second * share)) as u64;
        let i = first + self.churn_turn % count;
        self.churn_turn += 1;
        if self.connections[i].state == State::Ready {
            self.connections[i].cut();
            self.outcome.tally.ready -= 1;
            self.start(i, now);
        }
    }

    fn timeout(&self) -> Duration {
        if self.plan.spin && self.command.sends() {
            return Duration::ZERO;
        }
        let mut due = u64::MAX;
        if let Some(&(retry, _)) = self.retries.front() {
            due = due.min(retry);
        }
        let limit = self.plan.inflight;
        if self.command != Command::Cut
            && self.connects_done < self.connections.len()
            && (limit == 0 || self.inflight < limit)
        {
            due = due.min(self.next_connect());
        }
        if self.command.sends() {
            due = self.schedules.iter().map(Schedule::due).fold(due, u64::min);
            if self.plan.churners > 0 {
                due = due.min(self.churn_next);
            }
        }
        let sleep_max =
            if self.waiting_rooms.is_empty() || self.plan.workers == 1 { SLEEP_MAX } else { SLEEP_MAX_WAITING };
        Duration::from_nanos(due.saturating_sub(self.control.now())).min(sleep_max)
    }

    fn event(&mut self, ready: sys::Ready) {
        let (i, generation) = (ready.token & 0xffff_ffff, (ready.token >> 32) as u16);
        if self.connections[i].generation != generation {
            return;
        }
        if self.connections[i].state == State::Connecting {
            if ready.writable || ready.hung_up {
                self.connected(i);
            }
        } else if ready.writable
            && let Err(error) = self.connections[i].flush()
        {
            self.ended(i, &format!("send: {error}"));
        }
        let sleeps = self.plan.slow_share > 0.0
            && matches!(self.command, Command::Run | Command::Drain)
            && self.plan.is_slow(self.first + i as u32);
        if (ready.readable || ready.hung_up) && !sleeps {
            self.receive(i, ready.hung_up);
        }
    }
}
