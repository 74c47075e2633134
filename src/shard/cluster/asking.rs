//! Questions to other nodes, and their answers: who is in a room or channel, a user's connections, and what is to be done with these.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use ahash::RandomState;

use super::publishing::Fate;
use super::{shared, topic_channel, user_channel};
use crate::cluster::agent::{own_channel, probe_channel};
use crate::cluster::inquiry::{Inquiry, Said, What};
use crate::ids::GlobalConnectionId;
use crate::protocol::command::{Place, Present, Report, Whom};
use crate::protocol::envelope::{Census, Then, Topic};
use crate::shard::Shard;
use crate::shard::presence::Asker;
use crate::time::Now;

/// Who wants to know.
#[derive(Clone, Debug)]
pub(in crate::shard) enum Purpose {
    /// A command of the server API, by its number here: who is there.
    Present(u32),
    /// A command of the server API: how many connections were concerned.
    Connections(u32),
    /// A command of the server API, by its number here: whether this process has closed a connection.
    Closed(u32, u32),
    /// A client's question who is in a topic, by its number here.
    Topic(u32),
    /// A user has come into a room, or left it: see [`super::comings`].
    InRoom {
        /// The user.
        user: Rc<str>,
        /// The room.
        room: Rc<str>,
        /// Which question about them.
        serial: u64,
    },
}

/// What the server API asks of other nodes.
#[derive(Clone, Debug)]
pub(in crate::shard) enum Elsewhere {
    /// Who is there?
    Presence(Place),
    /// Close the connections of a user.
    Disconnect(Box<str>, u16, Box<str>),
    /// Close one connection.
    Close(GlobalConnectionId, u16, Box<str>),
    /// Put the connections of a user into a room, or take them out.
    Member {
        /// The user.
        user: Box<str>,
        /// The room.
        room: Box<str>,
        /// In, or out.
        enter: bool,
    },
}

/// The questions that are open.
#[derive(Debug)]
pub(super) struct Asking {
    open: HashMap<u32, Question, RandomState>,
    next: u32,
    /// All wait equally long: oldest first.
    deadlines: VecDeque<(u64, u32)>,
}

#[derive(Debug)]
struct Question {
    purpose: Purpose,
    /// How many have heard it, once that is known.
    heard: Option<u64>,
    answers: u64,
    present: Present,
    connections: u32,
}

impl Question {
    /// Everybody who has heard it has answered, or somebody has said what is enough.
    fn is_complete(&self) -> bool {
        let enough = matches!(self.purpose, Purpose::InRoom { .. }) && self.connections > 0;
        enough || self.heard.is_some_and(|heard| self.answers >= heard)
    }
}

impl Asking {
    pub(super) fn new(hasher: &RandomState) -> Self {
        Asking { open: HashMap::with_hasher(hasher.clone()), next: 0, deadlines: VecDeque::new() }
    }
}

impl Shard {
    /// Asks on behalf of the server API.
    pub(in crate::shard) fn ask_elsewhere(&mut self, number: u32, elsewhere: &Elsewhere, now: Now) {
        match elsewhere {
            Elsewhere::Presence(Place::User(user)) => {
                self.ask(&user_channel(user), What::Connections, Purpose::Present(number), now);
            }
            Elsewhere::Presence(Place::Topic(topic, name)) => {
                self.ask(&topic_channel(*topic, name), What::Here, Purpose::Present(number), now);
            }
            Elsewhere::Disconnect(user, code, reason) => {
                let what = What::Disconnect { code: *code, reason };
                self.ask(&user_channel(user), what, Purpose::Connections(number), now);
            }
            Elsewhere::Close(id, code, reason) => {
                let channel = probe_channel(id.instance, id.connection.shard);
                let what = What::Close { connection: id.connection, code: *code, reason };
                self.ask(&channel, what, Purpose::Closed(number, id.instance), now);
            }
            Elsewhere::Member { user, room, enter } => {
                let what = What::Member { room, enter: *enter };
                self.ask(&user_channel(user), what, Purpose::Connections(number), now);
            }
        }
    }

    /// Asks who else is in a topic; [`counted`](Shard::counted) brings the answer, with this ticket.
    pub(in crate::shard) fn ask_for_topic(&mut self, topic: Topic, name: &str, ticket: u32, now: Now) {
        self.ask(&topic_channel(topic, name), What::Here, Purpose::Topic(ticket), now);
    }

    pub(super) fn ask(&mut self, channel: &str, what: What<'_>, purpose: Purpose, now: Now) {
        let question = Question { purpose, heard: None, answers: 0, present: Present::default(), connections: 0 };
        let Some(cluster) = self.cluster.as_mut() else { return self.answered(question, now) };
        let Some(standing) = cluster.agent.standing() else { return self.answered(question, now) };
        let asking = &mut cluster.asking;
        let ticket = asking.next;
        asking.next = ticket.wrapping_add(1);
        let inquiry =
            Inquiry::Ask { origin: cluster.origin, node: &standing.node, epoch: standing.epoch, ticket, what };
        let payload = inquiry.encode();
        asking.open.insert(ticket, question);
        asking.deadlines.push_back((now.mono_ms + cluster.timeout_ms, ticket));
        self.publish_on(channel, Some(payload), Fate::Question(ticket), now);
    }

    /// A question was published, or could not be.
    pub(super) fn question_published(&mut self, ticket: u32, heard: Option<u64>, now: Now) {
        let Some(cluster) = &mut self.cluster else { return };
        let open = &mut cluster.asking.open;
        if heard.is_none() {
            if let Some(question) = open.remove(&ticket) {
                self.answered(question, now);
            }
        } else if let Some(question) = open.get_mut(&ticket) {
            question.heard = heard;
            self.answer_if_complete(ticket, now);
        }
    }

    pub(super) fn asked_too_long(&mut self, now: Now) {
        while let Some(cluster) = &mut self.cluster
            && let Some((deadline_ms, ticket)) = cluster.asking.deadlines.front().copied()
            && deadline_ms <= now.mono_ms
        {
            cluster.asking.deadlines.pop_front();
            if let Some(question) = cluster.asking.open.remove(&ticket) {
                let in_room = matches!(question.purpose, Purpose::InRoom { .. });
                self.connections.counters.rooms_unanswered += u64::from(in_room);
                self.answered(question, now);
            }
        }
    }

    fn answer_if_complete(&mut self, ticket: u32, now: Now) {
        let Some(cluster) = &mut self.cluster else { return };
        if cluster.asking.open.get(&ticket).is_some_and(Question::is_complete)
            && let Some(question) = cluster.asking.open.remove(&ticket)
        {
            self.answered(question, now);
        }
    }

    /// Everybody has answered, or nobody else will.
    fn answered(&mut self, question: Question, now: Now) {
        let Question { purpose, heard, answers, present, connections } = question;
        match purpose {
            Purpose::Closed(number, instance) => {
                // Where nobody hears it that process is over, unless it lives and is deaf.
                let known = answers > 0 || heard == Some(0) && self.living_node(instance, now).is_none();
                let report = if known { Report::Connections(connections) } else { Report::Unreachable };
                self.reported(number, report, now);
            }
            Purpose::Present(number) => self.reported(number, Report::Present(present), now),
            Purpose::Connections(number) => self.reported(number, Report::Connections(connections), now),
            Purpose::Topic(ticket) => self.counted_elsewhere(ticket, present, now),
            Purpose::InRoom { user, room, serial } => {
                self.coming_answered(&user, &room, serial, connections > 0, now);
            }
        }
    }

    /// A question or an answer came on a channel.
    pub(super) fn inquiry_arrived(&mut self, channel: &str, inquiry: Inquiry<'_>, now: Now) {
        match inquiry {
            Inquiry::Ask { origin, node, epoch, ticket, what } => {
                if self.cluster.as_ref().is_some_and(|cluster| cluster.origin == origin) {
                    return self.own_question_came(ticket, now);
                }
                let asker = Asker::Node { channel: shared(&own_channel(node, epoch, origin.shard)), ticket };
                if origin.instance == self.settings.instance {
                    // What is here is counted here.
                    return self.answer_node(&asker, Said::Nothing, now);
                }
                self.asked(channel, what, asker, now);
            }
            Inquiry::Tell { ticket, node, said } => self.told(ticket, node, said, now),
            Inquiry::Notice { user, enters } => match channel.split_once(':') {
                Some(("room", room)) => self.tell_members(room, user, enters, None, now),
                _ => self.malformed(),
            },
        }
    }

    /// A question has come back to the shard that asked it: what is here is known there.
    fn own_question_came(&mut self, ticket: u32, now: Now) {
        let open = self.cluster.as_mut().and_then(|cluster| cluster.asking.open.get_mut(&ticket));
        let Some(question) = open else { return };
        question.answers += 1;
        if let Purpose::InRoom { user, room, serial } = question.purpose.clone() {
            self.coming_came_by(&user, &room, serial);
        }
        self.answer_if_complete(ticket, now);
    }

    fn asked(&mut self, channel: &str, what: What<'_>, asker: Asker, now: Now) {
        let said = match (channel.split_once(':'), what) {
            (Some(("room", name)), What::Here) => return self.ask_shards(Topic::Room, name.into(), asker, now),
            (Some(("channel", name)), What::Here) => return self.ask_shards(Topic::Channel, name.into(), asker, now),
            (Some(("user", user)), What::Connections) => match self.users.find(user) {
                Some(index) => {
                    let count = self.users.get(index).connections.len() as u32;
                    Said::Present { users: vec![(user, count)], user_count: 1, connection_count: count }
                }
                None => Said::Nothing,
            },
            (Some(("user", user)), What::Disconnect { code, reason }) => {
                Said::Connections(self.disconnect(&Whom::User(user.into()), code, reason, now))
            }
            (Some(("user", user)), What::Member { room, enter }) => {
                let connections = self.set_member(user, room, enter, now);
                let Asker::Node { channel, ticket } = asker else { return };
                let then = Then::Tell { channel: Box::from(&*channel), ticket, connections };
                return self.after_membership(user, room, enter, then, None, now);
            }
            (Some(("user", user)), What::InRoom { room }) => return self.asked_in_room(user, room, asker, now),
            (Some(("probe", _)), What::Close { connection, code, reason }) => {
                let whom = Whom::Connection(connection.of(self.settings.instance));
                Said::Connections(self.disconnect(&whom, code, reason, now))
            }
            _ => Said::Nothing,
        };
        self.answer_node(&asker, said, now);
    }

    /// Answers a node.
    pub(in crate::shard) fn answer_node(&mut self, asker: &Asker, said: Said<'_>, now: Now) {
        let Asker::Node { channel, ticket } = asker else { return };
        let node = self.cluster.as_ref().and_then(|cluster| cluster.agent.standing()).map(|s| s.node.clone());
        let payload = node.map(|node| Inquiry::Tell { ticket: *ticket, node: &node, said }.encode());
        self.publish_on(&channel.clone(), payload, Fate::Untold, now);
    }

    fn told(&mut self, ticket: u32, node: &str, said: Said<'_>, now: Now) {
        let open = self.cluster.as_mut().and_then(|cluster| cluster.asking.open.get_mut(&ticket));
        let Some(question) = open else { return };
        question.answers += 1;
        match said {
            Said::Nothing => {}
            Said::Connections(count) => question.connections += count,
            Said::Present { users, user_count, connection_count } => {
                let present = &mut question.present;
                let census = Census { users: user_count, connections: connection_count };
                present.merge(users.into_iter().map(|(user, count)| (user.into(), count)), census);
                if connection_count > 0 {
                    present.elsewhere.push((node.into(), connection_count));
                }
            }
        }
        self.answer_if_complete(ticket, now);
    }
}
