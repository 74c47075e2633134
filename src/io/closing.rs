//! How connections end: the poll's registration first, then the socket, then the row.

use std::io;
use std::os::fd::AsFd;

use rustix::net::{Shutdown, shutdown};

use super::machine::Machine;
use super::poller::{Disarmed, Poller};
use super::reactor::{LISTENER, Reactor};
use super::rows::Phase;
use crate::ids::ConnectionId;
use crate::shard::event::Event;

impl<P: Poller, M: Machine> Reactor<P, M> {
    /// Ends a connection that the state machine has forgotten: its poll now, its socket at the end of the turn, its row at the last word.
    pub(super) fn close(&mut self, conn: ConnectionId) {
        if self.rows.open(conn.slot, conn.generation).is_none() {
            return;
        }
        self.counters.closes += 1;
        self.retire(conn.slot, Phase::Closing);
        self.closing.push(conn.slot);
    }

    /// Takes a row out of use and ends its registration; whether nothing more will be reported of it.
    pub(super) fn retire(&mut self, slot: u32, phase: Phase) -> bool {
        let Some(row) = self.rows.get_mut(slot) else { return true };
        row.phase = phase;
        if let (true, Some(fd)) = (row.armed, row.fd.as_ref()) {
            row.armed = self.poller.disarm(row.token(slot), fd.as_fd()) == Disarmed::Later;
        }
        !row.armed
    }

    /// Gives back what a connection held of `limits.connections`.
    pub(super) fn release(&mut self, reserved: bool) {
        if reserved {
            self.shared.ceiling.release();
        } else {
            self.unreserved -= 1;
        }
        if self.status().drained() {
            // One that was on its way to this shard when it had none left.
            self.shared.ring_control();
        }
    }

    /// Tells the end of a connection, once.
    pub(super) fn end(&mut self, slot: u32, generation: u32) {
        let Some(row) = self.rows.open(slot, generation) else { return };
        if !std::mem::replace(&mut row.ended, true) {
            let conn = self.connection(slot, generation);
            self.feed(Some(conn), Event::Ended { conn });
        }
    }

    /// Hands the cancellations to the kernel, then closes: `close` alone would leave the socket open under its poll.
    pub(super) fn finish_closes(&mut self) -> io::Result<()> {
        if self.closing.is_empty() {
            return Ok(());
        }
        self.poller.submit()?;
        for slot in std::mem::take(&mut self.closing) {
            let Some(row) = self.rows.get_mut(slot) else { continue };
            let reserved = row.reserved;
            if let Some(fd) = row.fd.take() {
                let _ = shutdown(&fd, Shutdown::Both);
            }
            self.release(reserved);
            self.rows.free_if_done(slot);
        }
        Ok(())
    }

    /// Stops listening.
    pub(super) fn close_listener(&mut self) {
        if let Some(listener) = self.listener.take() {
            self.poller.disarm(LISTENER, listener.fd());
            // The poll holds the socket until its cancellation is with the kernel: this ends listening at once.
            if let Err(e) = self.poller.submit() {
                tracing::error!(error = %e, "the poller failed");
            }
        }
    }

    /// Closes everything: the end of the shard.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.close_listener();
        for slot in self.rows.open_slots().collect::<Vec<_>>() {
            if let Some(row) = self.rows.get_mut(slot) {
                let generation = row.generation;
                self.close(ConnectionId { shard: self.id, slot, generation });
            }
        }
    }
}
