//! Who is told that a user is in a room is told when messages for it reach that user.

use serde_json::{Value, json};

use super::contents;
use super::world::{Client, World};
use crate::config::Routing;
use crate::protocol::command::{Command, Outcome};

fn member(user: &str, room: &str, enter: bool) -> Command {
    Command::Member { user: user.into(), room: room.into(), enter }
}

fn count(outcome: Option<Outcome>) -> Option<u32> {
    match outcome? {
        Outcome::Connections(count) => Some(count),
        other => panic!("{other:?}"),
    }
}

fn speak(world: &mut World, speaker: Client, content: &str) {
    world.say(speaker, &json!({"type": "message", "id": 9, "roomId": "r", "content": content}));
    world.settle();
}

#[test]
fn a_service_is_answered_when_the_users_node_hears_the_room() {
    // The node that is asked has a connection of the user too, or not.
    for nodes in [vec![1], vec![0, 1, 2]] {
        let mut world = World::ready(Routing::Registry, 3, 2);
        let speaker = world.joined(1, "speaker", &[]);
        let devices: Vec<Client> = nodes.iter().map(|node| world.joined(*node, "alice", &[])).collect();
        world.subscribes_late = true;
        world.begin_command(0, member("alice", "r", true));
        world.pass(300);
        assert_eq!(count(world.outcome(0)), None, "{nodes:?}: nobody hears the room yet");
        world.unhang();
        world.settle();
        assert_eq!(count(world.outcome(0)), Some(devices.len() as u32), "{nodes:?}");
        world.ask(speaker, &json!({"type": "join", "id": 1, "roomId": "r"}));
        speak(&mut world, speaker, "hi");
        assert!(devices.iter().all(|device| contents(&world.said(*device)) == [&json!("hi")]), "{nodes:?}");
        // What is taken out is out at once.
        world.subscribes_late = true;
        world.begin_command(0, member("alice", "r", false));
        assert_eq!(count(world.outcome(0)), Some(devices.len() as u32), "{nodes:?}");
        speak(&mut world, speaker, "alone");
        assert!(devices.iter().all(|device| contents(&world.said(*device)) == [] as [&Value; 0]), "{nodes:?}");
    }
}

#[test]
fn a_service_hears_the_true_count_although_the_bus_is_slow() {
    let mut world = World::ready(Routing::Broadcast, 2, 2);
    let _here = world.joined(0, "alice", &[]);
    let _there = world.joined(1, "alice", &[]);
    world.subscribes_late = true;
    world.begin_command(0, member("alice", "r", true));
    world.pass(400);
    assert_eq!(count(world.outcome(0)), None);
    world.pass(200);
    assert_eq!(count(world.outcome(0)), Some(2), "of the other node too, before who asks has waited too long");
    world.unhang();
    world.pass(1_000);
    assert!(world.hosts.iter().all(|host| host.shard.gauges().bus_waiting == 0));
}

#[test]
fn a_service_waits_for_no_bus_that_is_down() {
    let mut world = World::ready(Routing::Registry, 2, 2);
    let alice = world.joined(0, "alice", &[]);
    world.subscribes_late = true;
    world.begin_command(0, member("alice", "r", true));
    assert_eq!(count(world.outcome(0)), None);
    world.cut();
    assert_eq!(count(world.outcome(0)), Some(1), "it is not waited for any more");
    world.begin_command(0, member("alice", "s", true));
    assert_eq!(count(world.outcome(0)), Some(1), "nor at all");
    world.begin_command(0, member("alice", "r", false));
    world.begin_command(0, member("alice", "s", false));
    world.disconnect(alice);
    world.pass(1_000);
    assert!(world.hosts.iter().all(|host| host.shard.held() == crate::shard::Held::default()));
}

#[test]
fn who_has_left_again_is_not_waited_for() {
    let mut world = World::ready(Routing::Registry, 2, 2);
    let alice = world.joined(0, "alice", &[]);
    world.subscribes_late = true;
    world.say(alice, &json!({"type": "join", "id": 1, "roomId": "r"}));
    world.begin_command(0, member("alice", "s", true));
    assert_eq!(count(world.outcome(0)), None);
    world.say(alice, &json!({"type": "leave", "id": 2, "roomId": "r"}));
    world.say(alice, &json!({"type": "leave", "id": 3, "roomId": "s"}));
    world.settle();
    assert_eq!(count(world.outcome(0)), Some(1));
    let room = |id: u32, room: &str| json!({"type": "ok", "id": id, "roomId": room});
    assert_eq!(world.said(alice), [room(1, "r"), room(2, "r"), room(3, "s")]);
}

#[test]
fn a_session_begins_when_the_rooms_of_its_token_are_heard() {
    let mut world = World::ready(Routing::Registry, 2, 2);
    let speaker = world.joined(1, "speaker", &["r"]);
    // Her row is in the registry already: it is the rooms that are waited for.
    let _first = world.joined(0, "alice", &[]);
    world.subscribes_late = true;
    let alice = world.connect_with(0, "alice", &["r", "s", "r", "t"]);
    world.say(alice, &json!({"type": "ping", "id": 5}));
    world.pass(300);
    assert_eq!(world.said(alice), [] as [Value; 0]);
    world.unhang();
    world.settle();
    let said = world.said(alice);
    assert_eq!(
        (said.len(), &said[0]["type"], &said[0]["local"], &said[1]["type"]),
        (2, &json!("auth:ok"), &Value::Null, &json!("pong")),
        "{said:?}"
    );
    speak(&mut world, speaker, "hi");
    assert_eq!(contents(&world.said(alice)), [&json!("hi")]);
    // One room that is not confirmed in time, and the session is local.
    world.subscribes_late = true;
    let second = world.connect_with(0, "alice", &["r", "new"]);
    world.pass(900);
    assert_eq!(world.said(second), [] as [Value; 0]);
    world.pass(300);
    assert_eq!(world.said(second)[0]["local"], true);
}
