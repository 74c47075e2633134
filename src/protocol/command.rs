//! What the server API asks of the shards of a node, and what they answer. Plain values.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::ids::{GlobalConnectionId, MessageId, ShardId};
use crate::limits::PRESENCE_USERS_MAX;
use crate::protocol::class::Class;
use crate::protocol::envelope::{Census, Publication, Topic};
use crate::protocol::request;
use crate::protocol::tags::Tags;

/// Something to do, for `Event::Command`.
#[derive(Clone, Debug)]
pub enum Command {
    /// Send a message.
    Publish(Box<Publish>),
    /// Close connections.
    Disconnect {
        /// Whose.
        whom: Whom,
        /// The close code; valid on the wire.
        code: u16,
        /// The reason in the close frame: at most 123 bytes.
        reason: Box<str>,
    },
    /// Put all connections of a user into a room, or take them out of it.
    Member {
        /// The user.
        user: Box<str>,
        /// The room.
        room: Box<str>,
        /// In, or out.
        enter: bool,
    },
    /// Who is there?
    Presence(Place),
    /// Find connections.
    Connections(Search),
    /// What every shard holds and has counted.
    Info {
        /// How many of each shard's largest rooms to list.
        rooms: u32,
    },
    /// What was seen of a user's frames since the last time; the first time begins.
    Trace {
        /// The user.
        user: Box<str>,
        /// Contents too.
        content: bool,
    },
    /// Answer, to show that the way there and back is open.
    Probe {
        /// Which shard.
        shard: ShardId,
    },
}

/// A message of a service.
#[derive(Clone, Debug)]
pub struct Publish {
    /// For whom.
    pub to: Destination,
    /// One JSON value, verbatim.
    pub content: Box<str>,
    /// In whose name.
    pub from: Option<Box<str>>,
    /// As in [`request::Publication`].
    pub event: Option<Box<str>>,
    /// As in [`request::Publication`].
    pub class: Option<Class>,
    /// As in [`request::Publication`].
    pub key: Option<Box<str>>,
    /// The tags, parsed and verbatim.
    pub tags: Option<(Tags, Box<str>)>,
    /// The same key within [`IDEMPOTENCY_TTL_MS`](crate::limits::IDEMPOTENCY_TTL_MS) sends nothing and has the first one's answer.
    pub idempotency_key: Option<Box<str>>,
}

impl Publish {
    /// As if a client had sent it.
    pub fn publication(&self) -> request::Publication<'_> {
        request::Publication {
            content: &self.content,
            event: self.event.as_deref().map(Into::into),
            class: self.class,
            key: self.key.as_deref().map(Into::into),
            tags: self.tags.as_ref().map(|(tags, _)| tags.clone()),
            tags_raw: self.tags.as_ref().map(|(_, raw)| raw.as_ref()),
        }
    }
}

/// Whom a service's message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// All connections of these users.
    Users(Vec<Box<str>>),
    /// Everybody in a room or channel.
    Topic(Topic, Box<str>),
    /// Everybody.
    All,
}

/// One connection, or all of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// All connections of this user.
    User(Box<str>),
    /// This one.
    Connection(GlobalConnectionId),
}

/// Where to look for users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A room or a channel.
    Topic(Topic, Box<str>),
    /// A user's connections.
    User(Box<str>),
}

/// Which connections to find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Only this user's.
    pub user: Option<Box<str>>,
    /// Only those in this room or channel.
    pub topic: Option<(Topic, Box<str>)>,
    /// Only those from this address.
    pub address: Option<IpAddr>,
    /// Only those in this [state](ConnectionInfo::state).
    pub state: Option<Box<str>>,
    /// Only this one.
    pub connection: Option<GlobalConnectionId>,
    /// The largest of this first.
    pub by: SortBy,
    /// How many, over all shards.
    pub limit: u32,
}

/// What connections are sorted by, the largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortBy {
    /// Bytes that wait to be sent.
    #[default]
    OutboxBytes,
    /// The age of the oldest message that waits to be sent.
    OldestMs,
    /// Messages dropped because it was behind.
    Dropped,
    /// The round trip as TCP measures it. Only of the first
    /// [`RTT_CANDIDATES_MAX`](crate::limits::RTT_CANDIDATES_MAX) that match, on each shard.
    Rtt,
}

/// What came of a [`Command`].
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A message was sent.
    Published(Published),
    /// So many connections were closed, put in, or taken out.
    Connections(u32),
    /// Who is there.
    Present(Present),
    /// What was found, in order, and how many matched in all.
    Found {
        /// The first ones.
        connections: Vec<ConnectionInfo>,
        /// All that matched.
        matched: u64,
    },
    /// Every shard, in order.
    Info(Vec<ShardInfo>),
    /// What was seen of a user's frames, and how many more there were than there was room for.
    Traced(Vec<Traced>, u64),
    /// The shard has answered.
    Probed,
    /// Only this node can be asked for that.
    Elsewhere(Box<str>),
    /// Another node has it, and could not be asked, or has not answered: what became of it is not known.
    Unreachable,
    /// Too much is under way; nothing was done.
    Busy,
}

/// What became of a service's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its id, as the receivers see it.
    pub id: MessageId,
    /// How it went.
    pub tally: Tally,
}

/// How many of those that a message was for got it: users where it was for users, else connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// It is in the outbox of at least one of their connections, or on its way to the shards that hold them.
    pub delivered: u32,
    /// Users without a connection.
    pub offline: u32,
    /// Every outbox refused it.
    pub dropped: u32,
    /// Users of whom it is not known whether they got it; or 1, where it was for more than one and got no further than this node.
    pub unavailable: u32,
}

impl Tally {
    /// Adds what another shard has counted.
    pub fn add(&mut self, other: Tally) {
        self.delivered += other.delivered;
        self.offline += other.offline;
        self.dropped += other.dropped;
        self.unavailable += other.unavailable;
    }
}

/// Who is somewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// The first users by name, with their connections there.
    pub users: Vec<(Box<str>, u32)>,
    /// All of them.
    pub census: Census,
    /// Of these, the connections on other nodes, by the name of the node.
    pub elsewhere: Vec<(Box<str>, u32)>,
}

impl Present {
    /// Adds what another node has. While all of them fit into the list, [the users](Self::settle) are counted exactly.
    pub fn merge(&mut self, users: impl IntoIterator<Item = (Box<str>, u32)>, census: Census) {
        self.users.extend(users);
        self.census.users = self.census.users.saturating_add(census.users);
        self.census.connections = self.census.connections.saturating_add(census.connections);
        if self.users.len() > PRESENCE_USERS_MAX {
            self.settle();
        }
    }

    /// Lists each user once, the first ones by name: who is on several nodes was counted on each of them, and is counted once where the list
    /// shows it.
    pub fn settle(&mut self) {
        self.users.sort_unstable();
        let before = self.users.len();
        self.users.dedup_by(|again, first| {
            let same = again.0 == first.0;
            first.1 += if same { again.1 } else { 0 };
            same
        });
        self.census.users = self.census.users.saturating_sub((before - self.users.len()) as u32);
        self.users.truncate(PRESENCE_USERS_MAX);
        self.elsewhere.sort_unstable();
        self.elsewhere.dedup_by(|again, first| {
            let same = again.0 == first.0;
            first.1 += if same { again.1 } else { 0 };
            same
        });
    }
}

/// A connection as operators see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// Its id.
    pub connection: GlobalConnectionId,
    /// Its user, once it has one.
    pub user: Option<Box<str>>,
    /// The shard that holds it.
    pub shard: u16,
    /// `connecting`, `authenticating`, `active`, `idle`, `echo`, `closing`.
    pub state: Box<str>,
    /// The remote address, after trusted proxies.
    pub address: SocketAddr,
    /// What it calls itself.
    pub user_agent: Option<Box<str>>,
    /// Since it was accepted.
    pub age_ms: u64,
    /// Since its last frame.
    pub silent_ms: u64,
    /// Since the last message of the application, either way.
    pub idle_ms: u64,
    /// Messages received from it.
    pub received_messages: u64,
    /// Bytes received from it.
    pub received_bytes: u64,
    /// Messages queued for it.
    pub sent_messages: u64,
    /// Bytes sent to it.
    pub sent_bytes: u64,
    /// Rooms and channels it is in.
    pub subscriptions: u32,
    /// Bytes that wait to be sent.
    pub outbox_bytes: u64,
    /// Frames that wait to be sent.
    pub outbox_frames: u64,
    /// The age of the oldest message that waits.
    pub oldest_ms: u32,
    /// Messages dropped since it last had nothing to be sent.
    pub dropped: u32,
    /// It is behind, and not read from.
    pub throttled: bool,
    /// Its messages are compressed.
    pub compressed: bool,
    /// The round trip as TCP measures it, in microseconds.
    pub rtt_us: Option<u32>,
}

/// Something seen of a user who is followed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Traced {
    /// Unix time in microseconds.
    pub timestamp_us: u64,
    /// Of which connection.
    pub connection: GlobalConnectionId,
    /// What.
    pub what: TracedWhat,
    /// The `type` of the message.
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// Bytes of the message.
    pub bytes: u32,
    /// Its class, on its way to the client.
    pub class: Option<Class>,
    /// The message itself, where that was asked for; cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Box<str>>,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TracedWhat {
    /// A session began.
    Connect,
    /// A session ended.
    Disconnect,
    /// A message from the client.
    In,
    /// A message queued for the client.
    Out,
    /// A message given up because the client is behind.
    Dropped,
}

/// What one shard holds and has counted.
#[derive(Clone, Debug)]
pub struct ShardInfo {
    /// Which.
    pub shard: ShardId,
    /// What it holds and what it has counted: group, name or labels, value.
    pub figures: Vec<(&'static str, [&'static str; 2], u64)>,
    /// Its largest home rooms, with the connections in them.
    pub rooms: Vec<(Box<str>, Census)>,
    /// What it knows of the cluster, where there is one.
    pub cluster: Option<ClusterInfo>,
}

/// What a shard knows of the cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterInfo {
    /// The lease of this node: its name, its epoch, and how long it holds, in milliseconds.
    pub lease: Option<(Box<str>, u64, u64)>,
    /// The nodes with living leases, this one included.
    pub nodes: Vec<NodeInfo>,
    /// In routing `hash`, a number that stands for the ring: nodes that show the same agree on where users belong.
    pub ring: Option<u64>,
}

/// A node of the cluster.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Its name.
    pub name: Box<str>,
    /// The epoch of its lease.
    pub epoch: u64,
    /// How long its lease holds, in milliseconds.
    pub lease_ms: u64,
    /// Its shards.
    pub shards: u16,
    /// Its weight on the ring.
    pub weight: u32,
    /// Where clients reach it, where it says so.
    pub advertise: Option<Box<str>>,
}

/// What one shard has to do for a command. Crosses the mesh.
#[derive(Clone, Debug)]
pub enum Order {
    /// Deliver to these users, all at home there.
    ToUsers(Vec<Box<str>>, Publication, MessageId),
    /// Deliver to everybody in a topic at home there.
    ToTopic(Topic, Box<str>, Publication, MessageId),
    /// Deliver to everybody there.
    ToAll(Publication),
    /// See [`Command::Disconnect`].
    Disconnect(Whom, u16, Box<str>),
    /// See [`Command::Member`].
    Member {
        /// The user, at home there.
        user: Box<str>,
        /// The room.
        room: Box<str>,
        /// In, or out.
        enter: bool,
    },
    /// See [`Command::Presence`].
    Presence(Place),
    /// See [`Command::Connections`].
    Find(Search),
    /// See [`Command::Info`].
    Info {
        /// How many rooms to list.
        rooms: u32,
    },
    /// See [`Command::Trace`].
    Trace(Box<str>, bool),
    /// See [`Command::Probe`].
    Probe,
}

impl Order {
    /// Bytes of payload, for the bounds of the mesh.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Order::ToUsers(users, publication, _) => {
                publication.frame.len() + users.iter().map(|user| user.len() + 16).sum::<usize>()
            }
            Order::ToTopic(_, _, publication, _) | Order::ToAll(publication) => publication.frame.len(),
            Order::Disconnect(..)
            | Order::Member { .. }
            | Order::Presence(_)
            | Order::Find(_)
            | Order::Info { .. }
            | Order::Trace(..)
            | Order::Probe => 0,
        }
    }
}

/// What one shard says of an [`Order`].
#[derive(Clone, Debug)]
pub enum Report {
    /// How a message went.
    Delivered(Tally),
    /// Connections that it did something to.
    Connections(u32),
    /// See [`Outcome::Unreachable`].
    Unreachable,
    /// Who is there.
    Present(Present),
    /// What was found, largest first, each with what it is sorted by; and how many matched.
    Found(Vec<(u64, ConnectionInfo)>, u64),
    /// The shard.
    Info(Box<ShardInfo>),
    /// See [`Outcome::Traced`]; `None`: too many are followed.
    Traced(Option<(Vec<Traced>, u64)>),
    /// Here.
    Probed,
}

impl Report {
    /// Bytes of payload, for the bounds of the mesh.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Report::Present(present) => present.users.iter().map(|(name, _)| name.len() + 24).sum(),
            Report::Found(found, _) => found.len() * size_of::<ConnectionInfo>(),
            Report::Info(info) => info.figures.len() * 56 + info.rooms.len() * 64,
            Report::Traced(traced) => {
                let one = |event: &Traced| size_of::<Traced>() + event.content.as_ref().map_or(0, |c| c.len());
                traced.as_ref().map_or(0, |(events, _)| events.iter().map(one).sum())
            }
            Report::Delivered(_) | Report::Connections(_) | Report::Unreachable | Report::Probed => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_several_nodes_are_counted_once_while_all_can_be_listed() {
        let names = |range: std::ops::Range<u32>| range.map(|n| (format!("user{n:05}").into_boxed_str(), 1));
        for (nodes, users, listed) in [
            // Together they are more than can be listed, but not once each is counted once.
            (vec![0..600, 100..700, 200..800], 800, 800),
            (vec![0..1000, 0..1000, 500..1000], 1000, 1000),
            (vec![0..400, 400..800, 800..1200], 1200, PRESENCE_USERS_MAX),
        ] {
            let mut present = Present::default();
            for node in &nodes {
                let count = node.end - node.start;
                present.merge(names(node.clone()), Census { users: count, connections: count });
            }
            present.settle();
            let connections: u32 = nodes.iter().map(|node| node.end - node.start).sum();
            assert_eq!(present.census, Census { users, connections }, "{nodes:?}");
            assert_eq!(present.users.len(), listed, "{nodes:?}");
            let of_listed: u32 = present.users.iter().map(|(_, count)| count).sum();
            assert!(listed < users as usize || of_listed == connections, "{nodes:?}");
        }
    }
}
