//! What a shard's driver counts: plain numbers of its own, published to padded atomics with every tick.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use super::machine::Machine;
use crate::cluster::link::State;
use crate::shard::figures::Spread;
use crate::shard::histogram::Histogram;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),* $(,)?) => {
        /// The counters of one shard's driver. They only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)*
        }

        /// [`Counters`] as another thread may read them.
        #[derive(Debug, Default)]
        pub struct Published {
            $($name: AtomicU64,)*
        }

        impl Counters {
            /// The names and values, for the metrics.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }

            /// The names, the help texts and the values, for the metrics.
            pub fn described(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc),+), self.$name),)*].into_iter()
            }
        }

        impl Published {
            /// What was published last.
            pub fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }

            fn write(&self, counters: &Counters) {
                $(self.$name.store(counters.$name, Ordering::Relaxed);)*
            }
        }
    };
}

counters! {
    /// Turns of the reactor.
    turns,
    /// Turns after which it slept.
    sleeps,
    /// Connections accepted.
    accepts,
    /// Connections accepted over `limits.connections`, to be refused with 503.
    accepts_over_capacity,
    /// Connections closed as soon as they were accepted: too many over capacity at once.
    accepts_refused,
    /// Times that there was no descriptor for a connection (EMFILE, ENFILE).
    descriptors_exhausted,
    /// Other failures to accept.
    accept_errors,
    /// Connections closed.
    closes,
    /// Receives that brought bytes.
    receives,
    /// Bytes received.
    receive_bytes,
    /// Receives that found nothing.
    receives_empty,
    /// Sends.
    sends,
    /// Bytes that the kernel took.
    send_bytes,
    /// Sends that the kernel took in part or not at all.
    sends_short,
    /// Sends that failed.
    send_errors,
    /// Connections handed to another shard.
    handovers_out,
    /// Connections that came from another shard.
    handovers_in,
    /// Hand-overs that had to wait because the way was full.
    handovers_waited,
    /// Hand-overs that ended with close code 1013: the destination is full.
    handovers_refused,
    /// Hand-overs whose socket or state did not arrive (MSG_CTRUNC).
    handovers_lost,
    /// Envelopes received from other shards.
    envelopes_in,
    /// Envelopes sent to other shards.
    envelopes_out,
    /// Doorbells rung.
    doorbells,
    /// Times that the completion queue had overflown.
    completion_overflows,
    /// Happenings that services are not told of because too many wait.
    happenings_lost,
    /// Panics caught.
    panics,
}

/// Distributions of one shard's driver, in the order in which they are published.
#[derive(Clone, Debug, Default)]
pub struct Distributions {
    /// Microseconds of one turn in which there was something to do.
    pub turn_us: Histogram,
    /// Connections written to by one batch of sends.
    pub flush_connections: Histogram,
}

impl Distributions {
    /// How many there are.
    pub const COUNT: usize = 2;

    fn push(&self, row: &mut Vec<u64>) {
        Spread::push(&self.turn_us, row);
        Spread::push(&self.flush_connections, row);
    }
}

/// What a shard shows to the others and to the control thread.
#[derive(Debug, Default)]
pub struct Status {
    rows: CachePadded<AtomicU32>,
    drained: AtomicBool,
    left: AtomicBool,
    /// 0: no bus; else one more than a [`State`].
    bus: AtomicU8,
    thread: AtomicI32,
    answered: AtomicU64,
    published: Published,
    figures: Box<[AtomicU64]>,
    spreads: Box<[AtomicU64]>,
}

impl Status {
    /// Of a shard whose machine shows that many figures.
    pub(super) fn new(figures: usize) -> Self {
        let zeroes = |len| (0..len).map(|_| AtomicU64::new(0)).collect();
        Status { figures: zeroes(figures), spreads: zeroes(Distributions::COUNT * Spread::LEN), ..Status::default() }
    }

    /// The figures of the state machine as of the last tick, in their order.
    pub fn figures(&self) -> impl Iterator<Item = u64> {
        self.figures.iter().map(|figure| figure.load(Ordering::Relaxed))
    }

    /// The driver's distributions as of the last tick, one after the other, each [`Spread::LEN`] numbers.
    pub fn spreads(&self) -> impl Iterator<Item = u64> {
        self.spreads.iter().map(|number| number.load(Ordering::Relaxed))
    }

    /// The thread of the shard, as the kernel numbers it; 0 before it runs.
    pub fn thread(&self) -> i32 {
        self.thread.load(Ordering::Relaxed)
    }

    /// Rows in use: connections, and those about to be freed.
    pub fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed) as usize
    }

    /// Whether the shard has said that every connection is gone after a drain.
    pub fn drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }

    /// Whether the shard has given back what the node held in the cluster.
    pub fn left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// How its link to the bus stands, where it has one.
    pub fn bus(&self) -> Option<State> {
        match self.bus.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(State::Down),
            2 => Some(State::Resync),
            _ => Some(State::Up),
        }
    }

    /// The last probe that its loop has come to.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }

    /// The counters as of the last tick.
    pub fn counters(&self) -> Counters {
        self.published.read()
    }

    pub(super) fn set_rows(&self, rows: usize) {
        self.rows.store(rows as u32, Ordering::Relaxed);
    }

    pub(super) fn set_drained(&self) {
        self.drained.store(true, Ordering::Release);
    }

    pub(super) fn set_left(&self) {
        self.left.store(true, Ordering::Release);
    }

    pub(super) fn set_bus(&self, state: State) {
        let number = match state {
            State::Down => 1,
            State::Resync => 2,
            State::Up => 3,
        };
        self.bus.store(number, Ordering::Relaxed);
    }

    pub(super) fn set_thread(&self, thread: i32) {
        self.thread.store(thread, Ordering::Relaxed);
    }

    pub(super) fn set_answered(&self, probe: u64) {
        self.answered.store(probe, Ordering::Release);
    }

    /// Shows what the driver and its machine have counted. `row` is room for it.
    pub(super) fn publish(
        &self,
        counters: &Counters,
        spreads: &Distributions,
        machine: &impl Machine,
        row: &mut Vec<u64>,
    ) {
        self.published.write(counters);
        let show = |shown: &[AtomicU64], row: &[u64]| {
            shown.iter().zip(row).for_each(|(shown, value)| shown.store(*value, Ordering::Relaxed));
        };
        row.clear();
        machine.figures(row);
        show(&self.figures, row);
        row.clear();
        spreads.push(row);
        show(&self.spreads, row);
    }
}
