//! How many new connections an address may open: a bounded table of sliding windows, per IPv4 address or IPv6 /64.
//!
//! Each entry counts two aligned windows and weighs the older one, as the [limiter](super::limiter) does, with the same error: never more
//! than the limit in an aligned window, at most twice the limit over any span of its length, and no refusal unless the limit was used up
//! since the beginning of the window before. What is refused does not count.
//!
//! The table never holds more than its capacity. When it is full, a newcomer takes the place of an expired entry among the next few, else
//! of the least active of them. Whoever floods from many addresses so pushes out quiet ones, which lose a count they were far from using
//! up, rather than the ones that are being held back.

use std::collections::HashMap;
use std::net::IpAddr;

use ahash::RandomState;

use crate::limits::IP_TABLE_MAX;

/// Refused: come back after so many seconds, when one connection will be admitted again. At least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter(pub u32);

/// The windows of all addresses that one shard answers for.
#[derive(Debug)]
pub struct IpTable {
    limit: u32,
    window_ms: u64,
    capacity: usize,
    index: HashMap<Prefix, u32, RandomState>,
    entries: Vec<Entry>,
    /// Where the search for a place goes on.
    hand: usize,
}

/// Entries looked at to find a place in a full table.
const EVICTION_SAMPLE: usize = 16;

/// Whom a connection is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Prefix {
    V4(u32),
    /// The first 64 bits: a subscriber has at least that much, and could change the rest at will.
    V6(u64),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    prefix: Prefix,
    /// The number of the window counted in `current`.
    window: u64,
    current: u32,
    before: u32,
}

impl IpTable {
    /// `limit` connections per `window_ms`; either 0 switches it off. `seed` makes the places in the table unpredictable.
    pub fn new(limit: u32, window_ms: u64, seed: u64) -> Self {
        Self::with_capacity(limit, window_ms, seed, IP_TABLE_MAX)
    }

    fn with_capacity(limit: u32, window_ms: u64, seed: u64, capacity: usize) -> Self {
        let hasher = RandomState::with_seeds(seed, !seed, seed.rotate_left(32), capacity as u64);
        let index = HashMap::with_hasher(hasher);
        IpTable { limit, window_ms, capacity, index, entries: Vec::new(), hand: 0 }
    }

    /// Takes other limits, after a reload. Counts are kept unless the length of the window changes.
    pub fn set_limits(&mut self, limit: u32, window_ms: u64) {
        if window_ms != self.window_ms {
            self.index.clear();
            self.entries.clear();
            self.hand = 0;
        }
        (self.limit, self.window_ms) = (limit, window_ms);
    }

    /// Judges a new connection from `ip` at `now_ms` of a clock that does not step back, and counts it when it is admitted.
    pub fn admit(&mut self, ip: IpAddr, now_ms: u64) -> Result<(), RetryAfter> {
        if self.limit == 0 || self.window_ms == 0 {
            return Ok(());
        }
        let (limit, window_ms) = (self.limit, self.window_ms);
        let entry = self.entry(prefix_of(ip), now_ms / window_ms);
        let wait_ms = entry.wait_ms(limit, window_ms, now_ms % window_ms);
        if wait_ms > 0 {
            return Err(RetryAfter(u32::try_from(wait_ms.div_ceil(1000)).unwrap_or(u32::MAX)));
        }
        entry.current += 1;
        Ok(())
    }

    /// How many addresses are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn entry(&mut self, prefix: Prefix, window: u64) -> &mut Entry {
        let at = match self.index.get(&prefix) {
            Some(&at) => at as usize,
            None => {
                let at = self.place(window);
                let entry = Entry { prefix, window, current: 0, before: 0 };
                match self.entries.get_mut(at) {
                    Some(evicted) => {
                        self.index.remove(&evicted.prefix);
                        *evicted = entry;
                    }
                    None => self.entries.push(entry),
                }
                self.index.insert(prefix, at as u32);
                at
            }
        };
        let entry = &mut self.entries[at];
        entry.roll(window);
        entry
    }

    /// A place for a newcomer: behind the last entry while there is room.
    fn place(&mut self, window: u64) -> usize {
        if self.entries.len() < self.capacity {
            return self.entries.len();
        }
        let len = self.entries.len();
        let sample = (self.hand..).take(EVICTION_SAMPLE.min(len)).map(|at| at % len);
        let place = sample.min_by_key(|&at| self.entries[at].activity(window)).unwrap_or_default();
        self.hand = (self.hand + EVICTION_SAMPLE) % len;
        place
    }
}

impl Entry {
    fn roll(&mut self, window: u64) {
        if window != self.window {
            self.before = if window == self.window + 1 { self.current } else { 0 };
            self.current = 0;
            self.window = window;
        }
    }

    /// What would be forgotten with it: nothing once it has expired.
    fn activity(&self, window: u64) -> u32 {
        match window.saturating_sub(self.window) {
            0 => self.current.saturating_add(self.before),
            1 => self.current,
            _ => 0,
        }
    }

    /// Milliseconds until one more would be admitted, `elapsed` milliseconds into the current window; 0: now.
    fn wait_ms(&self, limit: u32, window_ms: u64, elapsed: u64) -> u64 {
        if self.current >= limit {
            // The next window begins with all of this one but its first millisecond; that is below the limit unless it was lowered.
            let rest = window_ms - elapsed;
            return rest + first_ms_below(self.current, limit, window_ms);
        }
        first_ms_below(self.before, limit - self.current, window_ms).saturating_sub(elapsed)
    }
}

/// The first millisecond `e` of a window at which `before × (window − 1 − e) / window < room`.
fn first_ms_below(before: u32, room: u32, window_ms: u64) -> u64 {
    if before == 0 {
        return 0;
    }
    // before × left < room × window, for the most milliseconds `left` of the window before that may still count.
    let product = u128::from(room) * u128::from(window_ms);
    let left = (product - 1) / u128::from(before);
    (window_ms - 1).saturating_sub(u64::try_from(left).unwrap_or(u64::MAX))
}

fn prefix_of(ip: IpAddr) -> Prefix {
    match ip.to_canonical() {
        IpAddr::V4(v4) => Prefix::V4(v4.to_bits()),
        IpAddr::V6(v6) => Prefix::V6((v6.to_bits() >> 64) as u64),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn nth(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn addresses_are_counted_per_ipv4_and_per_ipv6_64() {
        for (a, b, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("0.0.0.0", "::", false),
        ] {
            let mut table = IpTable::new(1, 60_000, 1);
            assert_eq!(table.admit(ip(a), 5), Ok(()));
            assert_eq!(table.admit(ip(b), 6).is_err(), same, "{a} {b}");
        }
    }

    #[test]
    fn refuses_over_the_limit_and_says_when_to_come_back() {
        let mut table = IpTable::new(100, 60_000, 1);
        for _ in 0..100 {
            assert_eq!(table.admit(ip("192.0.2.1"), 120_500), Ok(()));
        }
        assert_eq!(table.admit(ip("192.0.2.1"), 120_500), Err(RetryAfter(60)));
        assert_eq!(table.admit(ip("192.0.2.1"), 179_999), Err(RetryAfter(1)));
        assert_eq!(table.admit(ip("192.0.2.2"), 179_999), Ok(()));
        assert_eq!(table.admit(ip("192.0.2.1"), 180_000), Ok(()));
        assert_eq!(table.admit(ip("192.0.2.1"), 180_000), Err(RetryAfter(1)));
        assert_eq!(table.admit(ip("192.0.2.1"), 240_000 + 60_000), Ok(()));
    }

    #[test]
    fn zero_is_off_and_remembers_nobody() {
        for (limit, window_ms) in [(0, 60_000), (100, 0)] {
            let mut table = IpTable::new(limit, window_ms, 1);
            assert!((0..1000).all(|i| table.admit(ip("192.0.2.1"), i).is_ok()));
            assert!(table.is_empty());
        }
    }

    #[test]
    fn never_grows_and_gives_up_the_expired_then_the_quiet() {
        let mut table = IpTable::with_capacity(10, 1000, 1, 16);
        let busy = nth(7);
        assert!((0..10).all(|_| table.admit(busy, 5_000).is_ok()));
        for n in 100..1100 {
            assert_eq!(table.admit(nth(n), 5_001), Ok(()));
            assert!(table.len() <= 16 && table.index.len() == table.len());
        }
        assert!(table.admit(busy, 5_002).is_err(), "who is being held back is not forgotten");
        for n in 0..15 {
            assert!((0..10).all(|_| table.admit(nth(n + 2000), 6_999).is_ok()));
        }
        assert_eq!(table.admit(nth(5000), 6_999), Ok(()));
        assert!(!table.index.contains_key(&prefix_of(busy)), "the one that has expired goes first");
    }

    #[test]
    fn limits_change_at_run_time() {
        let mut table = IpTable::new(10, 1000, 1);
        assert!((0..10).all(|_| table.admit(nth(1), 5_000).is_ok()));
        table.set_limits(2, 1000);
        // 10 in the window before weigh less than 2 once less than a fifth of it counts.
        assert_eq!(table.admit(nth(1), 5_500), Err(RetryAfter(2)));
        assert!(table.admit(nth(1), 6_799).is_err());
        assert!(table.admit(nth(1), 6_800).is_ok());
        table.set_limits(2, 500);
        assert!(table.is_empty());
    }

    proptest! {
        /// Against an exact log of who was admitted when.
        #[test]
        fn stays_within_its_documented_error(
            arrivals in prop::collection::vec((prop_oneof![6 => 0u64..400, 1 => 0u64..9000], 0u32..3), 1..400),
            limit in 1u32..20,
            window_s in 1u64..10,
        ) {
            let window_ms = window_s * 1000;
            let mut table = IpTable::new(limit, window_ms, 9);
            let (mut now_ms, mut log) = (1_000_123u64, Vec::new());
            for (wait, who) in arrivals {
                now_ms += wait;
                let since = |from: u64| log.iter().filter(|&&(at, w)| at >= from && w == who).count() as u32;
                let aligned = now_ms / window_ms * window_ms;
                let mut later = IpTable { index: table.index.clone(), entries: table.entries.clone(), ..table };
                match table.admit(nth(who), now_ms) {
                    Ok(()) => {
                        prop_assert!(since(aligned) < limit, "aligned window");
                        prop_assert!(since(now_ms + 1 - window_ms) < 2 * limit, "any window");
                        log.push((now_ms, who));
                    }
                    Err(RetryAfter(seconds)) => {
                        prop_assert!(since(aligned - window_ms) >= limit, "refused too early");
                        prop_assert!(seconds >= 1 && u64::from(seconds) <= 2 * window_s);
                        prop_assert_eq!(later.admit(nth(who), now_ms + u64::from(seconds) * 1000), Ok(()));
                    }
                }
            }
        }
    }
}
