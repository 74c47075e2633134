//! One connection as the generator sees it: from connect(2) through upgrade, `auth:ok` and `join` to ready, and the
//! frames that come in.

use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;

use crate::content::Flow;
use crate::control::Command;
use crate::frame::{self, Parsed};
use crate::sys::Socket;
use crate::worker::Worker;

/// Room for one recv(2).
const RECEIVE_BYTES: usize = 256 * 1024;
/// What may wait for a server that does not read; more is counted as unsent.
const PENDING_BYTES_MAX: usize = 16 << 20;
const ATTEMPTS_MAX: u8 = 6;
/// Connections per source address: well below its number of ports.
const SOURCE_CONNECTIONS: u32 = 10_000;
/// The example of RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Absent,
    Connecting,
    Upgrading,
    Authenticating,
    Joining,
    Ready,
}

/// The row of a connection.
pub(crate) struct Connection {
    pub(crate) socket: Option<Socket>,
    pub(crate) state: State,
    /// Tells events of this socket from those of the one before it.
    pub(crate) generation: u16,
    pub(crate) attempts: u8,
    /// When the connect was meant to begin.
    pub(crate) began: u64,
    /// Messages sent to the room, or echoed.
    pub(crate) sent: u32,
    /// Direct messages sent.
    pub(crate) pair_sent: u32,
    /// Direct messages sent to another node.
    pub(crate) hop_sent: u32,
    /// The front of a frame that is still arriving.
    partial: Vec<u8>,
    /// What the kernel did not take yet.
    pending: Vec<u8>,
}

impl Connection {
    pub(crate) fn new() -> Connection {
        Connection {
            socket: None,
            state: State::Absent,
            generation: 0,
            attempts: 0,
            began: 0,
            sent: 0,
            pair_sent: 0,
            hop_sent: 0,
            partial: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// Whether there is room for more to send.
    pub(crate) fn takes_more(&self) -> bool {
        self.pending.len() < PENDING_BYTES_MAX
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(bytes);
            return Ok(());
        }
        let Some(socket) = &self.socket else { return Ok(()) };
        let sent = match socket.send(bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.pending.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    /// Tries again to send what was left over.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        self.send(&pending)
    }

    /// Ends the connection, if there is one, at once.
    pub(crate) fn cut(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.reset();
        }
        self.state = State::Absent;
        self.partial = Vec::new();
        self.pending = Vec::new();
    }
}

impl Worker<'_> {
    /// Starts to connect the `i`th connection of this worker.
    pub(crate) fn start(&mut self, i: usize, began: u64) {
        let index = self.first + i as u32;
        let target = self.target(index);
        let source = index / SOURCE_CONNECTIONS;
        let source = Ipv4Addr::new(127, 0, (source / 250) as u8, (source % 250) as u8 + 2);
        // Who does not read shall not have half a megabyte read for them by the kernel.
        let receive_buffer = self.plan.is_slow(index).then_some(8192);
        let connection = &mut self.connections[i];
        connection.generation = connection.generation.wrapping_add(1);
        if connection.attempts == 0 {
            connection.began = began;
        }
        let token = i | usize::from(connection.generation) << 32;
        let socket = Socket::connect(source, target, receive_buffer);
        let added = socket.and_then(|socket| self.epoll.add(&socket, token).map(|()| socket));
        self.inflight += 1;
        connection.state = State::Connecting;
        match added {
            Ok(socket) => connection.socket = Some(socket),
            Err(error) => self.ended(i, &format!("connect: {error}")),
        }
    }

    /// Connected: asks for the upgrade.
    pub(crate) fn connected(&mut self, i: usize) {
        let index = self.first + i as u32;
        let target = self.target(index);
        let connection = &mut self.connections[i];
        if let Some(Err(error)) = connection.socket.as_ref().map(Socket::take_error) {
            return self.ended(i, &format!("connect: {error}"));
        }
        let mut request = String::with_capacity(256);
        let path =
            if self.plan.echo.is_some() { "/echo".into() } else { format!("/ws?user_id={}", self.control.user(index)) };
        let _ = write!(
            request,
            "GET {path} HTTP/1.1\r\nHost: {target}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        connection.state = State::Upgrading;
        if let Err(error) = connection.send(request.as_bytes()) {
            self.ended(i, &format!("send: {error}"));
        }
    }

    /// Reads until there is nothing more.
    pub(crate) fn receive(&mut self, i: usize, to_the_end: bool) {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            let connection = &mut self.connections[i];
            let Some(socket) = &connection.socket else { break };
            let held = connection.partial.len();
            if buffer.len() < held + RECEIVE_BYTES {
                buffer.resize(held + RECEIVE_BYTES, 0);
            }
            let room = buffer.len() - held;
            let n = match socket.recv(&mut buffer[held..]) {
                Ok(0) => {
                    self.ended(i, "end of stream");
                    break;
                }
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.ended(i, &format!("receive: {error}"));
                    break;
                }
            };
            if held > 0 {
                buffer[..held].copy_from_slice(&connection.partial);
                connection.partial = Vec::new();
            }
            let bytes = &buffer[..held + n];
            let used = self.take_in(i, bytes);
            let connection = &mut self.connections[i];
            if connection.socket.is_some() && used < bytes.len() {
                connection.partial.extend_from_slice(&bytes[used..]);
            }
            // A short read of a stream socket has emptied it; only the end of the stream may still be there.
            if n < room && !to_the_end {
                break;
            }
        }
        self.buffer = buffer;
        if !self.out.is_empty() {
            let out = std::mem::take(&mut self.out);
            self.send(i, &out);
            self.out = out;
            self.out.clear();
        }
    }

    /// Handles all whole frames in `bytes`; how many bytes that were.
    fn take_in(&mut self, i: usize, bytes: &[u8]) -> usize {
        let mut used = 0;
        if self.connections[i].state == State::Upgrading {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return 0 };
            let head = &bytes[..end];
            if !head.starts_with(b"HTTP/1.1 101") || memchr::memmem::find(head, ACCEPT).is_none() {
                let line = String::from_utf8_lossy(head.split(|&byte| byte == b'\r').next().unwrap_or_default());
                self.ended(i, &format!("upgrade: {line}"));
                return bytes.len();
            }
            used = end + 4;
            if self.plan.echo.is_some() {
                self.is_ready(i);
            } else {
                self.connections[i].state = State::Authenticating;
            }
        }
        let now = self.control.now();
        while self.connections[i].socket.is_some() {
            match frame::parse(&bytes[used..]) {
                Parsed::Incomplete => break,
                Parsed::Frame { opcode, payload, len } => {
                    self.frame(i, opcode, payload, now);
                    used += len;
                }
                Parsed::Bad(what) => {
                    self.outcome.tally.errors += 1;
                    self.ended(i, &format!("the server sent {what}"));
                }
            }
        }
        used
    }

    fn frame(&mut self, i: usize, opcode: u8, payload: &[u8], now: u64) {
        match opcode {
            // `auth:ok` carries names that the generator did not choose; no message comes before it.
            frame::TEXT | frame::BINARY if self.connections[i].state == State::Authenticating => {
                self.notice(i, payload);
            }
            frame::TEXT | frame::BINARY => match self.locator.find(payload) {
                Some(at) => self.delivery(i, payload, at, now),
                None => self.notice(i, payload),
            },
            frame::PING => {
                self.outcome.tally.pings += 1;
                frame::append(&mut self.out, frame::PONG, &[payload]);
            }
            frame::CLOSE => self.ended(i, &format!("close {}", frame::close_code(payload))),
            _ => {}
        }
    }

    /// A message of the gateway itself.
    fn notice(&mut self, i: usize, payload: &[u8]) {
        const TYPE: &[u8] = b"\"type\":\"";
        let kind = memchr::memmem::find(payload, TYPE)
            .and_then(|at| payload[at + TYPE.len()..].split(|&byte| byte == b'"').next())
            .unwrap_or_default();
        match (kind, self.connections[i].state) {
            (b"auth:ok", State::Authenticating) => self.join(i),
            (b"ok", State::Joining) => self.is_ready(i),
            (b"error" | b"auth:fail", state) => {
                self.outcome.tally.errors += 1;
                let text = String::from_utf8_lossy(payload).into_owned();
                self.outcome.note(format!("{state:?}: {text}"));
                if state != State::Ready {
                    self.ended(i, "refused by the protocol");
                }
            }
            (b"gap", _) => {
                let gap: Option<serde_json::Value> = serde_json::from_slice(payload).ok();
                self.outcome.tally.gaps += gap.and_then(|gap| gap.get("dropped")?.as_u64()).unwrap_or(1);
            }
            _ => self.outcome.tally.notices += 1,
        }
    }

    fn join(&mut self, i: usize) {
        let index = self.first + i as u32;
        let request = match self.plan.room(index) {
            Some(room) if self.plan.is_channel(room) => {
                format!(r#"{{"type":"subscribe","id":1,"channel":"{}"}}"#, self.room_name(room))
            }
            Some(room) => format!(r#"{{"type":"join","id":1,"roomId":"{}"}}"#, self.room_name(room)),
            None if self.plan.is_churner(index) => r#"{"type":"join","id":1,"roomId":"churn"}"#.into(),
            None => return self.is_ready(i),
        };
        self.connections[i].state = State::Joining;
        frame::append(&mut self.out, frame::TEXT, &[request.as_bytes()]);
    }

    fn is_ready(&mut self, i: usize) {
        let index = self.first + i as u32;
        let took = self.control.now().saturating_sub(self.connections[i].began);
        let connection = &mut self.connections[i];
        connection.state = State::Ready;
        connection.attempts = 0;
        self.inflight -= 1;
        self.outcome.tally.ready += 1;
        if self.plan.is_churner(index) && self.command == Command::Run {
            self.outcome.tally.churned += 1;
        } else if let Some(histogram) = self.outcome.connect.last_mut() {
            histogram.saturating_record(took.max(1));
        }
    }

    /// The connection is over, and not because we wanted it.
    pub(crate) fn ended(&mut self, i: usize, how: &str) {
        let index = self.first + i as u32;
        let connection = &mut self.connections[i];
        let state = connection.state;
        connection.cut();
        *self.outcome.closes.entry(how.to_owned()).or_default() += 1;
        let tally = &mut self.outcome.tally;
        if state == State::Ready {
            tally.ready -= 1;
            if self.plan.is_slow(index) {
                tally.slow_closed += 1;
            } else {
                tally.disconnected += 1;
            }
            return;
        }
        self.inflight -= 1;
        tally.refused += 1;
        connection.attempts += 1;
        if connection.attempts < ATTEMPTS_MAX {
            let due = self.control.now() + 100_000_000 * u64::from(connection.attempts);
            self.retries.push_back((due, i));
        } else {
            tally.gave_up += 1;
        }
    }

    /// Sends whole frames on a connection.
    pub(crate) fn send(&mut self, i: usize, bytes: &[u8]) {
        if let Err(error) = self.connections[i].send(bytes) {
            self.ended(i, &format!("send: {error}"));
        }
    }

    pub(crate) fn room_name(&self, room: u32) -> String {
        let prefix = if self.plan.is_channel(room) { 'c' } else { 'r' };
        format!("{prefix}{room:06}")
    }
}

/// Flows whose target is a room need its name; this keeps the match in one place.
pub(crate) fn request_head(worker: &Worker<'_>, flow: Flow, target: u32) -> String {
    match flow {
        Flow::Echo => String::new(),
        Flow::Room if worker.plan.is_channel(target) => {
            format!(r#"{{"type":"publish","channel":"{}","content":""#, worker.room_name(target))
        }
        Flow::Room => format!(r#"{{"type":"message","roomId":"{}","content":""#, worker.room_name(target)),
        Flow::Pair | Flow::Hop => {
            format!(r#"{{"type":"send_message","target_user":"{}","content":""#, worker.control.user(target))
        }
        Flow::Broadcast => r#"{"type":"broadcast","content":""#.into(),
    }
}
