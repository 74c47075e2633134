//! Nobody can hurt anybody: one shard of the real state machine under clients that do not read, do not finish and do not stop.

mod opening;
mod world;

use ringgate::config::Config;
use ringgate::limits::PRESENCE_USERS_MAX;
use ringgate::shard::counters::DropReason;
use ringgate::shard::gauges::Gauges;
use ringgate::shard::pressure::Level;
use serde_json::{Value, json};
use world::*;

const KIB: usize = 1024;

fn small(config: &mut Config) {
    config.outbox.high = 64 * KIB as u32;
    config.outbox.low = 16 * KIB as u32;
    config.outbox.max = 256 * KIB as u32;
    config.outbox.grace_ms = 60_000;
    config.outbox.shard_budget = 2 * 1024 * KIB as u64;
    config.session.heartbeat_interval_ms = 0;
    config.session.heartbeat_timeout_ms = 0;
    config.session.idle_timeout_ms = 0;
}

fn message(to: &str, class: &str, key: &str, number: usize, size: usize) -> Value {
    json!({"type": "send_message", "target_user": to, "class": class, "key": key, "content": [number, "x".repeat(size)]})
}

/// A client that takes what is on its way and then nothing more.
fn deaf(world: &mut World, user: &str) -> usize {
    let client = world.connect(user);
    world.clients[client].room = 0;
    client
}

fn numbers(messages: &[Value]) -> Vec<u64> {
    messages.iter().map(|m| m["content"][0].as_u64().unwrap()).collect()
}

/// What is left when everybody is gone: nothing. And whatever was pushed was delivered, replaced, or counted as lost.
fn everything_is_accounted_for(world: &mut World) {
    for client in 0..world.clients.len() {
        world.read(client, ROOM);
        world.end(client);
    }
    world.pass(10_000);
    let gauges = world.shard.gauges();
    let nothing = Gauges {
        idle_bytes: gauges.idle_bytes,
        held_bytes: gauges.idle_bytes,
        budget_bytes: gauges.budget_bytes,
        ..Gauges::default()
    };
    assert_eq!(gauges, nothing);
    let counters = world.shard.counters();
    let lost = |reason: DropReason| counters.dropped[reason as usize].iter().sum::<u64>();
    let gone = counters.messages_delivered + counters.conflated + lost(DropReason::Pressure) + lost(DropReason::Closed);
    assert_eq!(counters.messages_pushed, gone, "{counters:?}");
}

#[test]
fn bad_tenants_pay_and_a_thousand_good_ones_do_not() {
    let mut world = World::new(small);
    let sender = world.connect("sender");
    let good: Vec<usize> = (0..100).map(|i| world.connect(&format!("good{i}"))).collect();
    let bad: Vec<usize> = (0..40).map(|i| deaf(&mut world, &format!("bad{i}"))).collect();
    for client in good.iter().chain(&bad) {
        world.say(*client, &json!({"type": "join", "roomId": "room"}));
    }
    let mut sent = 0;
    // A gigabyte and more, if it were all kept: to everybody in the room, and to each bad one apart.
    for round in 0..100 {
        for bad in 0..40 {
            world.say(sender, &message(&format!("bad{bad}"), "normal", "", round, 4 * KIB));
        }
        world.say(sender, &json!({"type": "join", "roomId": "room"}));
        world.say(sender, &json!({"type": "message", "roomId": "room", "content": [round, "x".repeat(1000)]}));
        sent += 1;
        world.pass(100);
    }
    let counters = world.shard.counters();
    assert!(counters.pressure_closes > 0, "{counters:?}");
    assert!(world.held_max <= 2 * 1024 * KIB as u64, "held {}", world.held_max);
    for client in good {
        assert!(world.clients[client].open && !world.clients[client].paused);
        let got: Vec<u64> = numbers(&world.messages(client, "message"));
        assert_eq!(got, (0..sent).collect::<Vec<u64>>());
    }
    assert!(world.clients[sender].open);
    assert_eq!(world.shard.gauges().pressure, Level::Calm, "{:?}", world.shard.gauges());
    everything_is_accounted_for(&mut world);
}

#[test]
fn what_many_share_is_held_once_and_hurts_nobody() {
    let mut world = World::new(|config| {
        small(config);
        config.outbox.shard_budget = 4 * 1024 * KIB as u64;
    });
    let sender = world.connect("sender");
    let members: Vec<usize> = (0..200).map(|i| deaf(&mut world, &format!("member{i}"))).collect();
    for client in members.iter().chain([&sender]) {
        world.say(*client, &json!({"type": "join", "roomId": "room"}));
    }
    for round in 0..40 {
        world.say(sender, &json!({"type": "message", "roomId": "room", "content": [round, "x".repeat(1000)]}));
    }
    let gauges = world.shard.gauges();
    assert!(gauges.queued_bytes > 200 * 40_000, "charged to each: {gauges:?}");
    assert!(gauges.stored_bytes < 100_000, "stored once: {gauges:?}");
    assert_eq!(gauges.pressure, Level::Calm, "8 MB charged against a budget of 4, and no reason to close anyone");
    for client in members {
        world.read(client, ROOM);
        assert_eq!(numbers(&world.messages(client, "message")), (0..40).collect::<Vec<u64>>());
    }
    assert_eq!(world.shard.gauges().stored_bytes, 0);
    everything_is_accounted_for(&mut world);
}

#[test]
fn the_ladder_step_by_step() {
    let mut world = World::new(|config| {
        small(config);
        config.outbox.high = 0;
        config.outbox.low = 0;
        config.outbox.max = 0;
    });
    let sender = world.connect("sender");
    let [heavy, light, keyed] = ["heavy", "light", "keyed"].map(|user| deaf(&mut world, user));
    let mut reached = vec![];
    let mut push = |world: &mut World, to: &str, class: &str, count: usize| {
        for number in 0..count {
            world.say(sender, &message(to, class, "k", number, 4 * KIB));
            let level = world.shard.gauges().pressure;
            if reached.last() != Some(&level) {
                reached.push(level);
            }
        }
        reached.clone()
    };
    // One that could be shed, one that could not, and one that holds a little.
    push(&mut world, "light", "normal", 20);
    push(&mut world, "keyed", "latest", 100);
    assert_eq!(push(&mut world, "heavy", "droppable", 100), [Level::Calm]);
    let before = world.shard.gauges().queued_bytes;
    assert_eq!(push(&mut world, "heavy", "normal", 40), [Level::Calm, Level::Release]);
    // 65 %: what is droppable in the heaviest outbox goes, down to the mark below which nobody needs to be shed.
    let steps = push(&mut world, "heavy", "normal", 80);
    assert!(steps.contains(&Level::Shed), "{steps:?}");
    let counters = world.shard.counters().clone();
    assert!(counters.pressure_sheds >= 1 && counters.pressure_shed_bytes > 300_000, "{counters:?}");
    assert_eq!(counters.dropped[DropReason::Pressure as usize], [0, 0, 0, 99], "all but the one that is next");
    assert!(world.shard.gauges().queued_bytes < before + 120 * 4200, "it was given up");
    assert_eq!(counters.pressure_closes, 0);
    // 75 %: the heaviest are not read from, 85 %: the worst is closed.
    let steps = push(&mut world, "heavy", "normal", 400);
    assert!(steps.contains(&Level::Pause) && steps.contains(&Level::Close), "{steps:?}");
    let counters = world.shard.counters().clone();
    assert_eq!(counters.pressure_closes, 1, "{:?}", world.shard.gauges());
    world.pass(100);
    world.read(heavy, ROOM);
    assert!(matches!(world.hear(heavy).last(), Some(Heard::Close(4110))));
    assert!(world.clients[light].open && world.clients[keyed].open && world.clients[sender].open);
    // The others caught up: everything normal is there, of each key the newest.
    world.read(light, ROOM);
    assert_eq!(numbers(&world.messages(light, "message")), (0..20).collect::<Vec<u64>>());
    world.read(keyed, ROOM);
    assert_eq!(numbers(&world.messages(keyed, "message")).last(), Some(&99));
    world.pass(1000);
    assert_eq!(world.shard.gauges().pressure, Level::Calm);
    assert!(!world.clients[light].paused && !world.clients[keyed].paused);
    everything_is_accounted_for(&mut world);
}

#[test]
fn who_was_shed_while_flowing_is_told_once_it_has_caught_up() {
    let mut world = World::new(|config| {
        small(config);
        config.outbox.high = 1024 * KIB as u32;
        config.outbox.low = 256 * KIB as u32;
        config.outbox.max = 2 * 1024 * KIB as u32;
    });
    let sender = world.connect("sender");
    let receivers = ["a", "b", "c"].map(|user| deaf(&mut world, user));
    for client in receivers {
        world.say(client, &json!({"type": "subscribe", "channel": "ticks"}));
    }
    for number in 0..100 {
        let publish =
            json!({"type": "publish", "channel": "ticks", "class": "droppable", "content": [number, "x".repeat(500)]});
        world.say(sender, &publish);
    }
    assert_eq!(world.shard.gauges().throttled, 0);
    // Somebody else is the trouble: three that hold different things, none above its mark.
    for (number, user) in ["d", "e"].into_iter().enumerate() {
        let other = deaf(&mut world, user);
        for _ in 0..160 {
            world.say(sender, &message(user, "normal", "", number, 4 * KIB));
        }
        assert!(world.clients[other].open);
    }
    let counters = world.shard.counters().clone();
    assert_eq!(
        counters.dropped[DropReason::Pressure as usize][3],
        300 - 3,
        "all but the one that is next: {counters:?}"
    );
    for client in receivers {
        world.read(client, 600);
        assert!(world.messages(client, "gap").is_empty() || world.shard.gauges().queued_bytes == 0);
        world.read(client, ROOM);
        let heard = world.hear(client);
        let gap = heard.iter().find_map(|h| {
            if let Heard::Message(m) = h
                && m["type"] == "gap"
            {
                Some(m)
            } else {
                None
            }
        });
        assert_eq!(gap, Some(&json!({"type": "gap", "channel": "ticks", "dropped": 99})), "{heard:?}");
    }
    everything_is_accounted_for(&mut world);
}

#[test]
fn gaps_are_told_after_being_throttled_and_then_it_goes_on() {
    let mut world = World::new(small);
    let sender = world.connect("sender");
    let slow = deaf(&mut world, "slow");
    world.say(slow, &json!({"type": "join", "roomId": "room"}));
    world.say(sender, &json!({"type": "join", "roomId": "room"}));
    let publish = |world: &mut World, class: &str, number: usize| {
        world.say(
            sender,
            &json!({"type": "message", "roomId": "room", "class": class, "content": [number, "x".repeat(4000)]}),
        );
    };
    for number in 0..20 {
        publish(&mut world, "normal", number);
    }
    assert!(world.clients[slow].paused && world.shard.gauges().throttled == 1);
    for number in 0..7 {
        publish(&mut world, "droppable", number);
    }
    world.pass(5_000);
    assert!(world.shard.gauges().oldest_queued_ms >= 4_900, "{:?}", world.shard.gauges());
    world.read(slow, ROOM);
    assert!(!world.clients[slow].paused && world.shard.gauges().throttled == 0);
    publish(&mut world, "droppable", 20);
    let heard = world.hear(slow);
    let kinds: Vec<String> = heard
        .iter()
        .filter_map(|h| if let Heard::Message(m) = h { Some(m["type"].as_str()?.to_owned()) } else { None })
        .collect();
    assert_eq!(kinds.iter().filter(|k| *k == "message").count(), 21);
    assert_eq!(kinds.iter().filter(|k| *k == "gap").count(), 1);
    assert_eq!(kinds.last().map(String::as_str), Some("message"), "it goes on after the gap");
    world.pass(300);
    assert_eq!(world.shard.gauges().oldest_queued_ms, 0);
    everything_is_accounted_for(&mut world);
}

/// Messages that never end are held in full, and who holds most of them pays.
#[test]
fn incomplete_messages_count_and_their_senders_pay() {
    let mut world = World::new(|config| {
        small(config);
        config.limits.message_size = 64 * KIB as u32;
        config.outbox.grace_ms = 5_000;
    });
    let honest = world.connect("honest");
    let clients: Vec<usize> = (0..80).map(|i| world.connect(&format!("user{i}"))).collect();
    for client in &clients {
        world.bytes(*client, &header(0x81, 60 * KIB));
    }
    for _ in 0..14 {
        for client in &clients {
            if !world.clients[*client].paused {
                world.bytes(*client, &vec![b'x'; 4 * KIB]);
            }
        }
    }
    let gauges = world.shard.gauges();
    assert!(world.held_max <= 2 * 1024 * KIB as u64, "held {} of {gauges:?}", world.held_max);
    assert!(gauges.partial_bytes > 500_000, "{gauges:?}");
    // In the middle of a message nobody is paused: then it would never end. The heaviest are closed, and the others may finish.
    assert_eq!(gauges.paused_by_pressure, 0, "{gauges:?}");
    let closes = world.shard.counters().pressure_closes;
    assert!((10..70).contains(&closes), "{closes}");
    world.pass(6_000);
    let left: Vec<usize> = clients.into_iter().filter(|client| world.clients[*client].open).collect();
    assert!(left.len() >= 10);
    for client in left {
        world.bytes(client, &vec![b'x'; 60 * KIB]);
        assert_eq!(world.messages(client, "error").len(), 1, "a long message without sense, but whole");
    }
    world.pass(500);
    assert_eq!(world.shard.gauges().pressure, Level::Calm);
    world.say(honest, &json!({"type": "ping", "id": 1}));
    assert_eq!(world.messages(honest, "pong").len(), 1);
    everything_is_accounted_for(&mut world);
}

#[test]
fn under_any_load_the_budget_holds_and_everything_is_accounted_for() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::new(|config| {
            small(config);
            config.outbox.shard_budget = rng.u64(1..6) * 512 * KIB as u64;
            config.outbox.max = if rng.bool() { 0 } else { 256 * KIB as u32 };
            config.outbox.high = if rng.u8(..5) == 0 { 0 } else { 64 * KIB as u32 };
            config.outbox.grace_ms = if rng.bool() { 0 } else { 2_000 };
        });
        let budget = world.shard.gauges().budget_bytes;
        let sender = world.connect("sender");
        let count = rng.usize(5..60);
        let mut clients: Vec<usize> = (0..count).map(|i| world.connect(&format!("u{i}"))).collect();
        for client in &clients {
            for room in ["a", "b"] {
                world.say(*client, &json!({"type": "join", "roomId": room}));
            }
            world.clients[*client].room = if rng.u8(..3) == 0 { ROOM } else { rng.usize(..20_000) };
        }
        for room in ["a", "b"] {
            world.say(sender, &json!({"type": "join", "roomId": room}));
        }
        for step in 0..rng.usize(200..800) {
            let size_max = if rng.u8(..10) == 0 { 30_000 } else { 2_000 };
            let size = rng.usize(..size_max);
            let class = ["normal", "urgent", "latest", "droppable"][rng.usize(..4)];
            match rng.u8(..20) {
                0..10 => {
                    let (to, key) = (format!("u{}", rng.usize(..count)), rng.u8(..3).to_string());
                    world.say(sender, &message(&to, class, &key, step, size));
                }
                10..15 => {
                    let room = ["a", "b"][rng.usize(..2)];
                    let content = json!([step, "x".repeat(size)]);
                    world.say(sender, &json!({"type": "message", "roomId": room, "class": class, "content": content}));
                }
                15 => world.read(clients[rng.usize(..count)], rng.usize(..100_000)),
                16 => {
                    let client = clients[rng.usize(..count)];
                    if !world.clients[client].paused {
                        world.bytes(client, &header(0x81, 40_000));
                        world.bytes(client, &vec![b'x'; rng.usize(..30_000)]);
                    }
                }
                17 => world.pass(rng.u64(..10) * 100),
                18 => {
                    let index = rng.usize(..count);
                    world.end(clients[index]);
                    if world.shard.gauges().pressure < Level::Refuse {
                        clients[index] = world.connect(&format!("u{index}"));
                        world.clients[clients[index]].room = rng.usize(..50_000);
                    }
                }
                _ => world.say(clients[rng.usize(..count)], &json!({"type": "leave", "roomId": "a"})),
            }
            let gauges = world.shard.gauges();
            assert!(gauges.held_bytes <= budget, "seed {seed}, step {step}: {gauges:?}");
            assert!(world.clients[sender].open, "seed {seed}, step {step}: the sender reads, and is never closed");
        }
        let reader = world.connect("late");
        world.say(sender, &message("late", "normal", "", 1, 10));
        assert_eq!(world.messages(reader, "message").len(), 1, "seed {seed}");
        everything_is_accounted_for(&mut world);
    }
}

#[test]
fn whoever_is_in_a_big_room_asking_is_cheap_and_totals_are_right() {
    let mut world = World::new(|config| config.session.max_per_user = 0);
    let asker = world.connect("asker");
    let mut clients = Vec::new();
    for number in 0..1200_u32 {
        for _ in 0..if number.is_multiple_of(100) { 3 } else { 1 } {
            let client = world.connect(&format!("user{number}"));
            world.say(client, &json!({"type": "subscribe", "channel": "big"}));
            clients.push(client);
        }
    }
    let ask = |world: &mut World| {
        world.say(asker, &json!({"type": "presence", "channel": "big", "id": 1}));
        let heard = world.hear(asker);
        match heard.into_iter().last() {
            Some(Heard::Message(message)) => message,
            heard => panic!("{heard:?}"),
        }
    };
    let check = |answer: &Value, users: usize, connections: usize| {
        let listed = answer["users"].as_array().unwrap();
        assert_eq!(listed.len(), users.min(PRESENCE_USERS_MAX));
        for user in listed {
            let number: usize = user["userId"].as_str().unwrap()[4..].parse().unwrap();
            assert_eq!(user["connections"], if number.is_multiple_of(100) { 3 } else { 1 }, "{user}");
        }
        let totals = [&answer["userCount"], &answer["connectionCount"]].map(|total| total.as_u64().unwrap() as usize);
        assert_eq!(
            (totals, answer["truncated"].as_bool()),
            ([users, connections], Some(users > listed.len())),
            "{answer}"
        );
    };
    check(&ask(&mut world), 1200, 1224);
    // The last 300 leave, one way or another.
    let gone = clients.split_off(clients.len() - 300);
    for (at, client) in gone.into_iter().enumerate() {
        if at % 2 == 0 {
            world.end(client);
        } else {
            world.say(client, &json!({"type": "unsubscribe", "channel": "big"}));
        }
    }
    let left = ask(&mut world);
    assert_eq!(left["connectionCount"], 924);
    assert_eq!(left["userCount"], left["users"].as_array().unwrap().len());
}
