//! What is counted: per worker without sharing, published for the live view, added up at the end.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::content::Flow;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Plain counters of one worker, or of all.
        #[derive(Clone, Copy, Debug, Default, Serialize)]
        pub(crate) struct Tally { $($(#[$doc])* pub(crate) $name: u64,)* }

        /// A worker's counters where others can read them. Only that worker writes.
        #[derive(Default)]
        #[repr(align(128))]
        pub(crate) struct Published { $($name: AtomicU64,)* }

        impl Published {
            pub(crate) fn publish(&self, tally: &Tally) { $(self.$name.store(tally.$name, Ordering::Relaxed);)* }
            pub(crate) fn read(&self) -> Tally { Tally { $($name: self.$name.load(Ordering::Relaxed),)* } }
        }

        impl AddAssign for Tally {
            fn add_assign(&mut self, other: Tally) { $(self.$name += other.$name;)* }
        }
    };
}

tally! {
    /// Messages sent.
    sent,
    /// Deliveries that these messages must lead to.
    expected,
    /// Deliveries that arrived, each counted once.
    delivered,
    duplicated,
    out_of_order,
    /// Deliveries to somebody who should not have got them.
    misrouted,
    /// Deliveries whose content was not what was sent.
    corrupt,
    /// `error` replies, and frames that no server may send.
    errors,
    /// Times a message was due and could not be sent, because 16 MiB of earlier ones were waiting to be.
    unsent,
    /// Connections that are through: authenticated, and in their room.
    ready,
    /// Counted connections that were through and ended unasked.
    disconnected,
    /// Connections that do not read and were ended by the server.
    slow_closed,
    /// Connects that were refused or broke off; each is tried again.
    refused,
    /// Connects that were given up.
    gave_up,
    /// Times a churning connection came back.
    churned,
    /// Pings of the server, answered.
    pings,
    /// Messages that are not checked: announcements, gaps, broadcasts to churners.
    notices,
    /// Messages the server said it dropped (`gap`).
    gaps,
}

impl Tally {
    /// Deliveries that are still to come, or lost.
    pub(crate) fn outstanding(&self) -> u64 {
        self.expected.saturating_sub(self.delivered)
    }
}

/// Spans of time that are told apart: before and during each of two events.
pub(crate) const SPANS: usize = 4;

/// A histogram of nanoseconds, up to two minutes, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("constant bounds are valid")
}

/// All that one worker brings home.
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// Connect until ready, one per round.
    pub(crate) connect: Vec<Histogram<u64>>,
    /// Intended send time until arrival, by flow.
    pub(crate) latency: [Histogram<u64>; Flow::ALL.len()],
    /// The same of direct messages, by the span in which they were meant to be sent.
    pub(crate) spans: [Histogram<u64>; SPANS],
    /// Intended send time until really sent.
    pub(crate) lag: Histogram<u64>,
    /// How connections ended unasked.
    pub(crate) closes: BTreeMap<String, u64>,
    /// The first few surprises, in words.
    pub(crate) notes: Vec<String>,
}

impl Outcome {
    pub(crate) fn new() -> Outcome {
        Outcome {
            tally: Tally::default(),
            connect: Vec::new(),
            latency: Flow::ALL.map(|_| histogram()),
            spans: [(); SPANS].map(|()| histogram()),
            lag: histogram(),
            closes: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, text: String) {
        if self.notes.len() < 5 {
            self.notes.push(text);
        }
    }

    pub(crate) fn add(&mut self, other: Outcome) {
        self.tally += other.tally;
        for (round, theirs) in other.connect.into_iter().enumerate() {
            match self.connect.get_mut(round) {
                Some(ours) => ours.add(theirs).expect("equal bounds"),
                None => self.connect.push(theirs),
            }
        }
        let theirs = other.latency.into_iter().chain(other.spans);
        for (ours, theirs) in self.latency.iter_mut().chain(&mut self.spans).zip(theirs) {
            ours.add(theirs).expect("equal bounds");
        }
        self.lag.add(other.lag).expect("equal bounds");
        for (how, count) in other.closes {
            *self.closes.entry(how).or_default() += count;
        }
        for text in other.notes {
            self.note(text);
        }
    }
}

/// The figures of one histogram, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Percentiles {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Option<Percentiles> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        (!histogram.is_empty()).then(|| Percentiles {
            count: histogram.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1e6,
        })
    }
}

/// Where the latencies of a flow are.
pub(crate) fn index(flow: Flow) -> usize {
    match flow {
        Flow::Echo => 0,
        Flow::Room => 1,
        Flow::Pair => 2,
        Flow::Broadcast => 3,
        Flow::Hop => 4,
    }
}
