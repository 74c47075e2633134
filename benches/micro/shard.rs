//! The whole state machine without a kernel: bytes of a client in, bytes to clients out.

use std::net::SocketAddr;
use std::sync::Arc;

use ringgate::config::Config;
use ringgate::ids::{ConnectionId, ShardId};
use ringgate::protocol::Permissions;
use ringgate::settings::{Homes, Settings};
use ringgate::shard::Shard;
use ringgate::shard::event::{Event, Gathered};
use ringgate::time::Now;

use crate::codec::client_frame;
use crate::harness::Bench;

const NOW: Now = Now { mono_ms: 1_000_000, boot_ms: 1_000_000, unix_ms: 1_700_000_000_000, sub_us: 0 };

pub(crate) fn shard(bench: &Bench) {
    bench.group("shard");
    let text = "x".repeat(200);
    let mut echo = World::new(1, "/echo");
    for count in [1, 16] {
        let frames = client_frame(1, text.as_bytes()).repeat(count);
        let bytes = frames.len() as u64;
        bench.run("shard", &format!("echo of 200 B, {count} at once"), count as u64, bytes, || echo.send(0, &frames));
    }

    let mut pair = World::new(2, "/ws");
    let request = format!(r#"{{"type":"send_message","target_user":"u1","content":"{text}"}}"#);
    for count in [1, 16] {
        let frames = client_frame(1, request.as_bytes()).repeat(count);
        let name = format!("send_message of 200 B, {count} at once");
        bench.run("shard", &name, count as u64, 0, || pair.send(0, &frames));
    }

    for members in [10, 1000, 10_000] {
        let mut room = World::new(members, "/ws");
        for member in 0..members {
            room.send(member, &client_frame(1, br#"{"type":"join","roomId":"r"}"#));
        }
        let frame = client_frame(1, format!(r#"{{"type":"message","roomId":"r","content":"{text}"}}"#).as_bytes());
        let name = format!("room message of 200 B, per member of {members}");
        bench.run("shard", &name, members as u64 - 1, 0, || {
            let out = room.send(0, &frame);
            assert!(out > (members as usize - 1) * 200, "only {out} bytes came out");
        });
    }

    let members = 10_000;
    let mut idle = World::new(members, "/ws");
    let mut now = NOW;
    bench.run("shard", "tick, per connection of 10,000 at rest", u64::from(members), 0, || {
        now.mono_ms += 1;
        idle.shard.handle(Event::Tick, now);
        idle.turn(now)
    });
}

/// A shard with connections that have authenticated, and a driver that takes whatever it wants to send.
struct World {
    shard: Shard,
    input: Vec<u8>,
    scratch: Vec<u8>,
}

impl World {
    fn new(connections: u32, path: &str) -> World {
        let mut config = Config::default();
        config.echo.enabled = true;
        config.limits.connections_per_ip = 0;
        config.limits.messages_per_second = 0;
        config.limits.bytes_per_second = 0;
        config.rooms.announce_max = 1;
        let settings = Settings {
            default_permissions: Arc::new(Permissions::defaults(config.auth.mode)),
            config,
            verifier: None,
            node_id: "bench".into(),
            instance: 1,
            homes: Homes::new(1, 7),
        };
        let shard = Shard::new(Arc::new(settings), ShardId(0), 7, NOW);
        let mut world = World { shard, input: Vec::new(), scratch: vec![0; 64 << 10] };
        for slot in 0..connections {
            let peer = SocketAddr::from(([127, 0, 0, 1], 10_000));
            world.shard.handle(Event::Accepted { conn: id(slot), peer, over_capacity: false }, NOW);
            let request = format!(
                "GET {path}?user_id=u{slot} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            );
            world.send(slot, request.as_bytes());
        }
        assert_eq!(world.shard.connections(), connections as usize, "all are through");
        world
    }

    /// One turn with bytes of one connection; how many bytes it makes the shard send.
    fn send(&mut self, slot: u32, bytes: &[u8]) -> usize {
        self.input.clear();
        self.input.extend_from_slice(bytes);
        self.shard.handle(Event::Bytes { conn: id(slot), data: &mut self.input }, NOW);
        self.turn(NOW)
    }

    fn turn(&mut self, now: Now) -> usize {
        // What a shard owes itself goes through the same queue as what it owes others.
        while let Some(envelope) = self.shard.take_outgoing(ShardId(0), now) {
            self.shard.handle(Event::Envelope { from: ShardId(0), envelope }, now);
        }
        while self.shard.next_action().is_some() {}
        let mut out = 0;
        while let Some(conn) = self.shard.next_dirty() {
            let len = match self.shard.gather(conn, &mut self.scratch) {
                Gathered::Empty => continue,
                Gathered::Copied(len) => len,
                Gathered::Direct(bytes) => bytes.len(),
            };
            self.shard.sent(conn, len, len, now);
            out += len;
        }
        out
    }
}

fn id(slot: u32) -> ConnectionId {
    ConnectionId { shard: ShardId(0), slot, generation: 1 }
}
