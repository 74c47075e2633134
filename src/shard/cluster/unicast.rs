//! Messages for users, wherever they are: to their connections here, and through the [exchange](crate::cluster::exchange) to other nodes.

use std::collections::HashMap;
use std::rc::Rc;

use ahash::RandomState;
use bytes::Bytes;

use super::{Cluster, clock};
use crate::cluster::agent::Event as AgentEvent;
use crate::cluster::exchange::{
    BROADCAST_CHANNEL, Counters, Effect, Exchange, Held, Here, Letter, Mode, Outcome, Outgoing, Polled, Settings,
    Verdict,
};
use crate::cluster::link::State as LinkState;
use crate::cluster::nodes;
use crate::cluster::parcel::{Answer, Answers, Label, Origin, Target};
use crate::cluster::registry::Rows;
use crate::cluster::wire;
use crate::config::{Redis, Routing};
use crate::ids::{MessageId, ShardId};
use crate::protocol::command::{Report, Tally};
use crate::protocol::envelope::{Publication, ReplyTo};
use crate::protocol::reply::Status;
use crate::protocol::{ErrorCode, OkFields};
use crate::shard::Shard;
use crate::time::Now;

/// Who wants to know what became of a message for a user.
#[derive(Debug)]
pub(in crate::shard) enum Asker {
    /// The client who sent it.
    Client(ReplyTo, MessageId),
    /// An order of the server API for many users: its number here.
    Order(u32),
}

/// An order for many users whose messages are on their way.
#[derive(Debug)]
struct Order {
    to: ShardId,
    number: u32,
    missing: usize,
    tally: Tally,
}

/// The messages for users that go through the exchange, and who waits for them.
#[derive(Debug)]
pub(super) struct Unicasts {
    exchange: Exchange,
    mode: Mode,
    askers: HashMap<u64, Asker, RandomState>,
    next_token: u64,
    orders: HashMap<u32, Order, RandomState>,
    next_order: u32,
}

impl Unicasts {
    pub(super) fn new(routing: Routing, me: Origin, redis: &Redis, hasher: &RandomState) -> Self {
        let mode = match routing {
            Routing::Broadcast => Mode::Broadcast,
            Routing::Local | Routing::Registry | Routing::Hash => Mode::Registry,
        };
        let settings = Settings::new(mode, me, redis.lease_ttl_ms, redis.timeout_ms);
        let mut exchange = Exchange::new(settings, hasher.clone());
        // Before the first poll there may be any.
        exchange.announcing(true);
        Unicasts {
            exchange,
            mode,
            askers: HashMap::with_hasher(hasher.clone()),
            next_token: 0,
            orders: HashMap::with_hasher(hasher.clone()),
            next_order: 0,
        }
    }

    /// The channels that it has to hear, beside the shard's own.
    pub(super) fn channels(&self) -> &'static [&'static str] {
        match self.mode {
            Mode::Broadcast => &[BROADCAST_CHANNEL],
            Mode::Registry => &[],
        }
    }

    /// What is under way.
    pub(super) fn held(&self) -> Held {
        self.exchange.held()
    }

    /// Whether what comes was published under the lease that holds.
    pub(super) fn listening(&mut self, listens: bool) {
        self.exchange.listening(listens);
    }

    pub(super) fn counters(&self) -> &Counters {
        self.exchange.counters()
    }

    fn token(&mut self, asker: Asker) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.askers.insert(token, asker);
        token
    }
}

impl Shard {
    /// At the home of a user: a message of a client.
    pub(in crate::shard) fn send_to_user(
        &mut self,
        user: &str,
        publication: Publication,
        message_id: MessageId,
        reply: Option<ReplyTo>,
        now: Now,
    ) {
        let asker = reply.map(|reply| Asker::Client(reply, message_id));
        self.send_everywhere(user, publication, message_id, asker, now);
    }

    /// At the home of users: a message of a service.
    pub(in crate::shard) fn send_to_users(
        &mut self,
        users: &[Box<str>],
        publication: &Publication,
        message_id: MessageId,
        to: ShardId,
        number: u32,
        now: Now,
    ) {
        let Some(cluster) = &mut self.cluster else { return };
        let unicasts = &mut cluster.unicasts;
        let order = unicasts.next_order;
        unicasts.next_order = order.wrapping_add(1);
        // One more, so that it does not end before all are sent.
        let missing = users.len() + 1;
        unicasts.orders.insert(order, Order { to, number, missing, tally: Tally::default() });
        for user in users {
            self.send_everywhere(user, publication.clone(), message_id, Some(Asker::Order(order)), now);
        }
        self.one_of_order(order, Tally::default(), now);
    }

    fn send_everywhere(
        &mut self,
        user: &str,
        publication: Publication,
        message_id: MessageId,
        asker: Option<Asker>,
        now: Now,
    ) {
        let Publication { frame, class, key, tags, accepted_us } = publication;
        let frame = Bytes::from(frame);
        // Who is not here cannot be given anything too early.
        let defers = self.users.find(user).is_some()
            && self.cluster.as_ref().is_some_and(|cluster| cluster.unicasts.exchange.defers(user));
        let here = match defers {
            true => Here::Waits,
            false => match self.deliver_frame_to_user(user, frame.clone(), class, key, accepted_us, now) {
                Status::Offline => Here::Nobody,
                status => Here::Took(status),
            },
        };
        let Some(cluster) = &mut self.cluster else { return };
        let token = asker.map(|asker| cluster.unicasts.token(asker));
        let letter = Letter { user: Rc::from(user), message_id, class, key, tags, except_user: None, frame };
        cluster.unicasts.exchange.send(Outgoing { letter, here, token }, clock(now));
    }

    /// Does what the exchange has decided.
    pub(super) fn pump_unicasts(&mut self, now: Now) {
        while let Some(effect) = self.cluster.as_mut().and_then(|cluster| cluster.unicasts.exchange.next_effect()) {
            match effect {
                Effect::Publish { ticket, channel, payload } => {
                    self.connections.counters.bus_published += 1;
                    self.ask_bus(wire::Outgoing::Publish { ticket, channel, payload });
                }
                Effect::Find { user } => self.ask_bus(wire::Outgoing::Find { user }),
                Effect::Here { ticket, letter } => {
                    let Letter { user, class, key, frame, .. } = &*letter;
                    let status = self.deliver_frame_to_user(user, frame.clone(), *class, *key, None, now);
                    let status = Some(status).filter(|status| *status != Status::Offline);
                    self.on_exchange(|exchange| exchange.here(ticket, status));
                }
                Effect::Settled { token, outcome } => self.unicast_settled(token, outcome, now),
                Effect::Missing { user } => self.tell_agent(AgentEvent::UserMissing(&user), now),
            }
        }
    }

    fn on_exchange(&mut self, f: impl FnOnce(&mut Exchange)) {
        if let Some(cluster) = &mut self.cluster {
            f(&mut cluster.unicasts.exchange);
        }
    }

    fn unicast_settled(&mut self, token: u64, outcome: Outcome, now: Now) {
        let Some(asker) = self.cluster.as_mut().and_then(|cluster| cluster.unicasts.askers.remove(&token)) else {
            return;
        };
        match (asker, outcome) {
            (Asker::Client(reply, message_id), Outcome::Known(status)) => {
                let fields = OkFields { message_id: Some(message_id), status: Some(status), ..OkFields::default() };
                self.reply(Some(reply), &fields, None, now);
            }
            (Asker::Client(reply, _), Outcome::Unavailable(_)) => {
                let text = "the user could not be reached on other nodes, or it is not known whether they were";
                self.refuse_request(&reply, ErrorCode::Unavailable, text, now);
            }
            (Asker::Order(order), outcome) => {
                let mut tally = Tally::default();
                match outcome {
                    Outcome::Known(Status::Delivered | Status::Stored) => tally.delivered = 1,
                    Outcome::Known(Status::Offline) => tally.offline = 1,
                    Outcome::Known(Status::Dropped) => tally.dropped = 1,
                    Outcome::Unavailable(_) => tally.unavailable = 1,
                }
                self.one_of_order(order, tally, now);
            }
        }
    }

    fn one_of_order(&mut self, number: u32, tally: Tally, now: Now) {
        let Some(cluster) = &mut self.cluster else { return };
        let Some(order) = cluster.unicasts.orders.get_mut(&number) else { return };
        order.tally.add(tally);
        order.missing -= 1;
        if order.missing == 0
            && let Some(order) = cluster.unicasts.orders.remove(&number)
        {
            self.confirm(order.to, order.number, Report::Delivered(order.tally), None, now);
        }
    }

    /// A message for a user has come from another node.
    pub(super) fn unicast_arrived(&mut self, channel: &str, label: &Label<'_>, frame: &[u8], now: Now) {
        let Target::User(user) = label.to else { return };
        let at_home = self.settings.homes.user(user) == self.id;
        let Some(Cluster { unicasts, .. }) = self.cluster.as_deref_mut() else { return };
        if unicasts.mode == Mode::Broadcast && !at_home {
            return unicasts.exchange.overheard(channel.as_bytes(), label, clock(now));
        }
        match unicasts.exchange.message(channel.as_bytes(), label, clock(now)) {
            Verdict::Deliver => {
                let frame = Bytes::copy_from_slice(frame);
                let answer = match self.deliver_frame_to_user(user, frame, label.class, label.key, None, now) {
                    Status::Delivered | Status::Stored => Answer::Delivered,
                    Status::Dropped => Answer::Dropped,
                    Status::Offline => Answer::Moved,
                };
                self.on_exchange(|exchange| exchange.delivered(label, answer));
            }
            Verdict::Answered | Verdict::Discarded(_) => {}
        }
    }

    /// Other shards have said what became of messages.
    pub(super) fn answers_arrived(&mut self, answers: &Answers<'_>, now: Now) {
        self.on_exchange(|exchange| exchange.answers(answers, clock(now)));
    }

    pub(super) fn user_found(&mut self, user: &Rc<str>, rows: Option<Rows>, now: Now) {
        self.on_exchange(|exchange| exchange.found(user, rows, clock(now)));
    }

    pub(super) fn routes_changed(&mut self, users: &[Rc<str>]) {
        self.on_exchange(|exchange| users.iter().for_each(|user| exchange.invalidated(user)));
    }

    pub(super) fn all_routes_changed(&mut self, now: Now) {
        self.on_exchange(|exchange| exchange.invalidated_all(clock(now)));
    }

    pub(super) fn unicast_published(&mut self, ticket: u64, heard: Option<u64>, now: Now) {
        self.on_exchange(|exchange| exchange.published(ticket, heard, clock(now)));
    }

    pub(super) fn unicasts_unanswered(&mut self, tickets: &[u64]) {
        self.on_exchange(|exchange| exchange.unanswered(tickets));
    }

    /// The leases were read.
    pub(super) fn leases_read(&mut self, leases: &[nodes::Polled], asked_ms: u64, now: Now) {
        let polled = leases.iter().map(|lease| Polled {
            node: &lease.node,
            epoch: lease.epoch,
            until_ms: u64::try_from(lease.remaining_ms).ok().filter(|ms| *ms > 0).map(|ms| asked_ms + ms),
            shards: lease.about.shards,
        });
        let own = self.settings.instance;
        let announcing = leases.iter().any(|l| l.remaining_ms > 0 && l.about.announcing && l.instance != own);
        self.on_exchange(|exchange| {
            exchange.nodes(polled, asked_ms, clock(now));
            exchange.announcing(announcing);
        });
    }

    /// The link or the lease is another one.
    pub(super) fn stands(&mut self, now: Now) {
        let Some(Cluster { agent, unicasts, .. }) = self.cluster.as_deref_mut() else { return };
        unicasts.exchange.standing(agent.standing(), clock(now));
        unicasts.exchange.listening(agent.listens());
        unicasts.exchange.link_up(agent.state() == LinkState::Up, clock(now));
    }

    pub(super) fn tick_unicasts(&mut self, now: Now) {
        self.on_exchange(|exchange| exchange.tick(clock(now)));
    }

    /// The driver's turn ends: what has gathered in it goes out.
    pub fn end_turn(&mut self, now: Now) {
        self.on_exchange(Exchange::end_turn);
        self.pump_cluster(now);
    }
}
