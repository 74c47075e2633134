//! What a client is told only when the cluster knows: `auth:ok` after the location write and the subscriptions for its user and to the rooms that
//! its token names, the `ok` of `join` and `subscribe` after the subscription. For `redis.timeout` at most; then, and at once while the bus is not up,
//! it is told with `"local":true`.
//!
//! Services wait for the subscription as well, where they put somebody into a room. For half of that time: whoever asks from another node
//! waits for all of it, and is to have the answer by then.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use ahash::RandomState;

use super::{shared, topic_channel};
use crate::ids::ConnectionId;
use crate::protocol::envelope::{ReplyTo, Then, Topic};
use crate::protocol::{OkFields, RequestId};
use crate::shard::Shard;
use crate::shard::frames::Shared;
use crate::shard::relay::Debt;
use crate::shard::requests::place_fields;
use crate::shard::row::{Paused, State};
use crate::time::Now;

/// Whether a session may begin.
#[derive(Debug)]
pub(in crate::shard) enum Admission {
    /// Yes.
    Now {
        /// The cluster does not know of it.
        local: bool,
    },
    /// When the cluster knows of the user.
    Later,
}

/// A session that waits for its user's row, and for the rooms that it was put into.
#[derive(Debug)]
struct Newcomer {
    conn: ConnectionId,
    id: Option<RequestId>,
    rooms_missing: usize,
    /// The cluster does not know of some of it.
    local: bool,
    deadline_ms: u64,
}

/// Something that waits for a channel.
#[derive(Debug)]
struct Entrant {
    what: Entering,
    deadline_ms: u64,
}

#[derive(Debug)]
enum Entering {
    /// A client's request.
    Request(ReplyTo, Topic),
    /// What follows where somebody was put into a room.
    Member(Then),
}

/// Who waits for what.
#[derive(Debug)]
pub(super) struct Waiting {
    users: HashMap<Rc<str>, Vec<Newcomer>, RandomState>,
    /// By the name of the channel.
    channels: HashMap<Rc<str>, Vec<Entrant>, RandomState>,
    /// Clients, and services. All of a queue wait equally long: oldest first.
    deadlines: [VecDeque<(u64, What)>; 2],
}

#[derive(Debug)]
enum What {
    User(Rc<str>),
    Channel(Rc<str>),
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    Client,
    Service,
}

impl Waiting {
    pub(super) fn new(hasher: &RandomState) -> Self {
        Waiting {
            users: HashMap::with_hasher(hasher.clone()),
            channels: HashMap::with_hasher(hasher.clone()),
            deadlines: Default::default(),
        }
    }

    /// Users and channels that somebody waits for.
    pub(super) fn len(&self) -> usize {
        self.users.len() + self.channels.len()
    }

    /// Lets something wait for a channel.
    fn wait_for_channel(&mut self, channel: &str, what: Entering, patience: Patience, wait_ms: u64, now: Now) {
        let (channel, deadline_ms) = (shared(channel), now.mono_ms + wait_ms);
        self.deadlines[patience as usize].push_back((deadline_ms, What::Channel(channel.clone())));
        self.channels.entry(channel).or_default().push(Entrant { what, deadline_ms });
    }

    /// The next of what has waited until `due_ms`.
    fn next_due(&mut self, due_ms: u64) -> Option<What> {
        let is_due = |queue: &&mut VecDeque<(u64, What)>| queue.front().is_some_and(|(at, _)| *at <= due_ms);
        self.deadlines.iter_mut().find(is_due)?.pop_front().map(|(_, what)| what)
    }
}

impl Shard {
    /// Whether the session of a connection may begin that is to be put into these rooms; otherwise it waits, and is not read from.
    pub(in crate::shard) fn admission(&self, user: &str, rooms: &[Box<str>], now: Now) -> Admission {
        match &self.cluster {
            None => Admission::Now { local: false },
            Some(cluster) if !cluster.is_usable(now) => Admission::Now { local: true },
            Some(cluster) if rooms.is_empty() && cluster.knows(user) => Admission::Now { local: false },
            Some(_) => Admission::Later,
        }
    }

    /// The session of this connection begins when the cluster knows of its user, and hears the rooms that it is put into.
    pub(in crate::shard) fn begin_later(&mut self, slot: u32, id: Option<RequestId>, rooms: &[Box<str>], now: Now) {
        self.connections.pause(slot, Paused::BUS);
        let conn = self.connections.id(slot);
        let user = self.users.get(self.connections.row(slot).user).name.clone();
        let Some(cluster) = &mut self.cluster else { return };
        let deadline_ms = now.mono_ms + cluster.timeout_ms;
        let newcomer = Newcomer { conn, id, rooms_missing: rooms.len(), local: false, deadline_ms };
        cluster.waiting.deadlines[Patience::Client as usize].push_back((deadline_ms, What::User(user.clone())));
        cluster.waiting.users.entry(user.clone()).or_default().push(newcomer);
        for room in rooms {
            self.enter(slot, Topic::Room, room, None, None, now);
            self.after_membership(&user, room, true, Then::Begin { conn }, None, now);
        }
    }

    /// One of the rooms that a session was put into is confirmed.
    pub(in crate::shard) fn session_in_room(&mut self, conn: ConnectionId, local: bool, now: Now) {
        let Some(slot) = self.connections.find(conn) else { return };
        if self.connections.row(slot).state != State::Active {
            return;
        }
        let user = self.users.get(self.connections.row(slot).user).name.clone();
        let waiting = self.cluster.as_mut().and_then(|cluster| cluster.waiting.users.get_mut(&user));
        if let Some(newcomer) = waiting.and_then(|all| all.iter_mut().find(|newcomer| newcomer.conn == conn)) {
            newcomer.rooms_missing = newcomer.rooms_missing.saturating_sub(1);
            newcomer.local |= local;
            self.user_settled(&user, now);
        }
    }

    /// The registry has this user's row, or the user's channel is subscribed to.
    pub(super) fn user_settled(&mut self, user: &str, now: Now) {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.knows(user)) else { return };
        for newcomer in take_where(&mut cluster.waiting.users, user, |newcomer| newcomer.rooms_missing == 0) {
            self.begin_now(newcomer, now);
        }
    }

    /// Answers a request when its channel is subscribed to.
    pub(in crate::shard) fn reply_when_listening(
        &mut self,
        topic: Topic,
        name: &str,
        reply: Option<ReplyTo>,
        debt: &Debt,
        now: Now,
    ) {
        let Some(reply) = reply else { return };
        let mut fields = place_fields(topic, name);
        if let Some(cluster) = &mut self.cluster {
            let channel = topic_channel(topic, name);
            if cluster.is_usable(now) && !cluster.agent.is_listening(&channel) && reply.id.is_some() {
                let what = Entering::Request(reply, topic);
                return cluster.waiting.wait_for_channel(&channel, what, Patience::Client, cluster.timeout_ms, now);
            }
            fields.local = !cluster.is_usable(now);
        }
        self.reply(Some(reply), &fields, Some(debt), now);
    }

    /// At the home of a room: goes on when what was done to a user's membership is in force. Who was put in is reached from other nodes when
    /// this one `hears` the room; who was taken out is reached no more already.
    pub(in crate::shard) fn confirm_membership(&mut self, room: &str, hears: bool, then: Then, now: Now) {
        // Where all have left again, nothing is subscribed to.
        let waits = hears && self.homes.find(Topic::Room, room).is_some();
        let Some(cluster) = &mut self.cluster else { return self.go_on_with(then, room, false, now) };
        let usable = cluster.is_usable(now);
        let channel = topic_channel(Topic::Room, room);
        if !usable || !waits || cluster.agent.is_listening(&channel) {
            return self.go_on_with(then, room, !usable, now);
        }
        let (patience, wait_ms) = match then {
            Then::Begin { .. } | Then::Announce { .. } => (Patience::Client, cluster.timeout_ms),
            Then::Report { .. } | Then::Tell { .. } => (Patience::Service, cluster.timeout_ms / 2),
        };
        cluster.waiting.wait_for_channel(&channel, Entering::Member(then), patience, wait_ms, now);
    }

    /// A channel is subscribed to.
    pub(super) fn channel_settled(&mut self, channel: &str, now: Now) {
        if let Some(("user", user)) = channel.split_once(':') {
            self.user_settled(user, now);
            return self.comings_heard(user, now);
        }
        let waiting = self.cluster.as_mut().and_then(|cluster| cluster.waiting.channels.remove(channel));
        for entrant in waiting.into_iter().flatten() {
            self.entered(channel, entrant, false, now);
        }
    }

    /// The bus is not up: nobody waits for it.
    pub(super) fn nobody_waits_any_more(&mut self, now: Now) {
        self.stop_waiting(u64::MAX, now);
        self.tell_all_comings(now);
    }

    pub(super) fn waited_too_long(&mut self, now: Now) {
        self.stop_waiting(now.mono_ms, now);
    }

    /// Tells those whose deadline is not after `due_ms`, with `"local":true`.
    fn stop_waiting(&mut self, due_ms: u64, now: Now) {
        while let Some(cluster) = &mut self.cluster
            && let Some(what) = cluster.waiting.next_due(due_ms)
        {
            match what {
                What::User(user) => {
                    let is_due = |newcomer: &Newcomer| newcomer.deadline_ms <= due_ms;
                    for newcomer in take_where(&mut cluster.waiting.users, &user, is_due) {
                        self.begin_now(Newcomer { local: true, ..newcomer }, now);
                    }
                }
                What::Channel(channel) => {
                    let is_due = |entrant: &Entrant| entrant.deadline_ms <= due_ms;
                    for entrant in take_where(&mut cluster.waiting.channels, &channel, is_due) {
                        self.entered(&channel, entrant, true, now);
                    }
                }
            }
        }
    }

    fn begin_now(&mut self, newcomer: Newcomer, now: Now) {
        let Newcomer { conn, id, local, .. } = newcomer;
        let Some(slot) = self.connections.find(conn) else { return };
        if self.connections.row(slot).state != State::Active {
            return;
        }
        self.connections.resume(slot, Paused::BUS, now);
        let withheld = self.connections.take_withheld(slot);
        self.begin(slot, id, &[], local, now);
        for (frame, manner) in withheld {
            self.connections.push(slot, &mut Shared::new(frame), manner, now);
        }
        if self.connections.find(conn).is_some() {
            let behind = self.take_behind(slot);
            self.go_on_behind(conn, behind, now);
        }
    }

    /// Answers a request that has waited. `local`: other nodes may not know yet.
    pub(super) fn answer_place(&mut self, reply: ReplyTo, topic: Topic, name: &str, local: bool, now: Now) {
        let fields = OkFields { local, ..place_fields(topic, name) };
        self.reply(Some(reply), &fields, None, now);
    }

    fn entered(&mut self, channel: &str, entrant: Entrant, local: bool, now: Now) {
        let name = channel.split_once(':').map_or("", |(_, name)| name);
        match entrant.what {
            Entering::Request(reply, topic) => {
                self.answer_place(reply, topic, name, local, now);
            }
            Entering::Member(then) => self.go_on_with(then, name, local, now),
        }
    }
}

/// Takes some of those out that wait for this.
fn take_where<T>(
    waiting: &mut HashMap<Rc<str>, Vec<T>, RandomState>,
    name: &str,
    is_one: impl Fn(&T) -> bool,
) -> Vec<T> {
    let Some(all) = waiting.get_mut(name) else { return Vec::new() };
    let taken: Vec<T> = all.extract_if(.., |one| is_one(one)).collect();
    if all.is_empty() {
        waiting.remove(name);
    }
    taken
}
