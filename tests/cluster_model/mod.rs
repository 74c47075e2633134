//! Nodes, their shards' agents, and the network between them and a modelled Redis: one thread, one virtual clock, one seed.
#![allow(dead_code, unreachable_pub, reason = "a model of one test binary")]

pub mod redis;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ringgate::cluster::agent::{Action, Agent, Clock, Event, Identity};
use ringgate::cluster::lease::Lease;
use ringgate::cluster::link::Side;
use ringgate::cluster::registry::wants::{Op, Pace};
use ringgate::ids::ShardId;

use self::redis::{Command, Redis, Reply, Stamp};

const NODES: usize = 3;
const SHARDS: u16 = 2;
const STEP_MS: u64 = 20;
const USERS: u32 = 40;
const ROOMS: u32 = 10;
pub const LEASE_TTL_MS: u64 = 10_000;

/// Where a user is: user, node, epoch, shard.
pub type Place = (String, String, u64, u16);

pub struct World {
    pub now_ms: u64,
    /// Commands that Redis has carried out.
    pub commands: u64,
    rng: fastrand::Rng,
    redis: Redis,
    nodes: Vec<Node>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    refuses_until_ms: u64,
    hangs_until_ms: u64,
    /// Redis never forgets anything.
    remembers: bool,
}

struct Node {
    name: String,
    instance: u32,
    /// Dead until then.
    back_at_ms: Option<u64>,
    /// Stopped until then.
    frozen_until_ms: u64,
    shards: Vec<Shard>,
}

pub struct Shard {
    pub agent: Agent,
    sessions: BTreeSet<String>,
    rooms: BTreeSet<String>,
    /// The connections of this shard, by side.
    sides: [Option<u64>; 2],
    /// Attempts that will be refused.
    refused: Vec<Side>,
}

/// One connection: what is on its way in both directions.
#[derive(Default)]
pub struct Connection {
    greeted: bool,
    up: VecDeque<Command>,
    pub down: VecDeque<Reply>,
    /// The server's end is gone; what was on its way down may still arrive.
    cut: bool,
    /// Nothing published reaches it any more.
    pub deaf: bool,
    pub channels: BTreeSet<String>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::begin(seed, false)
    }

    /// With a Redis that never forgets anything, and nodes that all have names of their own.
    pub fn remembering(seed: u64) -> Self {
        Self::begin(seed, true)
    }

    fn begin(seed: u64, remembers: bool) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let mut world = World {
            now_ms: 1_000,
            commands: 0,
            rng,
            redis: Redis::default(),
            nodes: Vec::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            refuses_until_ms: 0,
            hangs_until_ms: 0,
            remembers,
        };
        // In some worlds two nodes were given the same name.
        let twins = world.rng.u32(..5) == 0 && !remembers;
        for index in 0..NODES {
            let name = if twins && index == 1 { "node-0".to_owned() } else { format!("node-{index}") };
            let node = world.start(name);
            world.nodes.push(node);
        }
        world
    }

    /// What services were told of each user, in order: `true` for coming.
    pub fn events(&self) -> &BTreeMap<String, Vec<bool>> {
        &self.redis.events
    }

    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub fn shards(&self) -> impl Iterator<Item = (usize, &Shard)> {
        self.nodes.iter().enumerate().flat_map(|(index, node)| node.shards.iter().map(move |shard| (index, shard)))
    }

    /// Rows under a living lease.
    pub fn live_rows(&self) -> BTreeSet<Place> {
        self.redis.live_rows(self.now_ms)
    }

    /// What the rows should be.
    pub fn sessions(&self) -> BTreeSet<Place> {
        let mut places = BTreeSet::new();
        for (_, shard) in self.shards() {
            let Some(standing) = shard.agent.standing() else { continue };
            let number = self.number(shard);
            places
                .extend(shard.sessions.iter().map(|u| (u.clone(), standing.node.to_string(), standing.epoch, number)));
        }
        places
    }

    /// What each shard's connection is subscribed to.
    pub fn heard(&self) -> Vec<BTreeSet<String>> {
        self.shards().map(|(_, shard)| self.connections[&shard.sides[1].unwrap()].channels.clone()).collect()
    }

    /// What it should be.
    pub fn wanted(&self) -> Vec<BTreeSet<String>> {
        let of = |shard: &Shard| {
            let standing = shard.agent.standing().unwrap();
            let own =
                ringgate::cluster::agent::own_channel(&standing.node, standing.epoch, ShardId(self.number(shard)));
            shard.rooms.iter().cloned().chain([own, shard.agent.probe_channel().to_owned()]).collect()
        };
        self.shards().map(|(_, shard)| of(shard)).collect()
    }

    /// Ends all faults; the dead come back.
    pub fn heal(&mut self) {
        self.redis.full = false;
        (self.refuses_until_ms, self.hangs_until_ms) = (0, 0);
        for node in &mut self.nodes {
            node.frozen_until_ms = 0;
            node.back_at_ms = node.back_at_ms.map(|_| 0);
        }
    }

    pub fn run(&mut self, ms: u64, faults: bool) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.now_ms += STEP_MS;
            if faults {
                self.fault();
                self.churn();
            }
            self.revive();
            self.serve();
            if self.rng.u32(..50) == 0 && self.now_ms >= self.hangs_until_ms {
                self.redis.reap(self.now_ms);
            }
            for node in 0..self.nodes.len() {
                if self.nodes[node].back_at_ms.is_none() && self.nodes[node].frozen_until_ms <= self.now_ms {
                    self.turn(node);
                }
            }
        }
    }

    /// A user opens a connection and closes it in the same turn.
    pub fn come_and_go(&mut self) {
        let user = format!("guest-{}", self.rng.u32(..));
        let clock = self.clock();
        let shard = &mut self.nodes[0].shards[0];
        shard.agent.handle(Event::UserCame(&user), clock);
        shard.agent.handle(Event::UserLeft(&user), clock);
    }

    /// So many users open connections, to all nodes by turns.
    pub fn come(&mut self, count: usize) -> Vec<String> {
        let clock = self.clock();
        let users: Vec<String> = (0..count).map(|number| format!("comer-{number}")).collect();
        for (number, user) in users.iter().enumerate() {
            let shard = &mut self.nodes[number % NODES].shards[0];
            shard.agent.handle(Event::UserCame(user), clock);
            shard.sessions.insert(user.clone());
        }
        users
    }

    /// These close them.
    pub fn leave(&mut self, users: &[String]) {
        let clock = self.clock();
        for shard in self.nodes.iter_mut().flat_map(|node| &mut node.shards) {
            for user in users.iter().filter(|user| shard.sessions.remove(*user)) {
                shard.agent.handle(Event::UserLeft(user), clock);
            }
        }
    }

    /// Redis forgets everything; its connections are left alone.
    pub fn forget(&mut self) {
        self.redis.forget();
    }

    fn number(&self, shard: &Shard) -> u16 {
        let (_, number) = shard.agent.probe_channel().rsplit_once(':').unwrap();
        number.parse().unwrap()
    }

    fn clock(&self) -> Clock {
        Clock { mono_ms: self.now_ms, boot_ms: self.now_ms, unix_ms: 1_790_000_000_000 + self.now_ms }
    }

    fn start(&mut self, name: String) -> Node {
        let instance = self.rng.u32(..);
        let pace = Pace { batch_size: 16, batch_delay_ms: 5, unanswered_max: 32, renew_every_ms: 20_000 };
        let shards = (0..SHARDS).map(|shard| {
            let identity = Identity {
                shard: ShardId(shard),
                instance,
                timeout_ms: 1_000,
                rows: pace,
                channels: Pace { renew_every_ms: 0, ..pace },
            };
            let lease = (shard == 0).then(|| Lease::new(&name, LEASE_TTL_MS, self.rng.u64(..)));
            let hasher = ahash::RandomState::with_seeds(1, 2, 3, u64::from(instance));
            Shard {
                agent: Agent::new(&identity, lease, self.rng.u64(..), hasher),
                sessions: BTreeSet::new(),
                rooms: BTreeSet::new(),
                sides: [None; 2],
                refused: Vec::new(),
            }
        });
        let shards = shards.collect();
        Node { name, instance, back_at_ms: None, frozen_until_ms: 0, shards }
    }

    fn fault(&mut self) {
        let until = self.now_ms + self.rng.u64(100..8_000);
        match self.rng.u32(..400) {
            0 => self.hangs_until_ms = until,
            1 => {
                self.refuses_until_ms = until;
                self.cut(|_| true);
            }
            2 | 3 if self.remembers => {}
            // Restarted empty.
            2 => {
                self.redis.forget();
                self.redis.full = false;
                self.cut(|_| true);
            }
            // Flushed, with its connections left alone.
            3 => self.redis.forget(),
            4 => self.redis.full = !self.redis.full,
            5 | 6 => {
                let victim = self.rng.u64(..self.next_connection.max(1));
                self.cut(|id| id == victim);
            }
            7 | 8 => {
                let victim = self.rng.u64(..self.next_connection.max(1));
                if let Some(connection) = self.connections.get_mut(&victim) {
                    connection.deaf = true;
                }
            }
            9 => self.kill(),
            10 => {
                let victim = self.rng.usize(..NODES);
                self.nodes[victim].frozen_until_ms = self.now_ms + self.rng.u64(100..25_000);
            }
            _ => {}
        }
    }

    fn kill(&mut self) {
        let victim = self.rng.usize(..NODES);
        if self.nodes[victim].back_at_ms.is_some() {
            return;
        }
        let sides: Vec<u64> = self.nodes[victim].shards.iter().flat_map(|s| s.sides).flatten().collect();
        self.cut(|id| sides.contains(&id));
        self.nodes[victim].shards.clear();
        self.nodes[victim].back_at_ms = Some(self.now_ms + self.rng.u64(100..15_000));
    }

    fn revive(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].back_at_ms.is_some_and(|at| at <= self.now_ms) {
                let name = self.nodes[index].name.clone();
                self.nodes[index] = self.start(name);
            }
        }
    }

    /// The server ends connections: some of what they carried is carried out, some of the answers still arrive.
    fn cut(&mut self, which: impl Fn(u64) -> bool) {
        for (id, connection) in &mut self.connections {
            if which(*id) && !connection.cut {
                connection.cut = true;
                connection.up.clear();
                let arrives = self.rng.usize(..=connection.down.len());
                connection.down.truncate(arrives);
                connection.channels.clear();
            }
        }
    }

    fn churn(&mut self) {
        for _ in 0..self.rng.u32(..4) {
            let clock = self.clock();
            let (node, user) = (self.rng.usize(..NODES), self.rng.u32(..USERS));
            let room = self.rng.u32(..ROOMS);
            if self.nodes[node].frozen_until_ms > self.now_ms {
                continue;
            }
            let Some(shard) = self.nodes[node].shards.get_mut(user as usize % usize::from(SHARDS)) else { continue };
            let (user, room) = (format!("u{user}"), format!("room:{room}"));
            if self.rng.bool() {
                if shard.sessions.remove(&user) {
                    shard.agent.handle(Event::UserLeft(&user), clock);
                } else {
                    shard.agent.handle(Event::UserCame(&user), clock);
                    shard.sessions.insert(user);
                }
            } else if shard.rooms.remove(&room) {
                shard.agent.handle(Event::Unlisten(&room), clock);
            } else {
                shard.agent.handle(Event::Listen(&room), clock);
                shard.rooms.insert(room);
            }
        }
    }

    /// Redis takes some of what has arrived, in any order between connections.
    fn serve(&mut self) {
        if self.now_ms < self.hangs_until_ms {
            return;
        }
        let mut ids: Vec<u64> = self.connections.keys().copied().collect();
        self.rng.shuffle(&mut ids);
        for id in ids {
            let some = self.rng.usize(..40);
            for _ in 0..some {
                let Some(command) = self.connections.get_mut(&id).and_then(|c| c.up.pop_front()) else { break };
                self.commands += 1;
                self.redis.run(id, command, &mut self.connections, self.now_ms);
            }
        }
    }

    /// One turn of every shard of a node.
    fn turn(&mut self, node: usize) {
        for shard in 0..usize::from(SHARDS) {
            self.arrive(node, shard);
            let clock = self.clock();
            if self.now_ms.is_multiple_of(100) {
                let oldest = self.oldest_unanswered_ms(node, shard);
                self.nodes[node].shards[shard].agent.handle(Event::Tick { oldest_unanswered_ms: oldest }, clock);
            }
            self.act(node, shard);
        }
    }

    /// What has come down the connections of one shard.
    fn arrive(&mut self, node: usize, shard: usize) {
        let clock = self.clock();
        for side in [Side::Commands, Side::Subscriber] {
            let place = &mut self.nodes[node].shards[shard];
            if let Some(at) = place.refused.iter().position(|s| *s == side) {
                place.refused.remove(at);
                place.agent.handle(Event::Refused(side), clock);
            }
            let Some(id) = place.sides[side as usize] else { continue };
            let connection = self.connections.get_mut(&id).expect("a connection lives while its client does");
            if !connection.greeted && !connection.cut && self.rng.bool() {
                connection.greeted = true;
                place.agent.handle(Event::Connected(side), clock);
            }
            for _ in 0..self.rng.usize(..40) {
                let Some(reply) = connection.down.pop_front() else { break };
                place.agent.handle(reply.event(), clock);
            }
            if connection.cut && connection.down.is_empty() {
                self.connections.remove(&id);
                place.sides[side as usize] = None;
                place.agent.handle(Event::Ended(side), clock);
            }
        }
    }

    fn act(&mut self, node: usize, shard: usize) {
        while let Some(action) = self.nodes[node].shards[shard].agent.next_action() {
            let instance = self.nodes[node].instance;
            match action {
                Action::Connect(side) => self.connect(node, shard, side),
                Action::Drop(side, _) => {
                    let place = &mut self.nodes[node].shards[shard];
                    place.refused.retain(|s| *s != side);
                    if let Some(id) = place.sides[side as usize].take() {
                        self.abandon(id);
                    }
                }
                Action::Row { write, row, lease_ends_ms } => {
                    let (user, name) = (write.name.to_string(), row.node.to_string());
                    let stamp = Stamp { confirmed: write.confirmed, lease_ends_ms, sent_ms: self.now_ms };
                    let (row, put) = ((row.epoch, row.shard.0), write.op == Op::Put);
                    let command = Command::Row { id: write.id, user, node: name, row, put, stamp };
                    self.send(node, shard, Side::Commands, command);
                }
                Action::Channel(write) => {
                    let put = write.op == Op::Put;
                    let command = Command::Channel { id: write.id, channel: write.name.to_string(), put };
                    self.send(node, shard, Side::Subscriber, command);
                }
                Action::Lease(command) => {
                    let command = Command::Lease { command, instance, sent_ms: self.now_ms };
                    self.send(node, shard, Side::Commands, command);
                }
                Action::Probe { nonce } => {
                    let channel = self.nodes[node].shards[shard].agent.probe_channel().to_owned();
                    self.send(node, shard, Side::Commands, Command::Probe { channel, nonce });
                }
                Action::Standing(standing) => {
                    let clock = self.clock();
                    for other in 1..usize::from(SHARDS) {
                        self.nodes[node].shards[other].agent.handle(Event::Standing(standing.clone()), clock);
                    }
                }
                Action::UserSettled { .. } | Action::ChannelSettled { .. } => {}
                Action::Changed(_) | Action::LeaseChanged(_) => {}
            }
        }
    }

    fn connect(&mut self, node: usize, shard: usize, side: Side) {
        let place = &mut self.nodes[node].shards[shard];
        assert!(place.sides[side as usize].is_none(), "one connection per side");
        if self.now_ms < self.refuses_until_ms {
            return place.refused.push(side);
        }
        self.next_connection += 1;
        place.sides[side as usize] = Some(self.next_connection);
        self.connections.insert(self.next_connection, Connection::default());
    }

    /// The client is gone: what it has sent may still be carried out.
    fn abandon(&mut self, id: u64) {
        let Some(mut connection) = self.connections.remove(&id) else { return };
        let arrives = self.rng.usize(..=connection.up.len());
        if self.now_ms < self.hangs_until_ms {
            return;
        }
        for command in connection.up.drain(..arrives) {
            self.redis.run(id, command, &mut self.connections, self.now_ms);
        }
    }

    fn send(&mut self, node: usize, shard: usize, side: Side, command: Command) {
        // Asked for before the agent heard that its connection is gone: lost with it.
        let Some(id) = self.nodes[node].shards[shard].sides[side as usize] else { return };
        let connection = self.connections.get_mut(&id).expect("it is there");
        assert!(connection.greeted, "nothing is sent before the greeting");
        if !connection.cut {
            connection.up.push_back(command);
        }
    }

    fn oldest_unanswered_ms(&self, node: usize, shard: usize) -> Option<u64> {
        let id = self.nodes[node].shards[shard].sides[0]?;
        let sent = self.connections.get(&id)?.up.front()?.sent_ms()?;
        Some(self.now_ms - sent)
    }
}
