//! The buffers of one thread, which its connections hold only while bytes are in them.
//!
//! Invariant: a connection that waits for bytes has no buffer, so that memory follows the bytes that are on their way.

use core::cell::RefCell;

/// Bytes of a buffer, and bytes that are read ahead at most.
pub(crate) const BUFFER: usize = 64 * 1_024;
/// Bytes at the start of a buffer that are left free for a head that grows.
pub(crate) const HEADROOM: usize = 1_024;
/// Unused buffers that are kept.
const MAX_UNUSED: usize = 8;

/// A thread's unused buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers(RefCell<Vec<Vec<u8>>>);

impl Buffers {
    /// Takes a buffer with old bytes.
    pub(crate) fn take(&self) -> Vec<u8> {
        let unused = self.0.borrow_mut().pop();
        unused.unwrap_or_else(|| vec![0; BUFFER])
    }

    /// Gives a buffer back.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        let mut unused = self.0.borrow_mut();
        // One that has grown or shrunk is dropped.
        if unused.len() < MAX_UNUSED && buffer.len() == BUFFER {
            unused.push(buffer);
        }
    }
}
