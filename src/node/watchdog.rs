//! The watchdog of the service manager: it is told that all is well only while every shard says so itself.
//!
//! Once a period each shard gets a probe through its own command queue and doorbell, and answers it in the turn of its loop. `WATCHDOG=1`
//! goes out when every shard has answered the same probe and the probe is at most [`FRESH`] old: a shard that hangs, or that only its
//! neighbours keep alive, silences it.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

/// How old the answers may be.
const FRESH: Duration = Duration::from_secs(2);
/// The longest time between two probes.
const PERIOD_MAX: Duration = Duration::from_secs(1);

/// What the watchdog asks. The shards, outside of tests.
pub(super) trait Probed {
    /// How many there are.
    fn count(&self) -> usize;
    /// Sends a probe to one of them.
    fn probe(&self, shard: usize, number: u64);
    /// The last probe that it has answered; 0: none.
    fn answered(&self, shard: usize) -> u64;
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watchdog {
    period: Duration,
    next: Instant,
    probe: u64,
    asked: Instant,
    /// Those that did not answer in time, until they do.
    silent: Vec<usize>,
}

/// What came of one look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is not time yet, or answers are still awaited.
    Nothing,
    /// Every shard has answered: tell the service manager.
    Well,
    /// These shards do not answer, said once.
    Silent(Vec<usize>),
}

impl Watchdog {
    /// As the environment says (sd_watchdog_enabled(3)); `None` where nobody watches, or watches another process.
    pub(super) fn new(usec: Option<&OsStr>, watched: Option<&OsStr>, pid: u32, now: Instant) -> Option<Self> {
        let number = |text: &OsStr| text.to_str()?.parse::<u64>().ok();
        if watched.is_some_and(|watched| number(watched) != Some(u64::from(pid))) {
            return None;
        }
        let patience = Duration::from_micros(number(usec?).filter(|&usec| usec > 0)?);
        // Twice as often as is asked for, even when an answer comes just after a look.
        let period = (patience / 4).min(PERIOD_MAX);
        Some(Watchdog { period, next: now, probe: 0, asked: now, silent: Vec::new() })
    }

    /// When to look again.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Looks at the answers, and asks again where they are complete.
    pub(super) fn look(&mut self, shards: &impl Probed, now: Instant) -> Verdict {
        if now < self.next {
            return Verdict::Nothing;
        }
        self.next = now + self.period;
        let missing: Vec<usize> = (0..shards.count()).filter(|&shard| shards.answered(shard) < self.probe).collect();
        let old = now.saturating_duration_since(self.asked) > FRESH;
        if !missing.is_empty() {
            if !old || missing == self.silent {
                return Verdict::Nothing;
            }
            self.silent.clone_from(&missing);
            return Verdict::Silent(missing);
        }
        let well = self.probe > 0 && !old;
        if well {
            self.silent.clear();
        }
        self.probe += 1;
        self.asked = now;
        for shard in 0..shards.count() {
            shards.probe(shard, self.probe);
        }
        if well { Verdict::Well } else { Verdict::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Shards that answer at once, except those that hang.
    #[derive(Default)]
    struct Fakes {
        asked: RefCell<Vec<u64>>,
        answered: RefCell<Vec<u64>>,
        hangs: RefCell<Vec<bool>>,
        probes: RefCell<u32>,
    }

    impl Fakes {
        fn new(count: usize) -> Self {
            Fakes {
                asked: vec![0; count].into(),
                answered: vec![0; count].into(),
                hangs: vec![false; count].into(),
                probes: 0.into(),
            }
        }

        fn hang(&self, shard: usize, hangs: bool) {
            self.hangs.borrow_mut()[shard] = hangs;
            if !hangs {
                self.answered.borrow_mut()[shard] = self.asked.borrow()[shard];
            }
        }
    }

    impl Probed for Fakes {
        fn count(&self) -> usize {
            self.asked.borrow().len()
        }

        fn probe(&self, shard: usize, number: u64) {
            *self.probes.borrow_mut() += 1;
            self.asked.borrow_mut()[shard] = number;
            if !self.hangs.borrow()[shard] {
                self.answered.borrow_mut()[shard] = number;
            }
        }

        fn answered(&self, shard: usize) -> u64 {
            self.answered.borrow()[shard]
        }
    }

    fn watchdog(usec: &str, now: Instant) -> Option<Watchdog> {
        Watchdog::new(Some(OsStr::new(usec)), None, 7, now)
    }

    /// Looks every 50 ms for `ms`; returns what was said, with the time in milliseconds.
    fn run(watchdog: &mut Watchdog, shards: &Fakes, start: Instant, ms: std::ops::Range<u64>) -> Vec<(u64, Verdict)> {
        ms.step_by(50)
            .map(|ms| (ms, watchdog.look(shards, start + Duration::from_millis(ms))))
            .filter(|(_, verdict)| *verdict != Verdict::Nothing)
            .collect()
    }

    #[test]
    fn the_environment_decides() {
        let now = Instant::now();
        let period = |usec| watchdog(usec, now).map(|watchdog| watchdog.period);
        assert_eq!(period("15000000"), Some(Duration::from_secs(1)));
        assert_eq!(period("1000000"), Some(Duration::from_millis(250)));
        for nothing in ["0", "", "-1", "soon"] {
            assert_eq!(period(nothing), None, "{nothing:?}");
        }
        let usec = Some(OsStr::new("1000000"));
        assert!(Watchdog::new(None, None, 7, now).is_none());
        assert!(Watchdog::new(usec, Some(OsStr::new("7")), 7, now).is_some());
        for other in ["8", "x", ""] {
            assert!(Watchdog::new(usec, Some(OsStr::new(other)), 7, now).is_none(), "{other:?}");
        }
    }

    #[test]
    fn while_all_answer_it_is_told_twice_as_often_as_asked_for_and_more() {
        let start = Instant::now();
        let (mut watchdog, shards) = (watchdog("1000000", start).unwrap(), Fakes::new(3));
        let said = run(&mut watchdog, &shards, start, 0..5_000);
        assert!(said.iter().all(|(_, verdict)| *verdict == Verdict::Well));
        assert_eq!(said[0].0, 250, "never before the first answers");
        assert!(said.windows(2).all(|pair| pair[1].0 - pair[0].0 <= 500));
    }

    #[test]
    fn one_that_hangs_silences_it_and_is_named_once() {
        let start = Instant::now();
        let (mut watchdog, shards) = (watchdog("1000000", start).unwrap(), Fakes::new(3));
        run(&mut watchdog, &shards, start, 0..1_000);
        shards.hang(1, true);
        let before = *shards.probes.borrow();
        let said = run(&mut watchdog, &shards, start, 1_000..60_000);
        // The answers to the last probe came while it was well.
        assert_eq!(said[0].1, Verdict::Well);
        assert!(matches!(&said[1..], [(ms, Verdict::Silent(who))] if *ms <= 3_600 && *who == [1]), "{said:?}");
        assert!(*shards.probes.borrow() - before <= 6, "its queue must not fill up");
        shards.hang(1, false);
        let said = run(&mut watchdog, &shards, start, 60_000..62_000);
        assert_eq!(said[0].1, Verdict::Well);
        assert!(said[0].0 >= 60_250, "not for answers that are old by now");
    }

    #[test]
    fn answers_that_came_one_after_the_other_are_not_all_fresh() {
        let start = Instant::now();
        let (mut watchdog, shards) = (watchdog("15000000", start).unwrap(), Fakes::new(2));
        run(&mut watchdog, &shards, start, 0..1_000);
        // The first answers and hangs; the second answers late.
        shards.hang(1, true);
        run(&mut watchdog, &shards, start, 1_000..1_050);
        shards.hang(0, true);
        shards.hang(1, false);
        let said = run(&mut watchdog, &shards, start, 4_000..30_000);
        assert!(said.iter().all(|(_, verdict)| *verdict == Verdict::Silent(vec![0])), "{said:?}");
    }
}
