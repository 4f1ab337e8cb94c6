//! What is written down of a pool: its figures, its charges and its snapshot.

use super::SyncPool;
#[cfg(feature = "serde")]
use crate::sync::Arc;
use crate::sync::lock;
use leasehold_core::pool::Charge;
#[cfg(feature = "serde")]
use leasehold_core::pool::PoolSnapshot;
use leasehold_core::pool::stats::Stats;
#[cfg(feature = "serde")]
use leasehold_core::time::Tick;

impl<T> SyncPool<T> {
    /// The pool's figures so far. O(members), under the lock.
    #[must_use]
    pub fn stats(&self) -> Stats {
        lock(&self.shared.state).pool.stats()
    }

    /// The figures so far, of those members only that have changed since the [`sequence`](Stats::sequence) of others;
    /// see [`Pool::stats_since`](leasehold_core::pool::Pool::stats_since).
    #[must_use]
    pub fn stats_since(&self, sequence: u64) -> Stats {
        lock(&self.shared.state).pool.stats_since(sequence)
    }

    /// Whether the charges so far must be [taken](Self::take_charges) and written before the next call is sent.
    #[must_use]
    pub fn charges_due(&self) -> bool {
        lock(&self.shared.state).pool.charges_due()
    }

    /// The charges since they were taken last, in order, to be written to a log; see
    /// [`Pool::take_charges`](leasehold_core::pool::Pool::take_charges).
    #[must_use]
    pub fn take_charges(&self) -> Vec<Charge> {
        lock(&self.shared.state).pool.take_charges()
    }
}

#[cfg(feature = "serde")]
impl<T> SyncPool<T> {
    /// The state that survives a restart, and its tick, for
    /// [`Pool::restore`](leasehold_core::pool::Pool::restore). O(n log n), under the lock.
    #[must_use]
    pub fn snapshot(&self) -> (PoolSnapshot<Arc<T>>, Tick) {
        self.shared.under_lock(|state, now| {
            state.pool.handle_timeout(now);
            (state.pool.snapshot(), now)
        })
    }
}
