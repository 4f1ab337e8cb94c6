//! A request to stop a batch, from any thread.
//!
//! Invariant: a stop requested before the batch starts takes effect as soon as it starts.

use crate::lock;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Stops a batch early. Clones stop the same batch.
#[derive(Clone, Default)]
pub struct Stop {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    requested: AtomicBool,
    action: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Stop {
    /// Starts no more calls. Calls in flight end, then the batch writes its results.
    pub fn stop(&self) {
        self.inner.requested.store(true, Ordering::SeqCst);
        if let Some(action) = &*lock(&self.inner.action) {
            action();
        }
    }

    /// Whether [`stop`](Self::stop) was called.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.inner.requested.load(Ordering::SeqCst)
    }

    pub(crate) fn on_stop(&self, action: impl Fn() + Send + 'static) {
        let mut slot = lock(&self.inner.action);
        if self.is_requested() {
            action();
        }
        *slot = Some(Box::new(action));
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop")
            .field("requested", &self.is_requested())
            .finish_non_exhaustive()
    }
}
