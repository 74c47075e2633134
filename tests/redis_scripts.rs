//! The registry's scripts on a real Redis: what they let happen and what they never do.

mod redis_support;

use redis::Value;
use redis_support::{Server, call, cmd, on_each_driver, pipeline};
use ringgate::bus::redis::pipeline::Pipeline;
use ringgate::bus::redis::scripts::{self, RowReply, Scripts};
use ringgate::cluster::lease::{Answer, Ask, Command};
use ringgate::cluster::nodes::About;
use ringgate::cluster::registry::Row;
use ringgate::ids::ShardId;

const TTL: u64 = 60_000;

fn row(node: &str, epoch: u64, shard: u16) -> Row {
    Row { node: node.into(), epoch, shard: ShardId(shard) }
}

async fn put(p: &Pipeline<u64>, s: &Scripts, row: &Row) -> RowReply {
    scripts::row_reply(&call(p, &s.row_put("u", row, 1, TTL)).await)
}

async fn delete(p: &Pipeline<u64>, s: &Scripts, node: &str, epoch: u64) -> RowReply {
    scripts::row_reply(&call(p, &s.row_delete("u", node, epoch, None)).await)
}

fn done<const N: usize>(others: [Row; N]) -> RowReply {
    RowReply::Done(others.into_iter().collect())
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
        assert_eq!(put(&p, &s, &row("a", old, 0)).await, done([]));
        assert_eq!(put(&p, &s, &row("a", new, 1)).await, done([]), "a newer one may");
        assert_eq!(put(&p, &s, &row("a", old, 0)).await, RowReply::Fenced);
        assert_eq!(delete(&p, &s, "a", old).await, RowReply::Fenced);
        let found = scripts::rows(&call(&p, &s.row_find("u")).await).unwrap();
        assert_eq!(found.as_slice(), [row("a", new, 1)]);
        assert_eq!(delete(&p, &s, "a", new).await, done([]));
        assert_eq!(call(&p, &cmd("EXISTS ws:loc:u")).await, Value::Int(0), "an empty hash is no key");
        assert_eq!(delete(&p, &s, "a", new).await, done([]), "again, without harm");
    });
}

#[test]
fn a_delete_that_comes_late_does_not_remove_what_was_written_after_it() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let s = Scripts::new("ws:");
        let p = pipeline(&server.target(), s.load()).await;
        let late = |serial| s.row_delete("u", "a", 7, Some(serial));
        // As numbers, not as texts: 10 is after 9.
        call(&p, &s.row_put("u", &row("a", 7, 0), 10, TTL)).await;
        call(&p, &late(9)).await;
        let found = scripts::rows(&call(&p, &s.row_find("u")).await).unwrap();
        assert_eq!(found.as_slice(), [row("a", 7, 0)]);
        call(&p, &late(11)).await;
        assert_eq!(call(&p, &cmd("EXISTS ws:loc:u")).await, Value::Int(0));
    });
}

#[test]
fn devices_on_several_nodes_do_not_overwrite_each_other_and_answers_name_the_others() {
    let server = Server::start(&[]);
    on_each_driver(|| async {
        server.cli(&["FLUSHALL"]);
        let s = Scripts::new("ws:");
        let p = pipeline(&server.target(), s.load()).await;
        let (a, b) = (row("a", 1, 0), row("b", 2, 3));
        assert_eq!(put(&p, &s, &a).await, done([]));
        assert_eq!(put(&p, &s, &b).await, done([a.clone()]));
        assert_eq!(put(&p, &s, &a).await, done([b.clone()]), "renewed");
        assert_eq!(delete(&p, &s, "b", 2).await, done([a]));
        let ttl = call(&p, &cmd("PTTL ws:loc:u")).await;
        assert!(matches!(ttl, Value::Int(ms) if (1..=TTL as i64).contains(&ms)), "{ttl:?}");
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
        assert_eq!(put(&p, &s, &row("a", 1, 0)).await, done([row("y", 5, 7)]));
        let found = scripts::rows(&call(&p, &s.row_find("u")).await).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
    });
}

async fn ask(p: &Pipeline<u64>, s: &Scripts, node: &str, instance: u32, kind: Ask, ttl_ms: u64) -> Answer {
    let command = Command { ticket: 0, node: node.into(), kind, over: None };
    let about = About { shards: 4, weight: 150, advertise: Some("ws://10.0.0.7:8080/ws".into()) };
    scripts::lease_answer(kind, &call(p, &s.lease(&command, instance, ttl_ms, &about)).await)
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

        assert_eq!(ask(&p, &s, "a", 1, take(base), TTL).await, Answer::Granted { epoch: base });
        assert_eq!(ask(&p, &s, "a", 1, Ask::Renew { epoch: base }, TTL).await, Answer::Renewed);
        assert_eq!(ask(&p, &s, "a", 1, retake(base), TTL).await, Answer::Granted { epoch: base + 1 }, "its own");
        assert_eq!(ask(&p, &s, "a", 2, retake(base), TTL).await, Answer::Fenced, "somebody else's");
        assert_eq!(ask(&p, &s, "a", 2, take(5), TTL).await, Answer::Granted { epoch: base + 2 }, "never backwards");
        for kind in [Ask::Renew { epoch: base + 1 }, Ask::Release { epoch: base + 1 }] {
            assert_eq!(ask(&p, &s, "a", 1, kind, TTL).await, Answer::Fenced);
        }
        assert_eq!(ask(&p, &s, "a", 2, Ask::Renew { epoch: base + 9 }, TTL).await, Answer::Missing);

        let listed = scripts::leases(&call(&p, &s.lease_list()).await).unwrap();
        let graves: Vec<_> = listed.iter().filter(|l| l.remaining_ms <= 0).map(|l| (&*l.node, l.epoch)).collect();
        assert_eq!(graves, [("a", base), ("a", base + 1)], "what they have written is still to be cleaned up");
        let lease = listed.iter().find(|l| l.remaining_ms > 0).unwrap();
        assert_eq!((&*lease.node, lease.epoch, lease.about.shards), ("a", base + 2, 4));
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
        let granted = call(&p, &s.lease(&command, 2, TTL, &about)).await;
        assert_eq!(scripts::lease_answer(command.kind, &granted), Answer::Granted { epoch: base + 9 });
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
        assert_eq!(ask(&p, &s, "a", 1, retake, 20).await, Answer::Granted { epoch: 3 });
        monoio::time::sleep(std::time::Duration::from_millis(40)).await;
        let listed = scripts::leases(&call(&p, &s.lease_list()).await).unwrap();
        assert!(listed[0].remaining_ms < 0, "{listed:?}");
        assert_eq!(ask(&p, &s, "a", 1, Ask::Renew { epoch: 3 }, TTL).await, Answer::Missing, "too late");
        assert_eq!(ask(&p, &s, "a", 2, retake, 20).await, Answer::Granted { epoch: 4 }, "nobody has it");
        monoio::time::sleep(std::time::Duration::from_millis(40)).await;
        assert_eq!(call(&p, &s.lease_reap("a", 2)).await, Value::Int(2), "not of another epoch");
        assert_eq!(call(&p, &s.lease_reap("a", 3)).await, Value::Int(1), "the one before it");
        assert_eq!(call(&p, &s.lease_reap("a", 4)).await, Value::Int(1));
        assert_eq!(call(&p, &s.lease_reap("a", 4)).await, Value::Int(0));
    });
}
