//! The outbox: what one connection still has to be sent, as a queue of whole frames that is counted in bytes.
//!
//! Order of sending, from the front:
//!
//! 1. what is partly on the wire, or was gathered and is being sent: never overtaken, replaced or dropped;
//! 2. *committed* frames ([`Outbox::commit`]): transformed for this connection already, in their order;
//! 3. *control* frames: at most one ping and [`PONGS_MAX`] pongs, then the newer replaces the newest queued one (RFC 6455, section 5.5.3);
//! 4. *urgent* messages, in their order;
//! 5. all others, in their order.
//!
//! Below `high` nothing else happens. Above it the outbox is *throttled*, until [`Outbox::advance`] brings it below `low`:
//!
//! * `droppable` is dropped, and counted per [`Source`] for the `gap` that the receiver gets once it has caught up;
//! * `latest` replaces the newest queued message of the same key **in its place**: per key the order holds, and a value that changes
//!   faster than the receiver reads is still delivered in its turn, which it never would be if each change sent it back to the end. The
//!   crossing itself conflates what is queued already the same way: the newest of each key, in the place of the oldest;
//! * `normal` and `urgent` stay.
//!
//! Over `max` a push is [`Push::Overflowed`], and the caller closes the connection.
//!
//! An outbox is leased from [`Outboxes`] while a connection has something to send. With a single frame it allocates nothing: the frame
//! that is next lies in the struct itself; only what queues behind it needs a ring, and everything rarer a boxed `Side`.
//!
//! Absent here: sockets, timers, JSON. Time is stamped on each [`Item`] by the caller.

mod conflate;
mod frame;
mod gaps;
mod item;
mod lanes;
#[cfg(test)]
mod model;
mod pool;
mod send;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;

pub use frame::{Frame, Stored};
pub use gaps::GAP_SOURCES_MAX;
pub use item::{Accepted, Item, OutboxLimits, Push, Source};
pub use pool::Outboxes;
pub use send::{Advance, COALESCE_BYTES_MAX};

use crate::protocol::class::Class;
use lanes::{Lane, Side, clear_ring, cut_ring};

/// Pongs that queue before a newer one replaces the newest of them: a burst of pings is answered one by one.
pub const PONGS_MAX: usize = 16;

/// Control frames of this kind that may queue.
fn bound(opcode: u8) -> usize {
    if opcode == OPCODE_PONG { PONGS_MAX } else { 1 }
}

/// Whether a close frame is queued. Nothing may follow it (RFC 6455, section 5.5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
enum Closing {
    /// None is.
    #[default]
    No,
    /// Behind everything.
    Last,
    /// Ahead of all messages, which are discarded.
    Now,
}

/// The queue of one connection. See the [module](self) for its rules.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The frame that is next; there is one exactly while anything is queued. Of the first lane that has any, unless it is fixed.
    head: Option<Item>,
    /// [`Lane::Queue`] behind the head.
    queue: VecDeque<Item>,
    /// What most outboxes never need.
    side: Option<Box<Side>>,
    /// Bytes that the kernel has not taken yet.
    bytes: usize,
    /// Bytes of the head that the kernel has taken.
    head_sent: usize,
    /// How many of `queue` were gathered and not advanced over.
    offered_queue: u32,
    /// The lane of the head.
    lane: Lane,
    throttled: bool,
    /// The head, and the first `offered_*` of each lane, were gathered: they keep their place until the next advance.
    offered: bool,
    closing: Closing,
}

// Two cache lines: at 10,000 receivers of one message this is what is walked through.
const _: () = assert!(size_of::<Outbox>() <= 128);
const _: () = assert!(size_of::<Item>() <= 40);

impl Outbox {
    /// Queues a message by its class. Between [`gather`](Self::gather) and [`advance`](Self::advance) it never touches what was gathered.
    pub fn push(&mut self, item: Item, limits: &OutboxLimits) -> Push {
        debug_assert!(!item.frame.is_empty(), "a frame has at least a header");
        if self.closing != Closing::No {
            return Push::Dropped;
        }
        if self.throttled {
            return self.push_throttled(item, limits);
        }
        // Without `high` the hard bound is all there is; with it, whatever is not throttled takes one message of any size.
        if limits.high == 0 && self.overflows(item.frame.len(), 0, limits) {
            return Push::Overflowed;
        }
        let now_ms = item.queued_ms;
        self.enqueue(Lane::of(item.class), item);
        if limits.high == 0 || self.bytes <= limits.high {
            return Push::Queued;
        }
        self.throttle(now_ms, limits);
        Push::Throttled
    }

    /// Queues a ping, pong or close frame ahead of everything that is not committed or partly on the wire. Never dropped, and bounded: a
    /// ping replaces a queued ping; a pong the newest of [`PONGS_MAX`] queued ones.
    ///
    /// A **close** frame ends the outbox: the messages behind it are discarded, as nothing may follow it, and later pushes are
    /// [`Push::Dropped`]. Where what is queued should still reach the peer, use [`push_last`](Self::push_last).
    pub fn push_control(&mut self, frame: Bytes) {
        debug_assert!(frame.first().is_some_and(|byte| byte & 0x08 != 0), "not a control frame");
        if self.closing != Closing::No {
            return;
        }
        let item = Item { class: Class::Urgent, messages: 0, ..Item::normal(frame, 0) };
        if item.opcode() == OPCODE_CLOSE {
            self.closing = Closing::Now;
            self.discard_messages();
        } else if let Some(queued) = self.replaceable_control(item.opcode(), bound(item.opcode())) {
            let old = std::mem::replace(&mut queued.frame, item.frame);
            let new_len = queued.frame.len();
            self.bytes = self.bytes - old.len() + new_len;
            return;
        }
        self.enqueue(Lane::Control, item);
    }

    /// Queues a close frame behind everything that is queued; later pushes are [`Push::Dropped`].
    pub fn push_last(&mut self, frame: Bytes, now_ms: u64) {
        if self.closing == Closing::No {
            self.closing = Closing::Last;
            self.enqueue(Lane::Queue, Item { messages: 0, ..Item::normal(frame, now_ms) });
        }
    }

    /// Conflates `latest` messages and drops `droppable` ones that are queued already (but for the one that is next), flowing or not: for
    /// a shard that runs out of its budget. Gives the bytes freed; what was dropped is counted for the `gap`.
    ///
    /// Afterwards, while it is throttled, hardly anything that could be shed is queued: it need not be asked twice
    /// ([`is_shed`](Self::is_shed)).
    pub fn shed(&mut self) -> usize {
        let throttled = self.throttled;
        self.side_mut().shed = throttled;
        self.conflate(true)
    }

    /// Whether shedding again is hardly worth it.
    pub fn is_shed(&self) -> bool {
        self.side.as_ref().is_some_and(|side| side.shed)
    }

    /// Memory held, in bytes: the frames in full, although they may be shared, and the rings. What counts for choosing who holds most.
    pub fn held_bytes(&self) -> usize {
        self.bytes + self.capacity_bytes()
    }

    /// Memory held without the frames, in bytes.
    #[inline]
    pub fn capacity_bytes(&self) -> usize {
        let side = self.side.as_ref().map_or(0, |side| side.capacity_bytes());
        self.queue.capacity() * size_of::<Item>() + side
    }

    /// How many messages are queued, by class (joined ones as `Normal`): what closing it now would lose.
    pub fn queued(&self) -> [u32; 4] {
        let mut queued = [0; 4];
        let side = self.side.iter().flat_map(|side| side.wire.iter().chain(&side.urgent));
        for item in self.head.iter().chain(side).chain(&self.queue) {
            queued[item.class as usize] += u32::from(item.messages);
        }
        queued
    }

    /// Bytes queued that the kernel has not taken yet.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames queued, a partly sent one included.
    pub fn len(&self) -> usize {
        let side = self.side.as_ref().map_or(0, |side| side.wire.len() + side.control.len() + side.urgent.len());
        usize::from(self.head.is_some()) + self.queue.len() + side
    }

    /// Whether nothing is queued. Gaps may still wait to be told: see [`has_gaps`](Self::has_gaps).
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Whether it crossed `high` and has not been below `low` since.
    pub fn is_throttled(&self) -> bool {
        self.throttled
    }

    /// For how long it has been throttled, in milliseconds; `None` while it flows.
    pub fn throttled_for_ms(&self, now_ms: u64) -> Option<u32> {
        let side = self.side.as_ref().filter(|_| self.throttled)?;
        Some((now_ms as u32).wrapping_sub(side.throttled_at_ms))
    }

    /// The age of the oldest queued message, in milliseconds; control frames do not count. A message that replaced another has the age
    /// of its place: so long the receiver has been waiting for a value of this key.
    pub fn oldest_age_ms(&self, now_ms: u64) -> Option<u32> {
        let age = |item: &Item| (now_ms as u32).wrapping_sub(item.queued_ms);
        let head = self.head.iter().filter(|_| self.lane != Lane::Control);
        // Committed frames, a few, are as old as what they were made of; every other lane has its oldest in front.
        let side = self.side.iter().flat_map(|side| side.wire.iter().chain(side.urgent.front()));
        head.chain(side).chain(self.queue.front()).map(age).max()
    }

    /// Messages of `class` dropped since it was leased.
    pub fn dropped(&self, class: Class) -> u32 {
        self.side.as_ref().map_or(0, |side| side.dropped[class as usize])
    }

    /// Messages replaced by newer ones of their key since it was leased.
    pub fn conflated(&self) -> u32 {
        self.side.as_ref().map_or(0, |side| side.conflated)
    }

    /// Whether messages were dropped that the receiver has not been told of. The outbox must not be released before.
    pub fn has_gaps(&self) -> bool {
        self.side.as_ref().is_some_and(|side| !side.gaps.is_empty())
    }

    /// How many messages were dropped per source since this was last called. Tell the receiver once it has caught up, that is when
    /// [`Advance::now_flowing`]. Exact in sum; from the 129th source on, losses are counted under [`Source::None`].
    pub fn take_gaps(&mut self) -> impl Iterator<Item = (Source, u32)> {
        self.side.iter_mut().flat_map(|side| side.gaps.drain())
    }

    /// A source's number is about to be used for something else: what was lost of it is counted under [`Source::None`] from now on.
    pub fn forget_source(&mut self, source: Source) {
        if let Some(side) = &mut self.side {
            side.gaps.forget(source);
        }
    }

    /// Empties it for another connection. Keeps room for a few items.
    pub fn reset(&mut self) {
        let mut queue = std::mem::take(&mut self.queue);
        clear_ring(&mut queue);
        let mut side = self.side.take();
        if let Some(side) = &mut side {
            side.reset();
        }
        *self = Outbox { queue, side, ..Outbox::default() };
    }

    fn push_throttled(&mut self, item: Item, limits: &OutboxLimits) -> Push {
        self.side_mut().resume_below = limits.low;
        if item.class == Class::Droppable {
            self.side_mut().count_dropped(&item);
            return Push::Dropped;
        }
        if let (Class::Latest, Some(key)) = (item.class, item.key)
            && let Some(queued) = self.replaceable_latest(key)
        {
            let old_len = queued.frame.len();
            if self.overflows(item.frame.len(), old_len, limits) {
                return Push::Overflowed;
            }
            self.replace_latest(key, item);
            return Push::Replaced;
        }
        if self.overflows(item.frame.len(), 0, limits) {
            return Push::Overflowed;
        }
        self.index_next(&item);
        self.enqueue(Lane::of(item.class), item);
        Push::Throttled
    }

    /// Whether `more` bytes instead of `less` lead above the hard bound. Whoever is not above `high` may take one message of any size.
    fn overflows(&self, more: usize, less: usize, limits: &OutboxLimits) -> bool {
        let spared = if limits.high == 0 { self.bytes == 0 } else { self.bytes <= limits.high };
        limits.max != 0 && !spared && self.bytes - less + more > limits.max
    }

    fn throttle(&mut self, now_ms: u32, limits: &OutboxLimits) {
        self.throttled = true;
        let side = self.side_mut();
        side.shed = false;
        side.throttled_at_ms = now_ms;
        side.resume_below = limits.low;
        self.conflate(false);
    }

    /// Appends to a lane, keeping the head of the first lane that has any.
    fn enqueue(&mut self, lane: Lane, item: Item) {
        self.bytes += item.frame.len();
        if self.head.is_none() {
            self.head = Some(item);
            self.lane = lane;
        } else if lane < self.lane && !self.head_is_fixed() {
            self.displace_head();
            self.head = Some(item);
            self.lane = lane;
        } else {
            self.ring(lane).push_back(item);
        }
    }

    /// Puts the head back to the front of its lane.
    fn displace_head(&mut self) {
        if let Some(head) = self.head.take() {
            if self.lane == Lane::Queue
                && let Some(side) = &mut self.side
            {
                side.latest.front_returned();
            }
            self.ring(self.lane).push_front(head);
        }
    }

    /// Whether the head has to stay what it is: partly sent, or gathered.
    fn head_is_fixed(&self) -> bool {
        self.head_sent > 0 || self.offered
    }

    /// The newest queued control frame of this kind that may still be replaced, once there are as many as may queue.
    fn replaceable_control(&mut self, opcode: u8, bound: usize) -> Option<&mut Item> {
        let fixed = self.head_is_fixed();
        let head = self.head.as_mut().filter(|head| !fixed && self.lane == Lane::Control && head.opcode() == opcode);
        let offered = self.side.as_ref().map_or(0, |side| side.offered_control as usize);
        let queued = self.side.iter_mut().flat_map(|side| side.control.iter_mut().skip(offered));
        let (mut count, mut newest) = (0, None);
        for item in head.into_iter().chain(queued.filter(|item| item.opcode() == opcode)) {
            count += 1;
            newest = Some(item);
        }
        newest.filter(|_| count >= bound)
    }

    /// Frees all messages that are neither committed nor fixed: a close frame goes ahead of them.
    fn discard_messages(&mut self) {
        if self.lane >= Lane::Urgent
            && !self.head_is_fixed()
            && let Some(head) = self.head.take()
        {
            self.bytes -= head.frame.len();
        }
        let mut freed = cut_ring(&mut self.queue, self.offered_queue);
        if let Some(side) = &mut self.side {
            freed += cut_ring(&mut side.urgent, side.offered_urgent);
            side.latest.clear();
        }
        self.bytes -= freed;
        if self.head.is_none() {
            self.promote();
        }
    }

    fn ring(&mut self, lane: Lane) -> &mut VecDeque<Item> {
        match lane {
            Lane::Wire => &mut self.side_mut().wire,
            Lane::Control => &mut self.side_mut().control,
            Lane::Urgent => &mut self.side_mut().urgent,
            Lane::Queue => &mut self.queue,
        }
    }

    fn side_mut(&mut self) -> &mut Side {
        self.side.get_or_insert_default()
    }
}

const OPCODE_CLOSE: u8 = 0x8;
const OPCODE_PONG: u8 = 0xa;
