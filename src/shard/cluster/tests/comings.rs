//! Who comes into a room and who goes is told once per user of the whole cluster, in order, whatever happens at the same time.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::world::{Client, World};
use crate::config::Routing;
use crate::shard::Held;
use crate::shard::event::Event;

const NODES: usize = 3;

/// Three nodes with somebody in the room on each.
fn watched() -> (World, Vec<Client>) {
    let mut world = World::ready(Routing::Registry, NODES, 2);
    let watchers = (0..NODES).map(|node| world.joined(node, &format!("watcher{node}"), &["r"])).collect();
    world.quiet();
    (world, watchers)
}

fn join() -> Value {
    json!({"type": "join", "roomId": "r"})
}

fn leave() -> Value {
    json!({"type": "leave", "roomId": "r"})
}

/// What somebody was told of a user since the last time.
fn told(world: &mut World, watcher: Client, user: &str) -> Vec<String> {
    let said = world.said(watcher);
    let of_user = said.iter().filter(|m| m["userId"] == user && m["roomId"] == "r");
    of_user.filter_map(|m| m["type"].as_str()).map(|kind| kind.trim_start_matches("user:").to_owned()).collect()
}

/// What all watchers were told of a user: the same, in the same order.
fn all_told(world: &mut World, watchers: &[Client], user: &str) -> Vec<String> {
    let each: Vec<Vec<String>> = watchers.iter().map(|watcher| told(world, *watcher, user)).collect();
    assert!(each.windows(2).all(|pair| pair[0] == pair[1]), "{each:?}");
    each.into_iter().next().unwrap_or_default()
}

/// Channels that something was published on since the last time.
fn published(world: &mut World) -> Vec<String> {
    let heard = std::mem::take(&mut world.redis.heard).into_iter().map(|(channel, _)| channel);
    heard.filter(|channel| !channel.starts_with("probe:")).collect()
}

#[test]
fn a_user_comes_with_the_first_device_and_goes_with_the_last() {
    let (mut world, watchers) = watched();
    let phones = [world.joined(0, "alice", &[]), world.joined(0, "alice", &[])];
    let laptop = world.joined(1, "alice", &[]);
    for (client, request, expected) in [
        (phones[0], join(), &["joined"][..]),
        (phones[1], join(), &[]),
        (laptop, join(), &[]),
        (phones[0], leave(), &[]),
        (phones[1], leave(), &[]),
        (phones[1], join(), &[]),
        (laptop, leave(), &[]),
        (laptop, join(), &[]),
    ] {
        world.say(client, &request);
        world.settle();
        assert_eq!(all_told(&mut world, &watchers, "alice"), expected, "{request}");
    }
    world.disconnect(phones[1]);
    world.settle();
    assert_eq!(all_told(&mut world, &watchers, "alice"), [] as [&str; 0]);
    world.disconnect(laptop);
    world.settle();
    assert_eq!(all_told(&mut world, &watchers, "alice"), ["left"]);
    assert!(phones.iter().all(|phone| world.said(*phone) == [] as [Value; 0]), "not to the user");
}

#[test]
fn who_comes_or_goes_on_several_nodes_at_once_does_so_once() {
    let (mut world, watchers) = watched();
    let devices: Vec<Client> = (0..NODES).map(|node| world.joined(node, "alice", &[])).collect();
    for (request, expected) in [(join(), "joined"), (leave(), "left"), (join(), "joined")] {
        for device in &devices {
            world.say(*device, &request);
        }
        world.settle();
        assert_eq!(all_told(&mut world, &watchers, "alice"), [expected]);
    }
    for device in devices {
        world.disconnect(device);
    }
    world.settle();
    assert_eq!(all_told(&mut world, &watchers, "alice"), ["left"]);
}

#[test]
fn a_room_that_is_entered_on_one_node_and_left_on_another_at_once_is_not_left_in_the_end() {
    for first_leaves in [true, false] {
        let (mut world, watchers) = watched();
        let [phone, laptop] = [0, 1].map(|node| world.joined(node, "alice", &[]));
        world.say(phone, &join());
        world.settle();
        assert_eq!(all_told(&mut world, &watchers, "alice"), ["joined"]);
        let steps = [(phone, leave()), (laptop, join())];
        let order: &[usize] = if first_leaves { &[0, 1] } else { &[1, 0] };
        for at in order {
            world.say(steps[*at].0, &steps[*at].1);
        }
        world.settle();
        let all = all_told(&mut world, &watchers, "alice");
        assert!(all.is_empty() || all == ["left", "joined"], "{all:?}");
        world.say(laptop, &leave());
        world.settle();
        assert_eq!(all_told(&mut world, &watchers, "alice"), ["left"]);
    }
}

#[test]
fn who_comes_and_goes_while_others_are_asked_is_told_of_as_it_ends() {
    for (requests, expected) in [
        (vec![join(), leave()], &["joined", "left"][..]),
        (vec![join(), leave(), join()], &["joined"]),
        (vec![join(), leave(), join(), leave(), join(), leave()], &["joined", "left"]),
    ] {
        let (mut world, watchers) = watched();
        let [phone, _laptop] = [0, 1].map(|node| world.joined(node, "alice", &[]));
        world.hangs = true;
        for request in &requests {
            world.say(phone, request);
            world.settle();
        }
        assert_eq!(all_told(&mut world, &watchers, "alice"), [] as [&str; 0]);
        world.unhang();
        world.settle();
        assert_eq!(all_told(&mut world, &watchers, "alice"), expected, "{requests:?}");
    }
}

#[test]
fn who_comes_or_goes_is_answered_when_the_others_are_told() {
    let (mut world, watchers) = watched();
    let phone = world.joined(0, "alice", &[]);
    for (number, kind, expected) in [(1, "join", "joined"), (2, "leave", "left")] {
        world.hangs = true;
        world.say(phone, &json!({"type": kind, "id": number, "roomId": "r"}));
        world.settle();
        for _ in 0..2 {
            assert_eq!(world.said(phone), [] as [Value; 0], "{kind}");
            (0..2).for_each(|host| world.carry_out_one(host));
            world.settle();
        }
        world.unhang();
        world.settle();
        assert_eq!(all_told(&mut world, &watchers, "alice"), [expected]);
        assert_eq!(world.said(phone), [json!({"type": "ok", "id": number, "roomId": "r"})]);
    }
    // It is the phone that is asked about: another device of hers has nothing to wait for.
    let tablet = world.joined(0, "alice", &["r"]);
    world.hangs = true;
    let said = world.ask(phone, &json!({"type": "join", "id": 3, "roomId": "r"}));
    assert_eq!(said, [json!({"type": "ok", "id": 3, "roomId": "r"})]);
    world.unhang();
    world.disconnect(tablet);
    // Where the bus is lost, it says so.
    world.say(phone, &json!({"type": "leave", "id": 4, "roomId": "r"}));
    world.settle();
    world.quiet();
    world.hangs = true;
    world.say(phone, &json!({"type": "join", "id": 5, "roomId": "r"}));
    world.settle();
    world.cut();
    assert_eq!(world.said(phone), [json!({"type": "ok", "id": 5, "roomId": "r", "local": true})]);
}

#[test]
fn a_node_that_does_not_answer_delays_what_is_told_and_no_more() {
    let (mut world, watchers) = watched();
    let [phone, _laptop] = [0, 2].map(|node| world.joined(node, "alice", &[]));
    world.stop(2);
    world.say(phone, &json!({"type": "join", "id": 1, "roomId": "r"}));
    world.pass(900);
    assert_eq!(all_told(&mut world, &watchers[..2], "alice"), [] as [&str; 0]);
    assert_eq!(world.said(phone), [] as [Value; 0]);
    world.pass(300);
    assert_eq!(all_told(&mut world, &watchers[..2], "alice"), ["joined"]);
    assert_eq!(world.said(phone), [json!({"type": "ok", "id": 1, "roomId": "r"})]);
    // Its answer comes late: what it says now changes nothing.
    world.go_on(2);
    world.settle();
    assert_eq!(all_told(&mut world, &watchers[..2], "alice"), [] as [&str; 0]);
    assert_eq!(told(&mut world, watchers[2], "alice"), ["joined"]);
    let unanswered: u64 = world.hosts.iter().map(|host| host.shard.counters().rooms_unanswered).sum();
    assert_eq!(unanswered, 1);
    world.say(phone, &leave());
    world.settle();
    assert_eq!(all_told(&mut world, &watchers, "alice"), ["left"]);
}

#[test]
fn without_a_bus_it_is_told_on_the_node_where_it_happens() {
    let (mut world, watchers) = watched();
    let [phone, laptop] = [0, 1].map(|node| world.joined(node, "alice", &[]));
    world.hangs = true;
    world.say(phone, &join());
    world.settle();
    assert_eq!(told(&mut world, watchers[0], "alice"), [] as [&str; 0], "others are asked");
    world.cut();
    assert_eq!(told(&mut world, watchers[0], "alice"), ["joined"], "and do not answer any more");
    world.say(laptop, &join());
    world.say(phone, &leave());
    world.settle();
    assert_eq!(told(&mut world, watchers[0], "alice"), ["left"]);
    assert_eq!(told(&mut world, watchers[1], "alice"), ["joined"]);
    assert_eq!(told(&mut world, watchers[2], "alice"), [] as [&str; 0]);
    world.unhang();
    world.up = true;
    world.pass(20_000);
    world.quiet();
    world.say(phone, &join());
    world.settle();
    assert_eq!(all_told(&mut world, &watchers, "alice"), [] as [&str; 0]);
    world.disconnect(laptop);
    world.say(phone, &leave());
    world.settle();
    assert_eq!(all_told(&mut world, &watchers, "alice"), ["left"]);
}

#[test]
fn a_node_that_ends_tells_what_it_has_to_tell() {
    let (mut world, watchers) = watched();
    let [phone, _laptop] = [0, 1].map(|node| world.joined(node, "alice", &[]));
    world.hangs = true;
    world.say(phone, &join());
    world.settle();
    for host in [0, 1] {
        world.feed(host, Event::Leave);
    }
    world.unhang();
    world.settle();
    assert_eq!(all_told(&mut world, &watchers[1..], "alice"), ["joined"]);
}

#[test]
fn what_it_costs() {
    let (mut world, _) = watched();
    let alone = world.joined(0, "alone", &[]);
    let [both, there] = [0, 1].map(|node| world.joined(node, "both", &[]));
    let question = |user: &str| format!("user:{user}");
    for (client, request, expected) in [
        // The question, and what is told.
        (alone, join(), vec![question("alone"), "room:r".into()]),
        (alone, leave(), vec![question("alone"), "room:r".into()]),
        // The other node's answer.
        (both, join(), vec![question("both"), "answer".into(), "room:r".into()]),
        (there, join(), vec![question("both"), "answer".into()]),
        (both, leave(), vec![question("both"), "answer".into()]),
        // To leave a room without being in it.
        (both, leave(), vec![]),
    ] {
        world.redis.heard.clear();
        world.say(client, &request);
        world.settle();
        let published = published(&mut world).into_iter();
        let named = |channel: String| if channel.starts_with("shard:") { "answer".to_owned() } else { channel };
        assert_eq!(published.map(named).collect::<Vec<_>>(), expected, "{request}");
    }
}

#[test]
fn of_a_large_room_nothing_is_asked() {
    let (mut world, watchers) = watched();
    let settings = |node: usize| {
        let mut settings = world.settings(node);
        settings.config.rooms.announce_max = 1;
        Arc::new(settings)
    };
    let all: Vec<_> = (0..NODES * 2).map(|host| settings(host / 2)).collect();
    for (host, settings) in all.into_iter().enumerate() {
        world.feed(host, Event::Reload(settings));
    }
    let alice = world.joined(0, "alice", &[]);
    for request in [join(), leave()] {
        world.quiet();
        world.say(alice, &request);
        world.settle();
        let expected: &[&str] = if request == join() { &[] } else { &["user:alice", "room:r"] };
        assert_eq!(published(&mut world), expected, "{request}");
    }
    assert_eq!(all_told(&mut world, &watchers, "alice"), ["left"], "by then the room is small enough again");
}

#[test]
fn nothing_is_left_of_who_went_while_others_were_asked() {
    let (mut world, watchers) = watched();
    let alice = world.joined(0, "alice", &["r", "s"]);
    let laptop = world.joined(1, "alice", &[]);
    all_told(&mut world, &watchers, "alice");
    world.hangs = true;
    world.disconnect(alice);
    world.settle();
    assert_eq!(world.hosts.iter().map(|host| host.shard.held().comings).sum::<usize>(), 2);
    world.unhang();
    world.pass(500);
    assert_eq!(all_told(&mut world, &watchers, "alice"), ["left"]);
    for client in watchers.into_iter().chain([laptop]) {
        world.disconnect(client);
    }
    world.pass(500);
    for host in &world.hosts {
        assert_eq!((host.shard.held(), host.shard.gauges().bus_channels), (Held::default(), 1), "the one for all");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Devices of one user on all nodes come and go, and what the nodes publish is delayed in every way that keeps the order of a connection.
    #[test]
    fn what_is_told_alternates_and_ends_true(
        steps in proptest::collection::vec((0u8..6, 0..2 * NODES), 0..120),
    ) {
        let (mut world, watchers) = watched();
        let mut devices: Vec<Client> = (0..NODES).map(|node| world.joined(node, "alice", &[])).collect();
        let mut inside = [false; NODES];
        world.hangs = true;
        for (step, at) in steps {
            let node = at % NODES;
            match step {
                0 => {
                    world.say(devices[node], &join());
                    inside[node] = true;
                }
                1 => {
                    world.say(devices[node], &leave());
                    inside[node] = false;
                }
                2 if at < NODES => {
                    world.disconnect(devices[node]);
                    devices[node] = world.connect(node, "alice");
                    inside[node] = false;
                }
                2 | 3 => {
                    world.turn(at);
                }
                _ => {
                    world.carry_out_one(at);
                    world.turn(at);
                }
            }
        }
        world.unhang();
        world.settle();
        let all = all_told(&mut world, &watchers, "alice");
        let alternating = ["joined", "left"].into_iter().cycle().take(all.len());
        prop_assert_eq!(&all, &alternating.collect::<Vec<_>>());
        prop_assert_eq!(all.len() % 2 == 1, inside.contains(&true), "{:?}", inside);
        prop_assert!(world.hosts.iter().all(|host| host.shard.held().comings == 0));
    }
}
