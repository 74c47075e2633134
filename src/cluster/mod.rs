//! What a cluster decides, pure.
pub mod agent;
pub mod hash;
pub mod lease;
pub mod link;
pub mod nodes;
pub mod registry;
pub mod ring;
