use super::*;
use crate::cluster::parcel::{Answer, Origin, Parcel};
use crate::cluster::registry::Row;
use crate::ids::{MessageId, ShardId};
use bytes::Bytes;
use std::sync::Arc;

const ME: Origin = Origin { instance: 1, shard: ShardId(0) };
const TTL_MS: u64 = 10_000;

/// An exchange of node `a`, epoch 1, with nodes `b` and `c` alive.
struct Rig {
    exchange: Exchange,
    now_ms: u64,
    next_token: u64,
}

/// What an exchange asked for, short enough for tables.
#[derive(Clone, Debug, PartialEq)]
enum Did {
    /// To which channel, under which number, and which message.
    Sent(String, u64, u128),
    Asked,
    Here(u128),
    Settled(u64, Outcome),
}
use Did::{Asked, Sent, Settled};
use Outcome::{Known, Unavailable};

impl Rig {
    fn new(mode: Mode) -> Self {
        let mut settings = Settings::new(mode, ME, TTL_MS, 2_000);
        settings.bounds.waiting_per_user_max = 3;
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        let mut rig = Rig { exchange: Exchange::new(settings, hasher), now_ms: 1_000, next_token: 0 };
        let standing = Standing { node: Arc::from("a"), epoch: 1, until_ms: u64::MAX, ends_ms: u64::MAX, memory: 1 };
        rig.exchange.standing(Some(&standing), rig.clock());
        rig.polled(&["a", "b", "c"], &[]);
        rig.exchange.link_up(true, rig.clock());
        rig
    }

    fn clock(&self) -> Clock {
        Clock { mono_ms: self.now_ms, boot_ms: self.now_ms, unix_ms: self.now_ms }
    }

    fn polled(&mut self, live: &[&str], over: &[&str]) {
        let until_ms = Some(self.now_ms + TTL_MS);
        let live = live.iter().map(|node| Polled { node, epoch: 1, until_ms, shards: 2 });
        let over = over.iter().map(|node| Polled { node, epoch: 1, until_ms: None, shards: 2 });
        self.exchange.nodes(live.chain(over), self.now_ms, self.clock());
    }

    /// Sends a message whose id is its token.
    fn send(&mut self, here: Here) -> u64 {
        self.next_token += 1;
        let letter = Letter {
            user: "u".into(),
            message_id: MessageId(u128::from(self.next_token)),
            class: Default::default(),
            key: None,
            tags: None,
            except_user: None,
            frame: Bytes::from_static(b"frame"),
        };
        self.exchange.send(Outgoing { letter, here, token: Some(self.next_token) }, self.clock());
        self.next_token
    }

    fn found(&mut self, nodes: &[&str]) {
        let row = |node: &&str| Row { node: (*node).into(), epoch: 1, shard: ShardId(1) };
        self.exchange.found("u", Some(nodes.iter().map(row).collect()), self.clock());
    }

    fn answer(&mut self, node: &str, answers: &[(u64, Answer)]) {
        let origin = Origin { instance: 99, shard: ShardId(1) };
        self.exchange.answers(&Answers { origin, node, epoch: 1, answers: answers.into() }, self.clock());
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        self.exchange.tick(self.clock());
    }

    /// What it did. Publishes are heard by `heard`, and nobody is here.
    fn did(&mut self, heard: u64) -> Vec<Did> {
        let mut did = Vec::new();
        while let Some(effect) = self.exchange.next_effect() {
            did.push(match effect {
                Effect::Publish { ticket, channel, payload } => {
                    self.exchange.published(ticket, Some(heard), self.clock());
                    let Ok(Parcel::Message(label, _)) = Parcel::decode(&payload) else { panic!("a message") };
                    Sent(channel.to_string(), label.number, label.message_id.0)
                }
                Effect::Find { .. } => Asked,
                Effect::Here { ticket, .. } => {
                    self.exchange.here(ticket, None);
                    continue;
                }
                Effect::Settled { token, outcome } => Settled(token, outcome),
                Effect::Missing { .. } => panic!("nothing was received"),
            });
        }
        did
    }

    fn is_empty(&self) -> bool {
        let Held { routes, .. } = self.exchange.held();
        self.exchange.held() == Held { routes, ..Held::default() }
    }
}

fn sent(node: &str, number: u64, message: u128) -> Did {
    Sent(format!("shard:{node}:1:1"), number, message)
}

#[test]
fn with_a_known_route_a_message_is_one_publish_and_no_look_up() {
    let mut rig = Rig::new(Mode::Registry);
    rig.send(Here::Nobody);
    assert_eq!(rig.did(1), [Asked]);
    rig.found(&["b"]);
    assert_eq!(rig.did(1), [sent("b", 1, 1)]);
    rig.send(Here::Nobody);
    assert_eq!(rig.did(1), [sent("b", 2, 2)]);
    rig.answer("b", &[(1, Answer::Delivered), (2, Answer::Dropped)]);
    assert_eq!(rig.did(1), [Settled(1, Known(Status::Delivered)), Settled(2, Known(Status::Dropped))]);
    assert!(rig.is_empty());
    let Counters { looked_up, sent, acknowledged, cache_hits, .. } = *rig.exchange.counters();
    assert_eq!((looked_up, sent, acknowledged, cache_hits), (1, 2, 2, 1));
}

#[test]
fn offline_is_never_said_from_memory_alone() {
    let mut rig = Rig::new(Mode::Registry);
    rig.send(Here::Nobody);
    rig.found(&[]);
    assert_eq!(rig.did(1), [Asked, Settled(1, Known(Status::Offline))]);
    rig.send(Here::Nobody);
    assert_eq!(rig.did(1), [Asked], "it is remembered, and asked all the same");
    rig.send(Here::Nobody);
    rig.found(&[]);
    assert_eq!(rig.did(1), [Asked, Settled(2, Known(Status::Offline))], "the third came after it was asked");
    rig.found(&["b"]);
    assert_eq!(rig.did(1), [sent("b", 1, 3)]);
    rig.exchange.invalidated("u");
    rig.send(Here::Took(Status::Delivered));
    assert_eq!(rig.did(1), [Settled(4, Known(Status::Delivered))], "at once; and it waits for the answer to the third");
}

#[test]
fn who_has_moved_gets_everything_once_and_in_order() {
    let mut rig = Rig::new(Mode::Registry);
    rig.send(Here::Nobody);
    rig.found(&["b"]);
    rig.send(Here::Nobody);
    assert_eq!(rig.did(1), [Asked, sent("b", 1, 1), sent("b", 2, 2)]);
    rig.answer("b", &[(1, Answer::Moved)]);
    rig.send(Here::Nobody);
    assert_eq!(rig.did(1), [], "the second is not answered yet");
    rig.answer("b", &[(2, Answer::Moved)]);
    assert_eq!(rig.did(1), [Asked]);
    rig.found(&["c"]);
    assert_eq!(rig.did(1), [sent("c", 1, 1), sent("c", 2, 2), sent("c", 3, 3)]);
    rig.answer("c", &[(1, Answer::Delivered), (2, Answer::Delivered), (3, Answer::Delivered)]);
    assert_eq!(rig.did(1), [1, 2, 3].map(|token| Settled(token, Known(Status::Delivered))));
    assert!(rig.is_empty());
}

#[test]
fn a_row_that_is_not_gone_yet_is_waited_for() {
    let mut rig = Rig::new(Mode::Registry);
    rig.send(Here::Nobody);
    rig.found(&["b"]);
    rig.answer("b", &[(1, Answer::Moved)]);
    rig.did(1);
    rig.found(&["b"]);
    assert_eq!(rig.did(1), [], "it would be answered the same again");
    rig.exchange.invalidated("u");
    assert_eq!(rig.did(1), [Asked], "it is gone");
    rig.found(&[]);
    assert_eq!(rig.did(1), [Settled(1, Known(Status::Offline))]);
    assert!(rig.is_empty());
}

#[test]
fn several_places_are_one_answer_the_best() {
    use Answer::{Delivered, Dropped, Moved};
    for (here, b, c, outcome) in [
        (Here::Nobody, Some(Dropped), Some(Delivered), Known(Status::Delivered)),
        (Here::Nobody, Some(Dropped), Some(Dropped), Known(Status::Dropped)),
        (Here::Took(Status::Delivered), Some(Dropped), None, Known(Status::Delivered)),
        (Here::Took(Status::Dropped), Some(Delivered), None, Known(Status::Delivered)),
        (Here::Took(Status::Dropped), Some(Dropped), None, Unavailable(Cause::Timeout)),
        (Here::Nobody, Some(Moved), Some(Dropped), Known(Status::Dropped)),
        (Here::Nobody, None, Some(Delivered), Known(Status::Delivered)),
    ] {
        let mut rig = Rig::new(Mode::Registry);
        rig.send(here);
        rig.found(&["b", "c"]);
        for (node, answer) in [("b", b), ("c", c)] {
            answer.into_iter().for_each(|answer| rig.answer(node, &[(1, answer)]));
        }
        let mut did = rig.did(1);
        for _ in 0..3 {
            rig.wait(TTL_MS);
            rig.found(&["c"]);
            did.extend(rig.did(1));
        }
        let settled: Vec<_> = did.into_iter().filter(|did| matches!(did, Settled(..))).collect();
        assert_eq!(settled, [Settled(1, outcome)], "{here:?} {b:?} {c:?}");
        assert!(rig.is_empty(), "{:?}", rig.exchange.held());
    }
}

#[test]
fn without_the_bus_what_is_not_delivered_here_is_refused_at_once() {
    let mut rig = Rig::new(Mode::Registry);
    rig.send(Here::Nobody);
    rig.send(Here::Nobody);
    rig.found(&["b"]);
    rig.exchange.link_up(false, rig.clock());
    assert_eq!(rig.did(1).len(), 3, "asked, and both are on their way");
    for (here, outcome) in [
        (Here::Nobody, Unavailable(Cause::Link)),
        (Here::Took(Status::Dropped), Unavailable(Cause::Link)),
        (Here::Took(Status::Delivered), Known(Status::Delivered)),
    ] {
        let token = rig.send(here);
        assert_eq!(rig.did(1), [Settled(token, outcome)]);
    }
    // An answer may still come, but is not waited for for long.
    rig.answer("b", &[(1, Answer::Delivered)]);
    assert_eq!(rig.did(1), [Settled(1, Known(Status::Delivered))]);
    rig.wait(LOST_GRACE_MS);
    assert_eq!(rig.did(1), [Settled(2, Unavailable(Cause::Lost))]);
    assert!(rig.is_empty());
    assert_eq!(rig.exchange.counters().unavailable[Cause::Link as usize], 2);
}

#[test]
fn what_nobody_has_heard_is_sent_again_when_somebody_does() {
    let mut rig = Rig::new(Mode::Registry);
    rig.send(Here::Nobody);
    rig.found(&["b"]);
    assert_eq!(rig.did(0), [Asked, sent("b", 1, 1), Asked]);
    rig.found(&["b"]);
    rig.send(Here::Nobody);
    assert_eq!(rig.did(0), [], "it is left alone for a while");
    rig.wait(100);
    assert_eq!(rig.did(0), [Asked]);
    rig.found(&["b"]);
    assert_eq!(rig.did(1), [sent("b", 2, 1)], "one tries");
    rig.answer("b", &[(2, Answer::Delivered)]);
    assert_eq!(rig.did(1), [Settled(1, Known(Status::Delivered)), Asked]);
    rig.found(&["b"]);
    assert_eq!(rig.did(1), [sent("b", 3, 2)]);
    rig.wait(20_000);
    assert_eq!(rig.did(1), [Settled(2, Unavailable(Cause::Timeout))]);
    assert!(rig.is_empty());
}

#[test]
fn what_the_dead_have_not_answered_is_sent_again_and_never_called_offline() {
    let mut rig = Rig::new(Mode::Registry);
    rig.send(Here::Nobody);
    rig.send(Here::Nobody);
    rig.found(&["b"]);
    rig.did(1);
    rig.polled(&["a", "c"], &[]);
    assert_eq!(rig.did(1), [], "what Redis has forgotten may live");
    rig.polled(&["a", "c"], &["b"]);
    assert_eq!(rig.did(1), [Asked]);
    rig.found(&["b", "c"]);
    assert_eq!(rig.did(1), [sent("c", 3, 1), sent("c", 4, 2)], "numbers are not used again");
    rig.answer("c", &[(3, Answer::Delivered), (4, Answer::Moved)]);
    assert_eq!(rig.did(1), [Settled(1, Known(Status::Delivered)), Asked]);
    rig.found(&[]);
    assert_eq!(rig.did(1), [Settled(2, Unavailable(Cause::Died))], "b may have delivered it");
    assert!(rig.is_empty());
}

#[test]
fn after_everything_was_forgotten_nobody_is_offline_until_they_had_time_to_come_back() {
    let mut rig = Rig::new(Mode::Registry);
    rig.wait(500);
    rig.exchange.invalidated_all(rig.clock());
    rig.send(Here::Nobody);
    rig.found(&[]);
    assert_eq!(rig.did(1), [Asked]);
    rig.exchange.invalidated("u");
    rig.found(&["b"]);
    assert_eq!(rig.did(1), [Asked, sent("b", 1, 1)], "there it is again");
    rig.answer("b", &[(1, Answer::Delivered)]);
    rig.did(1);
    // A lease that was there before and is there still: nothing was forgotten.
    for (leases, offline) in [(&["b"][..], false), (&["a", "b"][..], true)] {
        let token = rig.send(Here::Nobody);
        rig.exchange.invalidated("u");
        rig.polled(leases, &[]);
        rig.found(&[]);
        let settled = Settled(token, Known(Status::Offline));
        assert_eq!(rig.did(1).contains(&settled), offline, "{leases:?}");
        rig.wait(100);
        rig.found(&["b"]);
        rig.answer("b", &[(2, Answer::Delivered)]);
        rig.did(1);
    }
    assert!(rig.is_empty());
}

#[test]
fn what_follows_a_user_who_comes_here_waits_for_what_is_still_on_its_way() {
    let mut rig = Rig::new(Mode::Registry);
    rig.send(Here::Nobody);
    rig.found(&["b"]);
    rig.did(1);
    assert!(rig.exchange.defers("u") && !rig.exchange.defers("other"));
    rig.send(Here::Waits);
    rig.answer("b", &[(1, Answer::Moved)]);
    assert_eq!(rig.did(1), [Asked]);
    rig.found(&["a"]);
    let mut here = Vec::new();
    while let Some(effect) = rig.exchange.next_effect() {
        match effect {
            Effect::Here { ticket, letter } => {
                here.push(Did::Here(letter.message_id.0));
                rig.exchange.here(ticket, Some(Status::Delivered));
            }
            Effect::Settled { token, outcome } => here.push(Settled(token, outcome)),
            other => panic!("{other:?}"),
        }
    }
    let delivered = Known(Status::Delivered);
    assert_eq!(here, [Did::Here(1), Did::Here(2), Settled(1, delivered), Settled(2, delivered)]);
    assert!(rig.is_empty() && !rig.exchange.defers("u"));
}

#[test]
fn bounds_are_told_and_leave_nothing_behind() {
    let mut rig = Rig::new(Mode::Registry);
    let tokens: Vec<u64> = (0..4).map(|_| rig.send(Here::Nobody)).collect();
    assert_eq!(rig.did(1), [Asked, Settled(tokens[3], Unavailable(Cause::Full))]);
    rig.exchange.found("u", None, rig.clock());
    assert_eq!(rig.did(1), [1, 2, 3].map(|token| Settled(token, Unavailable(Cause::Refused))));
    rig.exchange.settings.bounds.bytes_max = 7;
    rig.send(Here::Nobody);
    rig.send(Here::Took(Status::Dropped));
    assert_eq!(rig.did(1), [Asked, Settled(6, Unavailable(Cause::Full))]);
    rig.wait(20_000);
    assert_eq!(rig.did(1), [Settled(5, Unavailable(Cause::Timeout))], "the look-up was never answered");
    assert!(rig.exchange.held().messages == 0 && rig.exchange.held().waiting == 0);
}

#[test]
fn in_broadcast_offline_is_what_every_living_node_has_said() {
    use Answer::{Delivered, Dropped, Moved};
    for (heard, answers, over, outcome) in [
        (6, &[("b", Moved), ("c", Moved)][..], &[][..], Some(Known(Status::Offline))),
        (6, &[("b", Moved)], &[], None),
        (6, &[("b", Moved), ("c", Dropped)], &[], Some(Known(Status::Dropped))),
        (6, &[("c", Delivered)], &[], Some(Known(Status::Delivered))),
        (6, &[("d", Delivered)], &[], Some(Known(Status::Delivered))),
        (6, &[("b", Moved)], &["c"], Some(Unavailable(Cause::Died))),
        // A shard did not listen: it may have the user.
        (5, &[("b", Moved), ("c", Moved)], &[], Some(Unavailable(Cause::Unheard))),
        (0, &[], &[], Some(Unavailable(Cause::Unheard))),
        // Somebody listens whom no poll has seen.
        (7, &[("b", Moved), ("c", Moved)], &[], None),
    ] {
        let mut rig = Rig::new(Mode::Broadcast);
        rig.send(Here::Nobody);
        let mut did = rig.did(heard);
        assert_eq!(did.remove(0), Sent(BROADCAST_CHANNEL.into(), 1, 1));
        for (node, answer) in answers {
            rig.answer(node, &[(1, *answer)]);
        }
        if !over.is_empty() {
            rig.polled(&["a", "b"], over);
        }
        did.extend(rig.did(heard));
        let settled: Vec<Did> = outcome.map(|outcome| Settled(1, outcome)).into_iter().collect();
        assert_eq!(did, settled, "{heard} {answers:?} {over:?}");
        if outcome.is_none() {
            rig.wait(20_000);
            assert_eq!(rig.did(1), [Settled(1, Unavailable(Cause::Timeout))]);
        }
        assert!(rig.is_empty());
    }
}

#[test]
fn in_broadcast_a_poll_tells_who_else_listened() {
    for (live, over, outcome) in [
        (&["a", "b", "c"][..], &["d"][..], Known(Status::Offline)),
        (&["a", "b", "c", "d"], &[], Unavailable(Cause::Unheard)),
        (&["a", "b", "c"], &[], Unavailable(Cause::Unheard)),
    ] {
        let mut rig = Rig::new(Mode::Broadcast);
        rig.send(Here::Nobody);
        rig.did(8);
        rig.answer("b", &[(1, Answer::Moved)]);
        rig.answer("c", &[(1, Answer::Moved)]);
        rig.polled(live, over);
        assert_eq!(rig.did(8), [Settled(1, outcome)], "{live:?} {over:?}");
    }
}
