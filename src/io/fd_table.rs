//! How many descriptors there are, and for whom: one table for the process, or one per shard.
//!
//! A table per shard multiplies what RLIMIT_NOFILE allows, and a table of one's own needs no lock. The order is the law: every runtime,
//! eventfd, socket pair and helper thread is made before the barrier; after it each shard calls [`unshare`], and only then opens its
//! listener. A number made later on another thread means another file here.

use std::io;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::config::FdTables;

/// Descriptors of a table that are not connections, whatever the number of shards: log, signals, admin listener and its connections, files
/// read at a reload.
const RESERVE_BASE: u64 = 128;
/// Descriptors that each shard makes before the barrier, and which are in every table: two rings or epolls and a duplicate, doorbell, breath
/// and its duplicate, timer, both ends of the hand-over, listener and its reserve; and for the bus two connections, each of them twice, and as
/// many again while they are replaced.
const RESERVE_PER_SHARD: u64 = 20;

/// The descriptor tables of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// One per shard.
    pub private: bool,
    /// RLIMIT_NOFILE.
    pub limit: u64,
    /// Shards.
    pub shards: u16,
}

impl Tables {
    /// Decides by `shards.fd_tables`; `connections` is `limits.connections`, 0 for none.
    pub fn decide(setting: FdTables, shards: u16, limit: u64, connections: u64) -> Tables {
        let shared = Tables { private: false, limit, shards };
        let private = match setting {
            FdTables::Shared => false,
            FdTables::Private => true,
            FdTables::Auto => shards > 1 && (connections == 0 || shared.capacity() < connections),
        };
        Tables { private, ..shared }
    }

    /// Connections that one table holds.
    pub fn capacity_of_one(&self) -> u64 {
        self.limit.saturating_sub(reserve(self.shards))
    }

    /// Connections that all tables hold.
    pub fn capacity(&self) -> u64 {
        self.capacity_of_one() * if self.private { u64::from(self.shards) } else { 1 }
    }

    /// The number of shards with private tables that would hold `connections`, where these do not; `None` where they do, or where no number
    /// would.
    pub fn shards_needed(&self, connections: u64) -> Option<u16> {
        if self.capacity() >= connections {
            return None;
        }
        let holds = |&shards: &u16| Tables { private: true, shards, ..*self }.capacity() >= connections;
        (1..=crate::limits::SHARDS_MAX as u16).find(holds)
    }

    /// The name of the setting in effect.
    pub fn name(&self) -> &'static str {
        if self.private { "private" } else { "shared" }
    }
}

fn reserve(shards: u16) -> u64 {
    RESERVE_BASE + RESERVE_PER_SHARD * u64::from(shards)
}

/// Gives this thread a descriptor table of its own, a copy of the process's.
///
/// # Errors
///
/// When the kernel lacks memory for it.
pub fn unshare() -> io::Result<()> {
    // SAFETY: the danger is a number from one table used in another. From here on this thread makes its descriptors itself or gets them over
    // SCM_RIGHTS, and those that were made before mean the same files here as there.
    Ok(unsafe { unshare_unsafe(UnshareFlags::FILES) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_private_only_where_the_limit_would_bind() {
        let table = [
            (FdTables::Auto, 2, 1_000_000, 100_000, false),
            (FdTables::Auto, 2, 20_000, 100_000, true),
            (FdTables::Auto, 1, 20_000, 100_000, false),
            (FdTables::Auto, 2, 20_000, 0, true),
            (FdTables::Shared, 2, 20_000, 100_000, false),
            (FdTables::Private, 2, 1_000_000, 10, true),
        ];
        for (setting, shards, limit, connections, private) in table {
            let tables = Tables::decide(setting, shards, limit, connections);
            assert_eq!(tables.private, private, "{setting:?} {shards} {limit} {connections}");
        }
    }

    #[test]
    fn capacity_counts_what_is_not_a_connection_and_the_needed_shards_hold_it() {
        let tables = Tables::decide(FdTables::Auto, 2, 20_000, 100_000);
        assert_eq!(tables.capacity(), 2 * (20_000 - 128 - 40));
        let needed = tables.shards_needed(100_000).unwrap();
        assert_eq!(needed, 6);
        let enough = Tables { private: true, shards: needed, ..tables };
        assert!(enough.capacity() >= 100_000 && enough.shards_needed(100_000).is_none());
        assert!(Tables { shards: needed - 1, ..enough }.capacity() < 100_000);
        assert_eq!(Tables::decide(FdTables::Auto, 2, 100, 1).capacity(), 0, "a limit below the reserve");
        assert_eq!(Tables::decide(FdTables::Auto, 2, 100, 1).shards_needed(1), None);
    }

    #[test]
    fn a_private_table_does_not_see_what_others_open() {
        use std::os::fd::{AsRawFd, BorrowedFd};
        const SIZE: i64 = 123_457;
        let (to_thread, from_main) = std::sync::mpsc::channel::<i32>();
        let (ready, is_ready) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            unshare().unwrap();
            ready.send(()).unwrap();
            let number = from_main.recv().unwrap();
            // SAFETY: only asked what it is: nothing, or a file of another test from before the split.
            rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(number) }).is_ok_and(|stat| stat.st_size == SIZE)
        });
        is_ready.recv().unwrap();
        let file = rustix::fs::memfd_create("later", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, SIZE as u64).unwrap();
        to_thread.send(file.as_raw_fd()).unwrap();
        assert!(!thread.join().unwrap());
    }
}
