//! Several shards on one thread: the driver that `src/shard/event.rs` asks for, over modelled sockets, mesh and clock.
//!
//! Everything is drawn from one seed. The driver is as awkward as the contract lets it be: it reads and writes any number of bytes, takes
//! any time to deliver, has full queues, loses connections at any moment, and reuses rows at once.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use fastrand::Rng;
use ringgate::config::Config;
use ringgate::ids::{ConnectionId, ShardId};
use ringgate::limits::{HANDOVER_LEFTOVER_BYTES_MAX, RECEIVE_BYTES, TICK_MS};
use ringgate::settings::Settings;
use ringgate::shard::event::{Action, Event, Gathered, Handover};
use ringgate::shard::{Held, Shard};
use ringgate::time::Now;

use crate::net::{Lane, Socket};
use crate::setup::{Faults, settings};

/// A row of the driver.
#[derive(Clone, Copy, Debug)]
struct Seat {
    conn: ConnectionId,
    socket: usize,
    paused: bool,
    blocked: bool,
    told_end: bool,
    told_reset: bool,
}

/// A shard and what its driver keeps for it.
pub struct Host {
    pub shard: Shard,
    seats: Vec<Option<Seat>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    /// Rows that the kernel is not done with yet: until which turn.
    retiring: VecDeque<(u64, u32)>,
    backlog: VecDeque<(usize, SocketAddr)>,
    pub listening: bool,
    pub drained: u32,
    /// What came of the commands of the server API.
    pub answers: Vec<(u64, ringgate::protocol::command::Outcome)>,
    /// What services are asked, and nobody has answered.
    pub questions: Vec<(ConnectionId, u32, serde_json::Value)>,
    next_tick_ms: u64,
}

/// A connection between shards.
struct Moving {
    due: u64,
    to: usize,
    socket: usize,
    state: Vec<u8>,
}

/// The whole world but its clients.
pub struct World {
    pub hosts: Vec<Host>,
    pub sockets: Vec<Socket>,
    pub now: Now,
    pub faults: Faults,
    pub rng: Rng,
    pub settings: Arc<Settings>,
    pub turns: u64,
    /// Sockets whose connection was made to panic.
    pub panicked: Vec<usize>,
    /// The process holds as many connections as it may.
    pub over_capacity: bool,
    lanes: Vec<Vec<Lane>>,
    moving: Vec<Moving>,
    scratch: Vec<u8>,
}

impl World {
    pub fn new(config: Config, shards: u16, faults: Faults, seed: u64) -> Self {
        let settings = settings(config, shards, seed);
        let now = Now { mono_ms: 5_000, boot_ms: 5_000, unix_ms: 1_790_000_000_000, sub_us: 0 };
        let host = |index| Host {
            shard: Shard::new(settings.clone(), ShardId(index), seed ^ u64::from(index), now),
            seats: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            retiring: VecDeque::new(),
            backlog: VecDeque::new(),
            listening: true,
            drained: 0,
            answers: Vec::new(),
            questions: Vec::new(),
            next_tick_ms: now.mono_ms,
        };
        World {
            hosts: (0..shards).map(host).collect(),
            sockets: Vec::new(),
            lanes: (0..shards).map(|_| (0..shards).map(|_| Lane::new(faults.lane)).collect()).collect(),
            moving: Vec::new(),
            rng: Rng::with_seed(seed ^ 0x5eed),
            turns: 0,
            panicked: Vec::new(),
            over_capacity: false,
            scratch: vec![0; 16 * 1024],
            settings,
            faults,
            now,
        }
    }

    /// A client connects to a shard of the kernel's choice. Returns its socket.
    pub fn connect(&mut self, peer: SocketAddr, up: usize, down: usize) -> usize {
        let host = self.rng.usize(..self.hosts.len());
        self.connect_to(host, peer, up, down)
    }

    /// A client connects to this shard.
    pub fn connect_to(&mut self, host: usize, peer: SocketAddr, up: usize, down: usize) -> usize {
        self.sockets.push(Socket::new(up, down));
        let socket = self.sockets.len() - 1;
        if self.hosts[host].listening {
            self.hosts[host].backlog.push_back((socket, peer));
        } else {
            self.sockets[socket].reset = true;
        }
        socket
    }

    /// Time passes, on both clocks.
    pub fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.boot_ms += ms;
        self.now.unix_ms += ms;
    }

    /// Every shard takes a turn, in any order.
    pub fn turn(&mut self) {
        self.turns += 1;
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        self.rng.shuffle(&mut order);
        for host in order {
            self.turn_of(host);
        }
    }

    /// Tells a shard something that comes from no socket.
    pub fn tell(&mut self, host: usize, event: Event<'_>) {
        self.hosts[host].shard.handle(event, self.now);
        self.carry_out(host);
    }

    /// Whether nothing is on its way anywhere: whatever happens next comes from a client or a clock.
    pub fn at_rest(&self) -> bool {
        self.moving.is_empty()
            && self.lanes.iter().flatten().all(Lane::is_empty)
            && self.hosts.iter().all(|host| {
                let readable = |seat: &Seat| {
                    let socket = &self.sockets[seat.socket];
                    let up = !seat.paused && (socket.up.len() > 0 || socket.up.at_end() && !seat.told_end);
                    up || socket.reset && !seat.told_reset || seat.blocked && socket.down.room() > 0
                };
                host.backlog.is_empty()
                    && !host.shard.has_dirty()
                    && (0..self.hosts.len() as u16).all(|to| !host.shard.has_outgoing(ShardId(to)))
                    && !host.seats.iter().flatten().any(readable)
            })
    }

    /// What a shard holds.
    pub fn held(&self, host: usize) -> Held {
        self.hosts[host].shard.held()
    }

    /// Rows that were ever in use.
    pub fn rows(&self) -> usize {
        self.hosts.iter().map(|host| host.seats.len()).sum()
    }

    fn chance(&mut self, chance: f64) -> bool {
        chance > 0.0 && self.rng.f64() < chance
    }

    fn turn_of(&mut self, host: usize) {
        let turns = self.turns;
        let h = &mut self.hosts[host];
        while let Some(&(until, slot)) = h.retiring.front()
            && until <= turns
        {
            h.retiring.pop_front();
            h.free.push(slot);
        }
        self.accept(host);
        self.receive(host);
        self.take_envelopes(host);
        self.adopt(host);
        if self.hosts[host].next_tick_ms <= self.now.mono_ms {
            self.hosts[host].next_tick_ms = self.now.mono_ms + TICK_MS;
            self.hosts[host].shard.handle(Event::Tick, self.now);
        }
        self.carry_out(host);
        self.flush(host);
        self.carry_out(host);
        self.send_outgoing(host);
        self.carry_out(host);
    }

    fn seat(&mut self, host: usize, socket: usize) -> ConnectionId {
        let h = &mut self.hosts[host];
        let slot = h.free.pop().unwrap_or_else(|| {
            h.seats.push(None);
            h.generations.push(0);
            h.seats.len() as u32 - 1
        });
        let generation = &mut h.generations[slot as usize];
        *generation = generation.wrapping_add(1);
        let conn = ConnectionId { shard: ShardId(host as u16), slot, generation: *generation };
        h.seats[slot as usize] =
            Some(Seat { conn, socket, paused: false, blocked: false, told_end: false, told_reset: false });
        conn
    }

    fn find(&mut self, host: usize, conn: ConnectionId) -> Option<&mut Seat> {
        self.hosts[host].seats.get_mut(conn.slot as usize)?.as_mut().filter(|seat| seat.conn == conn)
    }

    fn accept(&mut self, host: usize) {
        while let Some((socket, peer)) = self.hosts[host].backlog.pop_front() {
            let conn = self.seat(host, socket);
            let event = Event::Accepted { conn, peer, over_capacity: self.over_capacity };
            self.hosts[host].shard.handle(event, self.now);
        }
    }

    /// One pass over the sockets that have anything to say.
    fn receive(&mut self, host: usize) {
        let count = self.hosts[host].seats.len();
        let first = if count == 0 { 0 } else { self.rng.usize(..count) };
        for at in 0..count {
            let slot = (first + at) % count;
            let Some(seat) = self.hosts[host].seats[slot] else { continue };
            if self.chance(self.faults.skip) {
                continue;
            }
            self.receive_from(host, slot, seat);
        }
    }

    fn receive_from(&mut self, host: usize, slot: usize, seat: Seat) {
        let conn = seat.conn;
        let socket = &mut self.sockets[seat.socket];
        if socket.reset {
            if !seat.told_reset {
                self.hosts[host].seats[slot] = Some(Seat { told_reset: true, ..seat });
                self.hosts[host].shard.handle(Event::Ended { conn }, self.now);
            }
            return;
        }
        let panics = self.rng.f64() < self.faults.panic;
        let short = self.rng.f64() < self.faults.short_read;
        let socket = &mut self.sockets[seat.socket];
        if seat.blocked && socket.down.room() > 0 {
            self.hosts[host].seats[slot] = Some(Seat { blocked: false, ..seat });
            self.hosts[host].shard.handle(Event::Writable { conn }, self.now);
        }
        let available = socket.up.len().min(RECEIVE_BYTES);
        if !seat.paused && available > 0 {
            let len = if short { self.rng.usize(1..=available) } else { available };
            let mut data = socket.up.read(len);
            if panics {
                self.panicked.push(seat.socket);
                self.hosts[host].shard.handle(Event::Panicked { conn, sending: false }, self.now);
            } else {
                self.hosts[host].shard.handle(Event::Bytes { conn, data: &mut data }, self.now);
            }
        }
        // As after RDHUP: what was the last of the bytes, and the end, come together.
        if !seat.paused && !seat.told_end && self.sockets[seat.socket].up.at_end() {
            if let Some(seat) = &mut self.hosts[host].seats[slot] {
                seat.told_end = true;
            }
            self.hosts[host].shard.handle(Event::Ended { conn }, self.now);
        }
    }

    fn take_envelopes(&mut self, host: usize) {
        for from in 0..self.hosts.len() {
            while let Some(envelope) = self.lanes[from][host].pop(self.turns) {
                let from = ShardId(from as u16);
                self.hosts[host].shard.handle(Event::Envelope { from, envelope }, self.now);
            }
        }
    }

    fn adopt(&mut self, host: usize) {
        while let Some(at) = self.moving.iter().position(|m| m.to == host && m.due <= self.turns) {
            let Moving { socket, state, .. } = self.moving.remove(at);
            let state: Handover = postcard::from_bytes(&state).expect("what was handed over can be read");
            let conn = self.seat(host, socket);
            self.hosts[host].shard.handle(Event::Adopted { conn, state: Box::new(state) }, self.now);
        }
    }

    fn carry_out(&mut self, host: usize) {
        while let Some(action) = self.hosts[host].shard.next_action() {
            match action {
                Action::Close { conn } => self.close(host, conn),
                Action::ShutdownWrite { conn } => {
                    if let Some(socket) = self.find(host, conn).map(|seat| seat.socket) {
                        self.sockets[socket].down.fin = true;
                    }
                }
                Action::PauseReading { conn } => {
                    if let Some(seat) = self.find(host, conn) {
                        seat.paused = true;
                    }
                }
                Action::ResumeReading { conn } => {
                    if let Some(seat) = self.find(host, conn) {
                        seat.paused = false;
                    }
                }
                Action::HandOver { conn, to, state } => {
                    assert_ne!(to.index(), host, "nobody is handed over to where it is");
                    assert!(state.leftover.len() <= HANDOVER_LEFTOVER_BYTES_MAX, "too much for one datagram");
                    let Some(socket) = self.vacate(host, conn) else { panic!("{conn:?} has no socket to hand over") };
                    let state = postcard::to_allocvec(&*state).expect("a hand-over can be written");
                    let due = self.turns + self.rng.u64(..=self.faults.delay);
                    self.moving.push(Moving { due, to: to.index(), socket, state });
                }
                Action::Tell(_) => unreachable!("nobody listens"),
                Action::Bus(_) | Action::Left => unreachable!("there is no cluster"),
                Action::Ask { conn, number, question } => {
                    let body = serde_json::from_slice(&question.body).expect("a question is JSON");
                    self.hosts[host].questions.push((conn, number, body));
                }
                Action::CommandDone { ticket, outcome } => self.hosts[host].answers.push((ticket, *outcome)),
                Action::Probe { ticket, conns } => {
                    let rtts_us = vec![None; conns.len()];
                    self.hosts[host].shard.handle(Event::Probed { ticket, rtts_us }, self.now);
                }
                Action::CloseListener => {
                    self.hosts[host].listening = false;
                    while let Some((socket, _)) = self.hosts[host].backlog.pop_front() {
                        self.sockets[socket].reset = true;
                    }
                }
                Action::Drained => self.hosts[host].drained += 1,
            }
        }
    }

    fn vacate(&mut self, host: usize, conn: ConnectionId) -> Option<usize> {
        let socket = self.find(host, conn)?.socket;
        let until = self.turns + self.rng.u64(..=self.faults.delay);
        let h = &mut self.hosts[host];
        h.seats[conn.slot as usize] = None;
        h.retiring.push_back((until, conn.slot));
        Some(socket)
    }

    /// As the kernel does: unread input makes a reset of the close, and that may overtake what is still on its way to the client.
    fn close(&mut self, host: usize, conn: ConnectionId) {
        let Some(socket) = self.vacate(host, conn) else { panic!("{conn:?} was closed twice") };
        let unread = self.sockets[socket].up.len() > 0;
        let lost = unread && self.faults.short_read > 0.0 && self.rng.bool();
        let socket = &mut self.sockets[socket];
        socket.closed = true;
        socket.down.fin = true;
        socket.reset |= unread;
        if lost {
            socket.down.clear();
        }
    }

    fn flush(&mut self, host: usize) {
        let mut rounds = 0;
        while let Some(conn) = self.hosts[host].shard.next_dirty() {
            rounds += 1;
            assert!(rounds < 1_000_000, "flushing does not come to an end");
            let seat = *self.find(host, conn).unwrap_or_else(|| panic!("{conn:?} is dirty and has no socket"));
            let bytes = match self.hosts[host].shard.gather(conn, &mut self.scratch) {
                Gathered::Empty => continue,
                Gathered::Copied(len) => self.scratch[..len].to_vec(),
                Gathered::Direct(bytes) => bytes.to_vec(),
            };
            assert!(!bytes.is_empty(), "nothing was gathered, and not called that");
            assert!(!seat.blocked, "{conn:?} is flushed before it is writable");
            let short = self.rng.f64() < self.faults.short_write;
            let most = if short { self.rng.usize(..=bytes.len()) } else { bytes.len() };
            let socket = &mut self.sockets[seat.socket];
            if socket.reset {
                // EPIPE.
                self.hosts[host].shard.handle(Event::Ended { conn }, self.now);
                continue;
            }
            let taken = socket.down.write(&bytes, most);
            if let Some(seat) = self.find(host, conn) {
                seat.blocked = taken < bytes.len();
            }
            self.hosts[host].shard.sent(conn, bytes.len(), taken, self.now);
        }
    }

    fn send_outgoing(&mut self, host: usize) {
        for to in 0..self.hosts.len() {
            if self.chance(self.faults.lane_stuck) {
                continue;
            }
            let shard = ShardId(to as u16);
            while !self.lanes[host][to].is_full() && self.hosts[host].shard.has_outgoing(shard) {
                let announced = self.hosts[host].shard.outgoing_bytes(shard).expect("there is one");
                let envelope = self.hosts[host].shard.take_outgoing(shard, self.now).expect("there is one");
                assert_eq!(announced, envelope.payload_bytes());
                let due = self.turns + 1 + self.rng.u64(..=self.faults.delay);
                self.lanes[host][to].push(envelope, due);
            }
        }
    }

    /// Changes the room in all queues between shards.
    pub fn set_lanes(&mut self, capacity: usize) {
        self.lanes.iter_mut().flatten().for_each(|lane| lane.capacity = capacity);
    }
}
