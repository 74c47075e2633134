//! Out of descriptors: the limit is the process's, so this test has a process of its own.

mod io_support;

use std::io::{Read, Write};
use std::net::TcpStream;

use io_support::*;
use ringgate::io::shards::Shards;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn echoes(shards: &Shards, text: &[u8]) -> bool {
    let Ok(mut client) = TcpStream::connect(shards.address()) else { return false };
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut back = vec![0; text.len()];
    client.write_all(text).is_ok() && client.read_exact(&mut back).is_ok() && back == text
}

#[test]
fn a_shard_that_runs_out_of_descriptors_turns_away_and_goes_on_afterwards() {
    let before = getrlimit(Resource::Nofile);
    for driver in DRIVERS {
        for private in [false, true] {
            let shards = start(&plan(driver, 1, private), 0, false);
            assert!(echoes(&shards, b"before"));
            eventually("the first is gone", || shards.connections() == 0);
            let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
            // With one table for both, a connection takes two descriptors of it; in tables of their own the shard's is the fuller one.
            setrlimit(Resource::Nofile, Rlimit { current: Some(open + 40), maximum: before.maximum }).unwrap();
            let mut clients: Vec<_> = (0..100).map_while(|_| TcpStream::connect(shards.address()).ok()).collect();
            assert!(clients.len() < 100, "the limit does not bind");
            eventually("exhaustion is counted", || shards.counters()[0].descriptors_exhausted > 0);
            // Turned away at once instead of waiting in the kernel's queue. Of one table for both, the client may have taken the last descriptor.
            assert!(!private || clients.last_mut().is_some_and(sees_end), "nobody was turned away");
            drop(clients);
            eventually("all are gone", || shards.connections() == 0);
            eventually("it serves again", || echoes(&shards, b"after"));
            setrlimit(Resource::Nofile, before).unwrap();
            shards.stop(PATIENCE).unwrap();
        }
    }
}
