//! One shard with its driver: connections, mesh and wires. What clients hear goes into the ledger.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ringgate::auth::Claims;
use ringgate::cluster::agent;
use ringgate::cluster::nodes::About;
use ringgate::cluster::wire::Incoming;
use ringgate::ids::{ConnectionId, ShardId};
use ringgate::limits::TICK_MS;
use ringgate::protocol::command::Outcome;
use ringgate::protocol::envelope::Envelope;
use ringgate::settings::Settings;
use ringgate::shard::Shard;
use ringgate::shard::event::{Action, Event, Gathered, Handover};
use ringgate::time::Now;
use serde_json::Value;

use super::codec::{CLOSE, TEXT, frame, take_frame};
use super::ledger::{Answer, SessionId};
use super::wires::Wires;
use super::{NODES, World};

pub struct Host {
    pub shard: Shard,
    pub wires: Wires,
    /// Envelopes of other shards of the node, and when each arrives.
    inbox: VecDeque<(u64, ShardId, Envelope)>,
    pub seats: BTreeMap<u32, Seat>,
    next_slot: u32,
    next_tick_ms: u64,
    /// What commands were answered.
    pub outcomes: Vec<Outcome>,
}

/// A client's connection.
pub struct Seat {
    pub conn: ConnectionId,
    pub session: SessionId,
    pub user: String,
    /// Its session has begun.
    pub begun: bool,
    /// The node that it was told to move to, with routing `hash`: it will be closed.
    sent_to: Option<usize>,
    paused: bool,
    /// What it has said and nobody has read.
    said: VecDeque<Vec<u8>>,
    /// What it was sent and has not taken yet.
    input: Vec<u8>,
}

impl Host {
    pub fn new(settings: Arc<Settings>, shard: ShardId, about: About, seed: u64, now: Now) -> Self {
        Host {
            wires: Wires::new(settings.instance, about, shard),
            shard: Shard::new(settings, shard, seed, now),
            inbox: VecDeque::new(),
            seats: BTreeMap::new(),
            next_slot: 0,
            next_tick_ms: now.mono_ms,
            outcomes: Vec::new(),
        }
    }
}

impl World {
    /// A user connects to a node that runs, and wants to be in these rooms.
    pub fn connect(&mut self, node: usize, user: &str, rooms: &[String]) -> SessionId {
        let session = self.ledger.session(user, node);
        let (now, settings) = (self.now(node), &self.nodes[node].settings);
        let home = settings.homes.user(user);
        let host = &mut self.nodes[node].hosts[home.index()];
        let conn = ConnectionId { shard: home, slot: host.next_slot, generation: 1 };
        host.next_slot += 1;
        let seat = Seat {
            conn,
            session,
            user: user.to_owned(),
            begun: false,
            sent_to: None,
            paused: false,
            said: VecDeque::new(),
            input: Vec::new(),
        };
        host.seats.insert(conn.slot, seat);
        let state = Box::new(Handover {
            peer: ([127, 0, 0, 1], 4711).into(),
            user_agent: None,
            protocol_named: false,
            batch: false,
            // Whoever comes is served where they are, as those are who have been sent on already.
            moved: true,
            deflate: None,
            inflate_window: Vec::new(),
            claims: Claims {
                user: user.into(),
                expires_unix_s: None,
                permissions: None,
                rooms: rooms.iter().map(|room| room.as_str().into()).collect(),
            },
            auth_request_id: None,
            created_unix_ms: now.unix_ms,
            received_messages: 0,
            received_bytes: 0,
            leftover: Vec::new(),
        });
        trace!(self, "{user} comes to node {node} as {session}");
        self.feed(node, home.index(), Event::Adopted { conn, state });
        session
    }

    /// A client goes away.
    pub fn disconnect(&mut self, node: usize, shard: usize, slot: u32) {
        let Some(seat) = self.nodes[node].hosts[shard].seats.remove(&slot) else { return };
        trace!(self, "{} leaves node {node} ({})", seat.user, seat.session);
        self.ledger.ended(seat.session, self.net.now_ms);
        self.feed(node, shard, Event::Ended { conn: seat.conn });
    }

    /// A client says something.
    pub fn say(&mut self, node: usize, shard: usize, slot: u32, request: &Value) {
        let bytes = frame(true, false, TEXT, request.to_string().as_bytes(), &mut self.rng);
        if let Some(seat) = self.nodes[node].hosts[shard].seats.get_mut(&slot) {
            seat.said.push_back(bytes);
        }
    }

    /// Gives an event to a shard, and does what comes of it, unless the node dies in the middle.
    pub fn feed(&mut self, node: usize, shard: usize, event: Event<'_>) {
        if !self.step(node) {
            return;
        }
        let now = self.now(node);
        self.nodes[node].hosts[shard].shard.handle(event, now);
        self.act(node, shard);
        self.flush(node, shard);
    }

    pub(super) fn turn_of(&mut self, node: usize, shard: usize) {
        self.take_bus(node, shard);
        self.take_envelopes(node, shard);
        self.receive(node, shard);
        self.tick(node, shard);
        self.pass_on_envelopes(node, shard);
        let now = self.now(node);
        if let Some(host) = self.nodes[node].hosts.get_mut(shard) {
            host.shard.end_turn(now);
            self.act(node, shard);
        }
        if let Some(host) = self.nodes[node].hosts.get_mut(shard) {
            host.wires.flush(&mut self.net);
        }
    }

    fn take_bus(&mut self, node: usize, shard: usize) {
        for _ in 0..self.rng.usize(..60) {
            let Some(host) = self.nodes[node].hosts.get_mut(shard) else { return };
            let Some(incoming) = host.wires.next(&mut self.net) else { break };
            self.feed(node, shard, Event::Bus(incoming));
        }
        let now = self.now(node);
        let Some(host) = self.nodes[node].hosts.get(shard) else { return };
        if host.shard.bus_due_ms(now).is_some_and(|due_ms| due_ms <= now.mono_ms) {
            self.tick_bus(node, shard);
        }
    }

    fn take_envelopes(&mut self, node: usize, shard: usize) {
        while let Some(host) = self.nodes[node].hosts.get_mut(shard)
            && let Some((due_ms, ..)) = host.inbox.front()
            && *due_ms <= self.net.now_ms
            && let Some((_, from, envelope)) = host.inbox.pop_front()
        {
            self.feed(node, shard, Event::Envelope { from, envelope });
        }
    }

    fn receive(&mut self, node: usize, shard: usize) {
        let Some(host) = self.nodes[node].hosts.get(shard) else { return };
        let slots: Vec<u32> = host.seats.keys().copied().collect();
        for slot in slots {
            while let Some(host) = self.nodes[node].hosts.get_mut(shard)
                && let Some(seat) = host.seats.get_mut(&slot).filter(|seat| !seat.paused)
                && let Some(mut data) = seat.said.pop_front()
            {
                let conn = seat.conn;
                self.feed(node, shard, Event::Bytes { conn, data: &mut data });
            }
        }
    }

    fn tick(&mut self, node: usize, shard: usize) {
        let Some(host) = self.nodes[node].hosts.get_mut(shard) else { return };
        if host.next_tick_ms > self.net.now_ms {
            return;
        }
        host.next_tick_ms = self.net.now_ms + TICK_MS;
        self.feed(node, shard, Event::Tick);
        self.tick_bus(node, shard);
    }

    fn tick_bus(&mut self, node: usize, shard: usize) {
        let Some(host) = self.nodes[node].hosts.get(shard) else { return };
        let oldest_unanswered_ms = host.wires.oldest_unanswered_ms(self.net.now_ms);
        self.feed(node, shard, Event::Bus(Incoming::Agent(agent::Event::Tick { oldest_unanswered_ms })));
    }

    /// The mesh: in order, and in its own time.
    fn pass_on_envelopes(&mut self, node: usize, shard: usize) {
        let now = self.now(node);
        for to in 0..self.nodes[node].hosts.len() {
            while let Some(host) = self.nodes[node].hosts.get_mut(shard)
                && let Some(envelope) = host.shard.take_outgoing(ShardId(to as u16), now)
            {
                let due_ms = now.mono_ms + self.rng.u64(..10);
                let inbox = &mut self.nodes[node].hosts[to].inbox;
                let due_ms = due_ms.max(inbox.back().map_or(0, |(due_ms, ..)| *due_ms));
                inbox.push_back((due_ms, ShardId(shard as u16), envelope));
            }
        }
        self.act(node, shard);
    }

    fn act(&mut self, node: usize, shard: usize) {
        while let Some(host) = self.nodes[node].hosts.get_mut(shard)
            && let Some(action) = host.shard.next_action()
        {
            if !self.step(node) {
                return;
            }
            let host = &mut self.nodes[node].hosts[shard];
            match action {
                Action::Bus(outgoing) => host.wires.carry_out(outgoing, &mut self.net, &mut self.rng),
                Action::PauseReading { conn } => {
                    host.seats.entry(conn.slot).and_modify(|seat| seat.paused = true);
                }
                Action::ResumeReading { conn } => {
                    host.seats.entry(conn.slot).and_modify(|seat| seat.paused = false);
                }
                Action::Close { conn } => {
                    assert!(!host.seats.contains_key(&conn.slot), "whatever happens, nobody is cut off: {conn:?}");
                }
                Action::CommandDone { outcome, .. } => host.outcomes.push(*outcome),
                action => panic!("nobody has asked for {action:?}"),
            }
        }
    }

    /// A connection is closed because it belongs elsewhere: whatever happens, nobody else is. Its client goes where it was told to go.
    fn closed(&mut self, node: usize, shard: usize, slot: u32) {
        let Some(seat) = self.nodes[node].hosts.get(shard).and_then(|host| host.seats.get(&slot)) else { return };
        let to = seat.sent_to.unwrap_or_else(|| panic!("{} is disconnected ({})", seat.user, seat.session));
        let user = seat.user.clone();
        self.disconnect(node, shard, slot);
        self.come(to, &user);
    }

    /// What is queued for clients arrives there at once.
    fn flush(&mut self, node: usize, shard: usize) {
        let now = self.now(node);
        let mut scratch = [0; 16 * 1024];
        while let Some(host) = self.nodes[node].hosts.get_mut(shard)
            && let Some(conn) = host.shard.next_dirty()
        {
            let bytes = match host.shard.gather(conn, &mut scratch) {
                Gathered::Empty => continue,
                Gathered::Copied(len) => scratch[..len].to_vec(),
                Gathered::Direct(bytes) => bytes.to_vec(),
            };
            host.shard.sent(conn, bytes.len(), bytes.len(), now);
            let Some(seat) = host.seats.get_mut(&conn.slot) else { continue };
            seat.input.extend(bytes);
            let (session, mut said, mut closed) = (seat.session, Vec::new(), false);
            while let Some(frame) = take_frame(&mut seat.input, None) {
                closed |= frame.opcode == CLOSE;
                if frame.opcode == TEXT {
                    said.push(serde_json::from_slice(&frame.payload).expect("JSON"));
                }
            }
            for message in said {
                self.heard(node, shard, conn.slot, session, &message);
            }
            if closed {
                self.closed(node, shard, conn.slot);
            }
        }
        self.act(node, shard);
    }

    fn heard(&mut self, node: usize, shard: usize, slot: u32, session: SessionId, message: &Value) {
        trace!(self, "{session} on node {node} hears {message}");
        let now_ms = self.net.now_ms;
        let number = |field: &str| message[field].as_u64();
        match (message["type"].as_str().expect("a type"), number("id")) {
            ("auth:ok", _) => {
                if let Some(seat) = self.nodes[node].hosts[shard].seats.get_mut(&slot) {
                    seat.begun = true;
                }
                if message.get("local").is_none() {
                    self.ledger.registered(session, now_ms);
                }
            }
            ("message", _) => self.ledger.arrived(number("content").expect("its number"), session),
            ("ok", Some(id)) => {
                let answer = match message["status"].as_str() {
                    None => Answer::Sent,
                    Some("delivered") => Answer::Delivered,
                    Some("offline") => Answer::Offline,
                    status => panic!("{status:?} of message {id}"),
                };
                self.ledger.answered(id, answer, now_ms);
            }
            ("error", id) => {
                assert_eq!(message["code"], "unavailable", "{message}");
                if let Some(id) = id {
                    self.ledger.answered(id, Answer::Unavailable, now_ms);
                }
            }
            ("reconnect", _) => {
                let url = message["url"].as_str().expect("where to");
                let to = (0..NODES).find(|node| url.starts_with(&super::url(*node)));
                if let Some(seat) = self.nodes[node].hosts[shard].seats.get_mut(&slot) {
                    seat.sent_to = Some(to.expect("a node"));
                }
            }
            ("user:joined" | "user:left", _) => {}
            (what, _) => panic!("nobody has asked for {what}: {message}"),
        }
    }
}
