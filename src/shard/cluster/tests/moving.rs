//! Routing `hash`: who belongs on another node is told, once, in time, and served until then.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::contents;
use super::world::{Client, World, url};
use crate::cluster::moving::{AFTER_MS, REST_MS};
use crate::cluster::ring::Ring;
use crate::config::Routing;
use crate::shard::event::Event;

/// The first of users who belong on this node, of so many.
fn user_of(node: usize, nodes: usize) -> String {
    let mut users = (0..).map(|number| format!("user-{number}"));
    users.find(|user| owner(user, nodes) == node).unwrap()
}

fn owner(user: &str, nodes: usize) -> usize {
    let ring = Ring::new((0..nodes).map(|node| (format!("node-{node}"), 100)));
    ring.owner(user).unwrap().trim_start_matches("node-").parse().unwrap()
}

/// Where these messages send their receiver, after how long, and why.
fn sent_to(said: &[Value]) -> Vec<(&str, u64, &str)> {
    let reconnects = said.iter().filter(|message| message["type"] == "reconnect");
    let parts = |m| {
        let m: &Value = m;
        (m["url"].as_str().unwrap_or(""), m["afterMs"].as_u64().unwrap(), m["reason"].as_str().unwrap())
    };
    reconnects.map(parts).collect()
}

#[test]
fn who_comes_to_the_wrong_node_is_told_served_and_closed() {
    let mut world = World::ready(Routing::Hash, 2, 1);
    let (stranger, native) = (user_of(1, 2), user_of(0, 2));
    let at_home = world.joined(0, &native, &[]);
    let client = world.connect(0, &stranger);
    world.settle();
    let said = world.said(client);
    assert_eq!(said[0]["type"], "auth:ok");
    let [(to, after_ms, "moved")] = sent_to(&said)[..] else { panic!("{said:?}") };
    assert_eq!(to, format!("{}?moved=1", url(1)));
    assert!(AFTER_MS.contains(&after_ms));

    let sends = |text| json!({"type": "send_message", "id": 1, "target_user": stranger, "content": text});
    let answer = world.ask(at_home, &sends("still here"));
    assert_eq!(answer[0]["status"], "delivered", "{answer:?}");
    assert_eq!(contents(&world.said(client)), [&json!("still here")]);
    world.pass(after_ms + 200);
    assert_eq!(world.hosts[0].shard.held().users, 1, "it was closed when its time had come");
    let answer = world.ask(at_home, &sends("gone"));
    assert_eq!(answer[0]["status"], "offline");

    // It does as it was told: there it stays; and it is found there.
    let moved = world.connect_from(1, &stranger, &[], true);
    world.pass(3_000);
    let said = world.said(moved);
    assert_eq!((said.len(), &said[0]["type"]), (1, &json!("auth:ok")), "{said:?}");
    assert_eq!(world.ask(at_home, &sends("welcome"))[0]["status"], "delivered");
    assert_eq!(contents(&world.said(moved)), [&json!("welcome")]);
    assert_eq!(sent_to(&world.said(at_home)), [], "who is where they belong hears nothing of it");
}

#[test]
fn who_does_not_follow_is_served_where_they_are() {
    let mut world = World::ready(Routing::Hash, 2, 1);
    let (stranger, other) = (user_of(1, 2), user_of(1, 2) + "-other");
    let sender = world.connect_from(1, &other, &[], true);
    let client = world.connect(0, &stranger);
    world.pass(3_000);
    assert_eq!(sent_to(&world.said(client)).len(), 1);
    world.quiet();
    // Back on the wrong node within the minute, and one that another node has sent to the wrong one.
    for marked in [false, true] {
        let back = world.connect_from(0, &stranger, &[], marked);
        world.pass(20_000);
        let said = world.said(back);
        assert_eq!((said.len(), &said[0]["type"]), (1, &json!("auth:ok")), "{said:?}");
        let message = json!({"type": "send_message", "id": 1, "target_user": stranger, "content": marked});
        let answer = world.ask(sender, &message);
        assert_eq!(answer[0]["status"], "delivered", "{answer:?}");
        assert_eq!(contents(&world.said(back)), [&json!(marked)]);
    }
}

#[test]
fn a_node_that_joins_takes_over_its_users_and_no_others_and_not_all_at_once() {
    let mut world = World::ready(Routing::Hash, 2, 1);
    let users: Vec<String> = (0..400).map(|number| format!("user-{number}")).collect();
    let clients: BTreeMap<&str, Client> =
        users.iter().map(|user| (user.as_str(), world.joined(owner(user, 2), user, &[]))).collect();
    world.redis.leases.insert("node-2".to_owned(), (77, u64::MAX / 4, 9));
    let (mut told, mut first_ms, mut last_ms, mut most) = (BTreeSet::new(), None, 0, 0);
    for at_ms in (0..20_000).step_by(100) {
        world.pass(100);
        let before = told.len();
        for (user, client) in &clients {
            for (to, _, why) in sent_to(&world.said(*client)) {
                assert_eq!((to, why), (&*format!("{}?moved=1", url(2)), "moved"));
                assert!(told.insert(*user), "{user} was told twice");
                (first_ms, last_ms) = (first_ms.or(Some(at_ms)), at_ms);
            }
        }
        most = most.max(told.len() - before);
    }
    let expected: BTreeSet<&str> = clients.keys().copied().filter(|user| owner(user, 3) == 2).collect();
    assert_eq!(told, expected);
    assert!(expected.len() > 80 && most * 10 < expected.len(), "{most} of {} within a tick", expected.len());
    let first_ms = first_ms.unwrap();
    assert!(first_ms >= REST_MS - 100, "the ring is left alone for a while first");
    assert!(last_ms - first_ms > 3_000, "over the time of drain.spread: from {first_ms} to {last_ms}");
    let left: usize = world.hosts.iter().map(|host| host.shard.held().users).sum();
    assert_eq!(left, clients.len() - expected.len(), "and they are closed then");
}

#[test]
fn a_ring_that_cannot_be_relied_on_moves_nobody() {
    let mut world = World::ready(Routing::Hash, 2, 1);
    let stranger = user_of(1, 2);
    let native = world.joined(0, &user_of(0, 2), &[]);
    world.redis.leases.insert("node-2".to_owned(), (77, u64::MAX / 4, 9));
    world.pass(1_500);
    world.cut();
    world.pass(20_000);
    let client = world.connect(0, &stranger);
    world.pass(20_000);
    let said = world.said(client);
    assert_eq!((said.len(), &said[0]["local"]), (1, &json!(true)), "it is served here: {said:?}");
    assert_eq!(sent_to(&world.said(native)), []);
}

#[test]
fn who_drains_leaves_the_ring_and_says_where_to_go() {
    let mut world = World::ready(Routing::Hash, 3, 1);
    let user = user_of(0, 3);
    let client = world.joined(0, &user, &[]);
    world.feed(0, Event::Drain);
    world.settle();
    let others = Ring::new([("node-1", 100), ("node-2", 100)]);
    let heir: usize = others.owner(&user).unwrap().trim_start_matches("node-").parse().unwrap();
    let said = world.said(client);
    let [(to, _, "draining")] = sent_to(&said)[..] else { panic!("{said:?}") };
    assert_eq!(to, format!("{}?moved=1", url(heir)));
    // The others know within a poll, although the lease still holds: whoever comes there is not sent back.
    world.pass(1_500);
    assert!(world.redis.leases["node-0"].1 > world.now.boot_ms);
    let moved = world.connect(heir, &user);
    world.pass(3_000);
    assert_eq!(sent_to(&world.said(moved)), []);
}
