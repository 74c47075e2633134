//! What all shards share, read-only.

use crate::config::Config;

/// The configuration and what was made of it at the start.
#[derive(Debug)]
pub struct Settings {
    /// The configuration.
    pub config: Config,
    /// The id of this node.
    pub node_id: String,
    /// The number of shards.
    pub shards: u16,
}
