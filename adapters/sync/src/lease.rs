//! Leases that give themselves back.

use crate::pool::Shared;
use crate::sync::Arc;
use core::fmt;
use core::ops::Deref;
use core::time::Duration;
use leasehold_core::pool::{Grant, MemberId, Outcome, Release};

/// A lease that was used after it had expired; somebody else may have had its permit since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease has expired; somebody else may hold its permit")]
pub struct LeaseExpired;

/// A lease on a member, which it dereferences to. Dropped without [`release`](Self::release) it counts
/// as served, or as failed where the thread panics. Forgotten, it is taken back when it expires.
pub struct Lease<T> {
    shared: Arc<Shared<T>>,
    payload: Arc<T>,
    grant: Grant,
    held: bool,
}

impl<T> Lease<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>, payload: Arc<T>, grant: Grant) -> Self {
        Self {
            shared,
            payload,
            grant,
            held: true,
        }
    }

    /// The member it is on.
    #[must_use]
    pub fn member(&self) -> MemberId {
        self.grant.member
    }

    /// What the member carries.
    #[must_use]
    pub fn payload(&self) -> &Arc<T> {
        &self.payload
    }

    /// How long the request waited.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.grant.waited
    }

    /// Puts its end off to a whole time to live from now, and answers how long that is; `None` where leases
    /// don't expire.
    ///
    /// # Errors
    /// Where it has expired.
    pub fn renew(&self) -> Result<Option<Duration>, LeaseExpired> {
        let lease = self.grant.lease;
        self.shared.under_lock(|state, now| {
            let expires = state.pool.renew(now, lease).map_err(|_| LeaseExpired)?;
            Ok(expires.map(|expires| expires.since(now)))
        })
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// Where it has expired.
    pub fn release(mut self, release: impl Into<Release>) -> Result<(), LeaseExpired> {
        self.held = false;
        self.end(release.into())
    }

    /// Gives the lease back after the upstream turned the call away; its member rests for `pause`.
    ///
    /// # Errors
    /// Where it has expired.
    pub fn release_throttled(self, pause: Duration) -> Result<(), LeaseExpired> {
        let until = self.shared.clock.now().saturating_add(pause);
        self.release(Outcome::Throttled { until })
    }

    /// Leaves it to expire, as [`mem::forget`](core::mem::forget) would, but without a leak.
    #[cfg(test)]
    pub(crate) fn forget(mut self) {
        self.held = false;
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
        if self.held {
            let outcome = if std::thread::panicking() {
                Outcome::Failed
            } else {
                Outcome::Ok
            };
            // An expired lease has been taken back already.
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
