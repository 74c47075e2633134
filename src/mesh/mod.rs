//! Between the shards of one process: bounded queues, doorbells, and the way a socket moves from one shard to another.
//!
//! For each ordered pair of shards there is one queue with one producer and one consumer, bounded in parcels and in bytes. Nobody ever
//! waits for anybody: a full queue is the producer's to notice ([`MeshPort::has_room`]); it leaves a mark and is rung when there is room
//! again. A shard that sleeps is woken through its doorbell, and only then.
//!
//! Everything here is made before the shards start, because after `unshare(CLONE_FILES)` a new descriptor would be another file on every
//! shard.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub mod doorbell;
pub mod handoff;
pub mod queue;

use crate::ids::ShardId;
use crate::limits;
use crate::protocol::envelope::Envelope;
use doorbell::Doorbell;
use queue::Pair;

/// Parcels that one shard may find in all its queues together, before the bound of each pair.
const INBOX_PARCELS: usize = 16 * 1024;
/// The smallest queue of a pair, however many shards there are.
const QUEUE_PARCELS_MIN: usize = 64;
/// Parcels to take from one pair per call of [`MeshPort::drain`], so that no neighbour starves the others or the clients.
pub const DRAIN_PARCELS: usize = 256;

/// What can travel on the mesh.
pub trait Parcel {
    /// Bytes of payload, for the byte bound of the queues.
    fn payload_bytes(&self) -> usize;
}

impl Parcel for Envelope {
    fn payload_bytes(&self) -> usize {
        Envelope::payload_bytes(self)
    }
}

/// The bells of all shards, for whoever has something for a shard to look at.
#[derive(Clone, Debug)]
pub struct Bells(Arc<[Doorbell]>);

impl Bells {
    /// One bell per shard.
    ///
    /// # Errors
    ///
    /// When an eventfd cannot be made.
    pub fn new(shards: usize) -> io::Result<Self> {
        Ok(Bells((0..shards).map(|_| Doorbell::new()).collect::<io::Result<Vec<_>>>()?.into()))
    }

    /// Wakes `shard` if it sleeps. Call it after what it shall find has been published.
    pub fn ring(&self, shard: ShardId) -> bool {
        self.0.get(shard.index()).is_some_and(Doorbell::ring)
    }

    /// The bell of `shard`.
    fn of(&self, shard: ShardId) -> &Doorbell {
        &self.0[shard.index()]
    }
}

#[derive(Debug)]
struct Shared<E> {
    shards: usize,
    /// `from * shards + to`; `None` where both are the same.
    pairs: Vec<Option<Pair<E>>>,
    bells: Bells,
}

impl<E> Shared<E> {
    fn pair(&self, from: usize, to: usize) -> Option<&Pair<E>> {
        self.pairs.get(from * self.shards + to)?.as_ref()
    }
}

/// One shard's end of the mesh: the only producer of the queues that leave it, and the only consumer of those that reach it.
#[derive(Debug)]
pub struct MeshPort<E> {
    id: ShardId,
    shared: Arc<Shared<E>>,
    /// Where the next drain begins, so that the first neighbour has no privilege.
    first: usize,
    /// Doorbells rung, for the counters.
    rings: u64,
}

/// Makes the mesh: one port per shard, in their order.
pub fn build<E: Parcel + Send>(shards: usize, bells: &Bells) -> Vec<MeshPort<E>> {
    let capacity = (INBOX_PARCELS / shards.max(1)).clamp(QUEUE_PARCELS_MIN, limits::MESH_QUEUE_ENVELOPES);
    with_bounds(shards, bells, capacity, limits::MESH_QUEUE_BYTES)
}

fn with_bounds<E: Parcel + Send>(shards: usize, bells: &Bells, parcels: usize, bytes: usize) -> Vec<MeshPort<E>> {
    let pairs = (0..shards * shards).map(|i| (i / shards != i % shards).then(|| Pair::new(parcels, bytes))).collect();
    let shared = Arc::new(Shared { shards, pairs, bells: bells.clone() });
    let port = |i: usize| MeshPort { id: ShardId(i as u16), shared: shared.clone(), first: i, rings: 0 };
    (0..shards).map(port).collect()
}

impl<E: Parcel> MeshPort<E> {
    /// The shard whose port this is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shared.shards
    }

    /// Whether a parcel of `bytes` may be pushed to `to` now. After `false` this shard will be rung once `to` has made room.
    pub fn has_room(&self, to: ShardId, bytes: usize) -> bool {
        let Some(pair) = self.shared.pair(self.id.index(), to.index()) else { return false };
        pair.has_room(bytes) || {
            pair.wait();
            pair.has_room(bytes)
        }
    }

    /// Puts a parcel on the queue to `to`; [`MeshPort::ring`] makes sure that it is seen.
    ///
    /// # Errors
    ///
    /// Gives the parcel back where there is no room: ask [`MeshPort::has_room`] first.
    pub fn push(&mut self, to: ShardId, parcel: E) -> Result<(), E> {
        match self.shared.pair(self.id.index(), to.index()) {
            Some(pair) => pair.push(parcel),
            None => Err(parcel),
        }
    }

    /// Wakes `to` if it sleeps: once after a run of pushes.
    pub fn ring(&mut self, to: ShardId) {
        self.rings += u64::from(self.shared.bells.ring(to));
    }

    /// Takes what the neighbours have sent, at most so many from each, and rings those who waited for room. Says whether there is more.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(ShardId, E)) -> bool {
        let mut more = false;
        for i in 0..self.shared.shards {
            let from = (self.first + i) % self.shared.shards;
            let Some(pair) = self.shared.pair(from, self.id.index()) else { continue };
            more |= pair.drain(most, |parcel| take(ShardId(from as u16), parcel));
        }
        self.first = (self.first + 1) % self.shared.shards;
        self.ring_waiting();
        more
    }

    /// Marks this shard as waiting for `to`, for something other than a queue: it will be rung after `to` has taken something in.
    pub fn wait_for(&self, to: ShardId) {
        if let Some(pair) = self.shared.pair(self.id.index(), to.index()) {
            pair.wait();
        }
    }

    /// Rings the neighbours that wait for this shard.
    pub fn ring_waiting(&mut self) {
        for from in 0..self.shared.shards {
            if self.shared.pair(from, self.id.index()).is_some_and(Pair::end_wait) {
                self.rings += u64::from(self.shared.bells.ring(ShardId(from as u16)));
            }
        }
    }

    /// Announces sleep, and says whether this shard may: `false` when something has arrived meanwhile, or `look` finds something.
    pub fn sleep(&self, look: impl FnOnce() -> bool) -> bool {
        let bell = self.shared.bells.of(self.id);
        bell.sleep();
        if self.has_incoming() || look() {
            bell.awake();
            return false;
        }
        true
    }

    /// Ends the sleep.
    pub fn awake(&self) {
        self.shared.bells.of(self.id).awake();
    }

    /// What becomes readable when this shard is rung.
    pub fn bell_fd(&self) -> BorrowedFd<'_> {
        self.shared.bells.of(self.id).fd()
    }

    /// Doorbells rung by this shard so far.
    pub fn rings(&self) -> u64 {
        self.rings
    }

    fn has_incoming(&self) -> bool {
        (0..self.shared.shards).any(|from| self.shared.pair(from, self.id.index()).is_some_and(|p| !p.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    impl Parcel for (u64, usize) {
        fn payload_bytes(&self) -> usize {
            self.1
        }
    }

    fn ports(parcels: usize, bytes: usize) -> Vec<MeshPort<(u64, usize)>> {
        with_bounds(2, &Bells::new(2).unwrap(), parcels, bytes)
    }

    fn rung(port: &MeshPort<(u64, usize)>, within: Duration) -> bool {
        let fd = port.bell_fd();
        let timeout = rustix::event::Timespec::try_from(within).unwrap();
        let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&timeout)).unwrap() == 1
    }

    #[test]
    fn bounds_hold_in_parcels_and_bytes_and_a_giant_passes_alone() {
        let mut ports = ports(4, 100);
        let (a, b) = (ShardId(0), ShardId(1));
        let mut b_port = ports.pop().unwrap();
        let mut a_port = ports.pop().unwrap();
        assert!(!a_port.has_room(a, 0), "no queue to oneself");
        assert!(a_port.has_room(b, 1000), "an empty queue takes a parcel over its byte bound");
        a_port.push(b, (0, 1000)).unwrap();
        assert!(!a_port.has_room(b, 1));
        let mut got = Vec::new();
        assert!(!b_port.drain(DRAIN_PARCELS, |from, parcel| got.push((from, parcel))));
        assert_eq!(got, [(a, (0, 1000))]);
        for i in 0..4 {
            assert!(a_port.has_room(b, 10));
            a_port.push(b, (i, 10)).unwrap();
        }
        assert!(!a_port.has_room(b, 10), "four parcels are the bound");
        assert_eq!(a_port.push(b, (9, 1)), Err((9, 1)));
    }

    #[test]
    fn a_sleeper_is_rung_once_and_one_that_is_awake_is_not() {
        let mut ports = ports(16, 1000);
        let b_port = ports.pop().unwrap();
        let mut a_port = ports.pop().unwrap();
        a_port.push(ShardId(1), (1, 1)).unwrap();
        a_port.ring(ShardId(1));
        assert_eq!(a_port.rings(), 0);
        assert!(!b_port.sleep(|| false), "something waits: no sleep");
        let mut b_port = b_port;
        b_port.drain(DRAIN_PARCELS, |_, _| {});
        assert!(!b_port.sleep(|| true), "the caller sees something: no sleep");
        assert!(b_port.sleep(|| false));
        assert!(!rung(&b_port, Duration::ZERO));
        for i in 0..3 {
            a_port.push(ShardId(1), (i, 1)).unwrap();
            a_port.ring(ShardId(1));
        }
        assert_eq!(a_port.rings(), 1);
        assert!(rung(&b_port, Duration::ZERO));
    }

    #[test]
    fn a_producer_parked_on_a_full_queue_is_rung_when_it_has_been_drained() {
        const PARCELS: u64 = 50_000;
        let mut ports = ports(8, 64);
        let mut b_port = ports.pop().unwrap();
        let mut a_port = ports.pop().unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        let consumer = std::thread::spawn(move || {
            let mut next = 0;
            while next < PARCELS {
                assert!(Instant::now() < deadline, "stuck at {next}");
                b_port.drain(DRAIN_PARCELS, |_, (n, _)| {
                    assert_eq!(n, next, "order");
                    next += 1;
                });
                if b_port.sleep(|| false) {
                    rung(&b_port, Duration::from_secs(30));
                    b_port.awake();
                }
            }
            b_port.rings()
        });
        let mut n = 0;
        while n < PARCELS {
            assert!(Instant::now() < deadline, "stuck at {n}");
            let mut pushed = false;
            while n < PARCELS && a_port.has_room(ShardId(1), 10) {
                a_port.push(ShardId(1), (n, 10)).unwrap();
                n += 1;
                pushed = true;
            }
            if pushed {
                a_port.ring(ShardId(1));
            }
            if n < PARCELS && a_port.sleep(|| a_port.has_room(ShardId(1), 10)) {
                assert!(rung(&a_port, Duration::from_secs(30)), "parked and never rung at {n}");
                a_port.awake();
            }
        }
        consumer.join().unwrap();
    }
}
