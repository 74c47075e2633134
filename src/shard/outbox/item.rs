//! What goes into an outbox, and what becomes of it.

use bytes::Bytes;

use crate::protocol::class::Class;

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
    pub frame: Bytes,
    /// What may be given up first.
    pub class: Class,
    /// For [`Class::Latest`]: a 64-bit hash of the conflation key, well mixed and seeded per process. Without one it is kept like `Normal`.
    pub key: Option<u64>,
    /// What a `gap` counts it under.
    pub source: Source,
    /// When it was pushed: the low 32 bits of [`Now::mono_ms`](crate::time::Now::mono_ms), for
    /// [`Outbox::oldest_age_ms`](super::Outbox::oldest_age_ms).
    pub queued_ms: u32,
}

impl Item {
    /// A message of class `Normal` that came from no room or channel.
    pub fn normal(frame: Bytes, now_ms: u64) -> Self {
        // Truncation is meant: ages are differences modulo 2^32 ms, 49 days.
        Item { frame, class: Class::Normal, key: None, source: Source::None, queued_ms: now_ms as u32 }
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
