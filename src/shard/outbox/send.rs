//! The sending half of the outbox: what goes to the kernel next, and what it has taken.

use std::collections::VecDeque;

use super::lanes::{Lane, Side};
use super::{Closing, Frame, Item, Outbox};
use crate::shard::event::Gathered;

/// Frames above it are sent from where they are; up to it, copying several into one send is cheaper than a send for each.
pub const COALESCE_BYTES_MAX: usize = 4096;

/// What an advance led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// It was throttled and flows again: read from the client again, and tell it the [gaps](Outbox::take_gaps).
    pub now_flowing: bool,
    /// Nothing is queued any more.
    pub empty: bool,
    /// Frames whose last byte was taken.
    pub frames: u32,
}

impl Outbox {
    /// The bytes to send next. Small frames (up to [`COALESCE_BYTES_MAX`]) are copied one after another to the front of `scratch` while
    /// they fit; a bigger frame, or one that has no small one behind it, is given in place. A partly sent frame goes on where it was.
    ///
    /// What is gathered keeps its place, and stays where it is in memory, until [`advance`](Self::advance), pushes in between
    /// notwithstanding. Where anything is committed, only committed and control frames are gathered.
    pub fn gather<'a>(&'a mut self, scratch: &'a mut [u8]) -> Gathered<'a> {
        self.withdraw_offer();
        let Some(head) = &self.head else { return Gathered::Empty };
        self.offered = true;
        let first = &head.frame[self.head_sent..];
        let mut copy = Copy { scratch, used: 0 };
        if !copy.take(first) {
            return Gathered::Direct(first);
        }
        let mut more = true;
        let mut raw = self.lane != Lane::Wire;
        if let Some(side) = &mut self.side {
            raw &= side.wire.is_empty();
            (side.offered_wire, more) = copy.take_ring(&side.wire, more);
            (side.offered_control, more) = copy.take_ring(&side.control, more);
            (side.offered_urgent, more) = copy.take_ring(&side.urgent, more && raw);
        }
        (self.offered_queue, _) = copy.take_ring(&self.queue, more && raw);
        match copy.used {
            used if used == first.len() => Gathered::Direct(first),
            used => Gathered::Copied(used),
        }
    }

    /// The kernel took `sent` bytes of what was gathered: frees the frames that are sent whole.
    ///
    /// # Panics
    ///
    /// When more was sent than is queued: the caller has mixed up connections.
    pub fn advance(&mut self, sent: usize) -> Advance {
        self.advance_each(sent, |_| {})
    }

    /// The same, and calls `each` with every item with [messages](Item::messages) whose last byte was taken.
    pub fn advance_each(&mut self, sent: usize, mut each: impl FnMut(&Item)) -> Advance {
        assert!(sent <= self.bytes, "sent {sent} of {} bytes queued", self.bytes);
        self.bytes -= sent;
        let mut left = sent;
        let mut frames = 0;
        while let Some(head) = &self.head {
            let rest = head.frame.len() - self.head_sent;
            if left < rest {
                self.head_sent += left;
                break;
            }
            left -= rest;
            self.head_sent = 0;
            frames += 1;
            if head.messages > 0 {
                each(head);
            }
            self.take_head();
            self.promote();
        }
        self.withdraw_offer();
        if self.closing == Closing::Now {
            self.discard_messages();
        }
        Advance { now_flowing: self.flow_again(), empty: self.head.is_none(), frames }
    }

    /// Takes the next message out, to be transformed (compressed with context, batched) and given back by [`commit`](Self::commit).
    /// `None` when there is none, between gather and advance, and at a close frame: that one goes out as it is.
    ///
    /// Messages stay in the queue for as long as possible this way, where their class can still act; so commit only about as much as one
    /// send takes.
    pub fn pop_next(&mut self) -> Option<Item> {
        if self.offered {
            return None;
        }
        let item = if self.head_sent == 0 && self.lane >= Lane::Urgent {
            self.head.as_ref().filter(|head| is_message(head))?;
            let item = self.take_head();
            self.promote();
            item?
        } else {
            self.pop_behind_head()?
        };
        self.bytes -= item.frame.len();
        let (_, _, messages) = self.side_mut().popped.get_or_insert((item.queued_ms, item.accepted, 0));
        *messages = messages.saturating_add(item.messages);
        Some(item)
    }

    /// Queues whole frames made of popped messages, behind those committed before and ahead of everything else.
    pub fn commit(&mut self, wire: impl Into<Frame>) {
        let wire = wire.into();
        if wire.is_empty() {
            return;
        }
        let (queued_ms, accepted, messages) = self.side_mut().popped.take().unwrap_or_default();
        self.enqueue(Lane::Wire, Item { queued_ms, accepted, messages, ..Item::normal(wire, 0) });
    }

    /// Committed bytes that the kernel has not taken yet.
    pub fn committed_bytes(&self) -> usize {
        let head = self.head.iter().filter(|_| self.lane == Lane::Wire).map(|head| head.frame.len() - self.head_sent);
        let wire = self.side.iter().flat_map(|side| side.wire.iter().map(|item| item.frame.len()));
        head.chain(wire).sum()
    }

    /// Makes the first item of the first lane the head, which is gone: what was gathered goes first, in the order it was gathered in.
    pub(super) fn promote(&mut self) {
        debug_assert!(self.head.is_none() && self.head_sent == 0);
        if let Some(side) = &mut self.side
            && let Some((lane, item)) = side.pop_first(self.offered_queue > 0)
        {
            (self.lane, self.head) = (lane, Some(item));
            return;
        }
        self.lane = Lane::Queue;
        self.head = self.queue.pop_front();
        self.offered_queue = self.offered_queue.saturating_sub(1);
        if self.head.is_some()
            && let Some(side) = &mut self.side
        {
            side.latest.front_taken();
        }
    }

    /// Removes the head without choosing another.
    fn take_head(&mut self) -> Option<Item> {
        let head = self.head.take()?;
        if self.lane == Lane::Queue
            && let Some(side) = &mut self.side
        {
            side.latest.head_left(&head);
        }
        Some(head)
    }

    /// The first urgent message, else the first of the queue, from behind a head that is not to be touched.
    fn pop_behind_head(&mut self) -> Option<Item> {
        if let Some(side) = &mut self.side
            && let Some(item) = side.urgent.pop_front()
        {
            return Some(item);
        }
        self.queue.front().filter(|front| is_message(front))?;
        let front = self.queue.pop_front()?;
        if let Some(side) = &mut self.side {
            let head = self.head.as_ref().filter(|_| self.lane == Lane::Queue);
            side.latest.front_left(head, &front);
        }
        Some(front)
    }

    /// What was gathered and not sent is queued like everything else again, and what came meanwhile may overtake it.
    fn withdraw_offer(&mut self) {
        if !self.offered {
            return;
        }
        self.offered = false;
        self.offered_queue = 0;
        let Some(side) = &mut self.side else { return };
        (side.offered_wire, side.offered_control, side.offered_urgent) = (0, 0, 0);
        if self.head.is_some() && self.head_sent == 0 && side.first_lane() < self.lane {
            self.displace_head();
            self.promote();
        }
    }

    fn flow_again(&mut self) -> bool {
        let Some(side) = self.side.as_mut().filter(|_| self.throttled) else { return false };
        if self.bytes > 0 && self.bytes >= side.resume_below {
            return false;
        }
        self.throttled = false;
        side.shed = false;
        side.latest.clear();
        true
    }
}

impl Side {
    /// Takes the first item of the first lane that was gathered; of the first lane that has any, where nothing is left of what was gathered
    /// (`queue_offered` says whether there is in the queue).
    fn pop_first(&mut self, queue_offered: bool) -> Option<(Lane, Item)> {
        let Side { wire, control, urgent, offered_wire, offered_control, offered_urgent, .. } = self;
        let any_offered = queue_offered || *offered_wire + *offered_control + *offered_urgent > 0;
        let lanes = [
            (Lane::Wire, wire, offered_wire),
            (Lane::Control, control, offered_control),
            (Lane::Urgent, urgent, offered_urgent),
        ];
        for (lane, ring, offered) in lanes {
            if any_offered && *offered == 0 {
                continue;
            }
            if let Some(item) = ring.pop_front() {
                *offered = offered.saturating_sub(1);
                return Some((lane, item));
            }
        }
        None
    }

    fn first_lane(&self) -> Lane {
        let lanes = [(Lane::Wire, &self.wire), (Lane::Control, &self.control), (Lane::Urgent, &self.urgent)];
        lanes.into_iter().find(|(_, ring)| !ring.is_empty()).map_or(Lane::Queue, |(lane, _)| lane)
    }
}

/// Copies frames to the front of the scratch.
struct Copy<'a> {
    scratch: &'a mut [u8],
    used: usize,
}

impl Copy<'_> {
    /// Whether `bytes` were small enough and did fit.
    fn take(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= COALESCE_BYTES_MAX && bytes.len() <= self.scratch.len() - self.used;
        if fits {
            self.scratch[self.used..self.used + bytes.len()].copy_from_slice(bytes);
            self.used += bytes.len();
        }
        fits
    }

    /// Takes what it can, and says how many that were and whether it was all.
    fn take_ring(&mut self, ring: &VecDeque<Item>, more: bool) -> (u32, bool) {
        if !more {
            return (0, false);
        }
        let taken = ring.iter().take_while(|item| self.take(&item.frame)).count();
        (taken as u32, taken == ring.len())
    }
}

/// Whether it is a message, and not a close frame that goes last.
fn is_message(item: &Item) -> bool {
    item.opcode() & 0x8 == 0
}
