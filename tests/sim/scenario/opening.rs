//! From the first byte to the WebSocket, and everything that is refused on the way.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::json;

use crate::client::{Client, Heard, Phase};
use crate::codec;
use crate::rig::Rig;

#[test]
fn what_is_no_good_request_is_refused() {
    let request = |line: &str, rest: &str| format!("{line}\r\n{rest}\r\n").into_bytes();
    let good = "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let cases = [
        (request("GET /ws HTTP/1.1", "Host: x\r\n"), 426),
        (request("GET /nothing HTTP/1.1", good), 404),
        // Off unless it is switched on.
        (request("GET /echo HTTP/1.1", good), 404),
        (request("POST /ws HTTP/1.1", good), 405),
        (request("GET /ws HTTP/1.0", good), 505),
        (request("GET /ws HTTP/1.1", &good.replace("Host: x\r\n", "")), 400),
        (request("GET /ws HTTP/1.1", &good.replace("Version: 13", "Version: 8")), 426),
        (request("GET /ws HTTP/1.1", &format!("{good}Origin: https://evil.example\r\n")), 403),
        (vec![b'x'; 9_000], 400),
        (request("GET /ws HTTP/1.1", &format!("{good}X: {}\r\n", "y".repeat(9_000))), 431),
    ];
    for (bytes, status) in cases {
        // The client may have ended its half: the answer still comes.
        for half_closes in [false, true] {
            let mut rig = Rig::new(|config| config.listen.allowed_origins = vec!["https://good.example".into()]);
            let client = rig.dial_raw(bytes.clone(), 1 << 20);
            let text = String::from_utf8_lossy(&bytes[..60.min(bytes.len())]).into_owned();
            rig.clients[client].write(&mut rig.world, usize::MAX);
            if half_closes {
                rig.clients[client].finish(&mut rig.world);
            }
            rig.settle();
            let response = rig.refusal(client);
            assert!(response.status == status || status == 400 && response.status == 431, "{text}: {response:?}");
            assert!(response.header("connection").is_some_and(|value| value.starts_with("close")), "{text}");
            rig.wait(2_500);
            assert_eq!(rig.clients[client].phase, Phase::Gone, "{text}");
            rig.assert_nothing_is_left();
        }
    }
}

#[test]
fn a_full_process_refuses_with_503() {
    let mut rig = Rig::new(|_| {});
    rig.world.over_capacity = true;
    let client = rig.dial("/ws?user_id=ann", &[]);
    rig.settle();
    let response = rig.refusal(client);
    assert_eq!(response.status, 503);
    assert!(response.header("retry-after").is_some());
    rig.assert_nothing_is_left();
}

#[test]
fn an_address_may_open_so_many_connections_per_window() {
    let mut rig = Rig::new(|config| config.limits.connections_per_ip = 3);
    let connect = |rig: &mut Rig, address: [u8; 4]| {
        let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(address)), 1);
        let client = rig.dial("/ws?user_id=ann", &[]);
        let socket = rig.world.connect(peer, 1 << 16, 1 << 16);
        // The one that was dialled for its request stays unused.
        rig.clients[client] = Client::new(socket, codec::upgrade_request("/ws?user_id=ann", &[]), fastrand::Rng::new());
        rig.settle();
        match &rig.heard(client)[..] {
            [Heard::Response(response), ..] => (response.status, response.header("retry-after").is_some()),
            other => panic!("{other:?}"),
        }
    };
    for _ in 0..3 {
        assert_eq!(connect(&mut rig, [198, 51, 100, 1]), (101, false));
    }
    assert_eq!(connect(&mut rig, [198, 51, 100, 1]), (429, true));
    assert_eq!(connect(&mut rig, [198, 51, 100, 2]), (101, false));
    rig.wait(121_000);
    assert_eq!(connect(&mut rig, [198, 51, 100, 1]), (101, false));
}

#[test]
fn a_request_comes_in_any_pieces_with_frames_right_behind_it() {
    let request = codec::upgrade_request("/ws?user_id=ann", &[]);
    for piece in [1, 2, 7, 50, request.len() - 1, request.len() + 5] {
        let mut rig = Rig::new(|_| {});
        let client = rig.dial_raw(request.clone(), 1 << 20);
        rig.say(client, json!({"type": "ping", "id": 1}));
        while rig.clients[client].unsent() > 0 {
            rig.clients[client].write(&mut rig.world, piece);
            rig.world.turn();
        }
        rig.settle();
        let heard = rig.said(client);
        assert_eq!((heard[0]["type"].as_str(), &heard[1]), (Some("auth:ok"), &json!({"type": "pong", "id": 1})));
        rig.assert_nothing_is_left();
    }
}

#[test]
fn nothing_overtakes_the_101() {
    // An urgent message to a user whose connection has its 101 still queued, on the shard that accepted it.
    let mut rig = Rig::with_shards(1, |_| {});
    let bob = rig.join_as("bob");
    let first = rig.join_as("ann");
    let second = rig.dial("/ws?user_id=ann&batch=1", &[]);
    rig.say(bob, json!({"type": "send_message", "target_user": "ann", "content": 1, "class": "urgent"}));
    rig.clients[second].ping(b"early");
    rig.settle();
    assert_eq!(rig.said(first).len(), 1);
    let heard = rig.heard(second);
    assert!(matches!(&heard[0], Heard::Response(response) if response.status == 101), "{heard:?}");
    assert!(heard.iter().any(|h| matches!(h, Heard::Pong(p) if p == b"early")), "{heard:?}");
}

#[test]
fn echo_gives_everything_back() {
    let mut rig = Rig::new(|config| config.echo.enabled = true);
    let client = rig.dial("/echo", &["Sec-WebSocket-Extensions: permessage-deflate"]);
    rig.clients[client].raw = true;
    rig.settle();
    rig.heard(client);
    for (opcode, size) in [(codec::TEXT, 0), (codec::TEXT, 7), (codec::BINARY, 60_000), (codec::TEXT, 65_536)] {
        for (pieces, compress) in [(1, false), (3, false), (1, true), (4, true)] {
            let payload = vec![b'a'; size];
            rig.clients[client].say_in(opcode, &payload, pieces, compress);
            rig.settle();
            let heard = rig.heard(client);
            assert!(matches!(&heard[..], [Heard::Data(o, p)] if *o == opcode && *p == payload), "{opcode} {size}");
        }
    }
    rig.assert_nothing_is_left();
}
