//! Where users are, as far as this shard has asked: a bounded cache, kept right by what Redis says of the rows that were read.
//!
//! Redis remembers which rows were read over a connection and tells that connection when one changes (client-side caching). So an entry is
//! as good as the connection it was read over: when that is lost, [`Routes::clear`]. An entry with no rows says that the user was nowhere;
//! it spares the look-up only where nobody waits for an answer, since `offline` is never answered from here.

use std::collections::HashMap;
use std::rc::Rc;

use ahash::RandomState;
use smallvec::SmallVec;

use super::Row;

/// A user's rows, as they were read.
pub type Rows = SmallVec<[Row; 1]>;

/// The routes that one shard remembers.
#[derive(Debug)]
pub struct Routes {
    by_user: HashMap<Rc<str>, u32, RandomState>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    max: usize,
    hand: usize,
}

#[derive(Debug)]
struct Entry {
    user: Rc<str>,
    rows: Rows,
    /// Used since the hand went by.
    used: bool,
}

impl Routes {
    /// Remembers nothing yet, and never more than `max` users.
    pub fn new(max: usize, hasher: RandomState) -> Self {
        Routes {
            by_user: HashMap::with_hasher(hasher),
            entries: Vec::new(),
            free: Vec::new(),
            max: max.max(1),
            hand: 0,
        }
    }

    /// Where a user is. An empty slice: nowhere, when it was asked. `None`: not known.
    pub fn get(&mut self, user: &str) -> Option<&[Row]> {
        let slot = *self.by_user.get(user)?;
        let entry = &mut self.entries[slot as usize];
        entry.used = true;
        Some(&entry.rows)
    }

    /// What a look-up has found.
    pub fn insert(&mut self, user: &str, rows: Rows) {
        if let Some(&slot) = self.by_user.get(user) {
            self.entries[slot as usize].rows = rows;
            return;
        }
        if self.by_user.len() >= self.max {
            self.evict();
        }
        let user: Rc<str> = user.into();
        let entry = Entry { user: user.clone(), rows, used: false };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.by_user.insert(user, slot);
    }

    /// A row of this user has changed, or was found to be wrong.
    pub fn invalidate(&mut self, user: &str) {
        if let Some((_, slot)) = self.by_user.remove_entry(user) {
            self.vacate(slot);
        }
    }

    /// Nothing is known any more: the connection is gone over which it was read, or Redis has forgotten what it was to tell.
    pub fn clear(&mut self) {
        self.by_user.clear();
        self.entries.clear();
        self.free.clear();
        self.hand = 0;
    }

    /// Number of users.
    pub fn len(&self) -> usize {
        self.by_user.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.by_user.is_empty()
    }

    /// Forgets one that was not used for a while: the hand goes round, and takes the first that was not used since it last came by. All
    /// entries are in use when this is called, so it ends within two rounds.
    fn evict(&mut self) {
        loop {
            self.hand = if self.hand + 1 >= self.entries.len() { 0 } else { self.hand + 1 };
            let entry = &mut self.entries[self.hand];
            if !std::mem::replace(&mut entry.used, false) {
                self.by_user.remove(&entry.user);
                return self.vacate(self.hand as u32);
            }
        }
    }

    fn vacate(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        entry.user = Rc::from("");
        entry.rows = Rows::new();
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn routes(max: usize) -> Routes {
        Routes::new(max, RandomState::with_seeds(1, 2, 3, 4))
    }

    fn row(epoch: u64) -> Rows {
        [Row { node: "n".into(), epoch, shard: crate::ids::ShardId(0) }].into_iter().collect()
    }

    #[test]
    fn unknown_nowhere_and_somewhere_are_three_things() {
        let mut routes = routes(8);
        assert_eq!(routes.get("a"), None);
        routes.insert("a", Rows::new());
        assert_eq!(routes.get("a"), Some(&[][..]));
        routes.insert("a", row(1));
        assert_eq!(routes.get("a"), Some(&row(1)[..]));
        routes.invalidate("a");
        assert_eq!(routes.get("a"), None);
        routes.invalidate("never seen");
    }

    #[test]
    fn what_is_used_outlives_what_is_not() {
        let mut routes = routes(10);
        routes.insert("busy", row(1));
        for i in 0..1_000 {
            assert!(routes.get("busy").is_some(), "after {i}");
            routes.insert(&format!("once-{i}"), row(2));
            assert!(routes.len() <= 10 && routes.entries.len() <= 10);
        }
    }

    proptest! {
        /// What it says is what was last read and not invalidated since; it may forget, it may not invent.
        #[test]
        fn it_forgets_but_never_invents(
            steps in proptest::collection::vec((0u8..20, 0u8..12, 1u64..99), 0..300),
            max in 1usize..12,
        ) {
            let (mut routes, mut naive) = (routes(max), BTreeMap::new());
            for (user, what, epoch) in steps {
                let user = format!("u{user}");
                match what {
                    0..5 => {
                        routes.insert(&user, row(epoch));
                        naive.insert(user.clone(), row(epoch));
                        prop_assert!(routes.get(&user).is_some(), "the newest is there");
                    }
                    5..7 => {
                        routes.invalidate(&user);
                        naive.remove(&user);
                    }
                    7 if epoch < 5 => {
                        routes.clear();
                        naive.clear();
                    }
                    _ => {}
                }
                if let Some(rows) = routes.get(&user) {
                    prop_assert_eq!(Some(rows), naive.get(&user).map(|r| r.as_slice()));
                }
                prop_assert!(routes.len() <= max && routes.entries.len() <= max);
            }
        }
    }
}
