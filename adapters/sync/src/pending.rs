//! A request that was granted or is queued, for a thread that waits or a task that polls.
//!
//! Invariant: a pending lease ends in exactly one of three ways: its lease is taken, its refusal is taken, or
//! it is dropped, which cancels the request or releases its grant as not sent.

use crate::error::AcquireError;
use crate::lease::Lease;
use crate::parker::{Decision, Parker, WakeReason};
use crate::shared::Shared;
use crate::state::ParkKey;
use crate::sync::Arc;
use core::fmt;
use core::mem;
use core::task::{Context, Poll};
use leasehold_core::pool::{Outcome, Place, WaiterId};
use leasehold_core::time::Tick;

/// A lease, or a request for one in the queue.
///
/// Wait for it, poll it or drop it: one that is set aside keeps its place, what is granted to it, and the role
/// of timekeeper if it has it, so that others wait for it.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_sync::{AcquireError, Member, Policy, PoolConfig, Request, SyncPool};
///
/// let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
/// pool.add(Member::new("127.0.0.1:8001").max_leases(NonZeroU32::MIN))?;
/// let held = pool.enqueue(Request::new())?.wait()?;
/// let pending = pool.enqueue(Request::new())?;
/// let cancel_handle = pending.cancel_handle();
/// std::thread::spawn(move || cancel_handle.cancel());
/// assert_eq!(pending.wait().unwrap_err(), AcquireError::Cancelled);
/// # drop(held);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a pending lease cancels the request"]
pub struct PendingLease<T>(Stage<T>);

enum Stage<T> {
    Granted(Lease<T>),
    Queued(QueuedRequest<T>),
    /// The lease or refusal was taken.
    Done,
}

struct QueuedRequest<T> {
    shared: Arc<Shared<T>>,
    waiter: WaiterId,
    parker: Arc<Parker<T>>,
    /// Wake-up time, if this request is the timekeeper.
    wake_at: Option<Tick>,
}

impl<T> PendingLease<T> {
    pub(crate) fn granted(lease: Lease<T>) -> Self {
        Self(Stage::Granted(lease))
    }

    pub(crate) fn queued(
        shared: &Arc<Shared<T>>,
        waiter: WaiterId,
        parker: Arc<Parker<T>>,
        wake_at: Option<Tick>,
    ) -> Self {
        Self(Stage::Queued(QueuedRequest {
            shared: Arc::clone(shared),
            waiter,
            parker,
            wake_at,
        }))
    }

    /// Sleeps until the request is decided.
    ///
    /// # Errors
    /// The request timed out or was cancelled, its member was removed, or the pool was closed.
    pub fn wait(mut self) -> Result<Lease<T>, AcquireError> {
        loop {
            match &mut self.0 {
                Stage::Queued(request) => {
                    let reason = request.parker.park(request.wake_at, &request.shared.clock);
                    if let Some(decided) = self.on_wake(reason) {
                        return decided;
                    }
                }
                Stage::Granted(_) | Stage::Done => return self.take(),
            }
        }
    }

    /// Takes the decision, or registers the task to be woken for it.
    ///
    /// Until then the task must poll again at the tick that comes with `Pending`, if there is one, because it
    /// is the pool's timekeeper. After the decision was taken it answers
    /// [`Cancelled`](AcquireError::Cancelled).
    pub fn poll(
        &mut self,
        context: &Context<'_>,
    ) -> (Poll<Result<Lease<T>, AcquireError>>, Option<Tick>) {
        loop {
            let reason = match &self.0 {
                Stage::Queued(request) => match request.parker.poll(context) {
                    Some(reason) => reason,
                    None if request.is_due() => WakeReason::Nudged,
                    None => return (Poll::Pending, request.wake_at),
                },
                Stage::Granted(_) | Stage::Done => return (Poll::Ready(self.take()), None),
            };
            if let Some(decided) = self.on_wake(reason) {
                return (Poll::Ready(decided), None);
            }
        }
    }

    /// The place in line and the expected wait; `None` once the request is decided.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        let Stage::Queued(request) = &self.0 else {
            return None;
        };
        request
            .shared
            .under_lock(|state, now| state.pool.place(now, request.waiter).ok())
    }

    /// Returns a handle that cancels the request from another thread or task.
    #[must_use]
    pub fn cancel_handle(&self) -> CancelHandle<T> {
        CancelHandle(match &self.0 {
            Stage::Queued(request) => Some((Arc::clone(&request.shared), request.waiter)),
            Stage::Granted(_) | Stage::Done => None,
        })
    }

    /// Takes a lease that was granted at once.
    fn take(&mut self) -> Result<Lease<T>, AcquireError> {
        match mem::replace(&mut self.0, Stage::Done) {
            Stage::Granted(lease) => Ok(lease),
            Stage::Queued(_) | Stage::Done => Err(AcquireError::Cancelled),
        }
    }

    /// Takes the decision, or runs due timers after a nudge.
    fn on_wake(&mut self, reason: WakeReason<T>) -> Option<Result<Lease<T>, AcquireError>> {
        let Stage::Queued(request) = &mut self.0 else {
            return None;
        };
        let decided = match reason {
            WakeReason::Decided(Decision::Granted(grant, payload)) => {
                Ok(Lease::new(Arc::clone(&request.shared), payload, grant))
            }
            WakeReason::Decided(Decision::TimedOut(cause)) => Err(AcquireError::TimedOut { cause }),
            WakeReason::Decided(Decision::Closed) => Err(AcquireError::Closed),
            WakeReason::Decided(Decision::PinnedMemberRemoved) => {
                Err(AcquireError::PinnedMemberRemoved)
            }
            WakeReason::Decided(Decision::Cancelled) => Err(AcquireError::Cancelled),
            WakeReason::Nudged => {
                request.run_timers();
                return None;
            }
        };
        self.0 = Stage::Done;
        Some(decided)
    }
}

impl<T> QueuedRequest<T> {
    fn is_due(&self) -> bool {
        self.wake_at
            .is_some_and(|wake_at| wake_at <= self.shared.clock.now())
    }

    fn run_timers(&mut self) {
        let park_key = ParkKey::Waiter(self.waiter);
        self.wake_at = self
            .shared
            .under_lock(|state, now| state.run_timers(park_key, now));
    }

    /// Cancels the request, or releases what was granted in the meantime.
    fn abandon(&self) {
        self.shared.under_lock(|state, now| {
            state.unpark(ParkKey::Waiter(self.waiter));
            if state.pool.cancel(now, self.waiter).is_err()
                && let Some(Decision::Granted(grant, _)) = self.parker.take_decision()
            {
                // A lease that has expired since has ended already.
                let _ = state.pool.release(now, grant.lease, Outcome::NotSent);
            }
        });
    }
}

impl<T> Drop for PendingLease<T> {
    fn drop(&mut self) {
        match mem::replace(&mut self.0, Stage::Done) {
            Stage::Queued(request) => request.abandon(),
            Stage::Granted(lease) => {
                // A lease that has expired since has ended already.
                let _ = lease.release(Outcome::NotSent);
            }
            Stage::Done => {}
        }
    }
}

impl<T> fmt::Debug for PendingLease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.0 {
            Stage::Granted(_) => "granted",
            Stage::Queued(_) => "queued",
            Stage::Done => "done",
        };
        f.debug_tuple("PendingLease").field(&stage).finish()
    }
}

/// Cancels a queued request from another thread or task than the one that waits.
pub struct CancelHandle<T>(Option<(Arc<Shared<T>>, WaiterId)>);

impl<T> CancelHandle<T> {
    /// Refuses the request with [`AcquireError::Cancelled`]; false if it was decided before.
    pub fn cancel(&self) -> bool {
        let Some((shared, waiter)) = &self.0 else {
            return false;
        };
        shared.under_lock(|state, now| {
            let in_time = state.pool.cancel(now, *waiter).is_ok();
            if in_time {
                state.decide(*waiter, Decision::Cancelled);
            }
            in_time
        })
    }
}

impl<T> Clone for CancelHandle<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for CancelHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHandle").finish_non_exhaustive()
    }
}
