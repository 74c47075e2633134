//! What clients ask for, carried out: permissions, memberships here, and the envelope to the home of whatever is addressed.

use crate::cluster::hash::stable;
use crate::cluster::parcel::Target;
use crate::ids::{MessageId, ShardId};
use crate::limits::LOCAL_TOPICS_MAX;
use crate::protocol::class::Class;
use crate::protocol::envelope::{self, Envelope, ReplyTo, Topic};
use crate::protocol::reply::{self, Kind, MessageHead, OkFields};
use crate::protocol::request::{Parsed, PresenceTarget, Publication, Request};
use crate::protocol::{ErrorCode, Filter, RequestId, Verb};
use crate::settings::Addressee;
use crate::shard::Shard;
use crate::shard::cluster::Fate;
use crate::shard::outbox::Source;
use crate::shard::row::{Membership, NONE, Paused};
use crate::shard::topics::Member;
use crate::time::Now;
use crate::ws::frame::{Opcode, server_frame_with};

/// What the hash of a conflation key starts from.
const CONFLATION_SEED: u64 = 0x6b65_7973;

impl Shard {
    /// Carries out one request of a session.
    pub(super) fn request(&mut self, slot: u32, parsed: Parsed<'_>, now: Now) {
        let Parsed { id, request } = parsed;
        match request {
            Request::Auth { token } => self.auth_request(slot, &token, id, &mut [], now),
            Request::Ping => self.pong(slot, id.as_ref(), now),
            Request::SendMessage { target_user, publication } => {
                if self.permitted(slot, Verb::Send, &target_user, id.as_ref(), now)
                    && !self.asks_first(slot, Addressee::User(&target_user), &publication, id.as_ref(), now)
                {
                    self.send_message(slot, &target_user, publication, id, now);
                }
            }
            Request::Join { room } => {
                if self.permitted(slot, Verb::Join, &room, id.as_ref(), now) {
                    self.enter(slot, Topic::Room, &room, None, id, now);
                }
            }
            Request::Leave { room } => self.leave(slot, Topic::Room, &room, id, now),
            Request::Message { room, publication } => match self.membership(slot, Topic::Room, &room) {
                Some(_) => {
                    let to = Addressee::Topic(Topic::Room, &room);
                    if !self.asks_first(slot, to, &publication, id.as_ref(), now) {
                        self.publish(slot, Topic::Room, &room, publication, id, now);
                    }
                }
                None => {
                    let text = "join the room first";
                    self.error(slot, id.as_ref(), ErrorCode::NotMember, text, now);
                }
            },
            Request::Subscribe { channel, filter } => {
                if self.permitted(slot, Verb::Subscribe, &channel, id.as_ref(), now) {
                    self.enter(slot, Topic::Channel, &channel, filter, id, now);
                }
            }
            Request::Unsubscribe { channel } => self.leave(slot, Topic::Channel, &channel, id, now),
            Request::Publish { channel, publication } => {
                let to = Addressee::Topic(Topic::Channel, &channel);
                if self.permitted(slot, Verb::Publish, &channel, id.as_ref(), now)
                    && !self.asks_first(slot, to, &publication, id.as_ref(), now)
                {
                    self.publish(slot, Topic::Channel, &channel, publication, id, now);
                }
            }
            Request::Broadcast { publication } => {
                if self.permitted(slot, Verb::Broadcast, "", id.as_ref(), now)
                    && !self.asks_first(slot, Addressee::All, &publication, id.as_ref(), now)
                {
                    self.broadcast(slot, publication, id, now);
                }
            }
            Request::Presence { target } => {
                let (topic, name) = match target {
                    PresenceTarget::Room(name) => (Topic::Room, name),
                    PresenceTarget::Channel(name) => (Topic::Channel, name),
                };
                if self.permitted(slot, Verb::Presence, &name, id.as_ref(), now) {
                    let conn = self.connections.id(slot);
                    let home = self.settings.homes.topic(topic, &name);
                    self.route(slot, home, Envelope::Presence { topic, name: name.into(), conn, id }, now);
                }
            }
        }
    }

    pub(super) fn pong(&mut self, slot: u32, id: Option<&RequestId>, now: Now) {
        self.say(slot, 64, |out| reply::pong(out, id, now.unix_ms), now);
    }

    /// Whether this user may do this; if not, says so.
    fn permitted(&mut self, slot: u32, verb: Verb, name: &str, id: Option<&RequestId>, now: Now) -> bool {
        let own = self.connections.row(slot).permissions.as_deref();
        if own.unwrap_or(&self.default_permissions).allows(verb, name) {
            return true;
        }
        let text = match verb {
            Verb::Broadcast => "needs the permission \"broadcast\"".to_owned(),
            _ => format!("needs a permission \"{}:...\" that covers this name", verb.name()),
        };
        self.error(slot, id, ErrorCode::Forbidden, &text, now);
        false
    }

    pub(super) fn send_message(
        &mut self,
        slot: u32,
        target: &str,
        publication: Publication<'_>,
        id: Option<RequestId>,
        now: Now,
    ) {
        let (publication, message_id) = self.encode_of(slot, Addressee::User(target), &publication, now);
        let reply = self.reply_to(slot, id);
        let envelope = Envelope::ToUser { user: target.into(), publication, message_id, reply };
        let home = self.settings.homes.user(target);
        self.route(slot, home, envelope, now);
    }

    pub(super) fn publish(
        &mut self,
        slot: u32,
        topic: Topic,
        name: &str,
        publication: Publication<'_>,
        id: Option<RequestId>,
        now: Now,
    ) {
        let (publication, message_id) = self.encode_of(slot, Addressee::Topic(topic, name), &publication, now);
        let except = (topic == Topic::Room).then(|| self.connections.id(slot));
        let reply = self.reply_to(slot, id);
        let envelope = Envelope::Publish { topic, name: name.into(), publication, except, message_id, reply };
        let home = self.settings.homes.topic(topic, name);
        self.route(slot, home, envelope, now);
    }

    pub(super) fn broadcast(&mut self, slot: u32, publication: Publication<'_>, id: Option<RequestId>, now: Now) {
        let (publication, message_id) = self.encode_of(slot, Addressee::All, &publication, now);
        for shard in 0..self.settings.homes.shards() {
            let envelope = Envelope::Broadcast { publication: publication.clone() };
            self.route(slot, ShardId(shard), envelope, now);
        }
        if self.cluster.is_some() {
            let parcel = self.parcel(Target::All, &publication, message_id, None, now);
            let reply = self.reply_to(slot, id);
            return self.publish_to_all(parcel, Fate::Sender(reply, message_id), now);
        }
        let fields = OkFields { message_id: Some(message_id), ..OkFields::default() };
        self.answer_ok(slot, id.as_ref(), &fields, now);
    }

    /// Encodes a message of a client.
    fn encode_of(
        &mut self,
        slot: u32,
        to: Addressee<'_>,
        publication: &Publication<'_>,
        now: Now,
    ) -> (envelope::Publication, MessageId) {
        let from = self.users.get(self.connections.row(slot).user).name.clone();
        let (encoded, message_id) = self.encode(Some(&from), to, publication, now);
        self.tell_message(slot, message_id, to, publication, now);
        (encoded, message_id)
    }

    /// Encodes a message as its receivers will see it, once for all of them. `from` is the user who sends it; `None`: a service.
    pub(super) fn encode(
        &mut self,
        from: Option<&str>,
        to: Addressee<'_>,
        publication: &Publication<'_>,
        now: Now,
    ) -> (envelope::Publication, MessageId) {
        let message_id = self.message_ids.next(now.unix_ms);
        let (room, channel) = match to {
            Addressee::Topic(topic, name) => place(topic, name),
            Addressee::User(_) | Addressee::All => (None, None),
        };
        let head = MessageHead {
            kind: if matches!(to, Addressee::All) { Kind::Broadcast } else { Kind::Message },
            id: message_id,
            from,
            content: publication.content,
            timestamp_ms: now.unix_ms,
            room,
            channel,
            event: publication.event.as_deref(),
            tags_raw: publication.tags_raw,
        };
        let frame = server_frame_with(Opcode::Text, reply::message_capacity(&head), |out| reply::message(out, &head));
        let class = publication.class.unwrap_or_else(|| self.class_of(publication.event.as_deref()));
        let key = (class == Class::Latest).then(|| {
            let event = publication.event.as_deref().unwrap_or("");
            self.conflation_key(to, publication.key.as_deref(), from.unwrap_or(""), event)
        });
        let frame = Vec::from(frame).into_boxed_slice();
        let accepted_us = Some(now.mono_us());
        (envelope::Publication { frame, class, key, tags: publication.tags.clone(), accepted_us }, message_id)
    }

    /// What a message is the latest of: in a cluster a number that all nodes find.
    pub(super) fn conflation_key(&self, to: Addressee<'_>, key: Option<&str>, from: &str, event: &str) -> u64 {
        if self.cluster.is_none() {
            let homes = &self.settings.homes;
            return key.map_or_else(|| homes.default_key(to, from, event), |key| homes.key(to, key));
        }
        let to = match to {
            Addressee::User(name) => ["u", name],
            Addressee::Topic(Topic::Room, name) => ["r", name],
            Addressee::Topic(Topic::Channel, name) => ["c", name],
            Addressee::All => ["a", ""],
        };
        // No name and no event has a zero byte in it.
        let text = match key {
            Some(key) => [to[0], "k", to[1], key, ""].join("\0"),
            None => [to[0], "d", to[1], from, event].join("\0"),
        };
        stable(CONFLATION_SEED, text.as_bytes())
    }

    /// The class of a message that names none.
    pub(super) fn class_of(&self, event: Option<&str>) -> Class {
        event.and_then(|event| self.settings.config.classes.0.get(event).copied()).unwrap_or_default()
    }

    pub(super) fn reply_to(&self, slot: u32, id: Option<RequestId>) -> Option<ReplyTo> {
        // In a cluster there may be an error to tell, and that is told without an id as well.
        let wanted = id.is_some() || self.cluster.is_some();
        wanted.then(|| ReplyTo { conn: self.connections.id(slot), id })
    }

    /// Sends on behalf of a client, using up its shard's credit; without more of it the client waits.
    pub(super) fn route(&mut self, slot: u32, home: ShardId, envelope: Envelope, now: Now) {
        let conn = self.connections.id(slot);
        let more = self.relay.spend(home, envelope.payload_bytes());
        if !more {
            // Before it is handled: here that may give the credit back at once, and nobody would wake the client after that.
            self.connections.counters.credit_waits += 1;
            self.connections.pause(slot, Paused::CREDIT);
            self.relay.wait(home, conn);
        }
        if home == self.id {
            self.receive(home, envelope, now);
        } else {
            self.relay.send(home, envelope, None);
        }
    }

    /// Where in a connection's memberships a topic stands.
    pub(super) fn membership(&self, slot: u32, topic: Topic, name: &str) -> Option<usize> {
        let index = self.topics.find(topic, name)?;
        self.connections.row(slot).memberships.iter().position(|m| m.topic == index)
    }

    /// A connection enters a room or subscribes to a channel.
    pub(super) fn enter(
        &mut self,
        slot: u32,
        topic: Topic,
        name: &str,
        filter: Option<Box<Filter>>,
        id: Option<RequestId>,
        now: Now,
    ) {
        if let Some(place) = self.membership(slot, topic, name) {
            // It is in already; a subscription may have another filter now.
            let Membership { topic: index, position } = self.connections.row(slot).memberships[place];
            let before = std::mem::replace(&mut self.topics.member(index, position).filter, filter);
            let (freed, held) =
                (filter_bytes(before.as_deref()), filter_bytes(self.topics.member(index, position).filter.as_deref()));
            let row = self.connections.row_mut(slot);
            row.filter_bytes = row.filter_bytes - freed + held;
            self.connections.reweigh(slot);
            return self.answer_ok(slot, id.as_ref(), &place_fields(topic, name), now);
        }
        let max = self.settings.config.session.max_subscriptions as usize;
        if max != 0 && self.connections.row(slot).memberships.len() >= max {
            let text = format!("at most {max} rooms and channels per connection");
            return self.error(slot, id.as_ref(), ErrorCode::TooManyRooms, &text, now);
        }
        if !self.knows_or_may(topic, name) {
            let text = "this node knows as many rooms and channels as it may";
            return self.error(slot, id.as_ref(), ErrorCode::Unavailable, text, now);
        }
        let first = !self.user_is_in(slot, topic, name);
        let held = filter_bytes(filter.as_deref());
        let place = self.connections.row(slot).memberships.len() as u32;
        let (index, position) = self.topics.add(topic, name, Member { slot, place, filter });
        let row = self.connections.row_mut(slot);
        row.memberships.push(Membership { topic: index, position });
        row.filter_bytes += held;
        let user = self.users.get(row.user).name.clone();
        let first_of_user = first.then(|| Box::from(&*user));
        if held > 0 {
            self.connections.reweigh(slot);
        }
        if first {
            self.topics.user_came(index);
            self.coming_begins(&user, topic, name, true);
            self.tell_membership(slot, topic, name, true, now);
        }
        let reply = self.reply_to(slot, id);
        let home = self.settings.homes.topic(topic, name);
        self.route(slot, home, Envelope::Enter { topic, name: name.into(), first_of_user, reply }, now);
    }

    /// Whether a topic is known on this shard, or there is room for one more.
    pub(super) fn knows_or_may(&self, topic: Topic, name: &str) -> bool {
        self.topics.count() < LOCAL_TOPICS_MAX || self.topics.find(topic, name).is_some()
    }

    /// A connection leaves a room or unsubscribes from a channel.
    fn leave(&mut self, slot: u32, topic: Topic, name: &str, id: Option<RequestId>, now: Now) {
        match self.membership(slot, topic, name) {
            Some(place) => self.leave_place(slot, place, id, now),
            // It is not in: what was asked for is true.
            None => self.answer_ok(slot, id.as_ref(), &place_fields(topic, name), now),
        }
    }

    pub(super) fn leave_all_topics(&mut self, slot: u32, now: Now) {
        while let Some(last) = self.connections.row(slot).memberships.len().checked_sub(1) {
            self.leave_place(slot, last, None, now);
        }
    }

    pub(super) fn leave_place(&mut self, slot: u32, place: usize, id: Option<RequestId>, now: Now) {
        let row = self.connections.row_mut(slot);
        let Membership { topic: index, position } = row.memberships.swap_remove(place);
        if let Some(moved) = row.memberships.get(place).copied() {
            self.topics.member(moved.topic, moved.position).place = place as u32;
        }
        let (topic, name) = (self.topics.get(index).kind, self.topics.get(index).name.clone());
        let removed = self.topics.remove(index, position);
        let freed = filter_bytes(removed.filter.as_deref());
        if freed > 0 {
            self.connections.row_mut(slot).filter_bytes -= freed;
            self.connections.reweigh(slot);
        }
        if let Some((moved_slot, moved_place)) = removed.moved {
            self.connections.row_mut(moved_slot).memberships[moved_place as usize].position = position;
        }
        let source = match topic {
            Topic::Room => Source::Room(index),
            Topic::Channel => Source::Channel(index),
        };
        self.connections.forget_source(slot, source);
        let last = !self.user_is_in(slot, topic, &name);
        let user = self.users.get(self.connections.row(slot).user).name.clone();
        let last_of_user = last.then(|| Box::from(&*user));
        if last {
            self.topics.user_left(index);
            self.coming_begins(&user, topic, &name, false);
            self.tell_membership(slot, topic, &name, false, now);
        }
        let reply = self.reply_to(slot, id);
        let home = self.settings.homes.topic(topic, &name);
        let envelope = Envelope::Leave { topic, name: Box::from(name.as_ref()), last_of_user, reply };
        self.route(slot, home, envelope, now);
    }

    /// Whether another connection of this connection's user is in a topic. They are all on this shard.
    fn user_is_in(&self, slot: u32, topic: Topic, name: &str) -> bool {
        let user = self.connections.row(slot).user;
        debug_assert_ne!(user, NONE, "only sessions enter and leave");
        let others = &self.users.get(user).connections;
        let Some(index) = self.topics.find(topic, name).filter(|_| others.len() > 1) else { return false };
        others.iter().any(|&other| other != slot && self.connections.row(other).is_in(index))
    }

    /// Whether a user is in a topic with any connection of this shard.
    pub(super) fn has_in(&self, user: &str, topic: Topic, name: &str) -> bool {
        let (Some(index), Some(user)) = (self.topics.find(topic, name), self.users.find(user)) else { return false };
        let mut connections = self.users.get(user).connections.iter();
        connections.any(|&slot| self.connections.row(slot).is_in(index))
    }
}

/// What a subscription's filter takes up.
fn filter_bytes(filter: Option<&Filter>) -> u32 {
    filter.map_or(0, |filter| u32::try_from(filter.held_bytes()).unwrap_or(u32::MAX))
}

/// `roomId` or `channel`.
pub(super) fn place_fields(topic: Topic, name: &str) -> OkFields<'_> {
    let (room, channel) = place(topic, name);
    OkFields { room, channel, ..OkFields::default() }
}

/// A topic's name as a room's or as a channel's.
fn place(topic: Topic, name: &str) -> (Option<&str>, Option<&str>) {
    match topic {
        Topic::Room => (Some(name), None),
        Topic::Channel => (None, Some(name)),
    }
}
