//! What clients and gateway say to each other.

pub mod class;
