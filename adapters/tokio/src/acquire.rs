//! A request for a lease, as a future.
//!
//! Invariant: it has a place in line from its first poll until it is ready or dropped, and no longer.

use crate::clock::{Alarm, Ticks};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use leasehold_core::pool::Request;
use leasehold_sync::{AcquireError, Lease, PendingLease, SyncPool};
use tokio::task::coop;

/// Becomes a lease.
///
/// It enters the line when it is first polled, and is dropped safely at any time: it leaves the line, or
/// gives back as not sent what was granted to it meanwhile. To be polled in a runtime whose time is enabled.
/// It takes part in tokio's cooperative budget. Polled after it was ready, it is
/// [`Cancelled`](AcquireError::Cancelled).
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_tokio::TokioPool;
/// use leasehold_tokio::core::balance::Policy;
/// use leasehold_tokio::core::pool::{PoolConfig, Member};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
/// pool.blocking().add(Member::new("127.0.0.1:8001").max_leases(NonZeroU32::MIN))?;
/// let held = pool.acquire().await?;
/// tokio::select! {
///     biased;
///     _ = pool.acquire() => unreachable!("it is held"),
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
    alarm: Alarm,
}

enum Stage<T> {
    Asking(SyncPool<T>, Asked),
    Refused(AcquireError),
    InLine(PendingLease<T>),
    Over,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    Request(Request),
    Within(Duration),
}

impl<T> Acquire<T> {
    pub(crate) fn new(pool: &SyncPool<T>, ticks: Ticks, asked: Asked) -> Self {
        Self {
            stage: Stage::Asking(pool.clone(), asked),
            alarm: Alarm::new(ticks),
        }
    }
}

impl Asked {
    fn enqueue<T>(self, pool: &SyncPool<T>) -> Stage<T> {
        let request = match self {
            Self::Request(request) => request,
            Self::Within(timeout) => Request::new().deadline(pool.now().saturating_add(timeout)),
        };
        match pool.enqueue(request) {
            Ok(pending) => Stage::InLine(pending),
            Err(refused) => Stage::Refused(refused),
        }
    }
}

impl<T> Future for Acquire<T> {
    type Output = Result<Lease<T>, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { stage, alarm } = &mut *self;
        if let Stage::Asking(pool, asked) = stage {
            *stage = asked.enqueue(pool);
        }
        let budget = ready!(coop::poll_proceed(context));
        let answer = match stage {
            Stage::InLine(pending) => ready!(alarm.poll(context, |context| pending.poll(context))),
            Stage::Refused(refused) => Err(*refused),
            Stage::Asking(..) | Stage::Over => Err(AcquireError::Cancelled),
        };
        *stage = Stage::Over;
        budget.made_progress();
        Poll::Ready(answer)
    }
}

impl<T> fmt::Debug for Acquire<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Asking(..) => "not polled",
            Stage::Refused(_) | Stage::InLine(_) => "in line",
            Stage::Over => "over",
        };
        f.debug_struct("Acquire")
            .field("stage", &stage)
            .finish_non_exhaustive()
    }
}
