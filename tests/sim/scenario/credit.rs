//! A fast publisher and a mesh that does not take anything: it is not read from, nothing is lost, and no more is held than there is credit.

use ringgate::limits::{MESH_CREDIT_BYTES, MESH_CREDIT_ENVELOPES, RECEIVE_BYTES};
use serde_json::{Value, json};

use crate::client::Heard;
use crate::rig::Rig;

/// A user whose home is, or is not, the one of `ann`.
fn user_at(rig: &Rig, same: bool) -> String {
    let homes = &rig.world.settings.homes;
    let mut names = (0..).map(|n| format!("user-{n}"));
    names.find(|name| (homes.user(name) == homes.user("ann")) == same).expect("there are many names")
}

fn outstanding(rig: &Rig) -> u64 {
    (0..rig.world.hosts.len()).map(|host| rig.world.held(host).outstanding).sum()
}

fn got(rig: &mut Rig, client: usize) -> Vec<u64> {
    let number = |heard: Heard| match heard {
        Heard::Message(message) if message["type"] == "message" => message["content"].as_u64(),
        other => panic!("{other:?}"),
    };
    rig.heard(client).into_iter().filter_map(number).collect()
}

#[test]
fn a_fast_publisher_never_exceeds_its_credit_and_loses_nothing() {
    let mut rig = Rig::with_shards(2, |config| config.outbox.high = 0);
    let ann = rig.join_as("ann");
    let other = user_at(&rig, false);
    let bob = rig.join_as(&other);
    rig.world.set_lanes(0);
    let total = u64::from(MESH_CREDIT_ENVELOPES) * 2;
    let request = |n: u64| json!({"type": "send_message", "target_user": other, "content": n});
    (0..total).for_each(|n| rig.say(ann, request(n)));
    let slack = (RECEIVE_BYTES / request(0).to_string().len()) as u64 + 1;
    let mut most = 0;
    for _ in 0..2_000 {
        rig.turn();
        most = most.max(outstanding(&rig));
    }
    assert!(most >= u64::from(MESH_CREDIT_ENVELOPES), "credit ran out: {most}");
    assert!(most <= u64::from(MESH_CREDIT_ENVELOPES) + slack, "{most} outstanding");
    // A trickle, then freely.
    for capacity in [1, 3, 64, 4096] {
        rig.world.set_lanes(capacity);
        for _ in 0..200 {
            rig.turn();
            assert!(outstanding(&rig) <= u64::from(MESH_CREDIT_ENVELOPES) + slack);
        }
    }
    rig.settle();
    assert_eq!(got(&mut rig, bob), (0..total).collect::<Vec<_>>());
    assert_eq!(outstanding(&rig), 0);
    rig.assert_nothing_is_left();
}

#[test]
fn one_message_as_large_as_all_credit_stops_nobody_for_good() {
    for same_home in [true, false] {
        let mut rig = Rig::with_shards(2, |config| {
            config.limits.message_size = 8 << 20;
            (config.outbox.high, config.outbox.max) = (0, 0);
        });
        let ann = rig.join_as("ann");
        let target = user_at(&rig, same_home);
        let bob = rig.join_as(&target);
        for n in 1..4 {
            let content = "x".repeat(MESH_CREDIT_BYTES as usize + n);
            rig.say(ann, json!({"type": "send_message", "target_user": target, "content": content}));
            rig.settle();
            assert_eq!(rig.said(bob).len(), 1);
        }
        let heard = rig.ask(ann, json!({"type": "ping"}));
        assert_eq!(heard, [json!({"type": "pong"})], "same home: {same_home}");
        rig.assert_nothing_is_left();
    }
}

#[test]
fn a_room_message_gives_its_credit_back_when_the_last_shard_has_taken_it() {
    let mut rig = Rig::with_shards(4, |_| {});
    let users: Vec<usize> = (0..12).map(|n| rig.join_as(&format!("u{n}"))).collect();
    for &user in &users {
        rig.say(user, json!({"type": "join", "roomId": "r"}));
    }
    rig.settle();
    users.iter().for_each(|&user| drop(rig.said(user)));
    rig.world.set_lanes(0);
    (0..100).for_each(|n| rig.say(users[0], json!({"type": "message", "roomId": "r", "content": n})));
    for _ in 0..50 {
        rig.turn();
    }
    assert_eq!(outstanding(&rig), 100);
    rig.world.set_lanes(2);
    rig.settle();
    assert_eq!(outstanding(&rig), 0);
    for &user in &users[1..] {
        assert_eq!(got(&mut rig, user), (0..100).collect::<Vec<_>>());
    }
    rig.assert_nothing_is_left();
}

#[test]
fn rates_are_held_to_and_who_keeps_on_is_closed() {
    let mut rig = Rig::new(|config| config.limits.messages_per_second = 5);
    let ann = rig.join_as("ann");
    rig.world.now.mono_ms = rig.world.now.mono_ms / 1000 * 1000 + 1000;
    for n in 0..8 {
        rig.say(ann, json!({"type": "ping", "id": n}));
    }
    rig.settle();
    let codes: Vec<Value> = rig.said(ann).iter().map(|m| m["code"].clone()).collect();
    let refused = json!("rate_limit_messages");
    assert_eq!(codes[..5], [const { Value::Null }; 5]);
    assert_eq!(codes[5..], [refused.clone(), refused.clone(), refused]);
    for n in 0..20 {
        rig.say(ann, json!({"type": "ping", "id": n}));
    }
    rig.settle();
    assert_eq!(rig.closed(ann), (Some(4113), "rate limit".to_owned()));

    let mut rig = Rig::new(|config| {
        config.limits.bytes_per_second = 1_000;
        config.echo.enabled = true;
    });
    let ann = rig.join_as("ann");
    let heard = rig.ask(ann, json!({"type": "ping", "id": 1, "pad": "x".repeat(1_000)}));
    assert_eq!((heard[0]["code"].as_str(), &heard[0]["id"]), (Some("rate_limit_bytes"), &json!(1)));
    // `/echo` is exempt.
    let echo = rig.dial("/echo", &[]);
    rig.clients[echo].raw = true;
    rig.settle();
    for _ in 0..20 {
        rig.clients[echo].say(&"y".repeat(900));
    }
    rig.settle();
    assert_eq!(rig.heard(echo).iter().filter(|h| matches!(h, Heard::Data(..))).count(), 20);
    rig.assert_nothing_is_left();
}
