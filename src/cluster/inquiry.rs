//! What one node asks those that have a user, a room or a channel, and what they answer, as bytes.
//!
//! A question goes to the channel of what it is about (for a connection, that of its shard), so it reaches whoever has it; each answers to the
//! channel of the shard that asked. The asking node hears its own questions too and answers them with nothing: so there are as many answers as
//! connections that heard.
//!
//! What a node tells the members of a room on all nodes, of users who come and go, is of this kind too.
//!
//! The first byte tells these from [parcels](super::parcel) and from the JSON of services.

use serde::{Deserialize, Serialize};

use super::parcel::Origin;
use crate::ids::ConnectionId;
use crate::limits::{NAME_BYTES_MAX, PRESENCE_USERS_MAX};
use crate::protocol::name::valid_name;

/// The first byte.
pub const MARK: u8 = 2;
/// Bytes of one answer: as many users as may be listed, with long names.
const BYTES_MAX: usize = PRESENCE_USERS_MAX * (NAME_BYTES_MAX + 8) + 4096;

/// One message of this kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Inquiry<'a> {
    /// A question.
    Ask {
        /// Who asks.
        origin: Origin,
        /// The node that asks: where the answer goes to, with `epoch` and the shard of the origin.
        node: &'a str,
        /// Its epoch.
        epoch: u64,
        /// Comes back with the answer.
        ticket: u32,
        /// What.
        #[serde(borrow)]
        what: What<'a>,
    },
    /// An answer.
    Tell {
        /// Of which question.
        ticket: u32,
        /// The node that answers.
        node: &'a str,
        /// What.
        #[serde(borrow)]
        said: Said<'a>,
    },
    /// On the channel of a room, for its members: the user has come in, or has left.
    Notice {
        /// The user.
        user: &'a str,
        /// Come, or gone.
        enters: bool,
    },
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What<'a> {
    /// Who is in this room or channel, whichever the question was published to.
    Here,
    /// How many connections the user has.
    Connections,
    /// Close the user's connections.
    Disconnect {
        /// With this code.
        code: u16,
        /// And this reason.
        reason: &'a str,
    },
    /// Put the user's connections into a room, or take them out.
    Member {
        /// The room.
        room: &'a str,
        /// In, or out.
        enter: bool,
    },
    /// Whether the user is in this room: with a connection or more, or with none.
    InRoom {
        /// The room.
        room: &'a str,
    },
    /// Close one connection of the shard whose channel the question was published to.
    Close {
        /// Which.
        connection: ConnectionId,
        /// With this code.
        code: u16,
        /// And this reason.
        reason: &'a str,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said<'a> {
    /// Nothing of interest.
    Nothing,
    /// Who is there.
    Present {
        /// Some users with their connections.
        #[serde(borrow)]
        users: Vec<(&'a str, u32)>,
        /// All users.
        user_count: u32,
        /// All connections.
        connection_count: u32,
    },
    /// So many connections were concerned.
    Connections(u32),
}

impl<'a> Inquiry<'a> {
    /// Reads one. `None`: it is none, or one that makes no sense.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (&MARK, rest) = bytes.split_first()? else { return None };
        if rest.len() > BYTES_MAX {
            return None;
        }
        let (inquiry, after): (Self, _) = postcard::take_from_bytes(rest).ok()?;
        let valid = match &inquiry {
            Inquiry::Ask { what: What::Member { room, .. } | What::InRoom { room }, .. } => valid_name(room),
            Inquiry::Notice { user, .. } => valid_name(user),
            Inquiry::Ask { what: What::Disconnect { reason, .. } | What::Close { reason, .. }, .. } => {
                reason.len() <= 123
            }
            Inquiry::Tell { said: Said::Present { users, .. }, .. } => {
                users.len() <= PRESENCE_USERS_MAX && users.iter().all(|(user, _)| valid_name(user))
            }
            Inquiry::Ask { .. } | Inquiry::Tell { .. } => true,
        };
        (after.is_empty() && valid).then_some(inquiry)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![MARK]).expect("it is plain data and a vector grows")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;

    #[test]
    fn what_is_written_is_read_and_what_is_cut_is_not() {
        let origin = Origin { instance: 9, shard: ShardId(3) };
        let connection = ConnectionId { shard: ShardId(3), slot: 7, generation: u32::MAX };
        let ask = |what| Inquiry::Ask { origin, node: "n", epoch: 7, ticket: 4, what };
        let tell = |said| Inquiry::Tell { ticket: 4, node: "m", said };
        let present = Said::Present { users: vec![("bob", 2), ("eve", 1)], user_count: 2, connection_count: 3 };
        for inquiry in [
            ask(What::Here),
            ask(What::Connections),
            ask(What::Disconnect { code: 4003, reason: "bye" }),
            ask(What::Member { room: "r", enter: true }),
            ask(What::InRoom { room: "r" }),
            Inquiry::Notice { user: "bob", enters: true },
            ask(What::Close { connection, code: 4003, reason: "bye" }),
            tell(Said::Nothing),
            tell(Said::Connections(5)),
            tell(present),
        ] {
            let bytes = inquiry.encode();
            assert_eq!(Inquiry::decode(&bytes), Some(inquiry));
            for end in 0..bytes.len() {
                assert_eq!(Inquiry::decode(&bytes[..end]), None, "{end}");
            }
            assert_eq!(Inquiry::decode(&[&bytes[..], b"x"].concat()), None);
        }
        assert_eq!(Inquiry::decode(&ask(What::Member { room: "", enter: true }).encode()), None);
        assert_eq!(Inquiry::decode(&ask(What::InRoom { room: "a\nb" }).encode()), None);
        assert_eq!(Inquiry::decode(&Inquiry::Notice { user: "", enters: false }.encode()), None);
    }
}
