//! The only user of sockets and of the runtime: everything between the kernel and the state machine of a shard.
//!
//! One thread per shard runs a monoio runtime, and in it one task, the [`reactor`], which owns a [`poller`] over all descriptors of the
//! shard: clients, listener, doorbell, hand-overs, timer. Whatever the shard waits for is behind one descriptor, the poller's, and that one is
//! awaited through monoio. A connection is a row: no task, no buffer, no timer.
//!
//! Invariants: no buffer belongs to the kernel between two turns; a row is freed when its socket is closed and its poll has had its
//! last word; nothing here decides anything about a connection that [`Machine`](machine::Machine) could decide.
//!
//! This is the one folder with unsafe code: submissions to io_uring, which take raw pointers, and `unshare`.
#![allow(unsafe_code)]

pub mod bus;
pub mod ceiling;
pub mod clock;
mod closing;
pub mod counters;
pub mod desk;
pub mod fd_table;
mod flush;
pub mod listener;
pub mod machine;
mod moves;
pub mod poller;
pub mod process;
pub mod reactor;
mod receive;
mod rows;
pub mod runtime;
pub mod shards;
pub mod tcp;
