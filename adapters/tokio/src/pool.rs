//! The pool that tasks of tokio share with each other and with threads.

use crate::acquire::{Acquire, Asked};
use crate::clock::Ticks;
use crate::events::Subscription;
use core::fmt;
use core::num::NonZeroUsize;
use core::time::Duration;
use leasehold_core::pool::{Pool, PoolConfig, Request};
use leasehold_sync::{AcquireError, Lease, SyncPool};
use std::sync::Arc;

/// A lease pool on tokio's clock. Clones are the same pool.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_tokio::TokioPool;
/// use leasehold_tokio::core::balance::Policy;
/// use leasehold_tokio::core::limit::{Anchor, SlidingLog};
/// use leasehold_tokio::core::pool::{PoolConfig, Member, Outcome};
/// use leasehold_tokio::sync::AcquireError;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
/// let limit = SlidingLog::new(NonZeroU32::MIN, Duration::from_secs(60), Anchor::Completion)?;
/// pool.blocking().add(Member::new("sk-1").limit(limit))?;
/// pool.acquire().await?.release(Outcome::Ok)?;
/// let refused = pool.acquire_timeout(Duration::from_secs(59)).await.unwrap_err();
/// assert_eq!(refused, AcquireError::DeadlineTooSoon { wait: Duration::from_secs(60) });
///
/// let lease = pool.acquire().await?;
/// assert_eq!(*lease, "sk-1");
/// assert_eq!(lease.waited(), Duration::from_secs(60));
/// # Ok(())
/// # }
/// ```
pub struct TokioPool<T> {
    pool: SyncPool<T>,
    ticks: Ticks,
}

impl<T> TokioPool<T> {
    /// A pool without members; its clock starts now.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        Self::from_core(Pool::new(config))
    }

    /// A pool that was made elsewhere, such as one restored from a snapshot, whose clock shows
    /// [`Tick::ZERO`](leasehold_core::time::Tick::ZERO) now; see [`SyncPool::from_core`].
    #[must_use]
    pub fn from_core(pool: Pool<Arc<T>>) -> Self {
        let ticks = Ticks::start();
        Self {
            pool: SyncPool::from_core(pool, ticks.clock()),
            ticks,
        }
    }

    /// The same pool for threads, and for those who manage it: none of the commands that do so wait for
    /// anything.
    #[must_use]
    pub fn blocking(&self) -> &SyncPool<T> {
        &self.pool
    }

    /// Waits for a lease for as long as it takes.
    pub fn acquire(&self) -> Acquire<T> {
        self.acquire_with(Request::new())
    }

    /// Waits for a lease, but no longer than `timeout` from its first poll; and not at all if it is plain
    /// that none can be had by then.
    pub fn acquire_timeout(&self, timeout: Duration) -> Acquire<T> {
        Acquire::new(&self.pool, self.ticks, Asked::Within(timeout))
    }

    /// Waits for what is requested. The request's deadline is a tick of [`SyncPool::now`]'s.
    pub fn acquire_with(&self, request: Request) -> Acquire<T> {
        Acquire::new(&self.pool, self.ticks, Asked::Request(request))
    }

    /// Takes a lease if there is one now and nobody waits for it.
    ///
    /// # Errors
    /// Where there is none, or the pool is closed.
    pub fn try_acquire(&self) -> Result<Lease<T>, AcquireError> {
        self.pool.try_acquire()
    }

    /// What happens from now on that no command asks for. At most `capacity` events are kept until they
    /// are taken; of more, the latest.
    #[must_use]
    pub fn events(&self, capacity: NonZeroUsize) -> Subscription<T> {
        Subscription::new(self.pool.events(capacity), self.ticks)
    }
}

impl<T> Clone for TokioPool<T> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            ticks: self.ticks,
        }
    }
}

impl<T> fmt::Debug for TokioPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioPool").finish_non_exhaustive()
    }
}
