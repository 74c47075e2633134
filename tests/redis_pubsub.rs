//! Subscribed connections against a real Redis.

mod redis_support;

use redis_support::{Server, cmd, on_each_driver, open, pipeline};
use ringgate::bus::redis::pubsub::{Arrival, Subscriber};
use ringgate::bus::redis::target::Target;
use ringgate::bus::redis::trouble::Trouble;

async fn subscriber<T: 'static>(target: &Target) -> Subscriber<T> {
    Subscriber::start(open(target, vec![]).await.unwrap())
}

#[test]
fn channels_are_confirmed_in_order_and_bring_what_is_published() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        let subscriber = subscriber::<u32>(&server.target()).await;
        let publisher = pipeline::<u32>(&server.target(), vec![]).await;
        subscriber.subscribe((0..1_000).map(|i| (i, format!("ws:room:{i}"))), 5);
        assert_eq!((subscriber.unconfirmed(), subscriber.oldest_unconfirmed_ms(9)), (1_000, Some(4)));
        for expected in 0..1_000 {
            let Arrival::Confirmed(token) = subscriber.next().await else { panic!("{expected}") };
            assert_eq!(token, expected);
        }
        assert_eq!((subscriber.unconfirmed(), subscriber.oldest_unconfirmed_ms(9)), (0, None));

        let payload = |i: u32| [&b"\r\n$3\r\n"[..], &i.to_be_bytes(), &vec![b'x'; (i as usize * 37) % 9_000]].concat();
        for i in 0..1_000 {
            publisher.send(i, redis::cmd("PUBLISH").arg(format!("ws:room:{}", i % 1_200)).arg(payload(i)), 0);
        }
        for i in 0..1_000 {
            let Arrival::Message { channel, payload: came } = subscriber.next().await else { panic!("{i}") };
            assert_eq!((channel, came), (format!("ws:room:{i}").into_bytes(), payload(i)), "in order");
        }

        subscriber.unsubscribe([(7, "ws:room:7"), (8, "ws:room:never")], 0);
        for token in [7, 8] {
            assert!(matches!(subscriber.next().await, Arrival::Confirmed(t) if t == token));
        }
        publisher.send(0, &cmd("PUBLISH ws:room:7 gone"), 0);
        publisher.send(0, &cmd("PUBLISH ws:room:9 there"), 0);
        assert!(matches!(subscriber.next().await, Arrival::Message { payload, .. } if payload == b"there"));
    });
}

#[test]
fn what_is_refused_is_handed_back_and_the_rest_goes_on() {
    let server = Server::start(&[]);
    server.cli(&["ACL", "SETUSER", "gate", "on", ">gate", "resetchannels", "&ws:*", "+@all"]);
    on_each_driver(|| async {
        let subscriber = subscriber::<&str>(&Target::parse(&server.url("gate:gate@", "")).unwrap()).await;
        subscriber.subscribe([("mine", "ws:room:a")], 0);
        subscriber.subscribe([("foreign", "other"), ("beside it", "ws:room:b")], 0);
        subscriber.subscribe([("mine too", "ws:room:c")], 0);
        assert!(matches!(subscriber.next().await, Arrival::Confirmed("mine")));
        for expected in ["foreign", "beside it"] {
            let Arrival::Refused { token, error } = subscriber.next().await else { panic!("{expected}") };
            assert_eq!((token, Trouble::of(&error)), (expected, Trouble::Denied), "a command is refused as a whole");
        }
        assert!(matches!(subscriber.next().await, Arrival::Confirmed("mine too")));
    });
}

#[test]
fn the_end_hands_back_what_was_not_confirmed() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        let subscriber = subscriber::<u32>(&server.target()).await;
        subscriber.subscribe([(1, "ws:a")], 0);
        assert!(matches!(subscriber.next().await, Arrival::Confirmed(1)));
        server.stop(true);
        subscriber.subscribe((2..300).map(|i| (i, format!("ws:{i}"))), 0);
        subscriber.close();
        let Arrival::Ended { unconfirmed, .. } = subscriber.next().await else { panic!("it ends") };
        assert_eq!(unconfirmed, (2..300).collect::<Vec<_>>());
        subscriber.subscribe([(9, "ws:b")], 0);
        assert!(matches!(subscriber.next().await, Arrival::Ended { unconfirmed, .. } if unconfirmed == [9]));
        server.stop(false);
    });
}

#[test]
fn a_flood_that_nobody_takes_stops_the_reader_and_loses_nothing() {
    let server = Server::start(&["--client-output-buffer-limit", "pubsub 0 0 0"]);
    on_each_driver(|| async {
        let subscriber = subscriber::<u32>(&server.target()).await;
        let publisher = pipeline::<u32>(&server.target(), vec![]).await;
        subscriber.subscribe([(0, "ws:flood")], 0);
        assert!(matches!(subscriber.next().await, Arrival::Confirmed(_)));
        let count = 400u32;
        for i in 0..count {
            let payload = [&i.to_be_bytes()[..], &[0; 50_000]].concat();
            publisher.send(i, redis::cmd("PUBLISH").arg("ws:flood").arg(payload), 0);
        }
        for _ in 0..count {
            publisher.next().await;
        }
        for i in 0..count {
            let Arrival::Message { payload, .. } = subscriber.next().await else { panic!("{i}") };
            assert_eq!(payload[..4], i.to_be_bytes());
        }
    });
}
