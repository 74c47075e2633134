//! The registry.
pub mod lookups;
pub mod routes;
pub mod wants;
use std::rc::Rc;

pub use routes::Rows;

use crate::ids::ShardId;
/// One place where a user has connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The node.
    pub node: Rc<str>,
    /// The epoch.
    pub epoch: u64,
    /// The user's home shard on that node.
    pub shard: ShardId,
}
