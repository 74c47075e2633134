//! The rows of a shard, in blocks: growing moves nothing and leaves nothing behind. A vector would double instead: for a moment it holds
//! three times what is needed, copies all of it while everybody waits, and what it leaves behind stays with the allocator.

use std::ops::{Index, IndexMut};

/// Rows in one block, as a power of two: about 50 KiB.
const BLOCK_BITS: u32 = 8;
const BLOCK_ROWS: usize = 1 << BLOCK_BITS;

/// An array that only grows.
#[derive(Debug)]
pub(super) struct Blocks<T> {
    blocks: Vec<Box<[T; BLOCK_ROWS]>>,
}

impl<T> Default for Blocks<T> {
    fn default() -> Self {
        Blocks { blocks: Vec::new() }
    }
}

impl<T> Blocks<T> {
    /// Makes sure that there is a row `slot`; new ones are made by `fill`.
    pub(super) fn reach(&mut self, slot: u32, fill: impl Fn() -> T) {
        while slot >= self.len() {
            let block: Box<[T]> = (0..BLOCK_ROWS).map(|_| fill()).collect();
            let Ok(block) = block.try_into() else { unreachable!("it has that many") };
            self.blocks.push(block);
        }
    }

    /// Rows there are.
    pub(super) fn len(&self) -> u32 {
        (self.blocks.len() << BLOCK_BITS) as u32
    }

    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        self.blocks.get((slot >> BLOCK_BITS) as usize).map(|block| &block[slot as usize % BLOCK_ROWS])
    }
}

impl<T> Index<u32> for Blocks<T> {
    type Output = T;

    #[inline]
    fn index(&self, slot: u32) -> &T {
        &self.blocks[(slot >> BLOCK_BITS) as usize][slot as usize % BLOCK_ROWS]
    }
}

impl<T> IndexMut<u32> for Blocks<T> {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut T {
        &mut self.blocks[(slot >> BLOCK_BITS) as usize][slot as usize % BLOCK_ROWS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stay_where_they_are() {
        let mut rows = Blocks::default();
        assert!(rows.get(0).is_none());
        for slot in [0, 255, 256, 1000, 3] {
            rows.reach(slot, || 0);
            rows[slot] = slot + 1;
        }
        assert_eq!(rows.len(), 1024);
        for slot in [0, 255, 256, 1000, 3] {
            assert_eq!((rows[slot], rows.get(slot)), (slot + 1, Some(&(slot + 1))));
        }
        assert_eq!((rows[257], rows.get(1024)), (0, None));
    }
}
