//! What coordinator and workers share: the command of the moment, and the counters.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use crate::plan::Plan;
use crate::stats::{Published, SPANS, Tally};

/// What the workers are to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Wait,
    /// Connect everybody who is not, and keep them.
    Connect,
    /// Send as planned.
    Run,
    /// Send as planned, but pairs to the partner on another node.
    Hop,
    /// Send nothing more; take in what is still to come.
    Drain,
    /// The slow ones read, too.
    Wake,
    /// Reset every connection.
    Cut,
    Quit,
}

pub(crate) struct Control {
    epoch: Instant,
    /// A counter in the upper bits, so that the same command can be given twice; the command in the lower eight.
    command: AtomicU32,
    /// Messages meant to be sent in this span are timed.
    measure_from: AtomicU64,
    measure_to: AtomicU64,
    /// Spans of time whose messages are told apart: from when to when.
    spans: [(AtomicU64, AtomicU64); SPANS],
    /// Deliveries per room, for senders that wait for the last one.
    rooms: Vec<AtomicU64>,
    /// Receivers per room.
    pub(crate) room_receivers: Vec<u32>,
    pub(crate) broadcast_receivers: u32,
    /// What the name of each connection's user begins with; where there is none: `u`.
    letters: Vec<u8>,
    counters: Vec<Published>,
    failed: AtomicBool,
}

impl Command {
    /// Whether messages are sent.
    pub(crate) fn sends(self) -> bool {
        matches!(self, Command::Run | Command::Hop)
    }
}

impl Control {
    pub(crate) fn new(plan: &Plan, letters: Vec<u8>) -> Control {
        let rooms = plan.rooms.as_ref().map_or(0, |rooms| rooms.count);
        Control {
            epoch: Instant::now(),
            command: AtomicU32::new(0),
            measure_from: AtomicU64::new(u64::MAX),
            measure_to: AtomicU64::new(u64::MAX),
            spans: [const { (AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)) }; SPANS],
            rooms: (0..rooms).map(|_| AtomicU64::new(0)).collect(),
            room_receivers: (0..rooms).map(|room| plan.room_receivers(room)).collect(),
            broadcast_receivers: plan.broadcast_receivers(),
            letters,
            counters: (0..plan.workers).map(|_| Published::default()).collect(),
            failed: AtomicBool::new(false),
        }
    }

    /// Nanoseconds since the start of the run: the clock of everything.
    pub(crate) fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// The name of a connection's user.
    pub(crate) fn user(&self, index: u32) -> String {
        user(self.letters.get(index as usize).copied().unwrap_or(b'u'), index)
    }

    pub(crate) fn give(&self, command: Command) {
        let count = self.command.load(Ordering::Relaxed) >> 8;
        self.command.store((count + 1) << 8 | command as u32, Ordering::Release);
    }

    /// The command, and a number that changes with each one given.
    pub(crate) fn command(&self) -> (u32, Command) {
        let word = self.command.load(Ordering::Acquire);
        let command = match word & 0xff {
            1 => Command::Connect,
            2 => Command::Run,
            3 => Command::Hop,
            4 => Command::Drain,
            5 => Command::Wake,
            6 => Command::Cut,
            7 => Command::Quit,
            _ => Command::Wait,
        };
        (word >> 8, command)
    }

    pub(crate) fn measure(&self, from: u64, to: u64) {
        self.measure_to.store(to, Ordering::Relaxed);
        self.measure_from.store(from, Ordering::Relaxed);
    }

    pub(crate) fn is_measured(&self, at: u64) -> bool {
        at >= self.measure_from.load(Ordering::Relaxed) && at < self.measure_to.load(Ordering::Relaxed)
    }

    /// Messages that are meant to be sent from now on are of this span.
    pub(crate) fn begin_span(&self, number: usize) {
        self.spans[number].0.store(self.now(), Ordering::Relaxed);
    }

    /// And from now on they are not.
    pub(crate) fn end_span(&self, number: usize) {
        self.spans[number].1.store(self.now(), Ordering::Relaxed);
    }

    /// The span of a message that was meant to be sent at this moment.
    pub(crate) fn span(&self, at: u64) -> Option<usize> {
        self.spans.iter().position(|(from, to)| at >= from.load(Ordering::Relaxed) && at < to.load(Ordering::Relaxed))
    }

    pub(crate) fn room_delivered(&self, room: u32) {
        self.rooms[room as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many of a room's messages have reached everybody.
    pub(crate) fn room_done(&self, room: u32) -> u64 {
        let receivers = u64::from(self.room_receivers[room as usize]).max(1);
        self.rooms[room as usize].load(Ordering::Relaxed) / receivers
    }

    pub(crate) fn publish(&self, worker: u32, tally: &Tally) {
        self.counters[worker as usize].publish(tally);
    }

    /// The counters of all workers.
    pub(crate) fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        for counters in &self.counters {
            sum += counters.read();
        }
        sum
    }

    /// A worker could not go on; the coordinator ends the run.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

/// The name of a user: of one width, so that messages of one kind look alike.
pub(crate) fn user(letter: u8, index: u32) -> String {
    format!("{}{index:08}", char::from(letter))
}
