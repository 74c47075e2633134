//! The lanes of an outbox, and the counters that most outboxes never need.

use std::collections::VecDeque;

use super::conflate::Latest;
use super::gaps::Gaps;
use super::item::{Accepted, Item};
use crate::protocol::class::Class;

/// What queues apart, in the order of sending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Lane {
    /// Committed frames.
    Wire,
    /// Pings, pongs, and a close frame that goes ahead.
    Control,
    /// Urgent messages.
    Urgent,
    /// All other messages, and a close frame that goes last.
    #[default]
    Queue,
}

impl Lane {
    /// The lane of a message.
    pub(super) fn of(class: Class) -> Lane {
        match class {
            Class::Urgent => Lane::Urgent,
            Class::Normal | Class::Latest | Class::Droppable => Lane::Queue,
        }
    }
}

/// Items that a ring keeps room for when its outbox goes back to the pool.
const KEPT_ITEMS_MAX: usize = 16;

/// The lanes and counters that most outboxes never need.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) wire: VecDeque<Item>,
    pub(super) control: VecDeque<Item>,
    pub(super) urgent: VecDeque<Item>,
    pub(super) offered_wire: u32,
    pub(super) offered_control: u32,
    pub(super) offered_urgent: u32,
    pub(super) latest: Latest,
    pub(super) gaps: Gaps,
    pub(super) dropped: [u32; 4],
    pub(super) conflated: u32,
    /// `low` as of the last push into the throttled outbox.
    pub(super) resume_below: usize,
    pub(super) throttled_at_ms: u32,
    /// It was shed since it has been throttled.
    pub(super) shed: bool,
    /// Of what was popped and not committed yet: the stamps of the oldest, and how many messages.
    pub(super) popped: Option<(u32, Accepted, u8)>,
}

impl Side {
    pub(super) fn count_dropped(&mut self, item: &Item) {
        let dropped = &mut self.dropped[item.class as usize];
        *dropped = dropped.saturating_add(1);
        self.gaps.add(item.source);
    }

    /// Memory held without the frames, in bytes.
    pub(super) fn capacity_bytes(&self) -> usize {
        let items = self.wire.capacity() + self.control.capacity() + self.urgent.capacity();
        size_of::<Self>() + items * size_of::<Item>() + self.latest.capacity_bytes() + self.gaps.capacity_bytes()
    }

    pub(super) fn reset(&mut self) {
        let mut rings = [&mut self.wire, &mut self.control, &mut self.urgent].map(std::mem::take);
        rings.iter_mut().for_each(clear_ring);
        let [wire, control, urgent] = rings;
        let (mut latest, mut gaps) = (std::mem::take(&mut self.latest), std::mem::take(&mut self.gaps));
        latest.reset();
        gaps.reset();
        *self = Side { wire, control, urgent, latest, gaps, ..Side::default() };
    }
}

/// Frees all but the first `keep` items and gives the bytes freed.
pub(super) fn cut_ring(ring: &mut VecDeque<Item>, keep: u32) -> usize {
    let freed = ring.iter().skip(keep as usize).map(|item| item.frame.len()).sum();
    ring.truncate(keep as usize);
    freed
}

/// Empties it, and keeps room for a few items.
pub(super) fn clear_ring(ring: &mut VecDeque<Item>) {
    ring.clear();
    ring.shrink_to(KEPT_ITEMS_MAX);
}
