//! Envelopes on their way to other shards, and the credit that keeps them bounded.
//!
//! An origin shard has credit, in envelopes and bytes, at every home shard (itself included). What it sends on behalf of a client uses
//! credit up; the home gives it back when the last destination of what came of it has been taken by the mesh. A destination whose queue is
//! full lets envelopes wait here, first in first out; so the home's queue is bounded by the credit of all origins, and an origin without
//! credit stops reading from the client that sends.
//!
//! What the bus brings has no origin here that could stop: over its bound, which is lower for what may be dropped, it is given up, and when the
//! destination has caught up it is told what it was not sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use crate::ids::{ConnectionId, ShardId};
use crate::limits::{
    BUS_ENVELOPES_HIGH, BUS_ENVELOPES_LOW, BUS_ENVELOPES_MAX, MESH_CREDIT_BYTES, MESH_CREDIT_ENVELOPES,
};
use crate::protocol::class::Class;
use crate::protocol::envelope::{Envelope, Topic};

/// Credit in use for one message; given back when the last clone is gone.
#[derive(Clone, Debug)]
pub(super) struct Debt(Rc<DebtTo>);

#[derive(Debug)]
struct DebtTo {
    origin: ShardId,
    bytes: u32,
}

/// The queues to all shards, and the credit at them.
#[derive(Debug)]
pub(super) struct Relay {
    me: ShardId,
    lanes: Vec<Lane>,
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<(Envelope, Option<Debt>)>,
    /// What this shard has outstanding there.
    used: Amount,
    /// What is owed back to that shard and not sent yet.
    owed: Amount,
    /// Clients that are not read from until there is credit again.
    waiting: BTreeSet<ConnectionId>,
    /// Messages of the bus that were given up, by what they were for: at most every topic at home here.
    shed: BTreeMap<(Topic, Box<str>), u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    envelopes: u32,
    bytes: u32,
}

impl Relay {
    pub(super) fn new(me: ShardId, shards: u16) -> Self {
        Relay { me, lanes: (0..shards).map(|_| Lane::default()).collect() }
    }

    /// Uses credit at `home` for a message of that many bytes. Returns whether there is more; without, the client must wait
    /// (see [`Relay::wait`]): what it sent already is still taken.
    #[must_use]
    pub(super) fn spend(&mut self, home: ShardId, bytes: usize) -> bool {
        let used = &mut self.lanes[home.index()].used;
        used.envelopes += 1;
        used.bytes = used.bytes.saturating_add(bytes as u32);
        used.envelopes < MESH_CREDIT_ENVELOPES && used.bytes < MESH_CREDIT_BYTES
    }

    /// This client waits for credit at `home`.
    pub(super) fn wait(&mut self, home: ShardId, conn: ConnectionId) {
        self.lanes[home.index()].waiting.insert(conn);
    }

    /// The debt for something received from `origin`, or sent by this shard itself.
    pub(super) fn debt(&self, origin: ShardId, bytes: usize) -> Debt {
        Debt(Rc::new(DebtTo { origin, bytes: bytes as u32 }))
    }

    /// Done with a message for this destination. With the last clone the credit goes back; returns the clients that may be read from again.
    pub(super) fn settle(&mut self, debt: Debt) -> Vec<ConnectionId> {
        let Some(debt) = Rc::into_inner(debt.0) else { return Vec::new() };
        if debt.origin == self.me {
            return self.restore(self.me, 1, debt.bytes);
        }
        let owed = &mut self.lanes[debt.origin.index()].owed;
        owed.envelopes += 1;
        owed.bytes = owed.bytes.saturating_add(debt.bytes);
        Vec::new()
    }

    /// Credit came back from `home`. Returns the clients that may be read from again: with hysteresis, at half of the credit, and only
    /// those that do not wait for another home as well.
    pub(super) fn restore(&mut self, home: ShardId, envelopes: u32, bytes: u32) -> Vec<ConnectionId> {
        let lane = &mut self.lanes[home.index()];
        lane.used.envelopes = lane.used.envelopes.saturating_sub(envelopes);
        lane.used.bytes = lane.used.bytes.saturating_sub(bytes);
        if lane.used.envelopes > MESH_CREDIT_ENVELOPES / 2 || lane.used.bytes > MESH_CREDIT_BYTES / 2 {
            return Vec::new();
        }
        let ready = std::mem::take(&mut lane.waiting);
        ready.into_iter().filter(|conn| !self.lanes.iter().any(|lane| lane.waiting.contains(conn))).collect()
    }

    /// Queues an envelope for another shard.
    pub(super) fn send(&mut self, to: ShardId, envelope: Envelope, debt: Option<Debt>) {
        debug_assert_ne!(to, self.me, "a shard does not send to itself");
        self.lanes[to.index()].queue.push_back((envelope, debt));
    }

    /// Whether anything waits for `to`.
    pub(super) fn has(&self, to: ShardId) -> bool {
        let lane = &self.lanes[to.index()];
        lane.owed.envelopes > 0 || !lane.queue.is_empty()
    }

    /// Envelopes that wait for `to`.
    pub(super) fn waiting_for(&self, to: ShardId) -> usize {
        self.lanes[to.index()].queue.len()
    }

    /// Whether there is room for a message of the bus to another shard. Where there is none, it is given up, and that is remembered.
    #[must_use]
    pub(super) fn has_room(&mut self, to: ShardId, class: Class, topic: Topic, name: &str) -> bool {
        let max = match class {
            Class::Urgent | Class::Normal => BUS_ENVELOPES_MAX,
            Class::Latest | Class::Droppable => BUS_ENVELOPES_HIGH,
        };
        if self.waiting_for(to) < max {
            return true;
        }
        let lane = &mut self.lanes[to.index()];
        let dropped = lane.shed.entry((topic, name.into())).or_default();
        *dropped = dropped.saturating_add(1);
        false
    }

    /// Tells shards that have caught up what they were not sent.
    pub(super) fn tell_shed(&mut self) {
        for lane in &mut self.lanes {
            while lane.queue.len() < BUS_ENVELOPES_LOW
                && let Some(((topic, name), dropped)) = lane.shed.pop_first()
            {
                lane.queue.push_back((Envelope::Shed { topic, name, dropped }, None));
            }
        }
    }

    /// Payload bytes of what [`Relay::take`] returns next.
    pub(super) fn next_bytes(&self, to: ShardId) -> Option<usize> {
        let lane = &self.lanes[to.index()];
        if lane.owed.envelopes > 0 {
            return Some(0);
        }
        lane.queue.front().map(|(envelope, _)| envelope.payload_bytes())
    }

    /// The next envelope for `to`, credit first, and the debt to settle for it.
    pub(super) fn take(&mut self, to: ShardId) -> Option<(Envelope, Option<Debt>)> {
        let lane = &mut self.lanes[to.index()];
        if lane.owed.envelopes > 0 {
            let owed = std::mem::take(&mut lane.owed);
            return Some((Envelope::Credit { envelopes: owed.envelopes, bytes: owed.bytes }, None));
        }
        lane.queue.pop_front()
    }

    /// Envelopes that wait, over all destinations.
    pub(super) fn len(&self) -> usize {
        self.lanes.iter().map(|l| l.queue.len()).sum()
    }

    /// Envelopes for which credit is in use, over all homes.
    pub(super) fn outstanding(&self) -> u64 {
        self.lanes.iter().map(|l| u64::from(l.used.envelopes)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ShardId = ShardId(0);
    const B: ShardId = ShardId(1);
    const C: ShardId = ShardId(2);

    fn broadcast(bytes: usize) -> Envelope {
        Envelope::Answer {
            conn: ConnectionId { shard: C, slot: 0, generation: 0 },
            frame: vec![0; bytes].into_boxed_slice(),
        }
    }

    #[test]
    fn credit_goes_back_with_the_last_destination() {
        let mut home = Relay::new(B, 3);
        let debt = home.debt(A, 100);
        home.send(A, broadcast(100), Some(debt.clone()));
        home.send(C, broadcast(100), Some(debt.clone()));
        assert!(home.settle(debt).is_empty());
        let (_, first) = home.take(C).unwrap();
        home.settle(first.unwrap());
        assert_eq!(home.next_bytes(A), Some(100), "nothing is owed while a destination waits");
        let (_, last) = home.take(A).unwrap();
        home.settle(last.unwrap());
        assert!(matches!(home.take(A), Some((Envelope::Credit { envelopes: 1, bytes: 100 }, None))));
        assert!(!home.has(A) && !home.has(C));
    }

    #[test]
    fn a_client_waits_without_credit_and_goes_on_at_half_of_it() {
        let mut origin = Relay::new(A, 2);
        let conn = ConnectionId { shard: A, slot: 1, generation: 1 };
        let mut sent = 0;
        while origin.spend(B, 10) {
            sent += 1;
        }
        assert_eq!(sent + 1, MESH_CREDIT_ENVELOPES);
        origin.wait(B, conn);
        assert!(origin.restore(B, MESH_CREDIT_ENVELOPES / 2 - 1, 0).is_empty());
        assert_eq!(origin.restore(B, 1, 0), [conn]);
        assert_eq!(origin.outstanding(), u64::from(MESH_CREDIT_ENVELOPES / 2));
    }

    #[test]
    fn a_client_that_waits_for_two_homes_goes_on_with_the_second() {
        let mut origin = Relay::new(A, 3);
        let conn = ConnectionId { shard: A, slot: 1, generation: 1 };
        for home in [B, C] {
            assert!(!origin.spend(home, MESH_CREDIT_BYTES as usize));
            origin.wait(home, conn);
        }
        assert!(origin.restore(B, 1, MESH_CREDIT_BYTES).is_empty(), "it would go on sending to C");
        assert_eq!(origin.restore(C, 1, MESH_CREDIT_BYTES), [conn]);
    }
}
