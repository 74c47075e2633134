//! Connections by their ids, wherever they are.

use serde_json::json;

use super::world::{Client, World};
use crate::config::Routing;
use crate::ids::{ConnectionId, GlobalConnectionId, ShardId};
use crate::protocol::command::{Command, Outcome, Search, Whom};

/// The id that the client was told.
fn connected(world: &mut World, node: usize, user: &str) -> (Client, GlobalConnectionId) {
    let client = world.connect(node, user);
    world.settle();
    let said = world.said(client);
    assert_eq!((&said[0]["type"], said[0].get("local")), (&json!("auth:ok"), None), "{said:?}");
    (client, said[0]["connectionId"].as_str().expect("an id").parse().expect("of 28 digits"))
}

fn close(world: &mut World, node: usize, id: GlobalConnectionId) -> Outcome {
    let command = Command::Disconnect { whom: Whom::Connection(id), code: 4003, reason: "bye".into() };
    world.command(node, command)
}

fn is_closed(world: &mut World, client: Client) -> bool {
    world.settle();
    world.hosts[client.host].shard.held().connections == 0
}

#[test]
fn one_connection_is_closed_from_any_node_and_no_other() {
    for routing in [Routing::Broadcast, Routing::Registry, Routing::Hash] {
        let mut world = World::ready(routing, 3, 2);
        let (first, id) = connected(&mut world, 1, "alice");
        let (second, _) = connected(&mut world, 2, "alice");
        assert!(matches!(close(&mut world, 0, id), Outcome::Connections(1)), "{routing:?}");
        assert!(matches!(close(&mut world, 0, id), Outcome::Connections(0)), "it is closing");
        world.disconnect(first);
        assert!(matches!(close(&mut world, 0, id), Outcome::Connections(0)), "it is gone");
        assert!(is_closed(&mut world, first) && !is_closed(&mut world, second), "{routing:?}");
        // Nobody else's, although the row and the shard are there.
        let stale = ConnectionId { generation: id.connection.generation + 1, ..id.connection };
        for nobody in [stale.of(id.instance), id.connection.of(4_711)] {
            assert!(matches!(close(&mut world, 0, nobody), Outcome::Connections(0)), "{nobody}");
        }
        let nowhere = ConnectionId { shard: ShardId(9), ..id.connection };
        assert!(matches!(close(&mut world, 1, nowhere.of(id.instance)), Outcome::Connections(0)), "no such shard");
    }
}

#[test]
fn what_became_of_it_is_not_made_up_where_nobody_answers() {
    let mut world = World::ready(Routing::Registry, 2, 1);
    let (client, id) = connected(&mut world, 1, "alice");
    world.stop(1);
    assert!(matches!(close(&mut world, 0, id), Outcome::Unreachable), "it hears, and does not answer");
    world.deafen(1);
    assert!(matches!(close(&mut world, 0, id), Outcome::Unreachable), "it does not hear, and has its lease");
    world.redis.leases.remove("node-1");
    world.pass(2_000);
    assert!(matches!(close(&mut world, 0, id), Outcome::Unreachable), "Redis may have forgotten it");
    world.pass(10_000);
    assert!(matches!(close(&mut world, 0, id), Outcome::Connections(0)), "nobody has heard of it for a lease");
    world.cut();
    assert!(matches!(close(&mut world, 0, id), Outcome::Unreachable), "nobody can be asked");
    assert!(!is_closed(&mut world, client));
}

#[test]
fn who_looks_for_a_connection_is_told_which_node_to_ask() {
    let mut world = World::ready(Routing::Registry, 2, 2);
    let (_, id) = connected(&mut world, 1, "alice");
    let find = |id| Command::Connections(Search { connection: Some(id), limit: 5, ..Search::default() });
    assert!(matches!(world.command(0, find(id)), Outcome::Elsewhere(node) if *node == *"node-1"));
    assert!(matches!(world.command(0, find(id.connection.of(4_711))), Outcome::Found { matched: 0, .. }));
}
