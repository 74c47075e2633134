//! What may be given up first while a receiver is behind.

use serde::{Deserialize, Serialize};

/// The class of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Class {
    /// Overtakes whole queued messages.
    Urgent,
    /// Kept, in order.
    #[default]
    Normal,
    /// Only the newest per key is kept while the receiver is behind.
    Latest,
    /// Dropped while the receiver is behind.
    Droppable,
}
