//! A request for a lease, as a future.
//!
//! Invariant: it is queued from its first poll until it is ready or dropped, and no longer.

use crate::clock::{Epoch, Timer};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use leasehold_core::pool::Request;
use leasehold_sync::{AcquireError, Lease, PendingLease, SyncPool};
use tokio::task::coop;

/// A future of a lease.
///
/// Its first poll enqueues the request. Dropping it at any time is safe: it cancels the request, or releases
/// what was granted meanwhile as not sent. It must be polled in a runtime with time enabled, takes part in
/// tokio's cooperative budget, and answers [`Cancelled`](AcquireError::Cancelled) when polled after it was ready.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_tokio::{Member, Policy, PoolConfig, TokioPool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
/// pool.blocking().add(Member::new("127.0.0.1:8001").max_leases(NonZeroU32::MIN))?;
/// let held = pool.acquire().await?;
/// tokio::select! {
///     biased;
///     _ = pool.acquire() => unreachable!("the member is leased"),
///     () = tokio::task::yield_now() => {}
/// }
/// drop(held);
/// assert!(pool.acquire().await.is_ok());
/// # Ok(())
/// # }
/// ```
#[must_use = "a future does nothing unless it is polled"]
pub struct Acquire<T> {
    stage: Stage<T>,
    timer: Timer,
}

enum Stage<T> {
    Unpolled(SyncPool<T>, Ask),
    Refused(AcquireError),
    Pending(PendingLease<T>),
    Done,
}

/// The request to make at the first poll.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    Request(Request),
    Timeout(Duration),
}

impl<T> Acquire<T> {
    pub(crate) fn new(pool: &SyncPool<T>, epoch: Epoch, ask: Ask) -> Self {
        Self {
            stage: Stage::Unpolled(pool.clone(), ask),
            timer: Timer::new(epoch),
        }
    }
}

impl Ask {
    fn enqueue<T>(self, pool: &SyncPool<T>) -> Stage<T> {
        let request = match self {
            Self::Request(request) => request,
            Self::Timeout(timeout) => Request::new().deadline(pool.now().saturating_add(timeout)),
        };
        match pool.enqueue(request) {
            Ok(pending) => Stage::Pending(pending),
            Err(refused) => Stage::Refused(refused),
        }
    }
}

impl<T> Future for Acquire<T> {
    type Output = Result<Lease<T>, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { stage, timer } = &mut *self;
        if let Stage::Unpolled(pool, ask) = stage {
            *stage = ask.enqueue(pool);
        }
        let budget = ready!(coop::poll_proceed(context));
        let answer = match stage {
            Stage::Pending(pending) => ready!(timer.poll(context, |context| pending.poll(context))),
            Stage::Refused(refused) => Err(*refused),
            Stage::Unpolled(..) | Stage::Done => Err(AcquireError::Cancelled),
        };
        *stage = Stage::Done;
        budget.made_progress();
        Poll::Ready(answer)
    }
}

impl<T> fmt::Debug for Acquire<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Unpolled(..) => "not polled",
            Stage::Refused(_) | Stage::Pending(_) => "pending",
            Stage::Done => "done",
        };
        f.debug_struct("Acquire")
            .field("stage", &stage)
            .finish_non_exhaustive()
    }
}
