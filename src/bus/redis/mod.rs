//! Redis as the bus: the redis crate makes commands and reads values, the sockets are monoio's.
//!
//! | module | what it is |
//! |---|---|
//! | [`wires`] | the two connections of one shard, for its [agent](crate::cluster::agent) |
//! | [`pipeline`], [`pubsub`] | a connection for commands, a subscribed connection |
//! | [`wire`] | the reader task and the writer task under both |
//! | [`open`], [`connect`], [`target`] | from `redis.url` to a connection that is greeted |
//! | [`resp`] | where a reply ends, in RESP3 |
//! | [`scripts`] | the scripts, the names of keys, and what the replies mean |
//! | [`trouble`] | what an error of Redis means |
//!
//! Invariants: no operation is ever cancelled (a [`Plug`](connect::Plug) ends what waits); what arrives and is not taken makes the reader wait;
//! a command has exactly one answer, its own or the end; no text that is logged has a secret in it.

pub mod connect;
mod mailbox;
pub mod open;
pub mod pipeline;
pub mod pubsub;
pub mod resp;
pub mod scripts;
pub mod target;
pub mod trouble;
pub mod wire;
pub mod wires;
