//! Services that are asked first: who connects, and what becomes of a message.

use ringgate::config::{Config, ConnectFailure, MessageFailure};
use ringgate::ids::ConnectionId;
use ringgate::protocol::hook::{Hook, Verdict};
use ringgate::shard::event::Event;
use serde_json::{Value, json};

use crate::client::Phase;
use crate::rig::Rig;

fn asks_who(config: &mut Config) {
    config.hooks.connect_url = Some("http://service/connect".to_owned());
}

fn asks_about_messages(config: &mut Config) {
    config.hooks.message_url = Some("http://service/message".to_owned());
}

/// What is asked and not answered.
fn questions(rig: &mut Rig) -> Vec<(ConnectionId, u32, Value)> {
    rig.settle();
    std::mem::take(&mut rig.world.hosts[0].questions)
}

/// The one question, without what differs from run to run.
fn question(rig: &mut Rig) -> ((ConnectionId, u32), Value) {
    let mut all = questions(rig);
    assert_eq!(all.len(), 1, "{all:?}");
    let (conn, number, mut asked) = all.remove(0);
    let asked_of = asked.as_object_mut().unwrap();
    assert_eq!(asked_of.remove("node"), Some(json!("sim")));
    assert!(asked_of.remove("timestamp").is_some());
    asked_of.remove("connection");
    ((conn, number), asked)
}

fn verdict(rig: &mut Rig, (conn, number): (ConnectionId, u32), verdict: Verdict) {
    rig.world.tell(0, Event::Verdict { conn, number, verdict: Box::new(verdict) });
    rig.settle();
}

/// As the driver does with what a service answers.
fn answer(rig: &mut Rig, hook: Hook, to: (ConnectionId, u32), body: Value) {
    let read = Verdict::read(hook, &body.to_string(), 64 * 1024).expect("a good answer");
    verdict(rig, to, read);
}

#[test]
fn the_service_says_who_connects_and_what_it_may_do() {
    for user in ["ann", "bob", "cleo", "dora"] {
        let mut rig = Rig::new(asks_who);
        let client =
            rig.dial("/ws?user_id=nobody&x=1", &["Cookie: a=1", "Cookie: b=2", "X-Private: p", "User-Agent: probe"]);
        let (to, asked) = question(&mut rig);
        let headers = json!({"cookie": "a=1; b=2", "user-agent": "probe"});
        let expected = json!({"hook": "connect", "refresh": false, "address": "192.0.2.7:4711", "user_agent": "probe",
            "query": "user_id=nobody&x=1", "headers": headers});
        assert_eq!(asked, expected);
        // What it says meanwhile waits, and is carried out in order when it is known who says it.
        rig.say(client, json!({"type": "send_message", "target_user": "x", "content": 1, "id": 1}));
        rig.say(client, json!({"type": "presence", "roomId": "r", "id": 2}));
        rig.settle();
        assert_eq!(rig.said(client), Vec::<Value>::new());
        assert_eq!(rig.world.hosts.iter().map(|host| host.shard.gauges().asking).sum::<u32>(), 1);
        let granted = json!({"user": user, "rooms": ["r"], "permissions": ["presence:*"]});
        answer(&mut rig, Hook::Connect, to, granted);
        let said = rig.said(client);
        assert_eq!((&said[0]["type"], &said[0]["userId"]), (&json!("auth:ok"), &json!(user)));
        let find = |id: u32| said.iter().find(|m| m["id"] == id).unwrap_or_else(|| panic!("{said:?}"));
        assert_eq!(find(1)["code"], "forbidden");
        assert_eq!(find(2)["users"], json!([{"userId": user, "connections": 1}]));
        assert_eq!(rig.world.hosts.iter().map(|host| host.shard.gauges().asking).sum::<u32>(), 0);
        rig.assert_nothing_is_left();
    }
}

#[test]
fn whom_the_service_refuses_is_told_and_closed() {
    let table = [
        (json!({"refuse": true}), 4001, "Unauthorized"),
        (json!({"refuse": {"code": 4403, "message": "banned"}}), 4403, "banned"),
    ];
    for (body, code, reason) in table {
        let mut rig = Rig::new(asks_who);
        let client = rig.dial("/ws?user_id=ann", &[]);
        let (to, _) = question(&mut rig);
        answer(&mut rig, Hook::Connect, to, body);
        let heard = rig.heard(client);
        assert!(format!("{heard:?}").contains("auth:fail") && format!("{heard:?}").contains(reason), "{heard:?}");
        let closed = heard.iter().find_map(|heard| match heard {
            crate::client::Heard::Close(code, text) => Some((*code, text.clone())),
            _ => None,
        });
        assert_eq!(closed, Some((Some(code), reason.to_owned())));
        rig.assert_nothing_is_left();
    }
}

#[test]
fn without_an_answer_nobody_comes_in_and_may_try_again() {
    // It fails; it says nothing of who that is; and nobody answers at all, which ought not to be.
    for case in 0..3 {
        let mut rig = Rig::new(asks_who);
        let client = rig.dial("/ws?user_id=ann", &[]);
        let (to, _) = question(&mut rig);
        match case {
            0 => verdict(&mut rig, to, Verdict::Failed),
            1 => answer(&mut rig, Hook::Connect, to, json!({})),
            _ => rig.wait(5_200),
        }
        let (code, _) = rig.closed(client);
        assert_eq!(code, Some(1013), "case {case}");
        verdict(&mut rig, to, Verdict::Admit(Box::default()));
        rig.assert_nothing_is_left();
    }
}

#[test]
fn a_token_must_be_good_first_and_may_be_enough() {
    for (failure, lets_in) in [(ConnectFailure::Refuse, false), (ConnectFailure::Allow, true)] {
        let mut rig = Rig::new(|config| {
            Rig::jwt(config);
            asks_who(config);
            config.hooks.connect_failure = failure;
        });
        let bad = rig.dial("/ws?token=nonsense", &[]);
        rig.settle();
        assert_eq!(questions(&mut rig).len(), 0, "a bad token is nobody's question");
        assert_eq!(rig.closed(bad).0, Some(4001));
        let token = rig.token("ann", 0, None, &["r"]);
        // In the request, and as the first message.
        let client = rig.dial(&format!("/ws?token={token}"), &[]);
        let (to, asked) = question(&mut rig);
        assert_eq!((&asked["user"], &asked["refresh"]), (&json!("ann"), &json!(false)));
        verdict(&mut rig, to, Verdict::Failed);
        let late = rig.dial("/ws", &["Origin: https://x"]);
        rig.settle();
        rig.say(late, json!({"type": "auth", "token": token, "id": 7}));
        rig.say(late, json!({"type": "ping", "id": 8}));
        let (to, asked) = question(&mut rig);
        assert_eq!((&asked["user"], &asked["headers"]["origin"]), (&json!("ann"), &json!("https://x")));
        verdict(&mut rig, to, Verdict::Failed);
        if lets_in {
            assert_eq!(rig.said(client)[0]["type"], "auth:ok");
            let said: Vec<Value> = rig.said(late).iter().map(|m| m["type"].clone()).collect();
            assert_eq!(said, ["auth:ok", "ok", "pong"]);
        } else {
            assert_eq!((rig.closed(client).0, rig.closed(late).0), (Some(1013), Some(1013)));
        }
        rig.assert_nothing_is_left();
    }
}

#[test]
fn another_token_does_not_give_back_what_the_service_has_taken() {
    let mut rig = Rig::new(|config| {
        Rig::jwt(config);
        asks_who(config);
    });
    let (token, other) = (rig.token("ann", 0, None, &[]), rig.token("bob", 0, None, &[]));
    let client = rig.dial(&format!("/ws?token={token}"), &[]);
    let (to, _) = question(&mut rig);
    answer(&mut rig, Hook::Connect, to, json!({"permissions": []}));
    assert_eq!(rig.said(client)[0]["userId"], "ann");
    let join = json!({"type": "join", "roomId": "r", "id": 1});
    assert_eq!(rig.ask(client, join.clone())[0]["code"], "forbidden");
    assert_eq!(rig.ask(client, json!({"type": "auth", "token": other, "id": 2}))[0]["code"], "unauthorized");
    assert!(questions(&mut rig).is_empty());
    let refresh = json!({"type": "auth", "token": token, "id": 3});
    for body in [json!({"permissions": []}), json!({"user": "bob"})] {
        rig.say(client, refresh.clone());
        rig.say(client, join.clone());
        let (to, asked) = question(&mut rig);
        assert_eq!((&asked["refresh"], asked.get("headers")), (&json!(true), None));
        answer(&mut rig, Hook::Connect, to, body.clone());
        let said = rig.said(client);
        assert_eq!(said.last().unwrap()["code"], "forbidden", "{body}: {said:?}");
    }
    rig.say(client, refresh.clone());
    let (to, _) = question(&mut rig);
    verdict(&mut rig, to, Verdict::Failed);
    assert_eq!(rig.said(client)[0]["code"], "unavailable", "the session stays as it was");
    rig.say(client, refresh.clone());
    let (to, _) = question(&mut rig);
    answer(&mut rig, Hook::Connect, to, json!({"permissions": ["join:r"]}));
    assert_eq!(rig.said(client).len(), 2);
    assert_eq!(rig.ask(client, join)[0]["type"], "ok");
    rig.say(client, refresh);
    let (to, _) = question(&mut rig);
    answer(&mut rig, Hook::Connect, to, json!({"refuse": "no more"}));
    assert_eq!(rig.closed(client), (Some(4001), "no more".to_owned()));
    rig.assert_nothing_is_left();
}

/// Ann (0) and bob (1) are in a room; services are asked about messages.
fn room(edit: impl FnOnce(&mut Config)) -> Rig {
    let mut rig = Rig::new(|config| {
        asks_about_messages(config);
        edit(config);
    });
    for user in ["ann", "bob"] {
        let client = rig.join_as(user);
        rig.ask(client, json!({"type": "join", "roomId": "r"}));
    }
    rig.said(0);
    rig
}

fn message(id: u32, content: Value) -> Value {
    json!({"type": "message", "roomId": "r", "content": content, "event": "note", "tags": {"a": 1}, "id": id})
}

#[test]
fn a_message_passes_is_changed_answered_or_refused() {
    let heard = |content: Value, event: &str| json!({"type": "message", "roomId": "r", "from": "ann", "content": content, "event": event, "tags": {"a": 1}});
    let ok = json!({"type": "ok", "id": 1, "accepted": true});
    let error = |code: &str, text: &str| json!({"type": "error", "id": 1, "code": code, "message": text});
    let table = [
        (json!({}), ok.clone(), Some(heard(json!(1), "note"))),
        (json!({"content": {"x": [2]}}), ok.clone(), Some(heard(json!({"x": [2]}), "note"))),
        (json!({"content": null, "event": "other"}), ok, Some(heard(Value::Null, "other"))),
        (json!({"answer": {"total": 3}}), json!({"type": "ok", "id": 1, "content": {"total": 3}}), None),
        (json!({"refuse": true}), error("forbidden", "refused"), None),
        (json!({"refuse": {"code": "too_large", "message": "no"}}), error("too_large", "no"), None),
    ];
    let mut rig = room(|_| {});
    for (body, to_ann, to_bob) in table {
        rig.say(0, message(1, json!(1)));
        let (to, asked) = question(&mut rig);
        let expected = json!({"hook": "message", "user": "ann", "id": 1, "to": {"roomId": "r"}, "event": "note",
            "tags": {"a": 1}, "content": 1});
        assert_eq!(asked, expected);
        answer(&mut rig, Hook::Message, to, body.clone());
        assert_eq!(rig.said(0), [to_ann], "{body}");
        assert_eq!(rig.said(1), to_bob.into_iter().collect::<Vec<_>>(), "{body}");
    }
    rig.assert_nothing_is_left();
}

#[test]
fn without_an_answer_a_message_is_refused_or_passes() {
    for (failure, passes) in [(MessageFailure::Refuse, false), (MessageFailure::Pass, true)] {
        let mut rig = room(|config| config.hooks.message_failure = failure);
        for late in [false, true] {
            rig.say(0, message(1, json!("x")));
            let (to, _) = question(&mut rig);
            if late {
                rig.wait(7_000);
            } else {
                verdict(&mut rig, to, Verdict::Failed);
            }
            let said = rig.said(0);
            assert_eq!((said.len(), said[0]["type"] == "ok", rig.said(1).len()), (1, passes, usize::from(passes)));
            assert!(passes || said[0]["code"] == "unavailable", "{said:?}");
            // Too late.
            answer(&mut rig, Hook::Message, to, json!({"answer": 1}));
            assert!(rig.said(0).is_empty());
        }
        rig.assert_nothing_is_left();
    }
}

#[test]
fn what_comes_behind_keeps_its_order_and_others_do_not_wait() {
    let mut rig = room(|_| {});
    for n in 0..3 {
        rig.say(0, message(n, json!(n)));
    }
    rig.say(0, json!({"type": "ping", "id": 9}));
    let (to, _) = question(&mut rig);
    assert!(rig.said(0).is_empty());
    // Nobody is asked about what bob does here, or about what may not be sent at all.
    assert_eq!(rig.ask(1, json!({"type": "leave", "roomId": "r", "id": 1}))[0]["type"], "ok");
    assert_eq!(rig.ask(1, message(2, json!(1)))[0]["code"], "not_member");
    assert_eq!(rig.ask(1, json!({"type": "join", "roomId": "r", "id": 3}))[0]["type"], "ok");
    rig.said(0);
    answer(&mut rig, Hook::Message, to, json!({"answer": "a"}));
    for body in [json!({"content": "b"}), json!({"refuse": true})] {
        let (to, _) = question(&mut rig);
        answer(&mut rig, Hook::Message, to, body);
    }
    let ids: Vec<Value> = rig.said(0).iter().map(|message| message["id"].clone()).collect();
    assert_eq!(ids, [0, 1, 2, 9]);
    assert_eq!(rig.said(1).len(), 1);
    rig.assert_nothing_is_left();
}

#[test]
fn only_what_is_configured_is_asked_about() {
    let entries = ["publish:orders.*", "event:buy", "send_message:bot"];
    let mut rig = Rig::new(|config| {
        asks_about_messages(config);
        config.hooks.messages = entries.iter().map(|entry| entry.parse().unwrap()).collect();
    });
    let client = rig.join_as("ann");
    let mut check = |request: Value, asked: bool| {
        rig.say(client, request.clone());
        let open = questions(&mut rig);
        assert_eq!(open.len(), usize::from(asked), "{request}");
        for (conn, number, _) in open {
            verdict(&mut rig, (conn, number), Verdict::Failed);
        }
    };
    check(json!({"type": "publish", "channel": "orders.1", "content": 1}), true);
    check(json!({"type": "publish", "channel": "other", "content": 1}), false);
    check(json!({"type": "publish", "channel": "other", "content": 1, "event": "buy"}), true);
    check(json!({"type": "broadcast", "content": 1}), false);
    check(json!({"type": "broadcast", "content": 1, "event": "buy"}), true);
    check(json!({"type": "send_message", "target_user": "bot", "content": 1}), true);
    check(json!({"type": "send_message", "target_user": "bott", "content": 1}), false);
    check(json!({"type": "ping"}), false);
}

#[test]
fn whoever_goes_while_a_service_is_asked_leaves_nothing_behind() {
    for way in 0..3 {
        let mut rig = room(|_| {});
        rig.say(0, message(1, json!("never lost")));
        rig.say(0, message(2, json!("never lost")));
        let (to, _) = question(&mut rig);
        match way {
            0 => rig.clients[0].vanish(&mut rig.world),
            1 => rig.clients[0].close(Some(1000)),
            _ => (0..rig.world.hosts.len()).for_each(|host| rig.world.tell(host, Event::Drain)),
        }
        rig.settle();
        if way == 1 {
            // It said what it had to say, and then that it goes: in this order.
            answer(&mut rig, Hook::Message, to, json!({}));
            let (to, _) = question(&mut rig);
            answer(&mut rig, Hook::Message, to, json!({}));
            let said: Vec<Value> = rig.said(1).iter().map(|message| message["content"].clone()).collect();
            assert_eq!(said[..2], ["never lost", "never lost"]);
        } else {
            rig.wait(6_000);
            answer(&mut rig, Hook::Message, to, json!({}));
            assert!(questions(&mut rig).is_empty());
        }
        assert_eq!(rig.clients[0].phase, Phase::Gone, "way {way}");
        rig.assert_nothing_is_left();
    }
}
