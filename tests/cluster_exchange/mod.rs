//! Nodes, their shards' exchanges, and a modelled Redis between them: one thread, one virtual clock, one seed. What nodes do besides (leases,
//! rows, connections) is done here in the simplest way that is right; `tests/cluster_model` has the real one.
#![allow(dead_code, unreachable_pub, reason = "a model of one test binary")]

pub mod ledger;
pub mod node;
pub mod redis;

use std::rc::Rc;
use std::sync::Arc;

use ringgate::cluster::agent::{Clock, Standing, own_channel};
use ringgate::cluster::exchange::{BROADCAST_CHANNEL, Effect, Here, Letter, Mode, Outgoing, Polled};
use ringgate::cluster::parcel::{Answer, Parcel, Target};
use ringgate::cluster::registry::{Row, Rows};
use ringgate::ids::{MessageId, ShardId};
use ringgate::protocol::reply::Status;

use self::ledger::Ledger;
use self::node::{Lease, Node, Shard};
use self::redis::{Command, Connection, Connections, Redis, Reply};

pub const LEASE_TTL_MS: u64 = 1_000;
pub const ANSWER_WITHIN_MS: u64 = 1_500;
const NODES: usize = 3;
const USERS: u32 = 6;

/// Says what happens, for who looks into a seed (`RINGGATE_SIM_TRACE=1`).
macro_rules! trace {
    ($world:expr, $($text:tt)*) => {
        if $world.traces {
            eprintln!("{:>6} {}", $world.now_ms, format!($($text)*));
        }
    };
}

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

    fn fault(&mut self) {
        let until_ms = self.now_ms + self.rng.u64(20..1_500);
        let node = self.rng.usize(..NODES);
        let fault = self.rng.u32(..250);
        if fault < 17 {
            trace!(self, "fault {fault} on node {node} until {until_ms}");
        }
        match fault {
            0 => self.hangs_until_ms = until_ms,
            1 => {
                self.refuses_until_ms = until_ms;
                self.cut(|_| true);
            }
            2 => {
                self.redis.forget(&mut self.connections);
                if self.rng.bool() {
                    self.cut(|_| true);
                }
            }
            3..=6 => {
                let victim = self.rng.u64(..self.next_connection.max(1));
                self.cut(|id| id == victim);
            }
            7 | 8 => {
                let victim = self.rng.u64(..self.next_connection.max(1));
                if let Some(connection) = self.connections.get_mut(&victim) {
                    connection.deaf = true;
                }
            }
            9 | 10 => self.kill(node),
            11 | 12 => self.nodes[node].frozen_until_ms = until_ms,
            13 => self.redis.reap(self.now_ms, &mut self.connections),
            14 => self.nodes[node].lose_lease_at_ms = self.now_ms,
            15 | 16 => self.abandon(node, until_ms),
            _ => {}
        }
        // Who does not hear is replaced in the end.
        if self.rng.u32(..40) == 0 {
            let deaf = self.connections.iter().find(|(_, c)| c.deaf).map(|(id, _)| *id);
            self.cut(|id| Some(id) == deaf);
        }
    }

    fn kill(&mut self, node: usize) {
        if self.nodes[node].back_at_ms.is_some() {
            return;
        }
        let until_ms = self.now_ms + self.rng.u64(..800);
        for shard in std::mem::take(&mut self.nodes[node].shards) {
            for id in shard.sides.into_iter().flatten() {
                let connection = self.connections.get_mut(&id).unwrap();
                let arrives = self.rng.usize(..=connection.up.len());
                connection.up.truncate(arrives);
                self.half_open.push((id, until_ms));
            }
            self.ledger.crashed(shard.exchange_id);
        }
        self.nodes[node].back_at_ms = Some(self.now_ms + self.rng.u64(20..1_800));
        self.nodes[node].lease = None;
    }

    /// A client gives a connection up that is slow: what it has sent is carried out all the same, perhaps after what it sends next.
    fn abandon(&mut self, node: usize, until_ms: u64) {
        let side = self.rng.usize(..2);
        if !self.nodes[node].runs(self.now_ms) {
            return;
        }
        let Some(id) = self.nodes[node].shards[0].sides[side] else { return };
        // But for rows and leases: how those are written is tested elsewhere.
        let connection = self.connections.get_mut(&id).expect("a connection lives while its client does");
        connection.up.retain(|command| matches!(command, Command::Publish { .. } | Command::Find { .. }));
        self.half_open.push((id, until_ms));
        self.lose(node, 0, side, self.now_ms);
    }

    /// The server ends connections: some of the answers still arrive.
    fn cut(&mut self, which: impl Fn(u64) -> bool) {
        for (id, connection) in &mut self.connections {
            if which(*id) && !connection.cut {
                connection.cut = true;
                connection.up.clear();
                connection.channels.clear();
                let arrives = self.rng.usize(..=connection.down.len());
                connection.down.truncate(arrives);
            }
        }
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

    /// On the first shard's connection for commands.
    fn watch_lease(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let place = &mut self.nodes[node];
        let lost =
            place.lease.as_ref().is_some_and(|lease| lease.until_ms <= now_ms || place.lose_lease_at_ms == now_ms);
        // It is noticed now, or a little later, as a tick would.
        if lost && self.rng.bool() {
            self.stand(node, None);
        }
        let place = &mut self.nodes[node];
        if place.shards[0].sides[0].is_none() {
            place.lease_asked = false;
            return;
        }
        let name = place.name.clone();
        let mut commands = Vec::new();
        if now_ms >= place.poll_at_ms {
            place.poll_at_ms = now_ms + 100;
            commands.push(Command::Poll { asked_ms: now_ms });
        }
        if !place.lease_asked {
            match &place.lease {
                None => {
                    place.lease_asked = true;
                    let floor = (1_000_000 + now_ms).max(place.newest_epoch + 1);
                    commands.push(Command::Acquire { node: name, floor, sent_ms: now_ms });
                }
                Some(lease) if now_ms >= lease.renew_at_ms => {
                    place.lease_asked = true;
                    commands.push(Command::Renew { node: name, epoch: lease.epoch, sent_ms: now_ms });
                }
                Some(_) => {}
            }
        }
        for command in commands {
            self.command(node, 0, 0, command);
        }
    }

    fn lease_answered(&mut self, node: usize, epoch: Option<u64>, renewed: u64, sent_ms: u64) {
        let now_ms = self.now_ms;
        let place = &mut self.nodes[node];
        place.lease_asked = false;
        place.newest_epoch = place.newest_epoch.max(renewed);
        let until_ms = sent_ms + LEASE_TTL_MS;
        let held = place.lease.as_ref().map(|lease| lease.epoch);
        let lease = |epoch| Lease { epoch, until_ms, renew_at_ms: sent_ms + LEASE_TTL_MS / 3 };
        match epoch {
            // What ran out does not live on.
            Some(epoch)
                if until_ms > now_ms
                    && held.is_none_or(|held| held == epoch)
                    && place.lease.as_ref().is_none_or(|lease| lease.until_ms > now_ms) =>
            {
                self.stand(node, Some(lease(epoch)));
            }
            Some(_) => {}
            None if held == Some(renewed) => self.stand(node, None),
            None => {}
        }
    }

    fn stand(&mut self, node: usize, lease: Option<Lease>) {
        let clock = self.clock();
        let place = &mut self.nodes[node];
        let epoch = |lease: &Option<Lease>| lease.as_ref().map(|lease| lease.epoch);
        let changed = epoch(&place.lease) != epoch(&lease);
        if changed && self.traces {
            eprintln!("{:>6} node {node} has epoch {:?}", self.now_ms, epoch(&lease));
        }
        place.lease = lease;
        let standing = place.lease.as_ref().map(|lease| Standing {
            node: Arc::from(&*place.name),
            epoch: lease.epoch,
            until_ms: lease.until_ms,
        });
        for shard in &mut place.shards {
            shard.exchange.standing(standing.as_ref(), clock);
            if changed {
                shard.start_over();
            }
        }
        for shard in 0..self.nodes[node].shards.len() {
            if changed {
                self.subscribe(node, shard);
            }
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

    /// What has come down the connections of one shard.
    fn arrive(&mut self, node: usize, shard: usize) {
        for side in [0, 1] {
            let Some(id) = self.nodes[node].shards[shard].sides[side] else { continue };
            for _ in 0..self.rng.usize(..16) {
                let Some(reply) = self.connections.get_mut(&id).unwrap().down.pop_front() else { break };
                self.take(node, shard, reply);
                self.act(node, shard);
                if self.nodes[node].shards[shard].sides[side] != Some(id) {
                    break;
                }
            }
            let connection = &self.connections[&id];
            if connection.cut && connection.down.is_empty() {
                self.connections.remove(&id);
                let retry_at_ms = self.now_ms + self.rng.u64(5..60);
                self.lose(node, shard, side, retry_at_ms);
            }
        }
    }

    /// A connection is gone: what it owed is handed back, in one order or the other.
    fn lose(&mut self, node: usize, shard: usize, side: usize, retry_at_ms: u64) {
        let clock = self.clock();
        let told_first = self.rng.bool();
        let place = &mut self.nodes[node].shards[shard];
        place.sides[side] = None;
        place.retry_at_ms = retry_at_ms;
        place.up = false;
        if told_first {
            place.exchange.link_up(false, clock);
        }
        if side == 0 {
            place.start_over();
            for user in std::mem::take(&mut place.finding) {
                place.exchange.found(&user, None, clock);
            }
            let tickets = std::mem::take(&mut place.publishing);
            place.exchange.unanswered(&tickets);
            place.exchange.invalidated_all(clock);
        } else {
            place.subscribed = false;
            place.subscribing = 0;
        }
        place.exchange.link_up(false, clock);
        self.act(node, shard);
    }

    fn take(&mut self, node: usize, shard: usize, reply: Reply) {
        let clock = self.clock();
        let place = &mut self.nodes[node].shards[shard];
        match reply {
            Reply::Put { user, epoch, done } => {
                place.written(&user, true, done, Some(epoch), clock.mono_ms);
                place.exchange.invalidated(&user);
            }
            Reply::Deleted { user } => {
                place.written(&user, false, true, None, clock.mono_ms);
                place.exchange.invalidated(&user);
            }
            Reply::Found { user, rows } => {
                if self.traces {
                    eprintln!("{:>6} node {node}.{shard} finds {user} on {rows:?}", self.now_ms);
                }
                let user: Rc<str> = user.as_str().into();
                let found = place.finding.iter().position(|finding| *finding == user).expect("it was asked");
                place.finding.remove(found);
                let row = |(node, epoch, shard): (String, u64, u16)| Row {
                    node: node.as_str().into(),
                    epoch,
                    shard: ShardId(shard),
                };
                let rows: Rows = rows.into_iter().map(row).collect();
                place.exchange.found(&user, Some(rows), clock);
            }
            Reply::Published { ticket, heard } => {
                if self.traces {
                    eprintln!("{:>6} node {node}.{shard} is heard {ticket} by {heard}", self.now_ms);
                }
                place.publishing.retain(|publishing| *publishing != ticket);
                place.exchange.published(ticket, Some(heard), clock);
            }
            Reply::Subscribed => {
                place.subscribing -= 1;
                place.subscribed = place.subscribing == 0;
                place.exchange.listening(place.subscribed);
            }
            Reply::Acquired { epoch, sent_ms } => self.lease_answered(node, Some(epoch), epoch, sent_ms),
            Reply::Renewed { renewed, epoch, sent_ms } => {
                self.lease_answered(node, renewed.then_some(epoch), epoch, sent_ms);
            }
            Reply::Leases { leases, asked_ms } => {
                if self.traces {
                    eprintln!("{:>6} node {node} polls at {asked_ms} {leases:?}", self.now_ms);
                }
                let leases: Vec<Polled<'_>> = leases
                    .iter()
                    .map(|(node, epoch, left_ms)| {
                        let shards = Node::shards_of(node);
                        Polled { node, epoch: *epoch, until_ms: left_ms.map(|left| asked_ms + left), shards }
                    })
                    .collect();
                for shard in 0..self.nodes[node].shards.len() {
                    let exchange = &mut self.nodes[node].shards[shard].exchange;
                    exchange.nodes(leases.iter().copied(), asked_ms, clock);
                    self.act(node, shard);
                }
            }
            Reply::Invalidated { user } => place.exchange.invalidated(&user),
            Reply::InvalidatedAll => place.exchange.invalidated_all(clock),
            Reply::Message { channel, payload } => self.message(node, shard, &channel, &payload),
        }
    }

    fn message(&mut self, node: usize, shard: usize, channel: &str, payload: &[u8]) {
        use ringgate::cluster::exchange::Verdict;
        let clock = self.clock();
        match Parcel::decode(payload).expect("a parcel") {
            Parcel::Answers(answers) => {
                trace!(self, "node {node}.{shard} hears {answers:?}");
                self.nodes[node].shards[shard].exchange.answers(&answers, clock);
            }
            Parcel::Message(label, frame) => {
                let Target::User(user) = label.to else { panic!("for a user") };
                let home = self.nodes[node].home(user).number;
                let place = &mut self.nodes[node].shards[shard];
                if home != shard {
                    assert_eq!(self.mode, Mode::Broadcast, "by the registry it comes to the home");
                    return place.exchange.overheard(channel.as_bytes(), &label, clock);
                }
                let verdict = place.exchange.message(channel.as_bytes(), &label, clock);
                let (number, began) = (label.number, label.route_began);
                if self.traces {
                    let id = label.message_id.0;
                    eprintln!("{:>6} node {node}.{shard} gets {id} as {number} ({began}): {verdict:?}", self.now_ms);
                }
                if verdict != Verdict::Deliver {
                    return;
                }
                let id = u64::from_be_bytes(frame.try_into().expect("eight bytes"));
                let status = deliver(place, user, id, &mut self.ledger, &mut self.rng, true);
                let answer = match status {
                    Status::Delivered => Answer::Delivered,
                    Status::Offline => Answer::Moved,
                    Status::Dropped | Status::Stored => Answer::Dropped,
                };
                place.exchange.delivered(&label, answer);
            }
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
