//! Every way a connection ends, and that others are told and nothing stays.

use ringgate::limits::TICK_MS;
use ringgate::shard::Held;
use ringgate::shard::event::Event;
use serde_json::json;

use crate::client::{Heard, Phase};
use crate::codec;
use crate::rig::Rig;

#[test]
fn a_close_is_answered_with_its_code_after_what_is_queued() {
    for half_closes in [false, true] {
        for code in [None, Some(1000), Some(3456)] {
            let mut rig = Rig::new(|_| {});
            let client = rig.join_as("ann");
            rig.say(client, json!({"type": "ping"}));
            rig.clients[client].close(code);
            rig.clients[client].write(&mut rig.world, usize::MAX);
            if half_closes {
                rig.clients[client].finish(&mut rig.world);
            }
            rig.settle();
            let heard = rig.heard(client);
            assert!(
                matches!(&heard[..], [Heard::Message(_), Heard::Close(c, _), Heard::End] if *c == code),
                "{code:?} {half_closes}: {heard:?}"
            );
            rig.assert_nothing_is_left();
        }
    }
}

#[test]
fn what_breaks_the_protocol_is_closed_with_its_code() {
    let cases: [(&str, Vec<u8>, u16); 8] = [
        ("no mask", b"\x81\x00".to_vec(), 1002),
        ("reserved bit", b"\x91\x80\0\0\0\0".to_vec(), 1002),
        ("reserved opcode", b"\x83\x80\0\0\0\0".to_vec(), 1002),
        ("continues nothing", b"\x80\x80\0\0\0\0".to_vec(), 1002),
        ("not UTF-8", b"\x81\x81\0\0\0\0\xff".to_vec(), 1007),
        ("binary", b"\x82\x81\0\0\0\0\x01".to_vec(), 1003),
        ("too large", b"\x81\xff\0\0\0\0\0\x01\0\x01\0\0\0\0".to_vec(), 1009),
        ("2^62 bytes", b"\x81\xff\x40\0\0\0\0\0\0\0\0\0\0\0".to_vec(), 1009),
    ];
    for (what, bytes, code) in cases {
        for split in 0..bytes.len() {
            let mut rig = Rig::new(|_| {});
            let client = rig.join_as("ann");
            rig.clients[client].raw_bytes(&bytes);
            rig.clients[client].write(&mut rig.world, split);
            rig.world.turn();
            rig.settle();
            assert_eq!(rig.closed(client).0, Some(code), "{what}, split at {split}");
            rig.assert_nothing_is_left();
        }
    }
}

#[test]
fn a_panic_closes_one_connection_and_no_other() {
    let mut rig = Rig::new(|_| {});
    let (ann, bob) = (rig.join_as("ann"), rig.join_as("bob"));
    for client in [ann, bob] {
        rig.ask(client, json!({"type": "join", "roomId": "r"}));
    }
    rig.said(ann);
    rig.world.faults.panic = 1.0;
    rig.say(bob, json!({"type": "ping"}));
    rig.turn();
    rig.world.faults.panic = 0.0;
    rig.settle();
    assert_eq!(rig.closed(bob), (Some(1011), "internal error".to_owned()));
    assert_eq!(rig.said(ann), [json!({"type": "user:left", "userId": "bob", "roomId": "r"})]);
    assert_eq!(rig.ask(ann, json!({"type": "ping"})), [json!({"type": "pong"})]);
    rig.assert_nothing_is_left();
}

#[test]
fn a_panic_before_the_upgrade_is_answered_in_http() {
    let mut rig = Rig::new(|_| {});
    rig.world.faults.panic = 1.0;
    let client = rig.dial("/ws?user_id=ann", &[]);
    rig.settle();
    assert_eq!(rig.refusal(client).status, 500);
    rig.wait(2_500);
    rig.assert_nothing_is_left();
}

#[test]
fn draining_tells_everybody_and_ends_in_time() {
    let mut rig = Rig::with_shards(2, |config| {
        Rig::jwt(config);
        config.drain.spread_ms = 2_000;
        config.drain.deadline_ms = 10_000;
    });
    let sessions: Vec<usize> = (0..40)
        .map(|number| {
            let token = rig.token(&format!("user-{number}"), 0, None, &[]);
            rig.dial(&format!("/ws?token={token}"), &[])
        })
        .collect();
    let unknown = rig.dial("/ws", &[]);
    let opening = rig.dial_raw(b"GET /ws HTTP/1.1\r\n".to_vec(), 1 << 20);
    let stubborn = rig.dial("/ws", &[]);
    rig.clients[stubborn].answers_close = false;
    rig.settle();
    sessions.iter().for_each(|&client| drop(rig.heard(client)));
    for host in 0..2 {
        rig.world.tell(host, Event::Drain);
    }
    rig.settle();
    assert_eq!(rig.closed(unknown), (Some(1001), "going away".to_owned()));
    let mut moments = Vec::new();
    for _ in 0..25 {
        rig.wait(100);
        let closed = sessions.iter().filter(|&&client| rig.clients[client].phase == Phase::Gone).count();
        moments.push(closed);
    }
    assert!(moments[5] < 30 && moments[2] < moments[12] && moments[24] == 40, "not spread: {moments:?}");
    for client in sessions {
        let heard = rig.heard(client);
        let [Heard::Message(told), Heard::Close(Some(4201), _), Heard::End] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!((told["type"].as_str(), told["reason"].as_str()), (Some("reconnect"), Some("draining")));
        assert!(told["afterMs"].as_u64().is_some_and(|ms| ms <= 2_000));
    }
    rig.wait(7_500 + TICK_MS * 2);
    assert_eq!(rig.refusal(opening).status, 503);
    assert!(rig.world.hosts.iter().all(|host| host.drained == 1 && !host.listening));
    rig.assert_nothing_is_left();
}

#[test]
fn whoever_is_drained_was_told_before() {
    let mut rig = Rig::with_shards(1, |config| {
        config.drain.spread_ms = 100;
        config.deflate.enabled = false;
    });
    let clients: Vec<usize> = (0..4_500).map(|n| rig.dial(&format!("/ws?user_id=u{n}"), &[])).collect();
    rig.settle();
    rig.world.tell(0, Event::Drain);
    rig.wait(1_000);
    for client in clients {
        let heard = rig.heard(client);
        let told = heard.iter().any(|h| matches!(h, Heard::Message(m) if m["type"] == "reconnect"));
        assert!(told, "client {client}: {heard:?}");
    }
    rig.assert_nothing_is_left();
}

#[test]
fn a_hundred_thousand_connections_in_turn_leave_nothing() {
    let total = 100_000;
    let mut rig = Rig::new(|_| {});
    let mut slots = 0;
    for number in 0..total {
        let client = rig.dial(&format!("/ws?user_id=u{}", number % 97), &[]);
        rig.say(client, json!({"type": "join", "roomId": format!("r{}", number % 13)}));
        rig.say(client, json!({"type": "subscribe", "channel": "c"}));
        rig.say(client, json!({"type": "message", "roomId": format!("r{}", number % 13), "content": 1}));
        rig.say(client, json!({"type": "publish", "channel": "c", "content": 1}));
        rig.settle();
        match number % 4 {
            0 => rig.clients[client].close(Some(1000)),
            1 => rig.clients[client].vanish(&mut rig.world),
            2 => rig.clients[client].finish(&mut rig.world),
            _ => rig.clients[client].say_in(codec::BINARY, b"", 1, false),
        }
        if number % 4 == 3 {
            // A few stay for a while.
            rig.turn();
        } else {
            rig.settle();
        }
        slots = slots.max(rig.world.rows());
        rig.forget_gone();
    }
    rig.wait(6_000);
    for host in 0..rig.world.hosts.len() {
        assert_eq!(rig.world.held(host), Held::default(), "shard {host}");
    }
    assert!(slots < 20, "rows are not reused: {slots}");
}
