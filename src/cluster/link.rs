//! Whether the bus can be relied on: two connections, one that carries commands and one that is subscribed, and what is between them.
//!
//! ```text
//!   Down ──both connected──▶ Resync ──subscribed again, announced again──▶ Up
//!    ▲                         │  ▲                                        │
//!    └──────── either is lost ─┴──┴─────── a subscription turned deaf ─────┘
//! ```
//!
//! * A connection that is lost is made again after a jittered back-off that doubles; the first attempt follows almost at once.
//! * Subscribe first, announce second: who is found must be listening.
//! * A connection is not alive because it is open. Commands are hung when the oldest has waited for `redis.timeout`. The subscription is
//!   tested by a *probe* through it: a message to the shard's own channel that must come back. Deaf, it is replaced within
//!   [`PROBE_EVERY_MS`] + [`PROBE_WITHIN_MS`], less than 3 s, while commands go on.
//! * The state is told when it changes, not when an attempt fails: one line in the log, not a thousand.

use std::collections::VecDeque;

/// How often a probe is sent.
pub const PROBE_EVERY_MS: u64 = 1_000;
/// How long a probe may take.
pub const PROBE_WITHIN_MS: u64 = 1_500;
/// The first back-off.
pub const BACKOFF_MIN_MS: u64 = 50;
/// The longest back-off.
pub const BACKOFF_MAX_MS: u64 = 5_000;
/// A connection that lived this long starts its back-off from the beginning.
pub const STEADY_MS: u64 = 10_000;

const _: () = assert!(PROBE_EVERY_MS + PROBE_WITHIN_MS + crate::limits::TICK_MS < 3_000);
const _: () = assert!(BACKOFF_MIN_MS * 2 <= BACKOFF_MAX_MS);

/// Which of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Commands and their answers, and the invalidations of what was read by them.
    Commands,
    /// Subscriptions and what comes by them.
    Subscriber,
}

impl Side {
    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Side::Commands => "commands",
            Side::Subscriber => "subscriptions",
        }
    }
}

/// Whether the bus can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It cannot: what is for another node is refused as `unavailable`.
    Down,
    /// Both connections are there; subscriptions and announcements are being made good.
    Resync,
    /// It can.
    Up,
}

impl State {
    /// The name in metrics, log and `/readyz`.
    pub fn name(self) -> &'static str {
        match self {
            State::Down => "down",
            State::Resync => "resync",
            State::Up => "up",
        }
    }
}

/// Why a connection was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was refused, or could not be made in time.
    Refused,
    /// It ended.
    Ended,
    /// A command had no answer in time.
    Hung,
    /// A probe did not come back.
    Deaf,
}

impl Cause {
    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Refused => "refused",
            Cause::Ended => "ended",
            Cause::Hung => "hung",
            Cause::Deaf => "deaf",
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time passed; how long the oldest unanswered command has waited.
    Tick {
        /// Milliseconds, where there is one.
        oldest_unanswered_ms: Option<u64>,
    },
    /// A connection was made and is authenticated.
    Connected(Side),
    /// A connection could not be made.
    Refused(Side),
    /// A connection ended, or said something that makes it useless.
    Ended(Side),
    /// Every subscription that is wanted is confirmed.
    Subscribed,
    /// Everything that is to be announced is, and was answered.
    Announced,
    /// A probe came back.
    Probe {
        /// Which.
        nonce: u64,
    },
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make this connection.
    Connect(Side),
    /// Shut this connection down and forget it: what ends of it later is not an event any more. Commands without an answer have failed;
    /// routes that were read by it are unknown; subscriptions are gone.
    Drop(Side, Cause),
    /// Subscribe to everything that is wanted, then say [`Event::Subscribed`].
    Subscribe,
    /// Announce everything, in bounded batches, then say [`Event::Announced`].
    Announce,
    /// Publish this probe to the own channel.
    Probe {
        /// What must come back.
        nonce: u64,
    },
    /// The state is another one now.
    Changed(State),
}

/// The state of the two connections to the bus.
#[derive(Clone, Debug)]
pub struct Link {
    timeout_ms: u64,
    commands: Line,
    subscriber: Line,
    subscribed: Progress,
    announced: Progress,
    probe: Option<(u64, u64)>,
    probe_at_ms: u64,
    nonce: u64,
    told: State,
    random: fastrand::Rng,
    actions: VecDeque<Action>,
}

/// One connection.
#[derive(Clone, Copy, Debug)]
enum Line {
    Off { retry_at_ms: u64, backoff_ms: u64 },
    Opening { since_ms: u64, backoff_ms: u64 },
    On { since_ms: u64, backoff_ms: u64 },
}

/// How far one step of the way up is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Needed,
    Asked,
    Done,
}

impl Link {
    /// A link that is down and connects at its first tick. `timeout_ms` is `redis.timeout`; `seed` makes the jitter and the probes.
    pub fn new(timeout_ms: u64, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let off = Line::Off { retry_at_ms: 0, backoff_ms: BACKOFF_MIN_MS };
        Link {
            timeout_ms,
            commands: off,
            subscriber: off,
            subscribed: Progress::Needed,
            announced: Progress::Needed,
            probe: None,
            probe_at_ms: 0,
            nonce: random.u64(..),
            told: State::Down,
            random,
            actions: VecDeque::new(),
        }
    }

    /// Whether the bus can be relied on.
    pub fn state(&self) -> State {
        match (self.commands, self.subscriber) {
            (Line::On { .. }, Line::On { .. }) if self.is_synced() => State::Up,
            (Line::On { .. }, Line::On { .. }) => State::Resync,
            _ => State::Down,
        }
    }

    /// Whether commands can be sent. They can while the subscription is being replaced.
    pub fn carries_commands(&self) -> bool {
        matches!(self.commands, Line::On { .. })
    }

    /// Whether channels can be subscribed to.
    pub fn carries_subscriptions(&self) -> bool {
        matches!(self.subscriber, Line::On { .. })
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event, now_ms: u64) {
        match event {
            Event::Tick { oldest_unanswered_ms } => self.tick(oldest_unanswered_ms, now_ms),
            Event::Connected(side) => {
                let line = self.line(side);
                if let Line::Opening { backoff_ms, .. } = *line {
                    *line = Line::On { since_ms: now_ms, backoff_ms };
                }
            }
            Event::Refused(side) => self.lose(side, Cause::Refused, now_ms),
            Event::Ended(side) => self.lose(side, Cause::Ended, now_ms),
            Event::Subscribed => self.subscribed.done(),
            Event::Announced => self.announced.done(),
            Event::Probe { nonce } => {
                self.probe.take_if(|(expected, _)| *expected == nonce);
            }
        }
        self.advance(now_ms);
    }

    /// Everything is to be announced again (a fresh epoch, or Redis has forgotten), over connections that are well.
    pub fn announce_again(&mut self, now_ms: u64) {
        self.announced = Progress::Needed;
        self.advance(now_ms);
    }

    fn tick(&mut self, oldest_unanswered_ms: Option<u64>, now_ms: u64) {
        for side in [Side::Commands, Side::Subscriber] {
            let timeout_ms = self.timeout_ms;
            let line = self.line(side);
            match *line {
                Line::Off { retry_at_ms, backoff_ms } if now_ms >= retry_at_ms => {
                    *line = Line::Opening { since_ms: now_ms, backoff_ms };
                    self.actions.push_back(Action::Connect(side));
                }
                Line::Opening { since_ms, .. } if now_ms >= since_ms + timeout_ms => {
                    self.lose(side, Cause::Refused, now_ms);
                }
                Line::Off { .. } | Line::Opening { .. } | Line::On { .. } => {}
            }
        }
        if self.carries_commands() && oldest_unanswered_ms.is_some_and(|ms| ms >= self.timeout_ms) {
            self.lose(Side::Commands, Cause::Hung, now_ms);
        }
        self.test_subscription(now_ms);
    }

    /// Probes need both connections. Where commands are hung, that is found by itself, and says nothing about the subscription.
    fn test_subscription(&mut self, now_ms: u64) {
        if self.state() == State::Down || self.subscribed != Progress::Done {
            return;
        }
        match self.probe {
            Some((_, sent_ms)) if now_ms >= sent_ms + PROBE_WITHIN_MS => {
                self.lose(Side::Subscriber, Cause::Deaf, now_ms);
            }
            Some(_) => {}
            None if now_ms >= self.probe_at_ms => {
                self.nonce = self.nonce.wrapping_add(1);
                self.probe = Some((self.nonce, now_ms));
                self.probe_at_ms = now_ms + PROBE_EVERY_MS;
                self.actions.push_back(Action::Probe { nonce: self.nonce });
            }
            None => {}
        }
    }

    fn lose(&mut self, side: Side, cause: Cause, now_ms: u64) {
        let wait = match *self.line(side) {
            Line::Off { .. } => return,
            Line::On { since_ms, .. } if now_ms >= since_ms + STEADY_MS => BACKOFF_MIN_MS,
            Line::Opening { backoff_ms, .. } | Line::On { backoff_ms, .. } => backoff_ms,
        };
        // Half of it is certain, half is drawn: a Redis that comes back is not met by everybody at once.
        let retry_at_ms = now_ms + wait / 2 + self.random.u64(0..=wait / 2);
        *self.line(side) = Line::Off { retry_at_ms, backoff_ms: (wait * 2).min(BACKOFF_MAX_MS) };
        self.probe = None;
        match side {
            Side::Commands => self.announced = Progress::Needed,
            Side::Subscriber => self.subscribed = Progress::Needed,
        }
        self.actions.push_back(Action::Drop(side, cause));
    }

    /// What the state makes possible now.
    fn advance(&mut self, now_ms: u64) {
        if self.carries_subscriptions() && self.subscribed == Progress::Needed {
            self.subscribed = Progress::Asked;
            self.probe_at_ms = now_ms;
            self.actions.push_back(Action::Subscribe);
        }
        if self.carries_commands() && self.subscribed == Progress::Done && self.announced == Progress::Needed {
            self.announced = Progress::Asked;
            self.actions.push_back(Action::Announce);
        }
        let state = self.state();
        if state != self.told {
            self.told = state;
            self.actions.push_back(Action::Changed(state));
        }
    }

    fn is_synced(&self) -> bool {
        self.subscribed == Progress::Done && self.announced == Progress::Done
    }

    fn line(&mut self, side: Side) -> &mut Line {
        match side {
            Side::Commands => &mut self.commands,
            Side::Subscriber => &mut self.subscriber,
        }
    }
}

impl Progress {
    /// Something that was not asked for, or was asked for before a loss, is not progress.
    fn done(&mut self) {
        if *self == Progress::Asked {
            *self = Progress::Done;
        }
    }
}

#[cfg(test)]
mod tests;
