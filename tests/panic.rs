//! A panic while one connection is handled closes that one with 1011, and the shard goes on: over real sockets, with the real state machine.
//!
//! The hook is the seam between driver and state machine, the [`Machine`] trait: what is driven here is the real one in a wrapper that
//! panics when a client says so. So nothing in the program has to be able to panic on request, in no build of it, and all that matters is
//! what is shipped: the reactor that catches, the state machine that was interrupted, the close frame on the wire.
#![allow(unsafe_code)]

mod io_support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use io_support::{DRIVERS, PATIENCE, eventually, plan};
use ringgate::config::{AuthMode, Config};
use ringgate::ids::{ConnectionId, ShardId};
use ringgate::io::machine::Machine;
use ringgate::io::shards::Shards;
use ringgate::protocol::envelope::Envelope;
use ringgate::protocol::permission::Permissions;
use ringgate::settings::{Homes, Settings};
use ringgate::shard::Shard;
use ringgate::shard::event::{Action, Event, Gathered};
use ringgate::time::Now;

const SHARDS: u16 = 2;

/// When to panic, as a client says in its bytes.
const BEFORE: &[u8] = b"panic before";
const AFTER: &[u8] = b"panic after";
/// When to panic instead, as a client says: with the next thing that is sent to it, and once it has been sent.
const GATHER: &[u8] = b"panic gather";
const SENT: &[u8] = b"panic sent";
/// And in the handling of the panic, too.
const TWICE: &[u8] = b"panic twice";

/// The real state machine, which panics before it handles an event, or when it has changed everything that the event changes.
struct Fragile {
    shard: Shard,
    caught: Arc<AtomicU64>,
    gather: Option<ConnectionId>,
    sent: Option<ConnectionId>,
    twice: Option<ConnectionId>,
}

impl Fragile {
    fn new(shard: Shard, caught: Arc<AtomicU64>) -> Self {
        Fragile { shard, caught, gather: None, sent: None, twice: None }
    }
}

// SAFETY: every call goes to the shard, which keeps the contract.
unsafe impl Machine for Fragile {
    fn handle(&mut self, event: Event<'_>, now: Now) {
        self.caught.fetch_add(u64::from(matches!(event, Event::Panicked { .. })), Ordering::Relaxed);
        let says = |word: &[u8]| match &event {
            // Clients here mask with zeros.
            Event::Bytes { data, .. } => data.windows(word.len()).any(|w| w == word),
            _ => false,
        };
        let (before, after, twice) = (says(BEFORE), says(AFTER), says(TWICE));
        if let Event::Bytes { conn, .. } = &event {
            self.gather = says(GATHER).then_some(*conn).or(self.gather);
            self.sent = says(SENT).then_some(*conn).or(self.sent);
            self.twice = twice.then_some(*conn).or(self.twice);
        }
        assert!(!before && !twice, "before, as a client asked for");
        if let Event::Panicked { conn, .. } = &event {
            assert!(self.twice.take_if(|twice| twice == conn).is_none(), "again, as a client asked for");
        }
        self.shard.handle(event, now);
        assert!(!after, "after, as a client asked for");
    }
    fn next_action(&mut self) -> Option<Action> {
        self.shard.next_action()
    }
    fn next_dirty(&mut self) -> Option<ConnectionId> {
        self.shard.next_dirty()
    }
    fn gather<'a>(&'a mut self, conn: ConnectionId, scratch: &'a mut [u8]) -> Gathered<'a> {
        assert!(self.gather.take_if(|gather| *gather == conn).is_none(), "gathering, as a client asked for");
        self.shard.gather(conn, scratch)
    }
    fn sent(&mut self, conn: ConnectionId, offered: usize, bytes: usize, now: Now) {
        self.shard.sent(conn, offered, bytes, now);
        assert!(self.sent.take_if(|sent| *sent == conn).is_none(), "sent, as a client asked for");
    }
    fn outgoing_bytes(&self, to: ShardId) -> Option<usize> {
        self.shard.outgoing_bytes(to)
    }
    fn take_outgoing(&mut self, to: ShardId, now: Now) -> Option<Envelope> {
        self.shard.take_outgoing(to, now)
    }
}

fn settings() -> Arc<Settings> {
    let mut config = Config::default();
    config.limits.connections_per_ip = 0;
    Arc::new(Settings {
        verifier: None,
        default_permissions: Arc::new(Permissions::defaults(AuthMode::None)),
        node_id: "test".to_owned(),
        instance: 1,
        homes: Homes::new(SHARDS, 7),
        config,
    })
}

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    fn open(shards: &Shards) -> Client {
        let stream = TcpStream::connect(shards.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, received: Vec::new() }
    }

    fn connect(shards: &Shards, user: &str) -> Client {
        let mut client = Client::open(shards);
        let request = format!(
            "GET /ws?user_id={user} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        client.stream.write_all(request.as_bytes()).unwrap();
        client.until("auth:ok");
        client.say(r#"{"type":"join","roomId":"room","id":"in"}"#);
        client.until(r#""id":"in""#);
        client
    }

    fn say(&mut self, text: &str) {
        let header = [0x81, 0x80 | u8::try_from(text.len()).unwrap().min(125), 0, 0, 0, 0];
        assert!(text.len() <= 125);
        self.stream.write_all(&[&header[..], text.as_bytes()].concat()).unwrap();
    }

    /// Reads until this has been received, and forgets everything up to it.
    fn until(&mut self, what: &str) {
        loop {
            if let Some(at) = self.received.windows(what.len()).position(|w| w == what.as_bytes()) {
                self.received.drain(..at + what.len());
                return;
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the end instead of {what:?}: {:?}", self.received.escape_ascii().to_string()),
                Ok(len) => self.received.extend_from_slice(&buffer[..len]),
                Err(e) => panic!("{e} instead of {what:?}"),
            }
        }
    }

    /// The last bytes before the end of the stream.
    fn last_words(&mut self) -> Vec<u8> {
        match self.stream.read_to_end(&mut self.received) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
        }
        std::mem::take(&mut self.received)
    }
}

#[test]
fn a_panic_closes_one_session_with_1011_and_no_other() {
    for driver in DRIVERS {
        let caught = Arc::new(AtomicU64::new(0));
        let (settings, counter) = (settings(), caught.clone());
        let shards = Shards::start(&plan(driver, SHARDS, false), move |id, now| {
            Fragile::new(Shard::new(settings.clone(), id, 7, now), counter.clone())
        })
        .unwrap();
        // On every shard somebody is in the room with the victims.
        let mut others: Vec<Client> = (0..6).map(|i| Client::connect(&shards, &format!("other{i}"))).collect();
        for round in 0..8 {
            let victim = format!("victim{round}");
            let mut client = Client::connect(&shards, &victim);
            let word = [BEFORE, AFTER][round % 2];
            client.say(&format!(r#"{{"type":"leave","roomId":"{}"}}"#, std::str::from_utf8(word).unwrap()));
            let last = client.last_words();
            let close = [&[0x88, 16][..], &1011u16.to_be_bytes(), b"internal error"].concat();
            assert!(last.ends_with(&close), "{}", last.escape_ascii());
            for (i, other) in others.iter_mut().enumerate() {
                // It has left the room, as far as everybody knows, and everybody is still served.
                other.until(&format!(r#""type":"user:left","userId":"{victim}""#));
                other.say(&format!(r#"{{"type":"ping","id":"{round}-{i}"}}"#));
                other.until(&format!(r#""id":"{round}-{i}""#));
            }
        }
        // A request that panics is answered in HTTP.
        let mut early = Client::open(&shards);
        early.stream.write_all(BEFORE).unwrap();
        let last = early.last_words();
        assert!(last.starts_with(b"HTTP/1.1 500 "), "{}", last.escape_ascii());
        let panics = || shards.counters().iter().map(|c| c.panics).sum::<u64>();
        eventually("all panics are counted", || panics() == 9);
        assert_eq!(caught.load(Ordering::Relaxed), 9);
        drop(others);
        eventually("all rows are free", || shards.connections() == 0);
        shards.stop(PATIENCE).unwrap();
    }
}

#[test]
fn a_panic_in_sending_or_in_the_panic_itself_ends_that_connection_only() {
    for driver in DRIVERS {
        let settings = settings();
        let shards = Shards::start(&plan(driver, SHARDS, false), move |id, now| {
            Fragile::new(Shard::new(settings.clone(), id, 7, now), Arc::default())
        })
        .unwrap();
        let mut other = Client::connect(&shards, "other");
        let words = [GATHER, SENT, TWICE];
        for round in 0..9 {
            let mut client = Client::connect(&shards, &format!("victim{round}"));
            let word = std::str::from_utf8(words[round % words.len()]).unwrap();
            // The answer to it is what cannot be sent.
            client.say(&format!(r#"{{"type":"ping","id":"{word}"}}"#));
            client.last_words();
            other.say(&format!(r#"{{"type":"ping","id":"{round}"}}"#));
            other.until(&format!(r#""id":"{round}""#));
        }
        let panics = || shards.counters().iter().map(|c| c.panics).sum::<u64>();
        eventually("all panics are counted", || panics() == 12);
        drop(other);
        eventually("all rows are free or not used any more", || shards.connections() == 0);
        shards.stop(PATIENCE).unwrap();
    }
}
