//! An eventfd that is rung only while its shard sleeps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::utils::CachePadded;
use rustix::event::{EventfdFlags, eventfd};

/// The doorbell of one shard.
///
/// The ringer publishes, fences, and rings only if the shard sleeps. The shard drains, announces sleep, fences, looks again, and only then
/// waits. One of the two always sees the other.
#[derive(Debug)]
pub(super) struct Doorbell {
    fd: OwnedFd,
    sleeping: CachePadded<AtomicBool>,
}

impl Doorbell {
    pub(super) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Doorbell { fd, sleeping: CachePadded::default() })
    }

    /// Wakes the shard if it sleeps; says whether it had to.
    pub(super) fn ring(&self) -> bool {
        fence(Ordering::SeqCst);
        let ring = self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::SeqCst);
        if ring {
            // The pollers look for edges and never read the count, which 2^64 rings do not fill.
            let rung = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
            debug_assert!(rung.is_ok(), "an eventfd takes a ring: {rung:?}");
        }
        ring
    }

    pub(super) fn sleep(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(super) fn awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
