//! How connections come and go: accepted from the listener, moved to their home shard, adopted there.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

use super::listener::Accepted;
use super::machine::Machine;
use super::poller::Poller;
use super::reactor::Reactor;
use super::rows::Phase;
use crate::ids::{ConnectionId, ShardId};
use crate::mesh::handoff::{Arrival, HandoffPort, Sent};
use crate::shard::event::{Event, Handover};

/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Connections adopted in one turn.
const ARRIVALS_PER_TURN: usize = 64;
/// Connections over `limits.connections` that one shard keeps until it has told them so.
const UNRESERVED_MAX: usize = 512;
/// A close frame with code 1013 (RFC 6455, section 5.5.1; the registry's "Try Again Later").
const TRY_AGAIN_LATER: [u8; 4] = [0x88, 2, (1013u16 >> 8) as u8, 1013u16 as u8];

/// Connections on their way to another shard.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// By row: where to, and with what.
    moving: HashMap<u32, (ShardId, Box<Handover>)>,
    /// Rows whose poll has had its last word.
    pub(super) departing: Vec<u32>,
    /// Something may have arrived.
    pub(super) arrivals: bool,
    /// Sockets that found no way, to be closed.
    refused: Vec<OwnedFd>,
}

impl Moves {
    /// Bytes that were received before the move began, and not handled.
    pub(super) fn leave_bytes(&mut self, slot: u32, data: &[u8]) {
        if let Some((_, state)) = self.moving.get_mut(&slot) {
            state.leftover.extend_from_slice(data);
        }
    }

    /// Tries those again that a full socket pair held up; whether anything moved.
    pub(super) fn retry(&mut self, handoff: &mut HandoffPort) -> bool {
        let before = handoff.pending();
        if before > 0 {
            handoff.retry(|socket, _| self.refused.push(socket));
        }
        handoff.pending() != before
    }
}

impl<P: Poller, M: Machine> Reactor<P, M> {
    /// Accepts who waits, a bounded number.
    pub(super) fn accept(&mut self) -> bool {
        let now_ms = self.now.mono_ms;
        let mut busy = false;
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listener.as_mut().filter(|l| l.wants_accept(now_ms)) else { break };
            match listener.accept(now_ms) {
                Accepted::Connection(socket, peer) => {
                    busy = true;
                    self.accepted(socket, peer);
                }
                Accepted::Nobody => break,
                Accepted::Exhausted { rest } => {
                    self.counters.descriptors_exhausted += 1;
                    if rest {
                        tracing::warn!(shard = self.id.0, "out of file descriptors: connections are turned away");
                        break;
                    }
                }
                Accepted::Failed(_) => self.counters.accept_errors += 1,
            }
        }
        busy
    }

    fn accepted(&mut self, socket: OwnedFd, peer: std::net::SocketAddr) {
        self.counters.accepts += 1;
        let reserved = self.shared.ceiling.reserve();
        if !reserved {
            if self.unreserved >= UNRESERVED_MAX {
                self.counters.accepts_refused += 1;
                return;
            }
            self.unreserved += 1;
            self.counters.accepts_over_capacity += 1;
        }
        let conn = self.insert(socket, reserved);
        self.feed(Some(conn), Event::Accepted { conn, peer, over_capacity: !reserved });
        self.arm_open(conn);
    }

    fn insert(&mut self, socket: OwnedFd, reserved: bool) -> ConnectionId {
        let slot = self.rows.insert(socket, reserved);
        let generation = self.rows.get_mut(slot).map_or(0, |row| row.generation);
        self.connection(slot, generation)
    }

    /// Watches a new connection, unless its first event has ended it already.
    fn arm_open(&mut self, conn: ConnectionId) {
        if self.rows.open(conn.slot, conn.generation).is_some() {
            self.arm(conn.slot);
        }
    }

    /// The state machine has given up a connection: its poll ends, and when it has, the connection departs.
    pub(super) fn begin_move(&mut self, conn: ConnectionId, to: ShardId, state: Box<Handover>) {
        if self.rows.open(conn.slot, conn.generation).is_none() {
            return;
        }
        self.moves.moving.insert(conn.slot, (to, state));
        if self.retire(conn.slot, Phase::Moving) {
            self.moves.departing.push(conn.slot);
        }
    }

    /// Sends away those whose poll has ended, and those that waited.
    pub(super) fn depart(&mut self) {
        for slot in std::mem::take(&mut self.moves.departing) {
            let Some((to, state)) = self.moves.moving.remove(&slot) else { continue };
            let Some(row) = self.rows.get_mut(slot) else { continue };
            let reserved = row.reserved;
            let Some(socket) = row.fd.take() else { continue };
            self.rows.free_if_done(slot);
            let full = self.shared.statuses.get(to.index()).is_none_or(|s| s.rows() >= self.shared.table_capacity);
            if full || !reserved {
                self.release(reserved);
                self.refuse(socket);
                continue;
            }
            match self.handoff.send(to, &state, socket) {
                Sent::Away => self.counters.handovers_out += 1,
                Sent::Waiting => {
                    self.counters.handovers_out += 1;
                    self.counters.handovers_waited += 1;
                    self.mesh.wait_for(to);
                }
                Sent::Refused(socket, e) => {
                    if e != Errno::AGAIN {
                        tracing::warn!(error = %e, "a connection could not be handed over");
                    }
                    self.release(true);
                    self.refuse(socket);
                }
            }
        }
        self.moves.retry(&mut self.handoff);
        for socket in std::mem::take(&mut self.moves.refused) {
            self.release(true);
            self.refuse(socket);
        }
    }

    /// Tells a connection that its home is full, if it listens, and closes it.
    fn refuse(&mut self, socket: OwnedFd) {
        self.counters.handovers_refused += 1;
        self.counters.closes += 1;
        let _ = rustix::net::send(&socket, &TRY_AGAIN_LATER, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        let _ = rustix::net::shutdown(&socket, Shutdown::Both);
    }

    /// Adopts who has arrived, a bounded number.
    pub(super) fn take_arrivals(&mut self) -> bool {
        if !self.moves.arrivals {
            return false;
        }
        for _ in 0..ARRIVALS_PER_TURN {
            match self.handoff.receive() {
                Some(Arrival::Connection(socket, state)) => {
                    self.counters.handovers_in += 1;
                    let conn = self.insert(socket, true);
                    self.feed(Some(conn), Event::Adopted { conn, state });
                    self.arm_open(conn);
                }
                Some(Arrival::Lost) => {
                    self.counters.handovers_lost += 1;
                    self.shared.ceiling.release();
                }
                None => {
                    self.moves.arrivals = false;
                    break;
                }
            }
        }
        self.mesh.ring_waiting();
        true
    }
}
