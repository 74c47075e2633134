//! Several nodes of real shards around a modelled bus: everything is answered in order, and time passes when it is told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;

use crate::auth::Claims;
use crate::cluster::agent::{Action as AgentAction, Event as AgentEvent, WriteAnswer};
use crate::cluster::lease::{Answer, Ask};
use crate::cluster::link::Side;
use crate::cluster::nodes::{About, Polled};
use crate::cluster::registry::wants::Op;
use crate::cluster::registry::{Row, Rows};
use crate::cluster::wire::{Incoming, Outgoing};
use crate::config::{AuthMode, Config, Routing};
use crate::ids::{ConnectionId, ShardId};
use crate::protocol::command::{Command, Outcome};
use crate::protocol::service::presence_event;
use crate::settings::{Homes, Settings};
use crate::shard::Shard;
use crate::shard::event::{Action, Event, Gathered, Handover};
use crate::time::Now;

/// What the modelled Redis holds.
#[derive(Default)]
pub(super) struct Redis {
    pub(super) rows: BTreeMap<String, BTreeMap<String, (u64, u16)>>,
    /// By node: epoch, end, instance.
    pub(super) leases: BTreeMap<String, (u64, u64, u32)>,
    /// Graves and the users that are left in their indices.
    pub(super) graves: BTreeSet<(String, u64)>,
    pub(super) indices: BTreeMap<(String, u64, u16), BTreeSet<String>>,
    /// How often everything was forgotten.
    memory: u64,
    /// What was published, for services that listen: channel and payload.
    pub(super) heard: Vec<(String, Vec<u8>)>,
}

/// One shard and its connections to the bus.
pub(super) struct Host {
    pub(super) shard: Shard,
    pub(super) node: usize,
    inbox: VecDeque<Incoming>,
    subscribed: Option<BTreeSet<String>>,
    commands: bool,
    next_slot: u32,
    pub(super) answers: Vec<(u64, Outcome)>,
    pub(super) left: bool,
    said: BTreeMap<u32, Vec<Value>>,
    pub(super) closed: BTreeSet<u32>,
}

pub(super) struct World {
    pub(super) redis: Redis,
    pub(super) hosts: Vec<Host>,
    settings: Vec<Arc<Settings>>,
    pub(super) now: Now,
    /// Connections to it can be made.
    pub(super) up: bool,
    /// What is asked of it is kept and not answered.
    pub(super) hangs: bool,
    /// Of what is asked of it, only subscriptions are kept.
    pub(super) subscribes_late: bool,
    /// Nodes that take nobody any more.
    retired: BTreeSet<usize>,
    /// Instances whose lease says that not everybody is announced.
    pub(super) announcing: BTreeSet<u32>,
    /// Nodes that stand still.
    stopped: BTreeSet<usize>,
    /// No shard takes envelopes of others.
    pub(super) mesh_is_full: bool,
    kept: VecDeque<(usize, Outgoing)>,
    shards: u16,
}

/// A client: the host that has it, and its row there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) host: usize,
    pub(super) conn: ConnectionId,
}

impl World {
    pub(super) fn new(routing: Routing, nodes: usize, shards: u16) -> Self {
        let now = Now { mono_ms: 10_000, boot_ms: 20_000, unix_ms: 1_790_000_000_000, sub_us: 0 };
        let settings: Vec<_> = (0..nodes).map(|node| Arc::new(settings(routing, node, shards))).collect();
        let mut hosts = Vec::new();
        for (node, settings) in settings.iter().enumerate() {
            for shard in 0..shards {
                let seed = 1 + node as u64 * 100 + u64::from(shard);
                hosts.push(Host {
                    shard: Shard::new(settings.clone(), ShardId(shard), seed, now),
                    node,
                    inbox: VecDeque::new(),
                    subscribed: None,
                    commands: false,
                    next_slot: 0,
                    answers: Vec::new(),
                    left: false,
                    said: BTreeMap::new(),
                    closed: BTreeSet::new(),
                });
            }
        }
        let (redis, kept, retired, announcing, stopped) = Default::default();
        World {
            redis,
            hosts,
            settings,
            now,
            up: true,
            hangs: false,
            subscribes_late: false,
            retired,
            announcing,
            stopped,
            mesh_is_full: false,
            kept,
            shards,
        }
    }

    /// As [`World::new`], with everybody in the cluster.
    pub(super) fn ready(routing: Routing, nodes: usize, shards: u16) -> Self {
        let mut world = World::new(routing, nodes, shards);
        world.pass(3_000);
        for host in &world.hosts {
            assert_eq!(host.shard.gauges().bus_state, 3, "a shard of node {} is up", host.node);
            assert_eq!(host.shard.gauges().bus_nodes as usize, nodes);
        }
        world
    }

    /// As a node is configured, for what is to be changed.
    pub(super) fn settings(&self, node: usize) -> Settings {
        settings(self.settings[node].config.cluster.routing, node, self.shards)
    }

    /// A user connects to a node; what is said is not looked at.
    pub(super) fn connect(&mut self, node: usize, user: &str) -> Client {
        self.connect_with(node, user, &[])
    }

    pub(super) fn connect_with(&mut self, node: usize, user: &str, rooms: &[&str]) -> Client {
        self.connect_from(node, user, rooms, false)
    }

    /// `moved`: another node has sent it here.
    pub(super) fn connect_from(&mut self, node: usize, user: &str, rooms: &[&str], moved: bool) -> Client {
        let shard = self.settings[node].homes.user(user);
        let host = node * usize::from(self.shards) + shard.index();
        let slot = self.hosts[host].next_slot;
        self.hosts[host].next_slot += 1;
        let conn = ConnectionId { shard, slot, generation: 1 };
        let rooms = rooms.iter().map(|room| Box::from(*room)).collect();
        let state = Box::new(Handover {
            peer: ([127, 0, 0, 1], 4711).into(),
            user_agent: None,
            protocol_named: false,
            batch: false,
            moved,
            deflate: None,
            inflate_window: Vec::new(),
            claims: Claims { user: user.into(), expires_unix_s: None, permissions: None, rooms },
            auth_request_id: None,
            created_unix_ms: self.now.unix_ms,
            received_messages: 0,
            received_bytes: 0,
            leftover: Vec::new(),
        });
        self.feed(host, Event::Adopted { conn, state });
        Client { host, conn }
    }

    /// A client on each of several nodes, welcomed.
    pub(super) fn joined(&mut self, node: usize, user: &str, rooms: &[&str]) -> Client {
        let client = self.connect_with(node, user, rooms);
        self.settle();
        let said = self.said(client);
        assert!(said.iter().any(|m| m["type"] == "auth:ok" && m.get("local").is_none()), "{said:?}");
        self.quiet();
        client
    }

    /// What services were told of users coming and going, since they were asked last: `+user node` and `-user node`.
    pub(super) fn events(&mut self) -> Vec<String> {
        let heard = std::mem::take(&mut self.redis.heard);
        let events = heard.iter().filter(|(channel, _)| channel == "user:events");
        let brief = |payload: &Vec<u8>| {
            let event: Value = serde_json::from_slice(payload).unwrap();
            let sign = if event["event"] == "online" { '+' } else { '-' };
            format!("{sign}{} {}", event["user_id"].as_str().unwrap(), event["node"].as_str().unwrap())
        };
        events.map(|(_, payload)| brief(payload)).collect()
    }

    /// Forgets what everybody was told.
    pub(super) fn quiet(&mut self) {
        self.hosts.iter_mut().for_each(|host| host.said.clear());
        self.redis.heard.clear();
    }

    pub(super) fn disconnect(&mut self, client: Client) {
        self.feed(client.host, Event::Ended { conn: client.conn });
    }

    pub(super) fn say(&mut self, client: Client, request: &Value) {
        let mut frame = masked_text(request.to_string().as_bytes());
        self.feed(client.host, Event::Bytes { conn: client.conn, data: &mut frame });
    }

    /// Says something, lets it run its course, and returns what this client heard. What has an id is answered, with time.
    pub(super) fn ask(&mut self, client: Client, request: &Value) -> Vec<Value> {
        self.say(client, request);
        self.settle();
        let mut said = self.said(client);
        let answered = |said: &[Value]| said.iter().any(|m| m.get("id") == request.get("id") && m["type"] != "message");
        for _ in 0..20 {
            if request.get("id").is_none() || answered(&said) {
                return said;
            }
            self.pass(100);
            said.extend(self.said(client));
        }
        panic!("no answer to {request}: {said:?}");
    }

    pub(super) fn said(&mut self, client: Client) -> Vec<Value> {
        self.flush();
        self.hosts[client.host].said.remove(&client.conn.slot).unwrap_or_default()
    }

    /// Gives a command to the first shard of a node, as its server API does.
    pub(super) fn command(&mut self, node: usize, command: Command) -> Outcome {
        self.begin_command(node, command);
        for _ in 0..20 {
            if let Some(outcome) = self.outcome(node) {
                return outcome;
            }
            self.pass(100);
        }
        panic!("no answer");
    }

    pub(super) fn begin_command(&mut self, node: usize, command: Command) {
        let host = node * usize::from(self.shards);
        self.feed(host, Event::Command { ticket: 1, command });
        self.settle();
    }

    /// What a node has answered to a command, if it has.
    pub(super) fn outcome(&mut self, node: usize) -> Option<Outcome> {
        self.hosts[node * usize::from(self.shards)].answers.pop().map(|(_, outcome)| outcome)
    }

    /// A service publishes on the bus.
    pub(super) fn service(&mut self, channel: &str, payload: &str) {
        self.publish(channel, payload.as_bytes());
        self.settle();
    }

    /// A node stands still from now on; what is sent to it waits.
    pub(super) fn stop(&mut self, node: usize) {
        self.stopped.insert(node);
    }

    /// It goes on, with what has come meanwhile.
    pub(super) fn go_on(&mut self, node: usize) {
        self.stopped.remove(&node);
    }

    /// Redis ends the subscriptions of a node.
    pub(super) fn deafen(&mut self, node: usize) {
        self.hosts.iter_mut().filter(|host| host.node == node).for_each(|host| host.subscribed = None);
    }

    /// Who is at home where on a node.
    pub(super) fn homes(&self, node: usize) -> &Homes {
        &self.settings[node].homes
    }

    fn stands_still(&self, host: usize) -> bool {
        self.stopped.contains(&self.hosts[host].node)
    }

    pub(super) fn feed(&mut self, host: usize, event: Event<'_>) {
        let now = self.now;
        if self.stands_still(host) {
            return;
        }
        self.hosts[host].shard.handle(event, now);
        self.act(host);
    }

    /// Until nothing is on its way any more; time stands still but for what is due at once.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = false;
            for host in 0..self.hosts.len() {
                busy |= self.step(host);
            }
            if !busy {
                let awake = self.hosts.iter().filter(|host| !self.stopped.contains(&host.node));
                let due = awake.filter_map(|host| host.shard.bus_due_ms(self.now)).min();
                match due.filter(|due| *due <= self.now.mono_ms + 10) {
                    Some(due) if !self.hangs => self.advance(due.saturating_sub(self.now.mono_ms)),
                    _ => return self.flush(),
                }
                (0..self.hosts.len()).for_each(|host| self.tick_bus(host));
            }
        }
        panic!("it does not come to rest");
    }

    /// Time passes, with ticks.
    pub(super) fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(100) {
            self.advance(100);
            for host in 0..self.hosts.len() {
                self.feed(host, Event::Tick);
                self.tick_bus(host);
            }
            self.settle();
        }
    }

    /// It is gone, with all connections to it and everything that is on its way.
    pub(super) fn cut(&mut self) {
        self.up = false;
        for host in 0..self.hosts.len() {
            for (side, on) in [(Side::Commands, self.hosts[host].commands), (Side::Subscriber, true)] {
                if on {
                    self.hosts[host].inbox.push_back(Incoming::Agent(AgentEvent::Ended(side)));
                }
            }
        }
        self.settle();
    }

    /// Redis has forgotten everything.
    pub(super) fn flush_all(&mut self) {
        let (memory, heard) = (self.redis.memory + 1, std::mem::take(&mut self.redis.heard));
        self.redis = Redis { memory, heard, ..Redis::default() };
        self.hosts.iter_mut().for_each(|host| host.inbox.push_back(Incoming::InvalidatedAll));
    }

    /// Answers everything that was kept.
    pub(super) fn unhang(&mut self) {
        (self.hangs, self.subscribes_late) = (false, false);
        for (host, outgoing) in std::mem::take(&mut self.kept) {
            self.carry_out(host, outgoing);
        }
    }

    /// Answers what a shard has asked first and is kept.
    pub(super) fn carry_out_one(&mut self, host: usize) {
        if let Some(at) = self.kept.iter().position(|(of, _)| *of == host)
            && let Some((_, outgoing)) = self.kept.remove(at)
        {
            self.carry_out(host, outgoing);
        }
    }

    /// One turn of one shard.
    pub(super) fn turn(&mut self, host: usize) {
        self.step(host);
    }

    fn advance(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.boot_ms += ms;
        self.now.unix_ms += ms;
    }

    fn tick_bus(&mut self, host: usize) {
        let event = AgentEvent::Tick { oldest_unanswered_ms: None };
        self.feed(host, Event::Bus(Incoming::Agent(event)));
    }

    /// One turn of a shard; whether there was anything to do.
    fn step(&mut self, host: usize) -> bool {
        if self.stands_still(host) {
            return false;
        }
        let mut busy = false;
        while let Some(incoming) = self.hosts[host].inbox.pop_front() {
            self.feed(host, Event::Bus(incoming));
            busy = true;
        }
        let now = self.now;
        self.hosts[host].shard.end_turn(now);
        busy |= self.act(host);
        let (node, first) = (self.hosts[host].node, self.hosts[host].node * usize::from(self.shards));
        for to in 0..if self.mesh_is_full { 0 } else { self.shards } {
            while let Some(envelope) = self.hosts[host].shard.take_outgoing(ShardId(to), now) {
                let from = ShardId((host - node * usize::from(self.shards)) as u16);
                self.feed(first + usize::from(to), Event::Envelope { from, envelope });
                busy = true;
            }
        }
        busy
    }

    fn act(&mut self, host: usize) -> bool {
        let mut busy = false;
        while let Some(action) = self.hosts[host].shard.next_action() {
            busy = true;
            match action {
                Action::Bus(outgoing) if self.keeps(&outgoing) => self.kept.push_back((host, outgoing)),
                Action::Bus(outgoing) => self.carry_out(host, outgoing),
                Action::CommandDone { ticket, outcome } => self.hosts[host].answers.push((ticket, *outcome)),
                Action::Close { conn } => drop(self.hosts[host].closed.insert(conn.slot)),
                Action::Left => self.hosts[host].left = true,
                _ => {}
            }
        }
        busy
    }

    fn keeps(&self, outgoing: &Outgoing) -> bool {
        self.hangs || self.subscribes_late && matches!(outgoing, Outgoing::Agent(AgentAction::Channel(_)))
    }

    fn carry_out(&mut self, host: usize, outgoing: Outgoing) {
        let answer = match outgoing {
            Outgoing::Agent(action) => return self.carry_out_for_agent(host, action),
            Outgoing::Publish { ticket, .. } if !self.hosts[host].commands => Incoming::Unanswered(vec![ticket]),
            Outgoing::Publish { ticket, channel, payload } => {
                let heard = Some(self.publish(&channel, &payload));
                Incoming::Published { ticket, heard }
            }
            Outgoing::Find { user } if !self.hosts[host].commands => Incoming::Found { user, rows: None },
            Outgoing::Find { user } => {
                let rows = Some(self.rows(&user));
                Incoming::Found { user, rows }
            }
            Outgoing::PollLeases { asked_ms } => {
                let polled = |node: &String, epoch, instance, remaining_ms| {
                    let number: usize = node.trim_start_matches("node-").parse().unwrap_or_default();
                    let about = About {
                        shards: self.shards,
                        weight: if self.retired.contains(&number) { 0 } else { 100 },
                        advertise: Some(url(number).into()),
                        announcing: self.announcing.contains(&instance),
                    };
                    Polled { node: node.as_str().into(), epoch, instance, remaining_ms, about }
                };
                let living = self.redis.leases.iter().map(|(node, (epoch, until_ms, instance))| {
                    polled(node, *epoch, *instance, *until_ms as i64 - self.now.boot_ms as i64)
                });
                let graves = self.redis.graves.iter().map(|(node, epoch)| polled(node, *epoch, 0, -1));
                let leases = living.chain(graves).collect();
                Incoming::Leases { leases, asked_ms }
            }
            Outgoing::Retire => {
                self.retired.insert(self.hosts[host].node);
                return;
            }
            Outgoing::Announced => {
                self.announcing.remove(&self.settings[self.hosts[host].node].instance);
                return;
            }
            Outgoing::Sample { grave } => {
                let index = self.redis.indices.get(&(grave.node.to_string(), grave.epoch, grave.shard.0));
                let users = index.into_iter().flatten().take(2).map(|user| Rc::from(user.as_str())).collect();
                Incoming::Sampled { grave, users: Some(users) }
            }
            Outgoing::Remove { grave, users } => {
                for user in users {
                    self.delete_row(&user, &grave.node, grave.epoch, false);
                    let index = (grave.node.to_string(), grave.epoch, grave.shard.0);
                    self.redis.indices.entry(index).or_default().remove(&*user);
                    self.hosts[host].inbox.push_back(Incoming::Removed { node: grave.node.clone(), user });
                }
                return;
            }
            Outgoing::Bury { node, epoch } => {
                self.redis.graves.remove(&(node.to_string(), epoch));
                let dead = |lease: &(u64, u64, u32)| lease.0 == epoch && lease.1 <= self.now.boot_ms;
                if self.redis.leases.get(&*node).is_some_and(dead) {
                    self.redis.leases.remove(&*node);
                }
                return;
            }
        };
        self.hosts[host].inbox.push_back(answer);
    }

    fn carry_out_for_agent(&mut self, host: usize, action: AgentAction) {
        let event = match action {
            AgentAction::Connect(side) if self.up => {
                match side {
                    Side::Commands => self.hosts[host].commands = true,
                    Side::Subscriber => self.hosts[host].subscribed = Some(BTreeSet::new()),
                }
                AgentEvent::Connected(side)
            }
            AgentAction::Connect(side) => AgentEvent::Refused(side),
            AgentAction::Drop(Side::Commands, _) => {
                self.hosts[host].commands = false;
                return self.hosts[host].inbox.push_back(Incoming::InvalidatedAll);
            }
            AgentAction::Drop(Side::Subscriber, _) => {
                self.hosts[host].subscribed = None;
                return;
            }
            AgentAction::Row { write, row, lease_ends_ms } => {
                let index = (row.node.to_string(), row.epoch, row.shard.0);
                match write.op {
                    Op::Put => {
                        self.put_row(&write.name, &row, lease_ends_ms, write.confirmed);
                        self.redis.indices.entry(index).or_default().insert(write.name.to_string());
                    }
                    Op::Delete => {
                        let had = write.confirmed && self.now.boot_ms < lease_ends_ms;
                        self.delete_row(&write.name, &row.node, row.epoch, had);
                        self.redis.indices.entry(index).or_default().remove(&*write.name);
                    }
                }
                for other in (0..self.hosts.len()).filter(|other| *other != host) {
                    self.hosts[other].inbox.push_back(Incoming::Invalidated(vec![write.name.clone()]));
                }
                let answer = AgentEvent::Row { id: write.id, answer: WriteAnswer::Done };
                self.hosts[host].inbox.push_back(Incoming::Agent(answer));
                return self.hosts[host].inbox.push_back(Incoming::Invalidated(vec![write.name]));
            }
            AgentAction::Channel(write) => {
                let Some(subscribed) = &mut self.hosts[host].subscribed else { return };
                match write.op {
                    Op::Put => subscribed.insert(write.name.to_string()),
                    Op::Delete => subscribed.remove(&*write.name),
                };
                AgentEvent::Channel { id: write.id, answer: WriteAnswer::Done }
            }
            AgentAction::Lease(command) => {
                let instance = self.settings[self.hosts[host].node].instance;
                let answer = self.lease(&command.node, command.kind, instance);
                AgentEvent::Lease { ticket: command.ticket, answer }
            }
            AgentAction::Probe { nonce } => AgentEvent::Probe { nonce },
            _ => return,
        };
        self.hosts[host].inbox.push_back(Incoming::Agent(event));
    }

    fn lease(&mut self, node: &str, ask: Ask, instance: u32) -> Answer {
        let until_ms = self.now.boot_ms + 10_000;
        let held = self.redis.leases.get(node).copied();
        match (ask, held) {
            (Ask::Acquire { floor, .. }, held) => {
                let epoch = floor.max(held.map_or(0, |(epoch, ..)| epoch + 1));
                self.announcing.insert(instance);
                self.redis.graves.extend(held.map(|(epoch, ..)| (node.to_owned(), epoch)));
                self.redis.leases.insert(node.to_owned(), (epoch, until_ms, instance));
                Answer::Granted { epoch, memory: self.redis.memory, ends_ms: until_ms }
            }
            (Ask::Renew { epoch }, Some((held, ends_ms, _))) if held == epoch && ends_ms > self.now.boot_ms => {
                self.redis.leases.insert(node.to_owned(), (epoch, until_ms, instance));
                Answer::Renewed { ends_ms: until_ms }
            }
            (Ask::Release { epoch }, Some((held, ..))) if held == epoch => {
                self.redis.leases.insert(node.to_owned(), (epoch, 0, instance));
                Answer::Released
            }
            (Ask::Renew { epoch } | Ask::Release { epoch }, Some((held, ..))) if held > epoch => Answer::Fenced,
            (Ask::Renew { .. } | Ask::Release { .. }, _) => Answer::Missing,
        }
    }

    pub(super) fn publish(&mut self, channel: &str, payload: &[u8]) -> u64 {
        self.redis.heard.push((channel.to_owned(), payload.to_vec()));
        let mut heard = 0;
        for host in &mut self.hosts {
            if host.subscribed.as_ref().is_some_and(|subscribed| subscribed.contains(channel)) {
                heard += 1;
                let (channel, payload) = (channel.as_bytes().to_vec(), payload.to_vec());
                host.inbox.push_back(Incoming::Message { channel, payload });
            }
        }
        heard
    }

    /// As the script does it.
    fn put_row(&mut self, user: &str, row: &Row, lease_ends_ms: u64, told: bool) {
        assert!(self.now.boot_ms < lease_ends_ms, "nothing is on its way for long here");
        let rows = self.redis.rows.entry(user.to_owned()).or_default();
        let first = rows.is_empty();
        rows.insert(row.node.to_string(), (row.epoch, row.shard.0));
        if first && !told {
            self.publish("user:events", &presence_event(true, user, &row.node));
        }
    }

    /// As the script does it.
    fn delete_row(&mut self, user: &str, node: &str, epoch: u64, had: bool) {
        let rows = self.redis.rows.entry(user.to_owned()).or_default();
        let gone = match rows.get(node) {
            Some((newer, _)) if *newer > epoch => false,
            Some(_) => rows.remove(node).is_some(),
            None => had,
        };
        if gone && rows.is_empty() {
            self.publish("user:events", &presence_event(false, user, node));
        }
    }

    fn rows(&self, user: &str) -> Rows {
        let rows = self.redis.rows.get(user).into_iter().flatten();
        rows.map(|(node, (epoch, shard))| Row { node: node.as_str().into(), epoch: *epoch, shard: ShardId(*shard) })
            .collect()
    }

    /// Everything that is queued for clients arrives there.
    fn flush(&mut self) {
        let now = self.now;
        for host in &mut self.hosts {
            let mut scratch = vec![0; 64 * 1024];
            while let Some(conn) = host.shard.next_dirty() {
                let bytes = match host.shard.gather(conn, &mut scratch) {
                    Gathered::Empty => Vec::new(),
                    Gathered::Copied(len) => scratch[..len].to_vec(),
                    Gathered::Direct(bytes) => bytes.to_vec(),
                };
                host.shard.sent(conn, bytes.len(), bytes.len(), now);
                host.said.entry(conn.slot).or_default().extend(texts(&bytes));
            }
        }
        for host in 0..self.hosts.len() {
            self.act(host);
        }
    }
}

/// Where clients reach a node.
pub(super) fn url(node: usize) -> String {
    format!("ws://node-{node}.example/ws")
}

fn settings(routing: Routing, node: usize, shards: u16) -> Settings {
    let mut config = Config::default();
    config.auth.mode = AuthMode::None;
    config.cluster.routing = routing;
    config.cluster.advertise = Some(url(node));
    let homes = Homes::new(shards, 77 + node as u64);
    let mut settings = Settings::new(config, None, format!("node-{node}"), 1_000 + node as u32, homes).unwrap();
    let all = ["send:*", "join:*", "subscribe:*", "publish:*", "presence:*", "broadcast"];
    settings.default_permissions = Arc::new(crate::protocol::Permissions::parse(all.into_iter()).unwrap());
    settings
}

fn masked_text(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The text messages among server frames.
fn texts(mut bytes: &[u8]) -> Vec<Value> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let (len, head) = match bytes[1] {
            126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            127 => (u64::from_be_bytes(bytes[2..10].try_into().unwrap()) as usize, 10),
            len => (usize::from(len), 2),
        };
        if bytes[0] == 0x81 {
            texts.push(serde_json::from_slice(&bytes[head..head + len]).unwrap());
        }
        bytes = &bytes[head + len..];
    }
    texts
}
