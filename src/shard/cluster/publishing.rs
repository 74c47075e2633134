//! What this shard publishes for all nodes that have somebody in a room or channel, and for everybody; and what became of it.
//!
//! Redis says how many have heard a publish, and nothing of what they made of it: whoever has heard it has it. While the bus is not up, or too
//! much has no answer, nothing is published, and whoever sent it is told: `ok` with `"local":true`, or an error where no `id` was given.

use std::collections::HashMap;
use std::rc::Rc;

use ahash::RandomState;

use super::comings::Asked;
use super::topic_channel;
use crate::cluster::parcel::{Label, Target};
use crate::cluster::wire::Outgoing;
use crate::ids::{MessageId, ShardId};
use crate::limits::{BUS_PUBLISHED_BYTES_MAX, BUS_PUBLISHED_MAX};
use crate::protocol::command::{Report, Tally};
use crate::protocol::envelope::{Publication, ReplyTo, Topic};
use crate::protocol::{ErrorCode, OkFields, reply};
use crate::shard::Shard;
use crate::time::Now;
use crate::ws::frame::{Opcode, server_frame_with};

/// The first of these tickets; those below are the exchange's.
pub(super) const FIRST_TICKET: u64 = 1 << 63;

/// Who wants to know what became of a publish.
#[derive(Debug)]
pub(in crate::shard) enum Fate {
    /// Nobody.
    Untold,
    /// A client who has sent a message to more than one.
    Sender(Option<ReplyTo>, MessageId),
    /// A command of the server API, at the shard that gave the order.
    Report {
        /// That shard.
        to: ShardId,
        /// Its number of the command.
        number: u32,
        /// How it went on this node.
        tally: Tally,
        /// Connections of this node that hear it.
        own: u64,
    },
    /// A question: see [`super::asking`].
    Question(u32),
    /// That a user has come into a room, or left it: see [`super::comings`].
    Notice {
        /// The user.
        user: Box<str>,
        /// The room.
        room: Box<str>,
        /// Come, or gone.
        enters: bool,
        /// Who wants to know that it is done.
        asked: Vec<Asked>,
    },
}

/// What is published and not answered.
#[derive(Debug)]
pub(super) struct Publishes {
    open: HashMap<u64, (Fate, usize), RandomState>,
    next: u64,
    bytes: usize,
}

impl Publishes {
    pub(super) fn new(hasher: &RandomState) -> Self {
        Publishes { open: HashMap::with_hasher(hasher.clone()), next: FIRST_TICKET, bytes: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    fn is_full(&self) -> bool {
        self.open.len() >= BUS_PUBLISHED_MAX || self.bytes >= BUS_PUBLISHED_BYTES_MAX
    }

    fn begin(&mut self, fate: Fate, bytes: usize) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.open.insert(ticket, (fate, bytes));
        ticket
    }

    fn end(&mut self, ticket: u64) -> Option<Fate> {
        let (fate, bytes) = self.open.remove(&ticket)?;
        self.bytes -= bytes;
        Some(fate)
    }
}

impl Shard {
    /// A message for other nodes, as bytes; `None` where there is no way to them.
    pub(in crate::shard) fn parcel(
        &self,
        to: Target<'_>,
        publication: &Publication,
        message_id: MessageId,
        except_user: Option<&str>,
        now: Now,
    ) -> Option<Vec<u8>> {
        let cluster = self.cluster.as_ref().filter(|cluster| cluster.is_usable(now) && !cluster.publishes.is_full())?;
        let standing = cluster.agent.standing()?;
        let label = Label {
            origin: cluster.origin,
            origin_node: &standing.node,
            origin_epoch: standing.epoch,
            number: 0,
            route_began: 0,
            to,
            message_id,
            class: publication.class,
            key: publication.key,
            tags: publication.tags.clone(),
            except_user,
        };
        Some(label.encode(&publication.frame))
    }

    /// Publishes to the nodes that have somebody in a topic. Without a `parcel` there is no way to them.
    pub(in crate::shard) fn publish_to_topic(
        &mut self,
        topic: Topic,
        name: &str,
        parcel: Option<Vec<u8>>,
        fate: Fate,
        now: Now,
    ) {
        self.publish_on(&topic_channel(topic, name), parcel, fate, now);
    }

    /// Whether this node hears what is published to a topic.
    pub(in crate::shard) fn hears(&self, topic: Topic, name: &str) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.agent.is_listening(&topic_channel(topic, name)))
    }

    /// Publishes to everybody on other nodes.
    pub(in crate::shard) fn publish_to_all(&mut self, parcel: Option<Vec<u8>>, fate: Fate, now: Now) {
        self.publish_on(super::BROADCAST, parcel, fate, now);
    }

    /// Publishes on a channel.
    pub(super) fn publish_on(&mut self, channel: &str, payload: Option<Vec<u8>>, fate: Fate, now: Now) {
        let usable = |cluster: &&mut Box<super::Cluster>| cluster.is_usable(now) && !cluster.publishes.is_full();
        let (Some(cluster), Some(payload)) = (self.cluster.as_mut().filter(usable), payload) else {
            self.connections.counters.bus_refused += 1;
            return self.decided(fate, None, now);
        };
        let ticket = cluster.publishes.begin(fate, payload.len());
        self.connections.counters.bus_published += 1;
        self.ask_bus(Outgoing::Publish { ticket, channel: Rc::from(channel), payload });
    }

    /// A publish was answered.
    pub(super) fn published(&mut self, ticket: u64, heard: Option<u64>, now: Now) {
        if ticket < FIRST_TICKET {
            return self.unicast_published(ticket, heard, now);
        }
        let Some(fate) = self.cluster.as_mut().and_then(|cluster| cluster.publishes.end(ticket)) else { return };
        self.connections.counters.bus_refused += u64::from(heard.is_none());
        self.decided(fate, heard, now);
    }

    /// The connection ended with these on their way.
    pub(super) fn publishes_lost(&mut self, tickets: Vec<u64>, now: Now) {
        let (unicasts, tickets): (Vec<u64>, Vec<u64>) = tickets.into_iter().partition(|ticket| *ticket < FIRST_TICKET);
        self.unicasts_unanswered(&unicasts);
        for ticket in tickets {
            if let Some(fate) = self.cluster.as_mut().and_then(|cluster| cluster.publishes.end(ticket)) {
                self.connections.counters.bus_lost += 1;
                self.decided(fate, None, now);
            }
        }
    }

    /// What has become of a publish: how many heard it, or `None` where that is not known, or it was not sent.
    fn decided(&mut self, fate: Fate, heard: Option<u64>, now: Now) {
        match fate {
            Fate::Untold => {}
            Fate::Sender(reply, message_id) => {
                let Some(reply) = reply else { return };
                if reply.id.is_none() && heard.is_none() {
                    return self.not_everywhere(&reply, now);
                }
                let local = heard.is_none();
                let fields = OkFields { message_id: Some(message_id), local, ..OkFields::default() };
                self.reply(Some(reply), &fields, None, now);
            }
            Fate::Report { to, number, mut tally, own } => {
                match heard {
                    Some(heard) => tally.delivered += u32::try_from(heard.saturating_sub(own)).unwrap_or(u32::MAX),
                    None => tally.unavailable += 1,
                }
                self.confirm(to, number, Report::Delivered(tally), None, now);
            }
            Fate::Question(ticket) => self.question_published(ticket, heard, now),
            Fate::Notice { user, room, enters, asked } => {
                if heard.is_none() {
                    self.tell_coming_by_home(&user, &room, enters, now);
                }
                self.answer_members(&room, asked, now);
            }
        }
    }

    /// Who has asked for no answer is told all the same that a message got no further than this node.
    fn not_everywhere(&mut self, reply: &ReplyTo, now: Now) {
        let text = "other nodes cannot be reached: only those on this node have it";
        self.refuse_request(reply, ErrorCode::Unavailable, text, now);
    }

    /// Answers a request with an error, on whatever shard its connection is.
    pub(super) fn refuse_request(&mut self, reply: &ReplyTo, code: ErrorCode, text: &str, now: Now) {
        let frame = server_frame_with(Opcode::Text, 160, |out| reply::error(out, reply.id.as_ref(), code, text));
        self.send_answer(reply.conn, Vec::from(frame).into_boxed_slice(), None, now);
    }
}
