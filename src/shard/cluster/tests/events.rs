//! What services are told of users who come and go in the cluster.

use super::world::{Client, World};
use crate::config::Routing;
use crate::shard::event::Event;

const NOTHING: [&str; 0] = [];

fn crowd(world: &mut World, count: usize) -> Vec<Client> {
    let clients = (0..count).map(|number| world.joined(number % 2, &format!("u{number}"), &[])).collect();
    world.quiet();
    clients
}

#[test]
fn the_first_and_the_last_connection_in_the_cluster_are_told() {
    let mut world = World::ready(Routing::Broadcast, 2, 1);
    let first = world.connect(0, "alice");
    world.settle();
    assert_eq!(world.events(), ["+alice node-0"]);
    let second = world.connect(1, "alice");
    let third = world.connect(1, "alice");
    world.settle();
    world.disconnect(first);
    world.disconnect(second);
    world.pass(200);
    assert_eq!(world.events(), NOTHING);
    world.disconnect(third);
    world.pass(200);
    assert_eq!(world.events(), ["-alice node-1"]);
}

#[test]
fn the_first_is_told_although_nobody_knows_yet_that_the_other_node_is_there() {
    let mut world = World::ready(Routing::Registry, 1, 1);
    let here = world.joined(0, "alice", &[]);
    world.quiet();
    // A row of a node whose lease this one has not read yet.
    world.redis.rows.get_mut("alice").unwrap().insert("new".to_owned(), (99, 0));
    world.disconnect(here);
    world.pass(200);
    assert_eq!(world.events(), NOTHING, "alice is on another node");
}

#[test]
fn who_hops_between_nodes_comes_and_goes_by_turns() {
    let mut world = World::ready(Routing::Registry, 3, 2);
    for round in 0..30 {
        let client = world.connect(round % 3, "alice");
        if round % 4 != 0 {
            world.settle();
        }
        world.disconnect(client);
        if round % 5 == 0 {
            world.pass(100);
        }
    }
    world.pass(200);
    let events = world.events();
    assert!(events.len() > 10 && events.len().is_multiple_of(2), "{events:?}");
    for (number, event) in events.iter().enumerate() {
        assert!(event.starts_with(["+alice", "-alice"][number % 2]), "{events:?}");
    }
}

#[test]
fn who_comes_and_goes_before_anything_is_sent_was_never_there() {
    let mut world = World::ready(Routing::Registry, 2, 1);
    let client = world.connect(0, "alice");
    world.disconnect(client);
    world.pass(500);
    assert_eq!(world.events(), NOTHING);
}

#[test]
fn what_redis_has_forgotten_is_announced_again_and_not_told_again() {
    let mut world = World::ready(Routing::Registry, 2, 2);
    let clients = crowd(&mut world, 12);
    world.flush_all();
    // Before anybody has noticed.
    world.disconnect(clients[0]);
    world.pass(15_000);
    assert_eq!(world.events(), ["-u0 node-0"], "who left is told to be gone, once; nobody else is told of");
    assert_eq!(world.redis.rows.values().filter(|rows| !rows.is_empty()).count(), 11);
    world.disconnect(clients[1]);
    world.pass(200);
    assert_eq!(world.events(), ["-u1 node-1"]);
    let again = world.connect(1, "u0");
    world.settle();
    assert_eq!(world.events(), ["+u0 node-1"]);
    world.disconnect(again);
    world.pass(200);
    assert_eq!(world.events(), ["-u0 node-1"]);
}

#[test]
fn who_left_while_redis_was_away_is_told_to_be_gone_once() {
    // For less than a lease and for longer; it comes back as it was, or empty.
    for away_ms in [2_000, 20_000] {
        for forgets in [false, true] {
            let mut world = World::ready(Routing::Registry, 2, 2);
            let clients = crowd(&mut world, 8);
            world.cut();
            world.disconnect(clients[3]);
            world.pass(away_ms);
            let late = world.connect(0, "late");
            if forgets {
                world.flush_all();
            }
            world.up = true;
            world.pass(30_000);
            let events = world.events();
            let of = |user: &str| -> String {
                let about = events.iter().filter(|event| event[1..].split(' ').next() == Some(user));
                about.map(|event| &event[..1]).collect()
            };
            assert_eq!((of("late"), of("u3")), ("+".into(), "-".into()), "away {away_ms} ms, forgets {forgets}");
            for user in ["u0", "u1", "u2", "u4", "u5", "u6", "u7"] {
                // Whose lease had run out may have been taken for dead by the other node, which was back before.
                let told = of(user);
                assert!(told.is_empty() || (told == "-+" && away_ms > 10_000 && !forgets), "{user}: {events:?}");
            }
            world.disconnect(late);
            clients.iter().for_each(|client| world.disconnect(*client));
            world.pass(1_000);
            assert_eq!(world.events().len(), 8, "away {away_ms} ms, forgets {forgets}");
        }
    }
}

#[test]
fn who_was_on_a_node_that_died_is_told_to_be_gone_once_and_its_rows_go() {
    let mut world = World::ready(Routing::Registry, 2, 2);
    for (user, elsewhere) in [("alice", true), ("bob", false), ("carol", false), ("dave", false)] {
        let rows = world.redis.rows.entry(user.to_owned()).or_default();
        rows.insert("gone".to_owned(), (7, 1));
        if elsewhere {
            world.joined(0, user, &[]);
        }
        world.redis.indices.entry(("gone".to_owned(), 7, 1)).or_default().insert(user.to_owned());
    }
    world.redis.graves.insert(("gone".to_owned(), 7));
    world.quiet();
    world.pass(5_000);
    let mut events = world.events();
    events.sort();
    assert_eq!(events, ["-bob gone", "-carol gone", "-dave gone"], "not alice, who is on another node");
    assert!(world.redis.graves.is_empty());
    assert!(world.redis.rows.values().all(|rows| !rows.contains_key("gone")));
}

#[test]
fn who_is_on_a_node_that_was_taken_for_dead_comes_again_with_it() {
    let mut world = World::ready(Routing::Registry, 2, 1);
    let alice = world.joined(0, "alice", &[]);
    world.quiet();
    let renewed = world.redis.leases["node-0"];
    while world.redis.leases["node-0"] == renewed {
        world.pass(100);
    }
    // By the clock of Redis its lease is over; the others clean up before the node has asked.
    world.redis.leases.get_mut("node-0").unwrap().1 = 0;
    world.pass(10_000);
    assert_eq!(world.events(), ["-alice node-0", "+alice node-0"]);
    world.disconnect(alice);
    world.pass(200);
    assert_eq!(world.events(), ["-alice node-0"]);
}

#[test]
fn who_is_left_when_a_node_ends_is_told_by_those_who_clean_up() {
    let mut world = World::ready(Routing::Registry, 2, 2);
    for number in 0..4 {
        world.joined(0, &format!("u{number}"), &[]);
    }
    world.quiet();
    for host in [0, 1] {
        world.feed(host, Event::Leave);
    }
    world.pass(10_000);
    let mut events = world.events();
    events.sort();
    assert_eq!(events, ["-u0 node-0", "-u1 node-0", "-u2 node-0", "-u3 node-0"]);
}
