//! The ladder that a shard goes up when what it holds for its connections comes near its budget (`outbox.shard_budget`).
//!
//! | level | from | until below | what is given up |
//! |---|---|---|---|
//! | [`Release`](Level::Release) | 50 % | 40 % | idle capacity: pooled outboxes, spare decoders, compressors |
//! | [`Shed`](Level::Shed) | 65 % | 55 % | of the heaviest outboxes, droppable messages and all but the newest of each key; a quarter of the marks |
//! | [`Pause`](Level::Pause) | 75 % | 65 % | reading from the heaviest; whoever stays paused past the grace is closed (4110) |
//! | [`Close`](Level::Close) | 85 % | 75 % | the heaviest connections (4110) |
//! | [`Refuse`](Level::Refuse) | 95 % | 80 % | new connections: 503 with `Retry-After` |
//!
//! Each level includes those before it. Going up takes one look, however far; going down, one level after another, each at its own lower
//! mark. Counted is what is really held: a frame in many outboxes once, and every connection's own rings, partial messages and
//! compression contexts. Chosen is by what a connection holds, shared frames in full: so one bad tenant pays before a thousand good ones.
//!
//! This is the arithmetic; what is done about it is in `relief`. Pure: numbers in, a level out.

use crate::shard::outbox::OutboxLimits;

/// How short of memory a shard is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Not at all.
    #[default]
    Calm,
    /// Idle capacity is released.
    Release,
    /// Messages are conflated and dropped early.
    Shed,
    /// The heaviest connections are not read from.
    Pause,
    /// The heaviest connections are closed.
    Close,
    /// New connections are refused.
    Refuse,
}

impl Level {
    /// Every level, in order.
    pub const ALL: [Level; 6] = [Level::Calm, Level::Release, Level::Shed, Level::Pause, Level::Close, Level::Refuse];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Level::Calm => "calm",
            Level::Release => "release",
            Level::Shed => "shed",
            Level::Pause => "pause",
            Level::Close => "close",
            Level::Refuse => "refuse",
        }
    }

    /// Percent of the budget from which on, and below which no more.
    const fn marks(self) -> (u64, u64) {
        match self {
            Level::Calm => (0, 0),
            Level::Release => (50, 40),
            Level::Shed => (65, 55),
            Level::Pause => (75, 65),
            Level::Close => (85, 75),
            Level::Refuse => (95, 80),
        }
    }

    fn below(self) -> Level {
        Level::ALL[(self as usize).saturating_sub(1)]
    }
}

/// How long nothing is said again about a level that was said something about, in milliseconds.
const QUIET_MS: u64 = 10_000;
/// What part of the budget must have been added for another look between ticks.
const LOOK_AGAIN_PART: u64 = 64;
/// Marks under pressure are not set below this.
const SHED_HIGH_MIN: usize = 16 * 1024;
/// The part of its high mark at which an outbox is throttled under pressure.
const SHED_HIGH_PART: usize = 4;

/// Where a shard is on the ladder.
#[derive(Debug)]
pub(super) struct Pressure {
    budget: u64,
    level: Level,
    /// Bytes held at which to look again.
    look_at: u64,
    logged_ms: [Option<u64>; Level::ALL.len()],
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) from: Level,
    pub(super) to: Level,
}

impl Pressure {
    /// A `budget` of 0 is none.
    pub(super) fn new(budget: u64) -> Self {
        let mut made =
            Pressure { budget: 0, level: Level::Calm, look_at: u64::MAX, logged_ms: [None; Level::ALL.len()] };
        made.set_budget(budget);
        made
    }

    /// Takes another budget; the next look goes by it.
    pub(super) fn set_budget(&mut self, budget: u64) {
        self.budget = budget;
        self.look_at = if budget == 0 { u64::MAX } else { 0 };
        if budget == 0 {
            self.level = Level::Calm;
        }
    }

    pub(super) fn budget(&self) -> u64 {
        self.budget
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// Whether that much calls for a look before the next tick. This is all that it costs while there is enough.
    #[inline]
    pub(super) fn is_due(&self, held: u64) -> bool {
        held >= self.look_at
    }

    /// Finds the level for what is held.
    pub(super) fn look(&mut self, held: u64) -> Change {
        let from = self.level;
        if self.budget == 0 {
            return Change { from, to: from };
        }
        while self.level > Level::Calm && held < self.percent(self.level.marks().1) {
            self.level = self.level.below();
        }
        let reached = Level::ALL.into_iter().rev().find(|level| held >= self.percent(level.marks().0));
        self.level = self.level.max(reached.unwrap_or_default());
        Change { from, to: self.level }
    }

    /// When to look again, after everything has been done: at the next level, or when a good deal has been added.
    pub(super) fn done(&mut self, held: u64) {
        if self.budget == 0 {
            return;
        }
        let next = Level::ALL.get(self.level as usize + 1).map_or(u64::MAX, |level| self.percent(level.marks().0));
        let more = held.saturating_add((self.budget / LOOK_AGAIN_PART).max(1));
        self.look_at = if self.level == Level::Calm { next } else { next.min(more).max(held + 1) };
    }

    /// Bytes below which nobody needs to be shed, paused or closed any more.
    pub(super) fn enough(&self, level: Level) -> u64 {
        self.percent(level.marks().1)
    }

    /// The marks of outboxes at this level. What is off stays off, but for `high`: unbounded outboxes are what brought the shard here.
    pub(super) fn limits(&self, limits: OutboxLimits) -> OutboxLimits {
        if self.level < Level::Shed {
            return limits;
        }
        let unbounded = usize::try_from(self.budget / 256).unwrap_or(usize::MAX);
        let full = if limits.high == 0 { unbounded.max(SHED_HIGH_MIN) } else { limits.high };
        let high = (full / SHED_HIGH_PART).max(SHED_HIGH_MIN).min(full);
        OutboxLimits { high, low: limits.low.min(high / 2), max: limits.max }
    }

    /// Whether to say that a level was reached.
    pub(super) fn may_log(&mut self, level: Level, now_ms: u64) -> bool {
        let logged = &mut self.logged_ms[level as usize];
        let quiet = logged.is_some_and(|at| now_ms.saturating_sub(at) < QUIET_MS);
        if !quiet {
            *logged = Some(now_ms);
        }
        !quiet
    }

    fn percent(&self, percent: u64) -> u64 {
        (u128::from(self.budget) * u128::from(percent) / 100) as u64
    }
}

const _: () = {
    let mut at = 1;
    while at < Level::ALL.len() {
        let ((on, off), (on_before, off_before)) = (Level::ALL[at].marks(), Level::ALL[at - 1].marks());
        assert!(off < on && on_before < on && off_before < off && on <= 100);
        // A level that was left is not entered again by a look at the same bytes.
        assert!(off_before < off);
        at += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ladder_has_hysteresis() {
        let mut pressure = Pressure::new(1000);
        let table = [
            (0, Level::Calm),
            (499, Level::Calm),
            (500, Level::Release),
            (400, Level::Release),
            (399, Level::Calm),
            (650, Level::Shed),
            (550, Level::Shed),
            (549, Level::Release),
            (749, Level::Shed),
            (750, Level::Pause),
            (850, Level::Close),
            (750, Level::Close),
            (749, Level::Pause),
            (949, Level::Close),
            (950, Level::Refuse),
            (800, Level::Refuse),
            (799, Level::Close),
            (5000, Level::Refuse),
            (0, Level::Calm),
        ];
        for (held, level) in table {
            assert_eq!(pressure.look(held).to, level, "{held}");
        }
    }

    #[test]
    fn without_a_budget_nothing_is_ever_due() {
        let mut pressure = Pressure::new(0);
        pressure.done(7);
        assert!(!pressure.is_due(u64::MAX - 1));
        assert_eq!(pressure.look(u64::MAX), Change { from: Level::Calm, to: Level::Calm });
        pressure.set_budget(100);
        assert!(pressure.is_due(0), "another budget is looked at at once");
        assert_eq!(pressure.look(96).to, Level::Refuse);
        pressure.set_budget(0);
        assert_eq!(pressure.level(), Level::Calm);
    }

    #[test]
    fn marks_are_smaller_under_pressure() {
        let limits = |high, low, max| OutboxLimits { high, low, max };
        const KIB: usize = 1024;
        let table = [
            (limits(1024 * KIB, 256 * KIB, 4096 * KIB), limits(256 * KIB, 128 * KIB, 4096 * KIB)),
            (limits(64 * KIB, 16 * KIB, 256 * KIB), limits(16 * KIB, 8 * KIB, 256 * KIB)),
            (limits(4 * KIB, KIB, 0), limits(4 * KIB, KIB, 0)),
            (limits(0, 0, 0), limits(1024 * KIB, 0, 0)),
        ];
        let mut pressure = Pressure::new(1 << 30);
        for (configured, _) in table {
            assert_eq!(pressure.limits(configured), configured);
        }
        pressure.look(7 << 27);
        for (configured, expect) in table {
            assert_eq!(pressure.limits(configured), expect);
        }
    }

    #[test]
    fn the_log_is_not_flooded() {
        let mut pressure = Pressure::new(1000);
        assert!(pressure.may_log(Level::Shed, 5));
        assert!(!pressure.may_log(Level::Shed, 5 + QUIET_MS - 1));
        assert!(pressure.may_log(Level::Close, 6), "each level speaks for itself");
        assert!(pressure.may_log(Level::Shed, 5 + QUIET_MS));
    }

    proptest! {
        /// Between two looks nothing that matters is missed, and looks are as rare as promised.
        #[test]
        fn a_look_is_due_when_it_matters(budget in 64u64..100_000, steps in proptest::collection::vec(0u64..120_000, 1..60)) {
            let mut pressure = Pressure::new(budget);
            for held in steps {
                let change = pressure.look(held);
                prop_assert_eq!(change.to, pressure.level());
                pressure.done(held);
                prop_assert!(!pressure.is_due(held));
                let (_, off) = pressure.level().marks();
                prop_assert!(pressure.level() == Level::Calm || held >= pressure.percent(off));
                for level in Level::ALL {
                    let on = pressure.percent(level.marks().0);
                    prop_assert!(level <= pressure.level() || (on > held && pressure.is_due(on)));
                }
            }
        }
    }
}
