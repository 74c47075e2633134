//! The reactor with its two pollers, end to end over real sockets, with a stand-in for the state machine.

mod io_support;

use std::io::{Read, Write};
use std::net::TcpStream;

use io_support::*;
use ringgate::io::shards::Command;

fn each_driver(test: impl Fn(ringgate::io::runtime::DriverKind)) {
    for driver in DRIVERS {
        eprintln!("driver {}", driver.name());
        test(driver);
    }
}

#[test]
fn streams_come_back_byte_for_byte() {
    each_driver(|driver| {
        let shards = start(&plan(driver, 2, false), 0, false);
        let mut clients: Vec<_> = (0..100).map(|i| Client::connect(shards.address(), i, 40_000)).collect();
        run_clients(&mut clients, |i, round| 1 + (i * 37 + round as usize * 101) % 3000);
        eventually("all rows are free", || shards.connections() == 0);
        shards.stop(PATIENCE).unwrap();
    });
}

#[test]
fn a_close_reaches_the_peer_and_leaves_nothing() {
    each_driver(|driver| {
        let shards = start(&plan(driver, 1, false), 0, true);
        for _ in 0..5 {
            let mut clients: Vec<_> = (0..50).map(|_| TcpStream::connect(shards.address()).unwrap()).collect();
            for client in &mut clients {
                client.write_all(&[CLOSE]).unwrap();
            }
            assert!(clients.iter_mut().all(sees_end));
            eventually("all rows are free", || shards.shared().statuses[0].rows() == 0);
        }
        assert_eq!(shards.connections(), 0);
        shards.stop(PATIENCE).unwrap();
    });
}

#[test]
fn a_blocked_writer_goes_on_where_it_stopped() {
    each_driver(|driver| {
        let shards = start(&plan(driver, 1, false), 0, false);
        // Nobody reads until neither side can move any more: both directions are full, the stand-in has stopped reading.
        let mut clients: Vec<_> = (0..3).map(|i| Client::connect(shards.address(), i, 8_000_000)).collect();
        for client in &clients {
            rustix::net::sockopt::set_socket_recv_buffer_size(&client.stream, 128 * 1024).unwrap();
        }
        let short = || shards.counters()[0].sends_short;
        eventually("the writers are blocked", || {
            clients.iter_mut().for_each(|c| while c.step(64 * 1024, false) && c.written < c.length {});
            short() >= 3
        });
        run_clients(&mut clients, |_, _| 64 * 1024);
        eventually("all rows are free", || shards.connections() == 0);
        shards.stop(PATIENCE).unwrap();
    });
}

#[test]
fn hand_over_under_traffic_is_byte_exact() {
    each_driver(|driver| {
        for private in [false, true] {
            let shards = start(&plan(driver, 3, private), 4, false);
            let mut clients: Vec<_> = (0..200).map(|i| Client::connect(shards.address(), i, 60_000)).collect();
            run_clients(&mut clients, |i, round| 1 + (i * 37 + round as usize * 101) % 2000);
            eventually("all rows are free", || shards.connections() == 0);
            eventually("the hand-overs are counted", || {
                let counters = shards.counters();
                let sum = |of: fn(&ringgate::io::counters::Counters) -> u64| counters.iter().map(of).sum::<u64>();
                assert_eq!(sum(|c| c.handovers_lost) + sum(|c| c.handovers_refused) + sum(|c| c.panics), 0);
                sum(|c| c.handovers_out) == sum(|c| c.handovers_in) && sum(|c| c.handovers_in) >= 200
            });
            shards.stop(PATIENCE).unwrap();
        }
    });
}

#[test]
fn a_full_home_closes_with_1013() {
    each_driver(|driver| {
        let mut plan = plan(driver, 2, false);
        plan.table_capacity = 0;
        let shards = start(&plan, 1, false);
        let mut client = TcpStream::connect(shards.address()).unwrap();
        client.write_all(b"x").unwrap();
        let mut frame = Vec::new();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.read_to_end(&mut frame).unwrap();
        assert_eq!(frame, [0x88, 2, 0x03, 0xf5]);
        eventually("its place is free", || shards.connections() == 0);
        shards.stop(PATIENCE).unwrap();
    });
}

#[test]
fn a_panic_ends_the_connection_that_it_was_about_and_no_other() {
    each_driver(|driver| {
        let shards = start(&plan(driver, 1, false), 0, true);
        let mut victim = TcpStream::connect(shards.address()).unwrap();
        let mut other = TcpStream::connect(shards.address()).unwrap();
        other.set_read_timeout(Some(PATIENCE)).unwrap();
        for round in 0..3 {
            victim.write_all(&[PANIC]).unwrap();
            assert!(sees_end(&mut victim));
            other.write_all(&[round]).unwrap();
            let mut byte = [0xff];
            other.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [round]);
            victim = TcpStream::connect(shards.address()).unwrap();
        }
        eventually("three panics are counted", || shards.counters()[0].panics == 3);
        shards.stop(PATIENCE).unwrap();
    });
}

#[test]
fn a_drain_closes_everything_and_is_reported_and_the_listener_is_gone() {
    each_driver(|driver| {
        let shards = start(&plan(driver, 2, false), 0, false);
        let mut clients: Vec<_> = (0..20).map(|_| TcpStream::connect(shards.address()).unwrap()).collect();
        eventually("all are accepted", || shards.connections() == 20);
        shards.command(&Command::Drain);
        eventually("drained", || shards.drained());
        assert!(clients.iter_mut().all(sees_end));
        eventually("nobody listens", || TcpStream::connect(shards.address()).is_err());
        shards.stop(PATIENCE).unwrap();
    });
}

#[test]
fn connections_over_the_ceiling_are_marked_and_their_places_come_back() {
    each_driver(|driver| {
        let mut plan = plan(driver, 2, false);
        plan.connections = 10;
        let shards = start(&plan, 0, false);
        let over = || shards.counters().iter().map(|c| c.accepts_over_capacity).sum::<u64>();
        let clients: Vec<_> = (0..15).map(|_| TcpStream::connect(shards.address()).unwrap()).collect();
        eventually("five are over", || over() == 5);
        assert_eq!(shards.connections(), 10);
        drop(clients);
        eventually("all places are free", || shards.connections() == 0);
        let rows = || shards.shared().statuses.iter().map(|s| s.rows()).sum::<usize>();
        eventually("all rows are free", || rows() == 0);
        shards.stop(PATIENCE).unwrap();
    });
}

#[test]
fn a_stop_ends_the_threads_and_the_connections() {
    each_driver(|driver| {
        let shards = start(&plan(driver, 2, true), 0, false);
        let mut clients: Vec<_> = (0..20).map(|_| TcpStream::connect(shards.address()).unwrap()).collect();
        eventually("all are accepted", || shards.connections() == 20);
        shards.stop(PATIENCE).unwrap();
        assert!(clients.iter_mut().all(sees_end));
    });
}
