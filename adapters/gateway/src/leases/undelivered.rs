//! Leases whose answer is on its way to their holder.

use crate::backend_pool::BackendPool;
use leasehold_sync::Outcome;
use std::sync::Arc;

/// Leases that are given back when this is dropped before their answer was written.
#[derive(Debug)]
pub(crate) struct Undelivered(Vec<(Arc<BackendPool>, Vec<u64>)>);

impl Undelivered {
    pub(super) fn new(pool: Arc<BackendPool>, fences: Vec<u64>) -> Self {
        Self(vec![(pool, fences)])
    }

    /// Joins those of several requests that have one answer.
    pub(super) fn join(parts: impl IntoIterator<Item = Self>) -> Self {
        let parts = parts.into_iter();
        Self(
            parts
                .flat_map(|mut part| core::mem::take(&mut part.0))
                .collect(),
        )
    }

    /// Leaves the leases to their holder, whose answer is written.
    pub(crate) fn delivered(mut self) {
        self.0.clear();
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        for (pool, fences) in self.0.drain(..) {
            let sync = pool.pool().blocking();
            let held = match fences.is_empty() {
                true => Vec::new(),
                false => sync.held(),
            };
            for one in held.iter().filter(|one| fences.contains(&one.fence)) {
                // It was there a moment ago.
                let _ = sync.release_held(one.lease, Outcome::NotSent);
            }
            fences
                .into_iter()
                .for_each(|fence| pool.lent().forget(fence));
        }
    }
}
