use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const TTL: u64 = 10_000;

/// What the lease scripts do, on the clock of Redis.
#[derive(Default)]
struct Store(BTreeMap<Box<str>, Row>);

#[derive(Clone, Copy)]
struct Row {
    epoch: u64,
    instance: usize,
    expires_ms: u64,
}

impl Store {
    fn run(&mut self, command: &Command, instance: usize, now_ms: u64) -> Answer {
        let row = self.0.get(&command.node).copied();
        match (command.kind, row) {
            (Ask::Acquire { take_over: false, .. }, Some(row))
                if row.instance != instance && row.expires_ms > now_ms =>
            {
                Answer::Fenced
            }
            (Ask::Acquire { floor, .. }, row) => {
                let epoch = floor.max(row.map_or(0, |r| r.epoch + 1));
                self.0.insert(command.node.clone(), Row { epoch, instance, expires_ms: now_ms + TTL });
                Answer::Granted { epoch, memory: 1, ends_ms: now_ms + TTL }
            }
            (Ask::Renew { epoch }, Some(row)) if row.epoch == epoch && row.expires_ms > now_ms => {
                self.0.insert(command.node.clone(), Row { expires_ms: now_ms + TTL, ..row });
                Answer::Renewed { ends_ms: now_ms + TTL }
            }
            (Ask::Release { epoch }, Some(row)) if row.epoch == epoch => {
                self.0.remove(&command.node);
                Answer::Released
            }
            (Ask::Renew { epoch } | Ask::Release { epoch }, Some(row)) if row.epoch > epoch => Answer::Fenced,
            (Ask::Renew { .. } | Ask::Release { .. }, _) => Answer::Missing,
        }
    }
}

fn acquired(lease: &mut Lease, store: &mut Store, instance: usize, now: u64) -> Option<Change> {
    let command = lease.poll(now, now).expect("it asks");
    let answer = store.run(&command, instance, now);
    lease.answered(command.ticket, answer, now)
}

#[test]
fn it_is_acquired_renewed_every_3_s_and_ends_with_the_last_renewal_sent() {
    let (mut lease, mut store) = (Lease::new("a", TTL, 1), Store::default());
    assert_eq!(lease.holds(0), None);
    assert_eq!(acquired(&mut lease, &mut store, 0, 100), Some(Change::Acquired { epoch: 100 }));
    assert_eq!(lease.poll(3_099, 3_099), None, "not yet");
    let renewal = lease.poll(3_100, 3_100).expect("a renewal is due");
    assert_eq!(renewal.kind, Ask::Renew { epoch: 100 });
    assert_eq!(lease.poll(3_101, 3_101), None, "one at a time");
    assert_eq!(lease.answered(renewal.ticket, Answer::Renewed { ends_ms: 13_900 }, 4_900), None);
    assert_eq!(lease.until_ms(), Some(13_100), "counted from when it was sent");
    assert_eq!((lease.ends_ms(), lease.memory()), (13_900, 1), "as Redis counts");
    assert_eq!((lease.holds(13_099), lease.holds(13_100)), (Some(100), None), "also before anybody has noticed");
    assert_eq!(lease.tick(13_099), None);
    assert_eq!(lease.tick(13_100), Some(Change::Lost { epoch: 100, why: Loss::Expired }));
    assert_eq!(lease.tick(13_101), None, "told once");
}

#[test]
fn an_answer_that_comes_after_the_end_does_not_bring_it_back() {
    let (mut lease, mut store) = (Lease::new("a", TTL, 1), Store::default());
    acquired(&mut lease, &mut store, 0, 0);
    let renewal = lease.poll(3_000, 3_000).unwrap();
    // Stopped for 30 s, and the answer lies in the socket.
    let change = lease.answered(renewal.ticket, Answer::Renewed { ends_ms: 13_900 }, 33_000);
    assert!(matches!(change, Some(Change::Lost { why: Loss::Expired, .. })));
    assert_eq!(lease.holds(33_000), None);
    let again = lease.poll(33_000, 5).unwrap();
    assert!(
        matches!(again.kind, Ask::Acquire { floor: 2.., take_over: false }),
        "a fresh epoch though the clock stepped back"
    );
    assert!(
        again.over.is_some(),
        "what was written under the old one is cleaned up, whether or not Redis remembers it"
    );
}

#[test]
fn what_redis_has_forgotten_is_acquired_under_a_fresh_epoch() {
    let (mut lease, mut store) = (Lease::new("a", TTL, 1), Store::default());
    acquired(&mut lease, &mut store, 0, 1_000);
    store.0.clear();
    assert_eq!(acquired(&mut lease, &mut store, 0, 4_000), Some(Change::Lost { epoch: 1_000, why: Loss::Missing }));
    assert_eq!(acquired(&mut lease, &mut store, 0, 4_000), Some(Change::Acquired { epoch: 4_000 }));
}

#[test]
fn the_newer_process_fences_the_older_which_takes_a_fresh_name() {
    let mut store = Store::default();
    let (mut older, mut newer) = (Lease::new("a", TTL, 1), Lease::new("a", TTL, 2));
    acquired(&mut older, &mut store, 0, 0);
    assert!(matches!(acquired(&mut newer, &mut store, 1, 1_000), Some(Change::Acquired { epoch: 1_000 })));
    let lost = acquired(&mut older, &mut store, 0, 3_000);
    assert!(matches!(lost, Some(Change::Lost { why: Loss::Fenced, .. })));
    assert!(older.node().starts_with("a-") && older.node() != newer.node());
    assert!(matches!(acquired(&mut older, &mut store, 0, 3_000), Some(Change::Acquired { .. })));
    assert_eq!(acquired(&mut newer, &mut store, 1, 4_000), None, "goes on");
    assert_eq!((store.0.len(), newer.node()), (2, "a"));
}

#[test]
fn a_node_that_was_away_does_not_take_its_name_back_by_force() {
    let mut store = Store::default();
    let (mut older, mut newer) = (Lease::new("a", TTL, 1), Lease::new("a", TTL, 2));
    acquired(&mut older, &mut store, 0, 0);
    acquired(&mut newer, &mut store, 1, 20_000);
    assert!(matches!(older.tick(21_000), Some(Change::Lost { why: Loss::Expired, .. })));
    let renamed = acquired(&mut older, &mut store, 0, 21_000);
    assert_eq!(renamed, Some(Change::Renamed { node: older.node().into() }));
    assert!(newer.holds(21_000).is_some());
}

#[test]
fn a_failed_attempt_is_repeated_after_a_while_and_a_lost_link_at_once() {
    let mut lease = Lease::new("a", TTL, 1);
    let first = lease.poll(0, 0).unwrap();
    assert_eq!(lease.answered(first.ticket, Answer::Failed, 10), None);
    assert_eq!(lease.poll(10 + RETRY_MS - 1, 0), None);
    let second = lease.poll(10 + 2 * RETRY_MS, 0).unwrap();
    lease.link_lost();
    let third = lease.poll(10 + 2 * RETRY_MS, 0).expect("at once");
    assert_eq!(
        lease.answered(second.ticket, Answer::Granted { epoch: 7, memory: 1, ends_ms: 1 }, 600),
        None,
        "given up"
    );
    assert_eq!(
        lease.answered(third.ticket, Answer::Granted { epoch: 8, memory: 1, ends_ms: 1 }, 600),
        Some(Change::Acquired { epoch: 8 })
    );
}

#[test]
fn it_is_given_back_at_the_end() {
    let (mut lease, mut store) = (Lease::new("a", TTL, 1), Store::default());
    acquired(&mut lease, &mut store, 0, 0);
    assert!(matches!(lease.leave(), Some(Change::Lost { why: Loss::Released, .. })));
    assert_eq!(lease.holds(1), None);
    assert_eq!(acquired(&mut lease, &mut store, 0, 1), None);
    assert!(lease.has_left() && store.0.is_empty());
    assert_eq!(lease.poll(60_000, 60_000), None);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Time passes for everybody.
    Wait(u64),
    /// An instance asks; whether Redis gets it, and the instance the answer, and how late.
    Ask(usize, bool, bool, u64),
    /// An instance loses its connection.
    Cut(usize),
    /// Redis forgets everything.
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..6_000).prop_map(Step::Wait),
        12 => (0usize..3, prop::bool::weighted(0.9), prop::bool::weighted(0.8), 0u64..3_000)
            .prop_map(|(who, there, back, late)| Step::Ask(who, there, back, late)),
        1 => (0usize..3).prop_map(Step::Cut),
        1 => Just(Step::Flush),
    ]
}

proptest! {
    /// Three processes that were all given the same name, under everything that can happen to commands and answers.
    #[test]
    fn a_holder_is_always_backed_by_redis_and_all_end_with_names_of_their_own(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let mut store = Store::default();
        let mut leases = [11, 22, 33].map(|seed| Lease::new("a", TTL, seed));
        let mut newest: BTreeMap<Box<str>, u64> = BTreeMap::new();
        let (mut now, mut flushed_ms) = (1_000, 0);
        for step in steps {
            match step {
                Step::Wait(ms) => now += ms,
                Step::Cut(who) => leases[who].link_lost(),
                Step::Flush => {
                    store.0.clear();
                    // Epochs start at the time, so they can tell processes apart that do not start in the same millisecond.
                    now += 1;
                    flushed_ms = now;
                }
                Step::Ask(who, there, back, late) => {
                    if let Some(command) = leases[who].poll(now, now) {
                        let answer = if there { store.run(&command, who, now) } else { Answer::Failed };
                        if let Answer::Granted { epoch, .. } = answer {
                            let before = newest.insert(command.node.clone(), epoch).unwrap_or(0);
                            prop_assert!(epoch > before, "epochs of a name only grow, through a flush as well");
                        }
                        now += late;
                        if back {
                            leases[who].answered(command.ticket, answer, now);
                        }
                    }
                }
            }
            for (who, lease) in leases.iter_mut().enumerate() {
                let tells = lease.clone().tick(now).is_some();
                prop_assert_eq!(tells, lease.until_ms().is_some() && lease.holds(now).is_none());
                lease.tick(now);
                // While it holds, the row in Redis is its own and lives, unless it was replaced or wiped since.
                if let (Some(epoch), Some(row)) = (lease.holds(now), store.0.get(lease.node())) {
                    prop_assert!(row.epoch > epoch || (row.instance == who && row.expires_ms > now) || flushed_ms > 0);
                }
            }
        }
        for _ in 0..400 {
            now += 100;
            for (who, lease) in leases.iter_mut().enumerate() {
                lease.tick(now);
                if let Some(command) = lease.poll(now, now) {
                    let answer = store.run(&command, who, now);
                    lease.answered(command.ticket, answer, now);
                }
            }
        }
        let held: BTreeMap<_, _> = leases.iter().map(|l| (l.node(), l.holds(now))).collect();
        prop_assert_eq!(held.len(), 3, "every process has a name of its own: {:?}", held);
        prop_assert!(held.iter().all(|(node, epoch)| *epoch == store.0.get(*node).map(|r| r.epoch)));
    }
}
