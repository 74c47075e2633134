//! All that a shard shows of itself, as one row of numbers in an order that never changes: the driver publishes it, the metrics read it.

use crate::shard::counters::Counters;
use crate::shard::{Held, Shard};

/// What a number of the row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// `held`: how many there are now. Anything else only grows: `counters`, or what is counted by a label.
    pub group: &'static str,
    /// Its name, or its label.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
}

/// What each number of [`Shard::figures`] is.
pub fn layout() -> Vec<Figure> {
    let mut layout = Vec::new();
    Held::default().each(|name, help, _| layout.push(Figure { group: "held", name, help }));
    Counters::default().each(|group, name, help, _| layout.push(Figure { group, name, help }));
    layout
}

impl Shard {
    /// Appends the numbers, in the order of [`layout`].
    pub fn figures(&self, row: &mut Vec<u64>) {
        self.held().each(|_, _, value| row.push(value));
        self.connections.counters.each(|_, _, _, value| row.push(value));
    }
}
