//! The leases of nodes.

use std::sync::Arc;

use ringgate::cluster::agent::Standing;

use super::node::Lease;
use super::redis::Command;
use super::{LEASE_TTL_MS, World};

impl World {
    /// On the first shard's connection for commands.
    pub(super) fn watch_lease(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let place = &mut self.nodes[node];
        let lost =
            place.lease.as_ref().is_some_and(|lease| lease.until_ms <= now_ms || place.lose_lease_at_ms == now_ms);
        // It is noticed now, or a little later, as a tick would.
        if lost && self.rng.bool() {
            self.stand(node, None);
        }
        let place = &mut self.nodes[node];
        if place.shards[0].sides[0].is_none() {
            place.lease_asked = false;
            return;
        }
        let name = place.name.clone();
        let mut commands = Vec::new();
        if now_ms >= place.poll_at_ms {
            place.poll_at_ms = now_ms + 100;
            commands.push(Command::Poll { asked_ms: now_ms });
        }
        if !place.lease_asked {
            match &place.lease {
                None => {
                    place.lease_asked = true;
                    let floor = (1_000_000 + now_ms).max(place.newest_epoch + 1);
                    commands.push(Command::Acquire { node: name, floor, sent_ms: now_ms });
                }
                Some(lease) if now_ms >= lease.renew_at_ms => {
                    place.lease_asked = true;
                    commands.push(Command::Renew { node: name, epoch: lease.epoch, sent_ms: now_ms });
                }
                Some(_) => {}
            }
        }
        for command in commands {
            self.command(node, 0, 0, command);
        }
    }

    pub(super) fn lease_answered(&mut self, node: usize, epoch: Option<u64>, renewed: u64, sent_ms: u64) {
        let now_ms = self.now_ms;
        let place = &mut self.nodes[node];
        place.lease_asked = false;
        place.newest_epoch = place.newest_epoch.max(renewed);
        let until_ms = sent_ms + LEASE_TTL_MS;
        let held = place.lease.as_ref().map(|lease| lease.epoch);
        let lease = |epoch| Lease { epoch, until_ms, renew_at_ms: sent_ms + LEASE_TTL_MS / 3 };
        match epoch {
            // What ran out does not live on.
            Some(epoch)
                if until_ms > now_ms
                    && held.is_none_or(|held| held == epoch)
                    && place.lease.as_ref().is_none_or(|lease| lease.until_ms > now_ms) =>
            {
                self.stand(node, Some(lease(epoch)));
            }
            Some(_) => {}
            None if held == Some(renewed) => self.stand(node, None),
            None => {}
        }
    }

    pub(super) fn stand(&mut self, node: usize, lease: Option<Lease>) {
        let clock = self.clock();
        let place = &mut self.nodes[node];
        let epoch = |lease: &Option<Lease>| lease.as_ref().map(|lease| lease.epoch);
        let changed = epoch(&place.lease) != epoch(&lease);
        if changed && self.traces {
            eprintln!("{:>6} node {node} has epoch {:?}", self.now_ms, epoch(&lease));
        }
        place.lease = lease;
        let standing = place.lease.as_ref().map(|lease| Standing {
            node: Arc::from(&*place.name),
            epoch: lease.epoch,
            until_ms: lease.until_ms,
            ends_ms: lease.until_ms,
            memory: 1,
        });
        for shard in &mut place.shards {
            shard.exchange.standing(standing.as_ref(), clock);
            if changed {
                shard.start_over();
            }
        }
        for shard in 0..self.nodes[node].shards.len() {
            if changed {
                self.subscribe(node, shard);
            }
            self.act(node, shard);
        }
    }
}
