//! Leases that are held elsewhere, such as in another process, and go by their ids.

use super::SyncPool;
use crate::lease::LeaseExpired;
use crate::sync::Arc;
use core::time::Duration;
use leasehold_core::pool::{HeldLease, LeaseId, Release};

impl<T> SyncPool<T> {
    /// The leases that are held, here or elsewhere. O(leases), under the lock.
    #[must_use]
    pub fn held(&self) -> Vec<HeldLease> {
        self.shared.under_lock(|state, now| {
            state.pool.handle_timeout(now);
            state.pool.leases().collect()
        })
    }

    /// Ends a lease that is held elsewhere; see [`Lease::detach`](crate::Lease::detach).
    ///
    /// ```
    /// use core::time::Duration;
    /// use leasehold_sync::{Member, Outcome, Policy, PoolConfig, Request, SyncPool};
    ///
    /// let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
    /// pool.add(Member::new("sk-1"))?;
    /// let request = Request::new().ttl(Duration::from_secs(60));
    /// let lease = pool.enqueue(request)?.wait()?.detach().expect("it is of this pool");
    /// assert_eq!(pool.renew_held(lease)?, Some(Duration::from_secs(60)));
    /// pool.release_held(lease, Outcome::Ok)?;
    /// assert!(pool.held().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// It has expired, or was released before.
    pub fn release_held(
        &self,
        lease: LeaseId,
        release: impl Into<Release>,
    ) -> Result<(), LeaseExpired> {
        self.shared.release(lease, release.into())
    }

    /// Returns the payload of the member of a lease that is held elsewhere; `None` if it has ended.
    #[must_use]
    pub fn held_payload(&self, lease: LeaseId) -> Option<Arc<T>> {
        self.shared.under_lock(|state, now| {
            state.pool.handle_timeout(now);
            let member = state.pool.leased(lease)?;
            state.pool.payload(member).map(Arc::clone)
        })
    }

    /// Moves the expiry of a lease that is held elsewhere, as [`Lease::renew`](crate::Lease::renew).
    ///
    /// # Errors
    /// It has expired, or was released before.
    pub fn renew_held(&self, lease: LeaseId) -> Result<Option<Duration>, LeaseExpired> {
        self.shared.renew(lease)
    }

    /// Tells that the call of a lease that is held elsewhere has arrived, as
    /// [`Lease::arrived`](crate::Lease::arrived).
    ///
    /// # Errors
    /// It has expired, or was released before.
    pub fn arrived_held(&self, lease: LeaseId) -> Result<(), LeaseExpired> {
        self.shared.arrived(lease)
    }
}
