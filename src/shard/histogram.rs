//! Distributions in fixed memory: how many values fell into which logarithmic bucket.
//!
//! Eight buckets per power of two, so that a quantile is at most an eighth too high. Plain numbers, written by one thread; recording is a
//! shift and an increment. A sum over shards is [`Histogram::merge`].

use std::fmt;

/// Buckets per power of two.
const STEPS: usize = 1 << STEPS_BITS;
const STEPS_BITS: u32 = 3;
/// Values from here on share the last bucket: 19 hours, in microseconds.
const RANGE_BITS: u32 = 36;
const BUCKETS: usize = (RANGE_BITS - STEPS_BITS + 1) as usize * STEPS;

/// A histogram of values that are not negative: microseconds, bytes, frames.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    sum: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: [0; BUCKETS], sum: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts a value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.buckets[bucket_of(value)] += 1;
        self.sum = self.sum.wrapping_add(value);
        self.max = self.max.max(value);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all values, modulo 2^64.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The largest value; 0 where there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// A value that a share `q` (0 to 1) of all values does not exceed: exact below 16, else at most an eighth too high. 0 where there is
    /// none.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = (self.count() as f64 * q).ceil() as u64;
        let mut below = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank.max(1) {
                return last_of(bucket).min(self.max);
            }
        }
        self.max
    }

    /// Adds what another histogram has counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// Cumulative counts at the powers of two, as Prometheus has them: `(le, count)` where `count` values are at most `le` = 2^k − 1, up to
    /// the first that has them all.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let all = self.count();
        let mut below = 0;
        let mut done = false;
        self.buckets.chunks(STEPS).enumerate().map_while(move |(octave, buckets)| {
            if done {
                return None;
            }
            below += buckets.iter().sum::<u64>();
            done = below == all;
            Some((last_of(octave * STEPS + STEPS - 1), below))
        })
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("max", &self.max)
            .finish()
    }
}

/// Below [`STEPS`] each value has its own bucket; from there on the highest bit chooses a group, and the next bits a step in it.
#[inline]
fn bucket_of(value: u64) -> usize {
    if value < STEPS as u64 {
        return value as usize;
    }
    let octave = value.ilog2() - STEPS_BITS;
    let step = (value >> octave) as usize & (STEPS - 1);
    ((octave as usize + 1) * STEPS + step).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn last_of(bucket: usize) -> u64 {
    let next = bucket + 1;
    if next < STEPS {
        return bucket as u64;
    }
    let (octave, step) = (next / STEPS - 1, next % STEPS);
    ((STEPS + step) as u64) * (1 << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_on_each_other() {
        let mut next = 0;
        for bucket in 0..BUCKETS {
            let last = last_of(bucket);
            assert_eq!((bucket_of(next), bucket_of(last)), (bucket, bucket), "{next}..={last}");
            assert!(last - next <= next / 8, "{next}..={last} is too wide");
            next = last + 1;
        }
        assert_eq!(next, 1 << RANGE_BITS);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn nothing_counted() {
        let none = Histogram::default();
        assert_eq!((none.count(), none.sum(), none.max(), none.quantile(0.99)), (0, 0, 0, 0));
        assert_eq!(none.cumulative().collect::<Vec<_>>(), [(7, 0)]);
    }

    #[test]
    fn cumulative_counts_end_with_all() {
        let mut h = Histogram::default();
        for value in [0, 7, 8, 15, 16, 100] {
            h.record(value);
        }
        assert_eq!(h.cumulative().collect::<Vec<_>>(), [(7, 2), (15, 4), (31, 5), (63, 5), (127, 6)]);
    }

    proptest! {
        #[test]
        fn quantiles_are_near_the_true_ones(values in proptest::collection::vec(0u64..1 << 34, 1..200), q in 0.0f64..=1.0) {
            let (mut left, mut right) = (Histogram::default(), Histogram::default());
            for (i, value) in values.iter().enumerate() {
                if i % 3 == 0 { left.record(*value) } else { right.record(*value) }
            }
            left.merge(&right);
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let rank = ((sorted.len() as f64 * q).ceil() as usize).clamp(1, sorted.len());
            let exact = sorted[rank - 1];
            let told = left.quantile(q);
            prop_assert!(told >= exact && told <= exact + exact / 8, "{told} for {exact}");
            prop_assert_eq!((left.count(), left.sum()), (values.len() as u64, values.iter().sum::<u64>()));
            prop_assert_eq!(left.max(), sorted[sorted.len() - 1]);
            for (le, count) in left.cumulative() {
                prop_assert_eq!(count, values.iter().filter(|v| **v <= le).count() as u64);
            }
        }
    }
}
