//! More comes from the bus than a shard of the node takes.

use serde_json::{Value, json};

use super::world::World;
use super::{contents, enter};
use crate::config::Routing;
use crate::limits::{BUS_ENVELOPES_HIGH, BUS_ENVELOPES_MAX};
use crate::protocol::envelope::Topic;

/// A room whose home on node 1 is not the shard of this user there.
fn room_away_from(world: &World, user: &str) -> String {
    let homes = world.homes(1);
    let away = |room: &String| homes.topic(Topic::Room, room) != homes.user(user);
    (0..).map(|number| format!("room-{number}")).find(away).unwrap()
}

#[test]
fn what_was_shed_on_the_way_to_a_shard_is_told_when_it_has_caught_up() {
    for (class, max) in [("droppable", BUS_ENVELOPES_HIGH), ("normal", BUS_ENVELOPES_MAX)] {
        let mut world = World::ready(Routing::Registry, 2, 2);
        let room = room_away_from(&world, "alice");
        let (alice, bob) = (world.joined(1, "alice", &[]), world.joined(1, "bob", &[]));
        enter(&mut world, alice, &room);
        enter(&mut world, bob, "another");
        world.quiet();
        world.mesh_is_full = true;
        let channel = format!("room:{room}");
        let payload = format!(r#"{{"payload":{{"content":1,"class":"{class}"}}}}"#);
        for _ in 0..max + 7 {
            world.publish(&channel, payload.as_bytes());
        }
        world.pass(1_000);
        assert_eq!(world.said(alice), [] as [Value; 0], "nothing has come through");
        let shed: u64 = world.hosts.iter().map(|host| host.shard.counters().bus_shed).sum();
        assert_eq!(shed, 7, "{class}");
        world.mesh_is_full = false;
        world.settle();
        world.pass(200);
        world.service(&channel, &payload);
        let said = world.said(alice);
        let gaps: Vec<_> = said.iter().filter(|m| m["type"] == "gap").collect();
        let told: u64 = gaps.iter().map(|gap| gap["dropped"].as_u64().unwrap()).sum();
        assert_eq!(contents(&said).len() as u64 + told, max as u64 + 8, "{class}: every message came or is told of");
        assert!(gaps.contains(&&json!({"type": "gap", "roomId": room, "dropped": 7})), "{class}: {gaps:?}");
        assert_eq!(said.last().unwrap()["type"], "message", "it is told as soon as there is room, and then no more");
        assert_eq!(world.said(bob), [] as [Value; 0], "nobody else");
    }
}
