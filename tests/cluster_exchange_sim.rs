//! The exchanges of several nodes against a modelled Redis, under faults drawn from a seed: nothing arrives twice or out of order, and what is
//! said of each message is true; then everything heals, every message arrives, and nothing is left over. `RINGGATE_SIM_SEEDS=10000` runs more of
//! them; a failure names its seed, and `RINGGATE_SIM_SEED=N` runs that one alone.

mod cluster_exchange;

use cluster_exchange::World;
use cluster_exchange::ledger::Seen;
use ringgate::cluster::exchange::{Held, Mode, Outcome};
use ringgate::protocol::reply::Status;

const SETTLE_MS: u64 = 500;
const CHAOS_MS: u64 = 3_000;
/// Longer than an answer may take, for a message that waits as long before it is sent, and a lease.
const HEAL_MS: u64 = 5_000;

fn run(seed: u64) -> Seen {
    let mode = if seed % 4 == 3 { Mode::Broadcast } else { Mode::Registry };
    let mut world = World::new(seed, mode);
    world.run(SETTLE_MS, false, true);
    world.run(CHAOS_MS, true, true);
    world.heal();
    world.run(HEAL_MS, false, false);
    assert_eq!(world.ledger.unsettled(), [0; 0], "everything is answered");

    for _ in 0..2 {
        let messages = world.send_to_everybody();
        world.run(1_000, false, false);
        for id in messages {
            let user = world.ledger.user_of(id).to_owned();
            let mut sessions = world.sessions_of(&user);
            sessions.sort_unstable();
            assert_eq!(world.ledger.offered_to(id), sessions, "message {id} arrives everywhere");
            let status = match sessions.is_empty() {
                true => Status::Offline,
                false if world.ledger.is_accepted(id) => Status::Delivered,
                false => Status::Dropped,
            };
            assert_eq!(world.ledger.outcome(id), Some(Outcome::Known(status)), "message {id} to {user}");
        }
    }
    for shard in world.nodes.iter().flat_map(|node| &node.shards) {
        let Held { routes, origins, .. } = shard.exchange.held();
        assert_eq!(shard.exchange.held(), Held { routes, origins, ..Held::default() }, "nothing is left over");
    }
    world.ledger.seen
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn whatever_happens_nothing_arrives_twice_and_what_is_said_is_true() {
    if let Some(seed) = number("RINGGATE_SIM_SEED") {
        run(seed);
        return;
    }
    let mut seen = Seen::default();
    for seed in 0..number("RINGGATE_SIM_SEEDS").unwrap_or(120) {
        let Ok(more) = std::panic::catch_unwind(|| run(seed)) else {
            panic!("seed {seed} fails: run it alone with RINGGATE_SIM_SEED={seed}");
        };
        seen.messages += more.messages;
        seen.remote += more.remote;
        seen.delivered += more.delivered;
        seen.dropped += more.dropped;
        seen.offline += more.offline;
        seen.unavailable += more.unavailable;
    }
    // It proves nothing unless all of this happens.
    for (what, count) in [
        ("remote", seen.remote),
        ("delivered", seen.delivered),
        ("dropped", seen.dropped),
        ("offline", seen.offline),
        ("unavailable", seen.unavailable),
    ] {
        assert!(count * 100 > seen.messages, "{what}: {seen:?}");
    }
}

#[test]
fn the_same_seed_runs_the_same_way() {
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}
