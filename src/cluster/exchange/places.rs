//! Which destinations can be sent to: their nodes' leases, as polled, and whether anybody has heard what was sent there last.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use ahash::RandomState;

use super::Polled;
use crate::cluster::delivery::Destination;
use crate::limits::EXCHANGE_STRANGERS_MAX;

/// How long a destination that nobody listens at is left alone at first; every time after that twice as long.
const DEAF_MIN_MS: u64 = 100;
/// And at the most.
const DEAF_MAX_MS: u64 = 1_600;
/// How long after its pause it is remembered, if nothing is sent there. Longer than flows are held.
const DEAF_KEPT_MS: u64 = 2_000;

/// What is known of the nodes of the cluster, by their leases.
#[derive(Debug)]
pub(super) struct Places {
    nodes: BTreeMap<Rc<str>, Node>,
    /// Leases that are over, and not cleaned up yet, and their shards.
    over: BTreeMap<(Rc<str>, u64), u16>,
    /// Nodes and epochs that rows name and no poll has; when a row first did (boottime), and whether a poll after that did not either.
    strangers: BTreeMap<(Rc<str>, u64), Stranger>,
    deaf: HashMap<Destination, Deaf, RandomState>,
}

#[derive(Debug)]
struct Node {
    epoch: u64,
    until_ms: u64,
    shards: u16,
}

#[derive(Clone, Copy, Debug)]
struct Stranger {
    since_ms: u64,
    ghost: bool,
}

#[derive(Clone, Copy, Debug)]
struct Deaf {
    until_ms: u64,
    pause_ms: u64,
    /// Something was sent there since.
    tried: bool,
}

/// Whether rows of a node and epoch count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// They do; or the node is so new that no poll could have seen it.
    Lives,
    /// Its lease has run out since the last poll, and no poll has said so: perhaps it lives.
    Unsure,
    /// They do not.
    Over,
}

impl Places {
    pub(super) fn new(hasher: RandomState) -> Self {
        Places {
            nodes: BTreeMap::new(),
            over: BTreeMap::new(),
            strangers: BTreeMap::new(),
            deaf: HashMap::with_hasher(hasher),
        }
    }

    /// Takes a whole poll.
    pub(super) fn polled<'a>(&mut self, leases: impl IntoIterator<Item = Polled<'a>>, asked_boot_ms: u64) {
        self.nodes.clear();
        self.over.clear();
        for Polled { node, epoch, until_ms, shards } in leases {
            match until_ms {
                Some(until_ms) => drop(self.nodes.insert(node.into(), Node { epoch, until_ms, shards })),
                None => drop(self.over.insert((node.into(), epoch), shards)),
            }
        }
        let (nodes, over) = (&self.nodes, &self.over);
        self.strangers.retain(|(node, epoch), stranger| {
            stranger.ghost = stranger.since_ms <= asked_boot_ms;
            !over.contains_key(&(node.clone(), *epoch)) && nodes.get(node).is_none_or(|n| n.epoch < *epoch)
        });
        self.deaf.retain(|to, _| !has_ended(nodes, over, &to.node, to.epoch));
    }

    /// Whether rows of this node and epoch count.
    pub(super) fn life(&mut self, node: &Rc<str>, epoch: u64, boot_ms: u64) -> Life {
        match self.nodes.get(node) {
            Some(n) if n.epoch == epoch && boot_ms < n.until_ms => return Life::Lives,
            Some(n) if n.epoch == epoch => return Life::Unsure,
            Some(n) if n.epoch > epoch => return Life::Over,
            Some(_) | None => {}
        }
        let key = (node.clone(), epoch);
        if self.over.contains_key(&key) {
            return Life::Over;
        }
        if self.strangers.len() >= EXCHANGE_STRANGERS_MAX && !self.strangers.contains_key(&key) {
            self.strangers.clear();
        }
        let stranger = self.strangers.entry(key).or_insert(Stranger { since_ms: boot_ms, ghost: false });
        if stranger.ghost { Life::Over } else { Life::Lives }
    }

    /// Whether a poll has said that this epoch of a node is no more. What a poll does not name at all may have been forgotten by Redis.
    pub(super) fn has_ended(&self, node: &Rc<str>, epoch: u64) -> bool {
        has_ended(&self.nodes, &self.over, node, epoch)
    }

    /// Whether this node has a living lease under this epoch.
    pub(super) fn is_live(&self, node: &str, epoch: u64, boot_ms: u64) -> bool {
        self.nodes.get(node).is_some_and(|n| n.epoch == epoch && boot_ms < n.until_ms)
    }

    /// The nodes with living leases, and their epochs.
    pub(super) fn live(&self, boot_ms: u64) -> impl Iterator<Item = (&Rc<str>, u64)> {
        self.nodes.iter().filter(move |(_, n)| boot_ms < n.until_ms).map(|(node, n)| (node, n.epoch))
    }

    /// Their shards.
    pub(super) fn shards(&self, boot_ms: u64) -> u64 {
        self.nodes.values().filter(|n| boot_ms < n.until_ms).map(|n| u64::from(n.shards)).sum()
    }

    /// The shards of nodes whose leases are over: they may listen still, and deliver nothing.
    pub(super) fn shards_over(&self) -> u64 {
        self.over.values().map(|shards| u64::from(*shards)).sum()
    }

    /// Whether this destination is to be left alone. `if_tried`: unless one message is on its way to try it.
    pub(super) fn is_deaf(&self, to: &Destination, if_tried: bool, now_ms: u64) -> bool {
        self.deaf.get(to).is_some_and(|deaf| now_ms < deaf.until_ms && !(if_tried && deaf.tried))
    }

    /// Something is sent there: where nobody listened before, what follows waits for how it goes.
    pub(super) fn tried(&mut self, to: &Destination, now_ms: u64) {
        if !self.deaf.is_empty()
            && let Some(deaf) = self.deaf.get_mut(to)
        {
            deaf.tried = true;
            deaf.until_ms = now_ms + deaf.pause_ms;
        }
    }

    /// Nobody has heard what was published there.
    pub(super) fn unheard(&mut self, to: &Destination, now_ms: u64) {
        let known = self.deaf.get(to).map(|deaf| (deaf.pause_ms * 2).min(DEAF_MAX_MS));
        let pause_ms = known.unwrap_or(DEAF_MIN_MS);
        self.deaf.insert(to.clone(), Deaf { until_ms: now_ms + pause_ms, pause_ms, tried: false });
    }

    /// Somebody has.
    pub(super) fn heard(&mut self, to: &Destination) {
        if !self.deaf.is_empty() {
            self.deaf.remove(to);
        }
    }

    /// The bus was away: whoever did not listen then may do so now.
    pub(super) fn forget_deaf(&mut self) {
        self.deaf.clear();
    }

    /// Forgets destinations that nobody has tried for a while.
    pub(super) fn tick(&mut self, now_ms: u64) {
        self.deaf.retain(|_, deaf| now_ms < deaf.until_ms + DEAF_KEPT_MS);
    }
}

fn has_ended(
    nodes: &BTreeMap<Rc<str>, Node>,
    over: &BTreeMap<(Rc<str>, u64), u16>,
    node: &Rc<str>,
    epoch: u64,
) -> bool {
    nodes.get(node).is_some_and(|n| n.epoch > epoch) || over.contains_key(&(node.clone(), epoch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;

    fn places() -> Places {
        Places::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    fn lease(node: &str, epoch: u64, until_ms: Option<u64>) -> Polled<'_> {
        Polled { node, epoch, until_ms, shards: 2 }
    }

    #[test]
    fn a_row_counts_by_what_the_polls_have_said_of_its_epoch() {
        let mut places = places();
        places.polled([lease("a", 5, Some(9_000)), lease("a", 4, None), lease("b", 7, None)], 1_000);
        for (node, epoch, boot_ms, life) in [
            ("a", 5, 8_999, Life::Lives),
            ("a", 5, 9_000, Life::Unsure),
            ("a", 4, 1_000, Life::Over),
            ("a", 3, 1_000, Life::Over),
            ("a", 6, 1_500, Life::Lives),
            ("b", 7, 1_000, Life::Over),
            ("b", 8, 1_500, Life::Lives),
            ("new", 1, 1_500, Life::Lives),
        ] {
            assert_eq!(places.life(&node.into(), epoch, boot_ms), life, "{node} {epoch} at {boot_ms}");
        }
        // A poll that was sent before the row was read says nothing about it; one that was sent later does.
        places.polled([lease("a", 5, Some(9_000))], 1_400);
        assert_eq!(places.life(&"new".into(), 1, 2_000), Life::Lives);
        places.polled([lease("a", 5, Some(9_000)), lease("b", 8, Some(9_000))], 2_400);
        assert_eq!(places.life(&"new".into(), 1, 2_500), Life::Over);
        assert_eq!(places.life(&"b".into(), 8, 2_500), Life::Lives);
        places.polled([lease("new", 1, Some(9_000))], 3_400);
        assert_eq!(places.life(&"new".into(), 1, 3_500), Life::Lives, "it was late");
        assert!(!places.has_ended(&"a".into(), 5), "forgotten is not over");
        assert!(places.has_ended(&"new".into(), 0) && !places.has_ended(&"new".into(), 1));
    }

    #[test]
    fn who_does_not_listen_is_tried_by_one_message_after_each_pause() {
        let mut places = places();
        let to = Destination { node: "a".into(), epoch: 1, shard: ShardId(0) };
        assert!(!places.is_deaf(&to, false, 0));
        places.unheard(&to, 1_000);
        assert!(places.is_deaf(&to, true, 1_099) && !places.is_deaf(&to, false, 1_100));
        places.tried(&to, 1_100);
        assert!(places.is_deaf(&to, false, 1_100), "one is enough");
        assert!(!places.is_deaf(&to, true, 1_100), "but for what need not come in order");
        places.unheard(&to, 1_110);
        assert!(places.is_deaf(&to, true, 1_309) && !places.is_deaf(&to, false, 1_310));
        places.heard(&to);
        assert!(!places.is_deaf(&to, false, 1_110));
        places.unheard(&to, 2_000);
        places.tick(2_100 + DEAF_KEPT_MS);
        places.tried(&to, 9_000);
        assert!(!places.is_deaf(&to, false, 9_000), "that was long ago");
    }

    #[test]
    fn strangers_are_bounded() {
        let mut places = places();
        for n in 0..EXCHANGE_STRANGERS_MAX as u64 * 2 {
            assert_eq!(places.life(&format!("n{n}").into(), 1, 0), Life::Lives);
            assert!(places.strangers.len() <= EXCHANGE_STRANGERS_MAX);
        }
    }
}
