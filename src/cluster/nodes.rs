//! The nodes of the cluster, as their leases say: polled, not tracked.
//!
//! A row counts while the lease of its node lives under the row's epoch. How long a lease lives is reckoned from when the poll was *sent*,
//! on the clock of boottime: so a node that cannot reach Redis any more believes in nobody after one lease.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::hash::{mix, stable};
use crate::limits::RING_WEIGHT_NORMAL;

/// What a node says of itself in its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its shards.
    pub shards: u16,
    /// Its weight on the ring.
    pub weight: u32,
    /// `cluster.advertise`, where it has one.
    pub advertise: Option<Rc<str>>,
    /// Under this lease not all its users have been written to the registry yet.
    pub announcing: bool,
}

/// How the text form says [`About::announcing`].
const ANNOUNCING: &str = "announcing";

impl About {
    /// The text form, as it is written into the lease: `shards weight [advertise] [announcing]`, with the blanks of what is not there.
    pub fn encode(&self) -> String {
        let advertise = self.advertise.as_deref().unwrap_or("");
        let announcing = if self.announcing { ANNOUNCING } else { "" };
        format!("{} {} {advertise} {announcing}", self.shards, self.weight)
    }

    /// Reads the text form. What a newer version may have added after it is ignored; what cannot be read is `None`.
    pub fn decode(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (shards, weight) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let advertise = words.next().filter(|url| !url.is_empty()).map(Rc::from);
        let announcing = words.next() == Some(ANNOUNCING);
        Some(About { shards, weight, advertise, announcing })
    }
}

impl Default for About {
    fn default() -> Self {
        About { shards: 1, weight: RING_WEIGHT_NORMAL, advertise: None, announcing: false }
    }
}

/// One lease, as a poll has read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Polled {
    /// The name of the node.
    pub node: Rc<str>,
    /// Its epoch.
    pub epoch: u64,
    /// The number drawn at the start of the process that holds it.
    pub instance: u32,
    /// How long the lease lives on, on the clock of Redis; 0 or less: it has run out, this long ago.
    pub remaining_ms: i64,
    /// What the node says of itself.
    pub about: About,
}

/// What a poll has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node is there, or is there under another epoch.
    Joined(Rc<str>),
    /// A node is gone.
    Left(Rc<str>),
}

/// The nodes that were there at the last poll.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    nodes: BTreeMap<Rc<str>, Node>,
    /// Nodes and epochs that are over, and their shards.
    dead: BTreeMap<(Rc<str>, u64), u16>,
    /// Nodes whose lease had time left and is gone without a trace: Redis may have forgotten it.
    missing: BTreeMap<Rc<str>, Node>,
}

#[derive(Clone, Debug)]
struct Node {
    epoch: u64,
    instance: u32,
    until_ms: u64,
    about: About,
}

impl Nodes {
    /// Takes a whole poll that was sent at `sent_boot_ms`. Returns who came and who went; what else has changed (weights, URLs) shows in
    /// [`Nodes::members`].
    pub fn polled(&mut self, leases: impl IntoIterator<Item = Polled>, sent_boot_ms: u64) -> Vec<Change> {
        let before = std::mem::take(&mut self.nodes);
        self.dead.clear();
        let mut changes = Vec::new();
        for lease in leases {
            let Ok(remaining_ms @ 1..) = u64::try_from(lease.remaining_ms) else {
                self.dead.insert((lease.node, lease.epoch), lease.about.shards);
                continue;
            };
            if before.get(&lease.node).is_none_or(|node| node.epoch != lease.epoch) {
                changes.push(Change::Joined(lease.node.clone()));
            }
            let until_ms = sent_boot_ms + remaining_ms;
            let node = Node { epoch: lease.epoch, instance: lease.instance, until_ms, about: lease.about };
            self.nodes.insert(lease.node, node);
        }
        for (name, node) in before {
            if !self.nodes.contains_key(&name) {
                changes.push(Change::Left(name.clone()));
                if !self.dead.contains_key(&(name.clone(), node.epoch)) {
                    self.missing.insert(name, node);
                }
            }
        }
        self.missing.retain(|name, node| sent_boot_ms < node.until_ms && !self.nodes.contains_key(name));
        changes
    }

    /// Whether rows of this node and epoch count.
    pub fn is_live(&self, node: &str, epoch: u64, boot_ms: u64) -> bool {
        self.nodes.get(node).is_some_and(|n| n.epoch == epoch && boot_ms < n.until_ms)
    }

    /// The node whose process drew this number at its start, while it lives, or may do so although Redis has forgotten it.
    pub fn of_instance(&self, instance: u32, boot_ms: u64) -> Option<&Rc<str>> {
        let is_it = |(_, n): &(&Rc<str>, &Node)| n.instance == instance && boot_ms < n.until_ms;
        self.nodes.iter().chain(&self.missing).find(is_it).map(|(name, _)| name)
    }

    /// What a living node says of itself.
    pub fn about(&self, node: &str) -> Option<&About> {
        self.nodes.get(node).map(|n| &n.about)
    }

    /// How long the lease of a node lives on at `boot_ms`.
    pub fn lives_ms(&self, node: &str, boot_ms: u64) -> u64 {
        self.nodes.get(node).map_or(0, |n| n.until_ms.saturating_sub(boot_ms))
    }

    /// The living nodes and their epochs, by name.
    pub fn live(&self, boot_ms: u64) -> impl Iterator<Item = (&Rc<str>, u64)> {
        self.nodes.iter().filter(move |(_, n)| boot_ms < n.until_ms).map(|(name, n)| (name, n.epoch))
    }

    /// The nodes that were there at the last poll, by name, and what they say of themselves: what the ring is made of. One whose lease has
    /// run out since leaves with the next poll, so that all shards of all nodes change their rings by what Redis says and not by their own
    /// clocks.
    pub fn members(&self) -> impl Iterator<Item = (&Rc<str>, &About)> {
        self.nodes.iter().map(|(name, n)| (name, &n.about))
    }

    /// Number of nodes that were there at the last poll.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The dead nodes and epochs whose rows `me` is to clean up, and how many shards they had. Every node finds the same one for each, so that two seldom do the same
    /// work; where they do, it is done twice without harm, since deletions compare the epoch.
    pub fn to_reap(&self, me: &str) -> impl Iterator<Item = (&Rc<str>, u64, u16)> {
        let dead = self.dead.iter().map(|((node, epoch), shards)| (node, *epoch, *shards));
        dead.filter(move |(node, epoch, _)| self.reaper(node, *epoch).is_some_and(|reaper| **reaper == *me))
    }

    fn reaper(&self, dead: &str, epoch: u64) -> Option<&Rc<str>> {
        let grave = stable(epoch, dead.as_bytes());
        self.nodes.keys().max_by_key(|node| mix(grave ^ stable(0, node.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(node: &str, epoch: u64, remaining_ms: i64) -> Polled {
        Polled { node: node.into(), epoch, instance: epoch as u32 * 10, remaining_ms, about: About::default() }
    }

    #[test]
    fn a_row_counts_while_its_lease_and_epoch_do() {
        let mut nodes = Nodes::default();
        let changes = nodes.polled([lease("a", 5, 10_000), lease("b", 7, 200), lease("c", 9, -3)], 1_000);
        assert_eq!(changes, [Change::Joined("a".into()), Change::Joined("b".into())]);
        for (node, epoch, boot_ms, live) in [
            ("a", 5, 10_999, true),
            ("a", 5, 11_000, false),
            ("a", 4, 1_000, false),
            ("a", 6, 1_000, false),
            ("b", 7, 1_199, true),
            ("b", 7, 1_200, false),
            ("c", 9, 1_000, false),
            ("d", 1, 1_000, false),
        ] {
            assert_eq!(nodes.is_live(node, epoch, boot_ms), live, "{node} {epoch} at {boot_ms}");
        }
        for (instance, boot_ms, node) in
            [(50, 10_999, Some("a")), (50, 11_000, None), (70, 1_199, Some("b")), (70, 1_200, None), (90, 1_000, None)]
        {
            assert_eq!(nodes.of_instance(instance, boot_ms).map(|node| &**node), node, "{instance} at {boot_ms}");
        }
    }

    #[test]
    fn who_comes_and_goes_is_told_once() {
        let mut nodes = Nodes::default();
        nodes.polled([lease("a", 1, 100), lease("b", 1, 100)], 0);
        assert_eq!(nodes.polled([lease("a", 1, 100), lease("b", 1, 50)], 50), []);
        let changes = nodes.polled([lease("a", 2, 100), lease("b", 1, 0)], 100);
        assert_eq!(changes, [Change::Joined("a".into()), Change::Left("b".into())]);
        assert_eq!(nodes.members().collect::<Vec<_>>(), [(&Rc::from("a"), &About::default())]);
        assert_eq!(nodes.live(100).count(), 1);
    }

    #[test]
    fn who_is_forgotten_may_live_until_its_lease_would_have_ended() {
        let mut nodes = Nodes::default();
        nodes.polled([lease("a", 1, 10_000), lease("b", 2, 10_000), lease("c", 3, 10_000)], 0);
        // One has given its lease back, the others are forgotten; one of these is back under another epoch and instance.
        nodes.polled([lease("a", 1, 0)], 1_000);
        nodes.polled([lease("c", 4, 10_000)], 2_000);
        for (instance, boot_ms, node) in
            [(10, 2_000, None), (20, 9_999, Some("b")), (20, 10_000, None), (30, 2_000, None), (40, 2_000, Some("c"))]
        {
            assert_eq!(nodes.of_instance(instance, boot_ms).map(|node| &**node), node, "{instance} at {boot_ms}");
        }
        assert!(!nodes.is_live("b", 2, 2_000), "its rows do not count");
    }

    #[test]
    fn each_grave_has_one_keeper_and_all_agree() {
        let mut nodes = Nodes::default();
        let living = (0..5).map(|i| lease(&format!("live-{i}"), 1, 100));
        nodes.polled(living.chain((0..50).map(|i| lease(&format!("dead-{i}"), 1, -1))), 0);
        let keepers: Vec<usize> = (0..5).map(|i| nodes.to_reap(&format!("live-{i}")).count()).collect();
        assert_eq!(keepers.iter().sum::<usize>(), 50);
        assert!(keepers.iter().all(|&n| n > 2), "{keepers:?}");
        assert_eq!(nodes.to_reap("stranger").count(), 0);
    }

    #[test]
    fn what_a_node_says_of_itself_round_trips() {
        for advertise in [None, Some("ws://10.0.0.7/ws".into())] {
            for announcing in [false, true] {
                let about = About { shards: 64, weight: 250, advertise: advertise.clone(), announcing };
                assert_eq!(About::decode(&about.encode()), Some(about));
            }
        }
        assert_eq!(About::decode("2 100 ws://a/ws  later-field"), About::decode("2 100 ws://a/ws"));
        for bad in ["", "x", "1", "1 x", "-1 100 "] {
            assert_eq!(About::decode(bad), None, "{bad:?}");
        }
    }
}
