//! What goes wrong.

use super::redis::Command;
use super::{NODES, World};

impl World {
    pub(super) fn fault(&mut self) {
        let until_ms = self.now_ms + self.rng.u64(20..1_500);
        let node = self.rng.usize(..NODES);
        let fault = self.rng.u32(..250);
        if fault < 17 {
            trace!(self, "fault {fault} on node {node} until {until_ms}");
        }
        match fault {
            0 => self.hangs_until_ms = until_ms,
            1 => {
                self.refuses_until_ms = until_ms;
                self.cut(|_| true);
            }
            2 => {
                self.redis.forget(&mut self.connections);
                if self.rng.bool() {
                    self.cut(|_| true);
                }
            }
            3..=6 => {
                let victim = self.rng.u64(..self.next_connection.max(1));
                self.cut(|id| id == victim);
            }
            7 | 8 => {
                let victim = self.rng.u64(..self.next_connection.max(1));
                if let Some(connection) = self.connections.get_mut(&victim) {
                    connection.deaf = true;
                }
            }
            9 | 10 => self.kill(node),
            11 | 12 => self.nodes[node].frozen_until_ms = until_ms,
            13 => self.redis.reap(self.now_ms, &mut self.connections),
            14 => self.nodes[node].lose_lease_at_ms = self.now_ms,
            15 | 16 => self.abandon(node, until_ms),
            _ => {}
        }
        // Who does not hear is replaced in the end.
        if self.rng.u32(..40) == 0 {
            let deaf = self.connections.iter().find(|(_, c)| c.deaf).map(|(id, _)| *id);
            self.cut(|id| Some(id) == deaf);
        }
    }

    pub(super) fn kill(&mut self, node: usize) {
        if self.nodes[node].back_at_ms.is_some() {
            return;
        }
        let until_ms = self.now_ms + self.rng.u64(..800);
        for shard in std::mem::take(&mut self.nodes[node].shards) {
            for id in shard.sides.into_iter().flatten() {
                let connection = self.connections.get_mut(&id).unwrap();
                let arrives = self.rng.usize(..=connection.up.len());
                connection.up.truncate(arrives);
                self.half_open.push((id, until_ms));
            }
            self.ledger.crashed(shard.exchange_id);
        }
        self.nodes[node].back_at_ms = Some(self.now_ms + self.rng.u64(20..1_800));
        self.nodes[node].lease = None;
    }

    /// A client gives a connection up that is slow: what it has sent is carried out all the same, perhaps after what it sends next.
    pub(super) fn abandon(&mut self, node: usize, until_ms: u64) {
        let side = self.rng.usize(..2);
        if !self.nodes[node].runs(self.now_ms) {
            return;
        }
        let Some(id) = self.nodes[node].shards[0].sides[side] else { return };
        // But for rows and leases: how those are written is tested elsewhere.
        let connection = self.connections.get_mut(&id).expect("a connection lives while its client does");
        connection.up.retain(|command| matches!(command, Command::Publish { .. } | Command::Find { .. }));
        self.half_open.push((id, until_ms));
        self.lose(node, 0, side, self.now_ms);
    }

    /// The server ends connections: some of the answers still arrive.
    pub(super) fn cut(&mut self, which: impl Fn(u64) -> bool) {
        for (id, connection) in &mut self.connections {
            if which(*id) && !connection.cut {
                connection.cut = true;
                connection.up.clear();
                connection.channels.clear();
                let arrives = self.rng.usize(..=connection.down.len());
                connection.down.truncate(arrives);
            }
        }
    }
}
