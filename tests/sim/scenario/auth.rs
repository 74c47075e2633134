//! Who is let in, for how long, and what they may do.

use serde_json::json;

use crate::client::{Heard, Phase};
use crate::rig::Rig;

#[test]
fn mode_none_believes_a_valid_user_id() {
    let named = "user_id must be 1 to 128 bytes without control characters, and not \"events\"";
    let long = format!("/ws?user_id={}", "x".repeat(129));
    for (target, reason) in
        [("/ws", "Missing user_id"), ("/ws?user_id=events", named), ("/ws?user_id=a%07", named), (&long, named)]
    {
        let mut rig = Rig::new(|_| {});
        let client = rig.dial(target, &[]);
        rig.settle();
        assert_eq!(rig.closed(client), (Some(4001), reason.to_owned()), "{target}");
        rig.assert_nothing_is_left();
    }
}

#[test]
fn a_token_is_taken_from_header_query_or_first_message() {
    for way in 0..3 {
        let mut rig = Rig::new(Rig::jwt);
        let token = rig.token("ann", 60, None, &["lobby"]);
        let client = match way {
            0 => rig.dial("/ws", &[&format!("Authorization: Bearer {token}")]),
            1 => rig.dial(&format!("/ws?token={token}"), &[]),
            _ => rig.dial("/ws", &[]),
        };
        rig.settle();
        if way == 2 {
            rig.say(client, json!({"type": "auth", "token": token, "id": "a"}));
            // What comes right behind goes along to the home shard.
            rig.say(client, json!({"type": "ping", "id": 1}));
            rig.settle();
        }
        let ok = json!({"type": "auth:ok", "userId": "ann", "node": "sim", "heartbeatMs": 30_000});
        let rest = vec![json!({"type": "ok", "id": "a"}), json!({"type": "pong", "id": 1})];
        let expected: Vec<_> = [ok].into_iter().chain(if way == 2 { rest } else { vec![] }).collect();
        assert_eq!(rig.said(client), expected);
        // The claimed room was joined.
        let heard = rig.ask(client, json!({"type": "message", "roomId": "lobby", "content": 1, "id": 2}));
        assert_eq!(heard, [json!({"type": "ok", "id": 2, "accepted": true})]);
        rig.assert_nothing_is_left();
    }
}

#[test]
fn a_bad_token_is_4001() {
    let mut rig = Rig::new(Rig::jwt);
    let good = rig.token("ann", 5, None, &[]);
    let mut forged = good.clone();
    forged.pop();
    forged.push(if good.ends_with('A') { 'B' } else { 'A' });
    for token in ["", "x", "a.b.c", &forged] {
        let client = rig.dial("/ws", &[]);
        rig.settle();
        rig.say(client, json!({"type": "auth", "token": token, "id": 9}));
        rig.settle();
        let heard = rig.heard(client);
        let [Heard::Response(_), Heard::Message(fail), Heard::Message(error), Heard::Close(Some(4001), text), ..] =
            &heard[..]
        else {
            // An empty token is a bad request, and the connection may try again.
            assert!(token.is_empty(), "{token}: {heard:?}");
            assert_eq!(rig.clients[client].phase, Phase::Open);
            continue;
        };
        assert_eq!(
            (&fail["type"], &error["code"], &error["id"]),
            (&json!("auth:fail"), &json!("unauthorized"), &json!(9))
        );
        assert_eq!(text, "Unauthorized");
    }
    rig.world.pass(10_000);
    let client = rig.dial(&format!("/ws?token={good}"), &[]);
    rig.settle();
    assert_eq!(rig.closed(client).0, Some(4001), "expired on arrival");
    rig.assert_nothing_is_left();
}

#[test]
fn before_authentication_only_auth_and_ping_are_heard() {
    let mut rig = Rig::new(Rig::jwt);
    let client = rig.dial("/ws", &[]);
    rig.settle();
    assert_eq!(rig.ask(client, json!({"type": "ping"})), [json!({"type": "pong"})]);
    let heard = rig.ask(client, json!({"type": "join", "roomId": "r", "id": 1}));
    assert_eq!((heard[0]["code"].as_str(), &heard[0]["id"]), (Some("unauthorized"), &json!(1)));
    let token = rig.token("ann", 60, None, &[]);
    assert_eq!(rig.ask(client, json!({"type": "auth", "token": token}))[0]["type"], "auth:ok");
    rig.assert_nothing_is_left();
}

#[test]
fn a_session_ends_with_its_token_unless_refreshed() {
    for refreshed in [false, true] {
        let mut rig = Rig::new(Rig::jwt);
        let token = rig.token("ann", 30, None, &[]);
        let client = rig.dial(&format!("/ws?token={token}"), &[]);
        rig.settle();
        rig.wait(20_000);
        rig.said(client);
        if refreshed {
            let other = rig.token("bob", 600, None, &[]);
            let heard = rig.ask(client, json!({"type": "auth", "token": other, "id": 1}));
            assert_eq!(heard[0]["code"], "unauthorized", "another user's token changes nothing");
            let token = rig.token("ann", 40, None, &[]);
            let heard = rig.ask(client, json!({"type": "auth", "token": token, "id": 2}));
            assert_eq!((&heard[0]["type"], &heard[1]), (&json!("auth:ok"), &json!({"type": "ok", "id": 2})));
        }
        rig.wait(9_000);
        assert_eq!(rig.clients[client].phase, Phase::Open);
        rig.wait(1_500);
        if refreshed {
            assert_eq!(rig.clients[client].phase, Phase::Open);
            rig.wait(30_000);
        }
        assert_eq!(rig.closed(client), (Some(4002), "token expired".to_owned()), "refreshed: {refreshed}");
        rig.assert_nothing_is_left();
    }
}

#[test]
fn a_step_of_the_wall_clock_moves_expiry() {
    // Whether the session is open a minute after the clock stepped by so much, with a token for an hour.
    for (step_s, open) in [(-3_600i64, true), (0, true), (1_800, true), (3_600, false)] {
        let mut rig = Rig::new(|config| {
            Rig::jwt(config);
            (config.session.heartbeat_interval_ms, config.session.heartbeat_timeout_ms) = (0, 0);
            config.session.idle_timeout_ms = 0;
        });
        let token = rig.token("ann", 3_600, None, &[]);
        let client = rig.dial(&format!("/ws?token={token}"), &[]);
        rig.settle();
        rig.world.now.unix_ms = rig.world.now.unix_ms.saturating_add_signed(step_s * 1_000);
        rig.wait(61_000);
        assert_eq!(rig.clients[client].phase == Phase::Open, open, "a step of {step_s} s");
    }
}

#[test]
fn permissions_are_held_to() {
    let list = ["send:bob", "join:team-*", "subscribe:c", "publish:p.*", "presence:*"];
    let mut rig = Rig::new(Rig::jwt);
    let token = rig.token("ann", 0, Some(&list), &[]);
    let client = rig.dial(&format!("/ws?token={token}"), &[]);
    rig.settle();
    rig.said(client);
    let content = json!(1);
    for (request, allowed) in [
        (json!({"type": "send_message", "target_user": "bob", "content": content}), true),
        (json!({"type": "send_message", "target_user": "bobby", "content": content}), false),
        (json!({"type": "join", "roomId": "team-7"}), true),
        (json!({"type": "join", "roomId": "tea"}), false),
        // Membership is enough.
        (json!({"type": "message", "roomId": "team-7", "content": content}), true),
        (json!({"type": "subscribe", "channel": "c"}), true),
        (json!({"type": "subscribe", "channel": "c2"}), false),
        (json!({"type": "publish", "channel": "p.1", "content": content}), true),
        (json!({"type": "publish", "channel": "c", "content": content}), false),
        (json!({"type": "presence", "roomId": "anything"}), true),
        (json!({"type": "broadcast", "content": content}), false),
    ] {
        let mut request = request;
        request["id"] = json!(1);
        let heard = rig.ask(client, request.clone());
        let code = if allowed { None } else { Some("forbidden") };
        assert_eq!((heard.len(), heard[0]["code"].as_str()), (1, code), "{request}: {heard:?}");
    }
    rig.assert_nothing_is_left();
}

#[test]
fn the_oldest_connection_makes_room() {
    let mut rig = Rig::new(|config| config.session.max_per_user = 2);
    let first = rig.join_as("ann");
    let others = [rig.join_as("ann"), rig.join_as("bob"), rig.join_as("ann")];
    rig.settle();
    assert_eq!(rig.closed(first), (Some(4004), "replaced: too many connections of this user".to_owned()));
    assert!(others.iter().all(|&other| rig.clients[other].phase == Phase::Open));
    rig.assert_nothing_is_left();
}
