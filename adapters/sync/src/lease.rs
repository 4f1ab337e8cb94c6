//! A lease that is released when it is dropped.

use crate::shared::Shared;
use crate::sync::Arc;
use core::fmt;
use core::ops::Deref;
use core::time::Duration;
use leasehold_core::pool::{Grant, MemberId, Outcome, Release};

/// The lease has expired: it was taken back, and its permit may have been leased again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease has expired; its permit may have been leased again")]
pub struct LeaseExpired;

/// A lease on a member; dereferences to the member's payload.
///
/// Dropped without [`release`](Self::release), it ends as [`Outcome::Unknown`], or as [`Outcome::Failed`] if the
/// thread panics. Forgotten (`mem::forget`), it ends when it expires.
pub struct Lease<T> {
    shared: Arc<Shared<T>>,
    payload: Arc<T>,
    grant: Grant,
    released: bool,
}

impl<T> Lease<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>, payload: Arc<T>, grant: Grant) -> Self {
        Self {
            shared,
            payload,
            grant,
            released: false,
        }
    }

    /// The leased member.
    #[must_use]
    pub fn member(&self) -> MemberId {
        self.grant.member
    }

    /// The member's payload.
    #[must_use]
    pub fn payload(&self) -> &Arc<T> {
        &self.payload
    }

    /// A number above that of every lease granted before, in this pool and in those that it was restored from.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.grant.fence
    }

    /// Tells that the call has arrived at the upstream, as response headers prove. Windows that count requests from
    /// completion count this one from now on; tokens and concurrency stay booked until the release.
    ///
    /// # Errors
    /// The lease has expired.
    pub fn arrived(&self) -> Result<(), LeaseExpired> {
        let lease = self.grant.lease;
        self.shared.under_lock(|state, now| {
            let arrived = state.pool.arrived(now, lease);
            arrived.map_err(|_| LeaseExpired)
        })
    }

    /// Time from the request to the grant.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.grant.waited
    }

    /// Moves the expiry to a full time to live from now, and returns that time; `None` if leases don't expire.
    ///
    /// # Errors
    /// The lease has expired.
    pub fn renew(&self) -> Result<Option<Duration>, LeaseExpired> {
        let lease = self.grant.lease;
        self.shared.under_lock(|state, now| {
            let expires = state.pool.renew(now, lease).map_err(|_| LeaseExpired)?;
            Ok(expires.map(|expires| expires.since(now)))
        })
    }

    /// Ends the lease with an outcome, and the cost and latency if they are known.
    ///
    /// # Errors
    /// The lease has expired.
    pub fn release(mut self, release: impl Into<Release>) -> Result<(), LeaseExpired> {
        self.released = true;
        self.end(release.into())
    }

    /// Ends the lease as throttled by the upstream; its member serves no request for `pause`.
    ///
    /// # Errors
    /// The lease has expired.
    pub fn release_throttled(self, pause: Duration) -> Result<(), LeaseExpired> {
        let until = self.shared.clock.now().saturating_add(pause);
        self.release(Outcome::Throttled { until })
    }

    /// Leaves the lease to expire, like [`mem::forget`](core::mem::forget) but without a leak.
    #[cfg(test)]
    pub(crate) fn forget(mut self) {
        self.released = true;
    }

    fn end(&self, release: Release) -> Result<(), LeaseExpired> {
        let lease = self.grant.lease;
        let ended = self
            .shared
            .under_lock(|state, now| state.pool.release(now, lease, release));
        ended.map_err(|_| LeaseExpired)
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        if !self.released {
            let outcome = if std::thread::panicking() {
                Outcome::Failed
            } else {
                Outcome::Unknown
            };
            // An expired lease has ended already.
            let _ = self.end(outcome.into());
        }
    }
}

impl<T> Deref for Lease<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.payload
    }
}

impl<T> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}
