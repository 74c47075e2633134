//! What happens on a node, as services are told of it (`[hooks]`).

use std::net::SocketAddr;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::ids::{GlobalConnectionId, MessageId};
use crate::protocol::envelope::Topic;

/// Something that happened, and when.
#[derive(Debug, Serialize)]
pub struct Happening {
    /// Unix time in milliseconds.
    pub timestamp: u64,
    /// The user.
    pub user: Box<str>,
    /// The connection.
    pub connection: GlobalConnectionId,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

impl Happening {
    /// About how many bytes it takes up.
    pub fn bytes(&self) -> usize {
        let content = match &self.what {
            What::Message { content, .. } => content.get().len(),
            _ => 0,
        };
        size_of::<Happening>() + self.user.len() + content
    }
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum What {
    /// A session began.
    Connect {
        /// The remote address, after trusted proxies.
        address: SocketAddr,
        /// What the client calls itself.
        user_agent: Option<Box<str>>,
        /// The user had no other connection on this node.
        first: bool,
    },
    /// A session ended.
    Disconnect {
        /// The remote address, after trusted proxies.
        address: SocketAddr,
        /// Why, as in the metrics.
        reason: &'static str,
        /// The user has no other connection on this node.
        last: bool,
        /// How long the connection was open, in milliseconds.
        duration_ms: u64,
    },
    /// The user's first connection entered a room or subscribed to a channel.
    Join(Place),
    /// The user's last connection left a room or channel.
    Leave(Place),
    /// The client sent a message.
    Message {
        /// Its id, as the receivers see it.
        #[serde(serialize_with = "as_text")]
        id: MessageId,
        /// For whom.
        to: Target,
        /// The application's name for this kind of message.
        #[serde(skip_serializing_if = "Option::is_none")]
        event: Option<Box<str>>,
        /// One JSON value, verbatim.
        content: Box<RawValue>,
    },
}

/// A room or a channel.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A room.
    #[serde(rename = "roomId")]
    Room(Box<str>),
    /// A channel.
    Channel(Box<str>),
}

impl Place {
    /// A topic by name.
    pub fn new(topic: Topic, name: &str) -> Self {
        match topic {
            Topic::Room => Place::Room(name.into()),
            Topic::Channel => Place::Channel(name.into()),
        }
    }
}

/// Whom a client's message is for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// A user.
    User(Box<str>),
    /// A room.
    #[serde(rename = "roomId")]
    Room(Box<str>),
    /// A channel.
    Channel(Box<str>),
    /// Everybody.
    All(bool),
}

fn as_text<S: serde::Serializer>(id: &MessageId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ConnectionId, ShardId};

    #[test]
    fn happenings_are_flat_json() {
        let connection = ConnectionId { shard: ShardId(1), slot: 2, generation: 3 }.of(0x5f00_aa01);
        let happening = |what| Happening { timestamp: 5, user: "ann".into(), connection, what };
        let start = r#"{"timestamp":5,"user":"ann","connection":"5f00aa0100010000000200000003","type":"#;
        let content = RawValue::from_string(r#"{"x" : [1]}"#.to_owned()).unwrap();
        let address = "127.0.0.1:9".parse().unwrap();
        let table = [
            (What::Join(Place::new(Topic::Room, "r")), r#""join","roomId":"r"}"#.to_owned()),
            (What::Leave(Place::new(Topic::Channel, "c")), r#""leave","channel":"c"}"#.to_owned()),
            (
                What::Disconnect { address, reason: "peer_closed", last: true, duration_ms: 7 },
                r#""disconnect","address":"127.0.0.1:9","reason":"peer_closed","last":true,"duration_ms":7}"#
                    .to_owned(),
            ),
            (
                What::Message { id: MessageId(0), to: Target::All(true), event: None, content },
                format!(r#""message","id":"{}","to":{{"all":true}},"content":{{"x" : [1]}}}}"#, MessageId(0)),
            ),
        ];
        for (what, end) in table {
            assert_eq!(serde_json::to_string(&happening(what)).unwrap(), format!("{start}{end}"));
        }
    }
}
