//! The wires to other nodes.
pub mod redis;
