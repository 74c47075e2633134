//! Which connections a user has on this shard: all of them, since the shard is the user's home.

use std::collections::HashMap;
use std::rc::Rc;

use ahash::RandomState;
use smallvec::SmallVec;

/// The users of one shard.
#[derive(Debug)]
pub(super) struct Users {
    by_name: HashMap<Rc<str>, u32, RandomState>,
    entries: Vec<User>,
    free: Vec<u32>,
}

/// A user with at least one connection.
#[derive(Debug)]
pub(super) struct User {
    pub(super) name: Rc<str>,
    /// Rows of the user's connections, oldest first.
    pub(super) connections: SmallVec<[u32; 2]>,
}

impl Users {
    pub(super) fn new(hasher: RandomState) -> Self {
        Users { by_name: HashMap::with_hasher(hasher), entries: Vec::new(), free: Vec::new() }
    }

    /// Adds a connection and returns the user's index.
    pub(super) fn add(&mut self, name: &str, slot: u32) -> u32 {
        if let Some(&index) = self.by_name.get(name) {
            self.entries[index as usize].connections.push(slot);
            return index;
        }
        let name: Rc<str> = Rc::from(name);
        let user = User { name: name.clone(), connections: SmallVec::from_slice(&[slot]) };
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = user;
                index
            }
            None => {
                self.entries.push(user);
                (self.entries.len() - 1) as u32
            }
        };
        self.by_name.insert(name, index);
        index
    }

    /// Removes a connection; the user is forgotten with the last one. Returns whether it was the last.
    pub(super) fn remove(&mut self, index: u32, slot: u32) -> bool {
        let user = &mut self.entries[index as usize];
        user.connections.retain(|s| *s != slot);
        if !user.connections.is_empty() {
            return false;
        }
        let name = std::mem::replace(&mut user.name, Rc::from(""));
        self.by_name.remove(&name);
        self.free.push(index);
        true
    }

    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, index: u32) -> &User {
        &self.entries[index as usize]
    }

    /// Places of users, empty ones included.
    pub(super) fn places(&self) -> usize {
        self.entries.len()
    }

    /// The user at a place below [`places`](Users::places), if there is one.
    pub(super) fn at(&self, place: usize) -> Option<&User> {
        self.entries.get(place).filter(|user| !user.connections.is_empty())
    }

    /// Number of users.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn agrees_with_a_naive_map(steps in proptest::collection::vec((0u8..6, 0u32..8, any::<bool>()), 0..200)) {
            let mut users = Users::new(RandomState::with_seeds(1, 2, 3, 4));
            let mut naive: BTreeMap<String, Vec<u32>> = BTreeMap::new();
            for (name, slot, add) in steps {
                let name = format!("u{name}");
                let held = naive.entry(name.clone()).or_default();
                if add && !held.contains(&slot) {
                    users.add(&name, slot);
                    held.push(slot);
                } else if !add && held.contains(&slot) {
                    let index = users.find(&name).unwrap();
                    held.retain(|s| *s != slot);
                    prop_assert_eq!(users.remove(index, slot), held.is_empty());
                }
                naive.retain(|_, held| !held.is_empty());
                prop_assert_eq!(users.len(), naive.len());
                for (name, held) in &naive {
                    prop_assert_eq!(users.get(users.find(name).unwrap()).connections.as_slice(), held.as_slice());
                }
            }
        }
    }
}
