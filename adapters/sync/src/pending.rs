//! A place in line, for a thread that waits in it or for a task that polls.
//!
//! Invariant: a pending ends in exactly one of three ways: its lease is taken, its refusal is, or it is
//! dropped, which leaves the line or gives back what was granted in the meantime.

use crate::lease::Lease;
use crate::parker::{Decision, Parker, WakeReason};
use crate::pool::{AcquireError, Shared};
use crate::state::ParkKey;
use crate::sync::Arc;
use core::fmt;
use core::mem;
use core::task::{Context, Poll};
use leasehold_core::pool::{Outcome, WaiterId};
use leasehold_core::time::Tick;

/// A request that has its lease or waits for it in line.
///
/// A pending that is neither waited for, polled nor dropped keeps its place, whatever is granted to it and,
/// where it keeps time for the pool, that too.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_sync::{AcquireError, SyncPool};
/// use leasehold_sync::core::balance::Policy;
/// use leasehold_sync::core::pool::{PoolConfig, Member, Request};
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
#[must_use = "a pending that is dropped leaves the line"]
pub struct PendingLease<T>(Stage<T>);

enum Stage<T> {
    Granted(Lease<T>),
    Waiting(Place<T>),
    Over,
}

/// A place in line.
struct Place<T> {
    shared: Arc<Shared<T>>,
    waiter: WaiterId,
    parker: Arc<Parker<T>>,
    /// When it has to wake by itself, because it keeps time.
    alarm: Option<Tick>,
}

impl<T> PendingLease<T> {
    pub(crate) fn granted(lease: Lease<T>) -> Self {
        Self(Stage::Granted(lease))
    }

    pub(crate) fn waiting(
        shared: &Arc<Shared<T>>,
        waiter: WaiterId,
        parker: Arc<Parker<T>>,
        alarm: Option<Tick>,
    ) -> Self {
        Self(Stage::Waiting(Place {
            shared: Arc::clone(shared),
            waiter,
            parker,
            alarm,
        }))
    }

    /// Sleeps until the request is decided.
    ///
    /// # Errors
    /// Where it timed out or was cancelled, its member was removed, or the pool was closed.
    pub fn wait(mut self) -> Result<Lease<T>, AcquireError> {
        loop {
            match &mut self.0 {
                Stage::Waiting(place) => {
                    let woken = place.parker.park(place.alarm, &place.shared.clock);
                    if let Some(decided) = self.look(woken) {
                        return decided;
                    }
                }
                Stage::Granted(_) | Stage::Over => return self.take(),
            }
        }
    }

    /// Takes the decision, or has the task woken when there is one. Until then the task has to poll again
    /// at the tick that comes with `Pending`, if one does, because this pending keeps time for the pool.
    ///
    /// After the decision was taken it is [`Cancelled`](AcquireError::Cancelled).
    pub fn poll(
        &mut self,
        context: &Context<'_>,
    ) -> (Poll<Result<Lease<T>, AcquireError>>, Option<Tick>) {
        loop {
            let woken = match &self.0 {
                Stage::Waiting(place) => match place.parker.poll(context) {
                    Some(woken) => woken,
                    None if place.is_late() => WakeReason::Nudged,
                    None => return (Poll::Pending, place.alarm),
                },
                Stage::Granted(_) | Stage::Over => return (Poll::Ready(self.take()), None),
            };
            if let Some(decided) = self.look(woken) {
                return (Poll::Ready(decided), None);
            }
        }
    }

    /// What can take the request back from elsewhere.
    #[must_use]
    pub fn cancel_handle(&self) -> CancelHandle<T> {
        CancelHandle(match &self.0 {
            Stage::Waiting(place) => Some((Arc::clone(&place.shared), place.waiter)),
            Stage::Granted(_) | Stage::Over => None,
        })
    }

    /// What was granted at once.
    fn take(&mut self) -> Result<Lease<T>, AcquireError> {
        match mem::replace(&mut self.0, Stage::Over) {
            Stage::Granted(lease) => Ok(lease),
            Stage::Waiting(_) | Stage::Over => Err(AcquireError::Cancelled),
        }
    }

    /// Does what it was woken for; the decision, if that is what it was.
    fn look(&mut self, woken: WakeReason<T>) -> Option<Result<Lease<T>, AcquireError>> {
        let Stage::Waiting(place) = &mut self.0 else {
            return None;
        };
        let decided = match woken {
            WakeReason::Decided(Decision::Granted(grant, payload)) => {
                Ok(Lease::new(Arc::clone(&place.shared), payload, grant))
            }
            WakeReason::Decided(Decision::TimedOut) => Err(AcquireError::TimedOut),
            WakeReason::Decided(Decision::Closed) => Err(AcquireError::Closed),
            WakeReason::Decided(Decision::PinnedMemberRemoved) => {
                Err(AcquireError::PinnedMemberRemoved)
            }
            WakeReason::Decided(Decision::Cancelled) => Err(AcquireError::Cancelled),
            WakeReason::Nudged => {
                place.keep_time();
                return None;
            }
        };
        self.0 = Stage::Over;
        Some(decided)
    }
}

impl<T> Place<T> {
    fn is_late(&self) -> bool {
        self.alarm
            .is_some_and(|alarm| alarm <= self.shared.clock.now())
    }

    fn keep_time(&mut self) {
        let park_key = ParkKey::Waiter(self.waiter);
        self.alarm = self
            .shared
            .under_lock(|state, now| state.keep_time(park_key, now));
    }

    /// Leaves the line, or gives back what was granted in the meantime.
    fn leave(&self) {
        self.shared.under_lock(|state, now| {
            state.unpark(ParkKey::Waiter(self.waiter));
            if state.pool.cancel(now, self.waiter).is_err()
                && let Some(Decision::Granted(grant, _)) = self.parker.take_fate()
            {
                // If the lease has expired since, it was taken back already.
                let _ = state.pool.release(now, grant.lease, Outcome::NotSent);
            }
        });
    }
}

impl<T> Drop for PendingLease<T> {
    fn drop(&mut self) {
        match mem::replace(&mut self.0, Stage::Over) {
            Stage::Waiting(place) => place.leave(),
            Stage::Granted(lease) => {
                // The same holds of it.
                let _ = lease.release(Outcome::NotSent);
            }
            Stage::Over => {}
        }
    }
}

impl<T> fmt::Debug for PendingLease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.0 {
            Stage::Granted(_) => "granted",
            Stage::Waiting(_) => "waiting",
            Stage::Over => "over",
        };
        f.debug_tuple("PendingLease").field(&stage).finish()
    }
}

/// Takes a request back from another thread or task than the one that waits.
pub struct CancelHandle<T>(Option<(Arc<Shared<T>>, WaiterId)>);

impl<T> CancelHandle<T> {
    /// Ends the wait with [`AcquireError::Cancelled`]; whether it was in time. A request that was decided
    /// before stays as it was.
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
