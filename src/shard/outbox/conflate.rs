//! Finding the queued message of a key, and keeping only the newest of each.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::lanes::Lane;
use super::{Item, Outbox};
use crate::protocol::class::Class;

/// Which item of the queue is the newest of its key. Filled only while the outbox is throttled: below `high` nobody asks.
///
/// Items are numbered along the queue, so that neither sending at the front nor appending renumbers any. A head that came from the queue
/// keeps the number before the first one.
#[derive(Debug, Default)]
pub(super) struct Latest {
    newest: HashMap<u64, u32, BuildHasherDefault<KeyIsHash>>,
    /// The number of the first item of the queue, modulo 2^32.
    base: u32,
}

/// Keys kept room for when an outbox goes back to the pool.
const KEPT_KEYS_MAX: usize = 16;

impl Latest {
    /// The first item of the queue became the head.
    pub(super) fn front_taken(&mut self) {
        self.base = self.base.wrapping_add(1);
    }

    /// The head became the first item of the queue.
    pub(super) fn front_returned(&mut self) {
        self.base = self.base.wrapping_sub(1);
    }

    /// The head, which came from the queue, has left.
    pub(super) fn head_left(&mut self, head: &Item) {
        self.forget(head, self.base.wrapping_sub(1));
    }

    /// The first item of the queue left from behind the head. A head that came from the queue is fixed then, so that nobody needs to find
    /// it any more, and loses its number to the item that left.
    pub(super) fn front_left(&mut self, head: Option<&Item>, front: &Item) {
        if let Some(head) = head {
            self.head_left(head);
        }
        self.forget(front, self.base);
        self.front_taken();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.newest.len()
    }

    pub(super) fn capacity_bytes(&self) -> usize {
        // Key, number, and a byte of the table.
        self.newest.capacity() * (size_of::<(u64, u32)>() + 1)
    }

    pub(super) fn clear(&mut self) {
        self.newest.clear();
    }

    pub(super) fn reset(&mut self) {
        self.newest.clear();
        self.newest.shrink_to(KEPT_KEYS_MAX);
    }

    fn forget(&mut self, item: &Item, number: u32) {
        if let Some(key) = key_of(item)
            && self.newest.get(&key) == Some(&number)
        {
            self.newest.remove(&key);
        }
    }
}

/// Where an item of the queue is: the head, or an index behind it.
#[derive(Clone, Copy)]
enum Place {
    Head,
    At(usize),
}

impl Outbox {
    /// The newest queued message of `key`, unless it is fixed.
    pub(super) fn replaceable_latest(&mut self, key: u64) -> Option<&mut Item> {
        let side = self.side.as_ref()?;
        let number = *side.latest.newest.get(&key)?;
        match place_of(number, side.latest.base) {
            Place::Head if self.head_is_fixed() => None,
            Place::Head => self.head.as_mut(),
            Place::At(index) if index < self.offered_queue as usize => None,
            Place::At(index) => self.queue.get_mut(index),
        }
    }

    /// Puts `item` into the place that [`replaceable_latest`](Self::replaceable_latest) has found.
    pub(super) fn replace_latest(&mut self, key: u64, item: Item) {
        let new_len = item.frame.len();
        let Some(queued) = self.replaceable_latest(key) else { return };
        let old_len = queued.frame.len();
        // The stamp stays: the place is as old as it was.
        *queued = Item { queued_ms: queued.queued_ms, accepted: queued.accepted, ..item };
        self.bytes = self.bytes - old_len + new_len;
        let side = self.side_mut();
        side.conflated = side.conflated.saturating_add(1);
    }

    /// Notes that `item` is about to be appended as the newest of its key. Call it before, and only while throttled.
    pub(super) fn index_next(&mut self, item: &Item) {
        let Some(key) = key_of(item) else { return };
        let appended = self.queue.len() as u32;
        let becomes_head = self.head.is_none();
        let latest = &mut self.side_mut().latest;
        let offset = if becomes_head { u32::MAX } else { appended };
        latest.newest.insert(key, latest.base.wrapping_add(offset));
    }

    /// Keeps of each key only the newest, in the place of the oldest, and of droppable messages none if `drop_droppable`; what is fixed
    /// stays. Gives the bytes freed. One pass, once per crossing of `high`: its cost was paid by the pushes that led there.
    pub(super) fn conflate(&mut self, drop_droppable: bool) -> usize {
        let head_fixed = self.head_is_fixed();
        let Outbox { head, queue, side, .. } = self;
        let side = side.get_or_insert_default();
        let (latest, base) = (&mut side.latest.newest, side.latest.base);
        latest.clear();
        let mut head = head.as_mut().filter(|_| self.lane == Lane::Queue);
        if let Some(key) = head.as_deref().and_then(key_of) {
            latest.insert(key, base.wrapping_sub(1));
        }
        let fixed = if self.offered { self.offered_queue as usize } else { 0 };
        let (mut kept, mut freed) = (0, 0);
        for index in 0..queue.len() {
            let item = &mut queue[index];
            if let Some(key) = key_of(item) {
                let older = latest.get(&key).map(|&number| place_of(number, base));
                let place = older.filter(|place| match place {
                    Place::Head => !head_fixed,
                    Place::At(at) => *at >= fixed && index >= fixed,
                });
                if let Some(place) = place {
                    let (frame, source) = (item.frame.clone(), item.source);
                    let queued = match place {
                        Place::Head => head.as_deref_mut(),
                        Place::At(at) => queue.get_mut(at),
                    };
                    if let Some(queued) = queued {
                        freed += queued.frame.len();
                        (queued.frame, queued.source) = (frame, source);
                    }
                    side.conflated = side.conflated.saturating_add(1);
                    continue;
                }
                latest.insert(key, base.wrapping_add(kept as u32));
            } else if drop_droppable && index >= fixed && item.class == Class::Droppable {
                freed += item.frame.len();
                let dropped = &mut side.dropped[Class::Droppable as usize];
                *dropped = dropped.saturating_add(1);
                side.gaps.add(item.source);
                continue;
            }
            queue.swap(kept, index);
            kept += 1;
        }
        queue.truncate(kept);
        if !self.throttled {
            latest.clear();
        }
        self.bytes -= freed;
        freed
    }
}

fn key_of(item: &Item) -> Option<u64> {
    item.key.filter(|_| item.class == Class::Latest)
}

fn place_of(number: u32, base: u32) -> Place {
    match number.wrapping_sub(base) {
        u32::MAX => Place::Head,
        index => Place::At(index as usize),
    }
}

/// The keys are hashes already.
#[derive(Debug, Default)]
pub(super) struct KeyIsHash(u64);

impl Hasher for KeyIsHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}
