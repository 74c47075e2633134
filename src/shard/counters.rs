//! What a shard counts: plain numbers, written by one thread; the driver publishes them.

use crate::error::{CloseReason, RefusalReason};
use crate::protocol::class::Class;
use crate::shard::histogram::Histogram;
use crate::shard::pressure::Level;

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DropReason {
    /// Droppable, and its receiver was behind.
    Throttled,
    /// It would have led its receiver above the hard bound, who is closed for it.
    Overflow,
    /// It was queued, and shed because the shard is short of memory.
    Pressure,
    /// It was queued when the connection was closed or lost.
    Closed,
}

impl DropReason {
    /// Every reason, in the order of their labels in the metrics.
    pub const ALL: [DropReason; 4] =
        [DropReason::Throttled, DropReason::Overflow, DropReason::Pressure, DropReason::Closed];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Throttled => "throttled",
            DropReason::Overflow => "overflow",
            DropReason::Pressure => "pressure",
            DropReason::Closed => "closed",
        }
    }
}

/// Distributions of one shard since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distributions {
    /// Microseconds from reading a message of a client to handing its last byte to the kernel for a receiver here.
    pub delivery_us: Histogram,
    /// Microseconds from accepting a connection to its 101.
    pub handshake_us: Histogram,
    /// Frames that one send completed.
    pub frames_per_send: Histogram,
}

impl Distributions {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// All of them, always in the same order.
    pub fn all(&self) -> [&Histogram; Distributions::COUNT] {
        [&self.delivery_us, &self.handshake_us, &self.frames_per_send]
    }
}

const CLASS_NAMES: [&str; 4] = ["urgent", "normal", "latest", "droppable"];

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident,)+) => {
        /// Counters of one shard since its start.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $help])+ pub $name: u64,)+
            /// Closed connections, by [`CloseReason`].
            pub closes: [u64; CloseReason::ALL.len()],
            /// Messages given up, by [`DropReason`] and [`Class`].
            pub dropped: [[u64; 4]; DropReason::ALL.len()],
            /// Requests that did not become a WebSocket, by [`RefusalReason`].
            pub refusals: [u64; RefusalReason::ALL.len()],
            /// Times that a level of pressure was reached from below, by [`Level`].
            pub pressure_levels: [u64; Level::ALL.len()],
        }

        impl Counters {
            /// Calls `f` with the name, the help text and the value of every counter that has no label.
            pub fn each_plain(&self, mut f: impl FnMut(&'static str, &'static str, u64)) {
                $(f(stringify!($name), concat!($($help),+), self.$name);)+
            }

            /// Calls `f` with the group, the labels, the help text and the value of every counter, always in the same order. Those without a
            /// label are the group `counters`, with their name; else the group is what is counted.
            pub fn each(&self, mut f: impl FnMut(&'static str, [&'static str; 2], &'static str, u64)) {
                self.each_plain(|name, help, value| f("counters", [name, ""], help, value));
                for (reason, count) in CloseReason::ALL.iter().zip(self.closes) {
                    f("closes", [reason.name(), ""], "Closed connections, by reason.", count);
                }
                for (reason, by_class) in DropReason::ALL.iter().zip(self.dropped) {
                    for (class, count) in CLASS_NAMES.iter().zip(by_class) {
                        f("dropped", [reason.name(), class], "Messages given up, by reason and class.", count);
                    }
                }
                for (reason, count) in RefusalReason::ALL.iter().zip(self.refusals) {
                    f("refusals", [reason.name(), ""], "Requests that did not become a WebSocket, by reason.", count);
                }
                for (level, count) in Level::ALL.iter().zip(self.pressure_levels) {
                    f("pressure_levels", [level.name(), ""], "Times that a level of pressure was reached.", count);
                }
            }
        }
    };
}

counters! {
    /// Connections accepted.
    accepted,
    /// Upgrades to WebSocket that were answered with 101.
    upgraded,
    /// Connections that authenticated here.
    authenticated,
    /// Connections handed to another shard.
    handed_over,
    /// Connections taken over from another shard.
    adopted,
    /// Messages of the application received.
    messages_received,
    /// Bytes received, frames and heads included.
    bytes_received,
    /// Messages queued for connections of this shard.
    messages_pushed,
    /// Of those, messages that the kernel took whole.
    messages_delivered,
    /// Frames that the kernel took.
    frames_sent,
    /// Bytes that the kernel took.
    bytes_sent,
    /// Messages replaced by a newer one of the same key.
    conflated,
    /// Crossings of an outbox's high mark.
    throttle_crossings,
    /// Notices of dropped messages sent to receivers that had caught up.
    gaps_told,
    /// Outboxes that were shed because the shard was short of memory.
    pressure_sheds,
    /// Bytes freed that way.
    pressure_shed_bytes,
    /// Connections that were not read from any more because the shard was short of memory.
    pressure_pauses,
    /// Connections that were closed because the shard was short of memory.
    pressure_closes,
    /// Requests answered by an error.
    request_errors,
    /// Messages refused and pings left unanswered because their sender was over its rate.
    rate_limited,
    /// Heartbeat pings sent.
    pings_sent,
    /// Times a client had to wait for credit at another shard.
    credit_waits,
    /// Envelopes that found nobody: the connection or topic had gone.
    envelopes_stale,
    /// Connections to the bus that were made.
    bus_connects,
    /// Times the link to the bus was lost.
    bus_outages,
    /// Messages, answers and questions published on the bus.
    bus_published,
    /// Messages and questions not published because the bus was not up, too much had no answer, or Redis refused.
    bus_refused,
    /// Messages and questions on their way when the bus was lost: what became of them is not known.
    bus_lost,
    /// Messages, answers and questions that the bus brought.
    bus_received,
    /// Of those, what this node had published itself.
    bus_own,
    /// Of those, what was discarded because no lease held.
    bus_discarded,
    /// Of those, what could not be read.
    bus_malformed,
    /// Messages of the bus given up because a shard of this node takes no more.
    bus_shed,
    /// Questions to other nodes whether a user who came into a room or left it is in it there.
    rooms_asked,
    /// Of those, questions that were not answered in time: it was told all the same.
    rooms_unanswered,
    /// Comings and goings that were told without asking other nodes: the bus was not up, or too many questions were open.
    rooms_unasked,
    /// Connections told to go to the node that their user belongs on.
    told_to_move,
    /// Requests to /route that were answered with a node.
    routes_answered,
    /// Panics caught while one connection was handled.
    panics,
}

impl Counters {
    /// Counts a close.
    pub fn closed(&mut self, reason: CloseReason) {
        self.closes[reason as usize] += 1;
    }

    /// Counts a message given up.
    pub fn drop_message(&mut self, reason: DropReason, class: Class) {
        self.dropped[reason as usize][class as usize] += 1;
    }

    /// Counts messages given up, by class.
    pub fn drop_messages(&mut self, reason: DropReason, by_class: [u32; 4]) {
        for (sum, more) in self.dropped[reason as usize].iter_mut().zip(by_class) {
            *sum += u64::from(more);
        }
    }

    /// Counts a request that does not become a WebSocket.
    pub fn refused(&mut self, reason: RefusalReason) {
        self.refusals[reason as usize] += 1;
    }
}
