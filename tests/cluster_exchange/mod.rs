//! Nodes, their shards' exchanges, and a modelled Redis between them: one thread, one virtual clock, one seed. What nodes do besides (leases,
//! rows, connections) is done here in the simplest way that is right; `tests/cluster_model` has the real one.
#![allow(dead_code, unreachable_pub, reason = "a model of one test binary")]

/// Says what happens, for who looks into a seed (`RINGGATE_SIM_TRACE=1`).
macro_rules! trace {
    ($world:expr, $($text:tt)*) => {
        if $world.traces {
            eprintln!("{:>6} {}", $world.now_ms, format!($($text)*));
        }
    };
}

mod arriving;
mod faults;
mod leases;
pub mod ledger;
pub mod node;
pub mod redis;

use ringgate::cluster::agent::{Clock, own_channel};
use ringgate::cluster::exchange::{BROADCAST_CHANNEL, Effect, Here, Letter, Mode, Outgoing};
use ringgate::ids::{MessageId, ShardId};
use ringgate::protocol::reply::Status;

use self::ledger::Ledger;
use self::node::{Node, Shard};
use self::redis::{Command, Connection, Connections, Redis};

pub const LEASE_TTL_MS: u64 = 1_000;
pub const ANSWER_WITHIN_MS: u64 = 1_500;
const NODES: usize = 3;
const USERS: u32 = 6;

pub struct World {
    traces: bool,
    pub now_ms: u64,
    pub mode: Mode,
    pub ledger: Ledger,
    pub nodes: Vec<Node>,
    rng: fastrand::Rng,
    redis: Redis,
    connections: Connections,
    next_connection: u64,
    hangs_until_ms: u64,
    refuses_until_ms: u64,
    /// Connections whose client is gone and whose server has not noticed.
    half_open: Vec<(u64, u64)>,
}

impl World {
    pub fn new(seed: u64, mode: Mode) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let nodes = (0..NODES).map(|index| Node::start(index, mode, &mut rng)).collect();
        World {
            traces: std::env::var_os("RINGGATE_SIM_TRACE").is_some(),
            now_ms: 1_000,
            mode,
            ledger: Ledger::default(),
            nodes,
            rng,
            redis: Redis::default(),
            connections: Connections::new(),
            next_connection: 0,
            hangs_until_ms: 0,
            refuses_until_ms: 0,
            half_open: Vec::new(),
        }
    }

    pub fn run(&mut self, ms: u64, faults: bool, churn: bool) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            // Time goes faster when nothing happens.
            self.now_ms += if churn { self.rng.u64(1..=15) } else { self.rng.u64(10..=40) };
            if faults {
                self.fault();
            }
            if churn {
                self.churn();
            }
            self.notice();
            self.serve();
            for node in 0..NODES {
                self.turn(node);
            }
            self.see_who_is_sure();
        }
    }

    /// Ends all faults; the dead come back.
    pub fn heal(&mut self) {
        (self.hangs_until_ms, self.refuses_until_ms) = (0, 0);
        for node in &mut self.nodes {
            (node.back_at_ms, node.frozen_until_ms) = (node.back_at_ms.map(|_| 0), 0);
        }
        let deaf: Vec<u64> = self.connections.iter().filter(|(_, c)| c.deaf).map(|(id, _)| *id).collect();
        self.cut(|id| deaf.contains(&id));
    }

    /// From every node one message to every user, all answered.
    pub fn send_to_everybody(&mut self) -> Vec<u64> {
        let pairs = (0..NODES).flat_map(|node| (0..USERS).map(move |user| (node, user)));
        pairs.map(|(node, user)| self.send(node, &format!("u{user}"), true)).collect()
    }

    /// The sessions of a user.
    pub fn sessions_of(&self, user: &str) -> Vec<u64> {
        let shards = self.nodes.iter().flat_map(|node| &node.shards);
        shards.filter_map(|shard| shard.sessions.get(user)).map(|session| session.id).collect()
    }

    /// The server notices in the end.
    fn notice(&mut self) {
        for (id, until_ms) in std::mem::take(&mut self.half_open) {
            if until_ms <= self.now_ms {
                self.connections.remove(&id);
            } else {
                self.half_open.push((id, until_ms));
            }
        }
    }

    fn clock(&self) -> Clock {
        Clock { mono_ms: self.now_ms, boot_ms: self.now_ms, unix_ms: 1_790_000_000_000 + self.now_ms }
    }

    fn churn(&mut self) {
        for _ in 0..self.rng.u32(..3) {
            let (node, user) = (self.rng.usize(..NODES), format!("u{}", self.rng.u32(..USERS)));
            if !self.nodes[node].runs(self.now_ms) {
                continue;
            }
            match self.rng.u32(..12) {
                0 => self.come_or_go(node, &user),
                // From another node to this one, at once.
                1 => {
                    let other = self.rng.usize(..NODES);
                    if other != node && self.nodes[other].runs(self.now_ms) && self.nodes[other].has(&user) {
                        self.come_or_go(other, &user);
                        if !self.nodes[node].has(&user) {
                            self.come_or_go(node, &user);
                        }
                    }
                }
                _ => {
                    for _ in 0..self.rng.u32(1..4) {
                        let wants_answer = self.rng.u32(..4) > 0;
                        self.send(node, &user, wants_answer);
                    }
                }
            }
        }
    }

    fn come_or_go(&mut self, node: usize, user: &str) {
        let now_ms = self.now_ms;
        let shard = self.nodes[node].home(user);
        if self.traces {
            eprintln!("{now_ms:>6} {user} comes to or leaves node {node}");
        }
        if shard.sessions.remove(user).is_none() {
            let session = self.ledger.session();
            shard.come(user, session, now_ms);
        }
    }

    fn send(&mut self, node: usize, user: &str, wants_answer: bool) -> u64 {
        let clock = self.clock();
        let shard = self.nodes[node].home(user);
        let id = self.ledger.sent(shard.exchange_id, user, wants_answer, clock.mono_ms);
        let here = if !shard.sessions.contains_key(user) {
            Here::Nobody
        } else if shard.exchange.defers(user) {
            Here::Waits
        } else {
            Here::Took(deliver(shard, user, id, &mut self.ledger, &mut self.rng, false))
        };
        let letter = Letter {
            user: user.into(),
            message_id: MessageId(u128::from(id)),
            class: Default::default(),
            key: None,
            tags: None,
            except_user: None,
            frame: id.to_be_bytes().to_vec().into(),
        };
        shard.exchange.send(Outgoing { letter, here, token: wants_answer.then_some(id) }, clock);
        let shard = shard.number;
        trace!(self, "node {node}.{shard} sends {id} to {user}, here {here:?}");
        self.act(node, shard);
        id
    }

    /// Redis takes some of what has arrived, in any order between connections.
    fn serve(&mut self) {
        if self.now_ms < self.hangs_until_ms {
            return;
        }
        let mut ids: Vec<u64> = self.connections.keys().copied().collect();
        self.rng.shuffle(&mut ids);
        for id in ids {
            for _ in 0..self.rng.usize(..12) {
                let Some(command) = self.connections.get_mut(&id).and_then(|c| c.up.pop_front()) else { break };
                self.redis.run(id, command, &mut self.connections, self.now_ms);
            }
        }
    }

    /// One turn of every shard of a node.
    fn turn(&mut self, node: usize) {
        if self.nodes[node].back_at_ms.is_some_and(|at_ms| at_ms <= self.now_ms) {
            self.nodes[node] = Node::start(node, self.mode, &mut self.rng);
        }
        if !self.nodes[node].runs(self.now_ms) {
            return;
        }
        self.watch_lease(node);
        for shard in 0..self.nodes[node].shards.len() {
            self.connect(node, shard);
            self.arrive(node, shard);
            self.write_rows(node, shard);
            self.follow_link(node, shard);
            let (clock, ticks) = (self.clock(), self.rng.u32(..3) == 0);
            let exchange = &mut self.nodes[node].shards[shard].exchange;
            if ticks {
                exchange.tick(clock);
            }
            exchange.end_turn();
            self.act(node, shard);
        }
    }

    fn connect(&mut self, node: usize, shard: usize) {
        if self.now_ms < self.refuses_until_ms || self.nodes[node].shards[shard].retry_at_ms > self.now_ms {
            return;
        }
        for side in 0..2 {
            if self.nodes[node].shards[shard].sides[side].is_none() {
                self.next_connection += 1;
                self.connections.insert(self.next_connection, Connection::default());
                self.nodes[node].shards[shard].sides[side] = Some(self.next_connection);
                if side == 1 {
                    self.subscribe(node, shard);
                }
            }
        }
    }

    fn subscribe(&mut self, node: usize, shard: usize) {
        let place = &self.nodes[node];
        let own = place.lease.as_ref().map(|lease| own_channel(&place.name, lease.epoch, ShardId(shard as u16)));
        let all = (self.mode == Mode::Broadcast).then(|| BROADCAST_CHANNEL.to_owned());
        let place = &mut self.nodes[node].shards[shard];
        place.subscribed = false;
        if place.sides[1].is_some() {
            place.subscribing += 1;
            let channels = own.into_iter().chain(all).collect();
            self.command(node, shard, 1, Command::Subscribe { channels });
        }
    }

    /// Rows are written under a lease, by a shard that listens.
    fn write_rows(&mut self, node: usize, shard: usize) {
        let place = &self.nodes[node];
        let Some(lease) = place.lease.as_ref().filter(|lease| lease.until_ms > self.now_ms) else { return };
        let (name, epoch) = (place.name.clone(), lease.epoch);
        let place = &mut self.nodes[node].shards[shard];
        if place.sides[0].is_none() || !place.subscribed {
            return;
        }
        let number = shard as u16;
        for (user, put) in place.due_writes() {
            let node_name = name.clone();
            let command = match put {
                true => Command::Put { user, node: node_name, epoch, shard: number },
                false => Command::Delete { user, node: node_name, epoch },
            };
            self.command(node, shard, 0, command);
        }
    }

    fn follow_link(&mut self, node: usize, shard: usize) {
        let clock = self.clock();
        let place = &mut self.nodes[node].shards[shard];
        let up = place.sides.iter().all(Option::is_some) && place.subscribed && (place.up || place.is_announced());
        if up != place.up {
            if self.traces {
                eprintln!("{:>6} node {node}.{shard} up: {up}", self.now_ms);
            }
            place.up = up;
            place.exchange.link_up(up, clock);
        }
    }

    fn act(&mut self, node: usize, shard: usize) {
        while let Some(effect) = self.nodes[node].shards[shard].exchange.next_effect() {
            if let Effect::Find { user } = &effect {
                trace!(self, "node {node}.{shard} looks {user} up");
            }
            let place = &mut self.nodes[node].shards[shard];
            match effect {
                Effect::Publish { ticket, channel, payload } => {
                    if place.sides[0].is_some() {
                        place.publishing.push(ticket);
                        let command = Command::Publish { ticket, channel: channel.to_string(), payload };
                        self.command(node, shard, 0, command);
                    } else {
                        place.exchange.unanswered(&[ticket]);
                    }
                }
                Effect::Find { user } => {
                    if place.sides[0].is_some() {
                        place.finding.push(user.clone());
                        self.command(node, shard, 0, Command::Find { user: user.to_string() });
                    } else {
                        let clock = self.clock();
                        self.nodes[node].shards[shard].exchange.found(&user, None, clock);
                    }
                }
                Effect::Here { ticket, letter } => {
                    let id = letter.message_id.0 as u64;
                    let status = deliver(place, &letter.user, id, &mut self.ledger, &mut self.rng, false);
                    place.exchange.here(ticket, (status != Status::Offline).then_some(status));
                }
                Effect::Settled { token, outcome } => {
                    trace!(self, "node {node}.{shard} settles {token}: {outcome:?}");
                    let user = self.ledger.user_of(token).to_owned();
                    let sure = self.sure_since(&user);
                    self.ledger.settled(token, outcome, sure, self.now_ms);
                }
                Effect::Missing { user } => place.stray(&user),
            }
        }
    }

    fn command(&mut self, node: usize, shard: usize, side: usize, command: Command) {
        let Some(id) = self.nodes[node].shards[shard].sides[side] else { return };
        let connection = self.connections.get_mut(&id).expect("a connection lives while its client does");
        if !connection.cut {
            connection.up.push_back(command);
        }
    }

    /// A user is surely there while a row under a living lease says so.
    fn see_who_is_sure(&mut self) {
        for node in &mut self.nodes {
            let epoch = node.lease.as_ref().map(|lease| lease.epoch);
            let lives = epoch.is_some_and(|epoch| self.redis.has_lease(&node.name, epoch, self.now_ms));
            if !lives {
                node.shards
                    .iter_mut()
                    .flat_map(|shard| shard.sessions.values_mut())
                    .for_each(|s| s.sure_since_ms = None);
            }
        }
    }

    /// Since when a session of this user has surely been there.
    fn sure_since(&self, user: &str) -> Option<u64> {
        let live = self.nodes.iter().filter(|node| {
            let epoch = node.lease.as_ref().map(|lease| lease.epoch);
            epoch.is_some_and(|epoch| self.redis.has_lease(&node.name, epoch, self.now_ms))
        });
        let sessions = live.flat_map(|node| &node.shards).filter_map(|shard| shard.sessions.get(user));
        sessions.filter_map(|session| session.sure_since_ms).min()
    }
}

/// Into the outbox of the user's session on this shard, if there is one; now and then it refuses.
fn deliver(
    shard: &mut Shard,
    user: &str,
    id: u64,
    ledger: &mut Ledger,
    rng: &mut fastrand::Rng,
    remote: bool,
) -> Status {
    let Some(session) = shard.sessions.get(user) else { return Status::Offline };
    let accepted = rng.u32(..12) > 0;
    ledger.offered(id, session.id, user, accepted, remote);
    if accepted { Status::Delivered } else { Status::Dropped }
}
