//! The pool that threads and tasks share: requests for leases, each one command of the core's pool under the lock.
//!
//! Its other commands are in the files below: `held`, `manage`, `names` and `records`.

mod held;
mod manage;
mod names;
mod records;

use crate::clock::Clock;
use crate::error::AcquireError;
use crate::lease::Lease;
use crate::names::Names;
use crate::parker::Parker;
use crate::pending::PendingLease;
use crate::shared::Shared;
use crate::state::{ParkKey, State};
use crate::subscription::Subscription;
use crate::sync::{Arc, Mutex};
use core::fmt;
use core::num::NonZeroUsize;
use core::time::Duration;
use leasehold_core::pool::{Acquired, Estimate, Forecast, Plan, Pool, PoolConfig, Request};
use leasehold_core::time::Tick;

/// A lease pool that threads and tasks share. Clones are the same pool.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_sync::{Member, Outcome, Policy, PoolConfig, SyncPool};
///
/// let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
/// pool.add(Member::new("127.0.0.1:8001").max_leases(NonZeroU32::MIN))?;
/// let lease = pool.acquire()?;
/// assert_eq!(*lease, "127.0.0.1:8001");
/// assert!(pool.try_acquire().is_err());
/// lease.release(Outcome::Ok)?;
/// assert!(pool.try_acquire().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SyncPool<T> {
    shared: Arc<Shared<T>>,
}

impl<T> SyncPool<T> {
    /// Makes a pool without members; its clock starts now.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        Self::with_clock(config, Clock::start())
    }

    /// Makes a pool without members on this clock.
    #[must_use]
    pub fn with_clock(config: PoolConfig, clock: Clock) -> Self {
        Self::from_core(Pool::new(config), clock)
    }

    /// Wraps a [`leasehold_core::pool::Pool`], such as one restored from a snapshot, whose ticks are the clock's.
    ///
    /// Leases that it holds end at their expiry; requests that it has queued are granted nothing.
    #[must_use]
    pub fn from_core(pool: Pool<Arc<T>>, clock: Clock) -> Self {
        Self::with_names(pool, clock, Names::default())
    }

    pub(crate) fn with_names(pool: Pool<Arc<T>>, clock: Clock, names: Names) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock,
                names,
                state: Mutex::new(State::new(pool)),
            }),
        }
    }

    /// The current tick of the pool's clock.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.shared.clock.now()
    }

    /// Waits for a lease without a deadline.
    ///
    /// # Errors
    /// The pool is closed or its queue full.
    pub fn acquire(&self) -> Result<Lease<T>, AcquireError> {
        self.enqueue(Request::new())?.wait()
    }

    /// Waits for a lease for at most `timeout`; refused at once if no member can serve by then.
    ///
    /// # Errors
    /// There is no lease in time, the pool is closed, or its queue full.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Lease<T>, AcquireError> {
        self.enqueue_at(|now| Request::new().deadline(now.saturating_add(timeout)))?
            .wait()
    }

    /// Takes a lease if a member is free and no request is queued before this one.
    ///
    /// # Errors
    /// There is none, or the pool is closed.
    pub fn try_acquire(&self) -> Result<Lease<T>, AcquireError> {
        self.enqueue_at(|now| Request::new().deadline(now))?.wait()
    }

    /// Takes a lease or a place in the queue. The request's deadline is a tick of [`now`](Self::now)'s clock.
    ///
    /// # Errors
    /// The request is refused at once.
    pub fn enqueue(&self, request: Request) -> Result<PendingLease<T>, AcquireError> {
        self.enqueue_at(|_| request)
    }

    /// Estimates the wait of a request that would come now.
    ///
    /// # Errors
    /// The request would be refused whatever its deadline.
    pub fn estimate(&self, request: &Request) -> Result<Estimate, AcquireError> {
        self.shared.under_lock(|state, now| {
            let estimate = state.pool.estimate(now, request);
            estimate.map_err(|refused| AcquireError::from_core(refused, now))
        })
    }

    /// Forecasts when a plan of requests will have been served, on a copy of the pool; see
    /// [`Pool::forecast`](leasehold_core::pool::Pool::forecast). Others wait for no longer than the copy takes.
    ///
    /// ```
    /// use core::num::NonZeroU32;
    /// use core::time::Duration;
    /// use leasehold_sync::{Member, Plan, Policy, PoolConfig, Request, SyncPool};
    ///
    /// let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
    /// pool.add(Member::new("sk-1").max_leases(NonZeroU32::MIN))?;
    /// let plan = Plan::new(NonZeroU32::MIN, Duration::from_secs(2)).requests(Request::new(), 30);
    /// assert_eq!(pool.forecast(&plan).ends_in, Some(Duration::from_secs(60)));
    /// # Ok::<(), leasehold_sync::AddError>(())
    /// ```
    #[must_use]
    pub fn forecast(&self, plan: &Plan) -> Forecast {
        let (pool, now) = self
            .shared
            .under_lock(|state, now| (state.pool.clone(), now));
        pool.forecast(now, plan)
    }

    /// Subscribes to the pool's events from now on; the latest `capacity` events are kept until taken.
    #[must_use]
    pub fn events(&self, capacity: NonZeroUsize) -> Subscription<T> {
        Subscription::new(&self.shared, capacity)
    }

    /// Refuses every request from now on, queued ones included. Leases that are held stay valid.
    pub fn close(&self) {
        self.shared.under_lock(|state, now| {
            state.closed = true;
            state.pool.close(now);
        });
    }

    /// Enqueues a request that may depend on the tick at which it is made.
    fn enqueue_at(
        &self,
        request: impl FnOnce(Tick) -> Request,
    ) -> Result<PendingLease<T>, AcquireError> {
        let shared = &self.shared;
        shared.under_lock(|state, now| match state.pool.acquire(now, request(now)) {
            Ok(Acquired::Granted(grant)) => {
                // Always there: a member outlives the leases on it.
                let payload = state.pool.payload(grant.member).map(Arc::clone);
                let payload = payload.ok_or(AcquireError::PinnedMemberRemoved)?;
                let lease = Lease::new(Arc::clone(shared), payload, grant);
                Ok(PendingLease::granted(lease))
            }
            Ok(Acquired::Waiting(waiter)) => {
                let parker = Arc::new(Parker::new(!state.has_waiters()));
                let wake_at = state.park(ParkKey::Waiter(waiter), &parker);
                Ok(PendingLease::queued(shared, waiter, parker, wake_at))
            }
            Err(refused) => Err(AcquireError::from_core(refused, now)),
        })
    }
}

impl<T> Clone for SyncPool<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> fmt::Debug for SyncPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncPool").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod races;
#[cfg(all(test, not(loom)))]
mod tests;
