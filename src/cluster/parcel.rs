//! What one shard says to another over the bus, as bytes: messages for users and topics, and the answers to them.
//!
//! A version byte, a header (postcard), and after it, to the end, the server frame of the message. The frame is not looked into and not
//! copied on the way in. A parcel of a version that is not known is refused as such, so that a rolling update can be seen and counted.
//!
//! Nodes of a cluster trust each other as far as Redis is guarded; still nothing here believes a length, and names are checked as
//! those of clients are.

use serde::{Deserialize, Serialize};

use crate::ids::{MessageId, ShardId};
use crate::limits::MESSAGE_BYTES_CEILING;
use crate::protocol::class::Class;
use crate::protocol::name::valid_name;
use crate::protocol::tags::Tags;

/// The version of what is written; and the only one that is read.
pub const VERSION: u8 = 1;
/// Bytes of one parcel: a frame of the largest message, its envelope as JSON, and the header.
pub const PARCEL_BYTES_MAX: usize = MESSAGE_BYTES_CEILING + 64 * 1024;
/// Answers in one parcel.
pub const ANSWERS_MAX: usize = 1024;

/// Which shard of which process speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The number drawn at the start of that process. A node discards what bears its own.
    pub instance: u32,
    /// The shard.
    pub shard: ShardId,
}

/// One parcel.
#[derive(Clone, Debug, PartialEq)]
pub enum Parcel<'a> {
    /// A message.
    Message(Box<Label<'a>>, &'a [u8]),
    /// What became of messages.
    Answers(Answers<'a>),
}

/// Everything about a message but its frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label<'a> {
    /// Who sends it on.
    pub origin: Origin,
    /// The node of the origin: where answers go to, with `origin_epoch` and the origin's shard.
    pub origin_node: &'a str,
    /// The epoch of the origin's node.
    pub origin_epoch: u64,
    /// The number of this message from that origin to this destination; 0 where none is kept (topics, broadcasts).
    pub number: u64,
    /// With which number the route to this user began, where one is kept: a destination that has answered `moved` to a number at or after
    /// it answers so again, since the message comes by the same stale route.
    pub route_began: u64,
    /// For whom.
    pub to: Target<'a>,
    /// The id of the message, the same however often it is sent on.
    pub message_id: MessageId,
    /// What may be given up first.
    pub class: Class,
    /// For [`Class::Latest`]: what it is the latest of, by [`stable`](super::hash::stable), which all nodes share.
    pub key: Option<u64>,
    /// What filters look at.
    pub tags: Option<Tags>,
    /// The user who sent it, where it is not to come back to them by another way.
    pub except_user: Option<&'a str>,
}

/// For whom a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target<'a> {
    /// Every connection of a user.
    User(&'a str),
    /// The members of a room.
    Room(&'a str),
    /// The subscribers of a channel.
    Channel(&'a str),
    /// Everybody.
    All,
}

/// Answers of one destination to one origin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answers<'a> {
    /// Who answers.
    pub origin: Origin,
    /// The node that answers.
    pub node: &'a str,
    /// Its epoch.
    pub epoch: u64,
    /// Numbers, and what became of them.
    pub answers: Vec<(u64, Answer)>,
}

/// What became of a message at its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// In the outbox of at least one connection.
    Delivered,
    /// Every outbox refused it.
    Dropped,
    /// The user is not here (any more): look elsewhere.
    Moved,
}

/// Why bytes are no parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParcelError {
    /// Of another version.
    #[error("a parcel of version {0}")]
    Version(u8),
    /// Over [`PARCEL_BYTES_MAX`].
    #[error("a parcel that is too large")]
    TooLarge,
    /// Neither.
    #[error("no parcel")]
    Malformed,
}

#[derive(Serialize, Deserialize)]
enum Header<'a> {
    #[serde(borrow)]
    Message(Label<'a>),
    Answers(Answers<'a>),
}

impl<'a> Parcel<'a> {
    /// Reads a parcel; what it names and carries is borrowed from `bytes`.
    ///
    /// # Errors
    ///
    /// See [`ParcelError`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ParcelError> {
        if bytes.len() > PARCEL_BYTES_MAX {
            return Err(ParcelError::TooLarge);
        }
        let (&version, rest) = bytes.split_first().ok_or(ParcelError::Malformed)?;
        if version != VERSION {
            return Err(ParcelError::Version(version));
        }
        let (header, frame) = postcard::take_from_bytes(rest).map_err(|_| ParcelError::Malformed)?;
        match header {
            Header::Message(label) if !frame.is_empty() && label.is_valid() => {
                Ok(Parcel::Message(Box::new(label), frame))
            }
            Header::Answers(answers) if frame.is_empty() && answers.answers.len() <= ANSWERS_MAX => {
                Ok(Parcel::Answers(answers))
            }
            Header::Message(_) | Header::Answers(_) => Err(ParcelError::Malformed),
        }
    }
}

impl Label<'_> {
    /// The bytes of a message with this label.
    pub fn encode(&self, frame: &[u8]) -> Vec<u8> {
        let mut bytes = with_header(&Header::Message(self.clone()), 192 + frame.len());
        bytes.extend_from_slice(frame);
        bytes
    }

    fn is_valid(&self) -> bool {
        let target = match self.to {
            Target::User(name) | Target::Room(name) | Target::Channel(name) => valid_name(name),
            Target::All => true,
        };
        target && self.except_user.is_none_or(valid_name)
    }
}

impl Answers<'_> {
    /// The bytes of these answers. There may be [`ANSWERS_MAX`] of them at most.
    pub fn encode(&self) -> Vec<u8> {
        debug_assert!(self.answers.len() <= ANSWERS_MAX, "they go in several parcels");
        with_header(&Header::Answers(self.clone()), 64 + self.answers.len() * 6)
    }
}

fn with_header(header: &Header<'_>, capacity: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(capacity);
    bytes.push(VERSION);
    postcard::to_extend(header, bytes).expect("a header is plain data and a vector grows")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn label<'a>(to: Target<'a>, tags: Option<Tags>) -> Label<'a> {
        Label {
            origin: Origin { instance: 7, shard: ShardId(3) },
            origin_node: "node-1",
            origin_epoch: 1_790_000_000_000,
            number: 300,
            route_began: 290,
            to,
            message_id: MessageId(u128::MAX / 3),
            class: Class::Latest,
            key: Some(u64::MAX),
            tags,
            except_user: Some("alice"),
        }
    }

    fn answers(count: usize) -> Answers<'static> {
        let each = [Answer::Delivered, Answer::Dropped, Answer::Moved];
        let answers = (0..count).map(|n| (n as u64 * 1_000, each[n % 3])).collect();
        Answers { origin: Origin { instance: 1, shard: ShardId(0) }, node: "node-2", epoch: 9, answers }
    }

    #[test]
    fn what_is_written_is_read() {
        let tags = Tags::parse(r#"{"a":1.5,"b":"x","c":true,"place":[48.1,11.5]}"#).unwrap();
        for to in [Target::User("bob"), Target::Room("röom"), Target::Channel("prices.1"), Target::All] {
            let label = label(to, Some(tags.clone()));
            let bytes = label.encode(b"\x81\x02{}");
            assert_eq!(Parcel::decode(&bytes), Ok(Parcel::Message(Box::new(label), b"\x81\x02{}")));
        }
        for count in [0, 1, ANSWERS_MAX] {
            let answers = answers(count);
            assert_eq!(Parcel::decode(&answers.encode()), Ok(Parcel::Answers(answers)));
        }
    }

    #[test]
    fn a_parcel_of_another_version_is_told_apart_from_rubbish() {
        let mut bytes = label(Target::All, None).encode(b"frame");
        bytes[0] = VERSION + 1;
        assert_eq!(Parcel::decode(&bytes), Err(ParcelError::Version(VERSION + 1)));
        assert_eq!(Parcel::decode(b""), Err(ParcelError::Malformed));
        assert_eq!(Parcel::decode(&vec![VERSION; PARCEL_BYTES_MAX + 1]), Err(ParcelError::TooLarge));
    }

    #[test]
    fn names_and_counts_are_checked() {
        let long = "x".repeat(crate::limits::NAME_BYTES_MAX + 1);
        for to in [Target::User(""), Target::Room("a\nb"), Target::Channel(&long)] {
            assert_eq!(Parcel::decode(&label(to, None).encode(b"frame")), Err(ParcelError::Malformed), "{to:?}");
        }
        let without_frame = label(Target::All, None).encode(b"");
        assert_eq!(Parcel::decode(&without_frame), Err(ParcelError::Malformed));
        let followed = [answers(1).encode(), b"x".to_vec()].concat();
        assert_eq!(Parcel::decode(&followed), Err(ParcelError::Malformed));
    }

    #[test]
    fn a_header_that_is_cut_anywhere_is_refused() {
        let bytes = label(Target::User("bob"), Tags::parse(r#"{"a":1}"#).ok()).encode(b"F");
        for end in 0..bytes.len() {
            assert_eq!(Parcel::decode(&bytes[..end]), Err(ParcelError::Malformed), "{end}");
        }
    }

    proptest! {
        #[test]
        fn rubbish_is_refused_and_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            bytes.insert(0, VERSION);
            if let Ok(Parcel::Message(label, frame)) = Parcel::decode(&bytes) {
                prop_assert!(label.is_valid() && !frame.is_empty());
            }
        }
    }
}
