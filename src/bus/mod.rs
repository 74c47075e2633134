//! The wires to other nodes. What goes over them is decided in [`cluster`](crate::cluster) and in the shards.

pub mod redis;
