//! Users who belong on another node, with `cluster.routing = "hash"`: each is told where to connect, and closed (4200) when that time has come.
//!
//! Until then, and wherever a client does not follow, it is served like any other: its row says where it is in fact, and messages find it by
//! that, not by the ring. So a ring that nodes disagree on for a moment costs a few a connection, and nobody a message.

use super::{Cluster, clock};
use crate::cluster::moving::{Member, Tell};
use crate::cluster::wire::Outgoing;
use crate::protocol::reply;
use crate::shard::Shard;
use crate::shard::drain::Drain;
use crate::shard::row::{Paused, State};
use crate::time::Now;

impl Shard {
    /// The leases were read, or this node drains: the ring may be another one.
    pub(super) fn ring_read(&mut self, now: Now) {
        let draining = self.drain != Drain::Off;
        let Some(Cluster { agent, nodes, moving: Some(moving), .. }) = self.cluster.as_deref_mut() else { return };
        let me = agent.standing().map_or("", |standing| &standing.node);
        // Who drains is on nobody's way any more, whether the others have heard of it or not.
        let members = nodes.members().map(|(node, about)| Member {
            node,
            weight: if draining && **node == *me { 0 } else { about.weight },
            advertise: about.advertise.as_deref(),
        });
        moving.set_members(me, members, now.mono_ms);
    }

    /// This node drains: it leaves the ring while it still has its lease.
    pub(in crate::shard) fn retire(&mut self, now: Now) {
        self.ring_read(now);
        if let Some(cluster) = &mut self.cluster {
            cluster.agent.renew_lease(clock(now));
            self.ask_bus(Outgoing::Retire);
        }
    }

    /// Looks at the next users who are here, after the ring has changed.
    pub(super) fn move_users(&mut self, now: Now) {
        let (places, spread_ms) = (self.users.places(), self.settings.config.drain.spread_ms);
        let moves = self.moves_users(now);
        while let Some(Cluster { moving: Some(moving), .. }) = self.cluster.as_deref_mut() {
            if !moves {
                return moving.hold(now.mono_ms);
            }
            let Some(place) = moving.next_place(places, spread_ms, now.mono_ms) else { return };
            let Some(user) = self.users.at(place) else { continue };
            // Who is not welcomed yet is looked at then, and perhaps comes with the mark of one who was told.
            let waits = |slot: &u32| self.connections.row(*slot).paused.contains(Paused::BUS);
            if user.connections.iter().all(waits) {
                continue;
            }
            let Some(tell) = moving.look_at(&user.name, now.mono_ms) else { continue };
            for slot in user.connections.clone() {
                self.tell_to_move(slot, &tell, now);
            }
        }
    }

    /// A session has begun: is it one of this node's?
    pub(in crate::shard) fn move_newcomer(&mut self, slot: u32, now: Now) {
        let row = self.connections.row(slot);
        if row.state != State::Active || !self.moves_users(now) {
            return;
        }
        let user = &self.users.get(row.user).name;
        let moving = self.cluster.as_mut().and_then(|cluster| cluster.moving.as_mut());
        if let Some(tell) = moving.and_then(|moving| moving.arrived(user, row.moved, now.mono_ms)) {
            self.tell_to_move(slot, &tell, now);
        }
    }

    /// Where a connection's user can go when this node ends, where that is known.
    pub(in crate::shard) fn place_elsewhere(&self, slot: u32) -> Option<String> {
        let moving = self.cluster.as_ref()?.moving.as_ref()?;
        moving.elsewhere(&self.users.get(self.connections.row(slot).user).name)
    }

    /// Whether the ring can be relied on: this node is in the cluster, sees the others, and is seen by them.
    fn moves_users(&self, now: Now) -> bool {
        let Some(cluster) = self.cluster.as_ref().filter(|cluster| cluster.moving.is_some()) else { return false };
        let me = cluster.agent.standing().filter(|me| cluster.nodes.is_live(&me.node, me.epoch, now.boot_ms));
        me.is_some() && cluster.is_usable(now) && self.drain == Drain::Off
    }

    fn tell_to_move(&mut self, slot: u32, tell: &Tell, now: Now) {
        let at_ds = self.connections.ds(now).saturating_add(tell.after_ms.div_ceil(100) as u32);
        self.connections.row_mut(slot).extra().moves_at_ds = Some(at_ds);
        self.connections.reweigh(slot);
        self.connections.bring_forward(slot, at_ds);
        self.connections.counters.told_to_move += 1;
        let capacity = 96 + tell.url.len();
        self.say(slot, capacity, |out| reply::reconnect(out, tell.after_ms, Some(&tell.url), "moved"), now);
    }
}
