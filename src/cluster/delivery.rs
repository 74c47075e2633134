//! Messages to one user on another node, from when they are published until their destination has said what became of them.
//!
//! A destination is one shard under one epoch. What goes to it is numbered; it acknowledges by these numbers, in batches, with a status.
//!
//! * The origin keeps a message, bounded, until it is acknowledged ([`Outstanding`]). A destination that dies hands its messages back, to
//!   be looked up again. An acknowledgement that does not come in time leaves the outcome unknown: the message is not sent again.
//! * The destination lets each number pass once ([`Window`]), and counts the numbers that never came: Redis forgets what it could not
//!   deliver, and this is where it shows.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use ahash::RandomState;

use crate::ids::ShardId;

/// Numbers that a [`Window`] looks back over.
pub const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;

/// One shard of a node under one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The node.
    pub node: Rc<str>,
    /// The epoch.
    pub epoch: u64,
    /// The shard.
    pub shard: ShardId,
}

/// Bounds of what is outstanding, over all destinations.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages.
    pub messages_max: usize,
    /// Bytes of their payload.
    pub bytes_max: usize,
    /// Messages to one destination: one that is stopped leaves room for the others.
    pub messages_per_destination_max: usize,
}

/// The messages of one origin shard that no destination has acknowledged.
#[derive(Debug)]
pub struct Outstanding<M> {
    bounds: Bounds,
    lanes: HashMap<Destination, Lane<M>, RandomState>,
    /// Where the numbers of a new lane begin: after those of every lane that was forgotten, lest they pass for seen.
    first: u64,
    messages: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Lane<M> {
    next: u64,
    /// By number, so oldest first.
    sent: VecDeque<Sent<M>>,
}

#[derive(Debug)]
struct Sent<M> {
    number: u64,
    message: M,
    bytes: usize,
    sent_ms: u64,
}

impl<M> Outstanding<M> {
    /// Nothing is outstanding.
    pub fn new(bounds: Bounds, hasher: RandomState) -> Self {
        Outstanding { bounds, lanes: HashMap::with_hasher(hasher), first: 1, messages: 0, bytes: 0 }
    }

    /// Numbers a message for a destination. Numbers are not used again.
    ///
    /// # Errors
    ///
    /// The message, where too much is outstanding: `unavailable`.
    pub fn send(&mut self, to: &Destination, message: M, bytes: usize, now_ms: u64) -> Result<u64, M> {
        if self.messages >= self.bounds.messages_max || self.bytes.saturating_add(bytes) > self.bounds.bytes_max {
            return Err(message);
        }
        let lane = match self.lanes.get_mut(to) {
            Some(lane) => lane,
            None => self.lanes.entry(to.clone()).or_insert(Lane { next: self.first, sent: VecDeque::new() }),
        };
        if lane.sent.len() >= self.bounds.messages_per_destination_max {
            return Err(message);
        }
        let number = lane.next;
        lane.next += 1;
        lane.sent.push_back(Sent { number, message, bytes, sent_ms: now_ms });
        self.messages += 1;
        self.bytes += bytes;
        Ok(number)
    }

    /// A destination has said what became of this number. `None` for what is not outstanding (any more).
    pub fn acknowledged(&mut self, from: &Destination, number: u64) -> Option<M> {
        let lane = self.lanes.get_mut(from)?;
        let index = lane.sent.binary_search_by_key(&number, |sent| sent.number).ok()?;
        let sent = lane.sent.remove(index)?;
        self.settle(sent.bytes);
        Some(sent.message)
    }

    /// What was sent at or before `sent_by_ms` and is not acknowledged, oldest of each destination first: its outcome is unknown.
    pub fn take_overdue(&mut self, sent_by_ms: u64) -> Vec<M> {
        let mut overdue = Vec::new();
        for lane in self.lanes.values_mut() {
            while lane.sent.front().is_some_and(|sent| sent.sent_ms <= sent_by_ms) {
                overdue.extend(lane.sent.pop_front());
            }
        }
        overdue.into_iter().map(|sent| self.settled(sent)).collect()
    }

    /// A destination is dead: forgets it and hands back, in order, what it has not acknowledged, to be looked up again.
    pub fn lost(&mut self, destination: &Destination) -> Vec<M> {
        let lane = self.lanes.remove(destination);
        self.first = self.first.max(lane.as_ref().map_or(0, |lane| lane.next));
        lane.into_iter().flat_map(|lane| lane.sent).map(|sent| self.settled(sent)).collect()
    }

    /// Forgets the destinations that have acknowledged everything and are not to be kept.
    pub fn forget_idle(&mut self, keep: impl Fn(&Destination) -> bool) {
        let first = &mut self.first;
        self.lanes.retain(|destination, lane| {
            let kept = !lane.sent.is_empty() || keep(destination);
            if !kept {
                *first = lane.next.max(*first);
            }
            kept
        });
    }

    /// The destinations that were ever sent to and not lost or forgotten since.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination> {
        self.lanes.keys()
    }

    /// Messages outstanding, and their bytes.
    pub fn held(&self) -> (usize, usize) {
        (self.messages, self.bytes)
    }

    fn settled(&mut self, sent: Sent<M>) -> M {
        self.settle(sent.bytes);
        sent.message
    }

    fn settle(&mut self, bytes: usize) {
        self.messages -= 1;
        self.bytes -= bytes;
    }
}

/// Which numbers of one origin have come to a destination: the newest, and which of the [`WINDOW`] before it.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Numbers up to this one are not looked for: it began after them.
    before: u64,
    newest: u64,
    /// Bit `n % WINDOW`: number `n` has come.
    seen: [u64; WORDS],
    holes: u64,
}

impl Window {
    /// A window that begins with this number.
    pub fn beginning(number: u64) -> Self {
        let before = number.saturating_sub(1);
        Window { before, newest: before, ..Window::default() }
    }

    /// The newest number that has come.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether this number comes for the first time. What is older than the window is taken for seen.
    #[must_use]
    pub fn admit(&mut self, number: u64) -> bool {
        if number == 0 {
            return false;
        }
        if number > self.newest {
            // The places of the numbers in between are reused; whoever had not come by then is a hole.
            let reach = self.newest.saturating_add(WINDOW);
            for passed in self.newest + 1..=number.min(reach) {
                let missing = !self.take(passed) && passed > self.before.saturating_add(WINDOW);
                self.holes += u64::from(missing);
            }
            // And those that were passed over by more than a window.
            self.holes = self.holes.saturating_add(number - reach.min(number));
            self.newest = number;
        } else if number <= self.before || self.newest - number >= WINDOW {
            return false;
        }
        let (word, bit) = place(number);
        let first = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        first
    }

    /// Numbers that have left the window and never came.
    pub fn holes(&self) -> u64 {
        self.holes
    }

    /// Clears the place of a number, and says whether the one that had it has come.
    fn take(&mut self, number: u64) -> bool {
        let (word, bit) = place(number);
        let seen = self.seen[word] & bit != 0;
        self.seen[word] &= !bit;
        seen
    }
}

fn place(number: u64) -> (usize, u64) {
    let bit = number % WINDOW;
    ((bit / 64) as usize, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn to(shard: u16) -> Destination {
        Destination { node: "n".into(), epoch: 1, shard: ShardId(shard) }
    }

    fn outstanding(bounds: Bounds) -> Outstanding<u32> {
        Outstanding::new(bounds, RandomState::with_seeds(1, 2, 3, 4))
    }

    const MANY: Bounds = Bounds { messages_max: 1_000, bytes_max: 1_000_000, messages_per_destination_max: 900 };

    #[test]
    fn each_destination_counts_by_itself_and_acknowledges_in_any_order() {
        let mut out = outstanding(MANY);
        let numbers: Vec<_> = (0..6).map(|m| out.send(&to(m as u16 % 2), m, 10, 0).unwrap()).collect();
        assert_eq!((numbers, out.held()), (vec![1, 1, 2, 2, 3, 3], (6, 60)));
        assert_eq!(out.acknowledged(&to(0), 2), Some(2));
        assert_eq!(out.acknowledged(&to(0), 2), None, "once");
        assert_eq!(out.acknowledged(&to(7), 1), None);
        assert_eq!(out.lost(&to(0)), [0, 4]);
        assert_eq!(out.send(&to(1), 9, 10, 0), Ok(4), "numbers are not used again");
        assert_eq!(out.held(), (4, 40));
    }

    #[test]
    fn what_is_overdue_is_handed_back_once() {
        let mut out = outstanding(MANY);
        for (message, sent_ms) in [(1, 100), (2, 200), (3, 300)] {
            out.send(&to(0), message, 1, sent_ms).unwrap();
        }
        assert_eq!((out.take_overdue(99), out.take_overdue(200), out.take_overdue(200)), (vec![], vec![1, 2], vec![]));
        assert_eq!((out.acknowledged(&to(0), 1), out.acknowledged(&to(0), 3)), (None, Some(3)));
        assert_eq!(out.held(), (0, 0));
    }

    #[test]
    fn too_much_is_refused_openly() {
        let mut few = outstanding(Bounds { messages_max: 2, bytes_max: 100, messages_per_destination_max: 2 });
        assert_eq!(few.send(&to(0), 1, 101, 0), Err(1));
        assert_eq!((few.send(&to(0), 2, 60, 0), few.send(&to(0), 3, 60, 0)), (Ok(1), Err(3)));
        assert_eq!((few.send(&to(1), 4, 40, 0), few.send(&to(1), 5, 0, 0)), (Ok(1), Err(5)));
        assert_eq!(few.acknowledged(&to(0), 1), Some(2));
        assert_eq!(few.send(&to(1), 6, 60, 0), Ok(2));
    }

    #[test]
    fn holes_are_counted_when_they_can_no_longer_be_filled() {
        let mut window = Window::default();
        assert!(window.admit(1) && window.admit(3) && !window.admit(0));
        assert_eq!(window.holes(), 0, "2 may still come");
        assert!(window.admit(WINDOW + 2) && !window.admit(2), "too old");
        assert_eq!(window.holes(), 1);
        assert!(window.admit(10 * WINDOW) && window.admit(10 * WINDOW - 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against a set of everything that ever came.
        #[test]
        fn every_number_passes_once(steps in proptest::collection::vec((0u64..40, prop::bool::weighted(0.02)), 1..3_000)) {
            let (mut window, mut seen, mut newest) = (Window::default(), BTreeSet::new(), 0u64);
            for (step, jump) in steps {
                // Mostly near the newest, before or behind it; now and then far ahead.
                let number = if jump { newest + step * 100 } else { (newest + 4).saturating_sub(step) };
                let fresh = number > 0 && number + WINDOW > newest && !seen.contains(&number);
                prop_assert_eq!(window.admit(number), fresh, "{} with {} the newest", number, newest);
                if fresh {
                    seen.insert(number);
                    newest = newest.max(number);
                }
            }
            let gone = newest.saturating_sub(WINDOW);
            prop_assert_eq!(window.holes(), gone - seen.range(..=gone).count() as u64);
        }
    }
}
