//! Who comes into a room and who goes, told once per user of the whole cluster.
//!
//! The home of a user knows on which rooms the user's connections of this node are in, and hears the user's channel, as the homes of that
//! user on other nodes do. What is published there reaches all of them in one order, that of Redis, and this order decides:
//!
//! * Where a user's first connection of this node enters a room, or the last one leaves it, the node asks on that channel whether the user is in
//!   the room elsewhere; if nobody says so, it tells. The publish says how many have heard the question. Of most users that is this shard alone:
//!   nobody has to answer.
//! * A node answers by how things stood when the question came by. What came or went on itself counts from when its own question came by. So where a
//!   user enters through two nodes at once, one question is the first: it is answered no, and its node tells; the other is answered yes. It
//!   is the same with two that are left at once, and with one that is entered while another is left. There are no ties to be broken, and what is
//!   told of one user and room alternates.
//! * It is told in the same order: on the channel of the room, where this node hears it like the others; and a no that could let another node
//!   tell something waits until it is settled what this one had to tell before, and follows it on the same connection. Who waits for whom is
//!   the order of the questions, so nobody waits in a circle.
//! * While a question is open, what else that user does in that room waits. Then what is known elsewhere is compared with what is true here,
//!   and asked again where it differs: who came and went again meanwhile has not come.
//!
//! Before that, the room's home says whether it is told at all: by the users of this node who are in it (`rooms.announce_max`), since no
//! node knows those of others without asking; and for a larger room nothing is asked. And it waits until it hears the room.
//!
//! The `ok` of `join` and `leave` follows what is told: so nobody hears of a user before their coming, as on one node.
//!
//! So a coming or going costs two publishes, the question and what is told, and one more for each other node that has the user; a large room costs
//! none.
//!
//! It is told without knowing better, as if there were no other nodes, while the bus is not up, where an answer has not come within
//! `redis.timeout`, when the node ends, and when [more is open](ROOM_COMINGS_MAX) than may be: better once too often than never. A node
//! that dies tells nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use ahash::RandomState;

use super::asking::Purpose;
use super::publishing::Fate;
use super::{Leaving, topic_channel, user_channel};
use crate::cluster::agent::Event as AgentEvent;
use crate::cluster::inquiry::{Inquiry, Said, What};
use crate::ids::ShardId;
use crate::limits::{BUS_ENVELOPES_HIGH, ROOM_COMINGS_MAX, ROOM_COMINGS_OWED_MAX};
use crate::protocol::envelope::{Envelope, ReplyTo, Telling, Topic};
use crate::shard::Shard;
use crate::shard::presence::Asker;
use crate::time::Now;

/// The comings and goings of this shard's users that are not told yet.
#[derive(Debug)]
pub(super) struct Comings {
    by_user: HashMap<Rc<str>, BTreeMap<Rc<str>, Coming>, RandomState>,
    len: usize,
    next_serial: u64,
    /// Users whose channel is waited for. All wait equally long: oldest first.
    deadlines: VecDeque<(u64, Rc<str>)>,
}

/// One user and one room, while it is not settled what is told of them.
#[derive(Debug)]
struct Coming {
    /// Whether the user is in the room here, as other nodes are told that ask: it changes when this node's own question comes by.
    known: bool,
    /// The room's home has yet to say so often whether it is told.
    undecided: u32,
    /// What it has said last.
    telling: Telling,
    step: Step,
    /// Questions of other nodes that are answered with no when this is settled.
    owed: Vec<Asker>,
    /// Clients who are answered then.
    asked: Vec<Asked>,
}

/// A client's `join` or `leave`.
#[derive(Debug)]
pub(in crate::shard) struct Asked {
    reply: ReplyTo,
    enters: bool,
    /// This node does not hear the room.
    local: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing is asked.
    Idle,
    /// This shard does not hear the user's channel yet; until when it waits.
    Listening(u64),
    /// The other nodes are asked.
    Asking { serial: u64, enters: bool, came_by: bool },
}

impl Comings {
    pub(super) fn new(hasher: &RandomState) -> Self {
        let by_user = HashMap::with_hasher(hasher.clone());
        Comings { by_user, len: 0, next_serial: 0, deadlines: VecDeque::new() }
    }

    /// Users and rooms of which something is to be settled.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether something of this user is: then the user's channel is still needed.
    pub(super) fn concern(&self, user: &str) -> bool {
        self.by_user.contains_key(user)
    }

    fn find(&mut self, user: &str, room: &str) -> Option<&mut Coming> {
        self.by_user.get_mut(user)?.get_mut(room)
    }

    fn begin(&mut self, user: &str, room: &str, known: bool) {
        if let Some(coming) = self.find(user, room) {
            coming.undecided += 1;
        } else if self.len < ROOM_COMINGS_MAX {
            let (telling, step) = (Telling::Nobody, Step::Idle);
            let coming = Coming { known, undecided: 1, telling, step, owed: Vec::new(), asked: Vec::new() };
            self.by_user.entry(Rc::from(user)).or_default().insert(Rc::from(room), coming);
            self.len += 1;
        }
    }

    /// Forgets what is settled. Returns it, and whether that was the last of this user.
    fn end(&mut self, user: &str, room: &str) -> Option<(Coming, bool)> {
        let rooms = self.by_user.get_mut(user)?;
        let coming = rooms.remove(room)?;
        self.len -= 1;
        let last = rooms.is_empty();
        if last {
            self.by_user.remove(user);
        }
        Some((coming, last))
    }

    /// The rooms of a user, and the steps that are taken there.
    fn of(&self, user: &str) -> Vec<(Rc<str>, Step)> {
        let rooms = self.by_user.get(user).into_iter().flatten();
        rooms.map(|(room, coming)| (room.clone(), coming.step)).collect()
    }
}

impl Shard {
    /// A user's first connection of this node is about to enter a topic, or the last one to leave it. Of a room it is told: the room's home says
    /// [how it is told](Shard::coming_decided).
    pub(in crate::shard) fn coming_begins(&mut self, user: &str, topic: Topic, name: &str, enters: bool) {
        if let Some(cluster) = self.cluster.as_mut().filter(|_| topic == Topic::Room) {
            cluster.comings.begin(user, name, !enters);
        }
    }

    /// At the home of a room: it is settled how this coming or going is told. `to` is the home of the user.
    #[expect(clippy::too_many_arguments, reason = "they are the fields of one envelope")]
    pub(in crate::shard) fn decide_coming(
        &mut self,
        to: ShardId,
        user: Box<str>,
        room: Box<str>,
        enters: bool,
        telling: Telling,
        reply: Option<ReplyTo>,
        now: Now,
    ) {
        if to == self.id {
            self.coming_decided(&user, &room, enters, telling, reply, now);
        } else {
            self.relay.send(to, Envelope::Coming { user, room, enters, telling, reply }, None);
        }
    }

    /// At the home of a user: the room's home has said how a coming or going is told.
    pub(in crate::shard) fn coming_decided(
        &mut self,
        user: &str,
        room: &str,
        enters: bool,
        telling: Telling,
        reply: Option<ReplyTo>,
        now: Now,
    ) {
        let Some(cluster) = &mut self.cluster else { return };
        let local = telling == Telling::ByHome;
        let asked = reply.filter(|reply| reply.id.is_some()).map(|reply| Asked { reply, enters, local });
        match cluster.comings.find(user, room) {
            Some(coming) => {
                coming.undecided = coming.undecided.saturating_sub(1);
                coming.telling = telling;
                coming.asked.extend(asked);
                self.settle_coming(user, room, now);
            }
            None if telling == Telling::Nobody => {}
            None => {
                self.connections.counters.rooms_unasked += 1;
                self.tell_coming(user, room, enters, telling, asked.into_iter().collect(), now);
            }
        }
    }

    /// Does what is next, unless something is waited for.
    fn settle_coming(&mut self, user: &str, room: &str, now: Now) {
        let is_in = self.has_in(user, Topic::Room, room);
        let Some(cluster) = &mut self.cluster else { return };
        let (usable, hears) = (cluster.is_usable(now), cluster.agent.is_listening(&user_channel(user)));
        let comings = &mut cluster.comings;
        let (serial, until_ms) = (comings.next_serial, now.mono_ms + cluster.timeout_ms);
        let Some(coming) = comings.find(user, room).filter(|c| c.undecided == 0 && c.step == Step::Idle) else {
            return;
        };
        let telling = coming.telling;
        if coming.known == is_in || telling == Telling::Nobody {
            let asked = self.coming_ends(user, room, now);
            return self.answer_members(room, asked, now);
        }
        if !usable || cluster.leaving != Leaving::Not || telling == Telling::ByHome {
            self.connections.counters.rooms_unasked += 1;
            let asked = self.coming_ends(user, room, now);
            return self.tell_coming(user, room, is_in, telling, asked, now);
        }
        if !hears {
            coming.step = Step::Listening(until_ms);
            return comings.deadlines.push_back((until_ms, Rc::from(user)));
        }
        coming.step = Step::Asking { serial, enters: is_in, came_by: false };
        comings.next_serial += 1;
        self.connections.counters.rooms_asked += 1;
        let purpose = Purpose::InRoom { user: user.into(), room: room.into(), serial };
        self.ask(&user_channel(user), What::InRoom { room }, purpose, now);
    }

    /// This node's own question has come by: from here on, others are answered by what it was about.
    pub(super) fn coming_came_by(&mut self, user: &str, room: &str, asked: u64) {
        let coming = self.cluster.as_mut().and_then(|cluster| cluster.comings.find(user, room));
        if let Some(Coming { known, step: Step::Asking { serial, enters, came_by }, .. }) = coming
            && *serial == asked
        {
            (*known, *came_by) = (*enters, true);
        }
    }

    /// A question is answered, or not answered in time; `elsewhere`: the user is in the room on another node.
    pub(super) fn coming_answered(&mut self, user: &str, room: &str, asked: u64, elsewhere: bool, now: Now) {
        let Some(coming) = self.cluster.as_mut().and_then(|cluster| cluster.comings.find(user, room)) else { return };
        let Step::Asking { serial, enters, .. } = coming.step else { return };
        if serial != asked {
            return;
        }
        (coming.step, coming.known) = (Step::Idle, enters);
        let (telling, owed) = (coming.telling, std::mem::take(&mut coming.owed));
        let asked = std::mem::take(&mut coming.asked);
        if elsewhere {
            self.answer_members(room, asked, now);
        } else {
            self.tell_coming(user, room, enters, telling, asked, now);
        }
        for asker in owed {
            self.answer_node(&asker, Said::Nothing, now);
        }
        self.settle_coming(user, room, now);
    }

    /// Another node asks whether a user is in a room here.
    pub(super) fn asked_in_room(&mut self, user: &str, room: &str, asker: Asker, now: Now) {
        let is_in = self.has_in(user, Topic::Room, room);
        let coming = self.cluster.as_mut().and_then(|cluster| cluster.comings.find(user, room));
        let known = match coming {
            None => is_in,
            Some(Coming { known: false, step: Step::Asking { came_by: true, .. }, owed, .. })
                if owed.len() < ROOM_COMINGS_OWED_MAX =>
            {
                return owed.push(asker);
            }
            Some(coming) => coming.known,
        };
        self.answer_node(&asker, if known { Said::Connections(1) } else { Said::Nothing }, now);
    }

    /// It is settled. Returns who is to be answered.
    fn coming_ends(&mut self, user: &str, room: &str, now: Now) -> Vec<Asked> {
        let ended = self.cluster.as_mut().and_then(|cluster| cluster.comings.end(user, room));
        let Some((coming, last)) = ended else { return Vec::new() };
        if last && self.users.find(user).is_none() {
            // It was kept for this.
            self.tell_agent(AgentEvent::Unlisten(&user_channel(user)), now);
        }
        coming.asked
    }

    /// Answers those who have joined a room or left it.
    pub(super) fn answer_members(&mut self, room: &str, asked: Vec<Asked>, now: Now) {
        let usable = self.cluster.as_ref().is_some_and(|cluster| cluster.is_usable(now));
        for Asked { reply, enters, local } in asked {
            self.answer_place(reply, Topic::Room, room, enters && (local || !usable), now);
        }
    }

    /// This shard hears a user's channel now.
    pub(super) fn comings_heard(&mut self, user: &str, now: Now) {
        self.comings_listened(user, u64::MAX, now);
    }

    /// Those that have waited too long for a user's channel are told all the same.
    pub(super) fn comings_too_long(&mut self, now: Now) {
        while let Some(cluster) = &mut self.cluster
            && let Some((until_ms, _)) = cluster.comings.deadlines.front()
            && *until_ms <= now.mono_ms
            && let Some((until_ms, user)) = cluster.comings.deadlines.pop_front()
        {
            self.comings_listened(&user, until_ms, now);
        }
    }

    /// Goes on with what waits for a user's channel until `until_ms` at the latest: asks, or tells where it still is not heard.
    fn comings_listened(&mut self, user: &str, until_ms: u64, now: Now) {
        let Some(cluster) = &mut self.cluster else { return };
        let hears = cluster.agent.is_listening(&user_channel(user));
        let waits = |step: Step| matches!(step, Step::Listening(at) if at <= until_ms);
        for (room, _) in cluster.comings.of(user).into_iter().filter(|(_, step)| waits(*step)) {
            self.stop_listening(user, &room, hears, now);
        }
    }

    fn stop_listening(&mut self, user: &str, room: &str, hears: bool, now: Now) {
        let is_in = self.has_in(user, Topic::Room, room);
        let Some(coming) = self.cluster.as_mut().and_then(|cluster| cluster.comings.find(user, room)) else { return };
        coming.step = Step::Idle;
        if !hears && coming.undecided == 0 && coming.known != is_in {
            coming.known = is_in;
            let (telling, asked) = (coming.telling, std::mem::take(&mut coming.asked));
            self.connections.counters.rooms_unasked += 1;
            self.tell_coming(user, room, is_in, telling, asked, now);
        }
        self.settle_coming(user, room, now);
    }

    /// Nobody can be asked any more: what is open is told.
    pub(super) fn tell_all_comings(&mut self, now: Now) {
        let users = self.cluster.as_ref().into_iter().flat_map(|cluster| cluster.comings.by_user.keys().cloned());
        for user in users.collect::<Vec<_>>() {
            let rooms = self.cluster.as_ref().map(|cluster| cluster.comings.of(&user)).unwrap_or_default();
            for (room, step) in rooms {
                match step {
                    Step::Idle => {}
                    Step::Listening(_) => self.stop_listening(&user, &room, false, now),
                    Step::Asking { serial, .. } => {
                        self.connections.counters.rooms_unanswered += 1;
                        self.coming_answered(&user, &room, serial, false, now);
                    }
                }
            }
        }
    }

    /// Tells the members of a room, on all nodes, and answers whoever has asked for it.
    fn tell_coming(&mut self, user: &str, room: &str, enters: bool, telling: Telling, asked: Vec<Asked>, now: Now) {
        let usable = self.cluster.as_ref().is_some_and(|cluster| cluster.is_usable(now));
        match telling {
            Telling::Nobody => self.answer_members(room, asked, now),
            Telling::ByBus if usable => {
                let notice = Inquiry::Notice { user, enters }.encode();
                let fate = Fate::Notice { user: user.into(), room: room.into(), enters, asked };
                self.publish_on(&topic_channel(Topic::Room, room), Some(notice), fate, now);
            }
            Telling::ByBus | Telling::ByHome => {
                self.tell_coming_by_home(user, room, enters, now);
                self.answer_members(room, asked, now);
            }
        }
    }

    /// By way of the room's home, which does not hear the room, or not on this shard's bus: it tells those of this node, and others if it can.
    pub(super) fn tell_coming_by_home(&mut self, user: &str, room: &str, enters: bool, now: Now) {
        let home = self.settings.homes.topic(Topic::Room, room);
        if home == self.id {
            self.announce(room, user, enters, now);
        } else if self.relay.waiting_for(home) >= BUS_ENVELOPES_HIGH {
            self.connections.counters.bus_shed += 1;
        } else {
            self.relay.send(home, Envelope::Announce { room: room.into(), user: user.into(), enters }, None);
        }
    }
}
