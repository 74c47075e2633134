//! What shards say to each other.

/// A message between shards of one process.
#[derive(Debug)]
pub enum Envelope {
    /// Placeholder.
    Nothing,
}

impl Envelope {
    /// Bytes of payload, for the bounds of the mesh.
    pub fn payload_bytes(&self) -> usize {
        0
    }
}
