//! Where users are: rows in the registry, written for the users of this shard and read for those of others.
//!
//! A row says user → {node, epoch, shard}, one for each node where the user has connections. It counts only while the lease of its node
//! lives under its epoch ([`Nodes::is_live`](super::nodes::Nodes::is_live)); so a dead node's rows are dead at once, whoever cleans them up.
//!
//! | part | what it does |
//! |---|---|
//! | [`wants`] | writes: merged per user, in batches, under a bound, announced again after a loss, renewed; also the subscriptions |
//! | [`routes`] | the cache of what was read, kept right by invalidations |
//! | [`lookups`] | what waits for a look-up or behind a user who moved, in order |

use std::rc::Rc;

pub use routes::Rows;

use crate::ids::ShardId;

pub mod lookups;
pub mod routes;
pub mod wants;

/// One place where a user has connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name of the node.
    pub node: Rc<str>,
    /// The epoch of the lease under which it was written.
    pub epoch: u64,
    /// The user's home shard on that node.
    pub shard: ShardId,
}
