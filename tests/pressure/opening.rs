//! Before there is a session: proxies that say who the client is, liars, and those who never finish.

use ringgate::error::RefusalReason;
use ringgate::limits::OPENING_CONNECTIONS_MAX;
use ringgate::shard::pressure::Level;
use serde_json::json;

use crate::small;
use crate::world::*;

/// The status of the answer and whether it says when to come back.
fn refused(world: &mut World, client: usize) -> Option<(u16, bool)> {
    match &world.hear(client)[..] {
        [Heard::Response(head)] => Some((head[9..12].parse().unwrap(), head.contains("\r\nRetry-After: "))),
        [] => None,
        heard => panic!("{heard:?}"),
    }
}

fn refusals(world: &World, reason: RefusalReason) -> u64 {
    world.shard.counters().refusals[reason as usize]
}

fn behind_proxy() -> World {
    World::new(|config| {
        config.listen.proxy_protocol = true;
        config.listen.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        config.limits.connections_per_ip = 2;
        config.limits.connections_per_ip_window_ms = 60_000;
    })
}

fn header_v1(client: &str) -> String {
    format!("PROXY TCP4 {client} 10.0.0.1 50000 8080\r\n")
}

#[test]
fn a_proxy_header_says_who_is_counted() {
    let mut world = behind_proxy();
    let mut open = |client: &str, cut: usize| {
        let socket = world.accept("10.0.0.2:4000");
        let bytes = header_v1(client) + &upgrade("ann", "");
        world.bytes(socket, &bytes.as_bytes()[..cut]);
        world.bytes(socket, &bytes.as_bytes()[cut..]);
        let status = match &world.hear(socket)[0] {
            Heard::Response(head) => head[9..12].to_owned(),
            heard => panic!("{heard:?}"),
        };
        world.end(socket);
        status
    };
    let statuses: Vec<String> = [0, 3, 20].map(|cut| open("203.0.113.7", cut)).to_vec();
    assert_eq!(statuses, ["101", "101", "429"], "two per address");
    assert_eq!(open("203.0.113.8", 60), "101", "another client of the same proxy");
}

#[test]
fn without_its_header_or_from_elsewhere_nothing_is_believed() {
    let hostile = [
        ("192.0.2.9:1", header_v1("203.0.113.7") + &upgrade("ann", "")),
        ("10.0.0.2:1", upgrade("ann", "")),
        ("10.0.0.2:1", "PROXY TCP4 nowhere 10.0.0.1 1 2\r\n".to_owned() + &upgrade("ann", "")),
        ("10.0.0.2:1", "\r\n\r\n\0\r\nQUIT\n\u{31}\u{11}\0\0".to_owned()),
    ];
    let count = hostile.len() as u64;
    let mut world = behind_proxy();
    for (peer, bytes) in hostile {
        let socket = world.accept(peer);
        world.bytes(socket, bytes.as_bytes());
        assert_eq!(refused(&mut world, socket), Some((400, false)), "{peer} {bytes:?}");
    }
    assert_eq!(refusals(&world, RefusalReason::ProxyHeader), count);
    assert_eq!(world.shard.counters().upgraded, 0);
    world.pass(3_000);
    assert_eq!(world.shard.connections(), 0);
}

#[test]
fn a_proxy_may_speak_for_itself() {
    let mut world = behind_proxy();
    let socket = world.accept("10.0.0.2:4000");
    world.bytes(socket, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    world.bytes(socket, upgrade("probe", "").as_bytes());
    assert!(matches!(&world.hear(socket)[0], Heard::Response(head) if head.contains(" 101 ")));
}

#[test]
fn only_the_rightmost_address_that_is_not_a_proxy_counts() {
    // Socket, X-Forwarded-For, and who that is.
    let table = [
        ("192.0.2.1:1", "203.0.113.1", "192.0.2.1"),
        ("10.0.0.2:1", "203.0.113.1", "203.0.113.1"),
        ("10.0.0.2:1", "1.1.1.1, 203.0.113.1", "203.0.113.1"),
        ("10.0.0.2:1", "1.1.1.1, 203.0.113.1, 10.0.0.3", "203.0.113.1"),
        ("10.0.0.2:1", "1.1.1.1, , 203.0.113.1,", "203.0.113.1"),
        ("10.0.0.2:1", "1.1.1.1, 203.0.113.1:5000, 10.0.0.3", "203.0.113.1"),
        ("10.0.0.2:1", "1.1.1.1, [2001:db8::1]:5000", "2001:db8::1"),
        ("10.0.0.2:1", "1.1.1.1, ::ffff:203.0.113.1", "203.0.113.1"),
        ("10.0.0.2:1", "1.1.1.1, unknown", "10.0.0.2"),
        ("10.0.0.2:1", "1.1.1.1, unknown, 10.0.0.3", "10.0.0.3"),
        ("10.0.0.2:1", "", "10.0.0.2"),
    ];
    for (socket, forwarded, expect) in table {
        let open = |world: &mut World, peer: &str, forwarded: &str| {
            let client = world.accept(peer);
            if !world.clients[client].received_any() {
                world.bytes(client, upgrade("ann", &format!("X-Forwarded-For: {forwarded}\r\n")).as_bytes());
            }
            match &world.hear(client)[0] {
                Heard::Response(head) => head[9..12].to_owned(),
                heard => panic!("{heard:?}"),
            }
        };
        let mut world = World::new(|config| {
            config.listen.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
            config.limits.connections_per_ip = 1;
            config.limits.connections_per_ip_window_ms = 60_000;
        });
        assert_eq!(open(&mut world, socket, forwarded), "101");
        // The same address again, told in the plainest way, is over its rate; another one is not.
        let trusted = expect.starts_with("10.");
        let again =
            if trusted { open(&mut world, &format!("{expect}:9"), "") } else { open(&mut world, "10.9.9.9:9", expect) };
        assert_eq!(again, "429", "{socket} {forwarded:?} is {expect}");
        assert_eq!(open(&mut world, "10.9.9.9:9", "203.0.113.99"), "101");
    }
}

#[test]
fn who_may_not_connect_does_not_hold_a_place() {
    let mut world = World::new(|config| {
        config.limits.connections_per_ip = 1;
        config.limits.connections_per_ip_window_ms = 60_000;
    });
    let first = world.accept("192.0.2.1:1");
    let second = world.accept("192.0.2.1:2");
    assert_eq!(refused(&mut world, first), None);
    let third = world.accept("192.0.2.1:3");
    assert_eq!(refused(&mut world, second), None, "it has not asked yet");
    world.bytes(second, upgrade("ann", "").as_bytes());
    assert_eq!(refused(&mut world, second), Some((429, true)));
    world.pass(2_100);
    assert_eq!(refused(&mut world, third), Some((429, true)), "it had its time to ask");
    world.pass(2_100);
    assert!(!world.clients[third].open && !world.clients[second].open && world.clients[first].open);
}

#[test]
fn handshakes_that_do_not_end_cost_a_bounded_slot_for_a_bounded_time() {
    let mut world = World::new(|_| {});
    let sockets: Vec<usize> = (0..100).map(|i| world.accept(&format!("192.0.2.1:{}", 1000 + i))).collect();
    let request = upgrade("ann", &format!("X: {}\r\n", "x".repeat(3000)));
    for (at, byte) in request.bytes().enumerate().take(99) {
        for socket in &sockets {
            world.bytes(*socket, &[byte]);
        }
        if at % 10 == 0 {
            world.pass(900);
        }
        let gauges = world.shard.gauges();
        assert!(gauges.partial_bytes < 100 * 1024 && gauges.connecting <= 100, "{gauges:?}");
    }
    world.pass(2_000);
    for socket in sockets {
        assert_eq!(refused(&mut world, socket), Some((408, false)));
    }
    world.pass(3_000);
    assert_eq!((world.shard.connections(), world.shard.gauges().held_bytes), (0, world.shard.gauges().idle_bytes));
}

#[test]
fn the_oldest_of_too_many_that_are_opening_makes_room() {
    let mut world = World::new(|config| config.session.handshake_timeout_ms = 0);
    let first = world.accept("192.0.2.1:1");
    let second = world.accept("192.0.2.1:2");
    // The second becomes a session, and is in nobody's way any more.
    world.bytes(second, upgrade("ann", "").as_bytes());
    world.hear(second);
    for _ in 0..OPENING_CONNECTIONS_MAX - 1 {
        world.accept("192.0.2.1:3");
    }
    assert_eq!(refused(&mut world, first), None);
    let last = world.accept("192.0.2.1:4");
    assert_eq!(refused(&mut world, first), Some((503, true)));
    assert_eq!(refusals(&world, RefusalReason::Opening), 1);
    assert_eq!(world.shard.gauges().connecting as usize, OPENING_CONNECTIONS_MAX);
    world.bytes(last, upgrade("bob", "").as_bytes());
    assert!(matches!(&world.hear(last)[0], Heard::Response(head) if head.contains(" 101 ")));
    world.say(second, &json!({"type": "ping"}));
    assert_eq!(world.messages(second, "pong").len(), 1);
}

#[test]
fn the_last_step_refuses_newcomers_and_is_taken_back() {
    let mut world = World::new(|config| {
        small(config);
        config.limits.message_size = 4 << 20;
        config.outbox.high = 1 << 20;
        config.outbox.max = 0;
    });
    let sender = world.connect("sender");
    let victim = world.connect("victim");
    // It is in the middle of a frame, which must be kept whole.
    world.clients[victim].room = 100;
    let send = json!({"type": "send_message", "target_user": "victim", "content": "x".repeat(1 << 20)});
    world.say(sender, &send);
    assert_eq!(world.shard.gauges().pressure, Level::Release);
    world.say(sender, &send);
    assert_eq!(world.shard.gauges().pressure, Level::Refuse);
    let early = world.accept("192.0.2.1:5");
    world.bytes(early, upgrade("early", "").as_bytes());
    assert_eq!(refused(&mut world, early), Some((503, true)));
    assert_eq!(refusals(&world, RefusalReason::Pressure), 1);
    assert!(world.clients[sender].open, "who sent it holds nothing");
    // The frame that has begun to go out is whole, and then comes the reason.
    world.read(victim, ROOM);
    assert!(matches!(&world.hear(victim)[..], [Heard::Message(_), Heard::Close(4110)]));
    assert!(world.clients[victim].finished);
    world.pass(1_000);
    assert_eq!(world.shard.gauges().pressure, Level::Calm);
    world.connect("late");
}
