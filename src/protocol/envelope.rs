//! What shards say to each other over the mesh.
//!
//! An envelope owns its bytes: a payload is copied once per destination shard, so that reference counts stay on one core.

use std::net::IpAddr;
use std::sync::Arc;

use crate::ids::{ConnectionId, MessageId, ShardId};
use crate::protocol::RequestId;
use crate::protocol::class::Class;
use crate::protocol::command::{Order, Report};
use crate::protocol::hook::{Question, Verdict};
use crate::protocol::tags::Tags;

/// A thing that connections come and go to, and messages are sent to: rooms and channels share one mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Topic {
    /// Members talk to each other; coming and going is announced.
    Room,
    /// Subscribers listen, through a filter where they want.
    Channel,
}

/// A message on its way: encoded once by the shard that accepted it.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The whole server frame, uncompressed.
    pub frame: Box<[u8]>,
    /// What may be given up first.
    pub class: Class,
    /// For [`Class::Latest`]: what it is the latest of.
    pub key: Option<u64>,
    /// What filters look at.
    pub tags: Option<Tags>,
    /// When it was read from its sender, on the clock of [`Now::mono_us`](crate::time::Now::mono_us), which all shards of a process share;
    /// `None` where it came from elsewhere.
    pub accepted_us: Option<u64>,
}

/// Who waits for the answer to a request.
#[derive(Clone, Debug)]
pub struct ReplyTo {
    /// The connection that asked.
    pub conn: ConnectionId,
    /// The `id` it gave; without one it hears of errors only.
    pub id: Option<RequestId>,
}

/// How many of whom a shard has in a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Users.
    pub users: u32,
    /// Connections.
    pub connections: u32,
}

/// What waits until a room's home knows who has come or gone.
#[derive(Debug)]
pub enum Then {
    /// The shard that gave an order hears what came of it.
    Report {
        /// That shard.
        to: ShardId,
        /// Its number of the command.
        ticket: u32,
        /// What came of it.
        report: Box<Report>,
    },
    /// Another node hears of how many connections it was true.
    Tell {
        /// The channel of the shard that asked.
        channel: Box<str>,
        /// Its number of the question.
        ticket: u32,
        /// Connections that were put in or taken out.
        connections: u32,
    },
    /// A session that was put in begins.
    Begin {
        /// Its connection.
        conn: ConnectionId,
    },
    /// It is told that a user has come, or has gone.
    Announce {
        /// The home of the user.
        to: ShardId,
        /// The user.
        user: Box<str>,
        /// Come, or gone.
        enters: bool,
        /// Who wants to know that it is done.
        reply: Option<ReplyTo>,
    },
}

/// How the members of a room are told that a user has come or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// They are not: the room is too large.
    Nobody,
    /// By the room's home, which does not hear the room on the bus.
    ByHome,
    /// On the room's channel: this node hears it like others.
    ByBus,
}

/// The node's lease in the cluster, as its shards know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The name of the node.
    pub node: Arc<str>,
    /// The epoch.
    pub epoch: u64,
    /// Until when it holds (boottime).
    pub until_ms: u64,
    /// When it ends on the clock of Redis.
    pub ends_ms: u64,
    /// Names what Redis remembers: another name than with an earlier lease says that it has forgotten everything in between.
    pub memory: u64,
}

/// A message between shards of one process.
#[derive(Debug)]
pub enum Envelope {
    /// To the home of an address: may it open another connection?
    MayConnect {
        /// The address.
        ip: IpAddr,
        /// The connection that waits.
        conn: ConnectionId,
    },
    /// The answer: `None` is yes, else seconds to wait.
    MayConnectAnswer {
        /// The connection that waits.
        conn: ConnectionId,
        /// Seconds after which it may try again.
        retry_after_s: Option<u32>,
    },
    /// To the home of a user: deliver.
    ToUser {
        /// The user.
        user: Box<str>,
        /// The message.
        publication: Publication,
        /// Its id, for the answer.
        message_id: MessageId,
        /// Who wants to know how it went.
        reply: Option<ReplyTo>,
    },
    /// To the home of a topic: a connection of this shard is in it now.
    Enter {
        /// Room or channel.
        topic: Topic,
        /// Its name.
        name: Box<str>,
        /// Whose connection, where it is that user's first in it.
        first_of_user: Option<Box<str>>,
        /// Who wants to know that it is done.
        reply: Option<ReplyTo>,
    },
    /// To the home of a topic: a connection of this shard is not in it any more.
    Leave {
        /// Room or channel.
        topic: Topic,
        /// Its name.
        name: Box<str>,
        /// Whose connection, where it was that user's last in it.
        last_of_user: Option<Box<str>>,
        /// Who wants to know that it is done.
        reply: Option<ReplyTo>,
    },
    /// To the home of a topic: send this to all in it.
    Publish {
        /// Room or channel.
        topic: Topic,
        /// Its name.
        name: Box<str>,
        /// The message.
        publication: Publication,
        /// The connection that does not get it back, where there is one.
        except: Option<ConnectionId>,
        /// Its id, for the answer.
        message_id: MessageId,
        /// Who wants to know that it was accepted.
        reply: Option<ReplyTo>,
    },
    /// In a cluster, from the home of a room to that of a user: how it is told that the user has come into it, or has left.
    Coming {
        /// The user.
        user: Box<str>,
        /// The room.
        room: Box<str>,
        /// Come, or gone.
        enters: bool,
        /// How.
        telling: Telling,
        /// Who wants to know that it is done.
        reply: Option<ReplyTo>,
    },
    /// To the home of a room: tell its members that a user has come, or has gone.
    Announce {
        /// The room.
        room: Box<str>,
        /// The user.
        user: Box<str>,
        /// Come, or gone.
        enters: bool,
    },
    /// From the home of a topic to a shard with connections in it: deliver to those.
    Deliver {
        /// Room or channel.
        topic: Topic,
        /// Its name.
        name: Box<str>,
        /// The message.
        publication: Publication,
        /// The connection that does not get it, where there is one.
        except: Option<ConnectionId>,
        /// The user who does not get it, where there is one.
        except_user: Option<Box<str>>,
    },
    /// From the home of a topic to a shard with connections in it: it was not sent so many messages, because too many waited for it.
    Shed {
        /// Room or channel.
        topic: Topic,
        /// Its name.
        name: Box<str>,
        /// How many.
        dropped: u32,
    },
    /// To every shard: deliver to every connection.
    Broadcast {
        /// The message.
        publication: Publication,
    },
    /// To the shard of a connection: the answer to its request, as a whole frame.
    Answer {
        /// The connection that asked.
        conn: ConnectionId,
        /// The frame.
        frame: Box<[u8]>,
    },
    /// To the home of a topic: who is in it?
    Presence {
        /// Room or channel.
        topic: Topic,
        /// Its name.
        name: Box<str>,
        /// The connection that asked.
        conn: ConnectionId,
        /// The `id` it gave.
        id: Option<RequestId>,
    },
    /// From the home of a topic to a shard with connections in it: whom do you have?
    Count {
        /// The home's number of this question.
        ticket: u32,
        /// Room or channel.
        topic: Topic,
        /// Its name.
        name: Box<str>,
    },
    /// The answer.
    Counted {
        /// The home's number of this question.
        ticket: u32,
        /// The first users and their connections.
        users: Vec<(Box<str>, u32)>,
        /// All of them.
        census: Census,
    },
    /// To a shard that has a part in what the server API asks for.
    Order {
        /// The asking shard's number of the command.
        ticket: u32,
        /// What to do.
        order: Box<Order>,
    },
    /// The answer.
    Report {
        /// The asking shard's number of the command.
        ticket: u32,
        /// What came of it.
        report: Box<Report>,
    },
    /// To the home of a room: everything before this is done there, so go on with what waits for it.
    Confirm {
        /// The room.
        room: Box<str>,
        /// Somebody was put in: in a cluster it waits until this node hears the room.
        enter: bool,
        /// What waits.
        then: Then,
    },
    /// To the shard of a session that waits for the rooms it was put in: one of them is confirmed.
    InRoom {
        /// Its connection.
        conn: ConnectionId,
        /// Other nodes may not know yet.
        local: bool,
    },
    /// From the shard that has the lease of the node: how it stands.
    Standing(Option<Standing>),
    /// To that shard: under this epoch everybody here is announced.
    Announced(u64),
    /// To the shard beside which services are asked.
    Question {
        /// The connection that waits.
        conn: ConnectionId,
        /// Its shard's number of the question.
        number: u32,
        /// What is asked.
        question: Box<Question>,
    },
    /// To the shard of a connection that waits: what the service says.
    Verdict {
        /// The connection that waits.
        conn: ConnectionId,
        /// Its shard's number of the question.
        number: u32,
        /// What it says.
        verdict: Box<Verdict>,
    },
    /// To the shard that sent: so much of what it sent is done with.
    Credit {
        /// Envelopes.
        envelopes: u32,
        /// Bytes of payload.
        bytes: u32,
    },
}

impl Envelope {
    /// Bytes of payload, for the bounds of the mesh.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Envelope::ToUser { publication, .. }
            | Envelope::Publish { publication, .. }
            | Envelope::Deliver { publication, .. }
            | Envelope::Broadcast { publication, .. } => publication.frame.len(),
            Envelope::Answer { frame, .. } => frame.len(),
            Envelope::Counted { users, .. } => users.iter().map(|(name, _)| name.len() + 24).sum(),
            Envelope::Order { order, .. } => order.payload_bytes(),
            Envelope::Report { report, .. } | Envelope::Confirm { then: Then::Report { report, .. }, .. } => {
                report.payload_bytes()
            }
            Envelope::Question { question, .. } => question.body.len(),
            Envelope::Verdict { verdict, .. } => verdict.payload_bytes(),
            Envelope::MayConnect { .. }
            | Envelope::MayConnectAnswer { .. }
            | Envelope::Enter { .. }
            | Envelope::Leave { .. }
            | Envelope::Shed { .. }
            | Envelope::Presence { .. }
            | Envelope::Count { .. }
            | Envelope::Confirm { .. }
            | Envelope::InRoom { .. }
            | Envelope::Coming { .. }
            | Envelope::Announce { .. }
            | Envelope::Standing(_)
            | Envelope::Announced(_)
            | Envelope::Credit { .. } => 0,
        }
    }
}
