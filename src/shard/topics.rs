//! Rooms and channels: who of this shard is in them, and, for those at home here, which shards have anyone in them.

use std::collections::HashMap;
use std::rc::Rc;

use ahash::RandomState;
use smallvec::SmallVec;

use crate::ids::ShardId;
use crate::protocol::envelope::{Census, Topic};
use crate::protocol::filter::Filter;

type Table<V> = HashMap<Rc<str>, V, RandomState>;

/// The topics that connections of this shard are in.
#[derive(Debug)]
pub(super) struct LocalTopics {
    by_name: [Table<u32>; 2],
    entries: Vec<LocalTopic>,
    free: Vec<u32>,
}

/// A topic with at least one connection of this shard in it.
#[derive(Debug)]
pub(super) struct LocalTopic {
    pub(super) kind: Topic,
    pub(super) name: Rc<str>,
    pub(super) members: Vec<Member>,
    /// Distinct users among them; counted by whoever knows ([`LocalTopics::user_came`]).
    pub(super) users: u32,
}

/// A connection in a topic.
#[derive(Debug)]
pub(super) struct Member {
    /// Its row.
    pub(super) slot: u32,
    /// Where in the row's list of memberships this topic stands.
    pub(super) place: u32,
    /// What it wants of a channel; `None`: everything.
    pub(super) filter: Option<Box<Filter>>,
}

/// What happened to the member list when a member was taken out.
#[derive(Debug, PartialEq)]
pub(super) struct Removed {
    /// The member that now stands where the removed one stood: its row and its place there.
    pub(super) moved: Option<(u32, u32)>,
    /// Nobody of this shard is in the topic any more; its index is free.
    pub(super) emptied: bool,
    /// The filter that the removed one had.
    pub(super) filter: Option<Box<Filter>>,
}

impl LocalTopics {
    pub(super) fn new(hasher: &RandomState) -> Self {
        let table = || HashMap::with_hasher(hasher.clone());
        LocalTopics { by_name: [table(), table()], entries: Vec::new(), free: Vec::new() }
    }

    pub(super) fn find(&self, kind: Topic, name: &str) -> Option<u32> {
        self.by_name[kind as usize].get(name).copied()
    }

    pub(super) fn get(&self, index: u32) -> &LocalTopic {
        &self.entries[index as usize]
    }

    pub(super) fn member(&mut self, index: u32, position: u32) -> &mut Member {
        &mut self.entries[index as usize].members[position as usize]
    }

    /// Adds a member and returns the topic's index and the member's position.
    pub(super) fn add(&mut self, kind: Topic, name: &str, member: Member) -> (u32, u32) {
        let index = match self.find(kind, name) {
            Some(index) => index,
            None => {
                let name: Rc<str> = Rc::from(name);
                let topic = LocalTopic { kind, name: name.clone(), members: Vec::new(), users: 0 };
                let index = match self.free.pop() {
                    Some(index) => {
                        self.entries[index as usize] = topic;
                        index
                    }
                    None => {
                        self.entries.push(topic);
                        (self.entries.len() - 1) as u32
                    }
                };
                self.by_name[kind as usize].insert(name, index);
                index
            }
        };
        let members = &mut self.entries[index as usize].members;
        members.push(member);
        (index, (members.len() - 1) as u32)
    }

    /// The member that was just added is the first connection of its user.
    pub(super) fn user_came(&mut self, index: u32) {
        self.entries[index as usize].users += 1;
    }

    /// The member that was just taken out was the last connection of its user.
    pub(super) fn user_left(&mut self, index: u32) {
        let users = &mut self.entries[index as usize].users;
        *users = users.saturating_sub(1);
    }

    /// Takes a member out. The caller tells the moved member's row its new position.
    pub(super) fn remove(&mut self, index: u32, position: u32) -> Removed {
        let topic = &mut self.entries[index as usize];
        let filter = topic.members.swap_remove(position as usize).filter;
        let moved = topic.members.get(position as usize).map(|m| (m.slot, m.place));
        let emptied = topic.members.is_empty();
        if emptied {
            topic.members = Vec::new();
            self.by_name[topic.kind as usize].remove(&topic.name);
            self.free.push(index);
        }
        Removed { moved, emptied, filter }
    }

    /// Number of topics of a kind.
    pub(super) fn len(&self, kind: Topic) -> usize {
        self.by_name[kind as usize].len()
    }

    /// Number of topics.
    pub(super) fn count(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

/// The topics at home on this shard.
#[derive(Debug)]
pub(super) struct HomeTopics {
    by_name: [Table<HomeTopic>; 2],
}

/// Which shards have anyone in a topic, and how many.
#[derive(Debug, Default)]
pub(super) struct HomeTopic {
    pub(super) interest: SmallVec<[(ShardId, Census); 2]>,
}

impl HomeTopic {
    /// Everyone in it.
    pub(super) fn census(&self) -> Census {
        self.interest.iter().fold(Census::default(), |sum, (_, c)| Census {
            users: sum.users + c.users,
            connections: sum.connections + c.connections,
        })
    }
}

impl HomeTopics {
    pub(super) fn new(hasher: &RandomState) -> Self {
        let table = || HashMap::with_hasher(hasher.clone());
        HomeTopics { by_name: [table(), table()] }
    }

    pub(super) fn find(&self, kind: Topic, name: &str) -> Option<&HomeTopic> {
        self.by_name[kind as usize].get(name)
    }

    /// A connection of `shard` came in; `first` of its user.
    pub(super) fn enter(&mut self, kind: Topic, name: &str, shard: ShardId, first: bool) -> &HomeTopic {
        let table = &mut self.by_name[kind as usize];
        if !table.contains_key(name) {
            table.insert(Rc::from(name), HomeTopic::default());
        }
        let Some(topic) = table.get_mut(name) else { unreachable!("it was just inserted") };
        let at = topic.interest.iter().position(|(s, _)| *s == shard).unwrap_or_else(|| {
            topic.interest.push((shard, Census::default()));
            topic.interest.len() - 1
        });
        let census = &mut topic.interest[at].1;
        census.connections += 1;
        census.users += u32::from(first);
        topic
    }

    /// A connection of `shard` went; `last` of its user. Returns the topic if anyone is left.
    pub(super) fn leave(&mut self, kind: Topic, name: &str, shard: ShardId, last: bool) -> Option<&HomeTopic> {
        let table = &mut self.by_name[kind as usize];
        let topic = table.get_mut(name)?;
        if let Some(at) = topic.interest.iter().position(|(s, _)| *s == shard) {
            let census = &mut topic.interest[at].1;
            census.connections = census.connections.saturating_sub(1);
            census.users = census.users.saturating_sub(u32::from(last));
            if census.connections == 0 {
                topic.interest.swap_remove(at);
            }
        }
        if topic.interest.is_empty() {
            table.remove(name);
        }
        table.get(name)
    }

    /// Number of topics of a kind.
    pub(super) fn len(&self, kind: Topic) -> usize {
        self.by_name[kind as usize].len()
    }

    /// The topics with the most connections, the largest first.
    pub(super) fn largest(&self, kind: Topic, count: usize) -> Vec<(Box<str>, Census)> {
        if count == 0 {
            return Vec::new();
        }
        type Entry<'a> = (&'a Rc<str>, Census);
        let largest_first = |a: &Entry<'_>, b: &Entry<'_>| (b.1.connections, a.0).cmp(&(a.1.connections, b.0));
        let mut all: Vec<_> = self.by_name[kind as usize].iter().map(|(name, topic)| (name, topic.census())).collect();
        if all.len() > count {
            all.select_nth_unstable_by(count, largest_first);
            all.truncate(count);
        }
        all.sort_unstable_by(largest_first);
        all.into_iter().map(|(name, census)| (Box::from(name.as_ref()), census)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn hasher() -> RandomState {
        RandomState::with_seeds(1, 2, 3, 4)
    }

    proptest! {
        /// Rows hold (topic, position), members hold (slot, place): after any history both sides point at each other.
        #[test]
        fn members_agree_with_a_naive_set(steps in proptest::collection::vec((0u32..6, 0u8..4, any::<bool>()), 0..300)) {
            let mut topics = LocalTopics::new(&hasher());
            let mut rows: Vec<Vec<(u32, u32)>> = vec![Vec::new(); 6];
            let mut naive: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
            for (slot, name, enter) in steps {
                let name = format!("r{name}");
                let inside = naive.entry(name.clone()).or_default();
                let row = slot as usize;
                if enter && inside.insert(slot) {
                    let place = rows[row].len() as u32;
                    let at = topics.add(Topic::Room, &name, Member { slot, place, filter: None });
                    rows[row].push(at);
                } else if !enter && inside.remove(&slot) {
                    let index = topics.find(Topic::Room, &name).unwrap();
                    let place = rows[row].iter().position(|(t, _)| *t == index).unwrap();
                    let (_, position) = rows[row].swap_remove(place);
                    if let Some(&(t, p)) = rows[row].get(place) {
                        topics.member(t, p).place = place as u32;
                    }
                    let removed = topics.remove(index, position);
                    if let Some((s, p)) = removed.moved {
                        rows[s as usize][p as usize].1 = position;
                    }
                    prop_assert_eq!(removed.emptied, inside.is_empty());
                }
                naive.retain(|_, inside| !inside.is_empty());
                prop_assert_eq!(topics.len(Topic::Room), naive.len());
                for (name, inside) in &naive {
                    let topic = topics.get(topics.find(Topic::Room, name).unwrap());
                    prop_assert_eq!(&topic.members.iter().map(|m| m.slot).collect::<BTreeSet<_>>(), inside);
                    for (position, m) in topic.members.iter().enumerate() {
                        let (t, p) = rows[m.slot as usize][m.place as usize];
                        prop_assert_eq!((topics.get(t).name.as_ref(), p as usize), (name.as_str(), position));
                    }
                }
            }
        }

        #[test]
        fn interest_counts_what_came_and_went(steps in proptest::collection::vec((0u16..3, any::<bool>(), any::<bool>()), 0..200)) {
            let mut homes = HomeTopics::new(&hasher());
            let mut naive: BTreeMap<u16, Vec<bool>> = BTreeMap::new();
            for (shard, enter, user) in steps {
                let held = naive.entry(shard).or_default();
                if enter {
                    held.push(user);
                    homes.enter(Topic::Channel, "c", ShardId(shard), user);
                } else if let Some(user) = held.pop() {
                    homes.leave(Topic::Channel, "c", ShardId(shard), user);
                }
                let connections: usize = naive.values().map(Vec::len).sum();
                let users = naive.values().flatten().filter(|first| **first).count();
                let census = homes.find(Topic::Channel, "c").map(HomeTopic::census).unwrap_or_default();
                prop_assert_eq!((census.connections as usize, census.users as usize), (connections, users));
                prop_assert_eq!(homes.len(Topic::Channel), usize::from(connections > 0));
            }
        }
    }
}
