//! Which node a user belongs on, without asking anybody: consistent hashing with virtual nodes.
//!
//! Every node that knows the same members computes the same owners, whatever order it learned of them in. A node has
//! [`POINTS`] points on the ring (more or fewer by its weight). A key is tried at [`PROBES`] places and belongs to the point that follows
//! any of them most closely: with one place the 160 points of a node leave it between 70 and 130 % of its share on a large ring, with five
//! within a few percent (multi-probe consistent hashing, Appleton and O'Reilly 2015). Adding a node only ever moves keys to it.

use std::cmp::Ordering;

use super::hash::{mix, stable};
use crate::limits::{RING_WEIGHT_MAX, RING_WEIGHT_NORMAL};

/// Points of a node of [`RING_WEIGHT_NORMAL`]; a node of twice the weight has twice as many, and gets twice the users.
pub const POINTS: u32 = 160;
/// Places at which a key is tried.
pub const PROBES: u64 = 5;

/// What the hash of a point starts from.
const POINT_SEED: u64 = 0x0070_6f69_6e74;
/// What the hash of a key starts from.
const KEY_SEED: u64 = 0x006b_6579;

/// The members of a ring and their points. Immutable: a change of members makes another ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// Sorted by id.
    members: Vec<Member>,
    /// Sorted by place; where two share a place, by id.
    points: Vec<Point>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    id: Box<str>,
    weight: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    place: u64,
    member: u32,
}

impl Ring {
    /// A ring of these members and their weights. A member of weight 0 owns nothing; of an id that is named twice the greater weight counts.
    pub fn new<S: AsRef<str>>(members: impl IntoIterator<Item = (S, u32)>) -> Self {
        let named =
            members.into_iter().map(|(id, w)| Member { id: id.as_ref().into(), weight: w.min(RING_WEIGHT_MAX) });
        let mut members: Vec<Member> = named.filter(|m| m.weight > 0).collect();
        members.sort_by(|a, b| a.id.cmp(&b.id).then(b.weight.cmp(&a.weight)));
        members.dedup_by(|later, kept| later.id == kept.id);
        let mut points = Vec::new();
        for (index, member) in members.iter().enumerate() {
            let base = stable(POINT_SEED, member.id.as_bytes());
            let places = (0..u64::from(points_of(member.weight))).map(|i| mix(base ^ mix(i + 1)));
            points.extend(places.map(|place| Point { place, member: index as u32 }));
        }
        // Members are sorted by id, so their indices order as their ids do.
        points.sort_unstable_by_key(|p| (p.place, p.member));
        Ring { members, points }
    }

    /// The id of the node that this user belongs on; `None` while the ring is empty.
    pub fn owner(&self, user: &str) -> Option<&str> {
        let key = stable(KEY_SEED, user.as_bytes());
        let probes = (0..PROBES).map(|probe| self.following(if probe == 0 { key } else { mix(key ^ probe) }));
        let nearest = probes.flatten().min_by(|a, b| a.nearer(b))?;
        Some(&self.members[nearest.member as usize].id)
    }

    /// The ids and weights of the members, sorted by id.
    pub fn members(&self) -> impl Iterator<Item = (&str, u32)> {
        self.members.iter().map(|m| (&*m.id, m.weight))
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is a member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A number that two rings share exactly when their members and weights are the same: what nodes compare and operators see.
    pub fn fingerprint(&self) -> u64 {
        self.members.iter().fold(0, |sum, m| mix(sum ^ stable(u64::from(m.weight), m.id.as_bytes())))
    }

    /// The point at or after `place`, round the ring, and how far it is.
    fn following(&self, place: u64) -> Option<Candidate> {
        let index = self.points.partition_point(|p| p.place < place);
        let point = self.points.get(index).or_else(|| self.points.first())?;
        Some(Candidate { distance: point.place.wrapping_sub(place), member: point.member })
    }
}

#[derive(Clone, Copy)]
struct Candidate {
    distance: u64,
    member: u32,
}

impl Candidate {
    fn nearer(&self, other: &Candidate) -> Ordering {
        (self.distance, self.member).cmp(&(other.distance, other.member))
    }
}

fn points_of(weight: u32) -> u32 {
    (POINTS * weight / RING_WEIGHT_NORMAL).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn ring(nodes: usize) -> Ring {
        Ring::new((0..nodes).map(|n| (format!("node-{n}"), RING_WEIGHT_NORMAL)))
    }

    fn users(count: usize) -> impl Iterator<Item = String> {
        (0..count).map(|u| format!("user-{u}"))
    }

    fn shares(ring: &Ring, keys: usize) -> BTreeMap<String, usize> {
        let mut shares: BTreeMap<String, usize> = ring.members().map(|(id, _)| (id.to_owned(), 0)).collect();
        for user in users(keys) {
            *shares.get_mut(ring.owner(&user).unwrap()).unwrap() += 1;
        }
        shares
    }

    #[test]
    fn shares_are_even_within_a_tenth() {
        for nodes in [2, 3, 5, 10, 20] {
            let keys = 10_000 * nodes;
            let shares = shares(&ring(nodes), keys);
            let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
            assert!(*most <= 11_000 && *least >= 9_000, "{nodes} nodes: {least}..{most} of 10000 each");
        }
    }

    #[test]
    fn a_join_moves_its_share_and_only_to_the_one_who_joined() {
        for nodes in [1, 2, 3, 7, 15] {
            let (before, after) = (ring(nodes), ring(nodes + 1));
            let joined = format!("node-{nodes}");
            let (mut moved, keys) = (0, 20_000);
            for user in users(keys) {
                let (was, is) = (before.owner(&user).unwrap(), after.owner(&user).unwrap());
                if was != is {
                    assert_eq!(is, joined, "{user} moved from {was}, which has not changed");
                    moved += 1;
                }
            }
            let share = keys as f64 / (nodes + 1) as f64;
            assert!((moved as f64) < 1.5 * share && moved as f64 > 0.5 * share, "{nodes} nodes: {moved} for {share}");
        }
    }

    #[test]
    fn weight_is_share() {
        let ring = Ring::new([("big", 300), ("small", 100), ("off", 0)]);
        let shares = shares(&ring, 40_000);
        assert_eq!(shares.len(), 2);
        assert!((28_500..31_500).contains(&shares["big"]), "{shares:?}");
    }

    /// As [`super::super::hash`]: another answer here means that nodes of two versions send each other's users away for ever.
    #[test]
    fn owners_never_change_from_version_to_version() {
        let ring = ring(4);
        let owners: Vec<_> = ["alice", "bob", "carol", "dave", "erin", "frank"].map(|u| ring.owner(u).unwrap()).into();
        assert_eq!(owners, ["node-2", "node-2", "node-1", "node-2", "node-1", "node-1"]);
        assert_eq!(ring.fingerprint(), 0x14ac_ed81_af65_8923, "{:#x}", ring.fingerprint());
        assert_eq!(Ring::default().owner("alice"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn order_and_repetition_of_members_do_not_matter(
            mut nodes in proptest::collection::vec(("[a-z]{1,12}", 0u32..2000), 1..12),
            user in "\\PC{1,40}",
        ) {
            let forwards = Ring::new(nodes.iter().map(|(id, w)| (id, *w)));
            nodes.reverse();
            nodes.extend_from_within(..1);
            let backwards = Ring::new(nodes.iter().map(|(id, w)| (id, *w)));
            prop_assert_eq!(&forwards, &backwards);
            prop_assert_eq!(forwards.fingerprint(), backwards.fingerprint());
            prop_assert_eq!(forwards.owner(&user), backwards.owner(&user));
        }

        #[test]
        fn who_stays_keeps_their_users(
            nodes in proptest::collection::btree_map("[a-z]{1,8}", 1u32..300, 2..10),
            leaver in any::<prop::sample::Index>(),
            salt in any::<u32>(),
        ) {
            let leaver = nodes.keys().nth(leaver.index(nodes.len())).unwrap();
            let before = Ring::new(nodes.iter().map(|(id, w)| (id, *w)));
            let after = Ring::new(nodes.iter().filter(|(id, _)| *id != leaver).map(|(id, w)| (id, *w)));
            prop_assert_ne!(before.fingerprint(), after.fingerprint());
            for user in (0..200).map(|u| format!("{salt}-{u}")) {
                let was = before.owner(&user).unwrap();
                if was != leaver {
                    prop_assert_eq!(after.owner(&user), Some(was));
                }
            }
        }
    }
}
