//! The server API at the shard that is asked: a command becomes orders to the shards it concerns, itself included, and their reports one outcome.
//!
//! Who asks bounds how much is under way ([`COMMANDS_MAX`] here is the last resort); what goes to other shards uses credit like any client's
//! message, so that their queues stay bounded.

use std::collections::{BTreeMap, HashMap};

use crate::cluster::parcel::Target;
use crate::ids::{MessageId, ShardId};
use crate::limits::COMMANDS_MAX;
use crate::protocol::command::{
    Command, ConnectionInfo, Destination, Order, Outcome, Place, Present, Publish, Published, Report, ShardInfo, Tally,
    Traced, Whom,
};
use crate::protocol::envelope::{self, Envelope};
use crate::settings::Addressee;
use crate::shard::Shard;
use crate::shard::cluster::{Elsewhere, Fate};
use crate::shard::event::Action;
use crate::shard::remembered::{Known, Remembered};
use crate::shard::search::Searches;
use crate::time::Now;

/// The commands that wait for reports, and what else the server API needs.
#[derive(Debug, Default)]
pub(super) struct Commands {
    open: HashMap<u32, Gathering>,
    next: u32,
    remembered: Remembered,
    pub(super) searches: Searches,
}

impl Commands {
    /// Commands and orders under way.
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.searches.len()
    }
}

/// A command whose reports come in.
#[derive(Debug)]
struct Gathering {
    /// Who waits: more than one where a message came again while the first was under way.
    tickets: Vec<u64>,
    missing: usize,
    so_far: SoFar,
    idempotency_key: Option<Box<str>>,
}

/// What a command wants of other nodes.
#[derive(Debug)]
enum Also {
    Nothing,
    Ask(Elsewhere),
    /// Publish to everybody; without a parcel there is no way to them.
    Publish(Option<Vec<u8>>),
}

/// The reports so far.
#[derive(Debug)]
enum SoFar {
    Published(MessageId, Tally),
    Connections(u32),
    Unreachable,
    Present(Present),
    Found { rows: Vec<(u64, ConnectionInfo)>, matched: u64, limit: usize },
    Info(Vec<ShardInfo>),
    Traced(Option<(Vec<Traced>, u64)>),
    Probed,
}

impl Shard {
    /// The server API asks for something; [`Action::CommandDone`] answers with the same ticket.
    pub(super) fn command(&mut self, ticket: u64, command: Command, now: Now) {
        if self.commands.open.len() >= COMMANDS_MAX {
            return self.command_done(ticket, Outcome::Busy);
        }
        match command {
            Command::Publish(publish) => self.service_publishes(ticket, *publish, now),
            Command::Disconnect { whom, code, reason } => {
                let (home, also) = match &whom {
                    Whom::User(user) => {
                        let also = self.also(|| Elsewhere::Disconnect(user.clone(), code, reason.clone()));
                        (Some(self.settings.homes.user(user)), also)
                    }
                    Whom::Connection(id) if id.instance == self.settings.instance => {
                        (self.existing(id.connection.shard), Also::Nothing)
                    }
                    Whom::Connection(id) => (None, self.also(|| Elsewhere::Close(*id, code, reason.clone()))),
                };
                let orders = home.map(|home| (home, Order::Disconnect(whom, code, reason))).into_iter().collect();
                self.give(vec![ticket], orders, SoFar::Connections(0), None, also, now);
            }
            Command::Member { user, room, enter } => {
                let home = self.settings.homes.user(&user);
                let also = self.also(|| Elsewhere::Member { user: user.clone(), room: room.clone(), enter });
                let orders = vec![(home, Order::Member { user, room, enter })];
                self.give(vec![ticket], orders, SoFar::Connections(0), None, also, now);
            }
            Command::Presence(place) => {
                let orders = match &place {
                    Place::User(user) => vec![(self.settings.homes.user(user), Order::Presence(place.clone()))],
                    Place::Topic(..) => self.all(&Order::Presence(place.clone())),
                };
                let also = self.also(|| Elsewhere::Presence(place));
                self.give(vec![ticket], orders, SoFar::Present(Present::default()), None, also, now);
            }
            Command::Connections(search) => {
                let so_far = SoFar::Found { rows: Vec::new(), matched: 0, limit: search.limit as usize };
                let orders = match (&search.connection, &search.user) {
                    (Some(id), _) if id.instance != self.settings.instance => {
                        match self.living_node(id.instance, now) {
                            Some(node) => return self.command_done(ticket, Outcome::Elsewhere((*node).into())),
                            None => Vec::new(),
                        }
                    }
                    (Some(id), _) => {
                        let home = self.existing(id.connection.shard);
                        home.map(|home| (home, Order::Find(search))).into_iter().collect()
                    }
                    (None, Some(user)) => vec![(self.settings.homes.user(user), Order::Find(search))],
                    (None, None) => self.all(&Order::Find(search)),
                };
                self.give(vec![ticket], orders, so_far, None, Also::Nothing, now);
            }
            Command::Info { rooms } => {
                let orders = self.all(&Order::Info { rooms });
                self.give(vec![ticket], orders, SoFar::Info(Vec::new()), None, Also::Nothing, now);
            }
            Command::Trace { user, content } => {
                let orders = vec![(self.settings.homes.user(&user), Order::Trace(user, content))];
                self.give(vec![ticket], orders, SoFar::Traced(None), None, Also::Nothing, now);
            }
            Command::Probe { shard } => {
                self.give(vec![ticket], vec![(shard, Order::Probe)], SoFar::Probed, None, Also::Nothing, now);
            }
        }
    }

    fn service_publishes(&mut self, ticket: u64, publish: Publish, now: Now) {
        if let Some(key) = publish.idempotency_key.as_deref() {
            match self.commands.remembered.find(key, now) {
                Some(Known::Done(published)) => return self.command_done(ticket, Outcome::Published(published)),
                Some(Known::UnderWay(number)) => {
                    if let Some(gathering) = self.commands.open.get_mut(&number) {
                        return gathering.tickets.push(ticket);
                    }
                }
                None => {}
            }
        }
        let from = publish.from.as_deref();
        let publication = publish.publication();
        let homes = self.settings.homes.clone();
        let mut also = Also::Nothing;
        let (message_id, orders) = match &publish.to {
            Destination::Users(users) => {
                // The conflation key is one for all of them: each has an outbox of its own.
                let addressee = Addressee::User(users.first().map_or("", |user| user.as_ref()));
                let (frame, id) = self.encode(from, addressee, &publication, now);
                let mut by_home: BTreeMap<ShardId, Vec<Box<str>>> = BTreeMap::new();
                for user in users {
                    by_home.entry(homes.user(user)).or_default().push(user.clone());
                }
                let order = |(home, users)| (home, Order::ToUsers(users, frame.clone(), id));
                (id, by_home.into_iter().map(order).collect())
            }
            Destination::Topic(topic, name) => {
                let (frame, id) = self.encode(from, Addressee::Topic(*topic, name), &publication, now);
                (id, vec![(homes.topic(*topic, name), Order::ToTopic(*topic, name.clone(), frame, id))])
            }
            Destination::All => {
                let (frame, id): (envelope::Publication, _) = self.encode(from, Addressee::All, &publication, now);
                if self.cluster.is_some() {
                    also = Also::Publish(self.parcel(Target::All, &frame, id, None, now));
                }
                (id, self.all(&Order::ToAll(frame)))
            }
        };
        let so_far = SoFar::Published(message_id, Tally::default());
        self.give(vec![ticket], orders, so_far, publish.idempotency_key, also, now);
    }

    /// What is asked of other nodes, where there are any.
    fn also(&self, elsewhere: impl FnOnce() -> Elsewhere) -> Also {
        if self.cluster.is_some() { Also::Ask(elsewhere()) } else { Also::Nothing }
    }

    /// A shard that an id names, if there is one.
    fn existing(&self, shard: ShardId) -> Option<ShardId> {
        Some(shard).filter(|shard| shard.0 < self.settings.homes.shards())
    }

    fn all(&self, order: &Order) -> Vec<(ShardId, Order)> {
        (0..self.settings.homes.shards()).map(|shard| (ShardId(shard), order.clone())).collect()
    }

    /// Gives the orders of one command.
    fn give(
        &mut self,
        tickets: Vec<u64>,
        orders: Vec<(ShardId, Order)>,
        so_far: SoFar,
        idempotency_key: Option<Box<str>>,
        also: Also,
        now: Now,
    ) {
        let number = self.commands.next;
        self.commands.next = number.wrapping_add(1);
        if let Some(key) = &idempotency_key {
            self.commands.remembered.begin(key.clone(), number, now);
        }
        // One more than there are, so that a report that is there at once does not complete it before all orders are given.
        let missing = orders.len() + 1 + usize::from(!matches!(also, Also::Nothing));
        self.commands.open.insert(number, Gathering { tickets, missing, so_far, idempotency_key });
        for (shard, order) in orders {
            // There is no client to stop: who asks has a bounded number of commands under way.
            let _more = self.relay.spend(shard, order.payload_bytes());
            if shard == self.id {
                self.ordered(self.id, number, order, now);
            } else {
                self.relay.send(shard, Envelope::Order { ticket: number, order: Box::new(order) }, None);
            }
        }
        match also {
            Also::Nothing => {}
            Also::Ask(elsewhere) => self.ask_elsewhere(number, &elsewhere, now),
            Also::Publish(parcel) => {
                // Every shard of every node hears it, those of this one included.
                let own = u64::from(self.settings.homes.shards());
                let fate = Fate::Report { to: self.id, number, tally: Tally::default(), own };
                self.publish_to_all(parcel, fate, now);
            }
        }
        self.one_less(number, now);
    }

    /// Another shard, or this one, has carried out an order.
    pub(super) fn reported(&mut self, number: u32, report: Report, now: Now) {
        let Some(gathering) = self.commands.open.get_mut(&number) else { return };
        gathering.so_far.add(report);
        self.one_less(number, now);
    }

    fn one_less(&mut self, number: u32, now: Now) {
        let Some(gathering) = self.commands.open.get_mut(&number) else { return };
        gathering.missing -= 1;
        if gathering.missing > 0 {
            return;
        }
        let Some(gathering) = self.commands.open.remove(&number) else { return };
        let outcome = gathering.so_far.outcome();
        if let (Some(key), Outcome::Published(published)) = (gathering.idempotency_key, &outcome) {
            self.commands.remembered.done(&key, number, *published, now);
        }
        for ticket in gathering.tickets {
            self.command_done(ticket, outcome.clone());
        }
    }

    fn command_done(&mut self, ticket: u64, outcome: Outcome) {
        self.connections.actions.push_back(Action::CommandDone { ticket, outcome: Box::new(outcome) });
    }
}

impl SoFar {
    fn add(&mut self, report: Report) {
        match (self, report) {
            (SoFar::Published(_, tally), Report::Delivered(more)) => tally.add(more),
            (SoFar::Connections(count), Report::Connections(more)) => *count += more,
            (so_far @ SoFar::Connections(_), Report::Unreachable) => *so_far = SoFar::Unreachable,
            (SoFar::Present(all), Report::Present(more)) => {
                all.users.extend(more.users);
                all.census.users += more.census.users;
                all.census.connections += more.census.connections;
                all.elsewhere.extend(more.elsewhere);
            }
            (SoFar::Found { rows, matched, .. }, Report::Found(more, more_matched)) => {
                rows.extend(more);
                *matched += more_matched;
            }
            (SoFar::Info(all), Report::Info(one)) => all.push(*one),
            (SoFar::Traced(traced), Report::Traced(seen)) => *traced = seen,
            (SoFar::Probed, Report::Probed) => {}
            (so_far, report) => debug_assert!(false, "{report:?} is no answer for {so_far:?}"),
        }
    }

    fn outcome(self) -> Outcome {
        match self {
            SoFar::Published(id, tally) => Outcome::Published(Published { id, tally }),
            SoFar::Connections(count) => Outcome::Connections(count),
            SoFar::Unreachable => Outcome::Unreachable,
            SoFar::Present(mut present) => {
                present.settle();
                Outcome::Present(present)
            }
            SoFar::Found { mut rows, matched, limit } => {
                rows.sort_by_key(|(key, info)| (std::cmp::Reverse(*key), info.connection));
                rows.truncate(limit);
                Outcome::Found { connections: rows.into_iter().map(|(_, info)| info).collect(), matched }
            }
            SoFar::Info(mut shards) => {
                shards.sort_by_key(|info| info.shard);
                Outcome::Info(shards)
            }
            SoFar::Traced(Some((events, lost))) => Outcome::Traced(events, lost),
            SoFar::Traced(None) => Outcome::Busy,
            SoFar::Probed => Outcome::Probed,
        }
    }
}
