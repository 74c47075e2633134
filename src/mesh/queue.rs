//! One ordered pair of shards: a bounded queue with one producer and one consumer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use super::Parcel;

/// The queue from one shard to another, bounded in parcels and in bytes.
///
/// Each of the two byte counters has one writer, so that neither side needs an atomic read-modify-write.
#[derive(Debug)]
pub(super) struct Pair<E> {
    queue: ArrayQueue<E>,
    bytes_max: u64,
    /// Bytes ever pushed; written by the producer.
    pushed: CachePadded<AtomicU64>,
    /// Bytes ever taken; written by the consumer.
    taken: CachePadded<AtomicU64>,
    /// The producer found no room and wants to be rung.
    waiting: CachePadded<AtomicBool>,
}

impl<E: Parcel> Pair<E> {
    pub(super) fn new(parcels: usize, bytes: usize) -> Self {
        Pair {
            queue: ArrayQueue::new(parcels),
            bytes_max: bytes as u64,
            pushed: CachePadded::default(),
            taken: CachePadded::default(),
            waiting: CachePadded::default(),
        }
    }

    /// For the producer: whether a parcel of `bytes` fits. An empty queue takes any parcel, or a large one would never pass.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let inside = self.pushed.load(Ordering::Relaxed).wrapping_sub(self.taken.load(Ordering::Acquire));
        !self.queue.is_full() && (inside == 0 || inside + bytes as u64 <= self.bytes_max)
    }

    /// For the producer.
    pub(super) fn push(&self, parcel: E) -> Result<(), E> {
        let bytes = parcel.payload_bytes() as u64;
        self.pushed.store(self.pushed.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
        self.queue.push(parcel).inspect_err(|_| {
            self.pushed.store(self.pushed.load(Ordering::Relaxed).wrapping_sub(bytes), Ordering::Relaxed);
        })
    }

    /// For the consumer: at most `most` parcels; whether there are more.
    pub(super) fn drain(&self, most: usize, mut take: impl FnMut(E)) -> bool {
        for _ in 0..most {
            let Some(parcel) = self.queue.pop() else { return false };
            let taken = self.taken.load(Ordering::Relaxed).wrapping_add(parcel.payload_bytes() as u64);
            self.taken.store(taken, Ordering::Release);
            take(parcel);
        }
        !self.queue.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// For the producer: asks to be rung. Look for room once more afterwards: the consumer may have passed by before the mark.
    pub(super) fn wait(&self) {
        self.waiting.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// For the consumer, after it has made room: whether the producer asked to be rung.
    pub(super) fn end_wait(&self) -> bool {
        fence(Ordering::SeqCst);
        self.waiting.load(Ordering::Relaxed) && self.waiting.swap(false, Ordering::Relaxed)
    }
}
