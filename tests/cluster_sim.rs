//! Several nodes of several shards against a modelled Redis, under faults drawn from a seed; then everything heals, and the registry must equal
//! the sessions. `RINGGATE_SIM_SEEDS=1000` runs more of them; a failure names its seed, and `RINGGATE_SIM_SEED=N` runs that one alone.

mod cluster_model;

use std::collections::BTreeSet;
use std::ops::Range;

use cluster_model::World;

const CHAOS_MS: u64 = 30_000;
const HEAL_MS: u64 = 30_000;

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.run(CHAOS_MS, true);
    world.heal();
    world.run(HEAL_MS, false);

    let mut names = BTreeSet::new();
    for (node, shard) in world.shards() {
        let standing = shard.agent.standing().unwrap_or_else(|| panic!("seed {seed}: node {node} has no lease"));
        assert_eq!(shard.agent.state().name(), "up", "seed {seed}: a link of node {node}");
        names.insert((node, standing.node.clone()));
        assert!(shard.agent.may_deliver(standing.epoch, world.now_ms), "seed {seed}: node {node}");
    }
    let distinct: BTreeSet<_> = names.iter().map(|(_, name)| name).collect();
    assert_eq!(distinct.len(), names.len(), "seed {seed}: every node has one name of its own: {names:?}");
    assert_eq!(names.len(), world.node_count(), "seed {seed}: all shards of a node agree");

    assert_eq!(world.live_rows(), world.sessions(), "seed {seed}: the registry equals the sessions");
    assert_eq!(world.heard(), world.wanted(), "seed {seed}: subscriptions are what is wanted");
}

fn seeds() -> Range<u64> {
    let number = |name| std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|e| panic!("{name}: {e}")));
    match number("RINGGATE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGGATE_SIM_SEEDS").unwrap_or(40),
    }
}

#[test]
fn after_anything_the_registry_equals_the_sessions() {
    for seed in seeds() {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            panic!("seed {seed} fails: run it alone with RINGGATE_SIM_SEED={seed}");
        }
    }
}

#[test]
fn the_same_seed_runs_the_same_way() {
    let trace = |seed| {
        let mut world = World::new(seed);
        world.run(10_000, true);
        (world.commands, world.live_rows(), world.sessions())
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

#[test]
fn without_faults_churn_that_cancels_out_costs_no_commands() {
    let mut world = World::new(1);
    world.run(5_000, false);
    let before = world.commands;
    for _ in 0..1_000 {
        world.come_and_go();
    }
    world.run(100, false);
    assert!(world.commands - before < 20, "{} commands", world.commands - before);
}

#[test]
fn as_long_as_redis_remembers_everybody_is_told_to_come_and_go_by_turns() {
    for seed in seeds() {
        let mut world = World::remembering(seed);
        world.run(CHAOS_MS, true);
        world.heal();
        world.run(HEAL_MS, false);
        let here: BTreeSet<String> = world.sessions().into_iter().map(|(user, ..)| user).collect();
        for (user, told) in world.events() {
            let by_turns = told.iter().enumerate().all(|(number, came)| *came == number.is_multiple_of(2));
            assert!(by_turns, "seed {seed}: {user} was told {told:?}");
            assert_eq!(told.last() == Some(&true), here.contains(user), "seed {seed}: the last word about {user}");
        }
        assert!(here.iter().all(|user| world.events().contains_key(user)), "seed {seed}: everybody was told of");
    }
}

#[test]
fn what_redis_has_forgotten_is_not_told_again() {
    let mut world = World::new(7);
    world.run(5_000, false);
    let users = world.come(20);
    world.run(1_000, false);
    world.forget();
    world.leave(&users[..5]);
    world.run(HEAL_MS, false);
    let told = |user: &String| world.events()[user].as_slice();
    assert!(users[..5].iter().all(|user| told(user) == [true, false]), "who left is told to be gone");
    assert!(users[5..].iter().all(|user| told(user) == [true]), "the others are announced, and not told of");
}
