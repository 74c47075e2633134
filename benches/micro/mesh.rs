//! Between two shards: a queue for each direction, and a doorbell for who sleeps.

use std::hint::black_box;
use std::os::fd::AsFd;
use std::thread;

use ringgate::ids::{ConnectionId, ShardId};
use ringgate::mesh::{self, Bells, DRAIN_PARCELS, MeshPort};
use ringgate::protocol::envelope::Envelope;
use rustix::event::{PollFd, PollFlags, poll};

use crate::harness::Bench;

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);
const CONN: ConnectionId = ConnectionId { shard: B, slot: 7, generation: 1 };
/// What stops the echoing thread: no message is as large.
const STOP_BYTES: usize = 4096;

pub(crate) fn mesh(bench: &Bench) {
    bench.group("mesh");
    let Some((mut a, mut b)) = ports() else { return };
    for count in [1, 16, 256] {
        let name = format!("push {count}, ring an awake shard, drain");
        bench.run("mesh", &name, count, 0, || {
            for _ in 0..count {
                if a.has_room(B, 0) {
                    let _ = black_box(a.push(B, envelope(0)));
                }
            }
            a.ring(B);
            b.drain(DRAIN_PARCELS, |_, envelope| {
                black_box(envelope);
            })
        });
    }
    bench.run("mesh", "push 1 of 256 B, ring an awake shard, drain", 1, 0, || {
        let _ = black_box(a.push(B, envelope(256)));
        a.ring(B);
        b.drain(DRAIN_PARCELS, |_, envelope| {
            black_box(envelope);
        })
    });
    bench.run("mesh", "sleep, push 1, ring the bell, awake, drain", 1, 0, || {
        b.sleep(|| false);
        let _ = black_box(a.push(B, envelope(0)));
        a.ring(B);
        b.awake();
        b.drain(DRAIN_PARCELS, |_, envelope| {
            black_box(envelope);
        })
    });
    across(bench);
}

/// There and back, between two threads that sleep in poll(2) whenever there is nothing.
fn across(bench: &Bench) {
    let Some((mut a, mut b)) = ports() else { return };
    let echo = thread::spawn(move || {
        let mut stop = false;
        while !stop {
            let mut came = 0;
            b.drain(DRAIN_PARCELS, |_, envelope| {
                came += 1;
                stop |= envelope.payload_bytes() >= STOP_BYTES;
            });
            for _ in 0..came {
                let _ = b.push(A, envelope(0));
            }
            if came > 0 {
                b.ring(A);
            } else {
                wait(&b);
            }
        }
    });
    bench.run("mesh", "to a sleeping thread and back, per wake", 2, 0, || {
        let _ = a.push(B, envelope(0));
        a.ring(B);
        receive(&mut a);
    });
    let _ = a.push(B, envelope(STOP_BYTES));
    a.ring(B);
    receive(&mut a);
    let _ = echo.join();
}

fn receive(port: &mut MeshPort<Envelope>) {
    let mut came = false;
    while !came {
        port.drain(DRAIN_PARCELS, |_, _| came = true);
        if !came {
            wait(port);
        }
    }
}

/// As the reactor waits: announce it, look again, then let the kernel wait. What has rung before makes poll return at once, once.
fn wait(port: &MeshPort<Envelope>) {
    if port.sleep(|| false) {
        let fd = port.bell_fd();
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], None);
        let _ = rustix::io::read(fd.as_fd(), &mut [0; 8]);
        port.awake();
    }
}

fn ports() -> Option<(MeshPort<Envelope>, MeshPort<Envelope>)> {
    let mut ports = mesh::build(2, &Bells::new(2).ok()?);
    let b = ports.pop()?;
    Some((ports.pop()?, b))
}

fn envelope(bytes: usize) -> Envelope {
    Envelope::Answer { conn: CONN, frame: vec![0; bytes].into_boxed_slice() }
}
