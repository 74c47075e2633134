//! Whole shards of several nodes around a modelled bus.

mod comings;
mod connections;
mod events;
mod joining;
mod moving;
mod shedding;
mod world;

use serde_json::{Value, json};

use crate::config::Routing;
use crate::protocol::command::{Command, Destination, Outcome, Place, Publish, Whom};
use crate::protocol::envelope::Topic;
use world::{Client, World};

const BOTH: [Routing; 2] = [Routing::Broadcast, Routing::Registry];

fn contents(said: &[Value]) -> Vec<&Value> {
    said.iter().filter(|m| m["type"] == "message" || m["type"] == "broadcast").map(|m| &m["content"]).collect()
}

fn publish(to: Destination, content: &str) -> Command {
    let content = content.into();
    let (from, event, class, key, tags, idempotency_key) = (None, None, None, None, None, None);
    Command::Publish(Box::new(Publish { to, content, from, event, class, key, tags, idempotency_key }))
}

fn enter(world: &mut World, client: Client, room: &str) {
    let said = world.ask(client, &json!({"type": "join", "id": 1, "roomId": room}));
    assert!(said.contains(&json!({"type": "ok", "id": 1, "roomId": room})), "{said:?}");
    world.quiet();
}

#[test]
fn a_session_begins_when_the_registry_has_its_user() {
    let mut world = World::ready(Routing::Broadcast, 2, 2);
    world.hangs = true;
    let alice = world.connect(0, "alice");
    world.say(alice, &json!({"type": "ping", "id": 5}));
    world.settle();
    assert_eq!(world.said(alice), [] as [Value; 0], "and what it asks waits");
    world.unhang();
    world.pass(100);
    let said = world.said(alice);
    assert_eq!(
        (&said[0]["type"], &said[0]["local"], &said[1]["type"]),
        (&json!("auth:ok"), &Value::Null, &json!("pong"))
    );
    assert!(world.redis.rows["alice"].contains_key("node-0"));
    // What comes for a user who waits comes after the welcome.
    let bob = world.joined(0, "bob", &[]);
    world.hangs = true;
    let carol = world.connect(0, "carol");
    world.settle();
    world.say(bob, &json!({"type": "send_message", "target_user": "carol", "content": 1}));
    world.settle();
    assert_eq!(world.said(carol), [] as [Value; 0]);
    world.unhang();
    world.pass(100);
    let said = world.said(carol);
    assert_eq!((said.len(), &said[0]["type"], &said[1]["content"]), (2, &json!("auth:ok"), &json!(1)), "{said:?}");
    // A second device finds the row.
    let again = world.connect(0, "alice");
    assert_eq!(world.said(again)[0]["type"], "auth:ok");
}

#[test]
fn what_is_not_confirmed_in_time_is_local() {
    let mut world = World::ready(Routing::Registry, 2, 1);
    let bob = world.joined(0, "bob", &[]);
    world.hangs = true;
    let alice = world.connect_with(0, "alice", &["red"]);
    world.say(bob, &json!({"type": "join", "id": 1, "roomId": "blue"}));
    world.pass(900);
    assert_eq!((world.said(alice).len(), world.said(bob).len()), (0, 0));
    world.pass(300);
    let said = world.said(alice);
    assert_eq!((&said[0]["type"], &said[0]["local"]), (&json!("auth:ok"), &json!(true)));
    assert_eq!(world.said(bob), [json!({"type": "ok", "id": 1, "roomId": "blue", "local": true})]);
}

#[test]
fn without_a_bus_everything_is_local_at_once() {
    let mut world = World::new(Routing::Broadcast, 1, 2);
    world.up = false;
    world.pass(500);
    let alice = world.connect(0, "alice");
    assert_eq!(world.said(alice)[0]["local"], true);
    let said = world.ask(alice, &json!({"type": "join", "id": 1, "roomId": "r"}));
    assert_eq!(said, [json!({"type": "ok", "id": 1, "roomId": "r", "local": true})]);
    let bob = world.connect_with(0, "bob", &["r"]);
    world.settle();
    world.quiet();
    let said = world.ask(alice, &json!({"type": "message", "id": 2, "roomId": "r", "content": 7}));
    assert_eq!((&said[0]["type"], &said[0]["local"]), (&json!("ok"), &json!(true)));
    assert_eq!(contents(&world.said(bob)), [&json!(7)]);
    let said = world.ask(alice, &json!({"type": "message", "roomId": "r", "content": 8}));
    assert_eq!(said[0]["code"], "unavailable", "who asked for no answer is told all the same: {said:?}");
    assert_eq!(contents(&world.said(bob)), [&json!(8)]);
}

#[test]
fn rooms_and_channels_span_nodes_and_everybody_hears_once() {
    for routing in BOTH {
        let mut world = World::ready(routing, 3, 2);
        let clients: Vec<Client> = (0..6).map(|i| world.joined(i % 3, &format!("u{i}"), &[])).collect();
        clients.iter().for_each(|client| enter(&mut world, *client, "r"));
        let said = world.ask(clients[0], &json!({"type": "message", "id": 1, "roomId": "r", "content": "hi"}));
        assert_eq!((said.len(), &said[0]["type"], &said[0]["local"]), (1, &json!("ok"), &Value::Null), "{said:?}");
        for client in &clients[1..] {
            let said = world.said(*client);
            assert_eq!((contents(&said), &said[0]["from"]), (vec![&json!("hi")], &json!("u0")));
        }
        for (at, client) in clients.iter().enumerate() {
            let filter = json!({"key": "n", "op": "eq", "val": at % 2});
            world.ask(*client, &json!({"type": "subscribe", "id": 2, "channel": "c", "filter": filter}));
        }
        world.quiet();
        world.ask(clients[3], &json!({"type": "publish", "id": 3, "channel": "c", "content": 1, "tags": {"n": 1}}));
        let heard: Vec<bool> = clients.iter().map(|client| !contents(&world.said(*client)).is_empty()).collect();
        assert_eq!(heard[..3], [false, true, false]);
        assert_eq!(heard[4..], [false, true]);
        world.say(clients[2], &json!({"type": "broadcast", "id": 4, "content": "all"}));
        world.settle();
        for client in &clients {
            assert_eq!(contents(&world.said(*client)).len(), 1, "{client:?}");
        }
    }
}

#[test]
fn a_message_finds_its_user_on_every_node_and_says_so() {
    for routing in BOTH {
        let mut world = World::ready(routing, 3, 2);
        let alice = world.joined(0, "alice", &[]);
        let send = |to: &str, id: u32| json!({"type": "send_message", "target_user": to, "content": id, "id": id});
        let status = |said: &[Value]| {
            said.iter().find(|m| m.get("id").is_some() && m["type"] == "ok").map(|m| m["status"].clone())
        };
        assert_eq!(status(&world.ask(alice, &send("bob", 1))), Some(json!("offline")), "{routing:?}");
        let bobs = [world.joined(1, "bob", &[]), world.joined(2, "bob", &[]), world.joined(2, "bob", &[])];
        for id in 2..20 {
            assert_eq!(status(&world.ask(alice, &send("bob", id))), Some(json!("delivered")), "{routing:?} {id}");
        }
        for bob in bobs {
            let said = world.said(bob);
            assert_eq!(contents(&said), (2..20).map(|id| json!(id)).collect::<Vec<_>>().iter().collect::<Vec<_>>());
        }
        // To oneself, on another node as well.
        let second = world.joined(1, "alice", &[]);
        let said = world.ask(alice, &send("alice", 20));
        assert_eq!((contents(&said), contents(&world.said(second))), (vec![&json!(20)], vec![&json!(20)]));
        // Gone again.
        bobs.into_iter().for_each(|bob| world.disconnect(bob));
        world.pass(200);
        assert_eq!(status(&world.ask(alice, &send("bob", 21))), Some(json!("offline")), "{routing:?}");
    }
}

#[test]
fn a_message_that_cannot_leave_the_node_is_unavailable_and_one_that_need_not_is_delivered() {
    for routing in BOTH {
        let mut world = World::ready(routing, 2, 2);
        let alice = world.joined(0, "alice", &[]);
        let here = world.joined(0, "here", &[]);
        let there = world.joined(1, "there", &[]);
        world.cut();
        world.quiet();
        let send = |to: &str| json!({"type": "send_message", "target_user": to, "content": 1, "id": 7});
        let said = world.ask(alice, &send("there"));
        assert_eq!((&said[0]["type"], &said[0]["code"]), (&json!("error"), &json!("unavailable")), "{said:?}");
        let said = world.ask(alice, &send("here"));
        assert_eq!(said[0]["status"], "delivered", "{said:?}");
        assert_eq!((contents(&world.said(here)).len(), contents(&world.said(there)).len()), (1, 0));
        let said = world.ask(alice, &json!({"type": "send_message", "target_user": "there", "content": 1}));
        assert_eq!(said[0]["code"], "unavailable", "without an id as well: {said:?}");
        world.up = true;
        world.pass(20_000);
        world.quiet();
        let said = world.ask(alice, &send("there"));
        assert_eq!(said[0]["status"], "delivered", "{said:?}");
    }
}

#[test]
fn services_reach_users_on_other_nodes() {
    for routing in BOTH {
        let mut world = World::ready(routing, 2, 2);
        let alice = world.joined(1, "alice", &[]);
        let bob = world.joined(0, "bob", &[]);
        let users = Destination::Users(["alice", "bob", "nobody"].map(Box::from).to_vec());
        let Outcome::Published(published) = world.command(0, publish(users, "1")) else { panic!() };
        assert_eq!((published.tally.delivered, published.tally.offline), (2, 1), "{routing:?} {:?}", published.tally);
        assert_eq!((contents(&world.said(alice)).len(), contents(&world.said(bob)).len()), (1, 1));
    }
}

#[test]
fn coming_and_going_is_told_on_other_nodes() {
    let mut world = World::ready(Routing::Registry, 2, 2);
    let alice = world.joined(0, "alice", &["r"]);
    let bob = world.joined(1, "bob", &["r"]);
    world.quiet();
    world.ask(bob, &json!({"type": "leave", "roomId": "r"}));
    assert_eq!(world.said(alice), [json!({"type": "user:left", "userId": "bob", "roomId": "r"})]);
    world.ask(bob, &json!({"type": "join", "roomId": "r"}));
    assert_eq!(world.said(alice), [json!({"type": "user:joined", "userId": "bob", "roomId": "r"})]);
    assert_eq!(world.said(bob), [] as [Value; 0], "not to the user itself");
}

#[test]
fn services_speak_through_the_bus_alone() {
    let mut world = World::ready(Routing::Registry, 2, 2);
    let alice = world.joined(0, "alice", &[]);
    let second = world.joined(1, "alice", &[]);
    let bob = world.joined(1, "bob", &[]);
    enter(&mut world, bob, "r");
    world.ask(alice, &json!({"type": "subscribe", "id": 2, "channel": "c"}));
    world.quiet();
    for (channel, who) in [
        ("user:alice", vec![alice, second]),
        ("room:r", vec![bob]),
        ("channel:c", vec![alice]),
        ("broadcast", vec![alice, second, bob]),
    ] {
        world.service(channel, r#"{"payload":{"content":{"x":1},"from":"shop","event":"sale"}}"#);
        for client in [alice, second, bob] {
            let said = world.said(client);
            let here = who.iter().any(|one| one.host == client.host && one.conn == client.conn);
            assert_eq!(said.len(), usize::from(here), "{channel}: {said:?}");
            assert!(
                said.iter().all(|m| m["content"] == json!({"x": 1}) && m["from"] == "shop" && m["event"] == "sale")
            );
        }
    }
    world.service("user:bob", r#"{"senderInstance":"elsewhere","payload":{"type":"message","content":1,"mine":2}}"#);
    assert_eq!(world.said(bob), [json!({"type": "message", "content": 1, "mine": 2})], "verbatim");
    world.service("user:bob", r#"{"senderInstance":"node-1","payload":{"type":"message","content":1}}"#);
    world.service("user:bob", "rubbish");
    assert_eq!(world.said(bob), [] as [Value; 0]);
}

#[test]
fn presence_counts_the_whole_cluster() {
    let mut world = World::ready(Routing::Broadcast, 3, 2);
    let alice = world.joined(0, "alice", &["r"]);
    for (node, user) in [(0, "bob"), (1, "bob"), (1, "eve"), (2, "eve"), (2, "eve")] {
        world.joined(node, user, &["r"]);
    }
    let said = world.ask(alice, &json!({"type": "presence", "id": 1, "roomId": "r"}));
    let users = json!([
        {"userId": "alice", "connections": 1},
        {"userId": "bob", "connections": 2},
        {"userId": "eve", "connections": 3},
    ]);
    assert_eq!((&said[0]["users"], &said[0]["userCount"], &said[0]["connectionCount"]), (&users, &json!(3), &json!(6)));
    for (place, connections, nodes) in [
        (Place::Topic(Topic::Room, "r".into()), 6, 2),
        (Place::User("eve".into()), 3, 2),
        (Place::User("alice".into()), 1, 0),
        (Place::User("nobody".into()), 0, 0),
    ] {
        let Outcome::Present(present) = world.command(0, Command::Presence(place.clone())) else { panic!("{place:?}") };
        assert_eq!((present.census.connections, present.elsewhere.len()), (connections, nodes), "{place:?}");
    }
}

#[test]
fn the_server_api_reaches_other_nodes() {
    for routing in BOTH {
        let mut world = World::ready(routing, 2, 2);
        let alice = world.joined(1, "alice", &[]);
        let room = |to: &str| Destination::Topic(Topic::Room, to.into());
        let tally = |outcome| match outcome {
            Outcome::Published(published) => published.tally,
            other => panic!("{other:?}"),
        };
        let joins = Command::Member { user: "alice".into(), room: "r".into(), enter: true };
        assert!(matches!(world.command(0, joins), Outcome::Connections(1)));
        world.settle();
        world.quiet();
        assert_eq!(tally(world.command(0, publish(room("r"), "1"))).delivered, 1);
        assert_eq!(tally(world.command(0, publish(room("empty"), "2"))).delivered, 0);
        assert_eq!(tally(world.command(0, publish(Destination::All, "3"))).unavailable, 0);
        assert_eq!(contents(&world.said(alice)), [&json!(1), &json!(3)]);
        let leaves = Command::Disconnect { whom: Whom::User("alice".into()), code: 4003, reason: "bye".into() };
        assert!(matches!(world.command(0, leaves), Outcome::Connections(1)));
        world.cut();
        assert_eq!(tally(world.command(0, publish(room("r"), "4"))).unavailable, 1);
    }
}

#[test]
fn what_comes_outside_the_lease_is_discarded_and_counted() {
    let mut world = World::ready(Routing::Registry, 2, 1);
    let alice = world.joined(0, "alice", &["r"]);
    // The process was stopped for longer than its lease.
    world.now.boot_ms += 60_000;
    let payload = r#"{"payload":{"content":1}}"#;
    for channel in ["user:alice", "room:r", "broadcast"] {
        world.publish(channel, payload.as_bytes());
    }
    world.hangs = true;
    world.settle();
    assert_eq!(world.said(alice), [] as [Value; 0]);
    assert_eq!(world.hosts[0].shard.counters().bus_discarded, 3);
    world.unhang();
    world.pass(3_000);
    world.service("user:alice", payload);
    assert_eq!(contents(&world.said(alice)), [&json!(1)], "under a fresh epoch");
}

#[test]
fn after_a_loss_everything_is_announced_again() {
    let mut world = World::ready(Routing::Registry, 2, 2);
    let alice = world.joined(0, "alice", &["r"]);
    world.cut();
    world.pass(1_000);
    let bob = world.connect_with(1, "bob", &["r"]);
    assert_eq!(world.said(bob)[0]["local"], true);
    world.flush_all();
    world.up = true;
    world.pass(15_000);
    assert!(world.redis.rows["alice"].contains_key("node-0") && world.redis.rows["bob"].contains_key("node-1"));
    world.quiet();
    world.ask(bob, &json!({"type": "message", "id": 1, "roomId": "r", "content": "back"}));
    assert_eq!(contents(&world.said(alice)), [&json!("back")]);
}

#[test]
fn nobody_is_taken_for_offline_while_a_node_has_not_announced_all_its_users() {
    for routing in [Routing::Registry, Routing::Hash] {
        let mut world = World::ready(routing, 2, 2);
        let alice = world.joined(0, "alice", &[]);
        assert!(world.announcing.is_empty(), "all have");
        // Redis has forgotten everything, and a node that nobody here has met is the first to be back.
        world.flush_all();
        let stranger = (world.now.unix_ms, world.now.boot_ms + 10_000, 4_711);
        world.redis.leases.insert("stranger".to_owned(), stranger);
        world.announcing.insert(4_711);
        // Longer than this shard itself would have doubted, had there been nobody.
        for _ in 0..4 {
            world.pass(3_000);
            world.redis.leases.insert("stranger".to_owned(), (stranger.0, world.now.boot_ms + 10_000, stranger.2));
        }
        assert_eq!(world.announcing.iter().collect::<Vec<_>>(), [&4_711], "these have announced everybody again");
        world.quiet();
        world.say(alice, &json!({"type": "send_message", "target_user": "bob", "content": 1, "id": 1}));
        world.pass(2_000);
        assert_eq!(world.said(alice), [] as [Value; 0], "he may be there: {routing:?}");
        world.announcing.clear();
        world.pass(4_000);
        assert_eq!(world.said(alice)[0]["status"], "offline", "{routing:?}");
    }
}

#[test]
fn the_lease_is_given_back_at_the_end() {
    let mut world = World::ready(Routing::Broadcast, 2, 2);
    for host in [0, 1] {
        world.feed(host, crate::shard::event::Event::Leave);
    }
    world.settle();
    assert!(world.hosts[0].left && world.hosts[1].left);
    assert_eq!(world.redis.leases["node-0"].1, 0, "it ends at once");
}

#[test]
fn nothing_is_left_of_those_who_left() {
    for routing in BOTH {
        let mut world = World::ready(routing, 2, 2);
        let clients: Vec<Client> = (0..8).map(|i| world.joined(i % 2, &format!("u{}", i / 2), &["r"])).collect();
        for client in clients {
            world.ask(client, &json!({"type": "message", "id": 1, "roomId": "r", "content": 1}));
            world.disconnect(client);
        }
        world.pass(1_000);
        for host in &world.hosts {
            assert_eq!(host.shard.held(), crate::shard::Held::default());
            let gauges = host.shard.gauges();
            assert_eq!((gauges.bus_rows, gauges.bus_waiting, gauges.bus_unanswered), (0, 0, 0));
        }
        assert!(world.redis.rows.values().all(|rows| rows.is_empty()), "{:?}", world.redis.rows);
    }
}
