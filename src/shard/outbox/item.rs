//! What goes into an outbox, and what becomes of it.

use super::Frame;
use crate::protocol::class::Class;
use crate::time::Now;

/// The marks of an outbox, in bytes; 0 switches one off.
///
/// Without `high` nothing is ever throttled, and `max` spares only a push into an empty outbox. Without `low` a throttled outbox flows
/// again once it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Above it the outbox is throttled.
    pub high: usize,
    /// Below it a throttled outbox flows again.
    pub low: usize,
    /// No push into an outbox above `high` may lead above it.
    pub max: usize,
}

/// Where a message came from, as far as the receiver is told when it is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Source {
    /// Neither room nor channel.
    #[default]
    None,
    /// A room, by the shard's own number.
    Room(u32),
    /// A channel, by the shard's own number.
    Channel(u32),
}

/// One message to be sent: a whole server frame and what its class needs.
#[derive(Clone, Debug)]
pub struct Item {
    /// The frame, header and payload; never empty. Shared by all receivers of a shard.
    pub frame: Frame,
    /// What may be given up first.
    pub class: Class,
    /// For [`Class::Latest`]: a 64-bit hash of the conflation key, well mixed and seeded per process. Without one it is kept like `Normal`.
    pub key: Option<u64>,
    /// What a `gap` counts it under.
    pub source: Source,
    /// When it was pushed: the low 32 bits of [`Now::mono_ms`](crate::time::Now::mono_ms), for
    /// [`Outbox::oldest_age_ms`](super::Outbox::oldest_age_ms).
    pub queued_ms: u32,
    /// When its sender's bytes were accepted.
    pub accepted: Accepted,
    /// How many messages this frame carries: 1, more where they were joined, 0 where it is something else.
    pub messages: u8,
}

/// When the bytes of a sender were accepted, relative to when the message was queued, in two bytes; or that nobody wants to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted(u16);

impl Accepted {
    /// Not a message of another client: its latency says nothing.
    pub const UNMEASURED: Accepted = Accepted(0);

    /// Microseconds of one step.
    const STEP_US: u64 = 8;

    /// Accepted at `accepted_us` of the clock of [`Now::mono_us`], queued now. What is older than half a second counts as that.
    pub fn new(accepted_us: u64, now: Now) -> Self {
        // Counted back from the end of the millisecond in which it was queued; so it is never 0.
        let back_us = ((now.mono_ms + 1) * 1000).saturating_sub(accepted_us).max(1);
        Accepted(u16::try_from(back_us.div_ceil(Self::STEP_US)).unwrap_or(u16::MAX))
    }

    /// Microseconds from accepting it until now, where it was queued at `queued_ms`: exact to 8.
    pub fn latency_us(self, queued_ms: u32, now: Now) -> Option<u64> {
        let back_us = u64::from(self.0) * Self::STEP_US;
        // Modulo 2^32 ms, as all ages here.
        let queued_for_us = u64::from((now.mono_ms as u32).wrapping_sub(queued_ms)) * 1000 + u64::from(now.sub_us);
        (self != Self::UNMEASURED).then(|| (queued_for_us + back_us).saturating_sub(1000))
    }
}

impl Item {
    /// A message of class `Normal` that came from no room or channel.
    pub fn normal(frame: impl Into<Frame>, now_ms: u64) -> Self {
        // Truncation is meant: ages are differences modulo 2^32 ms, 49 days.
        let queued_ms = now_ms as u32;
        Item {
            frame: frame.into(),
            class: Class::Normal,
            key: None,
            source: Source::None,
            queued_ms,
            accepted: Accepted::UNMEASURED,
            messages: 1,
        }
    }

    /// The opcode of the frame (RFC 6455, section 5.2).
    pub(super) fn opcode(&self) -> u8 {
        self.frame.first().map_or(0, |byte| byte & 0x0f)
    }
}

/// What became of a push.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// Queued, and the outbox flows.
    Queued,
    /// Queued, and the outbox is throttled: since this push or an earlier one.
    Throttled,
    /// Not queued: droppable in a throttled outbox (counted for the `gap`), or a close frame is queued already (not counted).
    Dropped,
    /// Queued in the place of an older message of the same key, which is counted as conflated.
    Replaced,
    /// Not queued and nothing changed: it would lead above `max`. Close the connection with 4110.
    Overflowed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_exact_to_a_step() {
        let at = |us: u64| Now { mono_ms: us / 1000, boot_ms: us / 1000, unix_ms: 0, sub_us: (us % 1000) as u16 };
        let wrap = (1 << 32) * 1000;
        for accepted_us in [1, 999, 1000, 123_456_789, wrap - 1, wrap - 700, wrap, wrap + 1] {
            for transit_us in [0, 1, 7, 8, 999, 1000, 400_000] {
                for queued_us in [0, 1, 500, 999, 1_000, 5_000_000, 3_600_000_000] {
                    let queued = at(accepted_us + transit_us);
                    let sent = at(accepted_us + transit_us + queued_us);
                    let accepted = Accepted::new(accepted_us, queued);
                    let told = accepted.latency_us(queued.mono_ms as u32, sent).unwrap();
                    let exact = transit_us + queued_us;
                    assert!(
                        told >= exact && told < exact + 8,
                        "{told} for {transit_us} + {queued_us} from {accepted_us}"
                    );
                }
            }
        }
        assert_eq!(Accepted::UNMEASURED.latency_us(0, at(5_000)), None);
        let stalled = Accepted::new(0, at(60_000_000));
        assert_eq!(stalled.latency_us(60_000, at(60_000_000)), Some(523_280), "as old as can be told");
    }
}
