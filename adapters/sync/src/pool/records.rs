//! What is written down of a pool: its figures, its charges and its snapshot.

use super::SyncPool;
#[cfg(feature = "serde")]
use crate::clock::Clock;
#[cfg(feature = "serde")]
use crate::sync::Arc;
use crate::sync::lock;
use leasehold_core::pool::Charge;
use leasehold_core::pool::stats::Stats;
#[cfg(feature = "serde")]
use leasehold_core::pool::{MemberId, Pool, PoolConfig, PoolSnapshot, Replayed, RestoreError};
#[cfg(feature = "serde")]
use leasehold_core::time::Tick;
#[cfg(feature = "serde")]
use std::collections::HashMap;

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
    /// Enters the charges of earlier processes into a pool that has granted nothing yet; see
    /// [`Pool::replay`](leasehold_core::pool::Pool::replay). The pool's clock must be that of the charges. O(n log n),
    /// under the lock.
    ///
    /// # Errors
    /// As for that.
    pub fn replay(&self, charges: &[Charge]) -> Result<Replayed, RestoreError> {
        self.shared.under_lock(|state, now| {
            let mut pool =
                Pool::restore(state.pool.config().clone(), state.pool.snapshot(), now, now)?;
            let replayed = pool.replay(now, charges)?;
            self.shared
                .names
                .move_members(&same_members(&state.pool, &pool));
            state.pool = pool;
            Ok(replayed)
        })
    }

    /// A pool of another configuration with the same members, limits, health and names, on a clock that shows the same
    /// ticks. O(n log n), under the lock.
    ///
    /// Leases that are held stay with this pool, and count as completed now in the other. Requests that wait in this
    /// one stay here too.
    ///
    /// # Errors
    /// [`RestoreError`] if the pool's state contradicts itself.
    pub fn successor(&self, config: PoolConfig, clock: Clock) -> Result<Self, RestoreError> {
        let (snapshot, now) = self.snapshot();
        let pool = Pool::restore(config, snapshot, now, now)?;
        let names = self.shared.names.clone();
        names.move_members(&same_members(&lock(&self.shared.state).pool, &pool));
        Ok(Self::with_names(pool, clock, names))
    }

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

/// Pairs the members of two pools that have the same payloads.
#[cfg(feature = "serde")]
fn same_members<T>(from: &Pool<Arc<T>>, to: &Pool<Arc<T>>) -> Vec<(MemberId, MemberId)> {
    let by_payload: HashMap<_, _> = to
        .members()
        .map(|(member, payload)| (Arc::as_ptr(payload), member))
        .collect();
    let pairs = from
        .members()
        .filter_map(|(member, payload)| Some((member, *by_payload.get(&Arc::as_ptr(payload))?)));
    pairs.collect()
}

#[cfg(all(test, feature = "serde", not(loom)))]
mod tests;
