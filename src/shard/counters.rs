//! What a shard counts: plain numbers, written by one thread; the driver publishes them.

use crate::error::CloseReason;
use crate::protocol::class::Class;

/// HTTP statuses with which an upgrade is refused, in the order of their counters; the last stands for all others.
pub const REFUSAL_STATUSES: [u16; 12] = [400, 403, 404, 405, 408, 413, 426, 429, 431, 503, 505, 0];

const REFUSAL_NAMES: [&str; REFUSAL_STATUSES.len()] =
    ["400", "403", "404", "405", "408", "413", "426", "429", "431", "503", "505", "other"];

const CLASS_NAMES: [&str; 4] = ["urgent", "normal", "latest", "droppable"];

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident,)+) => {
        /// Counters of one shard since its start.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $help])+ pub $name: u64,)+
            /// Closed connections, by [`CloseReason`].
            pub closes: [u64; CloseReason::ALL.len()],
            /// Messages dropped for receivers that were behind, by [`Class`].
            pub dropped: [u64; 4],
            /// Refused upgrades, by status; see [`REFUSAL_STATUSES`].
            pub refusals: [u64; REFUSAL_STATUSES.len()],
        }

        impl Counters {
            /// Calls `f` with the name, the help text and the value of every counter that has no label.
            pub fn each_plain(&self, mut f: impl FnMut(&'static str, &'static str, u64)) {
                $(f(stringify!($name), concat!($($help),+), self.$name);)+
            }

            /// Calls `f` with the group, the name, the help text and the value of every counter, always in the same order. Those without a
            /// label are the group `counters`; else the group is what is counted, and the name its label.
            pub fn each(&self, mut f: impl FnMut(&'static str, &'static str, &'static str, u64)) {
                self.each_plain(|name, help, value| f("counters", name, help, value));
                for (reason, count) in CloseReason::ALL.iter().zip(self.closes) {
                    f("closes", reason.name(), "Closed connections, by reason.", count);
                }
                for (class, count) in CLASS_NAMES.iter().zip(self.dropped) {
                    f("dropped", class, "Messages dropped for receivers that were behind, by class.", count);
                }
                for (status, count) in REFUSAL_NAMES.iter().zip(self.refusals) {
                    f("refusals", status, "Refused upgrades, by status.", count);
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
    /// Frames that the kernel took.
    frames_sent,
    /// Bytes that the kernel took.
    bytes_sent,
    /// Messages replaced by a newer one of the same key.
    conflated,
    /// Crossings of an outbox's high mark.
    throttle_crossings,
    /// Requests answered by an error.
    request_errors,
    /// Messages refused because their sender was over its rate.
    rate_limited,
    /// Heartbeat pings sent.
    pings_sent,
    /// Times a client had to wait for credit at another shard.
    credit_waits,
    /// Envelopes that found nobody: the connection or topic had gone.
    envelopes_stale,
    /// Panics caught while one connection was handled.
    panics,
}

impl Counters {
    /// Counts a close.
    pub fn closed(&mut self, reason: CloseReason) {
        self.closes[reason as usize] += 1;
    }

    /// Counts a message given up.
    pub fn drop_message(&mut self, class: Class) {
        self.dropped[class as usize] += 1;
    }

    /// Counts a refused upgrade.
    pub fn refused(&mut self, status: u16) {
        let last = REFUSAL_STATUSES.len() - 1;
        let at = REFUSAL_STATUSES.iter().position(|s| *s == status).unwrap_or(last);
        self.refusals[at] += 1;
    }
}
