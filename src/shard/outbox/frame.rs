//! A whole server frame that many outboxes share, and how much all of those of a shard take up together.
//!
//! Never leaves its shard: handles are counted without atomics.

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use bytes::Bytes;

/// What a frame takes up besides its bytes: its owner, and what allocations are rounded up by.
pub(in crate::shard) const FRAME_OVERHEAD_BYTES: u64 = 128;

/// A handle of a frame.
#[derive(Clone)]
pub struct Frame(Rc<Owner>);

/// Adds up the frames that were made by it and are still held, each once however many handles there are.
#[derive(Clone, Debug, Default)]
pub struct Stored(Rc<Cell<u64>>);

struct Owner {
    bytes: Bytes,
    counted: Option<Stored>,
}

impl Frame {
    /// The bytes, to take a slice of.
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }
}

impl Stored {
    /// A frame that counts for as long as anybody has a handle of it.
    pub fn frame(&self, bytes: impl Into<Bytes>) -> Frame {
        let owner = Owner { bytes: bytes.into(), counted: Some(self.clone()) };
        self.0.set(self.0.get() + owner.size());
        Frame(Rc::new(owner))
    }

    /// Bytes that its frames take up.
    pub fn bytes(&self) -> u64 {
        self.0.get()
    }
}

impl Owner {
    fn size(&self) -> u64 {
        self.bytes.len() as u64 + FRAME_OVERHEAD_BYTES
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(Stored(sum)) = &self.counted {
            sum.set(sum.get() - self.size());
        }
    }
}

/// A frame that is not counted.
impl From<Bytes> for Frame {
    fn from(bytes: Bytes) -> Self {
        Frame(Rc::new(Owner { bytes, counted: None }))
    }
}

impl Deref for Frame {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_counts_once_and_until_its_last_handle_is_gone() {
        let stored = Stored::default();
        let frame = stored.frame(vec![7; 1000]);
        assert_eq!((stored.bytes(), &frame[..3]), (1000 + FRAME_OVERHEAD_BYTES, &[7u8; 3][..]));
        let handles: Vec<Frame> = (0..100).map(|_| frame.clone()).collect();
        let (other, uncounted) = (stored.frame(Bytes::from_static(b"x")), Frame::from(Bytes::from_static(b"y")));
        assert_eq!(stored.bytes(), 1001 + 2 * FRAME_OVERHEAD_BYTES);
        drop((handles, other, uncounted));
        assert_eq!(stored.bytes(), 1000 + FRAME_OVERHEAD_BYTES);
        drop(frame);
        assert_eq!(stored.bytes(), 0);
    }
}
