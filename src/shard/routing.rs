//! Envelopes in: at the home of a user, a room or a channel, and at the shards that have members.

use bytes::Bytes;

use crate::cluster::parcel::Target;
use crate::ids::{ConnectionId, MessageId, ShardId};
use crate::protocol::class::Class;
use crate::protocol::command::Tally;
use crate::protocol::envelope::{Envelope, Publication, ReplyTo, Telling, Then, Topic};
use crate::protocol::reply::{self, OkFields, Place, Status};
use crate::protocol::tags::Tags;
use crate::shard::Shard;
use crate::shard::cluster::Fate;
use crate::shard::delivery::Manner;
use crate::shard::event::Action;
use crate::shard::frames::Shared;
use crate::shard::outbox::{Accepted, Source};
use crate::shard::relay::Debt;
use crate::shard::requests::place_fields;
use crate::shard::row::{Paused, State};
use crate::time::Now;
use crate::ws::frame::{Opcode, server_frame_with};

/// Members of a topic on one shard from which on its messages are flushed after those of others.
const BULK_MEMBERS_MIN: usize = 512;

impl Shard {
    /// Takes an envelope, from another shard or from this one itself.
    pub(super) fn receive(&mut self, from: ShardId, envelope: Envelope, now: Now) {
        let bytes = envelope.payload_bytes();
        match envelope {
            Envelope::ToUser { user, publication, message_id, reply } => {
                let debt = self.relay.debt(from, bytes);
                if self.cluster.is_some() {
                    self.send_to_user(&user, publication, message_id, reply, now);
                    return self.settle(debt, now);
                }
                let status = self.deliver_to_user(&user, publication, now);
                let fields = OkFields { message_id: Some(message_id), status: Some(status), ..OkFields::default() };
                self.reply(reply, &fields, Some(&debt), now);
                self.settle(debt, now);
            }
            Envelope::Enter { topic, name, first_of_user, reply } => {
                let debt = self.relay.debt(from, bytes);
                let census = self.homes.enter(topic, &name, from, first_of_user.is_some()).census();
                if census.connections == 1 {
                    self.topic_came(topic, &name, now);
                }
                if let Some(user) = first_of_user.filter(|_| topic == Topic::Room) {
                    self.came_or_went(from, &name, user, true, reply, &debt, now);
                } else {
                    self.reply_when_listening(topic, &name, reply, &debt, now);
                }
                self.settle(debt, now);
            }
            Envelope::Leave { topic, name, last_of_user, reply } => {
                let debt = self.relay.debt(from, bytes);
                let emptied = self.homes.leave(topic, &name, from, last_of_user.is_some()).is_none();
                if emptied {
                    self.topic_left(topic, &name, now);
                }
                if let Some(user) = last_of_user.filter(|_| topic == Topic::Room) {
                    self.came_or_went(from, &name, user, false, reply, &debt, now);
                } else {
                    self.reply(reply, &place_fields(topic, &name), Some(&debt), now);
                }
                self.settle(debt, now);
            }
            Envelope::Publish { topic, name, publication, except, message_id, reply } => {
                let debt = self.relay.debt(from, bytes);
                if self.cluster.is_some() {
                    let parcel = self.parcel(target(topic, &name), &publication, message_id, None, now);
                    self.fan_out(topic, &name, publication, except, None, Some(&debt), now);
                    self.publish_to_topic(topic, &name, parcel, Fate::Sender(reply, message_id), now);
                } else {
                    self.fan_out(topic, &name, publication, except, None, Some(&debt), now);
                    self.accept(reply, message_id, &debt, now);
                }
                self.settle(debt, now);
            }
            Envelope::Broadcast { publication } => {
                let debt = self.relay.debt(from, bytes);
                let _tally = self.deliver_to_all(publication, now);
                self.settle(debt, now);
            }
            Envelope::Deliver { topic, name, publication, except, except_user } => {
                self.deliver_to_members(topic, &name, publication, except, except_user.as_deref(), now);
            }
            Envelope::Shed { topic, name, dropped } => self.tell_shed(topic, &name, dropped, now),
            Envelope::Answer { conn, frame } => self.answer(conn, frame, now),
            Envelope::Presence { topic, name, conn, id } => {
                let debt = self.relay.debt(from, bytes);
                self.presence_asked(topic, name, conn, id, &debt, now);
                self.settle(debt, now);
            }
            Envelope::Count { ticket, topic, name } => self.count(from, ticket, topic, &name),
            Envelope::Counted { ticket, users, census } => self.counted(ticket, users, census, now),
            Envelope::MayConnect { ip, conn } => {
                let retry_after_s = self.may_connect(ip, now);
                self.relay.send(from, Envelope::MayConnectAnswer { conn, retry_after_s }, None);
            }
            Envelope::MayConnectAnswer { conn, retry_after_s } => {
                if let Some(slot) = self.connections.find(conn) {
                    self.address_answered(slot, retry_after_s, now);
                }
            }
            Envelope::Order { ticket, order } => self.ordered(from, ticket, *order, now),
            Envelope::Confirm { room, enter, then } => self.confirm_membership(&room, enter, then, now),
            Envelope::InRoom { conn, local } => self.session_in_room(conn, local, now),
            Envelope::Coming { user, room, enters, telling, reply } => {
                self.coming_decided(&user, &room, enters, telling, reply, now);
            }
            Envelope::Announce { room, user, enters } => self.announce(&room, &user, enters, now),
            Envelope::Report { ticket, report } => self.reported(ticket, *report, now),
            Envelope::Standing(standing) => self.standing_changed(standing, now),
            Envelope::Announced(epoch) => self.announced(from, epoch, now),
            Envelope::Question { conn, number, question } => {
                let debt = self.relay.debt(from, bytes);
                self.connections.actions.push_back(Action::Ask { conn, number, question });
                self.settle(debt, now);
            }
            Envelope::Verdict { conn, number, verdict } => self.verdict(conn, number, *verdict, now),
            Envelope::Credit { envelopes, bytes } => {
                let ready = self.relay.restore(from, envelopes, bytes);
                self.go_on(ready, now);
            }
        }
    }

    /// Gives back what a message used up, if this was its last destination.
    pub(super) fn settle(&mut self, debt: Debt, now: Now) {
        let ready = self.relay.settle(debt);
        self.go_on(ready, now);
    }

    /// These clients may be read from again.
    fn go_on(&mut self, ready: Vec<ConnectionId>, now: Now) {
        for conn in ready {
            if let Some(slot) = self.connections.find(conn) {
                self.connections.resume(slot, Paused::CREDIT, now);
            }
        }
    }

    /// Delivers to every connection of a user at home here.
    pub(super) fn deliver_to_user(&mut self, user: &str, publication: Publication, now: Now) -> Status {
        let Publication { frame, class, key, accepted_us, .. } = publication;
        self.deliver_frame_to_user(user, frame, class, key, accepted_us, now)
    }

    /// As [`deliver_to_user`](Self::deliver_to_user), taken apart.
    pub(super) fn deliver_frame_to_user(
        &mut self,
        user: &str,
        frame: impl Into<Bytes>,
        class: Class,
        key: Option<u64>,
        accepted_us: Option<u64>,
        now: Now,
    ) -> Status {
        let Some(index) = self.users.find(user) else { return Status::Offline };
        let mut frame = Shared::new(frame);
        let (key, accepted) = (self.outbox_key(key), accepted_at(accepted_us, now));
        let manner = Manner { class, key, source: Source::None, accepted, bulk: false };
        let mut accepted = false;
        for &slot in &self.users.get(index).connections {
            accepted |= self.connections.push(slot, &mut frame, manner, now);
        }
        if accepted { Status::Delivered } else { Status::Dropped }
    }

    /// At the home of a topic: to the shards that have anyone in it.
    #[expect(clippy::too_many_arguments, reason = "they are the fields of one envelope")]
    pub(super) fn fan_out(
        &mut self,
        topic: Topic,
        name: &str,
        publication: Publication,
        except: Option<ConnectionId>,
        except_user: Option<&str>,
        debt: Option<&Debt>,
        now: Now,
    ) {
        let Some(home) = self.homes.find(topic, name) else { return };
        let mut here = false;
        for &(shard, _) in &home.interest {
            if shard == self.id {
                here = true;
                continue;
            }
            // What comes from the bus has no sender here who could be made to wait.
            if debt.is_none() && !self.relay.has_room(shard, publication.class, topic, name) {
                self.connections.counters.bus_shed += 1;
                continue;
            }
            let envelope = Envelope::Deliver {
                topic,
                name: name.into(),
                publication: publication.clone(),
                except,
                except_user: except_user.map(Box::from),
            };
            self.relay.send(shard, envelope, debt.cloned());
        }
        if here {
            self.deliver_to_members(topic, name, publication, except, except_user, now);
        }
    }

    /// Delivers to the connections of this shard that are in a topic.
    fn deliver_to_members(
        &mut self,
        topic: Topic,
        name: &str,
        publication: Publication,
        except: Option<ConnectionId>,
        except_user: Option<&str>,
        now: Now,
    ) {
        let Some(index) = self.topics.find(topic, name) else {
            // The last one has left while it was on its way.
            self.connections.counters.envelopes_stale += 1;
            return;
        };
        let Publication { frame, class, key, tags, accepted_us } = publication;
        let mut frame = Shared::new(frame);
        let source = match topic {
            Topic::Room => Source::Room(index),
            Topic::Channel => Source::Channel(index),
        };
        let bulk = self.topics.get(index).members.len() >= BULK_MEMBERS_MIN;
        let (key, accepted) = (self.outbox_key(key), accepted_at(accepted_us, now));
        let manner = Manner { class, key, source, accepted, bulk };
        let except_slot = except.and_then(|conn| self.connections.find(conn));
        let except_user = except_user.and_then(|user| self.users.find(user));
        let no_tags = Tags::default();
        let tags = tags.as_ref().unwrap_or(&no_tags);
        for member in &self.topics.get(index).members {
            if Some(member.slot) == except_slot
                || member.filter.as_ref().is_some_and(|filter| !filter.matches(tags))
                || except_user.is_some_and(|user| self.connections.row(member.slot).user == user)
            {
                continue;
            }
            self.connections.push(member.slot, &mut frame, manner, now);
        }
    }

    /// Tells the connections of this shard that are in a topic how many messages of it did not come here.
    fn tell_shed(&mut self, topic: Topic, name: &str, dropped: u32, now: Now) {
        let Some(index) = self.topics.find(topic, name) else {
            self.connections.counters.envelopes_stale += 1;
            return;
        };
        let place = match topic {
            Topic::Room => Place::Room(name),
            Topic::Channel => Place::Channel(name),
        };
        let mut frame = Shared::text(256, |out| reply::gap(out, Some(place), dropped));
        let members = &self.topics.get(index).members;
        let manner = Manner { bulk: members.len() >= BULK_MEMBERS_MIN, ..Manner::PLAIN };
        for member in members {
            let told = self.connections.push(member.slot, &mut frame, manner, now);
            self.connections.counters.gaps_told += u64::from(told);
        }
    }

    /// Delivers to every session of this shard, and counts them.
    pub(super) fn deliver_to_all(&mut self, publication: Publication, now: Now) -> Tally {
        let Publication { frame, class, key, accepted_us, .. } = publication;
        let mut frame = Shared::new(frame);
        let (key, accepted) = (self.outbox_key(key), accepted_at(accepted_us, now));
        let manner = Manner { class, key, source: Source::None, accepted, bulk: true };
        let mut tally = Tally::default();
        for slot in 0..self.connections.capacity() {
            if self.connections.row(slot).state == State::Active {
                match self.connections.push(slot, &mut frame, manner, now) {
                    true => tally.delivered += 1,
                    false => tally.dropped += 1,
                }
            }
        }
        tally
    }

    /// Whether coming and going is told in a room of that many users of this node.
    fn announces(&self, users: u32) -> bool {
        let max = self.settings.config.rooms.announce_max;
        max == 0 || users <= max
    }

    /// At the home of a room: a user's first connection of this node has come in, or the last one has left. In a cluster the home of the user,
    /// `from`, finds out whether it is told, and answers then; the members hear of it first, as on one node.
    #[expect(clippy::too_many_arguments, reason = "they are the fields of one envelope")]
    fn came_or_went(
        &mut self,
        from: ShardId,
        room: &str,
        user: Box<str>,
        enters: bool,
        reply: Option<ReplyTo>,
        debt: &Debt,
        now: Now,
    ) {
        let users = self.homes.find(Topic::Room, room).map_or(0, |home| home.census().users);
        let announces = self.announces(users);
        if announces && self.cluster.is_some() {
            let then = Then::Announce { to: from, user, enters, reply };
            return self.confirm_membership(room, true, then, now);
        }
        if announces {
            self.tell_members(room, &user, enters, Some(debt), now);
        } else if self.cluster.is_some() {
            self.decide_coming(from, user, room.into(), enters, Telling::Nobody, None, now);
        }
        if enters {
            self.reply_when_listening(Topic::Room, room, reply, debt, now);
        } else {
            self.reply(reply, &place_fields(Topic::Room, room), Some(debt), now);
        }
    }

    /// Tells the members of a room that somebody came or went, on this node, and then on others.
    pub(super) fn announce(&mut self, room: &str, user: &str, enters: bool, now: Now) {
        let publication = notice(room, user, enters);
        let message_id = self.message_ids.next(now.unix_ms);
        let parcel = self.parcel(Target::Room(room), &publication, message_id, Some(user), now);
        self.fan_out(Topic::Room, room, publication, None, Some(user), None, now);
        self.publish_to_topic(Topic::Room, room, parcel, Fate::Untold, now);
    }

    /// Tells the members of a room on this node that somebody came or went.
    pub(super) fn tell_members(&mut self, room: &str, user: &str, enters: bool, debt: Option<&Debt>, now: Now) {
        if self.homes.find(Topic::Room, room).is_some() {
            self.fan_out(Topic::Room, room, notice(room, user, enters), None, Some(user), debt, now);
        }
    }

    /// What an outbox conflates by.
    fn outbox_key(&self, key: Option<u64>) -> Option<u64> {
        match self.cluster {
            None => key,
            // All nodes share it: whoever chooses keys must not choose where they fall here.
            Some(_) => key.map(|key| self.settings.homes.scatter(key)),
        }
    }

    fn accept(&mut self, reply: Option<ReplyTo>, message_id: MessageId, debt: &Debt, now: Now) {
        let fields = OkFields { message_id: Some(message_id), ..OkFields::default() };
        self.reply(reply, &fields, Some(debt), now);
    }

    /// Answers a request that gave an `id`, on whatever shard its connection is.
    pub(super) fn reply(&mut self, reply: Option<ReplyTo>, fields: &OkFields<'_>, debt: Option<&Debt>, now: Now) {
        let Some(ReplyTo { conn, id: Some(id) }) = reply else { return };
        let frame = server_frame_with(Opcode::Text, 256, |out| reply::ok(out, &id, fields));
        self.send_answer(conn, Vec::from(frame).into_boxed_slice(), debt.cloned(), now);
    }

    /// Sends an answer to the shard of the connection that asked.
    pub(super) fn send_answer(&mut self, conn: ConnectionId, frame: Box<[u8]>, debt: Option<Debt>, now: Now) {
        if conn.shard == self.id {
            self.answer(conn, frame, now);
            if let Some(debt) = debt {
                self.settle(debt, now);
            }
        } else {
            self.relay.send(conn.shard, Envelope::Answer { conn, frame }, debt);
        }
    }

    fn answer(&mut self, conn: ConnectionId, frame: Box<[u8]>, now: Now) {
        match self.connections.find(conn) {
            Some(slot) => {
                self.connections.push(slot, &mut Shared::new(frame), Manner::PLAIN, now);
            }
            None => self.connections.counters.envelopes_stale += 1,
        }
    }
}

/// What the members of a room are told of somebody who came or went.
fn notice(room: &str, user: &str, enters: bool) -> Publication {
    let capacity = 64 + user.len() + room.len();
    let frame = server_frame_with(Opcode::Text, capacity, |out| match enters {
        true => reply::user_joined(out, user, room),
        false => reply::user_left(out, user, room),
    });
    let frame = Vec::from(frame).into_boxed_slice();
    Publication { frame, class: Class::Droppable, key: None, tags: None, accepted_us: None }
}

/// A topic as other nodes are told of it.
pub(super) fn target(topic: Topic, name: &str) -> Target<'_> {
    match topic {
        Topic::Room => Target::Room(name),
        Topic::Channel => Target::Channel(name),
    }
}

/// What is kept of when a message was accepted.
fn accepted_at(accepted_us: Option<u64>, now: Now) -> Accepted {
    accepted_us.map_or(Accepted::UNMEASURED, |us| Accepted::new(us, now))
}
