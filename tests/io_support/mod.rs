//! A stand-in for the state machine, and clients that check every byte.
#![allow(dead_code, unsafe_code, missing_docs, unreachable_pub)]

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ringgate::ids::{ConnectionId, ShardId};
use ringgate::io::machine::Machine;
use ringgate::io::runtime::DriverKind;
use ringgate::io::shards::{Plan, Shards};
use ringgate::protocol::envelope::Envelope;
use ringgate::shard::event::{Action, Event, Gathered, Handover};
use ringgate::time::Now;

/// No test takes longer.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const DRIVERS: [DriverKind; 2] = [DriverKind::IoUring, DriverKind::Epoll];

/// In a client's bytes: panic.
pub const PANIC: u8 = 0xfe;
/// In a client's bytes: close.
pub const CLOSE: u8 = 0xfd;

/// Queued bytes above which the stand-in stops reading.
const HIGH: usize = 256 * 1024;

#[derive(Default)]
struct Conn {
    generation: u32,
    queue: VecDeque<Box<[u8]>>,
    sent: usize,
    bytes: usize,
    dirty: bool,
    blocked: bool,
    paused: bool,
    hops: u64,
    ended: bool,
}

/// Echoes. Hands every connection over `hops` times first, each time bytes arrive and nothing waits to be sent.
pub struct StandIn {
    id: ShardId,
    shards: u16,
    hops: u64,
    conns: HashMap<u32, Conn>,
    dirty: VecDeque<ConnectionId>,
    actions: VecDeque<Action>,
    draining: bool,
    /// Whether the bytes 0xfd and 0xfe mean something.
    pub obeys: bool,
}

impl StandIn {
    pub fn new(id: ShardId, shards: u16, hops: u64) -> Self {
        StandIn {
            id,
            shards,
            hops,
            conns: HashMap::new(),
            dirty: VecDeque::new(),
            actions: VecDeque::new(),
            draining: false,
            obeys: false,
        }
    }

    fn get(&mut self, conn: ConnectionId) -> Option<&mut Conn> {
        self.conns.get_mut(&conn.slot).filter(|c| c.generation == conn.generation)
    }

    fn echo(&mut self, conn: ConnectionId, data: &[u8]) {
        let Some(c) = self.get(conn) else { return };
        c.queue.push_back(data.into());
        c.bytes += data.len();
        let pause = c.bytes > HIGH && !std::mem::replace(&mut c.paused, true);
        self.mark(conn);
        if pause {
            self.actions.push_back(Action::PauseReading { conn });
        }
    }

    fn mark(&mut self, conn: ConnectionId) {
        if let Some(c) = self.get(conn)
            && c.bytes > 0
            && !c.blocked
            && !std::mem::replace(&mut c.dirty, true)
        {
            self.dirty.push_back(conn);
        }
    }

    fn forget(&mut self, conn: ConnectionId) {
        if self.get(conn).is_some() {
            self.conns.remove(&conn.slot);
            self.dirty.retain(|&d| d != conn);
        }
    }

    fn close(&mut self, conn: ConnectionId) {
        if self.get(conn).is_some() {
            self.forget(conn);
            self.actions.push_back(Action::Close { conn });
        }
        self.maybe_drained();
    }

    fn maybe_drained(&mut self) {
        if self.draining && self.conns.is_empty() {
            self.actions.push_back(Action::Drained);
        }
    }
}

// SAFETY: queued chunks are boxed and leave the queue only in `sent`, or when the connection is closed by an event, which is not during a flush.
unsafe impl Machine for StandIn {
    fn handle(&mut self, event: Event<'_>, _now: Now) {
        match event {
            Event::Accepted { conn, .. } => {
                let c = Conn { generation: conn.generation, ..Conn::default() };
                assert!(self.conns.insert(conn.slot, c).is_none(), "a row in use is given away");
            }
            Event::Adopted { conn, state } => {
                let c = Conn { generation: conn.generation, hops: state.received_messages, ..Conn::default() };
                assert!(self.conns.insert(conn.slot, c).is_none(), "a row in use is given away");
                if !state.leftover.is_empty() {
                    self.echo(conn, &state.leftover);
                }
            }
            Event::Bytes { conn, data } => {
                if self.obeys && data.contains(&PANIC) {
                    panic!("a client asked for it");
                }
                if self.obeys && data.contains(&CLOSE) {
                    return self.close(conn);
                }
                let (id, shards, hops) = (self.id, self.shards, self.hops);
                let Some(c) = self.get(conn) else { panic!("bytes for {conn:?}, which is gone") };
                assert!(!c.ended, "bytes after the end");
                if c.hops < hops && c.bytes == 0 {
                    let state = Box::new(state(c.hops + 1, data));
                    self.forget(conn);
                    let to = ShardId((id.0 + 1) % shards);
                    self.actions.push_back(Action::HandOver { conn, to, state });
                } else {
                    self.echo(conn, data);
                }
            }
            Event::Ended { conn } => {
                let Some(c) = self.get(conn) else { return };
                c.ended = true;
                if c.bytes == 0 {
                    self.close(conn);
                }
            }
            Event::Writable { conn } => {
                let Some(c) = self.get(conn) else { return };
                assert!(std::mem::take(&mut c.blocked), "woken without having been blocked");
                self.mark(conn);
            }
            Event::Panicked { conn, .. } => self.close(conn),
            Event::Command { ticket, .. } => {
                let outcome = Box::new(ringgate::protocol::command::Outcome::Probed);
                self.actions.push_back(Action::CommandDone { ticket, outcome });
            }
            Event::Probed { .. } | Event::Verdict { .. } => {}
            Event::Drain => {
                self.draining = true;
                self.actions.push_back(Action::CloseListener);
                let all: Vec<_> = self.conns.iter().map(|(&slot, c)| (slot, c.generation)).collect();
                for (slot, generation) in all {
                    self.close(ConnectionId { shard: self.id, slot, generation });
                }
                self.maybe_drained();
            }
            Event::Leave => self.actions.push_back(Action::Left),
            Event::Envelope { .. } | Event::Tick | Event::Reload(_) | Event::Bus(_) => {}
        }
    }

    fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn next_dirty(&mut self) -> Option<ConnectionId> {
        self.dirty.pop_front()
    }

    fn gather<'a>(&'a mut self, conn: ConnectionId, scratch: &'a mut [u8]) -> Gathered<'a> {
        let Some(c) = self.conns.get(&conn.slot) else { return Gathered::Empty };
        let Some(first) = c.queue.front() else { return Gathered::Empty };
        if first.len() - c.sent >= 4096 {
            return Gathered::Direct(&first[c.sent..]);
        }
        let mut len = 0;
        for (i, chunk) in c.queue.iter().enumerate() {
            let chunk = if i == 0 { &chunk[c.sent..] } else { chunk };
            let n = chunk.len().min(scratch.len() - len);
            scratch[len..][..n].copy_from_slice(&chunk[..n]);
            len += n;
            if n < chunk.len() {
                break;
            }
        }
        Gathered::Copied(len)
    }

    fn sent(&mut self, conn: ConnectionId, offered: usize, bytes: usize, _now: Now) {
        let Some(c) = self.get(conn) else { return };
        c.dirty = false;
        c.blocked = bytes < offered;
        c.bytes -= bytes;
        let mut left = bytes;
        while let Some(first) = c.queue.front() {
            let rest = first.len() - c.sent;
            if left < rest {
                c.sent += left;
                break;
            }
            left -= rest;
            c.sent = 0;
            c.queue.pop_front();
        }
        let resume = c.paused && c.bytes < HIGH / 4;
        c.paused &= !resume;
        let done = c.ended && c.bytes == 0;
        if resume {
            self.actions.push_back(Action::ResumeReading { conn });
        }
        if done {
            return self.close(conn);
        }
        self.mark(conn);
    }

    fn outgoing_bytes(&self, _to: ShardId) -> Option<usize> {
        None
    }

    fn take_outgoing(&mut self, _to: ShardId, _now: Now) -> Option<Envelope> {
        None
    }
}

/// What goes along: the number of hops, and the bytes at hand. The rest is filler, by its serialised form where its type is not ours.
fn state(hops: u64, leftover: &[u8]) -> Handover {
    let claims = serde_json::json!({"user": "u", "expires_unix_s": null, "permissions": null, "rooms": []});
    Handover {
        peer: ([127, 0, 0, 1], 1).into(),
        user_agent: None,
        protocol_named: false,
        batch: false,
        moved: false,
        deflate: None,
        inflate_window: Vec::new(),
        claims: serde_json::from_value(claims).expect("claims"),
        auth_request_id: None,
        created_unix_ms: 0,
        received_messages: hops,
        received_bytes: 0,
        leftover: leftover.to_vec(),
    }
}

pub fn plan(driver: DriverKind, shards: u16, private_tables: bool) -> Plan {
    Plan {
        shards,
        driver,
        pin: false,
        private_tables,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        backlog: 1024,
        connections: 0,
        table_capacity: 10_000,
    }
}

pub fn start(plan: &Plan, hops: u64, obeys: bool) -> Shards {
    let shards = plan.shards;
    Shards::start(plan, move |id, _| StandIn { obeys, ..StandIn::new(id, shards, hops) }).expect("start")
}

/// The byte at a position of a client's stream: never [`PANIC`] or [`CLOSE`].
pub fn byte_at(client: usize, position: u64) -> u8 {
    let mixed = (position ^ (client as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (mixed % 0xf0) as u8
}

/// One client that writes its stream and checks the echo.
pub struct Client {
    index: usize,
    pub stream: TcpStream,
    pub written: u64,
    pub read: u64,
    pub length: u64,
    shut: bool,
    pub done: bool,
}

impl Client {
    pub fn connect(address: SocketAddr, index: usize, length: u64) -> Client {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_nonblocking(true).expect("nonblocking");
        Client { index, stream, written: 0, read: 0, length, shut: false, done: false }
    }

    /// Writes and reads a little; whether anything moved.
    pub fn step(&mut self, chunk: usize, reads: bool) -> bool {
        let mut moved = false;
        let mut buffer = vec![0; chunk.max(1)];
        if self.written < self.length {
            let n = (buffer.len() as u64).min(self.length - self.written) as usize;
            for (i, byte) in buffer[..n].iter_mut().enumerate() {
                *byte = byte_at(self.index, self.written + i as u64);
            }
            match self.stream.write(&buffer[..n]) {
                Ok(n) => {
                    self.written += n as u64;
                    moved = true;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => panic!("client {}: write at {}: {e}", self.index, self.written),
            }
        } else if !std::mem::replace(&mut self.shut, true) {
            self.stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
        }
        while reads && !self.done {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    assert_eq!(self.read, self.length, "client {}: the stream ends early", self.index);
                    self.done = true;
                    moved = true;
                }
                Ok(n) => {
                    for (i, &byte) in buffer[..n].iter().enumerate() {
                        let position = self.read + i as u64;
                        assert_eq!(byte, byte_at(self.index, position), "client {} at {position}", self.index);
                    }
                    self.read += n as u64;
                    moved = true;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("client {}: read at {}: {e}", self.index, self.read),
            }
        }
        moved
    }
}

/// Runs all clients until each has had its whole stream back and seen the end.
pub fn run_clients(clients: &mut [Client], chunk: impl Fn(usize, u64) -> usize) {
    let deadline = Instant::now() + PATIENCE;
    let mut round = 0;
    while clients.iter().any(|c| !c.done) {
        let mut moved = false;
        for (i, client) in clients.iter_mut().enumerate().filter(|(_, c)| !c.done) {
            moved |= client.step(chunk(i, round), true);
        }
        round += 1;
        if !moved {
            std::thread::yield_now();
        }
        if Instant::now() > deadline {
            let stuck: Vec<_> = clients.iter().filter(|c| !c.done).map(|c| (c.index, c.written, c.read)).collect();
            panic!("no end: (client, written, read) {stuck:?}");
        }
    }
}

/// Waits for something to become true.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads to the end; an end by reset counts too where bytes were left unread.
pub fn sees_end(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(false).expect("blocking");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() == ErrorKind::ConnectionReset,
        }
    }
}
