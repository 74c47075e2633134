//! The rows of a shard with what hangs on them: outboxes, the list of connections to flush, the deadline column, and the actions for the driver.
//!
//! Nobody writes to a socket when a message is routed: it is pushed to the receiver's outbox, the receiver goes on the dirty list, and the
//! driver flushes it once per turn, however many frames have come together.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::config::Config;
use crate::ids::{ConnectionId, ShardId};
use crate::protocol::class::Class;
use crate::protocol::reply;
use crate::shard::counters::Counters;
use crate::shard::event::{Action, Gathered};
use crate::shard::outbox::{Item, Outbox, OutboxLimits, Outboxes, Push, Source};
use crate::shard::row::{NONE, Paused, Row, State};
use crate::time::Now;
use crate::ws::deflate::Deflater;
use crate::ws::frame::{Opcode, server_frame, server_frame_payload, server_frame_with};

/// A deadline that never comes.
pub(super) const NEVER: u32 = u32::MAX;

/// Window bits of connections that negotiated nothing smaller: their compressed frames are shared.
const WINDOW_BITS_MAX: u8 = 15;

/// Bytes of payload that one `batch` message carries at the most.
const BATCH_BYTES_MAX: usize = 32 * 1024;

/// All connections of a shard.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) shard: ShardId,
    rows: Vec<Row>,
    /// Tenths of a second since the shard's start at which the row wants to be looked at.
    deadlines: Vec<u32>,
    outboxes: Outboxes,
    dirty: VecDeque<ConnectionId>,
    pub(super) actions: VecDeque<Action>,
    /// Connections whose outbox ran over while something was being delivered; closed when that is done.
    pub(super) overflowed: Vec<u32>,
    pub(super) counters: Counters,
    /// One compressor per window size in use, for connections without context takeover.
    deflaters: [Option<Box<Deflater>>; (WINDOW_BITS_MAX + 1) as usize],
    limits: OutboxLimits,
    deflate_min_size: usize,
    deflate_level: u32,
    start_ms: u64,
    live: usize,
}

/// A frame for many receivers: encoded once, compressed at most once.
#[derive(Debug)]
pub(super) struct Shared {
    plain: Bytes,
    compressed: Option<Option<Bytes>>,
}

impl Shared {
    pub(super) fn new(frame: impl Into<Bytes>) -> Self {
        Shared { plain: frame.into(), compressed: None }
    }

    /// A text frame with the JSON that `build` appends.
    pub(super) fn text(capacity: usize, build: impl FnOnce(&mut Vec<u8>)) -> Self {
        Shared::new(server_frame_with(Opcode::Text, capacity, build))
    }
}

/// How a message is to be queued.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) class: Class,
    pub(super) key: Option<u64>,
    pub(super) source: Source,
}

impl Manner {
    /// For what the gateway itself says: kept, in order.
    pub(super) const PLAIN: Manner = Manner { class: Class::Normal, key: None, source: Source::None };
}

/// What a send has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flushed {
    /// Nothing is queued any more.
    pub(super) empty: bool,
    /// It was throttled and flows again.
    pub(super) flows_again: bool,
}

impl Connections {
    pub(super) fn new(shard: ShardId, config: &Config, now: Now) -> Self {
        let mut made = Connections {
            shard,
            rows: Vec::new(),
            deadlines: Vec::new(),
            outboxes: Outboxes::default(),
            dirty: VecDeque::new(),
            actions: VecDeque::new(),
            overflowed: Vec::new(),
            counters: Counters::default(),
            deflaters: [const { None }; (WINDOW_BITS_MAX + 1) as usize],
            limits: OutboxLimits { high: 0, low: 0, max: 0 },
            deflate_min_size: 0,
            deflate_level: 1,
            start_ms: now.mono_ms,
            live: 0,
        };
        made.configure(config);
        made
    }

    /// Takes over what may change at run time.
    pub(super) fn configure(&mut self, config: &Config) {
        let outbox = &config.outbox;
        self.limits = OutboxLimits { high: outbox.high as usize, low: outbox.low as usize, max: outbox.max as usize };
        self.deflate_min_size = config.deflate.min_size as usize;
        if self.deflate_level != config.deflate.level {
            self.deflate_level = config.deflate.level;
            self.deflaters = [const { None }; (WINDOW_BITS_MAX + 1) as usize];
        }
    }

    /// Tenths of a second since the shard's start.
    pub(super) fn ds(&self, now: Now) -> u32 {
        (now.mono_ms.saturating_sub(self.start_ms) / 100) as u32
    }

    /// Number of connections.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Puts a connection into its row.
    pub(super) fn insert(&mut self, conn: ConnectionId, row: Row) {
        let slot = conn.slot as usize;
        if slot >= self.rows.len() {
            self.rows.resize_with(slot + 1, Row::vacant);
            self.deadlines.resize(slot + 1, NEVER);
        }
        debug_assert_eq!(self.rows[slot].state, State::Vacant, "the driver hands out free rows");
        self.rows[slot] = row;
        self.live += 1;
    }

    /// Empties a row. The driver's socket is untouched.
    pub(super) fn remove(&mut self, slot: u32) -> Row {
        let row = std::mem::replace(&mut self.rows[slot as usize], Row::vacant());
        if row.outbox != NONE {
            self.outboxes.release(row.outbox);
        }
        self.deadlines[slot as usize] = NEVER;
        self.live -= 1;
        row
    }

    /// The row of a connection that is still the one meant.
    pub(super) fn find(&self, conn: ConnectionId) -> Option<u32> {
        let row = self.rows.get(conn.slot as usize)?;
        (conn.shard == self.shard && row.generation == conn.generation && row.state != State::Vacant)
            .then_some(conn.slot)
    }

    pub(super) fn row(&self, slot: u32) -> &Row {
        &self.rows[slot as usize]
    }

    pub(super) fn row_mut(&mut self, slot: u32) -> &mut Row {
        &mut self.rows[slot as usize]
    }

    pub(super) fn id(&self, slot: u32) -> ConnectionId {
        self.row(slot).id(self.shard, slot)
    }

    /// Every row in use.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + use<> {
        let used: Vec<u32> =
            (0..self.rows.len() as u32).filter(|s| self.rows[*s as usize].state != State::Vacant).collect();
        used.into_iter()
    }

    /// Rows, free ones included.
    pub(super) fn capacity(&self) -> u32 {
        self.rows.len() as u32
    }

    pub(super) fn set_deadline(&mut self, slot: u32, at_ds: u32) {
        self.deadlines[slot as usize] = at_ds;
    }

    /// The deadline column, for the sweep.
    pub(super) fn deadlines(&self) -> &[u32] {
        &self.deadlines
    }

    pub(super) fn pause(&mut self, slot: u32, why: Paused) {
        let conn = self.id(slot);
        let row = self.row_mut(slot);
        if !row.paused.any() {
            self.actions.push_back(Action::PauseReading { conn });
        }
        self.row_mut(slot).paused.insert(why);
    }

    pub(super) fn resume(&mut self, slot: u32, why: Paused, now: Now) {
        let (conn, now_ds) = (self.id(slot), self.ds(now));
        let row = self.row_mut(slot);
        if !row.paused.contains(why) {
            return;
        }
        row.paused.remove(why);
        if !row.paused.any() {
            // The peer could not show a sign of life, or ask for anything, while nobody looked.
            row.last_receive_ds = now_ds;
            row.last_message_ds = now_ds;
            self.actions.push_back(Action::ResumeReading { conn });
        }
    }

    /// Queues a message for one connection. Returns whether it was accepted for sending.
    pub(super) fn push(&mut self, slot: u32, frame: &mut Shared, manner: Manner, now: Now) -> bool {
        let now_ds = self.ds(now);
        let row = &mut self.rows[slot as usize];
        let state = row.state;
        if matches!(state, State::Vacant | State::Closing | State::Connecting) {
            return false;
        }
        let wire = match row.deflate {
            Some(params) if !row.late() && frame.plain.len() >= self.deflate_min_size.saturating_add(2) => {
                compressed(&mut self.deflaters, self.deflate_level, params.server_max_window_bits, frame)
            }
            _ => frame.plain.clone(),
        };
        if row.outbox == NONE {
            row.outbox = self.outboxes.lease();
        }
        row.last_message_ds = now_ds;
        let item = Item {
            frame: wire,
            class: manner.class,
            key: manner.key,
            source: manner.source,
            queued_ms: now.mono_ms as u32,
        };
        let verdict = self.outboxes.get_mut(row.outbox).push(item, &self.limits);
        let accepted = match verdict {
            Push::Queued => true,
            Push::Throttled => {
                if !row.paused.contains(Paused::THROTTLED) {
                    row.throttled_ds = now_ds;
                    self.counters.throttle_crossings += 1;
                    self.pause(slot, Paused::THROTTLED);
                    if matches!(state, State::Active | State::Echo) {
                        self.deadlines[slot as usize] = self.deadlines[slot as usize].min(now_ds + 1);
                    }
                }
                true
            }
            Push::Replaced => {
                self.counters.conflated += 1;
                true
            }
            Push::Dropped => {
                self.counters.drop_message(manner.class);
                false
            }
            Push::Overflowed => {
                self.counters.drop_message(manner.class);
                self.overflowed.push(slot);
                false
            }
        };
        if accepted {
            self.counters.messages_pushed += 1;
            self.rows[slot as usize].sent_messages += 1;
        }
        self.mark_dirty(slot);
        accepted
    }

    /// Queues a ping or pong: ahead of every message, and never dropped.
    pub(super) fn push_control(&mut self, slot: u32, frame: Bytes) {
        self.outbox(slot).push_control(frame);
        self.mark_dirty(slot);
    }

    /// Queues the answer to an upgrade request: nothing overtakes it, no control frame and no urgent message.
    pub(super) fn push_response(&mut self, slot: u32, response: Bytes) {
        self.outbox(slot).commit(response);
        self.mark_dirty(slot);
    }

    /// Queues the close frame behind everything else; or, for a peer that does not read, in place of everything that has not begun to go out.
    pub(super) fn push_close(&mut self, slot: u32, frame: Bytes, behind: bool, now: Now) {
        if behind {
            self.outbox(slot).push_control(frame);
        } else {
            self.outbox(slot).push_last(frame, now.mono_ms);
        }
        self.mark_dirty(slot);
    }

    /// The outbox of a connection; it gets one if it has none.
    fn outbox(&mut self, slot: u32) -> &mut Outbox {
        let row = &mut self.rows[slot as usize];
        if row.outbox == NONE {
            row.outbox = self.outboxes.lease();
        }
        self.outboxes.get_mut(row.outbox)
    }

    /// The outbox of a connection, where it has one.
    pub(super) fn outbox_of(&self, slot: u32) -> Option<&Outbox> {
        let handle = self.row(slot).outbox;
        (handle != NONE).then(|| self.outboxes.get(handle))
    }

    /// Puts a connection on the dirty list, unless it is there or waits for its socket.
    pub(super) fn mark_dirty(&mut self, slot: u32) {
        let conn = self.id(slot);
        let row = self.row_mut(slot);
        if !row.dirty && !row.blocked {
            row.dirty = true;
            self.dirty.push_back(conn);
        }
    }

    /// The next connection to flush.
    pub(super) fn next_dirty(&mut self) -> Option<ConnectionId> {
        while let Some(conn) = self.dirty.pop_front() {
            if let Some(slot) = self.find(conn) {
                self.row_mut(slot).dirty = false;
                return Some(conn);
            }
        }
        None
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What to send next.
    pub(super) fn gather<'a>(&'a mut self, slot: u32, scratch: &'a mut [u8]) -> Gathered<'a> {
        let row = &mut self.rows[slot as usize];
        if row.outbox == NONE {
            return Gathered::Empty;
        }
        if row.late() {
            self.commit_late(slot);
        }
        self.outboxes.get_mut(self.rows[slot as usize].outbox).gather(scratch)
    }

    /// Takes what was sent off the outbox.
    pub(super) fn sent(&mut self, slot: u32, offered: usize, bytes: usize) -> Flushed {
        self.counters.bytes_sent += bytes as u64;
        let row = &mut self.rows[slot as usize];
        row.sent_bytes += bytes as u64;
        row.blocked = bytes < offered;
        if row.outbox == NONE {
            return Flushed { empty: true, flows_again: false };
        }
        let advance = self.outboxes.get_mut(row.outbox).advance(bytes);
        self.counters.frames_sent += u64::from(advance.frames);
        if !advance.empty {
            self.mark_dirty(slot);
        }
        Flushed { empty: advance.empty, flows_again: advance.now_flowing }
    }

    /// Gives an outbox back in which nothing is queued. Returns whether the connection has none now.
    pub(super) fn release_outbox(&mut self, slot: u32) -> bool {
        let row = &mut self.rows[slot as usize];
        if row.outbox != NONE && self.outboxes.get(row.outbox).is_empty() {
            self.outboxes.release(row.outbox);
            row.outbox = NONE;
        }
        row.outbox == NONE
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
        let Connections { rows, outboxes, deflaters, deflate_min_size, deflate_level, .. } = self;
        let row = &mut rows[slot as usize];
        let outbox = outboxes.get_mut(row.outbox);
        if outbox.committed_bytes() > 0 {
            return;
        }
        // Before the hand-over nothing is compressed, so that no compressor's window has to move.
        let settled = matches!(row.state, State::Active | State::Echo);
        let mut contexts = row.extra.as_mut().and_then(|e| e.contexts.as_mut()).filter(|_| settled);
        let mut joined: Vec<Bytes> = Vec::new();
        let mut joined_bytes = 0;
        let mut opcode = Opcode::Text;
        while let Some(item) = outbox.pop_next() {
            opcode = opcode_of(&item.frame);
            let payload = server_frame_payload(&item.frame);
            joined_bytes += payload.len();
            joined.push(payload);
            if !row.batch || joined_bytes >= BATCH_BYTES_MAX {
                break;
            }
        }
        let (payload, frame) = match joined.len() {
            0 => return,
            1 => (joined[0].clone(), None),
            _ => {
                let payloads = joined.iter().map(Bytes::as_ref);
                let frame = server_frame_with(Opcode::Text, joined_bytes + joined.len() + 40, |out| {
                    reply::batch(out, payloads)
                });
                (server_frame_payload(&frame), Some(frame))
            }
        };
        let compressed = match (contexts.as_mut(), row.deflate) {
            _ if payload.len() < *deflate_min_size => None,
            (Some(contexts), _) => contexts.deflater.frame(opcode, &payload),
            // A batch is this connection's own, but needs no context of its own.
            (None, Some(params)) if params.server_no_context_takeover => {
                deflater(deflaters, *deflate_level, params.server_max_window_bits).frame(opcode, &payload)
            }
            (None, _) => None,
        };
        let plain = || frame.unwrap_or_else(|| server_frame(opcode, &payload));
        outbox.commit(compressed.unwrap_or_else(plain));
    }
}

/// The compressed form of a shared frame, or the plain one where compressing does not make it smaller.
fn compressed(deflaters: &mut [Option<Box<Deflater>>], level: u32, window_bits: u8, frame: &mut Shared) -> Bytes {
    let bits = window_bits.clamp(9, WINDOW_BITS_MAX);
    let deflater = deflater(deflaters, level, bits);
    let mut make = || deflater.frame(opcode_of(&frame.plain), &server_frame_payload(&frame.plain));
    let made = if bits == WINDOW_BITS_MAX {
        if frame.compressed.is_none() {
            frame.compressed = Some(make());
        }
        frame.compressed.clone().flatten()
    } else {
        make()
    };
    made.unwrap_or_else(|| frame.plain.clone())
}

/// The compressor that all connections with this window share.
fn deflater(deflaters: &mut [Option<Box<Deflater>>], level: u32, window_bits: u8) -> &mut Deflater {
    let bits = window_bits.clamp(9, WINDOW_BITS_MAX);
    deflaters[usize::from(bits)].get_or_insert_with(|| Box::new(Deflater::new(level, bits, false)))
}

/// Text or binary, as the first byte of a whole server frame says.
fn opcode_of(frame: &[u8]) -> Opcode {
    if frame.first().is_some_and(|b| b & 0x0f == 2) { Opcode::Binary } else { Opcode::Text }
}
