//! Times of the parts, without a socket: `cargo bench --bench micro -- [GROUP]`. Groups: mask, frame, json, outbox, shard, mesh.
//!
//! What counts is what a message costs: compare before and after a change, on a quiet machine, and believe the ratio.

mod codec;
mod harness;
mod mesh;
mod outbox;
mod shard;

use harness::Bench;

/// As in the gateway itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let bench = Bench::from_arguments();
    codec::mask(&bench);
    codec::frame(&bench);
    codec::json(&bench);
    outbox::outbox(&bench);
    shard::shard(&bench);
    mesh::mesh(&bench);
}
