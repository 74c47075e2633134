//! Who is told to connect to another node, with `cluster.routing = "hash"`: one for each shard, for the users who are connected here.
//!
//! The [ring](Ring) says on which node a user belongs. Who comes to the wrong node is told at once; when the ring changes, those who are here
//! are looked at in turn, and told if they must move. So that a node that restarts does not send its users back and forth, the ring must be
//! at rest for a while first; so that they do not all come at once, they are told over a while (`drain.spread`, as when a node drains), no
//! more than [`TOLD_PER_S_MAX`] in a second, and each is given a time of its own.
//!
//! Nobody is told twice within [`TOLD_FOR_MS`], and nobody who comes with the mark of one who was told: where a client does not follow, or two
//! nodes disagree, it is served where it is, and its messages are forwarded.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use ahash::RandomState;

use super::ring::Ring;
use crate::limits::{MOVING_TOLD_MAX, RING_WEIGHT_MAX};

/// How long the ring must be at rest before those who are here are looked at.
pub const REST_MS: u64 = 5_000;
/// How many are told within a second, at the most.
pub const TOLD_PER_S_MAX: u64 = 1_000;
/// How long it is remembered that somebody was told.
pub const TOLD_FOR_MS: u64 = 60_000;
/// The time that one who is told is given: between these.
pub const AFTER_MS: std::ops::RangeInclusive<u64> = 200..=2_000;

/// One node of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its name.
    pub node: &'a str,
    /// Its weight.
    pub weight: u32,
    /// `cluster.advertise`, where it has one.
    pub advertise: Option<&'a str>,
}

/// What one is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tell {
    /// Where to connect; with the mark of one who was told.
    pub url: String,
    /// After how long.
    pub after_ms: u64,
}

/// Where users belong, and who was told.
#[derive(Debug)]
pub struct Moving {
    me: Rc<str>,
    ring: Ring,
    advertised: BTreeMap<Box<str>, Box<str>>,
    sweep: Option<Sweep>,
    told: HashMap<u64, u64, RandomState>,
    told_in_order: VecDeque<(u64, u64)>,
    random: fastrand::Rng,
}

/// A look at everybody who is here.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    from_ms: u64,
    next: usize,
    told: u64,
}

impl Moving {
    /// The ring is empty: everybody is served here.
    pub fn new(seed: u64, hasher: RandomState) -> Self {
        Moving {
            me: Rc::from(""),
            ring: Ring::default(),
            advertised: BTreeMap::new(),
            sweep: None,
            told: HashMap::with_hasher(hasher),
            told_in_order: VecDeque::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// The members of the ring, `me` among them if this node is one.
    pub fn set_members<'a>(&mut self, me: &str, members: impl IntoIterator<Item = Member<'a>>, now_ms: u64) {
        let mut members: Vec<Member<'a>> = members.into_iter().collect();
        members.sort_unstable_by_key(|m| m.node);
        // This is asked with every poll, and nearly always nothing has changed.
        let listed = members.iter().filter(|m| m.weight > 0).map(|m| (m.node, m.weight.min(RING_WEIGHT_MAX)));
        let known = |m: &Member<'_>| self.advertised.get(m.node).map(|url| &**url) == m.advertise;
        // A node that says later where it is to be found can have its users then.
        if *me != *self.me || !listed.eq(self.ring.members()) || !members.iter().all(known) {
            self.ring = Ring::new(members.iter().map(|m| (m.node, m.weight)));
            self.advertised = members.iter().filter_map(|m| Some((m.node.into(), m.advertise?.into()))).collect();
            self.me = me.into();
            // Not all nodes have seen it, nor begin, at the same time.
            let from_ms = now_ms + REST_MS + self.random.u64(..=REST_MS / 5);
            self.sweep = Some(Sweep { from_ms, next: 0, told: 0 });
        }
    }

    /// The ring cannot be relied on now: nobody who is here is told to go before it has been at rest again.
    pub fn hold(&mut self, now_ms: u64) {
        if let Some(sweep) = &mut self.sweep {
            *sweep = Sweep { from_ms: now_ms + REST_MS, next: 0, told: 0 };
        }
    }

    /// The ring.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The node that a user belongs on, and its URL where it has one.
    pub fn route(&self, user: &str) -> Option<(&str, Option<&str>)> {
        let node = self.ring.owner(user)?;
        Some((node, self.advertised.get(node).map(|url| &**url)))
    }

    /// A user has connected here. `marked`: with the mark of one who was told.
    pub fn arrived(&mut self, user: &str, marked: bool, now_ms: u64) -> Option<Tell> {
        if marked {
            // Whoever sent them sees another ring, or this node will in a moment: they are not sent on, nor back, before that is settled.
            if self.elsewhere(user).is_some() {
                self.remember(user, now_ms);
            }
            return None;
        }
        self.look_at(user, now_ms)
    }

    /// The next of the `len` places at which the shard has its users, all of which are looked at within `spread_ms`: look at who is there,
    /// with [`Moving::look_at`], and ask again. `None`: there is nobody to be looked at now.
    pub fn next_place(&mut self, len: usize, spread_ms: u64, now_ms: u64) -> Option<usize> {
        let sweep = self.sweep.as_mut()?;
        let elapsed_ms = now_ms.checked_sub(sweep.from_ms)?;
        if sweep.next >= len {
            self.sweep = None;
            return None;
        }
        let due = (len as u64).saturating_mul(elapsed_ms + 1).div_ceil(spread_ms.max(1));
        let tells = TOLD_PER_S_MAX * (elapsed_ms + 1).div_ceil(1_000);
        if sweep.next as u64 >= due || sweep.told >= tells {
            return None;
        }
        sweep.next += 1;
        Some(sweep.next - 1)
    }

    /// Where a user is to connect who cannot stay here, with the mark of one who was told; `None`: here, or where is not known.
    pub fn elsewhere(&self, user: &str) -> Option<String> {
        let node = self.ring.owner(user).filter(|node| **node != *self.me)?;
        let url = self.advertised.get(node)?;
        let mark = if url.contains('?') { "&moved=1" } else { "?moved=1" };
        Some(format!("{url}{mark}"))
    }

    /// Whether a user who is here is to be told to go, and what.
    pub fn look_at(&mut self, user: &str, now_ms: u64) -> Option<Tell> {
        let url = self.elsewhere(user)?;
        if !self.remember(user, now_ms) {
            return None;
        }
        if let Some(sweep) = &mut self.sweep {
            sweep.told += 1;
        }
        Some(Tell { url, after_ms: self.random.u64(AFTER_MS) })
    }

    /// Remembers that a user was told; false: that is known, or too many were told to remember one more. Then this one stays.
    fn remember(&mut self, user: &str, now_ms: u64) -> bool {
        self.forget_told(now_ms);
        let key = self.told.hasher().hash_one(user);
        if self.told.len() >= MOVING_TOLD_MAX || self.told.contains_key(&key) {
            return false;
        }
        self.told.insert(key, now_ms);
        self.told_in_order.push_back((key, now_ms));
        true
    }

    fn forget_told(&mut self, now_ms: u64) {
        while self.told_in_order.front().is_some_and(|(_, told_ms)| now_ms >= told_ms + TOLD_FOR_MS) {
            if let Some((key, _)) = self.told_in_order.pop_front() {
                self.told.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SPREAD_MS: u64 = 10_000;

    fn moving(me: &str, nodes: &[&str]) -> Moving {
        let mut moving = Moving::new(1, RandomState::with_seeds(1, 2, 3, 4));
        set(&mut moving, me, nodes, 0);
        moving
    }

    fn set(moving: &mut Moving, me: &str, nodes: &[&str], now_ms: u64) {
        let urls: Vec<String> = nodes.iter().map(|node| format!("ws://{node}/ws")).collect();
        let members = nodes.iter().zip(&urls).map(|(node, url)| Member {
            node,
            weight: 100,
            advertise: (*node != "mute").then_some(url),
        });
        moving.set_members(me, members, now_ms);
    }

    fn of<'a>(moving: &Moving, node: &str, users: &'a [String]) -> Vec<&'a str> {
        users.iter().map(String::as_str).filter(|user| moving.ring().owner(user) == Some(node)).collect()
    }

    fn users(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("user-{n}")).collect()
    }

    #[test]
    fn who_comes_to_the_wrong_node_is_told_once_and_served_where_it_must_be() {
        let mut moving = moving("a", &["a", "b", "mute"]);
        let users = users(100);
        let (here, there, mute) =
            (of(&moving, "a", &users)[0], of(&moving, "b", &users), of(&moving, "mute", &users)[0]);
        assert_eq!((moving.arrived(here, false, 0), moving.arrived(mute, false, 0)), (None, None));
        assert_eq!(moving.arrived(there[2], true, 0), None, "it was told by another node");
        assert_eq!(moving.look_at(there[2], 10_000), None, "and is not sent back by a ring that both will see soon");
        assert!(moving.look_at(there[2], TOLD_FOR_MS).is_some());
        let tell = moving.arrived(there[0], false, 0).unwrap();
        assert_eq!(tell.url, "ws://b/ws?moved=1");
        assert!(AFTER_MS.contains(&tell.after_ms));
        assert_eq!(moving.arrived(there[0], false, TOLD_FOR_MS - 1), None, "it came back all the same");
        assert!(moving.arrived(there[0], false, TOLD_FOR_MS).is_some());
        assert_eq!(moving.arrived(here, true, 0), None);
        assert_eq!(moving.told.len(), 2, "who belongs here need not be remembered");
        assert_eq!(moving.route(there[1]), Some(("b", Some("ws://b/ws"))));
        assert_eq!(moving.route(mute), Some(("mute", None)));
    }

    #[test]
    fn a_ring_that_changes_moves_those_who_must_and_nobody_else_and_not_all_at_once() {
        let mut moving = moving("a", &["a"]);
        let users = users(5_000);
        set(&mut moving, "a", &["a", "b"], 1_000);
        let expected: BTreeSet<&str> = of(&moving, "b", &users).into_iter().collect();
        let (mut told, mut looked_at) = (BTreeSet::new(), 0);
        let mut last_second = VecDeque::new();
        let start_ms = 1_000 + REST_MS;
        for now_ms in (0..start_ms + 2 * SPREAD_MS).step_by(100) {
            while let Some(place) = moving.next_place(users.len(), SPREAD_MS, now_ms) {
                assert!(now_ms >= start_ms, "the ring is at rest");
                looked_at += 1;
                if moving.look_at(&users[place], now_ms).is_some() {
                    assert!(told.insert(users[place].as_str()));
                    last_second.push_back(now_ms);
                }
            }
            while last_second.front().is_some_and(|at_ms| at_ms + 1_000 <= now_ms) {
                last_second.pop_front();
            }
            assert!(last_second.len() <= 400, "{} within a second", last_second.len());
        }
        assert_eq!((told, looked_at), (expected, users.len()));
        assert_eq!(moving.next_place(users.len(), SPREAD_MS, u64::MAX / 2), None, "once");
    }

    #[test]
    fn a_poll_that_says_the_same_changes_nothing() {
        let mut moving = moving("a", &["a", "b"]);
        for now_ms in (0..REST_MS + REST_MS / 5).step_by(100) {
            set(&mut moving, "a", &["b", "a"], now_ms);
        }
        assert_eq!(moving.next_place(100, SPREAD_MS, REST_MS + REST_MS / 5), Some(0));
        let heavy = |node| Member { node, weight: 5 * RING_WEIGHT_MAX, advertise: Some("ws://x/ws") };
        moving.set_members("a", [heavy("a"), heavy("b")], 10_000);
        for now_ms in (10_000..10_000 + 2 * REST_MS).step_by(1_000) {
            moving.set_members("a", [heavy("a"), heavy("b")], now_ms);
        }
        assert_eq!(moving.next_place(100, SPREAD_MS, 10_000 + 2 * REST_MS), Some(0), "whatever weight it says");
    }

    #[test]
    fn a_node_that_restarts_keeps_its_users() {
        let mut moving = moving("a", &["a", "b"]);
        set(&mut moving, "a", &["a"], 20_000);
        set(&mut moving, "a", &["a", "b"], 20_000 + REST_MS - 1);
        assert_eq!(
            moving.next_place(100, SPREAD_MS, 20_000 + REST_MS),
            None,
            "the ring as it was for a moment moves nobody"
        );
    }

    #[test]
    fn while_the_ring_cannot_be_relied_on_nobody_goes_and_what_was_put_off_does_not_come_at_once() {
        let mut moving = moving("a", &["a", "b"]);
        for now_ms in (0..60_000).step_by(100) {
            moving.hold(now_ms);
            assert_eq!(moving.next_place(5_000, SPREAD_MS, now_ms), None);
        }
        let start_ms = 59_900 + REST_MS;
        assert_eq!(moving.next_place(5_000, SPREAD_MS, start_ms - 1), None);
        let first = std::iter::from_fn(|| moving.next_place(5_000, SPREAD_MS, start_ms)).count();
        assert_eq!(first, 1, "a ten-thousandth of the time, as many of the users");
    }

    #[test]
    fn the_pace_holds_however_many_there_are_and_memory_is_bounded() {
        let mut moving = moving("nobody", &["a"]);
        let (mut told, start_ms) = (0, REST_MS + REST_MS / 5);
        for second in 0..200 {
            while let Some(place) = moving.next_place(1_000_000, SPREAD_MS, start_ms + second * 1_000) {
                told += u64::from(moving.look_at(&format!("u{place}"), start_ms + second * 1_000).is_some());
            }
            assert!(told <= TOLD_PER_S_MAX * (second + 3), "{told} in second {second}");
            assert!(moving.told.len() <= MOVING_TOLD_MAX && moving.told_in_order.len() <= MOVING_TOLD_MAX);
        }
    }
}
