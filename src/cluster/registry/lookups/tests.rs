use super::*;
use crate::ids::ShardId;
use proptest::prelude::*;
use std::collections::BTreeMap;

const BOUNDS: Bounds = Bounds { waiting_max: 100, waiting_per_user_max: 20 };

fn lookups(bounds: Bounds) -> Lookups<u64> {
    Lookups::new(bounds, RandomState::with_seeds(1, 2, 3, 4))
}

fn to(shard: u16) -> Destination {
    Destination { node: "n".into(), epoch: 1, shard: ShardId(shard) }
}

/// A message is its own order here.
fn send(lookups: &mut Lookups<u64>, user: &str, message: u64, route_known: bool) -> Verdict {
    lookups.send(&user.into(), message, message, route_known, false)
}

fn found(lookups: &mut Lookups<u64>, user: &str) -> Vec<u64> {
    lookups.found(user).into_iter().flat_map(|waited| waited.messages).map(|(_, message)| message).collect()
}

#[test]
fn what_follows_waits_behind_the_look_up() {
    let mut lookups = lookups(BOUNDS);
    assert_eq!(send(&mut lookups, "u", 1, false), Verdict::Ask);
    assert_eq!(send(&mut lookups, "u", 2, false), Verdict::Wait);
    assert_eq!(send(&mut lookups, "u", 3, true), Verdict::Wait, "even if the route is known meanwhile");
    assert_eq!(send(&mut lookups, "other", 9, true), Verdict::Send);
    let waited = lookups.found("u").unwrap();
    assert_eq!((waited.messages, waited.asked, waited.holds), ([(1, 1), (2, 2), (3, 3)].into(), 1, 0));
    assert_eq!((lookups.found("u"), lookups.waiting(), lookups.is_empty()), (None, 0, true));
}

#[test]
fn a_stale_route_is_answered_before_the_new_one_is_used() {
    let mut lookups = lookups(BOUNDS);
    for message in 1..=3 {
        assert_eq!(send(&mut lookups, "u", message, true), Verdict::Send);
        assert_eq!(lookups.sent(&"u".into(), &to(0), message + 10, false), 11, "one route");
    }
    assert_eq!(lookups.moved("u", Some((1, 1))), Moved { waits: true, ask: false });
    assert_eq!(send(&mut lookups, "u", 4, true), Verdict::Wait);
    assert!(!lookups.answered("u"), "the second was delivered");
    assert_eq!(lookups.moved("u", Some((3, 3))), Moved { waits: true, ask: true });
    assert_eq!(found(&mut lookups, "u"), [1, 3, 4]);
    assert_eq!(lookups.sent(&"u".into(), &to(0), 14, false), 14, "another route, though to the same place");
}

#[test]
fn what_comes_back_from_several_places_keeps_its_order() {
    let mut lookups = lookups(BOUNDS);
    for message in [1, 2] {
        assert_eq!(send(&mut lookups, "u", message, true), Verdict::Send);
        lookups.sent(&"u".into(), &to(0), message, false);
        lookups.sent(&"u".into(), &to(1), message, false);
    }
    assert_eq!(lookups.moved("u", Some((2, 2))), Moved { waits: true, ask: false });
    assert_eq!(lookups.moved("u", None), Moved { waits: true, ask: false }, "from the other place too");
    assert_eq!(lookups.moved("u", Some((1, 1))), Moved { waits: true, ask: false });
    assert!(lookups.answered("u"));
    assert_eq!(found(&mut lookups, "u"), [1, 2]);
}

#[test]
fn a_route_that_was_forgotten_is_answered_first_too() {
    let mut lookups = lookups(BOUNDS);
    assert_eq!(send(&mut lookups, "u", 1, true), Verdict::Send);
    lookups.sent(&"u".into(), &to(0), 1, false);
    lookups.sent(&"u".into(), &to(1), 1, false);
    assert_eq!(send(&mut lookups, "u", 2, false), Verdict::Wait);
    assert!(!lookups.answered("u") && lookups.answered("u"));
    assert_eq!(found(&mut lookups, "u"), [2]);
}

#[test]
fn what_is_held_is_looked_up_in_its_time_or_when_something_changes() {
    let mut lookups = lookups(BOUNDS);
    let hold = |lookups: &mut Lookups<u64>, user: &str, until_ms| {
        assert_eq!(send(lookups, user, 1, false), Verdict::Ask);
        let waited = lookups.found(user).unwrap();
        lookups.hold(&user.into(), waited.messages, waited.holds, false, until_ms);
    };
    hold(&mut lookups, "later", 200);
    hold(&mut lookups, "sooner", 100);
    hold(&mut lookups, "changed", 150);
    assert_eq!(send(&mut lookups, "sooner", 2, true), Verdict::Wait);
    assert_eq!(
        (lookups.wake("changed"), lookups.wake("changed"), lookups.wake("nobody")),
        (Some("changed".into()), None, None)
    );
    assert_eq!(
        (lookups.wake_next(99), lookups.wake_next(199), lookups.wake_next(199)),
        (None, Some("sooner".into()), None)
    );
    let waited = lookups.found("sooner").unwrap();
    assert_eq!((waited.messages.len(), waited.asked, waited.holds), (2, 2, 1));
    lookups.give_up("later", 1);
    assert_eq!((lookups.wake_next(999), lookups.waiting(), lookups.len()), (None, 1, 1));
    assert_eq!(found(&mut lookups, "changed"), [1]);
    assert!(lookups.is_empty());
}

#[test]
fn bounds_hold_and_give_up_openly() {
    let mut few = lookups(Bounds { waiting_max: 3, waiting_per_user_max: 2 });
    assert_eq!(send(&mut few, "u", 1, false), Verdict::Ask);
    assert_eq!(send(&mut few, "u", 2, false), Verdict::Wait);
    assert_eq!(send(&mut few, "u", 3, false), Verdict::Full, "of one user");
    assert_eq!(send(&mut few, "v", 4, false), Verdict::Ask);
    assert_eq!(send(&mut few, "w", 5, false), Verdict::Full, "of all");
    assert_eq!(few.moved("nobody", Some((6, 6))), Moved { waits: false, ask: false });
    assert_eq!((few.clear_waiting(), few.waiting(), few.is_empty()), (vec![1, 2, 4], 0, true));
}

#[test]
fn a_user_is_homeless_while_something_may_have_to_be_delivered_here() {
    let mut lookups = lookups(BOUNDS);
    let user: Rc<str> = "u".into();
    lookups.sent(&user, &to(0), 1, false);
    assert!(!lookups.is_homeless("u"), "it was delivered here already");
    lookups.sent(&user, &to(0), 2, true);
    assert!(lookups.is_homeless("u"));
    assert_eq!(lookups.send(&user, 3, 3, false, true), Verdict::Wait);
    lookups.came_home("u");
    assert!(lookups.is_homeless("u"), "one waits");
    assert!(!lookups.answered("u") && lookups.answered("u"));
    assert_eq!(found(&mut lookups, "u"), [3]);
    lookups.sent(&user, &to(0), 3, true);
    lookups.came_home("u");
    assert!(!lookups.is_homeless("u"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// One user who moves between two shards while messages are on their way, against routes that lag behind: every message arrives once
    /// or is given up openly, and in order. A shard that has answered `moved` goes on doing so for that route.
    #[test]
    fn nothing_is_lost_and_nothing_overtakes(steps in proptest::collection::vec(prop_oneof![20 => 0u8..6, 1 => 6u8..8], 0..150)) {
        let mut lookups = lookups(BOUNDS);
        // Where the user is, what the sender believes, what is on its way to each shard, and an open look-up.
        let (mut home, mut route, mut asking) = (0usize, None::<usize>, false);
        let mut wires: [VecDeque<(u64, u64, u64)>; 2] = Default::default();
        let (mut numbers, mut said) = ([0u64; 2], [0u64; 2]);
        let (mut next, mut arrived, mut given_up) = (0u64, Vec::new(), BTreeMap::new());
        let settle = std::iter::repeat_n([5u8, 4, 3], 400).flatten();
        for step in steps.into_iter().chain(settle) {
            let mut put = |lookups: &mut Lookups<u64>, shard: usize, message| {
                numbers[shard] += 1;
                let began = lookups.sent(&"u".into(), &to(shard as u16), numbers[shard], false);
                wires[shard].push_back((message, numbers[shard], began));
            };
            match step {
                0..=2 => {
                    next += 1;
                    match send(&mut lookups, "u", next, route.is_some()) {
                        Verdict::Send => put(&mut lookups, route.unwrap(), next),
                        Verdict::Ask => asking = true,
                        Verdict::Wait => {}
                        Verdict::Full => drop(given_up.insert(next, ())),
                    }
                }
                3 if asking => {
                    asking = false;
                    route = Some(home);
                    for message in found(&mut lookups, "u") {
                        put(&mut lookups, home, message);
                    }
                }
                3..=5 => {
                    let shard = usize::from(step == 5);
                    let Some((message, number, began)) = wires[shard].pop_front() else { continue };
                    if shard == home && began > said[shard] {
                        arrived.push(message);
                        asking |= lookups.answered("u");
                    } else {
                        said[shard] = number;
                        route = None;
                        let moved = lookups.moved("u", Some((message, message)));
                        asking |= moved.ask;
                        given_up.extend((!moved.waits).then_some((message, ())));
                    }
                }
                6 => home = 1 - home,
                _ => route = None,
            }
        }
        prop_assert!(lookups.is_empty() && lookups.waiting() == 0, "{lookups:?}");
        let mut all: Vec<u64> = arrived.iter().chain(given_up.keys()).copied().collect();
        all.sort_unstable();
        prop_assert_eq!(all, (1..=next).collect::<Vec<_>>(), "each once");
        prop_assert!(arrived.is_sorted(), "{arrived:?}");
    }
}
