//! A place in line, for a thread that waits in it or for a task that polls.
//!
//! Invariant: a ticket ends in exactly one of three ways: its lease is taken, its refusal is, or it is
//! dropped, which leaves the line or gives back what was granted in the meantime.

use crate::desk::Seat;
use crate::lease::Lease;
use crate::parker::{Fate, Parker, Woken};
use crate::pool::{AcquireError, Shared};
use crate::sync::Arc;
use core::fmt;
use core::mem;
use core::task::{Context, Poll};
use leasehold_core::pool::{Outcome, WaiterId};
use leasehold_core::time::Tick;

/// A request that has its lease or waits for it in line.
///
/// A ticket that is neither waited for, polled nor dropped keeps its place, whatever is granted to it and,
/// where it keeps time for the pool, that too.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_sync::{AcquireError, SyncPool};
/// use leasehold_sync::core::balance::Policy;
/// use leasehold_sync::core::pool::{Config, Member, Request};
///
/// let pool = SyncPool::new(Config::new(Policy::Fifo));
/// pool.add(Member::new("127.0.0.1:8001").max_leases(NonZeroU32::MIN))?;
/// let held = pool.enqueue(Request::new())?.wait()?;
/// let ticket = pool.enqueue(Request::new())?;
/// let canceller = ticket.canceller();
/// std::thread::spawn(move || canceller.cancel());
/// assert_eq!(ticket.wait().unwrap_err(), AcquireError::Cancelled);
/// # drop(held);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a ticket that is dropped leaves the line"]
pub struct Ticket<T> {
    shared: Arc<Shared<T>>,
    stage: Stage<T>,
    /// Whether nobody else waited when it came.
    is_next: bool,
}

enum Stage<T> {
    Granted(Lease<T>),
    Waiting {
        waiter: WaiterId,
        parker: Arc<Parker<T>>,
        /// When it has to wake by itself, because it keeps time.
        alarm: Option<Tick>,
    },
    Over,
}

impl<T> Ticket<T> {
    pub(crate) fn granted(shared: &Arc<Shared<T>>, lease: Lease<T>) -> Self {
        Self {
            shared: Arc::clone(shared),
            stage: Stage::Granted(lease),
            is_next: false,
        }
    }

    pub(crate) fn waiting(
        shared: &Arc<Shared<T>>,
        waiter: WaiterId,
        parker: Arc<Parker<T>>,
        alarm: Option<Tick>,
        is_next: bool,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            stage: Stage::Waiting {
                waiter,
                parker,
                alarm,
            },
            is_next,
        }
    }

    /// Sleeps until the request is decided.
    ///
    /// # Errors
    /// Where it timed out or was cancelled, its member was removed, or the pool was closed.
    pub fn wait(mut self) -> Result<Lease<T>, AcquireError> {
        if let Stage::Waiting { parker, .. } = &self.stage
            && self.is_next
        {
            parker.look_out();
        }
        loop {
            let woken = match mem::replace(&mut self.stage, Stage::Over) {
                Stage::Granted(lease) => return Ok(lease),
                Stage::Over => return Err(AcquireError::Cancelled),
                Stage::Waiting {
                    waiter,
                    parker,
                    alarm,
                } => {
                    let woken = parker.park(alarm, &self.shared.clock);
                    self.stage = Stage::Waiting {
                        waiter,
                        parker,
                        alarm,
                    };
                    woken
                }
            };
            if let Some(decided) = self.look(woken) {
                return decided;
            }
        }
    }

    /// Takes the decision, or has the task woken when there is one. Until then the task has to poll again
    /// at the tick that comes with `Pending`, if one does, because this ticket keeps time for the pool.
    ///
    /// After the decision was taken it is [`Cancelled`](AcquireError::Cancelled).
    pub fn poll(
        &mut self,
        context: &Context<'_>,
    ) -> (Poll<Result<Lease<T>, AcquireError>>, Option<Tick>) {
        loop {
            let woken = match &self.stage {
                Stage::Waiting { parker, alarm, .. } => match parker.poll(context) {
                    Some(woken) => woken,
                    None if alarm.is_some_and(|alarm| alarm <= self.shared.clock.now()) => {
                        Woken::Nudged
                    }
                    None => return (Poll::Pending, *alarm),
                },
                Stage::Granted(_) | Stage::Over => {
                    let decided = match mem::replace(&mut self.stage, Stage::Over) {
                        Stage::Granted(lease) => Ok(lease),
                        Stage::Waiting { .. } | Stage::Over => Err(AcquireError::Cancelled),
                    };
                    return (Poll::Ready(decided), None);
                }
            };
            if let Some(decided) = self.look(woken) {
                return (Poll::Ready(decided), None);
            }
        }
    }

    /// What can take the request back from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> Canceller<T> {
        let waiter = match &self.stage {
            Stage::Waiting { waiter, .. } => Some(*waiter),
            Stage::Granted(_) | Stage::Over => None,
        };
        Canceller {
            shared: Arc::clone(&self.shared),
            waiter,
        }
    }

    /// Does what it was woken for; the decision, if that is what it was.
    fn look(&mut self, woken: Woken<T>) -> Option<Result<Lease<T>, AcquireError>> {
        match woken {
            Woken::Decided(fate) => {
                self.stage = Stage::Over;
                Some(self.resolve(fate))
            }
            Woken::Nudged => {
                if let Stage::Waiting { waiter, alarm, .. } = &mut self.stage {
                    let seat = Seat::Waiter(*waiter);
                    *alarm = self
                        .shared
                        .under_lock(|desk, now| desk.keep_time(seat, now));
                }
                None
            }
        }
    }

    fn resolve(&self, fate: Fate<T>) -> Result<Lease<T>, AcquireError> {
        match fate {
            Fate::Granted(grant, payload) => {
                Ok(Lease::new(Arc::clone(&self.shared), payload, grant))
            }
            Fate::TimedOut => Err(AcquireError::TimedOut),
            Fate::Closed => Err(AcquireError::Closed),
            Fate::PinRemoved => Err(AcquireError::StalePin),
            Fate::Cancelled => Err(AcquireError::Cancelled),
        }
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        if let Stage::Waiting { waiter, parker, .. } = &self.stage {
            self.shared.under_lock(|desk, now| {
                desk.unpark(Seat::Waiter(*waiter));
                if desk.pool.cancel(now, *waiter).is_err()
                    && let Some(Fate::Granted(grant, _)) = parker.take_fate()
                {
                    // If the lease has expired since, it was taken back already.
                    let _ = desk.pool.release(now, grant.lease, Outcome::NotSent);
                }
            });
        }
        // A lease that was granted at once wasn't used either.
        if let Stage::Granted(lease) = mem::replace(&mut self.stage, Stage::Over) {
            let _ = lease.release(Outcome::NotSent);
        }
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Granted(_) => "granted",
            Stage::Waiting { .. } => "waiting",
            Stage::Over => "over",
        };
        f.debug_struct("Ticket")
            .field("stage", &stage)
            .finish_non_exhaustive()
    }
}

/// Takes a request back from another thread or task than the one that waits.
pub struct Canceller<T> {
    shared: Arc<Shared<T>>,
    waiter: Option<WaiterId>,
}

impl<T> Canceller<T> {
    /// Ends the wait with [`AcquireError::Cancelled`]; whether it was in time. A request that was decided
    /// before stays as it was.
    pub fn cancel(&self) -> bool {
        let Some(waiter) = self.waiter else {
            return false;
        };
        self.shared.under_lock(|desk, now| {
            let in_time = desk.pool.cancel(now, waiter).is_ok();
            if in_time {
                desk.decide(waiter, Fate::Cancelled);
            }
            in_time
        })
    }
}

impl<T> Clone for Canceller<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            waiter: self.waiter,
        }
    }
}

impl<T> fmt::Debug for Canceller<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").finish_non_exhaustive()
    }
}
