//! Which connections hold most: the weight of every row, and the heavy ones by powers of two.
//!
//! Kept up to date by whoever changes what a connection holds, so that a shard that runs out of memory finds the worst at once. A row that
//! is light, as nearly all are at any time, costs a compare and an addition per change; only who crosses a power of two moves between lists.

/// Below it a row is light, and in no list: 4 KiB.
const LIGHT_BITS: u32 = 12;
/// One list per power of two from there on.
const CLASSES: usize = (u32::BITS - LIGHT_BITS) as usize;
/// Rows of the top list that are looked at to find the heaviest.
const LOOKED_AT_MAX: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Weights {
    rows: Vec<Entry>,
    /// Rows of at least 4 KiB, of at least 8, and so on.
    classes: [Vec<u32>; CLASSES],
    /// The sum of those.
    heavy_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Bytes.
    weight: u32,
    /// Where it stands in the list of its class.
    place: u32,
}

impl Weights {
    /// Row `slot` holds so many bytes now. More than 4 GiB count as that.
    #[inline]
    pub(super) fn set(&mut self, slot: u32, bytes: usize) {
        let weight = u32::try_from(bytes).unwrap_or(u32::MAX);
        if slot as usize >= self.rows.len() {
            if weight == 0 {
                return;
            }
            self.rows.resize(slot as usize + 1, Entry::default());
        }
        let entry = &mut self.rows[slot as usize];
        let before = std::mem::replace(&mut entry.weight, weight);
        if before == weight {
            return;
        }
        let (from, to) = (class_of(before), class_of(weight));
        if from == 0 && to == 0 {
            return;
        }
        let heavy = |weight: u32, class: usize| if class == 0 { 0 } else { u64::from(weight) };
        self.heavy_bytes = self.heavy_bytes - heavy(before, from) + heavy(weight, to);
        if from != to {
            self.reclassify(slot, from, to);
        }
    }

    /// Bytes that a row holds which is not light, on average.
    pub(super) fn mean(&self) -> u64 {
        let heavy: usize = self.classes.iter().map(Vec::len).sum();
        self.heavy_bytes / (heavy as u64).max(1)
    }

    /// Bytes that a row holds.
    pub(super) fn of(&self, slot: u32) -> u32 {
        self.rows.get(slot as usize).map_or(0, |entry| entry.weight)
    }

    /// Whether a row is in no list.
    pub(super) fn is_light(&self, slot: u32) -> bool {
        class_of(self.of(slot)) == 0
    }

    /// The heaviest row, while there is one that is not light; where very many are about as heavy, one of them.
    pub(super) fn heaviest(&self) -> Option<u32> {
        let top = self.classes.iter().rev().find(|class| !class.is_empty())?;
        top.iter().take(LOOKED_AT_MAX).copied().max_by_key(|slot| self.of(*slot))
    }

    /// Rows that are not light: those that hold more before those that hold less than half of it.
    pub(super) fn heavy(&self) -> impl Iterator<Item = u32> {
        self.classes.iter().rev().flat_map(|class| class.iter().copied())
    }

    #[cold]
    fn reclassify(&mut self, slot: u32, from: usize, to: usize) {
        if let Some(list) = self.list(from) {
            let place = self.rows[slot as usize].place;
            let list = &mut self.classes[list];
            list.swap_remove(place as usize);
            if let Some(&moved) = list.get(place as usize) {
                self.rows[moved as usize].place = place;
            }
        }
        if let Some(list) = self.list(to) {
            let list = &mut self.classes[list];
            self.rows[slot as usize].place = list.len() as u32;
            list.push(slot);
        }
    }

    fn list(&self, class: usize) -> Option<usize> {
        class.checked_sub(1)
    }
}

/// 0: light; else the number of its list, from 1.
#[inline]
fn class_of(weight: u32) -> usize {
    (u32::BITS - (weight >> LIGHT_BITS).leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes_are_powers_of_two() {
        let table = [(0, 0), (4095, 0), (4096, 1), (8191, 1), (8192, 2), (1 << 20, 9), (u32::MAX, CLASSES)];
        for (weight, class) in table {
            assert_eq!(class_of(weight), class, "{weight}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_map(steps in proptest::collection::vec((0u32..40, 0u32..26, any::<u32>()), 0..400)) {
            let mut weights = Weights::default();
            let mut naive = std::collections::BTreeMap::new();
            for (slot, bits, random) in steps {
                let weight = random & ((1 << bits) - 1);
                weights.set(slot, weight as usize);
                naive.insert(slot, weight);
                prop_assert_eq!(weights.of(slot), weight);
                let heavy: Vec<u32> = weights.heavy().collect();
                prop_assert!(heavy.windows(2).all(|pair| class_of(naive[&pair[0]]) >= class_of(naive[&pair[1]])));
                let mut sorted = heavy.clone();
                sorted.sort_unstable();
                let expect: Vec<u32> = naive.iter().filter(|(_, w)| **w >= 1 << LIGHT_BITS).map(|(s, _)| *s).collect();
                prop_assert_eq!(&sorted, &expect);
                let sum: u64 = expect.iter().map(|slot| u64::from(naive[slot])).sum();
                prop_assert_eq!(weights.mean(), sum / (expect.len() as u64).max(1));
                let max = naive.values().copied().max().filter(|w| *w >= 1 << LIGHT_BITS);
                prop_assert_eq!(weights.heaviest().map(|slot| naive[&slot]), max);
            }
        }
    }
}
