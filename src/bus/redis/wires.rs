//! The two Redis connections of one shard, for its [agent](crate::cluster::agent): actions in, what arrives out.
//!
//! The driver calls [`Wires::act`] for each action, [`Wires::flush`] when there is none left, and waits in [`Wires::poll_next`] beside whatever
//! else it waits for. Nothing here decides anything; an answer that says that a connection is of no use becomes its end.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use redis::Cmd;

pub use complaint::Complaint;

use super::connect::Plug;
use super::mailbox::Mailbox;
use super::open::{OpenError, Opened, Opening};
use super::pipeline::Pipeline;
use super::pubsub::Subscriber;
use super::scripts::{Scripts, Stamp};
use super::target::{Address, Target};
use super::trouble::Trouble;
use crate::cluster::agent::{Action, Event, probe_channel};
use crate::cluster::lease;
use crate::cluster::link::{Side, State};
use crate::cluster::nodes::About;
use crate::cluster::registry::Row;
use crate::cluster::registry::wants::{Op, Write, WriteId};
use crate::cluster::wire::{Grave, Incoming, Outgoing};
use crate::ids::ShardId;

mod arrivals;
mod complaint;

/// Users of a dead node that are named at a time.
const REAP_BATCH: usize = 200;

/// What the wires of a shard are made from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where Redis is, and as whom to come.
    pub target: Target,
    /// Its addresses, tried in turn.
    pub addresses: Vec<Address>,
    /// `redis.prefix`.
    pub prefix: String,
    /// `redis.entry_ttl`.
    pub entry_ttl_ms: u64,
    /// `redis.lease_ttl`.
    pub lease_ttl_ms: u64,
    /// The number drawn at the start of this process.
    pub instance: u32,
    /// What the node says of itself.
    pub about: About,
    /// What the connections are called in `CLIENT LIST`.
    pub name: String,
    /// Whose wires they are.
    pub shard: ShardId,
}

/// How long the key lives that shows that this server can be written to.
const WRITABLE_TTL_MS: u64 = 1_000;

/// What a reply over the connection for commands answers.
#[derive(Debug)]
enum Token {
    Row {
        id: WriteId,
        user: Rc<str>,
    },
    Lease {
        ticket: u64,
        ask: lease::Ask,
    },
    Leases {
        asked_ms: u64,
    },
    Publish {
        ticket: u64,
    },
    Find {
        user: Rc<str>,
    },
    Sample {
        grave: Grave,
    },
    Remove {
        grave: Grave,
        user: Rc<str>,
    },
    Load {
        last: bool,
    },
    /// Probes and the index: only an error of theirs is of interest.
    Other,
}

/// One of the two connections.
#[derive(Debug)]
enum Line<C> {
    Off,
    Opening(Plug),
    On(C),
}

/// How an attempt to connect has ended.
#[derive(Debug)]
struct Attempt {
    side: Side,
    number: u64,
    result: Result<Opened, OpenError>,
}

/// The two connections of one shard.
#[derive(Debug)]
pub struct Wires {
    plan: Plan,
    scripts: Scripts,
    commands: Line<Pipeline<Token>>,
    subscriber: Line<Subscriber<WriteId>>,
    /// How often a side was given up: what was opened for an earlier attempt is thrown away.
    attempts: [u64; 2],
    opened: Rc<Mailbox<Attempt>>,
    next_address: usize,
    rows: Vec<(Write, Row, u64)>,
    channels: Vec<Write>,
    ready: VecDeque<Incoming>,
    loading: bool,
    probe_channel: String,
    /// What was complained of since the link was up.
    complained: Vec<&'static str>,
    complaints: VecDeque<Complaint>,
}

impl Wires {
    /// Wires that are not connected; the agent asks for that.
    pub fn new(plan: Plan) -> Self {
        Wires {
            scripts: Scripts::new(&plan.prefix),
            probe_channel: probe_channel(plan.instance, plan.shard),
            plan,
            commands: Line::Off,
            subscriber: Line::Off,
            attempts: [0; 2],
            opened: Rc::new(Mailbox::new()),
            next_address: 0,
            rows: Vec::new(),
            channels: Vec::new(),
            ready: VecDeque::new(),
            loading: false,
            complained: Vec::new(),
            complaints: VecDeque::new(),
        }
    }

    /// Where Redis is now; names are resolved elsewhere.
    pub fn set_addresses(&mut self, addresses: Vec<Address>) {
        self.plan.addresses = addresses;
    }

    /// Carries out what a shard asks for, at `now_ms`.
    pub fn carry_out(&mut self, outgoing: Outgoing, now_ms: u64) {
        match outgoing {
            Outgoing::Agent(action) => self.act(action, now_ms),
            Outgoing::Publish { ticket, channel, payload } => self.publish(ticket, &channel, &payload, now_ms),
            Outgoing::Find { user } => self.find(&user, now_ms),
            Outgoing::PollLeases { asked_ms } => self.poll_leases(asked_ms, now_ms),
            Outgoing::Sample { grave } => self.sample(grave, now_ms),
            Outgoing::Remove { grave, users } => self.remove(&grave, &users, now_ms),
            Outgoing::Retire => self.plan.about.weight = 0,
            Outgoing::Announced => self.plan.about.announcing = false,
            Outgoing::Bury { node, epoch } => {
                let call = self.scripts.lease_reap(&node, epoch);
                self.send(Token::Other, &call, now_ms);
            }
        }
    }

    /// Carries out an action of the agent at `now_ms`; those that are for others (told, settled, changed) are none of its business.
    pub fn act(&mut self, action: Action, now_ms: u64) {
        match action {
            Action::Connect(side) => self.connect(side),
            Action::Drop(side, _) => self.give_up(side),
            Action::Row { write, row, lease_ends_ms } => self.rows.push((write, row, lease_ends_ms)),
            Action::Channel(write) => self.channels.push(write),
            Action::Lease(command) => {
                self.plan.about.announcing |= matches!(command.kind, lease::Ask::Acquire { .. });
                let (about, ttl_ms) = (&self.plan.about, self.plan.lease_ttl_ms);
                let call = self.scripts.lease(&command, self.plan.instance, ttl_ms, about);
                self.send(Token::Lease { ticket: command.ticket, ask: command.kind }, &call, now_ms);
            }
            Action::Probe { nonce } => {
                let channel = format!("{}{}", self.plan.prefix, self.probe_channel);
                self.send(Token::Other, redis::cmd("PUBLISH").arg(channel).arg(nonce), now_ms);
            }
            Action::Changed(State::Up) => self.complained.clear(),
            Action::Changed(State::Down | State::Resync)
            | Action::Standing(_)
            | Action::UserSettled { .. }
            | Action::ChannelSettled { .. }
            | Action::LeaseChanged(_) => {}
        }
    }

    /// Sends the rows and channels that have gathered. The index of a shard's users is written before the rows that it must cover, and
    /// cleared after those that it need not cover any more.
    pub fn flush(&mut self, now_ms: u64) {
        let rows = std::mem::take(&mut self.rows);
        self.index("SADD", Op::Put, &rows, now_ms);
        for (Write { id, op, name: user, confirmed }, row, lease_ends_ms) in &rows {
            let stamp = Stamp { serial: id.serial(), lease_ends_ms: *lease_ends_ms, confirmed: *confirmed };
            let call = match op {
                Op::Put => self.scripts.row_put(user, row, self.plan.entry_ttl_ms, stamp),
                Op::Delete => self.scripts.row_delete(user, row, stamp),
            };
            self.send(Token::Row { id: *id, user: user.clone() }, &call, now_ms);
        }
        self.index("SREM", Op::Delete, &rows, now_ms);

        let channels = std::mem::take(&mut self.channels);
        if let Line::On(subscriber) = &self.subscriber {
            let named = |op| {
                let chosen = channels.iter().filter(move |write| write.op == op);
                chosen.map(|write| (write.id, format!("{}{}", self.plan.prefix, write.name)))
            };
            subscriber.subscribe(named(Op::Put), now_ms);
            subscriber.unsubscribe(named(Op::Delete), now_ms);
        }
    }

    /// Publishes to a channel (without the prefix). Without a connection the answer is [`Incoming::Unanswered`] at once.
    pub fn publish(&mut self, ticket: u64, channel: &str, payload: &[u8], now_ms: u64) {
        if let Line::On(_) = self.commands {
            let channel = format!("{}{channel}", self.plan.prefix);
            self.send(Token::Publish { ticket }, redis::cmd("PUBLISH").arg(channel).arg(payload), now_ms);
        } else {
            self.ready.push_back(Incoming::Unanswered(vec![ticket]));
        }
    }

    /// Reads a user's rows, and has changes of them told.
    pub fn find(&mut self, user: &Rc<str>, now_ms: u64) {
        if let Line::On(_) = self.commands {
            let call = self.scripts.row_find(user);
            // Of the next command alone.
            self.send(Token::Other, redis::cmd("CLIENT").arg("CACHING").arg("YES"), now_ms);
            self.send(Token::Find { user: user.clone() }, &call, now_ms);
        } else {
            self.ready.push_back(Incoming::Found { user: user.clone(), rows: None });
        }
    }

    /// Reads all leases. `asked_ms` comes back with the answer: how long they live is reckoned from it.
    pub fn poll_leases(&mut self, asked_ms: u64, now_ms: u64) {
        let call = self.scripts.lease_list();
        self.send(Token::Leases { asked_ms }, &call, now_ms);
    }

    fn sample(&mut self, grave: Grave, now_ms: u64) {
        if let Line::On(_) = self.commands {
            let index = self.scripts.keys().index(&grave.node, grave.epoch, grave.shard);
            let mut command = redis::cmd("SRANDMEMBER");
            command.arg(index).arg(REAP_BATCH);
            self.send(Token::Sample { grave }, &command, now_ms);
        } else {
            self.ready.push_back(Incoming::Sampled { grave, users: None });
        }
    }

    /// The rows first, the index that finds them ([`Wires::removed`]) when they are gone: one that stayed would be nobody's any more, and yet
    /// count as its user's.
    fn remove(&mut self, grave: &Grave, users: &[Rc<str>], now_ms: u64) {
        for user in users {
            let call = self.scripts.row_reap(user, &grave.node, grave.epoch);
            self.send(Token::Remove { grave: grave.clone(), user: user.clone() }, &call, now_ms);
        }
    }

    fn removed(&mut self, grave: &Grave, user: &str, now_ms: u64) {
        let mut command = redis::cmd("SREM");
        command.arg(self.scripts.keys().index(&grave.node, grave.epoch, grave.shard)).arg(user);
        self.send(Token::Other, &command, now_ms);
    }

    /// The next thing to say in the log: once per kind until the link is up again.
    pub fn next_complaint(&mut self) -> Option<Complaint> {
        self.complaints.pop_front()
    }

    /// How long the oldest unanswered command or subscription has waited.
    pub fn oldest_unanswered_ms(&self, now_ms: u64) -> Option<u64> {
        match &self.commands {
            Line::On(commands) => commands.oldest_unanswered_ms(now_ms),
            Line::Off | Line::Opening(_) => None,
        }
    }

    /// Commands without an answer.
    pub fn unanswered(&self) -> usize {
        match &self.commands {
            Line::On(commands) => commands.unanswered(),
            Line::Off | Line::Opening(_) => 0,
        }
    }

    /// What arrives next; to be dropped at any time.
    pub async fn next(&mut self, now_ms: u64) -> Incoming {
        poll_fn(|cx| self.poll_next(now_ms, cx)).await
    }

    /// As [`Wires::next`]. Whoever polls is woken when there is more.
    pub fn poll_next(&mut self, now_ms: u64, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            if let Some(incoming) = self.ready.pop_front() {
                return Poll::Ready(incoming);
            }
            if let Poll::Ready(attempt) = self.opened.poll_take(cx) {
                self.opened(attempt);
                continue;
            }
            if let Line::On(commands) = &self.commands
                && let Poll::Ready(arrival) = commands.poll_next(cx)
            {
                self.command_arrived(arrival, now_ms);
                continue;
            }
            if let Line::On(subscriber) = &self.subscriber
                && let Poll::Ready(arrival) = subscriber.poll_next(cx)
            {
                self.subscriber_arrived(arrival);
                continue;
            }
            return Poll::Pending;
        }
    }

    fn connect(&mut self, side: Side) {
        let address = self.plan.addresses.get(self.next_address % self.plan.addresses.len().max(1)).cloned();
        self.next_address += 1;
        let setup = match side {
            Side::Commands => {
                let mut setup = self.scripts.load();
                let mut tracking = redis::cmd("CLIENT");
                // Only what is looked up is tracked, not every row that a script reads; and what this connection changes itself it knows.
                tracking.arg("TRACKING").arg("ON").arg("OPTIN").arg("NOLOOP");
                setup.push(tracking);
                // A replica, or a server without memory, would take the connection and refuse the first write, over and over.
                let mut write = redis::cmd("SET");
                write.arg(self.scripts.keys().writable()).arg(1).arg("PX").arg(WRITABLE_TTL_MS);
                setup.push(write);
                setup
            }
            Side::Subscriber => Vec::new(),
        };
        let Some(address) = address else {
            return self.ready.push_back(Incoming::Agent(Event::Refused(side)));
        };
        match Opening::begin(&self.plan.target, &address, &self.plan.name, setup) {
            Err(error) => {
                self.complain("open", Complaint::Open(side, error.into()));
                self.ready.push_back(Incoming::Agent(Event::Refused(side)));
            }
            Ok(opening) => {
                let (number, opened, plug) = (self.attempts[side as usize], self.opened.clone(), opening.plug());
                match side {
                    Side::Commands => self.commands = Line::Opening(plug),
                    Side::Subscriber => self.subscriber = Line::Opening(plug),
                }
                monoio::spawn(async move {
                    let result = opening.finish().await;
                    opened.put(Attempt { side, number, result }, 0);
                });
            }
        }
    }

    fn opened(&mut self, Attempt { side, number, result }: Attempt) {
        if number != self.attempts[side as usize] {
            return;
        }
        let event = match result {
            Ok(opened) => {
                match side {
                    Side::Commands => self.commands = Line::On(Pipeline::start(opened)),
                    Side::Subscriber => self.subscriber = Line::On(Subscriber::start(opened)),
                }
                Event::Connected(side)
            }
            Err(error) => {
                let kind = error.trouble().map_or("open", Trouble::name);
                self.complain(kind, Complaint::Open(side, error));
                Event::Refused(side)
            }
        };
        self.ready.push_back(Incoming::Agent(event));
    }

    /// Forgets a connection, with what was gathered for it. Its tasks end by themselves.
    fn give_up(&mut self, side: Side) {
        self.attempts[side as usize] += 1;
        match side {
            Side::Commands => {
                self.rows.clear();
                self.loading = false;
                match std::mem::replace(&mut self.commands, Line::Off) {
                    Line::Off => {}
                    Line::Opening(plug) => plug.pull(),
                    Line::On(commands) => self.hand_back(commands.abandon()),
                }
                self.ready.push_back(Incoming::InvalidatedAll);
            }
            Side::Subscriber => {
                self.channels.clear();
                if let Line::Opening(plug) = std::mem::replace(&mut self.subscriber, Line::Off) {
                    plug.pull();
                }
            }
        }
    }

    /// Answers what others than the agent wait for. The agent knows by itself.
    fn hand_back(&mut self, unanswered: Vec<Token>) {
        let mut publishes = Vec::new();
        for token in unanswered {
            match token {
                Token::Publish { ticket } => publishes.push(ticket),
                Token::Find { user } => self.ready.push_back(Incoming::Found { user, rows: None }),
                Token::Sample { grave } => self.ready.push_back(Incoming::Sampled { grave, users: None }),
                Token::Remove { grave, user } => {
                    self.ready.push_back(Incoming::Removed { node: grave.node, user });
                }
                Token::Row { .. } | Token::Lease { .. } | Token::Leases { .. } | Token::Load { .. } | Token::Other => {}
            }
        }
        if !publishes.is_empty() {
            self.ready.push_back(Incoming::Unanswered(publishes));
        }
    }

    fn send(&mut self, token: Token, command: &Cmd, now_ms: u64) {
        // Without a connection it is lost like anything that was under way when it ended; the agent does not ask then.
        if let Line::On(commands) = &self.commands {
            commands.send(token, command, now_ms);
        }
    }

    fn index(&mut self, verb: &str, op: Op, rows: &[(Write, Row, u64)], now_ms: u64) {
        let mut chosen = rows.iter().filter(|(write, ..)| write.op == op).peekable();
        if let Some((_, row, _)) = chosen.peek() {
            let mut command = redis::cmd(verb);
            command.arg(self.scripts.keys().index(&row.node, row.epoch, row.shard));
            chosen.for_each(|(write, ..)| {
                command.arg(&*write.name);
            });
            self.send(Token::Other, &command, now_ms);
        }
    }
}
