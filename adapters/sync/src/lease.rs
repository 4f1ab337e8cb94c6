//! A lease that is released when it is dropped.

use crate::remote::RemoteLease;
use crate::shared::Shared;
use crate::sync::Arc;
use core::fmt;
use core::ops::Deref;
use core::time::Duration;
use leasehold_core::pool::{Grant, LeaseId, MemberId, Outcome, Release};
use leasehold_core::time::Tick;

/// The lease has expired: it was taken back, and its permit may have been leased again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease has expired; its permit may have been leased again")]
pub struct LeaseExpired;

/// A lease on a member; dereferences to the member's payload.
///
/// Dropped without [`release`](Self::release), it ends as [`Outcome::Unknown`], or as [`Outcome::Failed`] if the
/// thread panics. Forgotten (`mem::forget`), it ends when it expires.
pub struct Lease<T> {
    pool: Holder<T>,
    payload: Arc<T>,
    member: MemberId,
    fence: u64,
    waited: Duration,
    expires: Option<Tick>,
}

/// The pool that a lease is of.
enum Holder<T> {
    Here(Arc<Shared<T>>, LeaseId),
    Elsewhere(Box<dyn RemoteLease>),
    /// The lease has ended, or is held by others.
    Ended,
}

impl<T> Lease<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>, payload: Arc<T>, grant: Grant) -> Self {
        Self {
            pool: Holder::Here(shared, grant.lease),
            payload,
            member: grant.member,
            fence: grant.fence,
            waited: grant.waited,
            expires: grant.expires,
        }
    }

    /// Wraps a lease of a pool in another process, on a member that is [numbered](MemberId::elsewhere) here.
    #[must_use]
    pub fn of_remote(
        remote: Box<dyn RemoteLease>,
        payload: Arc<T>,
        member: MemberId,
        fence: u64,
        waited: Duration,
    ) -> Self {
        Self {
            pool: Holder::Elsewhere(remote),
            payload,
            member,
            fence,
            waited,
            expires: None,
        }
    }

    /// The leased member.
    #[must_use]
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// The member's payload.
    #[must_use]
    pub fn payload(&self) -> &Arc<T> {
        &self.payload
    }

    /// A number above that of every lease granted before, in this pool and in those that it was restored from.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// Tells that the call has arrived at the upstream, as response headers prove. Windows that count requests from
    /// completion count this one from now on; tokens and concurrency stay booked until the release.
    ///
    /// # Errors
    /// The lease has expired.
    pub fn arrived(&self) -> Result<(), LeaseExpired> {
        match &self.pool {
            Holder::Here(shared, lease) => shared.arrived(*lease),
            Holder::Elsewhere(remote) => {
                remote.tell_arrived();
                remote.left().map(drop).ok_or(LeaseExpired)
            }
            Holder::Ended => Err(LeaseExpired),
        }
    }

    /// Time from the request to the grant.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The tick at which it expires unless it is renewed; `None` if it doesn't, or is of a pool elsewhere.
    #[must_use]
    pub fn expires(&self) -> Option<Tick> {
        self.expires
    }

    /// Moves the expiry to a full time to live from now, and returns that time; `None` if leases don't expire.
    ///
    /// # Errors
    /// The lease has expired.
    pub fn renew(&self) -> Result<Option<Duration>, LeaseExpired> {
        match &self.pool {
            Holder::Here(shared, lease) => shared.renew(*lease),
            Holder::Elsewhere(remote) => remote.left().map(Some).ok_or(LeaseExpired),
            Holder::Ended => Err(LeaseExpired),
        }
    }

    /// Ends the lease with an outcome, and the cost and latency if they are known.
    ///
    /// # Errors
    /// The lease has expired.
    pub fn release(mut self, release: impl Into<Release>) -> Result<(), LeaseExpired> {
        self.end(release.into())
    }

    /// Ends the lease as throttled by the upstream; its member serves no request for `pause`.
    ///
    /// # Errors
    /// The lease has expired.
    pub fn release_throttled(mut self, pause: Duration) -> Result<(), LeaseExpired> {
        let until = match &self.pool {
            Holder::Here(shared, _) => shared.clock.now(),
            Holder::Elsewhere(remote) => remote.now(),
            Holder::Ended => return Err(LeaseExpired),
        };
        let until = until.saturating_add(pause);
        self.end(Outcome::Throttled { until }.into())
    }

    /// Leaves the lease to a holder elsewhere, which ends it by [`SyncPool::release_held`](crate::SyncPool::release_held);
    /// `None` for one of a pool elsewhere. It expires, if it [may](leasehold_core::pool::Request::ttl), or is held without end.
    #[must_use]
    pub fn detach(mut self) -> Option<LeaseId> {
        match core::mem::replace(&mut self.pool, Holder::Ended) {
            Holder::Here(_, lease) => Some(lease),
            Holder::Elsewhere(_) | Holder::Ended => None,
        }
    }

    fn end(&mut self, release: Release) -> Result<(), LeaseExpired> {
        match core::mem::replace(&mut self.pool, Holder::Ended) {
            Holder::Here(shared, lease) => shared.release(lease, release),
            Holder::Elsewhere(remote) => {
                let left = remote.left();
                remote.tell_released(release);
                left.map(drop).ok_or(LeaseExpired)
            }
            Holder::Ended => Err(LeaseExpired),
        }
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        let outcome = if std::thread::panicking() {
            Outcome::Failed
        } else {
            Outcome::Unknown
        };
        // One that has expired or was released has ended already.
        let _ = self.end(outcome.into());
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
            .field("member", &self.member)
            .field("fence", &self.fence)
            .field("waited", &self.waited)
            .finish_non_exhaustive()
    }
}
