//! The buffers of one thread, which its connections hold only while bytes are in them.
//!
//! Invariant: a connection that waits for bytes has no buffer, so that memory follows the bytes that are on their way.

use core::cell::RefCell;

/// Bytes of a buffer.
pub(crate) const BUFFER: usize = 64 * 1_024;
/// Unused buffers that are kept.
const MAX_UNUSED: usize = 8;

/// A thread's unused buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers(RefCell<Vec<Box<[u8]>>>);

impl Buffers {
    /// Takes a buffer; what is in it has no meaning.
    pub(crate) fn take(&self) -> Box<[u8]> {
        let unused = self.0.borrow_mut().pop();
        unused.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
    }

    /// Gives a buffer back.
    pub(crate) fn give(&self, buffer: Box<[u8]>) {
        let mut unused = self.0.borrow_mut();
        if unused.len() < MAX_UNUSED && buffer.len() == BUFFER {
            unused.push(buffer);
        }
    }
}
