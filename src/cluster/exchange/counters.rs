//! What an exchange counts.

use super::event::{Cause, Discarded};

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident,)+) => {
        /// Counters of one exchange since its start.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $help])+ pub $name: u64,)+
            /// Messages answered `unavailable`, by [`Cause`].
            pub unavailable: [u64; Cause::ALL.len()],
        }

        impl Counters {
            /// Calls `f` with the name, the help text and the value of every counter that has no label.
            pub fn each_plain(&self, mut f: impl FnMut(&'static str, &'static str, u64)) {
                $(f(stringify!($name), concat!($($help),+), self.$name);)+
            }
        }
    };
}

counters! {
    /// Messages given to the exchange.
    messages,
    /// Messages published, once for each destination.
    sent,
    /// Of those, acknowledged by their destination.
    acknowledged,
    /// Of those, answered by a destination that does not have the user any more.
    moved,
    /// Messages sent again by another route.
    forwarded,
    /// Look-ups of users.
    looked_up,
    /// Messages whose route was known.
    cache_hits,
    /// Messages that no destination has answered in time.
    timeouts,
    /// Publishes that nobody has heard.
    unheard,
    /// Messages that a dead destination has not acknowledged.
    died,
    /// Messages that did not reach every node where their user is, and were delivered elsewhere.
    missed,
    /// Answers that answer nothing (any more).
    answers_stale,
    /// Messages received for users whose home is here.
    received,
    /// Messages received for users who were not here.
    useless,
    /// Numbers of messages that never came.
    holes,
    /// Messages that came twice.
    seen_twice,
    /// Messages that came after others that were sent later.
    late,
    /// Messages that were sent again although they had arrived.
    repeated,
    /// Messages discarded because no lease held, or another one.
    outside_lease,
    /// Answers sent.
    answers,
    /// Parcels that carried them.
    answer_parcels,
    /// Answers given up because the bus was down.
    answers_lost,
}

impl Counters {
    /// Counts what was answered `unavailable`.
    pub fn refuse(&mut self, cause: Cause) {
        self.unavailable[cause as usize] += 1;
    }

    /// Counts what was discarded.
    pub(super) fn discard(&mut self, why: Discarded) {
        match why {
            Discarded::Own => {}
            Discarded::Lease => self.outside_lease += 1,
            Discarded::Twice => self.seen_twice += 1,
            Discarded::Late => self.late += 1,
        }
    }
}
