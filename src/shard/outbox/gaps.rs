//! What a receiver has lost and was not told of yet.

use std::vec::Drain;

use super::Source;

/// Sources that are counted apart; what further ones lose is counted under [`Source::None`]. As many as a connection has rooms and channels
/// by default, so that only one that joins and leaves while it is behind gets there.
pub const GAP_SOURCES_MAX: usize = 128;

/// Dropped messages per source, bounded.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// At most [`GAP_SOURCES_MAX`] sources, and [`Source::None`].
    counts: Vec<(Source, u32)>,
    /// Where the last one was counted: drops come in runs.
    last: usize,
}

/// Sources kept room for when an outbox goes back to the pool.
const KEPT_SOURCES_MAX: usize = 8;

impl Gaps {
    pub(super) fn add(&mut self, source: Source) {
        self.add_many(source, 1);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(super) fn capacity_bytes(&self) -> usize {
        self.counts.capacity() * size_of::<(Source, u32)>()
    }

    pub(super) fn drain(&mut self) -> Drain<'_, (Source, u32)> {
        self.last = 0;
        self.counts.drain(..)
    }

    pub(super) fn forget(&mut self, source: Source) {
        if source == Source::None {
            return;
        }
        if let Some(at) = self.counts.iter().position(|&(s, _)| s == source) {
            let (_, dropped) = self.counts.swap_remove(at);
            self.add_many(Source::None, dropped);
        }
    }

    pub(super) fn reset(&mut self) {
        self.last = 0;
        self.counts.clear();
        self.counts.shrink_to(KEPT_SOURCES_MAX);
    }

    fn add_many(&mut self, source: Source, dropped: u32) {
        let at = match self.counts.get(self.last) {
            Some(&(s, _)) if s == source => self.last,
            _ => self.find_or_insert(source),
        };
        self.last = at;
        let count = &mut self.counts[at].1;
        *count = count.saturating_add(dropped);
    }

    fn find_or_insert(&mut self, source: Source) -> usize {
        let find = |counts: &[(Source, u32)], source| counts.iter().position(|&(s, _)| s == source);
        if let Some(at) = find(&self.counts, source) {
            return at;
        }
        let named = self.counts.len() - usize::from(find(&self.counts, Source::None).is_some());
        if source != Source::None && named == GAP_SOURCES_MAX {
            return self.find_or_insert(Source::None);
        }
        self.counts.push((source, 0));
        self.counts.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_over_the_bound_are_counted_together() {
        let mut gaps = Gaps::default();
        for round in 0..3 {
            for room in 0..GAP_SOURCES_MAX as u32 + 10 {
                gaps.add(Source::Room(room));
            }
            gaps.add(Source::None);
            assert_eq!(gaps.counts.len(), GAP_SOURCES_MAX + 1, "round {round}");
        }
        let told: Vec<_> = gaps.drain().collect();
        assert_eq!(told.iter().map(|&(_, n)| n).sum::<u32>(), 3 * (GAP_SOURCES_MAX as u32 + 11));
        assert!(told.contains(&(Source::None, 33)) && told.contains(&(Source::Room(0), 3)));
        assert!(gaps.is_empty());
    }

    #[test]
    fn a_forgotten_source_is_still_counted() {
        let mut gaps = Gaps::default();
        for source in [Source::Room(1), Source::Channel(1), Source::Room(1)] {
            gaps.add(source);
        }
        gaps.forget(Source::Room(1));
        gaps.forget(Source::Room(7));
        gaps.add(Source::Room(1));
        let mut told: Vec<_> = gaps.drain().collect();
        told.sort_by_key(|&(_, n)| n);
        assert_eq!(told.len(), 3);
        assert_eq!(told[2], (Source::None, 2));
    }
}
