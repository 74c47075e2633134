//! One flush per turn: what the outboxes hold is gathered and sent in batches, one send per connection and batch.

use std::io;
use std::os::fd::AsRawFd;

use super::clock;
use super::machine::Machine;
use super::poller::{Poller, SEND_BATCH, Send};
use super::reactor::{Reactor, caught};
use crate::ids::ConnectionId;
use crate::shard::event::{Event, Gathered};

/// Bytes for copies of small frames, per batch.
const SCRATCH_BYTES: usize = 1024 * 1024;
/// The most that one connection may copy into a batch.
const COPY_BYTES_MAX: usize = 64 * 1024;
/// What must be left in the scratch for another connection.
const COPY_BYTES_MIN: usize = 16 * 1024;
/// Batches in one turn: then some of those who have sent something are heard.
const BATCHES_PER_TURN: usize = 4;

/// The buffers of the flush.
#[derive(Debug)]
pub(super) struct Flush {
    scratch: Box<[u8]>,
    batch: Vec<Send>,
    /// Sends that the kernel refused for want of memory, of which no report will follow: tried again with the next tick.
    stalled: Vec<ConnectionId>,
    /// Connections whose outbox panicked while it was gathered from.
    panicked: Vec<ConnectionId>,
    /// The last turn ended before everything was sent: until it is, little is heard, so that no more comes in than goes out.
    pub(super) behind: bool,
}

impl Flush {
    pub(super) fn new() -> Self {
        Flush {
            scratch: vec![0; SCRATCH_BYTES].into(),
            batch: Vec::with_capacity(SEND_BATCH),
            stalled: Vec::new(),
            panicked: Vec::new(),
            behind: false,
        }
    }
}

impl<P: Poller, M: Machine> Reactor<P, M> {
    /// Sends what there is to send, as far as the peers take it.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        for batches in 0..BATCHES_PER_TURN {
            let gathered = self.gather();
            for conn in std::mem::take(&mut self.flush.panicked) {
                self.panicked(conn, true);
                self.act();
            }
            if !gathered {
                self.flush.behind = false;
                return Ok(batches > 0);
            }
            // SAFETY: copies lie in the scratch, which the next batch uses first; the others stay in place until `sent`, by the contract of
            // `Machine`.
            unsafe { self.poller.send(&mut self.flush.batch)? };
            // How long each message took counts to here, not to the beginning of the turn.
            self.now = clock::now();
            self.distributions.flush_connections.record(self.flush.batch.len() as u64);
            for i in 0..self.flush.batch.len() {
                self.sent(i);
            }
        }
        self.flush.behind = true;
        Ok(true)
    }

    /// Collects the next batch; `false` when there is nothing to send.
    fn gather(&mut self) -> bool {
        let Flush { scratch, batch, panicked, .. } = &mut self.flush;
        batch.clear();
        let mut rest: &mut [u8] = scratch;
        while batch.len() < SEND_BATCH && rest.len() >= COPY_BYTES_MIN {
            let Some(conn) = self.machine.next_dirty() else { break };
            let room = rest.len().min(COPY_BYTES_MAX);
            let (machine, scratch) = (&mut self.machine, &mut rest[..room]);
            let Ok(gathered) = caught(|| machine.gather(conn, scratch)) else {
                panicked.push(conn);
                continue;
            };
            let (data, len, copied) = match gathered {
                Gathered::Empty => {
                    self.machine.sent(conn, 0, 0, self.now);
                    continue;
                }
                Gathered::Copied(len) => (std::ptr::null(), len, true),
                Gathered::Direct(bytes) => (bytes.as_ptr(), bytes.len(), false),
            };
            let data = if copied {
                let (mine, others) = rest.split_at_mut(len);
                rest = others;
                mine.as_ptr()
            } else {
                data
            };
            let Some(fd) = self.rows.open(conn.slot, conn.generation).and_then(|row| row.fd.as_ref()) else {
                // Of a row in quarantine: the state machine goes on, nobody listens.
                self.machine.sent(conn, len, len, self.now);
                continue;
            };
            batch.push(Send { conn, fd: fd.as_raw_fd(), data, len, result: 0 });
        }
        !batch.is_empty()
    }

    fn sent(&mut self, index: usize) {
        let Send { conn, len, result, .. } = self.flush.batch[index];
        let taken = usize::try_from(result).unwrap_or(0).min(len);
        self.counters.sends += 1;
        self.counters.send_bytes += taken as u64;
        let mut failed = false;
        if taken < len {
            match -result {
                // Less than all, or nothing: the next room is reported.
                e if e <= 0 || e == libc::EAGAIN => self.counters.sends_short += 1,
                libc::EINTR | libc::ENOMEM | libc::ENOBUFS => {
                    self.counters.sends_short += 1;
                    self.flush.stalled.push(conn);
                }
                _ => {
                    self.counters.send_errors += 1;
                    failed = true;
                }
            }
            if let Some(row) = self.rows.open(conn.slot, conn.generation) {
                row.blocked = true;
            }
        }
        let (machine, now) = (&mut self.machine, self.now);
        let handled = caught(|| machine.sent(conn, len, taken, now));
        if handled.is_err() {
            self.panicked(conn, true);
        }
        self.act();
        if failed {
            // Told even where the peer's end was told before: then the state machine was still sending, and cannot any more.
            if let Some(row) = self.rows.open(conn.slot, conn.generation) {
                row.ended = false;
            }
            self.end(conn.slot, conn.generation);
        }
    }

    /// With each tick.
    pub(super) fn wake_stalled(&mut self) {
        for conn in std::mem::take(&mut self.flush.stalled) {
            if self.rows.open(conn.slot, conn.generation).is_some_and(|row| std::mem::take(&mut row.blocked)) {
                self.feed(Some(conn), Event::Writable { conn });
            }
        }
    }
}
