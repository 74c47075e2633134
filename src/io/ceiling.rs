//! `limits.connections` of the process: one number that all shards share.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

/// Counts the connections of all shards. Reserved when a connection is accepted, released when it is closed.
#[derive(Debug)]
pub struct Ceiling {
    used: CachePadded<AtomicU64>,
    limit: u64,
}

impl Ceiling {
    /// `limit` 0: no limit.
    pub fn new(limit: u64) -> Self {
        Ceiling { used: CachePadded::default(), limit: if limit == 0 { u64::MAX } else { limit } }
    }

    /// Takes one, where there is one left.
    #[must_use]
    pub fn reserve(&self) -> bool {
        let reserved = self.used.fetch_add(1, Ordering::Relaxed) < self.limit;
        if !reserved {
            self.used.fetch_sub(1, Ordering::Relaxed);
        }
        reserved
    }

    /// Gives one back.
    pub fn release(&self) {
        let before = self.used.fetch_sub(1, Ordering::Relaxed);
        debug_assert_ne!(before, 0, "released more than was reserved");
    }

    /// How many are taken.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_zero_means_none() {
        let ceiling = Ceiling::new(2);
        assert_eq!([ceiling.reserve(), ceiling.reserve(), ceiling.reserve()], [true, true, false]);
        ceiling.release();
        assert!(ceiling.reserve() && !ceiling.reserve());
        assert_eq!(ceiling.used(), 2);
        assert!(Ceiling::new(0).reserve());
    }
}
