//! What a client is told only when the cluster knows: `auth:ok` after the location write, the `ok` of `join` and `subscribe` after the
//! subscription. For `redis.timeout` at most; then, and at once while the bus is not up, it is told with `"local":true`.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use ahash::RandomState;

use super::{shared, topic_channel};
use crate::ids::ConnectionId;
use crate::protocol::RequestId;
use crate::protocol::envelope::{ReplyTo, Topic};
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

/// A session that waits for its user's row.
#[derive(Debug)]
struct Newcomer {
    conn: ConnectionId,
    id: Option<RequestId>,
    rooms: Vec<Box<str>>,
    deadline_ms: u64,
}

/// A request that waits for its channel.
#[derive(Debug)]
struct Entrant {
    reply: ReplyTo,
    topic: Topic,
    deadline_ms: u64,
}

/// Who waits for what.
#[derive(Debug)]
pub(super) struct Waiting {
    users: HashMap<Rc<str>, Vec<Newcomer>, RandomState>,
    /// By the name of the channel.
    channels: HashMap<Rc<str>, Vec<Entrant>, RandomState>,
    /// All wait equally long: oldest first.
    deadlines: VecDeque<(u64, What)>,
}

#[derive(Debug)]
enum What {
    User(Rc<str>),
    Channel(Rc<str>),
}

impl Waiting {
    pub(super) fn new(hasher: &RandomState) -> Self {
        Waiting {
            users: HashMap::with_hasher(hasher.clone()),
            channels: HashMap::with_hasher(hasher.clone()),
            deadlines: VecDeque::new(),
        }
    }

    /// Users and channels that somebody waits for.
    pub(super) fn len(&self) -> usize {
        self.users.len() + self.channels.len()
    }
}

impl Shard {
    /// Whether the session of a connection may begin; otherwise it waits, and is not read from.
    pub(in crate::shard) fn admission(&self, user: &str, now: Now) -> Admission {
        match &self.cluster {
            None => Admission::Now { local: false },
            Some(cluster) if !cluster.is_usable(now) => Admission::Now { local: true },
            Some(cluster) if cluster.agent.is_registered(user) => Admission::Now { local: false },
            Some(_) => Admission::Later,
        }
    }

    /// The session of this connection begins when the cluster knows of its user.
    pub(in crate::shard) fn begin_later(&mut self, slot: u32, id: Option<RequestId>, rooms: Vec<Box<str>>, now: Now) {
        self.connections.pause(slot, Paused::BUS);
        let conn = self.connections.id(slot);
        let user = self.users.get(self.connections.row(slot).user).name.clone();
        let Some(cluster) = &mut self.cluster else { return };
        let deadline_ms = now.mono_ms + cluster.timeout_ms;
        let newcomer = Newcomer { conn, id, rooms, deadline_ms };
        cluster.waiting.deadlines.push_back((deadline_ms, What::User(user.clone())));
        cluster.waiting.users.entry(user).or_default().push(newcomer);
    }

    /// The registry has this user's row.
    pub(super) fn user_settled(&mut self, user: &str, now: Now) {
        let waiting = self.cluster.as_mut().and_then(|cluster| cluster.waiting.users.remove(user));
        for newcomer in waiting.into_iter().flatten() {
            self.begin_now(newcomer, false, now);
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
                let (channel, deadline_ms) = (shared(&channel), now.mono_ms + cluster.timeout_ms);
                cluster.waiting.deadlines.push_back((deadline_ms, What::Channel(channel.clone())));
                let entrant = Entrant { reply, topic, deadline_ms };
                return cluster.waiting.channels.entry(channel).or_default().push(entrant);
            }
            fields.local = !cluster.is_usable(now);
        }
        self.reply(Some(reply), &fields, Some(debt), now);
    }

    /// A channel is subscribed to.
    pub(super) fn channel_settled(&mut self, channel: &str, now: Now) {
        let waiting = self.cluster.as_mut().and_then(|cluster| cluster.waiting.channels.remove(channel));
        for entrant in waiting.into_iter().flatten() {
            self.entered(channel, entrant, false, now);
        }
    }

    /// The bus is not up: nobody waits for it.
    pub(super) fn nobody_waits_any_more(&mut self, now: Now) {
        self.stop_waiting(u64::MAX, now);
    }

    pub(super) fn waited_too_long(&mut self, now: Now) {
        self.stop_waiting(now.mono_ms, now);
    }

    /// Tells those whose deadline is not after `due_ms`, with `"local":true`.
    fn stop_waiting(&mut self, due_ms: u64, now: Now) {
        while let Some(cluster) = &mut self.cluster
            && let Some((deadline_ms, _)) = cluster.waiting.deadlines.front()
            && *deadline_ms <= due_ms
            && let Some((_, what)) = cluster.waiting.deadlines.pop_front()
        {
            match what {
                What::User(user) => {
                    for newcomer in
                        take_due(&mut cluster.waiting.users, &user, |newcomer| newcomer.deadline_ms <= due_ms)
                    {
                        self.begin_now(newcomer, true, now);
                    }
                }
                What::Channel(channel) => {
                    let due =
                        take_due(&mut cluster.waiting.channels, &channel, |entrant| entrant.deadline_ms <= due_ms);
                    for entrant in due {
                        self.entered(&channel, entrant, true, now);
                    }
                }
            }
        }
    }

    fn begin_now(&mut self, newcomer: Newcomer, local: bool, now: Now) {
        let Newcomer { conn, id, rooms, .. } = newcomer;
        let Some(slot) = self.connections.find(conn) else { return };
        if self.connections.row(slot).state != State::Active {
            return;
        }
        self.connections.resume(slot, Paused::BUS, now);
        let withheld = self.connections.take_withheld(slot);
        self.begin(slot, id, &rooms, local, now);
        for (frame, manner) in withheld {
            self.connections.push(slot, &mut Shared::new(frame), manner, now);
        }
        if self.connections.find(conn).is_some() {
            let behind = self.take_behind(slot);
            self.go_on_behind(conn, behind, now);
        }
    }

    fn entered(&mut self, channel: &str, entrant: Entrant, local: bool, now: Now) {
        let Entrant { reply, topic, .. } = entrant;
        let name = channel.split_once(':').map_or("", |(_, name)| name);
        let fields = crate::protocol::OkFields { local, ..place_fields(topic, name) };
        self.reply(Some(reply), &fields, None, now);
    }
}

/// Takes those out that are due.
fn take_due<T>(waiting: &mut HashMap<Rc<str>, Vec<T>, RandomState>, name: &str, is_due: impl Fn(&T) -> bool) -> Vec<T> {
    let Some(all) = waiting.get_mut(name) else { return Vec::new() };
    let due: Vec<T> = all.extract_if(.., |one| is_due(one)).collect();
    if all.is_empty() {
        waiting.remove(name);
    }
    due
}
