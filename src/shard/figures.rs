//! All that a shard shows of itself, as one row of numbers in an order that never changes: the driver publishes it, the metrics read it.

use crate::cluster::exchange;
use crate::shard::counters::{Counters, Distributions};
use crate::shard::gauges::Gauges;
use crate::shard::histogram::Histogram;
use crate::shard::{Held, Shard};

/// What a number of the row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// `held` and `gauges`: how many there are now. Anything else only grows: `counters`, or what is counted by labels.
    pub group: &'static str,
    /// Its name and an empty text, or its labels.
    pub names: [&'static str; 2],
    /// What it is.
    pub help: &'static str,
}

/// What each number of [`Shard::figures`] is, but for the distributions behind them.
pub fn layout() -> Vec<Figure> {
    let mut layout = Vec::new();
    Held::default().each(|name, help, _| layout.push(Figure { group: "held", names: [name, ""], help }));
    Gauges::default().each(|name, help, _| layout.push(Figure { group: "gauges", names: [name, ""], help }));
    Counters::default().each(|group, names, help, _| layout.push(Figure { group, names, help }));
    each_of_unicasts(&exchange::Counters::default(), |group, names, help, _| {
        layout.push(Figure { group, names, help })
    });
    layout
}

/// Calls `f` with the group, the labels, the help text and the value of everything that is counted of messages to users on other nodes.
fn each_of_unicasts(
    counters: &exchange::Counters,
    mut f: impl FnMut(&'static str, [&'static str; 2], &'static str, u64),
) {
    counters.each_plain(|name, help, value| f("unicasts", [name, ""], help, value));
    for (cause, count) in exchange::Cause::ALL.iter().zip(counters.unavailable) {
        f("unavailable", [cause.name(), ""], "Messages to users answered as unavailable, by cause.", count);
    }
}

/// A histogram as numbers for others to read: cumulative counts at the powers of two, then the sum.
#[derive(Debug)]
pub struct Spread;

impl Spread {
    /// Cumulative counts; the last one counts everything.
    pub const BOUNDS: usize = 35;
    /// Numbers of one histogram.
    pub const LEN: usize = Spread::BOUNDS + 1;

    /// Appends the numbers.
    pub fn push(histogram: &Histogram, row: &mut Vec<u64>) {
        let start = row.len();
        row.extend(histogram.cumulative().take(Spread::BOUNDS - 1).map(|(_, count)| count));
        row.resize(start + Spread::BOUNDS, histogram.count());
        row.push(histogram.sum());
    }

    /// The largest value that the count at `index` counts.
    pub fn bound(index: usize) -> u64 {
        (8 << index) - 1
    }
}

impl Shard {
    /// Appends the numbers, in the order of [`layout`]; behind them its [`Distributions`], each as a [`Spread`].
    pub fn figures(&self, row: &mut Vec<u64>) {
        self.held().each(|_, _, value| row.push(value));
        self.gauges().each(|_, _, value| row.push(value));
        self.counters().each(|_, _, _, value| row.push(value));
        match &self.cluster {
            Some(cluster) => each_of_unicasts(cluster.unicast_counters(), |_, _, _, value| row.push(value)),
            None => each_of_unicasts(&exchange::Counters::default(), |_, _, _, value| row.push(value)),
        }
        self.distributions().all().into_iter().for_each(|histogram| Spread::push(histogram, row));
    }

    /// Appends what was counted of messages to users on other nodes, where there is a cluster.
    pub(super) fn cluster_figures(&self, figures: &mut Vec<(&'static str, [&'static str; 2], u64)>) {
        if let Some(cluster) = &self.cluster {
            each_of_unicasts(cluster.unicast_counters(), |group, names, _, value| figures.push((group, names, value)));
        }
    }

    /// How many numbers there are.
    pub fn figures_len() -> usize {
        layout().len() + Distributions::COUNT * Spread::LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_as_many_numbers_whatever_was_counted() {
        for values in [&[][..], &[0, 7, 8, 100], &[u64::MAX]] {
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.record(*value));
            let mut row = Vec::new();
            Spread::push(&histogram, &mut row);
            assert_eq!(row.len(), Spread::LEN);
            assert_eq!(row[Spread::BOUNDS - 1], values.len() as u64);
            for (index, count) in row[..Spread::BOUNDS - 1].iter().enumerate() {
                let below = values.iter().filter(|value| **value <= Spread::bound(index)).count() as u64;
                // The last bucket is open upwards.
                assert!(*count == below || index == Spread::BOUNDS - 2, "{index}: {count} {below}");
            }
            assert_eq!(row[Spread::BOUNDS], histogram.sum());
        }
    }
}
