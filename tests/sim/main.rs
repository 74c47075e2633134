//! The simulation: several shards of the real state machine on one thread, with a modelled network and a clock of its own, held against a
//! naive model. All of a run follows from its seed; a failure prints the command that repeats it.
//!
//! | | |
//! |---|---|
//! | [`world`], [`net`] | the driver, sockets, mesh, clock, faults |
//! | [`codec`], [`client`] | the client's side of the wire |
//! | [`setup`] | settings, and how awkward the world is |
//! | [`rig`], [`scenario`] | exact behaviour, case by case, in a calm world |
//! | [`board`], [`actor`], [`ops`], [`play`] | who says what to whom, at random, and what must come of it |
//! | [`service`] | the same over the server API |
//!
//! `RINGGATE_SIM_SEED=N` runs one seed, `RINGGATE_SIM_SECONDS=N` sets the time box of fresh seeds (default 5).

#![allow(unreachable_pub, reason = "a test crate has no public surface")]

mod actor;
mod board;
mod client;
mod codec;
mod net;
mod ops;
mod play;
mod rig;
mod scenario;
mod service;
mod setup;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// Runs a seed; says how to repeat it if it fails.
fn run(seed: u64) -> u64 {
    match catch_unwind(AssertUnwindSafe(|| play::run(seed))) {
        Ok(fingerprint) => fingerprint,
        Err(panic) => {
            eprintln!("\nrepeat with: RINGGATE_SIM_SEED={seed} cargo test --test sim one_seed -- --nocapture\n");
            resume_unwind(panic);
        }
    }
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// Seeds that are always run.
const FIXED_SEEDS: std::ops::Range<u64> = 0..200;

#[test]
fn fixed_seeds() {
    FIXED_SEEDS.for_each(|seed| {
        run(seed);
    });
}

#[test]
fn fresh_seeds() {
    let until = Instant::now() + Duration::from_secs(env("RINGGATE_SIM_SECONDS").unwrap_or(5));
    while Instant::now() < until {
        run(fastrand::u64(..));
    }
}

#[test]
fn one_seed() {
    if let Some(seed) = env("RINGGATE_SIM_SEED") {
        assert_eq!(run(seed), run(seed), "a run follows from its seed alone");
    }
}

#[test]
fn a_run_follows_from_its_seed() {
    assert_eq!(run(7), run(7));
}
