use super::*;
use crate::limits::TICK_MS;
use proptest::prelude::*;

const TIMEOUT: u64 = 2_000;
const TICK: Event = Event::Tick { oldest_unanswered_ms: None };

fn drain(link: &mut Link) -> Vec<Action> {
    std::iter::from_fn(|| link.next_action()).collect()
}

fn after(link: &mut Link, event: Event, now_ms: u64) -> Vec<Action> {
    link.handle(event, now_ms);
    drain(link)
}

/// A link that is up since `now_ms`.
fn up(now_ms: u64) -> Link {
    let mut link = Link::new(TIMEOUT, 7);
    for event in [
        TICK,
        Event::Connected(Side::Commands),
        Event::Connected(Side::Subscriber),
        Event::Subscribed,
        Event::Announced,
    ] {
        link.handle(event, now_ms);
    }
    assert_eq!(link.state(), State::Up);
    drain(&mut link);
    link
}

fn next_probe(link: &mut Link, now_ms: u64) -> Option<u64> {
    after(link, TICK, now_ms).into_iter().find_map(|a| match a {
        Action::Probe { nonce } => Some(nonce),
        _ => None,
    })
}

#[test]
fn it_subscribes_first_announces_second_and_is_up_then() {
    let mut link = Link::new(TIMEOUT, 7);
    let connects = [Action::Connect(Side::Commands), Action::Connect(Side::Subscriber)];
    assert_eq!(after(&mut link, TICK, 0), connects);
    assert_eq!(after(&mut link, TICK, 100), [], "once");
    assert_eq!(after(&mut link, Event::Connected(Side::Commands), 200), []);
    let both = after(&mut link, Event::Connected(Side::Subscriber), 300);
    assert_eq!(both, [Action::Subscribe, Action::Changed(State::Resync)]);
    assert_eq!(after(&mut link, Event::Subscribed, 400), [Action::Announce]);
    assert_eq!(after(&mut link, Event::Announced, 500), [Action::Changed(State::Up)]);
}

#[test]
fn lost_commands_are_replaced_and_announced_again_while_the_subscription_stays() {
    let mut link = up(0);
    let lost = after(&mut link, Event::Ended(Side::Commands), 100);
    assert_eq!(lost, [Action::Drop(Side::Commands, Cause::Ended), Action::Changed(State::Down)]);
    assert!(!link.carries_commands());
    assert_eq!(after(&mut link, TICK, 100 + BACKOFF_MIN_MS), [Action::Connect(Side::Commands)]);
    let back = after(&mut link, Event::Connected(Side::Commands), 200);
    assert_eq!(back, [Action::Announce, Action::Changed(State::Resync)]);
    assert_eq!(after(&mut link, Event::Announced, 300), [Action::Changed(State::Up)]);
}

#[test]
fn a_deaf_subscription_is_found_within_3_s_and_replaced_while_commands_go_on() {
    for deaf_from in [0, 400, 999] {
        let mut link = up(0);
        let mut found = None;
        for now in (0..4_000).step_by(TICK_MS as usize) {
            let actions = after(&mut link, TICK, now);
            for action in actions {
                match action {
                    Action::Probe { nonce } if now < deaf_from => link.handle(Event::Probe { nonce }, now + 1),
                    Action::Probe { .. } => {}
                    Action::Drop(Side::Subscriber, Cause::Deaf) => found = Some(now),
                    other => assert!(found.is_some(), "{other:?} at {now}"),
                }
            }
            if found.is_some() {
                break;
            }
        }
        let found = found.expect("it is found");
        assert!(found - deaf_from < 3_000, "deaf from {deaf_from}, found at {found}");
        assert!(link.carries_commands());
    }
}

#[test]
fn a_probe_of_another_time_is_not_a_sign_of_life() {
    let mut link = up(0);
    let nonce = next_probe(&mut link, 100).expect("a probe");
    link.handle(Event::Probe { nonce: nonce ^ 1 }, 200);
    let actions = after(&mut link, TICK, 100 + PROBE_WITHIN_MS);
    assert!(actions.contains(&Action::Drop(Side::Subscriber, Cause::Deaf)), "{actions:?}");
}

#[test]
fn commands_without_answers_are_hung_at_the_timeout() {
    let mut link = up(0);
    for (waited, hung) in [(None, false), (Some(TIMEOUT - 1), false), (Some(TIMEOUT), true)] {
        let actions = after(&mut link, Event::Tick { oldest_unanswered_ms: waited }, 10);
        assert_eq!(actions.contains(&Action::Drop(Side::Commands, Cause::Hung)), hung, "{waited:?}");
    }
}

#[test]
fn a_connection_that_is_not_made_in_time_is_given_up() {
    let mut link = Link::new(TIMEOUT, 7);
    after(&mut link, TICK, 0);
    let actions = after(&mut link, TICK, TIMEOUT);
    assert_eq!(
        actions,
        [Action::Drop(Side::Commands, Cause::Refused), Action::Drop(Side::Subscriber, Cause::Refused),]
    );
    assert_eq!(after(&mut link, Event::Connected(Side::Commands), TIMEOUT), [], "it is too late for that");
    assert_eq!(link.state(), State::Down);
}

#[test]
fn back_off_doubles_is_jittered_and_starts_again_after_a_steady_time() {
    let waits = |seed| {
        let (mut link, mut now, mut waits) = (Link::new(TIMEOUT, seed), 0, Vec::new());
        for _ in 0..12 {
            let lost = now;
            while !after(&mut link, TICK, now).contains(&Action::Connect(Side::Commands)) {
                now += 1;
            }
            waits.push(now - lost);
            link.handle(Event::Refused(Side::Commands), now);
        }
        waits
    };
    let (one, other) = (waits(1), waits(2));
    assert_ne!(one, other, "jitter");
    for (i, &wait) in one.iter().enumerate().skip(1) {
        let most = (BACKOFF_MIN_MS << (i - 1)).min(BACKOFF_MAX_MS);
        assert!((most / 2..=most).contains(&wait), "attempt {i}: {wait} of {most}");
    }
    let mut link = up(0);
    link.handle(Event::Ended(Side::Commands), STEADY_MS);
    assert!(after(&mut link, TICK, STEADY_MS + BACKOFF_MIN_MS).contains(&Action::Connect(Side::Commands)));
}

#[test]
fn an_outage_is_told_once() {
    let mut link = up(0);
    let mut told = Vec::new();
    for now in (0..60_000).step_by(TICK_MS as usize) {
        for action in after(&mut link, TICK, now) {
            match action {
                Action::Connect(side) => link.handle(Event::Refused(side), now),
                Action::Changed(state) => told.push(state),
                _ => {}
            }
        }
        if now == 100 {
            link.handle(Event::Ended(Side::Commands), now);
            link.handle(Event::Ended(Side::Subscriber), now);
        }
    }
    assert_eq!(told, [State::Down]);
}

fn event() -> impl Strategy<Value = Event> {
    let side = || prop_oneof![Just(Side::Commands), Just(Side::Subscriber)];
    prop_oneof![
        6 => proptest::option::of(0..TIMEOUT * 2).prop_map(|oldest_unanswered_ms| Event::Tick { oldest_unanswered_ms }),
        6 => side().prop_map(Event::Connected),
        1 => side().prop_map(Event::Refused),
        1 => side().prop_map(Event::Ended),
        2 => Just(Event::Subscribed),
        2 => Just(Event::Announced),
        1 => any::<u64>().prop_map(|nonce| Event::Probe { nonce }),
    ]
}

proptest! {
    /// Whatever happens in whatever order: connections are made one at a time, states are told truly, and what heals comes up.
    #[test]
    fn it_comes_up_again_after_anything(
        events in proptest::collection::vec((event(), 0u64..3_000), 0..200),
        seed in any::<u64>(),
    ) {
        let (mut link, mut now, mut told) = (Link::new(TIMEOUT, seed), 0, State::Down);
        let mut open = [false; 2];
        for (event, wait) in events {
            now += wait;
            for action in after(&mut link, event, now) {
                match action {
                    Action::Connect(side) => {
                        prop_assert!(!open[side as usize], "a second connection of {:?}", side);
                        open[side as usize] = true;
                    }
                    Action::Drop(side, _) => prop_assert!(std::mem::replace(&mut open[side as usize], false)),
                    Action::Changed(state) => {
                        prop_assert_ne!(state, told);
                        told = state;
                    }
                    Action::Subscribe | Action::Announce | Action::Probe { .. } => {}
                }
            }
            prop_assert_eq!(link.state(), told);
        }
        // A healthy Redis: everything asked for is done. What was asked for before may still come to an end, or be lost and asked again.
        let mut todo = vec![Action::Subscribe, Action::Announce];
        for side in [Side::Commands, Side::Subscriber] {
            if open[side as usize] {
                todo.push(Action::Connect(side));
            }
        }
        for _ in 0..200 {
            now += TICK_MS;
            todo.extend(after(&mut link, TICK, now));
            for action in std::mem::take(&mut todo) {
                let event = match action {
                    Action::Connect(side) => Event::Connected(side),
                    Action::Subscribe => Event::Subscribed,
                    Action::Announce => Event::Announced,
                    Action::Probe { nonce } => Event::Probe { nonce },
                    Action::Drop(..) | Action::Changed(_) => continue,
                };
                todo.extend(after(&mut link, event, now));
            }
        }
        prop_assert_eq!(link.state(), State::Up);
    }
}
