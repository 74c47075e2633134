//! What is due when, on a clock that only the test moves. A deadline is swept every 100 ms, so a close comes up to that much late.

use serde_json::json;

use crate::client::{Heard, Phase};
use crate::rig::Rig;

const SWEEP_MS: u64 = 300;

#[test]
fn an_upgrade_request_must_come_in_time() {
    let mut rig = Rig::new(|config| config.session.handshake_timeout_ms = 3_000);
    let client = rig.dial_raw(b"GET /ws HTTP/1.1\r\nHost: x\r\n".to_vec(), 1 << 20);
    rig.wait(2_800);
    assert!(rig.heard(client).is_empty());
    rig.wait(200 + SWEEP_MS);
    assert_eq!(rig.refusal(client).status, 408);
    rig.wait(2_500);
    rig.assert_nothing_is_left();
}

#[test]
fn a_client_must_authenticate_in_time_whatever_it_sends() {
    for chatty in [false, true] {
        let mut rig = Rig::new(|config| {
            Rig::jwt(config);
            config.auth.timeout_ms = 3_000;
        });
        let client = rig.dial("/ws", &[]);
        rig.wait(2_500);
        if chatty {
            rig.ask(client, json!({"type": "ping"}));
        }
        assert_eq!(rig.clients[client].phase, Phase::Open);
        rig.wait(500 + SWEEP_MS);
        assert_eq!(rig.closed(client), (Some(4001), "Unauthorized".to_owned()));
        rig.assert_nothing_is_left();
    }
}

#[test]
fn a_silent_client_is_pinged_and_then_closed() {
    for (answers, timeout_ms) in [(true, 4_000), (true, 60_000), (false, 4_000)] {
        let mut rig = Rig::new(|config| {
            (config.session.heartbeat_interval_ms, config.session.heartbeat_timeout_ms) = (2_000, timeout_ms);
            config.session.idle_timeout_ms = 0;
        });
        let client = rig.join_as("ann");
        rig.clients[client].answers_pings = answers;
        rig.wait(1_800);
        assert!(rig.heard(client).is_empty());
        rig.wait(200 + SWEEP_MS);
        assert!(matches!(rig.heard(client)[..], [Heard::Ping]));
        if answers {
            rig.wait(60_000);
            assert_eq!(rig.clients[client].phase, Phase::Open);
            let pings = rig.heard(client).len();
            assert!((26..=31).contains(&pings), "{pings} pings in a minute");
        } else {
            rig.wait(1_500);
            assert_eq!(rig.clients[client].phase, Phase::Open);
            rig.wait(500 + SWEEP_MS);
            assert_eq!(rig.closed(client), (Some(4112), "heartbeat timeout".to_owned()));
        }
        rig.assert_nothing_is_left();
    }
}

#[test]
fn pongs_do_not_count_against_idleness_and_messages_either_way_do() {
    for (sends, receives) in [(false, false), (true, false), (false, true)] {
        let mut rig = Rig::new(|config| {
            config.session.heartbeat_interval_ms = 1_000;
            config.session.idle_timeout_ms = 5_000;
        });
        let ann = rig.join_as("ann");
        for _ in 0..12 {
            rig.wait(1_000);
            if sends {
                rig.ask(ann, json!({"type": "ping"}));
            }
            if receives {
                let bob = rig.join_as("bob");
                rig.say(bob, json!({"type": "send_message", "target_user": "ann", "content": 1}));
                rig.settle();
                rig.clients[bob].vanish(&mut rig.world);
            }
        }
        if sends || receives {
            assert_eq!(rig.clients[ann].phase, Phase::Open, "{sends} {receives}");
            rig.wait(5_000 + SWEEP_MS);
        }
        assert_eq!(rig.closed(ann), (Some(4111), "idle timeout".to_owned()));
        rig.assert_nothing_is_left();
    }
}

#[test]
fn zero_switches_a_timeout_off() {
    let mut rig = Rig::new(|config| {
        let session = &mut config.session;
        (session.heartbeat_interval_ms, session.heartbeat_timeout_ms, session.idle_timeout_ms) = (0, 0, 0);
        session.handshake_timeout_ms = 0;
        Rig::jwt(config);
        config.auth.timeout_ms = 0;
    });
    let opening = rig.dial_raw(b"GET".to_vec(), 1 << 20);
    let waiting = rig.dial("/ws", &[]);
    let token = rig.token("ann", 0, None, &[]);
    let session = rig.dial(&format!("/ws?token={token}"), &[]);
    rig.wait(3_600_000);
    assert!(rig.heard(opening).is_empty());
    assert_eq!(rig.heard(waiting).len() + rig.said(session).len(), 2);
    rig.assert_nothing_is_left();
}

#[test]
fn a_closing_handshake_that_is_not_answered_ends() {
    let mut rig = Rig::new(|_| {});
    let client = rig.dial("/ws", &[]);
    rig.clients[client].answers_close = false;
    rig.settle();
    assert_eq!(rig.closed(client).0, Some(4001));
    rig.wait(4_500);
    assert_ne!(rig.clients[client].phase, Phase::Gone);
    rig.wait(500 + SWEEP_MS);
    assert_eq!(rig.clients[client].phase, Phase::Gone);
    rig.assert_nothing_is_left();
}

#[test]
fn idleness_is_not_counted_while_nothing_is_read() {
    // Paused for want of credit for longer than the idle timeout: then there is a whole timeout again.
    let mut rig = Rig::with_shards(2, |config| {
        config.session.idle_timeout_ms = 3_000;
        config.session.heartbeat_interval_ms = 0;
        config.session.heartbeat_timeout_ms = 0;
        config.limits.message_size = 1 << 20;
    });
    let ann = rig.join_as("ann");
    let stranger = (0..).map(|n| format!("stranger-{n}")).find(|name| {
        let homes = &rig.world.settings.homes;
        homes.user(name) != homes.user("ann")
    });
    rig.world.set_lanes(0);
    for _ in 0..5 {
        rig.say(ann, json!({"type": "send_message", "target_user": stranger, "content": "x".repeat(1_000_000)}));
    }
    for _ in 0..1_000 {
        rig.world.pass(10);
        rig.turn();
    }
    assert_eq!(rig.world.hosts.iter().map(|h| h.shard.counters().credit_waits).sum::<u64>(), 1, "it was stopped");
    rig.world.set_lanes(4096);
    rig.settle();
    rig.wait(2_000);
    assert_eq!(rig.clients[ann].phase, Phase::Open);
    rig.wait(1_000 + SWEEP_MS);
    assert_eq!(rig.closed(ann).0, Some(4111));
}
