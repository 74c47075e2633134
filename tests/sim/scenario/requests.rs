//! Each request, its answer, and what others hear of it.

use serde_json::{Value, json};

use crate::rig::Rig;

/// A step: who says what, and what each of the three hears then.
type Step = (usize, Value, [Vec<Value>; 3]);

/// Ann (twice: 0 and 1) and bob (2) take these steps.
fn check(steps: &[Step]) {
    let mut rig = Rig::new(|_| {});
    for user in ["ann", "ann", "bob"] {
        rig.join_as(user);
    }
    for (number, (who, request, heard)) in steps.iter().enumerate() {
        rig.say(*who, request.clone());
        rig.settle();
        for (client, expected) in heard.iter().enumerate() {
            assert_eq!(&rig.said(client), expected, "step {number}, client {client}: {request}");
        }
    }
    rig.assert_nothing_is_left();
}

fn nobody() -> [Vec<Value>; 3] {
    [vec![], vec![], vec![]]
}

/// Only this one hears something.
fn only(client: usize, message: Value) -> [Vec<Value>; 3] {
    let mut heard = nobody();
    heard[client].push(message);
    heard
}

#[test]
fn rooms() {
    let join = |id| json!({"type": "join", "roomId": "r", "id": id});
    let hi = |kind: &str, from: &str| json!({"type": kind, "roomId": "r", "from": from, "content": {"a": [1]}});
    let error = |code: &str, message: &str| json!({"type": "error", "id": 1, "code": code, "message": message});
    check(&[
        (0, json!({"type": "message", "roomId": "r", "content": 1, "id": 1}), {
            only(0, error("not_member", "join the room first"))
        }),
        (0, join(1), only(0, json!({"type": "ok", "id": 1, "roomId": "r"}))),
        // Again: it is true already. The other device of the same user is no news to anybody.
        (0, join(2), only(0, json!({"type": "ok", "id": 2, "roomId": "r"}))),
        (1, json!({"type": "join", "roomId": "r"}), nobody()),
        (2, join(3), {
            let joined = json!({"type": "user:joined", "userId": "bob", "roomId": "r"});
            [vec![joined.clone()], vec![joined], vec![json!({"type": "ok", "id": 3, "roomId": "r"})]]
        }),
        // Not to the connection that sent it, but to the same user's other one.
        (0, json!({"type": "message", "roomId": "r", "content": {"a": [1]}, "id": "x"}), {
            let answer = json!({"type": "ok", "id": "x", "accepted": true});
            [vec![answer], vec![hi("message", "ann")], vec![hi("message", "ann")]]
        }),
        (2, json!({"type": "message", "roomId": "r", "content": {"a": [1]}}), {
            [vec![hi("message", "bob")], vec![hi("message", "bob")], vec![]]
        }),
        (2, json!({"type": "presence", "roomId": "r", "id": 4}), {
            let users = json!([{"userId": "ann", "connections": 2}, {"userId": "bob", "connections": 1}]);
            only(
                2,
                json!({"type": "ok", "id": 4, "roomId": "r", "users": users, "userCount": 2, "connectionCount": 3,
                "truncated": false}),
            )
        }),
        (0, json!({"type": "leave", "roomId": "r", "id": 5}), only(0, json!({"type": "ok", "id": 5, "roomId": "r"}))),
        (0, json!({"type": "leave", "roomId": "r", "id": 6}), only(0, json!({"type": "ok", "id": 6, "roomId": "r"}))),
        (1, json!({"type": "leave", "roomId": "r"}), {
            only(2, json!({"type": "user:left", "userId": "ann", "roomId": "r"}))
        }),
        (2, json!({"type": "message", "roomId": "r", "content": 1}), nobody()),
    ]);
}

#[test]
fn channels() {
    let subscribe = json!({"type": "subscribe", "channel": "c", "id": 1});
    let only_big = json!({"type": "subscribe", "channel": "c", "filter": {"op": "gt", "key": "n", "val": 5}});
    let publish = |n: u32| json!({"type": "publish", "channel": "c", "content": "x", "event": "e", "tags": {"n": n}});
    let got = |n: u32| json!({"type": "message", "channel": "c", "from": "bob", "content": "x", "event": "e", "tags": {"n": n}});
    check(&[
        (0, subscribe.clone(), only(0, json!({"type": "ok", "id": 1, "channel": "c"}))),
        (1, only_big.clone(), nobody()),
        // One need not be a subscriber to publish, and gets one's own.
        (2, publish(6), [vec![got(6)], vec![got(6)], vec![]]),
        (2, publish(5), [vec![got(5)], vec![], vec![]]),
        (2, json!({"type": "publish", "channel": "c", "content": null}), {
            only(0, json!({"type": "message", "channel": "c", "from": "bob", "content": null}))
        }),
        (0, json!({"type": "subscribe", "channel": "c", "filter": {"op": "lt", "key": "n", "val": 3}}), nobody()),
        (2, publish(2), [vec![got(2)], vec![], vec![]]),
        (0, json!({"type": "unsubscribe", "channel": "c", "id": 2}), {
            only(0, json!({"type": "ok", "id": 2, "channel": "c"}))
        }),
        (2, publish(9), [vec![], vec![got(9)], vec![]]),
        (2, subscribe, only(2, json!({"type": "ok", "id": 1, "channel": "c"}))),
        (2, publish(1), [vec![], vec![], vec![got(1)]]),
        (2, json!({"type": "presence", "channel": "c"}), {
            let users = json!([{"userId": "ann", "connections": 1}, {"userId": "bob", "connections": 1}]);
            only(
                2,
                json!({"type": "presence", "channel": "c", "users": users, "userCount": 2, "connectionCount": 2,
                "truncated": false}),
            )
        }),
    ]);
}

#[test]
fn users_and_everybody() {
    let to = |user: &str| json!({"type": "send_message", "target_user": user, "content": "hi", "id": 7});
    let status = |status: &str| json!({"type": "ok", "id": 7, "accepted": true, "status": status});
    let hi = json!({"type": "message", "from": "bob", "content": "hi"});
    let all = json!({"type": "broadcast", "from": "ann", "content": [true]});
    check(&[
        (2, to("ann"), [vec![hi.clone()], vec![hi.clone()], vec![status("delivered")]]),
        (2, to("nobody"), only(2, status("offline"))),
        (2, to("bob"), [vec![], vec![], vec![hi, status("delivered")]]),
        (0, json!({"type": "broadcast", "content": [true], "id": 1}), {
            let answer = json!({"type": "ok", "id": 1, "accepted": true});
            [vec![all.clone(), answer], vec![all.clone()], vec![all]]
        }),
    ]);
}

#[test]
fn pings_and_nonsense() {
    let error = |id: Value, code: &str, message: &str| {
        let mut error = json!({"type": "error", "code": code, "message": message});
        if !id.is_null() {
            error["id"] = id;
        }
        error
    };
    check(&[
        (0, json!({"type": "ping"}), only(0, json!({"type": "pong"}))),
        (0, json!({"type": "ping", "id": -3}), only(0, json!({"type": "pong", "id": -3}))),
        (0, json!({"type": "auth", "token": "x", "id": 1}), {
            only(0, error(json!(1), "bad_request", "auth.mode is \"none\": the user is the user_id of the request"))
        }),
    ]);
    let mut rig = Rig::new(|_| {});
    let client = rig.join_as("ann");
    for (text, code) in [
        ("", "bad_json"),
        ("{", "bad_json"),
        ("[]", "bad_request"),
        ("{}", "bad_request"),
        (r#"{"type":"fly"}"#, "unknown_type"),
        (r#"{"type":"join"}"#, "bad_request"),
        (r#"{"type":"send_message","target_user":"events","content":1}"#, "bad_request"),
    ] {
        rig.clients[client].say(text);
        rig.settle();
        let heard = rig.said(client);
        assert!(matches!(&heard[..], [e] if e["type"] == "error" && e["code"] == code), "{text}: {heard:?}");
        if code == "bad_json" {
            assert_eq!(heard[0]["message"], "Invalid JSON");
        }
    }
}

#[test]
fn subscriptions_are_bounded_together() {
    let mut rig = Rig::new(|config| config.session.max_subscriptions = 2);
    let ann = rig.join_as("ann");
    for (request, code) in [
        (json!({"type": "join", "roomId": "a", "id": 1}), None),
        (json!({"type": "subscribe", "channel": "b", "id": 1}), None),
        (json!({"type": "join", "roomId": "c", "id": 1}), Some("too_many_rooms")),
        (json!({"type": "join", "roomId": "a", "id": 1}), None),
        (json!({"type": "leave", "roomId": "a", "id": 1}), None),
        (json!({"type": "join", "roomId": "c", "id": 1}), None),
    ] {
        let heard = rig.ask(ann, request.clone());
        assert_eq!((heard.len(), heard[0]["code"].as_str()), (1, code), "{request}");
    }
    rig.assert_nothing_is_left();
}

#[test]
fn coming_and_going_is_told_in_small_rooms_only() {
    for (announce_max, told) in [(0, 3), (1, 0), (2, 1), (3, 2), (256, 3)] {
        let mut rig = Rig::new(|config| config.rooms.announce_max = announce_max);
        let users: Vec<usize> = ["a", "b", "c", "d"].into_iter().map(|user| rig.join_as(user)).collect();
        for &user in &users {
            rig.say(user, json!({"type": "join", "roomId": "r"}));
            rig.settle();
        }
        assert_eq!(rig.said(users[0]).len(), told, "announce_max = {announce_max}");
        rig.clients[users[3]].vanish(&mut rig.world);
        rig.settle();
        let left = rig.said(users[0]).iter().filter(|m| m["type"] == "user:left" && m["userId"] == "d").count();
        // Three are left.
        assert_eq!(left, usize::from(announce_max == 0 || announce_max >= 3), "announce_max = {announce_max}");
        rig.assert_nothing_is_left();
    }
}
