//! Who is in a room or channel: the home asks the shards that have anyone in it and puts their answers together.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::cluster::inquiry::Said;
use crate::ids::{ConnectionId, ShardId};
use crate::limits::{PRESENCE_QUESTIONS_MAX, PRESENCE_USERS_MAX};
use crate::protocol::command::Present;
use crate::protocol::envelope::{Census, Envelope, Topic};
use crate::protocol::reply::{self, Place};
use crate::protocol::{ErrorCode, RequestId};
use crate::shard::Shard;
use crate::shard::relay::Debt;
use crate::shard::topics::LocalTopic;
use crate::time::Now;
use crate::ws::frame::{Opcode, server_frame_with};

/// The questions this shard has put to others.
#[derive(Debug, Default)]
pub(super) struct Presence {
    open: HashMap<u32, Question>,
    next_ticket: u32,
}

#[derive(Debug)]
struct Question {
    topic: Topic,
    name: Box<str>,
    asker: Asker,
    missing: usize,
    present: Present,
}

/// Who wants to know.
#[derive(Debug)]
pub(super) enum Asker {
    /// A client of this node.
    Client {
        conn: ConnectionId,
        id: Option<RequestId>,
        /// Credit stays in use until it is answered: what is open is bounded by it.
        debt: Debt,
    },
    /// Another node, which asks for all: the channel that the answer goes to, and its number of the question.
    Node { channel: Rc<str>, ticket: u32 },
}

impl Presence {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}

impl Shard {
    /// At the home of a topic: somebody asks who is in it.
    pub(super) fn presence_asked(
        &mut self,
        topic: Topic,
        name: Box<str>,
        conn: ConnectionId,
        id: Option<RequestId>,
        debt: &Debt,
        now: Now,
    ) {
        self.ask_shards(topic, name, Asker::Client { conn, id, debt: debt.clone() }, now);
    }

    /// At the home of a topic: asks the shards that have anyone in it, and, for a client, the other nodes.
    pub(super) fn ask_shards(&mut self, topic: Topic, name: Box<str>, asker: Asker, now: Now) {
        if self.presence.open.len() >= PRESENCE_QUESTIONS_MAX {
            return self.refuse_question(asker, now);
        }
        let shards: Vec<ShardId> = self
            .homes
            .find(topic, &name)
            .map(|home| home.interest.iter().map(|(s, _)| *s).collect())
            .unwrap_or_default();
        let ticket = self.presence.next_ticket;
        self.presence.next_ticket = ticket.wrapping_add(1);
        let mut question = Question { topic, name, asker, missing: 0, present: Present::default() };
        for shard in shards {
            if shard == self.id {
                let (users, census) = self.whom_we_have(topic, &question.name);
                question.add(users, census);
            } else {
                question.missing += 1;
                self.relay.send(shard, Envelope::Count { ticket, topic, name: question.name.clone() }, None);
            }
        }
        let elsewhere = self.cluster.is_some() && matches!(question.asker, Asker::Client { .. });
        question.missing += usize::from(elsewhere);
        if question.missing == 0 {
            return self.answer_presence(question, now);
        }
        let name = question.name.clone();
        self.presence.open.insert(ticket, question);
        if elsewhere {
            self.ask_for_topic(topic, &name, ticket, now);
        }
    }

    fn refuse_question(&mut self, asker: Asker, now: Now) {
        match asker {
            Asker::Client { conn, id, debt } => {
                let text = "too many presence requests at once";
                let frame = server_frame_with(Opcode::Text, 160, |out| {
                    reply::error(out, id.as_ref(), ErrorCode::Unavailable, text);
                });
                self.send_answer(conn, Vec::from(frame).into_boxed_slice(), Some(debt), now);
            }
            asker @ Asker::Node { .. } => self.answer_node(&asker, Said::Nothing, now),
        }
    }

    /// Another shard's home asks whom we have.
    pub(super) fn count(&mut self, from: ShardId, ticket: u32, topic: Topic, name: &str) {
        let (users, census) = self.whom_we_have(topic, name);
        self.relay.send(from, Envelope::Counted { ticket, users, census }, None);
    }

    /// A shard has answered.
    pub(super) fn counted(&mut self, ticket: u32, users: Vec<(Box<str>, u32)>, census: Census, now: Now) {
        if let Some(question) = self.presence.open.get_mut(&ticket) {
            question.add(users, census);
            self.one_answer_less(ticket, now);
        }
    }

    /// The other nodes have answered.
    pub(super) fn counted_elsewhere(&mut self, ticket: u32, present: Present, now: Now) {
        if let Some(question) = self.presence.open.get_mut(&ticket) {
            question.present.merge(present.users, present.census);
            self.one_answer_less(ticket, now);
        }
    }

    fn one_answer_less(&mut self, ticket: u32, now: Now) {
        let Some(question) = self.presence.open.get_mut(&ticket) else { return };
        question.missing -= 1;
        if question.missing == 0
            && let Some(question) = self.presence.open.remove(&ticket)
        {
            self.answer_presence(question, now);
        }
    }

    fn answer_presence(&mut self, question: Question, now: Now) {
        let Question { topic, name, asker, mut present, .. } = question;
        present.settle();
        let Present { users, census, .. } = present;
        let listed: Vec<(&str, u32)> = users.iter().map(|(user, count)| (user.as_ref(), *count)).collect();
        let Asker::Client { conn, id, debt } = asker else {
            let (user_count, connection_count) = (census.users, census.connections);
            return self.answer_node(&asker, Said::Present { users: listed, user_count, connection_count }, now);
        };
        let place = match topic {
            Topic::Room => Place::Room(&name),
            Topic::Channel => Place::Channel(&name),
        };
        let truncated = (listed.len() as u64) < u64::from(census.users);
        let (user_count, connection_count) = (u64::from(census.users), u64::from(census.connections));
        let frame = server_frame_with(Opcode::Text, 256 + listed.len() * 48, |out| {
            reply::presence(out, id.as_ref(), place, &listed, user_count, connection_count, truncated);
        });
        self.send_answer(conn, Vec::from(frame).into_boxed_slice(), Some(debt), now);
    }

    /// The users of this shard in a topic: some of them with their connections, and how many in all. Bounded: the size of a room does not
    /// make asking expensive.
    pub(super) fn whom_we_have(&self, topic: Topic, name: &str) -> (Vec<(Box<str>, u32)>, Census) {
        let Some(index) = self.topics.find(topic, name) else { return Default::default() };
        let LocalTopic { members, users, .. } = self.topics.get(index);
        let census = Census { users: *users, connections: members.len() as u32 };
        let mut listed = HashSet::with_hasher(self.hasher.clone());
        // Users with several connections come up again; that many times over is as far as it is looked.
        let of_members = members.iter().map(|member| self.connections.row(member.slot).user);
        for user in of_members.take(4 * PRESENCE_USERS_MAX) {
            listed.insert(user);
            if listed.len() == PRESENCE_USERS_MAX {
                break;
            }
        }
        let is_in = |slot: &&u32| self.connections.row(**slot).is_in(index);
        let named = |user: &u32| {
            let user = self.users.get(*user);
            (Box::from(user.name.as_ref()), user.connections.iter().filter(is_in).count() as u32)
        };
        (listed.iter().map(named).collect(), census)
    }
}

impl Question {
    /// Adds what a shard of this node has: its users are on no other.
    fn add(&mut self, users: Vec<(Box<str>, u32)>, census: Census) {
        let room = PRESENCE_USERS_MAX.saturating_sub(self.present.users.len());
        self.present.users.extend(users.into_iter().take(room));
        self.present.census.users += census.users;
        self.present.census.connections += census.connections;
    }
}
