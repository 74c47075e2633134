//! What a client has sent behind something that waits: for the verdict of a service, or for the cluster to know of its user.

use crate::ids::ConnectionId;
use crate::shard::Shard;
use crate::shard::row::{Paused, State};
use crate::time::Now;

impl Shard {
    /// Whether nothing of it is handled for now: it waits for a verdict, or for the cluster.
    fn is_held(&self, slot: u32) -> bool {
        let paused = self.connections.row(slot).paused;
        paused.contains(Paused::ASKING) || paused.contains(Paused::BUS)
    }

    /// Whether what it sends now comes behind something that waits.
    #[inline]
    pub(super) fn waits_behind(&self, slot: u32) -> bool {
        self.is_held(slot) || self.connections.row(slot).extra.as_ref().is_some_and(|extra| !extra.behind.is_empty())
    }

    /// Bytes that come behind what waits; where it waits no more, as its connection closes, all of them are looked at.
    pub(super) fn bytes_behind(&mut self, slot: u32, data: &[u8], now: Now) {
        self.keep_behind(slot, data);
        if !self.is_held(slot) {
            let mut behind = self.take_behind(slot);
            self.decode(slot, &mut behind, now);
        }
    }

    /// Keeps what came behind. No more comes than was received at once: the connection is not read from.
    pub(super) fn keep_behind(&mut self, slot: u32, data: &[u8]) {
        if !data.is_empty() {
            self.connections.row_mut(slot).extra().behind.extend_from_slice(data);
            self.connections.reweigh(slot);
        }
    }

    /// Looks at what came behind something that was waited for, unless something else is waited for now.
    pub(super) fn go_on_behind(&mut self, conn: ConnectionId, mut behind: Vec<u8>, now: Now) {
        let Some(slot) = self.connections.find(conn) else { return };
        let row = self.connections.row(slot);
        // What waits for a hand-over goes along with it.
        if behind.is_empty() || row.state == State::Moving || row.discard_input {
            return;
        }
        if self.is_held(slot) {
            return self.keep_behind(slot, &behind);
        }
        self.decode(slot, &mut behind, now);
    }

    /// Takes out what came behind something that is not waited for any more.
    pub(super) fn take_behind(&mut self, slot: u32) -> Vec<u8> {
        let row = self.connections.row_mut(slot);
        let behind = row.extra.as_mut().map(|extra| std::mem::take(&mut extra.behind)).unwrap_or_default();
        row.tidy();
        self.connections.reweigh(slot);
        behind
    }
}
