//! The one receive buffer of a shard: a slice for each receive of a batch.

use super::RECEIVE_BATCH;
use crate::limits::RECEIVE_BYTES;

/// A little more than the slice, so that the beginnings of all slices do not fall on the same cache sets.
const STRIDE: usize = RECEIVE_BYTES + 320;

/// Memory that is touched only as far as bytes arrive.
#[derive(Debug)]
pub(super) struct Arena(Box<[u8]>);

impl Arena {
    pub(super) fn new() -> Self {
        Arena(vec![0; RECEIVE_BATCH * STRIDE].into())
    }

    /// The slice of the `index`th receive.
    pub(super) fn slice(&mut self, index: usize) -> &mut [u8] {
        assert!(index < RECEIVE_BATCH);
        &mut self.0[index * STRIDE..][..RECEIVE_BYTES]
    }
}
