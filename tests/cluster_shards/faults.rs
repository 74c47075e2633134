//! What goes wrong, and that it stops.

use super::{NODES, World};

/// What clocks and machines that sleep may add.
const SLEEP_MS_MAX: u64 = 20_000;
const WALL_CLOCK_JUMP_MS: u64 = 3_600_000;

impl World {
    /// Now and then one more.
    pub(super) fn fault(&mut self) {
        let now_ms = self.net.now_ms;
        let until_ms = now_ms + self.rng.u64(50..3_000);
        let node = self.rng.usize(..NODES);
        let fault = self.rng.u32(..400);
        if fault < 27 {
            trace!(self, "fault {fault} (node {node}, until {until_ms})");
        }
        let net = &mut self.net;
        match fault {
            0 => net.hangs_until_ms = until_ms,
            1 => {
                net.refuses_until_ms = until_ms;
                net.cut(&mut self.rng, |_, _| true);
            }
            // Restarted, empty.
            2 => {
                net.redis.restart();
                net.refuses_until_ms = now_ms + self.rng.u64(..300);
                net.cut(&mut self.rng, |_, _| true);
            }
            3 | 4 => net.redis.flush(&mut net.connections),
            5 => net.redis.full = !net.redis.full,
            6 => net.redis.forget_scripts(),
            7..=10 => {
                let victim = net.any_line(&mut self.rng);
                net.cut(&mut self.rng, |line, _| line == victim);
            }
            11..=13 => {
                let victim = net.any_line(&mut self.rng);
                if let Some(connection) = net.connections.get_mut(&victim) {
                    connection.deaf = true;
                }
            }
            // In the middle of whatever it does next.
            14..=17 if self.runs(node) => {
                let (step, back_in_ms) = (self.rng.u64(..300), self.rng.u64(20..4_000));
                let place = &mut self.nodes[node];
                place.dies_at.get_or_insert((place.steps + step, back_in_ms));
            }
            18..=20 => self.nodes[node].frozen_until_ms = until_ms,
            // The machine sleeps: this clock goes on.
            21 => {
                let slept_ms = self.rng.u64(..SLEEP_MS_MAX);
                self.nodes[node].boot_ahead_ms += slept_ms;
            }
            22..=24 if !self.twins => {
                let place = &mut self.nodes[node];
                place.unix_ahead_ms = self.rng.u64(..2 * WALL_CLOCK_JUMP_MS);
                place.unix_most_ms = place.unix_most_ms.max(place.unix_ahead_ms);
            }
            _ => {}
        }
    }

    /// Ends all faults; the dead come back.
    pub fn heal(&mut self) {
        trace!(self, "heals");
        (self.net.hangs_until_ms, self.net.refuses_until_ms) = (0, 0);
        self.net.redis.full = false;
        for node in &mut self.nodes {
            node.frozen_until_ms = 0;
            node.dies_at = None;
            node.back_at_ms = node.back_at_ms.map(|_| 0);
        }
    }
}
