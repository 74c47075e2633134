//! Messages on their way out: into the outboxes of their receivers, and from there to the kernel.
//!
//! Nobody writes to a socket when a message is routed: it is pushed to the receiver's outbox, the receiver goes on the dirty list, and the
//! driver flushes it once per turn, however many frames have come together.

use bytes::Bytes;

use crate::protocol::class::Class;
use crate::protocol::command::TracedWhat;
use crate::protocol::reply;
use crate::shard::connections::Connections;
use crate::shard::counters::DropReason;
use crate::shard::event::Gathered;
use crate::shard::frames::{Shared, opcode_of};
use crate::shard::outbox::{Accepted, Item, Outbox, Push, Source};
use crate::shard::row::{NONE, Paused, State};
use crate::time::Now;
use crate::ws::frame::{Opcode, server_frame, server_frame_payload, server_frame_with};

/// Bytes of payload that one `batch` message carries at the most.
const BATCH_BYTES_MAX: usize = 32 * 1024;
/// Messages that one `batch` message carries at the most.
const BATCH_MESSAGES_MAX: usize = u8::MAX as usize;

/// Messages kept for a connection whose session has not begun.
const WITHHELD_MAX: usize = 1024;

/// How a message is to be queued.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) class: Class,
    pub(super) key: Option<u64>,
    pub(super) source: Source,
    pub(super) accepted: Accepted,
    /// It goes to very many: whoever else has something to send goes first.
    pub(super) bulk: bool,
}

impl Manner {
    /// For what the gateway itself says: kept, in order.
    pub(super) const PLAIN: Manner =
        Manner { class: Class::Normal, key: None, source: Source::None, accepted: Accepted::UNMEASURED, bulk: false };
}

/// What a send has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flushed {
    /// Nothing is queued any more.
    pub(super) empty: bool,
    /// It was throttled and flows again.
    pub(super) flows_again: bool,
    /// It has caught up, and there are losses to tell.
    pub(super) has_gaps: bool,
}

impl Connections {
    /// Queues a message for one connection. Returns whether it was accepted for sending.
    pub(super) fn push(&mut self, slot: u32, frame: &mut Shared, manner: Manner, now: Now) -> bool {
        let now_ds = self.ds(now);
        let row = self.row_mut(slot);
        let state = row.state;
        if matches!(state, State::Vacant | State::Closing | State::Connecting) {
            return false;
        }
        if row.paused.contains(Paused::BUS) {
            return self.withhold(slot, frame, manner);
        }
        row.last_message_ds = now_ds;
        let window_bits = row.deflate.filter(|_| !row.late()).map(|params| params.server_max_window_bits);
        let wire = match window_bits {
            Some(bits) if frame.len() >= self.deflaters.min_size.saturating_add(2) => {
                frame.compressed(&mut self.deflaters, bits, &self.stored)
            }
            _ => frame.plain(&self.stored),
        };
        let item = Item {
            frame: wire,
            class: manner.class,
            key: manner.key,
            source: manner.source,
            queued_ms: now.mono_ms as u32,
            accepted: manner.accepted,
            messages: 1,
        };
        let limits = self.limits;
        let (verdict, conflated) = self.on_outbox(slot, |outbox| {
            let before = outbox.conflated();
            (outbox.push(item, &limits), outbox.conflated() - before)
        });
        // Crossing the high mark conflates what was queued already.
        self.counters.conflated += u64::from(conflated);
        let accepted = match verdict {
            Push::Queued | Push::Replaced => true,
            Push::Throttled => {
                if !self.row(slot).paused.contains(Paused::THROTTLED) {
                    self.row_mut(slot).throttled_ds = now_ds;
                    self.counters.throttle_crossings += 1;
                    self.pause(slot, Paused::THROTTLED);
                    if matches!(state, State::Active | State::Echo) {
                        self.bring_forward(slot, now_ds + 1);
                    }
                }
                true
            }
            Push::Dropped => {
                self.counters.drop_message(DropReason::Throttled, manner.class);
                false
            }
            Push::Overflowed => {
                self.counters.drop_message(DropReason::Overflow, manner.class);
                self.overflowed.push(slot);
                false
            }
        };
        if accepted {
            self.counters.messages_pushed += 1;
            self.row_mut(slot).sent_messages += 1;
        }
        if !self.traces.is_empty() {
            let what = if accepted { TracedWhat::Out } else { TracedWhat::Dropped };
            self.trace(slot, what, &server_frame_payload(frame.bytes()), Some(manner.class), now);
        }
        if manner.bulk {
            self.mark_bulk(slot)
        } else {
            self.mark_dirty(slot)
        }
        accepted
    }

    /// Queues a ping or pong: ahead of every message, and never dropped.
    pub(super) fn push_control(&mut self, slot: u32, frame: Bytes) {
        self.on_outbox(slot, |outbox| outbox.push_control(frame));
        self.mark_dirty(slot);
    }

    /// Keeps a message for a connection whose session has not begun. Returns whether there was room for it.
    fn withhold(&mut self, slot: u32, frame: &Shared, manner: Manner) -> bool {
        let withheld = &mut self.row_mut(slot).extra().withheld;
        let room = withheld.len() < WITHHELD_MAX;
        if room {
            withheld.push((frame.bytes().clone(), manner));
            self.reweigh(slot);
        } else {
            self.counters.drop_message(DropReason::Overflow, manner.class);
        }
        room
    }

    /// What was kept for a connection whose session has begun now.
    pub(super) fn take_withheld(&mut self, slot: u32) -> Vec<(Bytes, Manner)> {
        let row = self.row_mut(slot);
        let withheld = row.extra.as_mut().map(|extra| std::mem::take(&mut extra.withheld)).unwrap_or_default();
        row.tidy();
        self.reweigh(slot);
        withheld
    }

    /// Queues the answer to an upgrade request: nothing overtakes it, no control frame and no urgent message.
    pub(super) fn push_response(&mut self, slot: u32, response: Bytes) {
        self.on_outbox(slot, |outbox| outbox.commit(response));
        self.mark_dirty(slot);
    }

    /// Queues the close frame after everything else; or, for a peer that does not read, in place of everything that has not begun to go out.
    pub(super) fn push_close(&mut self, slot: u32, frame: Bytes, at_once: bool, now: Now) {
        if at_once {
            let lost = self.on_outbox(slot, |outbox| {
                let before = outbox.queued();
                outbox.push_control(frame);
                let kept = outbox.queued();
                std::array::from_fn(|class| before[class] - kept[class])
            });
            self.counters.drop_messages(DropReason::Closed, lost);
        } else {
            self.on_outbox(slot, |outbox| outbox.push_last(frame, now.mono_ms));
        }
        self.mark_dirty(slot);
    }

    /// Changes the outbox of a connection, which gets one if it has none, and takes note of what it holds then.
    #[inline]
    pub(super) fn on_outbox<R>(&mut self, slot: u32, change: impl FnOnce(&mut Outbox) -> R) -> R {
        let mut handle = self.row(slot).outbox;
        if handle == NONE {
            handle = self.outboxes.lease();
            self.row_mut(slot).outbox = handle;
            self.ring_bytes += self.outboxes.get(handle).capacity_bytes() as u64;
        }
        let outbox = self.outboxes.get_mut(handle);
        let (bytes, ring) = (outbox.bytes() as u64, outbox.capacity_bytes() as u64);
        let result = change(outbox);
        self.queued_bytes = self.queued_bytes - bytes + outbox.bytes() as u64;
        self.ring_bytes = self.ring_bytes - ring + outbox.capacity_bytes() as u64;
        self.reweigh(slot);
        result
    }

    /// What to send next.
    pub(super) fn gather<'a>(&'a mut self, slot: u32, scratch: &'a mut [u8]) -> Gathered<'a> {
        if self.row(slot).outbox == NONE {
            return Gathered::Empty;
        }
        if self.row(slot).late() {
            self.commit_late(slot);
        }
        self.outboxes.get_mut(self.row(slot).outbox).gather(scratch)
    }

    /// Takes what was sent off the outbox.
    pub(super) fn sent(&mut self, slot: u32, offered: usize, bytes: usize, now: Now) -> Flushed {
        let row = self.row_mut(slot);
        row.sent_bytes += bytes as u64;
        row.blocked = bytes < offered;
        let handle = row.outbox;
        if handle == NONE {
            return Flushed { empty: true, ..Flushed::default() };
        }
        let Connections { outboxes, counters, distributions, queued_bytes, ring_bytes, limits, .. } = self;
        let outbox = outboxes.get_mut(handle);
        let ring = outbox.capacity_bytes() as u64;
        let advance = outbox.advance_each(bytes, |item| {
            counters.messages_delivered += u64::from(item.messages);
            if let Some(us) = item.accepted.latency_us(item.queued_ms, now) {
                distributions.delivery_us.record(us);
            }
        });
        *queued_bytes -= bytes as u64;
        *ring_bytes = *ring_bytes - ring + outbox.capacity_bytes() as u64;
        counters.bytes_sent += bytes as u64;
        counters.frames_sent += u64::from(advance.frames);
        if advance.frames > 0 {
            distributions.frames_per_send.record(u64::from(advance.frames));
        }
        let caught_up = !outbox.is_throttled() && (advance.empty || outbox.bytes() < limits.low);
        let has_gaps = caught_up && outbox.has_gaps();
        self.reweigh(slot);
        if !advance.empty {
            self.mark_bulk(slot);
        }
        Flushed { empty: advance.empty, flows_again: advance.now_flowing, has_gaps }
    }

    /// Gives an outbox back in which nothing is queued and of which nothing is to be told. Returns whether the connection has none now.
    pub(super) fn release_outbox(&mut self, slot: u32) -> bool {
        let handle = self.row(slot).outbox;
        if handle != NONE && self.outboxes.get(handle).is_empty() && !self.outboxes.get(handle).has_gaps() {
            self.ring_bytes -= self.outboxes.get(handle).capacity_bytes() as u64;
            self.outboxes.release(handle);
            self.row_mut(slot).outbox = NONE;
            self.reweigh(slot);
        }
        self.row(slot).outbox == NONE
    }

    /// What was dropped per source since it was last told.
    pub(super) fn take_gaps(&mut self, slot: u32) -> Vec<(Source, u32)> {
        let handle = self.row(slot).outbox;
        if handle == NONE { Vec::new() } else { self.outboxes.get_mut(handle).take_gaps().collect() }
    }

    /// The connection has left a topic: what was dropped of it is told without its name.
    pub(super) fn forget_source(&mut self, slot: u32, source: Source) {
        let handle = self.row(slot).outbox;
        if handle != NONE {
            self.outboxes.get_mut(handle).forget_source(source);
        }
    }

    /// Fixes the order of what a late connection sends next: joins messages to a `batch`, compresses in the order of sending.
    fn commit_late(&mut self, slot: u32) {
        if self.outboxes.get(self.row(slot).outbox).committed_bytes() > 0 {
            return;
        }
        let row = self.row_mut(slot);
        let batch = row.batch;
        // Before the hand-over nothing is compressed, so that no compressor's window has to move.
        let settled = matches!(row.state, State::Active | State::Echo);
        let deflate = row.deflate;
        let mut contexts = row.extra.as_mut().and_then(|e| e.contexts.take());
        // Both are put back.
        let mut deflaters = std::mem::take(&mut self.deflaters);
        let stored = self.stored.clone();
        self.on_outbox(slot, |outbox| {
            let Some((opcode, payload, frame)) = next_joined(outbox, batch) else { return };
            let compressed = match (contexts.as_mut().filter(|_| settled), deflate) {
                _ if payload.len() < deflaters.min_size => None,
                (Some(contexts), _) => contexts.deflater.frame(opcode, &payload),
                // A batch is this connection's own, but needs no context of its own.
                (None, Some(params)) if params.server_no_context_takeover => {
                    deflaters.compress(params.server_max_window_bits, opcode, &payload)
                }
                (None, _) => None,
            };
            let plain = || frame.unwrap_or_else(|| server_frame(opcode, &payload));
            outbox.commit(stored.frame(compressed.unwrap_or_else(plain)));
        });
        self.deflaters = deflaters;
        if let Some(contexts) = contexts {
            self.row_mut(slot).extra().contexts = Some(contexts);
            self.reweigh(slot);
        }
    }
}

/// Takes the next message out of an outbox, or with `batch` several as one: opcode, payload, and the frame where there is one already.
fn next_joined(outbox: &mut Outbox, batch: bool) -> Option<(Opcode, Bytes, Option<Bytes>)> {
    let mut joined: Vec<Bytes> = Vec::new();
    let mut joined_bytes = 0;
    let mut opcode = Opcode::Text;
    while let Some(item) = outbox.pop_next() {
        opcode = opcode_of(&item.frame);
        let payload = server_frame_payload(item.frame.bytes());
        joined_bytes += payload.len();
        joined.push(payload);
        if !batch || joined_bytes >= BATCH_BYTES_MAX || joined.len() >= BATCH_MESSAGES_MAX {
            break;
        }
    }
    match &joined[..] {
        [] => None,
        [payload] => Some((opcode, payload.clone(), None)),
        payloads => {
            let payloads = payloads.iter().map(Bytes::as_ref);
            let frame = server_frame_with(Opcode::Text, joined_bytes + joined.len() + 40, |out| {
                reply::batch(out, payloads);
            });
            Some((Opcode::Text, server_frame_payload(&frame), Some(frame)))
        }
    }
}
