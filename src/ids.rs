//! Handles that cross boundaries: shards, connections, messages.
//!
//! Handles, not references: a stale [`ConnectionId`] finds nothing, because its generation no longer matches.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The index of a shard within its process, `0..count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard as an index into per-shard arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A connection: the shard that holds it, the row of that shard's slab, and the row's generation (bumped each time the row is reused).
///
/// It means something in this process only; what leaves the process is a [`GlobalConnectionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId {
    /// The shard that holds the connection.
    pub shard: ShardId,
    /// The row in that shard's slab.
    pub slot: u32,
    /// The generation of that row.
    pub generation: u32,
}

impl ConnectionId {
    /// The same connection, as everybody outside this process knows it.
    pub fn of(self, instance: u32) -> GlobalConnectionId {
        GlobalConnectionId { instance, connection: self }
    }
}

/// A connection among those of all nodes and of all their starts: what clients, services and operators are shown, and give back.
///
/// As text, in JSON too, 28 hexadecimal digits: 8 of the instance, 4 of the shard, 8 of the row, 8 of its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GlobalConnectionId {
    /// The number drawn at the start of the process that has it: [`Settings::instance`](crate::settings::Settings::instance).
    pub instance: u32,
    /// Which of its connections.
    pub connection: ConnectionId,
}

impl fmt::Display for GlobalConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConnectionId { shard, slot, generation } = self.connection;
        write!(f, "{:08x}{:04x}{slot:08x}{generation:08x}", self.instance, shard.0)
    }
}

/// The text is not a connection id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a connection id; expected 28 hexadecimal digits, as in the connectionId of auth:ok")]
pub struct BadConnectionId;

impl FromStr for GlobalConnectionId {
    type Err = BadConnectionId;

    fn from_str(s: &str) -> Result<Self, BadConnectionId> {
        if s.len() != 28 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(BadConnectionId);
        }
        let part = |range: std::ops::Range<usize>| u32::from_str_radix(&s[range], 16).map_err(|_| BadConnectionId);
        let shard = ShardId(part(8..12)? as u16);
        Ok(ConnectionId { shard, slot: part(12..20)?, generation: part(20..28)? }.of(part(0..8)?))
    }
}

impl Serialize for GlobalConnectionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GlobalConnectionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The id of a message: 128 bits that sort by time, written as 26 characters of Crockford's base 32 like a ULID.
///
/// From the top: 48 bits of Unix time in milliseconds, 32 bits of a counter, 16 bits of shard, 32 bits of the node instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MessageId(pub u128);

impl MessageId {
    /// Characters of the text form.
    pub const TEXT_LEN: usize = 26;

    /// The text form: 26 ASCII characters that sort as the ids do.
    pub fn encode(self) -> [u8; Self::TEXT_LEN] {
        const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        let mut text = [0; Self::TEXT_LEN];
        let mut rest = self.0;
        for byte in text.iter_mut().rev() {
            *byte = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        text
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.encode().iter().try_for_each(|&b| fmt::Write::write_char(f, char::from(b)))
    }
}

/// Makes the [`MessageId`]s of one shard: unique across shards and nodes, and increasing even when the clock steps back.
#[derive(Clone, Debug)]
pub struct MessageIds {
    shard: ShardId,
    instance: u32,
    last_ms: u64,
    counter: u32,
}

impl MessageIds {
    /// `instance` is drawn at random once per start of a node.
    pub fn new(shard: ShardId, instance: u32) -> Self {
        MessageIds { shard, instance, last_ms: 0, counter: 0 }
    }

    /// The next id, for a message accepted at `unix_ms`.
    pub fn next(&mut self, unix_ms: u64) -> MessageId {
        if unix_ms > self.last_ms {
            self.last_ms = unix_ms;
            self.counter = 0;
        } else {
            self.counter = self.counter.wrapping_add(1);
            if self.counter == 0 {
                self.last_ms += 1;
            }
        }
        let tail = u128::from(self.counter) << 48 | u128::from(self.shard.0) << 32 | u128::from(self.instance);
        MessageId(u128::from(self.last_ms & 0xffff_ffff_ffff) << 80 | tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_id_text_round_trips_and_rejects_rubbish() {
        let id = ConnectionId { shard: ShardId(3), slot: 77, generation: u32::MAX }.of(0x5f00_aa01);
        assert_eq!(id.to_string(), "5f00aa0100030000004dffffffff");
        assert_eq!("5F00AA0100030000004DFFFFFFFF".parse(), Ok(id));
        assert_eq!(serde_json::from_str::<GlobalConnectionId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        for bad in [
            "",
            "00",
            "00030000004dffffffff",
            "zf00aa0100030000004dffffffff",
            "+f00aa0100030000004dffffffff",
            "5f00aa0100030000004dffffffff0",
            "5f00aa0100030000004dffffff\u{e9}",
        ] {
            assert_eq!(bad.parse::<GlobalConnectionId>(), Err(BadConnectionId), "{bad}");
        }
    }

    #[test]
    fn message_ids_increase_through_clock_steps_and_sort_as_text() {
        let mut ids = MessageIds::new(ShardId(1), 7);
        let made: Vec<_> = [5, 5, 4, 6, 6, 1].into_iter().map(|ms| ids.next(ms)).collect();
        assert!(made.windows(2).all(|w| w[0] < w[1] && w[0].encode() < w[1].encode()));
        assert_ne!(MessageIds::new(ShardId(2), 7).next(9), MessageIds::new(ShardId(1), 7).next(9));
    }
}
