//! Receivers that do not keep up, and what the others see of it: nothing.

use ringgate::config::Config;
use serde_json::{Value, json};

use crate::client::{Heard, Phase};
use crate::rig::Rig;

fn small(config: &mut Config) {
    (config.outbox.high, config.outbox.low, config.outbox.max) = (4_000, 1_000, 20_000);
    config.outbox.grace_ms = 3_000;
    config.session.heartbeat_interval_ms = 0;
    config.deflate.enabled = false;
}

/// Ann talks; bob, behind a pipe that holds next to nothing, has stopped reading; cleo reads. All are in room `r`.
fn with_a_slow_reader(query: &str) -> (Rig, usize, usize, usize) {
    let mut rig = Rig::new(small);
    let ann = rig.join_as("ann");
    let bob = rig.dial_through(&format!("/ws?user_id=bob{query}"), &[], 500);
    let cleo = rig.join_as("cleo");
    rig.settle();
    for client in [bob, cleo, ann] {
        rig.ask(client, json!({"type": "join", "roomId": "r"}));
    }
    for client in [ann, bob, cleo] {
        rig.said(client);
    }
    rig.deaf[bob] = true;
    (rig, ann, bob, cleo)
}

/// A message of about 1,000 bytes to the room.
fn message(number: u32, class: &str) -> Value {
    let content = json!([number, "x".repeat(900)]);
    json!({"type": "message", "roomId": "r", "content": content, "class": class, "key": "k"})
}

fn numbers(heard: &[Value]) -> Vec<u64> {
    heard.iter().filter_map(|message| message["content"][0].as_u64()).collect()
}

#[test]
fn a_slow_reader_loses_what_may_be_lost_and_is_told() {
    for query in ["", "&batch=1"] {
        let (mut rig, ann, bob, cleo) = with_a_slow_reader(query);
        let classes = [
            "normal",
            "normal",
            "latest",
            "normal",
            "normal",
            "droppable",
            "latest",
            "droppable",
            "normal",
            "latest",
            "urgent",
        ];
        for (number, class) in classes.iter().enumerate() {
            rig.say(ann, message(number as u32, class));
            rig.settle();
        }
        assert_eq!(numbers(&rig.said(cleo)), (0..11).collect::<Vec<_>>(), "nobody else notices");
        // Behind: nothing is read from it either.
        rig.say(bob, json!({"type": "ping"}));
        rig.wait(1_000);
        rig.deaf[bob] = false;
        rig.settle();
        let heard = rig.said(bob);
        let got = numbers(&heard);
        let urgent = got.iter().position(|n| *n == 10).expect("urgent is kept");
        let others: Vec<u64> = got.iter().copied().filter(|n| *n != 10).collect();
        // The newest of `latest` stands where the oldest stood.
        assert_eq!(others, [0, 1, 9, 3, 4, 8], "{query}");
        assert!(urgent <= 2, "urgent goes ahead of whatever has not begun to go out: {got:?}");
        let gap = json!({"type": "gap", "roomId": "r", "dropped": 2});
        assert_eq!(heard.iter().filter(|m| m["type"] == "gap").collect::<Vec<_>>(), [&gap], "{query}");
        assert_eq!(heard.last(), Some(&json!({"type": "pong"})));
        rig.assert_nothing_is_left();
    }
}

#[test]
fn over_the_hard_bound_it_is_closed() {
    let (mut rig, ann, bob, cleo) = with_a_slow_reader("");
    for number in 0..40 {
        rig.say(ann, message(number, "normal"));
        rig.settle();
    }
    let refused = rig.ask(ann, json!({"type": "send_message", "target_user": "bob", "content": 1, "id": 1}));
    assert_eq!(refused.last().and_then(|m| m["status"].as_str()), Some("offline"), "it was closed by then");
    rig.deaf[bob] = false;
    rig.settle();
    let heard = rig.heard(bob);
    assert!(heard.len() < 6, "what was queued is not sent any more: {}", heard.len());
    assert!(heard.iter().any(|h| matches!(h, Heard::Close(Some(4110), text) if text == "slow consumer")), "{heard:?}");
    let heard = rig.said(cleo);
    assert_eq!(numbers(&heard).len(), 40);
    assert_eq!(heard.iter().filter(|m| m["type"] == "user:left" && m["userId"] == "bob").count(), 1);
    rig.assert_nothing_is_left();
}

#[test]
fn past_the_grace_it_is_closed() {
    for recovers in [false, true] {
        let (mut rig, ann, bob, _) = with_a_slow_reader("");
        for number in 0..8 {
            rig.say(ann, message(number, "normal"));
        }
        rig.wait(2_500);
        assert_eq!(rig.clients[bob].phase, Phase::Open);
        if recovers {
            rig.deaf[bob] = false;
            rig.settle();
            rig.deaf[bob] = true;
        }
        rig.wait(1_000);
        rig.deaf[bob] = false;
        rig.settle();
        if recovers {
            assert_eq!(numbers(&rig.said(bob)), (0..8).collect::<Vec<_>>());
        } else {
            assert_eq!(rig.closed(bob).0, Some(4110));
        }
        rig.assert_nothing_is_left();
    }
}

#[test]
fn below_the_mark_one_message_of_any_size_is_accepted() {
    let (mut rig, ann, bob, _) = with_a_slow_reader("");
    let huge = "x".repeat(60_000);
    let request = json!({"type": "send_message", "target_user": "bob", "content": huge, "id": 1});
    let status = |heard: Vec<Value>| heard[0]["status"].as_str().map(str::to_owned);
    assert_eq!(status(rig.ask(ann, request.clone())).as_deref(), Some("delivered"));
    assert_eq!(status(rig.ask(ann, request)).as_deref(), Some("dropped"));
    rig.deaf[bob] = false;
    rig.settle();
    assert_eq!(rig.closed(bob).0, Some(4110));
    rig.assert_nothing_is_left();
}

#[test]
fn behind_before_it_has_authenticated_is_no_reason_to_be_refused() {
    let mut rig = Rig::new(|config| {
        small(config);
        Rig::jwt(config);
    });
    let client = rig.dial_through("/ws", &[], 500);
    rig.settle();
    rig.deaf[client] = true;
    for _ in 0..300 {
        rig.say(client, json!({"type": "ping"}));
    }
    rig.wait(2_000);
    rig.deaf[client] = false;
    rig.settle();
    assert_eq!(rig.said(client).len(), 300);
    let token = rig.token("ann", 0, None, &[]);
    assert_eq!(rig.ask(client, json!({"type": "auth", "token": token}))[0]["type"], "auth:ok");
    rig.assert_nothing_is_left();
}
