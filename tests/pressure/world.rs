//! One shard, its clients, and a network that takes what they read: just enough of a driver to hurt the shard.

use std::net::SocketAddr;
use std::sync::Arc;

use ringgate::config::{AuthMode, Config};
use ringgate::ids::{ConnectionId, ShardId};
use ringgate::protocol::permission::Permissions;
use ringgate::settings::{Homes, Settings};
use ringgate::shard::Shard;
use ringgate::shard::event::{Action, Event, Gathered};
use ringgate::time::Now;
use serde_json::Value;

pub(crate) struct World {
    pub(crate) shard: Shard,
    pub(crate) now: Now,
    pub(crate) clients: Vec<Client>,
    scratch: Vec<u8>,
    free: Vec<u32>,
    generations: Vec<u32>,
    /// The most that was ever held after an event.
    pub(crate) held_max: u64,
}

pub(crate) struct Client {
    pub(crate) conn: ConnectionId,
    pub(crate) user: String,
    /// The shard has not closed it.
    pub(crate) open: bool,
    /// The shard does not read from it.
    pub(crate) paused: bool,
    /// Sent FIN.
    pub(crate) finished: bool,
    /// Bytes that its socket still takes.
    pub(crate) room: usize,
    blocked: bool,
    received: Vec<u8>,
}

impl Client {
    /// Whether it was sent anything that it has not looked at.
    pub(crate) fn received_any(&self) -> bool {
        !self.received.is_empty()
    }
}

/// What a client heard.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    /// The status line and the fields of an HTTP response.
    Response(String),
    Message(Value),
    Close(u16),
    Control,
}

/// Enough for whoever reads at once.
pub(crate) const ROOM: usize = usize::MAX / 2;

impl World {
    pub(crate) fn new(configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.limits.connections_per_ip = 0;
        config.limits.messages_per_second = 0;
        config.limits.bytes_per_second = 0;
        config.deflate.enabled = false;
        configure(&mut config);
        let settings = Settings {
            verifier: None,
            default_permissions: Arc::new(Permissions::defaults(AuthMode::None)),
            node_id: "test".to_owned(),
            instance: 1,
            homes: Homes::new(1, 7),
            config,
        };
        let now = Now { mono_ms: 5_000, boot_ms: 5_000, unix_ms: 1_790_000_000_000, sub_us: 0 };
        World {
            shard: Shard::new(Arc::new(settings), ShardId(0), 7, now),
            now,
            clients: Vec::new(),
            scratch: vec![0; 16 * 1024],
            free: Vec::new(),
            generations: Vec::new(),
            held_max: 0,
        }
    }

    /// A socket without a byte on it yet.
    pub(crate) fn accept(&mut self, peer: &str) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.generations.push(0);
            (self.generations.len() - 1) as u32
        });
        let conn = ConnectionId { shard: ShardId(0), slot, generation: self.generations[slot as usize] };
        let client = Client {
            conn,
            user: String::new(),
            open: true,
            paused: false,
            finished: false,
            room: ROOM,
            blocked: false,
            received: Vec::new(),
        };
        self.clients.push(client);
        let peer: SocketAddr = peer.parse().unwrap();
        self.handle(Event::Accepted { conn, peer, over_capacity: false });
        self.flush();
        self.clients.len() - 1
    }

    /// A session of this user.
    pub(crate) fn connect(&mut self, user: &str) -> usize {
        let client = self.accept("192.0.2.1:1000");
        self.clients[client].user = user.to_owned();
        self.bytes(client, upgrade(user, "").as_bytes());
        let heard = self.hear(client);
        assert!(matches!(&heard[0], Heard::Response(head) if head.starts_with("HTTP/1.1 101")), "{heard:?}");
        assert!(matches!(&heard[1], Heard::Message(message) if message["type"] == "auth:ok"), "{heard:?}");
        client
    }

    /// The client sends bytes.
    pub(crate) fn bytes(&mut self, client: usize, bytes: &[u8]) {
        if self.clients[client].open {
            let conn = self.clients[client].conn;
            self.handle(Event::Bytes { conn, data: &mut bytes.to_vec() });
            self.flush();
        }
    }

    /// The client sends a message.
    pub(crate) fn say(&mut self, client: usize, message: &Value) {
        self.bytes(client, &text(&message.to_string()));
    }

    /// The client's socket takes so many bytes more.
    pub(crate) fn read(&mut self, client: usize, bytes: usize) {
        let reader = &mut self.clients[client];
        reader.room = reader.room.saturating_add(bytes).min(ROOM);
        if reader.open && std::mem::take(&mut reader.blocked) {
            let conn = reader.conn;
            self.handle(Event::Writable { conn });
            self.flush();
        }
    }

    /// The client is gone.
    pub(crate) fn end(&mut self, client: usize) {
        if self.clients[client].open {
            let conn = self.clients[client].conn;
            self.handle(Event::Ended { conn });
            self.flush();
        }
    }

    /// Time passes, with its ticks.
    pub(crate) fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now.mono_ms += 100;
            self.now.boot_ms += 100;
            self.now.unix_ms += 100;
            self.handle(Event::Tick);
            self.flush();
        }
    }

    /// What a client has heard since this was last asked.
    pub(crate) fn hear(&mut self, client: usize) -> Vec<Heard> {
        let received = &mut self.clients[client].received;
        let mut heard = Vec::new();
        while !received.is_empty() {
            let (what, used) = if received.starts_with(b"HTTP") {
                let end = received.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head") + 4;
                let head = String::from_utf8(received[..end].to_vec()).unwrap();
                let used = if head.contains(" 101 ") { end } else { received.len() };
                (Heard::Response(head), used)
            } else {
                let Some((opcode, payload, used)) = frame(received) else { break };
                let what = match opcode {
                    1 => Heard::Message(serde_json::from_slice(payload).unwrap()),
                    8 => Heard::Close(u16::from_be_bytes([payload[0], payload[1]])),
                    _ => Heard::Control,
                };
                (what, used)
            };
            received.drain(..used);
            heard.push(what);
        }
        heard
    }

    /// The messages among it, of one kind.
    pub(crate) fn messages(&mut self, client: usize, kind: &str) -> Vec<Value> {
        let heard = self.hear(client).into_iter();
        heard
            .filter_map(|h| if let Heard::Message(m) = h { Some(m) } else { None })
            .filter(|m| m["type"] == kind)
            .collect()
    }

    fn handle(&mut self, event: Event<'_>) {
        self.shard.handle(event, self.now);
        self.held_max = self.held_max.max(self.shard.gauges().held_bytes);
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.shard.next_action() {
            match action {
                Action::CommandDone { .. }
                | Action::Probe { .. }
                | Action::Tell(_)
                | Action::Ask { .. }
                | Action::Bus(_)
                | Action::Left => {
                    unreachable!("nobody asks for anything")
                }
                Action::Close { conn } => {
                    let client = self.client(conn);
                    assert!(client.open, "closed twice");
                    client.open = false;
                    self.generations[conn.slot as usize] += 1;
                    self.free.push(conn.slot);
                }
                Action::PauseReading { conn } => self.client(conn).paused = true,
                Action::ResumeReading { conn } => self.client(conn).paused = false,
                Action::ShutdownWrite { conn } => self.client(conn).finished = true,
                Action::HandOver { .. } | Action::CloseListener | Action::Drained => panic!("{action:?}"),
            }
        }
    }

    fn client(&mut self, conn: ConnectionId) -> &mut Client {
        self.clients.iter_mut().rev().find(|c| c.conn == conn).unwrap()
    }

    fn flush(&mut self) {
        while let Some(conn) = self.shard.next_dirty() {
            let (data, offered): (Vec<u8>, usize) = match self.shard.gather(conn, &mut self.scratch) {
                Gathered::Empty => (Vec::new(), 0),
                Gathered::Direct(bytes) => (bytes.to_vec(), bytes.len()),
                Gathered::Copied(len) => (self.scratch[..len].to_vec(), len),
            };
            let client = self.client(conn);
            let taken = offered.min(client.room);
            client.room -= taken;
            client.blocked |= taken < offered;
            client.received.extend_from_slice(&data[..taken]);
            self.shard.sent(conn, offered, taken, self.now);
            self.act();
        }
    }
}

pub(crate) fn upgrade(user: &str, fields: &str) -> String {
    format!(
        "GET /ws?user_id={user} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
    )
}

/// A masked text frame (with the mask 0).
pub(crate) fn text(payload: &str) -> Vec<u8> {
    header(0x81, payload.len()).into_iter().chain(payload.bytes()).collect()
}

/// The header of a masked frame.
pub(crate) fn header(first: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    match len {
        0..=125 => bytes.push(0x80 | len as u8),
        126..=0xffff => bytes.extend([0x80 | 126, (len >> 8) as u8, len as u8]),
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes
}

/// The first frame of what a client received: opcode, payload, size.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (len, at) = match *bytes.get(1)? {
        126 => (usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])), 4),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize, 10),
        len => (usize::from(len), 2),
    };
    Some((bytes[0] & 0x0f, bytes.get(at..at + len)?, at + len))
}
