//! How much the queued frames of a shard take up, each counted once, however many outboxes it is in.
//!
//! The frame says so itself: it is counted when it is made countable, and taken off when the last outbox lets go of it. The counter is
//! atomic only because frames are, as types; one thread uses it, and nobody ever waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// What a frame takes up besides its bytes: the counted owner, and what allocations are rounded up by.
const FRAME_OVERHEAD_BYTES: u64 = 128;

/// The sum over all frames of a shard that were made countable and are still held.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored(Arc<AtomicU64>);

impl Stored {
    /// The same frame, counted for as long as anybody holds it or a part of it.
    pub(super) fn count(&self, frame: Bytes) -> Bytes {
        let bytes = frame.len() as u64 + FRAME_OVERHEAD_BYTES;
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Bytes::from_owner(Counted { frame, bytes, sum: self.clone() })
    }

    /// Bytes held by frames.
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the shared handles of a frame keep alive.
struct Counted {
    frame: Bytes,
    bytes: u64,
    sum: Stored,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.sum.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_counts_once_and_until_its_last_part_is_gone() {
        let stored = Stored::default();
        let frame = stored.count(Bytes::from(vec![7; 1000]));
        assert_eq!((stored.bytes(), &frame[..3]), (1000 + FRAME_OVERHEAD_BYTES, &[7u8; 3][..]));
        let handles: Vec<Bytes> = (0..100).map(|_| frame.clone()).collect();
        let other = stored.count(Bytes::from_static(b"x"));
        assert_eq!(stored.bytes(), 1001 + 2 * FRAME_OVERHEAD_BYTES);
        drop(handles);
        let part = frame.slice(10..20);
        drop((frame, other));
        assert_eq!(stored.bytes(), 1000 + FRAME_OVERHEAD_BYTES);
        drop(part);
        assert_eq!(stored.bytes(), 0);
    }
}
