//! Receiving: one receive per connection and pass, so that a flooding client waits its turn like the others.

use std::io;
use std::os::fd::AsRawFd;

use super::machine::Machine;
use super::poller::{Poller, RECEIVE_BATCH, Receive};
use super::reactor::{Reactor, caught};
use super::rows::Phase;
use crate::ids::ConnectionId;
use crate::limits::RECEIVE_BYTES;
use crate::shard::event::Event;

/// Batches of receives in one turn: then what they caused is flushed.
const BATCHES_PER_TURN: usize = 4;
/// Receives in one turn while the flush is behind.
const RECEIVES_BEHIND: usize = 32;

impl<P: Poller, M: Machine> Reactor<P, M> {
    /// Asks for a receive of this row in the next pass.
    pub(super) fn want_receive(&mut self, slot: u32) {
        let Some(row) = self.rows.get_mut(slot) else { return };
        if row.paused {
            row.missed = true;
        } else if !row.queued && !row.ended {
            row.queued = true;
            self.readable.push_back(slot);
        }
    }

    /// Receives from those that are readable, a bounded number, and feeds what came.
    pub(super) fn receive(&mut self) -> io::Result<bool> {
        let busy = !self.readable.is_empty();
        let (batches, most) = match self.flush.behind {
            true => (1, RECEIVES_BEHIND),
            false => (BATCHES_PER_TURN, RECEIVE_BATCH),
        };
        for _ in 0..batches {
            self.choose_receives(most);
            if self.receives.is_empty() {
                break;
            }
            self.poller.receive(&mut self.receives)?;
            for i in 0..self.receives.len() {
                self.received(i);
            }
        }
        Ok(busy)
    }

    /// Takes the next rows from the queue; each is in it once.
    fn choose_receives(&mut self, most: usize) {
        self.receives.clear();
        self.receiving.clear();
        while self.receives.len() < most {
            let Some(slot) = self.readable.pop_front() else { return };
            let Some(row) = self.rows.get_mut(slot) else { continue };
            // An entry that is older than the row's present use finds the mark gone, or serves for it.
            if !std::mem::take(&mut row.queued) || row.phase != Phase::Open {
                continue;
            }
            if row.paused {
                row.missed = true;
                continue;
            }
            let Some(fd) = row.fd.as_ref() else { continue };
            self.receives.push(Receive { slot, fd: fd.as_raw_fd(), result: 0 });
            self.receiving.push(ConnectionId { shard: self.id, slot, generation: row.generation });
        }
    }

    fn received(&mut self, index: usize) {
        let Receive { slot, result, .. } = self.receives[index];
        let conn = self.receiving[index];
        let Some(row) = self.rows.get_mut(slot) else { return };
        if row.generation != conn.generation {
            return;
        }
        let len = usize::try_from(result).unwrap_or(0);
        match row.phase {
            // Another connection's event has moved it while its bytes were here: they go along.
            Phase::Moving => {
                let data = self.poller.received(index, len);
                self.moves.leave_bytes(slot, data);
            }
            Phase::Open if len > 0 => {
                self.counters.receives += 1;
                self.counters.receive_bytes += len as u64;
                if len == RECEIVE_BYTES || row.hangup {
                    self.want_receive(slot);
                }
                let data = self.poller.received(index, len);
                let (machine, now) = (&mut self.machine, self.now);
                let handled = caught(|| machine.handle(Event::Bytes { conn, data }, now));
                self.after(Some(conn), handled);
            }
            Phase::Open => match -result {
                libc::EAGAIN => self.counters.receives_empty += 1,
                libc::EINTR | libc::ENOMEM | libc::ENOBUFS => self.want_receive(slot),
                _ => self.end(slot, conn.generation),
            },
            Phase::Free | Phase::Closing | Phase::Quarantined => {}
        }
    }
}
