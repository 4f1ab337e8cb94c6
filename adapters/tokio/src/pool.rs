//! The pool that tasks of tokio share with each other and with threads.

use crate::acquire::{Acquire, Ask};
use crate::clock::Epoch;
use crate::subscription::Subscription;
use core::fmt;
use core::num::NonZeroUsize;
use core::time::Duration;
use leasehold_core::pool::{Labels, Pool, PoolConfig, Request};
use leasehold_core::time::Tick;
use leasehold_sync::{AcquireError, Lease, SyncPool, TooManyNames};
use std::sync::Arc;
use tokio::time::Instant;

/// A lease pool on tokio's clock. Clones are the same pool.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_tokio::limit::{Anchor, SlidingLog};
/// use leasehold_tokio::{AcquireError, Member, Outcome, Policy, PoolConfig, TokioPool};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
/// let limit = SlidingLog::new(NonZeroU32::MIN, Duration::from_secs(60), Anchor::Completion)?;
/// pool.blocking().add(Member::new("sk-1").limit(limit))?;
/// pool.acquire().await?.release(Outcome::Ok)?;
/// let refused = pool.acquire_timeout(Duration::from_secs(59)).await.unwrap_err();
/// let minute = Duration::from_secs(60);
/// assert!(matches!(refused, AcquireError::DeadlineTooSoon { wait, .. } if wait == minute));
///
/// let lease = pool.acquire().await?;
/// assert_eq!(*lease, "sk-1");
/// assert_eq!(lease.waited(), Duration::from_secs(60));
/// # Ok(())
/// # }
/// ```
pub struct TokioPool<T> {
    pool: SyncPool<T>,
    epoch: Epoch,
}

impl<T> TokioPool<T> {
    /// Makes a pool without members; its clock starts now.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        Self::from_core(Pool::new(config))
    }

    /// Makes a pool without members, whose clock shows `tick` now: nanoseconds since 1970 where
    /// [charges](SyncPool::take_charges) are to outlive the process.
    #[must_use]
    pub fn starting_at(config: PoolConfig, tick: Tick) -> Self {
        Self::with_epoch(Pool::new(config), Epoch::start(tick))
    }

    /// Wraps a core pool, such as one restored from a snapshot; see [`SyncPool::from_core`]. Its clock starts
    /// at [`Tick::ZERO`] now.
    #[must_use]
    pub fn from_core(pool: Pool<Arc<T>>) -> Self {
        Self::with_epoch(pool, Epoch::start(Tick::ZERO))
    }

    fn with_epoch(pool: Pool<Arc<T>>, epoch: Epoch) -> Self {
        Self {
            pool: SyncPool::from_core(pool, epoch.clock()),
            epoch,
        }
    }

    /// A pool of another configuration with the same members; see [`SyncPool::successor`].
    ///
    /// # Errors
    /// As for that.
    #[cfg(feature = "serde")]
    pub fn successor(
        &self,
        config: PoolConfig,
    ) -> Result<Self, leasehold_core::pool::RestoreError> {
        let pool = self.pool.successor(config, self.epoch.clock())?;
        Ok(Self {
            pool,
            epoch: self.epoch,
        })
    }

    /// The same pool for threads, with all commands that manage it; those never wait for a lease.
    ///
    /// ```
    /// use leasehold_tokio::{Explained, Member, MemberUpdate, Policy, PoolConfig, Request, TokioPool};
    ///
    /// let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
    /// let member = pool.blocking().add_named("acme", Member::new("sk-1"))?;
    /// pool.blocking().update(member, MemberUpdate::new().weight(0))?;
    /// let explained: Vec<Explained> = pool.blocking().explain(&Request::new());
    /// assert_eq!(explained[0].to_string(), "acme: draining, or without weight");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn blocking(&self) -> &SyncPool<T> {
        &self.pool
    }

    /// The tick of an instant of tokio's clock, for a caller that has read it already.
    ///
    /// ```
    /// use leasehold_tokio::{Policy, PoolConfig, TokioPool};
    /// use tokio::time::Instant;
    ///
    /// let pool = TokioPool::<&str>::new(PoolConfig::new(Policy::Fifo));
    /// let begun = Instant::now();
    /// assert!(pool.tick_of(begun) <= pool.blocking().now());
    /// ```
    #[must_use]
    pub fn tick_of(&self, instant: Instant) -> Tick {
        self.epoch.tick_of(instant)
    }

    /// Waits for a lease without a deadline.
    pub fn acquire(&self) -> Acquire<T> {
        self.acquire_with(Request::new())
    }

    /// Waits for a lease for at most `timeout` from the first poll; refused at once if no member can serve by
    /// then.
    pub fn acquire_timeout(&self, timeout: Duration) -> Acquire<T> {
        Acquire::new(&self.pool, self.epoch, Ask::Timeout(timeout))
    }

    /// Waits for the lease of a request. Its deadline is a tick of [`SyncPool::now`]'s clock.
    pub fn acquire_with(&self, request: Request) -> Acquire<T> {
        Acquire::new(&self.pool, self.epoch, Ask::Request(request))
    }

    /// Takes a lease if a member is free and no request is queued before this one.
    ///
    /// # Errors
    /// There is none, or the pool is closed.
    pub fn try_acquire(&self) -> Result<Lease<T>, AcquireError> {
        self.pool.try_acquire()
    }

    /// The number of the class of this name; see [`SyncPool::class`].
    ///
    /// # Errors
    /// The name is new, and the pool has no [room](TooManyNames) for it.
    pub fn class(&self, name: &str) -> Result<u32, TooManyNames> {
        self.pool.class(name)
    }

    /// The number of the flow of this name; see [`SyncPool::flow`].
    ///
    /// # Errors
    /// The name is new, and the pool has no [room](TooManyNames) for it.
    pub fn flow(&self, name: &str) -> Result<u64, TooManyNames> {
        self.pool.flow(name)
    }

    /// The set of the labels of these names; see [`SyncPool::labels`].
    ///
    /// # Errors
    /// The pool has no [room](TooManyNames) for a label or for the set.
    pub fn labels(
        &self,
        names: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<Labels, TooManyNames> {
        self.pool.labels(names)
    }

    /// Time until a refused request may be served, as far as the refusal tells; for a `Retry-After` header.
    ///
    /// `None` if that depends on leases that are held, on a recovery or on an operator, or if it can never be served.
    /// For a full queue, or a request that waited in vain, it is the time until a request that is queued is served.
    /// Ask soon after the refusal.
    #[must_use]
    pub fn retry_after(&self, refused: &AcquireError) -> Option<Duration> {
        match refused {
            AcquireError::DeadlineTooSoon { wait, .. } => Some(*wait),
            AcquireError::QueueFull { cause }
            | AcquireError::FlowQueueFull { cause }
            | AcquireError::NotReady { cause }
            | AcquireError::TimedOut { cause } => {
                let until = cause.until()?;
                Some(until.since(self.pool.now()))
            }
            AcquireError::Closed
            | AcquireError::NeverFits
            | AcquireError::PinnedMemberRemoved
            | AcquireError::ForeignLabels
            | AcquireError::TooManyLanes
            | AcquireError::Cancelled => None,
        }
    }

    /// Subscribes to the pool's events from now on; the latest `capacity` events are kept until taken.
    #[must_use]
    pub fn events(&self, capacity: NonZeroUsize) -> Subscription<T> {
        Subscription::new(self.pool.events(capacity), self.epoch)
    }

    #[cfg(feature = "http")]
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl<T> Clone for TokioPool<T> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            epoch: self.epoch,
        }
    }
}

impl<T> fmt::Debug for TokioPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioPool").finish_non_exhaustive()
    }
}
