//! The number of threads that make calls, which may change while a batch runs.

use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// The number of threads of a batch. Clones are the same number, so that it can be changed while the batch runs.
#[derive(Clone, Debug, Default)]
pub struct WorkerCount(Arc<AtomicUsize>);

impl WorkerCount {
    /// Sets the number. More threads start within 250 ms; of fewer, those that are too many end after their call.
    pub fn set(&self, count: NonZeroUsize) {
        self.0.store(count.get(), Ordering::SeqCst);
    }

    /// The number; `None` if it was not set.
    pub(crate) fn get(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.0.load(Ordering::SeqCst))
    }
}
