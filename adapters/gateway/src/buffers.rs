//! The buffers of one thread, which its connections hold only while bytes are in them.
//!
//! Invariant: a connection that waits for bytes has no buffer, so that memory follows the bytes that are on their way.

use core::cell::RefCell;

/// Bytes of a buffer, and bytes that are read ahead at most.
pub(crate) const BUFFER: usize = 64 * 1_024;
/// Bytes at the start of a buffer that are left free for a head that grows.
pub(crate) const HEADROOM: usize = 1_024;
/// Bytes that most heads have room in.
const HEAD: usize = 512;
/// Unused buffers of each kind that are kept.
const MAX_UNUSED: usize = 8;

/// A thread's unused buffers. The one that was used last is taken first, because it is in the processor's caches.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    unused: RefCell<Vec<Vec<u8>>>,
    /// Buffers of heads.
    heads: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    /// Takes a buffer with old bytes.
    pub(crate) fn take(&self) -> Vec<u8> {
        let unused = self.unused.borrow_mut().pop();
        unused.unwrap_or_else(|| vec![0; BUFFER])
    }

    /// Gives a buffer back.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        let mut unused = self.unused.borrow_mut();
        // One that has grown or shrunk is dropped.
        if unused.len() < MAX_UNUSED && buffer.len() == BUFFER {
            unused.push(buffer);
        }
    }

    /// Takes an empty buffer for a head.
    pub(crate) fn take_head(&self) -> Vec<u8> {
        let unused = self.heads.borrow_mut().pop();
        unused.unwrap_or_else(|| Vec::with_capacity(HEAD))
    }

    /// Gives the buffer of a head back.
    pub(crate) fn give_head(&self, mut head: Vec<u8>) {
        let mut unused = self.heads.borrow_mut();
        if unused.len() < MAX_UNUSED && (HEAD..=BUFFER).contains(&head.capacity()) {
            head.clear();
            unused.push(head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_gets_an_empty_buffer_with_room() {
        let buffers = Buffers::default();
        for given in [vec![1; HEAD], Vec::new(), Vec::with_capacity(BUFFER + 1)] {
            buffers.give_head(given);
            let taken = buffers.take_head();
            assert!(taken.is_empty());
            assert!((HEAD..=BUFFER).contains(&taken.capacity()));
        }
    }
}
