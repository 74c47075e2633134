//! The outboxes of one shard: leased by connections that have something to send, and by nobody else.

use super::Outbox;

/// A slab of outboxes with a free list. Handles are `u32`; the one last released is leased first, as it is still in the cache.
#[derive(Debug, Default)]
pub struct Outboxes {
    slots: Vec<Outbox>,
    leased: Vec<bool>,
    free: Vec<u32>,
    /// What those that are not leased keep room for.
    idle_bytes: usize,
}

/// Outboxes that [`Outboxes::shrink_idle`] looks at in one go.
const SHRUNK_AT_ONCE: usize = 4096;

impl Outboxes {
    /// An empty slab.
    pub fn new() -> Self {
        Outboxes::default()
    }

    /// Hands out an empty outbox. It has to be [released](Self::release).
    pub fn lease(&mut self) -> u32 {
        let free = self.free.pop();
        if let Some(handle) = free {
            self.idle_bytes -= self.slots[handle as usize].capacity_bytes();
        }
        let handle = free.unwrap_or_else(|| {
            self.slots.push(Outbox::default());
            self.leased.push(false);
            (self.slots.len() - 1) as u32
        });
        self.leased[handle as usize] = true;
        handle
    }

    /// The outbox of a handle.
    ///
    /// # Panics
    ///
    /// When the handle was never leased.
    pub fn get(&self, handle: u32) -> &Outbox {
        debug_assert!(self.leased[handle as usize], "outbox {handle} is not leased");
        &self.slots[handle as usize]
    }

    /// The outbox of a handle, to push to or send from.
    ///
    /// # Panics
    ///
    /// When the handle was never leased.
    pub fn get_mut(&mut self, handle: u32) -> &mut Outbox {
        debug_assert!(self.leased[handle as usize], "outbox {handle} is not leased");
        &mut self.slots[handle as usize]
    }

    /// Takes an outbox back; whatever is in it is freed. The handle is void from now on.
    ///
    /// # Panics
    ///
    /// When it is not leased: else two connections would come to share it, and get each other's messages.
    pub fn release(&mut self, handle: u32) {
        let leased = std::mem::take(&mut self.leased[handle as usize]);
        assert!(leased, "outbox {handle} was released twice");
        let outbox = &mut self.slots[handle as usize];
        outbox.reset();
        self.idle_bytes += outbox.capacity_bytes();
        self.free.push(handle);
    }

    /// How many are leased.
    pub fn leased(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Memory that the outboxes which are not leased keep room for, in bytes.
    pub fn idle_bytes(&self) -> usize {
        self.idle_bytes
    }

    /// Frees what outboxes that are not leased keep room for: the first thing to do when memory is short. The ones longest unused, and
    /// some thousands at a time.
    pub fn shrink_idle(&mut self) {
        for &handle in self.free.iter().take(SHRUNK_AT_ONCE) {
            let outbox = &mut self.slots[handle as usize];
            self.idle_bytes -= outbox.capacity_bytes();
            *outbox = Outbox::default();
        }
        // Behind the others: so the next call gets to those.
        if self.free.len() > SHRUNK_AT_ONCE {
            self.free.rotate_left(SHRUNK_AT_ONCE);
        }
    }

    /// Looks at up to `count` places from `from` on, and calls `each` with the outboxes among them that are leased. Returns where to go on;
    /// 0 after the last one.
    pub fn scan<'a>(&'a self, from: usize, count: usize, mut each: impl FnMut(&'a Outbox)) -> usize {
        let end = from.saturating_add(count).min(self.slots.len());
        for at in from.min(end)..end {
            if self.leased[at] {
                each(&self.slots[at]);
            }
        }
        if end == self.slots.len() { 0 } else { end }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::{Item, OutboxLimits, Push};
    use super::*;

    #[test]
    fn a_released_outbox_is_leased_again_and_empty() {
        let mut pool = Outboxes::new();
        let (a, b) = (pool.lease(), pool.lease());
        assert_ne!(a, b);
        for _ in 0..100 {
            let pushed =
                pool.get_mut(a).push(Item::normal(Bytes::from_static(b"\x81\x01x"), 1), &OutboxLimits::default());
            assert_eq!(pushed, Push::Queued);
        }
        assert_eq!((pool.leased(), pool.get(a).len()), (2, 100));
        pool.release(a);
        assert_eq!(pool.leased(), 1);
        assert_eq!(pool.lease(), a);
        assert!(pool.get(a).is_empty() && pool.get(a).bytes() == 0 && pool.get(a).oldest_age_ms(9).is_none());
        assert!(pool.get(a).queue.capacity() <= 32, "a grown ring is not kept");
        assert_eq!(pool.idle_bytes(), 0, "both are leased");
        let mut seen = 0;
        assert_eq!((pool.scan(0, 1, |_| seen += 1), pool.scan(1, 10, |_| seen += 1), seen), (1, 0, 2));
        pool.release(a);
        pool.release(b);
        assert!(pool.idle_bytes() > 0);
        pool.shrink_idle();
        assert_eq!((pool.leased(), pool.idle_bytes(), pool.slots[a as usize].queue.capacity()), (0, 0, 0));
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn releasing_twice_is_caught() {
        let mut pool = Outboxes::new();
        let handle = pool.lease();
        pool.release(handle);
        pool.release(handle);
    }
}
