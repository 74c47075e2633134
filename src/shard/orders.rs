//! The server API at the shards that carry it out.

use crate::cluster::inquiry::Said;
use crate::error::CloseReason;
use crate::ids::ShardId;
use crate::protocol::command::{Order, Place, Present, Report, ShardInfo, Tally, Whom};
use crate::protocol::envelope::{Census, Envelope, Publication, Telling, Then, Topic};
use crate::protocol::reply::Status;
use crate::shard::Shard;
use crate::shard::cluster::Fate;
use crate::shard::presence::Asker;
use crate::shard::relay::Debt;
use crate::shard::routing::target;
use crate::shard::row::State;
use crate::time::Now;

impl Shard {
    /// An order from `from`, which may be this shard.
    pub(super) fn ordered(&mut self, from: ShardId, number: u32, order: Order, now: Now) {
        let debt = self.relay.debt(from, order.payload_bytes());
        let report = match order {
            Order::Member { user, room, enter } => {
                let report = Box::new(Report::Connections(self.set_member(&user, &room, enter, now)));
                let then = Then::Report { to: from, ticket: number, report };
                return self.after_membership(&user, &room, enter, then, Some(debt), now);
            }
            Order::ToUsers(users, publication, message_id) if self.cluster.is_some() => {
                self.send_to_users(&users, &publication, message_id, from, number, now);
                return self.settle(debt, now);
            }
            Order::ToTopic(topic, name, publication, message_id) if self.cluster.is_some() => {
                let parcel = self.parcel(target(topic, &name), &publication, message_id, None, now);
                let own = u64::from(self.hears(topic, &name));
                let tally = self.deliver_to_topic(topic, &name, publication, &debt, now);
                self.publish_to_topic(topic, &name, parcel, Fate::Report { to: from, number, tally, own }, now);
                return self.settle(debt, now);
            }
            Order::ToUsers(users, publication, _) => {
                Report::Delivered(self.deliver_to_users(&users, &publication, now))
            }
            Order::ToTopic(topic, name, publication, _) => {
                Report::Delivered(self.deliver_to_topic(topic, &name, publication, &debt, now))
            }
            Order::ToAll(publication) => Report::Delivered(self.deliver_to_all(publication, now)),
            Order::Disconnect(whom, code, reason) => Report::Connections(self.disconnect(&whom, code, &reason, now)),
            Order::Presence(place) => Report::Present(self.present(&place)),
            Order::Find(search) => return self.find(from, number, &search, debt, now),
            Order::Info { rooms } => Report::Info(Box::new(self.info(rooms as usize, now))),
            Order::Trace(user, content) => Report::Traced(self.take_trace(&user, content, now)),
            Order::Probe => Report::Probed,
        };
        self.report(from, number, report, debt, now);
    }

    /// Tells the shard that gave the order.
    pub(super) fn report(&mut self, to: ShardId, number: u32, report: Report, debt: Debt, now: Now) {
        self.confirm(to, number, report, Some(debt), now);
    }

    /// Goes on by way of the room's home, behind what has just been sent there: whoever hears that a user is in a room reaches them.
    pub(super) fn after_membership(
        &mut self,
        user: &str,
        room: &str,
        enter: bool,
        then: Then,
        debt: Option<Debt>,
        now: Now,
    ) {
        let home = self.settings.homes.topic(Topic::Room, room);
        // Of who is not here, nothing was sent there.
        let concerned = self.users.find(user).is_some();
        if concerned && home != self.id {
            return self.relay.send(home, Envelope::Confirm { room: room.into(), enter, then }, debt);
        }
        if let Some(debt) = debt {
            self.settle(debt, now);
        }
        match concerned {
            true => self.confirm_membership(room, enter, then, now),
            false => self.go_on_with(then, room, false, now),
        }
    }

    /// Does what has waited for a room's home. `local`: other nodes may not know yet.
    pub(super) fn go_on_with(&mut self, then: Then, room: &str, local: bool, now: Now) {
        match then {
            Then::Report { to, ticket, report } => self.confirm(to, ticket, *report, None, now),
            Then::Tell { channel, ticket, connections } => {
                let asker = Asker::Node { channel: channel.into(), ticket };
                self.answer_node(&asker, Said::Connections(connections), now);
            }
            Then::Announce { to, user, enters, reply } => {
                let telling = if local { Telling::ByHome } else { Telling::ByBus };
                self.decide_coming(to, user, room.into(), enters, telling, reply, now);
            }
            Then::Begin { conn } if conn.shard == self.id => self.session_in_room(conn, local, now),
            Then::Begin { conn } => self.relay.send(conn.shard, Envelope::InRoom { conn, local }, None),
        }
    }

    /// Passes an answer on.
    pub(super) fn confirm(&mut self, to: ShardId, number: u32, report: Report, debt: Option<Debt>, now: Now) {
        if to == self.id {
            if let Some(debt) = debt {
                self.settle(debt, now);
            }
            self.reported(number, report, now);
        } else {
            self.relay.send(to, Envelope::Report { ticket: number, report: Box::new(report) }, debt);
        }
    }

    fn deliver_to_users(&mut self, users: &[Box<str>], publication: &Publication, now: Now) -> Tally {
        let mut tally = Tally::default();
        for user in users {
            match self.deliver_to_user(user, publication.clone(), now) {
                Status::Delivered | Status::Stored => tally.delivered += 1,
                Status::Offline => tally.offline += 1,
                Status::Dropped => tally.dropped += 1,
            }
        }
        tally
    }

    /// Counts the connections that are in the topic: those of other shards get it on the way from here.
    fn deliver_to_topic(&mut self, topic: Topic, name: &str, publication: Publication, debt: &Debt, now: Now) -> Tally {
        let census = self.homes.find(topic, name).map(|home| home.census()).unwrap_or_default();
        self.fan_out(topic, name, publication, None, None, Some(debt), now);
        Tally { delivered: census.connections, ..Tally::default() }
    }

    pub(super) fn disconnect(&mut self, whom: &Whom, code: u16, reason: &str, now: Now) -> u32 {
        let slots: Vec<u32> = match whom {
            Whom::User(user) => {
                self.users.find(user).map(|index| self.users.get(index).connections.to_vec()).unwrap_or_default()
            }
            Whom::Connection(conn) => self.connections.find_global(*conn).into_iter().collect(),
        };
        let mut closed = 0;
        for slot in slots {
            if matches!(self.connections.row(slot).state, State::Active | State::Echo | State::Authenticating) {
                self.close_with(slot, CloseReason::Disconnected, Some(code), reason, now);
                closed += 1;
            }
        }
        closed
    }

    /// Puts every connection of a user into a room, or takes it out. Counts those that it changed; one that is in as many rooms and
    /// channels as it may stays out.
    pub(super) fn set_member(&mut self, user: &str, room: &str, enter: bool, now: Now) -> u32 {
        let Some(index) = self.users.find(user) else { return 0 };
        let slots = self.users.get(index).connections.clone();
        let max = self.settings.config.session.max_subscriptions as usize;
        let mut changed = 0;
        for slot in slots {
            let row = self.connections.row(slot);
            if row.state != State::Active {
                continue;
            }
            let inside = self.membership(slot, Topic::Room, room);
            match (enter, inside) {
                (true, None) if (max == 0 || row.memberships.len() < max) && self.knows_or_may(Topic::Room, room) => {
                    self.enter(slot, Topic::Room, room, None, None, now);
                    changed += 1;
                }
                (false, Some(place)) => {
                    self.leave_place(slot, place, None, now);
                    changed += 1;
                }
                _ => {}
            }
        }
        changed
    }

    fn present(&self, place: &Place) -> Present {
        let (users, census) = match place {
            Place::Topic(topic, name) => self.whom_we_have(*topic, name),
            Place::User(user) => match self.users.find(user) {
                Some(index) => {
                    let connections = self.users.get(index).connections.len() as u32;
                    (vec![(user.clone(), connections)], Census { users: 1, connections })
                }
                None => Default::default(),
            },
        };
        Present { users, census, ..Present::default() }
    }

    fn info(&self, rooms: usize, now: Now) -> ShardInfo {
        let mut figures = Vec::with_capacity(96);
        self.held().each(|name, _, value| figures.push(("held", [name, ""], value)));
        self.gauges().each(|name, _, value| figures.push(("gauges", [name, ""], value)));
        self.counters().each(|group, names, _, value| figures.push((group, names, value)));
        self.cluster_figures(&mut figures);
        let (rooms, cluster) = (self.homes.largest(Topic::Room, rooms), self.cluster_info(now));
        ShardInfo { shard: self.id, figures, rooms, cluster }
    }
}
