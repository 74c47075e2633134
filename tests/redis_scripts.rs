//! The registry's scripts on a real Redis: what they let happen and what they never do.

mod redis_support;

use redis::Value;
use redis_support::{Server, call, cmd, on_each_driver, open, pipeline};
use ringgate::bus::redis::pipeline::Pipeline;
use ringgate::bus::redis::pubsub::{self, Subscriber};
use ringgate::bus::redis::scripts::{self, RowReply, Scripts, Stamp};
use ringgate::bus::redis::target::Target;
use ringgate::cluster::lease::{Answer, Ask, Command};
use ringgate::cluster::nodes::About;
use ringgate::cluster::registry::Row;
use ringgate::ids::ShardId;

const TTL: u64 = 60_000;

fn row(node: &str, epoch: u64, shard: u16) -> Row {
    Row { node: node.into(), epoch, shard: ShardId(shard) }
}

fn stamp(serial: u64, confirmed: bool) -> Stamp {
    Stamp { serial, lease_ends_ms: u64::MAX, confirmed }
}

async fn put(p: &Pipeline<u64>, s: &Scripts, row: &Row) -> RowReply {
    scripts::row_reply(&call(p, &s.row_put("u", row, TTL, stamp(1, true))).await)
}

async fn delete(p: &Pipeline<u64>, s: &Scripts, node: &str, epoch: u64) -> RowReply {
    scripts::row_reply(&call(p, &s.row_reap("u", node, epoch)).await)
}

#[test]
fn an_old_epoch_never_removes_or_overwrites_what_a_newer_one_wrote() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let s = Scripts::new("ws:");
        let p = pipeline(&server.target(), s.load()).await;
        // Epochs are times in milliseconds: larger than what a float of 32 bits or a short text form would keep.
        let (old, new) = (1_790_000_000_001, 1_790_000_000_002);
        assert_eq!(put(&p, &s, &row("a", old, 0)).await, RowReply::Done);
        assert_eq!(put(&p, &s, &row("a", new, 1)).await, RowReply::Done, "a newer one may");
        assert_eq!(put(&p, &s, &row("a", old, 0)).await, RowReply::Fenced);
        assert_eq!(delete(&p, &s, "a", old).await, RowReply::Fenced);
        let found = scripts::rows(&call(&p, &s.row_find("u")).await).unwrap();
        assert_eq!(found.as_slice(), [row("a", new, 1)]);
        assert_eq!(delete(&p, &s, "a", new).await, RowReply::Done);
        assert_eq!(call(&p, &cmd("EXISTS ws:loc:u")).await, Value::Int(0), "an empty hash is no key");
        assert_eq!(delete(&p, &s, "a", new).await, RowReply::Done, "again, without harm");
    });
}

#[test]
fn a_delete_that_comes_late_does_not_remove_what_was_written_after_it() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let s = Scripts::new("ws:");
        let p = pipeline(&server.target(), s.load()).await;
        let late = |serial| s.row_delete("u", &row("a", 7, 0), stamp(serial, true));
        // As numbers, not as texts: 10 is after 9.
        call(&p, &s.row_put("u", &row("a", 7, 0), TTL, stamp(10, true))).await;
        call(&p, &late(9)).await;
        let found = scripts::rows(&call(&p, &s.row_find("u")).await).unwrap();
        assert_eq!(found.as_slice(), [row("a", 7, 0)]);
        call(&p, &late(11)).await;
        assert_eq!(call(&p, &cmd("EXISTS ws:loc:u")).await, Value::Int(0));
    });
}

#[test]
fn devices_on_several_nodes_do_not_overwrite_each_other() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let s = Scripts::new("ws:");
        let p = pipeline(&server.target(), s.load()).await;
        let found = async || scripts::rows(&call(&p, &s.row_find("u")).await).unwrap();
        let (a, b) = (row("a", 1, 0), row("b", 2, 3));
        for row in [&a, &b, &a] {
            assert_eq!(put(&p, &s, row).await, RowReply::Done);
        }
        let both = found().await;
        assert!(both.len() == 2 && both.contains(&a) && both.contains(&b), "{both:?}");
        assert_eq!(delete(&p, &s, "b", 2).await, RowReply::Done);
        assert_eq!(found().await.as_slice(), [a]);
        let ttl = call(&p, &cmd("PTTL ws:loc:u")).await;
        assert!(matches!(ttl, Value::Int(ms) if (1..=TTL as i64).contains(&ms)), "{ttl:?}");
    });
}

/// What happens to a user's rows, on a node and under an epoch.
enum Step {
    /// A write with this serial; whether an earlier one was confirmed.
    Put(&'static str, u64, u64, bool),
    /// A deletion, likewise.
    Delete(&'static str, u64, u64, bool),
    /// Either, when the lease has ended.
    LatePut(&'static str, u64, bool),
    LateDelete(&'static str, u64, bool),
    /// Others clean up.
    Reap(&'static str, u64),
    Forget,
}

#[test]
fn the_first_row_and_the_last_one_are_told_in_the_same_step() {
    use Step::{Delete, Forget, LateDelete, LatePut, Put, Reap};
    let cases: Vec<(&str, Vec<Step>, &[&str])> = vec![
        ("comes and goes", vec![Put("a", 1, 1, false), Delete("a", 1, 2, true)], &["+a", "-a"]),
        (
            "on two nodes",
            vec![Put("a", 1, 1, false), Put("b", 1, 1, false), Delete("a", 1, 2, true), Delete("b", 1, 2, true)],
            &["+a", "-b"],
        ),
        ("renewed", vec![Put("a", 1, 1, false), Put("a", 1, 2, true), Put("a", 1, 3, false)], &["+a"]),
        (
            "back on its node before the others have cleaned up",
            vec![Put("a", 1, 1, false), Put("a", 2, 1, false), Reap("a", 1), Delete("a", 2, 2, true)],
            &["+a", "-a"],
        ),
        (
            "back elsewhere before the others have cleaned up",
            vec![Put("a", 1, 1, false), Put("b", 1, 1, false), Reap("a", 1)],
            &["+a"],
        ),
        ("cleaned up twice", vec![Put("a", 1, 1, false), Reap("a", 1), Reap("a", 1)], &["+a", "-a"]),
        (
            "what was on its way meanwhile",
            vec![Put("a", 1, 1, false), Reap("a", 1), LatePut("a", 1, true), LatePut("a", 1, false)],
            &["+a", "-a"],
        ),
        (
            "who left meanwhile",
            vec![Put("a", 1, 1, false), Reap("a", 1), LateDelete("a", 1, true), LateDelete("a", 1, false)],
            &["+a", "-a"],
        ),
        (
            "deleted, and again since the answer was lost",
            vec![Put("a", 1, 1, false), Delete("a", 1, 2, true), Delete("a", 1, 3, false)],
            &["+a", "-a"],
        ),
        (
            "written, and again since the answer was lost",
            vec![Put("a", 1, 1, false), Put("a", 1, 2, false), Delete("a", 1, 3, true)],
            &["+a", "-a"],
        ),
        ("an older epoch", vec![Put("a", 2, 1, false), Put("a", 1, 1, false), Delete("a", 1, 9, true)], &["+a"]),
        ("deleted before it was written", vec![Put("a", 1, 9, false), Delete("a", 1, 8, true)], &["+a"]),
        ("announced after a flush", vec![Put("a", 1, 1, false), Forget, Put("a", 2, 2, true)], &["+a"]),
        (
            "gone before that",
            vec![Put("a", 1, 1, false), Forget, Delete("a", 1, 2, true), Put("b", 1, 1, false)],
            &["+a", "-a", "+b"],
        ),
        (
            "gone before that, while others are announced",
            vec![Put("a", 1, 1, false), Put("b", 1, 1, false), Forget, Put("b", 2, 1, true), Delete("a", 1, 2, true)],
            &["+a"],
        ),
    ];
    let server = Server::start(&[]);
    on_each_driver(|| async {
        let s = Scripts::new("ws:");
        for (what, steps, expected) in &cases {
            server.cli(&["FLUSHALL"]);
            let p = pipeline(&server.target(), s.load()).await;
            let listener = Subscriber::start(open(&server.target(), vec![]).await.unwrap());
            listener.subscribe([((), s.keys().user_events())], 0);
            assert!(matches!(listener.next().await, pubsub::Arrival::Confirmed(())));
            for step in steps {
                let late = |confirmed| Stamp { lease_ends_ms: 1, ..stamp(9, confirmed) };
                let command = match *step {
                    Put(node, epoch, serial, confirmed) => {
                        s.row_put("u\"1", &row(node, epoch, 0), TTL, stamp(serial, confirmed))
                    }
                    LatePut(node, epoch, confirmed) => s.row_put("u\"1", &row(node, epoch, 0), TTL, late(confirmed)),
                    Delete(node, epoch, serial, confirmed) => {
                        s.row_delete("u\"1", &row(node, epoch, 0), stamp(serial, confirmed))
                    }
                    LateDelete(node, epoch, confirmed) => s.row_delete("u\"1", &row(node, epoch, 0), late(confirmed)),
                    Reap(node, epoch) => s.row_reap("u\"1", node, epoch),
                    Forget => cmd("FLUSHALL"),
                };
                let call = call(&p, &command).await;
                assert!(!matches!(call, Value::ServerError(_)), "{what}: {call:?}");
            }
            call(&p, &cmd("PUBLISH ws:user:events end")).await;
            let mut told = Vec::new();
            while let pubsub::Arrival::Message { payload, .. } = listener.next().await
                && payload != b"end"
            {
                let event: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                assert_eq!(event["user_id"], "u\"1");
                let sign = if event["event"] == "online" { '+' } else { '-' };
                told.push(format!("{sign}{}", event["node"].as_str().unwrap()));
            }
            assert_eq!(told, *expected, "{what}");
        }
    });
}

#[test]
fn who_may_not_publish_events_has_its_rows_all_the_same() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        server.cli(&["ACL", "SETUSER", "gate", "on", ">secret", "~ws:*", "+@all", "resetchannels"]);
        let s = Scripts::new("ws:");
        let target = Target::parse(&server.url("gate:secret@", "")).unwrap();
        let p = pipeline(&target, s.load()).await;
        let put = s.row_put("u", &row("a", 1, 0), TTL, stamp(1, false));
        assert_eq!(scripts::row_reply(&call(&p, &put).await), RowReply::Done);
        assert_eq!(delete(&p, &s, "a", 1).await, RowReply::Done);
        assert_eq!(call(&p, &cmd("EXISTS ws:loc:u")).await, Value::Int(0));
    });
}

#[test]
fn rows_that_make_no_sense_are_replaced_not_believed() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let s = Scripts::new("ws:");
        let p = pipeline(&server.target(), s.load()).await;
        server.cli(&["HSET", "ws:loc:u", "a", "rubbish", "x", "5 7 extra", "y", "5 7"]);
        assert_eq!(put(&p, &s, &row("a", 1, 0)).await, RowReply::Done);
        let found = scripts::rows(&call(&p, &s.row_find("u")).await).unwrap();
        assert!(found.len() == 2 && found.contains(&row("a", 1, 0)) && found.contains(&row("y", 5, 7)), "{found:?}");
    });
}

async fn ask(p: &Pipeline<u64>, s: &Scripts, node: &str, instance: u32, kind: Ask, ttl_ms: u64) -> Answer {
    let command = Command { ticket: 0, node: node.into(), kind, over: None };
    let about = About { shards: 4, weight: 150, advertise: Some("ws://10.0.0.7:8080/ws".into()), announcing: true };
    match scripts::lease_answer(kind, &call(p, &s.lease(&command, instance, ttl_ms, &about)).await) {
        // What Redis remembers has any name, and its clock shows any time.
        Answer::Granted { epoch, memory: 1.., ends_ms: 1.. } => granted(epoch),
        Answer::Renewed { ends_ms: 1_000.. } => RENEWED,
        answer => answer,
    }
}

const RENEWED: Answer = Answer::Renewed { ends_ms: 0 };

fn granted(epoch: u64) -> Answer {
    Answer::Granted { epoch, memory: 0, ends_ms: 0 }
}

#[test]
fn what_redis_remembers_has_another_name_once_it_has_forgotten() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let s = Scripts::new("ws:");
        let p = pipeline(&server.target(), s.load()).await;
        let about = About::default();
        let memory = async |node: &str| {
            let kind = Ask::Acquire { floor: 1, take_over: true };
            let command = Command { ticket: 0, node: node.into(), kind, over: None };
            match scripts::lease_answer(kind, &call(&p, &s.lease(&command, 1, TTL, &about)).await) {
                Answer::Granted { memory, .. } => memory,
                other => panic!("{other:?}"),
            }
        };
        let first = memory("a").await;
        assert_eq!((memory("a").await, memory("b").await), (first, first));
        server.cli(&["FLUSHALL"]);
        let second = memory("b").await;
        assert!(second > first && memory("a").await == second);
    });
}

#[test]
fn leases_are_granted_renewed_fenced_and_forgotten() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let s = Scripts::new("ws:");
        let p = pipeline(&server.target(), s.load()).await;
        let take = |floor| Ask::Acquire { floor, take_over: true };
        let retake = |floor| Ask::Acquire { floor, take_over: false };
        let base = 1_790_000_000_000;

        assert_eq!(ask(&p, &s, "a", 1, take(base), TTL).await, granted(base));
        assert_eq!(ask(&p, &s, "a", 1, Ask::Renew { epoch: base }, TTL).await, RENEWED);
        assert_eq!(ask(&p, &s, "a", 1, retake(base), TTL).await, granted(base + 1), "its own");
        assert_eq!(ask(&p, &s, "a", 2, retake(base), TTL).await, Answer::Fenced, "somebody else's");
        assert_eq!(ask(&p, &s, "a", 2, take(5), TTL).await, granted(base + 2), "never backwards");
        for kind in [Ask::Renew { epoch: base + 1 }, Ask::Release { epoch: base + 1 }] {
            assert_eq!(ask(&p, &s, "a", 1, kind, TTL).await, Answer::Fenced);
        }
        assert_eq!(ask(&p, &s, "a", 2, Ask::Renew { epoch: base + 9 }, TTL).await, Answer::Missing);

        let listed = scripts::leases(&call(&p, &s.lease_list()).await).unwrap();
        let mut graves: Vec<_> = listed.iter().filter(|l| l.remaining_ms <= 0).map(|l| (&*l.node, l.epoch)).collect();
        graves.sort_unstable();
        assert_eq!(graves, [("a", base), ("a", base + 1)], "what they have written is still to be cleaned up");
        let lease = listed.iter().find(|l| l.remaining_ms > 0).unwrap();
        assert_eq!((&*lease.node, lease.epoch, lease.instance), ("a", base + 2, 2));
        assert_eq!((lease.about.shards, lease.about.announcing), (4, true));
        assert!((1..=TTL as i64).contains(&lease.remaining_ms), "{lease:?}");
        assert_eq!(call(&p, &s.lease_reap("a", base + 2)).await, Value::Int(3), "it lives");

        assert_eq!(ask(&p, &s, "a", 2, Ask::Release { epoch: base + 2 }, TTL).await, Answer::Released);
        assert_eq!(ask(&p, &s, "a", 2, Ask::Renew { epoch: base + 2 }, TTL).await, Answer::Missing);
        for epoch in [base, base + 1, base + 2] {
            assert_eq!(call(&p, &s.lease_reap("a", epoch)).await, Value::Int(1));
        }
        assert_eq!(scripts::leases(&call(&p, &s.lease_list()).await), Some(vec![]));

        // Redis has forgotten everything, and a process has written under its old epoch since.
        let over = Some(("b".into(), base + 8));
        let command = Command { ticket: 0, node: "a".into(), kind: retake(base + 9), over };
        let about = About { shards: 4, ..About::default() };
        let reply = call(&p, &s.lease(&command, 2, TTL, &about)).await;
        let granted = scripts::lease_answer(command.kind, &reply);
        assert!(matches!(granted, Answer::Granted { epoch, .. } if epoch == base + 9), "{granted:?}");
        let listed = scripts::leases(&call(&p, &s.lease_list()).await).unwrap();
        let graves: Vec<_> = listed.iter().filter(|l| l.remaining_ms <= 0).map(|l| (&*l.node, l.epoch)).collect();
        assert_eq!(graves, [("b", base + 8)], "it is still to be cleaned up");
    });
}

#[test]
fn a_lease_that_has_run_out_is_listed_dead_can_be_retaken_and_is_reaped() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let s = Scripts::new("ws:");
        let p = pipeline(&server.target(), s.load()).await;
        let retake = Ask::Acquire { floor: 3, take_over: false };
        assert_eq!(ask(&p, &s, "a", 1, retake, 20).await, granted(3));
        monoio::time::sleep(std::time::Duration::from_millis(40)).await;
        let listed = scripts::leases(&call(&p, &s.lease_list()).await).unwrap();
        assert!(listed[0].remaining_ms < 0, "{listed:?}");
        assert_eq!(ask(&p, &s, "a", 1, Ask::Renew { epoch: 3 }, TTL).await, Answer::Missing, "too late");
        assert_eq!(ask(&p, &s, "a", 2, retake, 20).await, granted(4), "nobody has it");
        monoio::time::sleep(std::time::Duration::from_millis(40)).await;
        assert_eq!(call(&p, &s.lease_reap("a", 2)).await, Value::Int(2), "not of another epoch");
        assert_eq!(call(&p, &s.lease_reap("a", 3)).await, Value::Int(1), "the one before it");
        assert_eq!(call(&p, &s.lease_reap("a", 4)).await, Value::Int(1));
        assert_eq!(call(&p, &s.lease_reap("a", 4)).await, Value::Int(0));
    });
}
