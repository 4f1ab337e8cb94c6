//! The queue of services that wait for a limit, and their admissions.
//!
//! Invariant: each admission is owned by exactly one ready service or one call, and is settled when that is
//! dropped. The service at the head of the queue has been woken since the limit last changed, or waits for the
//! tick that the limit named.

use crate::clock::{Epoch, Timer};
use core::task::{Context, Poll, Waker, ready};
use leasehold_core::limit::{Limit, Limiter, Wait};
use leasehold_core::time::Tick;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A service's place in the queue, or its admission.
#[derive(Debug)]
pub(super) struct QueueSlot {
    pub(super) shared: Arc<Shared>,
    position: Option<u64>,
    admitted: Option<Admitted>,
    timer: Timer,
}

impl QueueSlot {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            position: None,
            admitted: None,
            timer: Timer::new(shared.epoch),
        }
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), NeverFits>> {
        if self.admitted.is_some() {
            return Poll::Ready(Ok(()));
        }
        let Self {
            shared,
            position,
            timer,
            ..
        } = self;
        let booked = ready!(timer.poll(context, |context| shared.poll(position, context)))?;
        self.admitted = Some(Admitted {
            shared: Arc::clone(shared),
            booked,
            used: 0,
        });
        Poll::Ready(Ok(()))
    }

    /// Takes the admission that [`poll`](Self::poll) got, for a call.
    pub(super) fn take(&mut self) -> Option<Admitted> {
        self.admitted.take().map(Admitted::sent)
    }

    /// Admits a call now, or refuses it.
    pub(super) fn admit(&self) -> Result<Admitted, Wait> {
        let booked = self.shared.admit()?;
        let admitted = Admitted {
            shared: Arc::clone(&self.shared),
            booked,
            used: 0,
        };
        Ok(admitted.sent())
    }

    /// Leaves the queue and gives the admission back.
    pub(super) fn give_up(&mut self) {
        self.admitted = None;
        if let Some(position) = self.position.take() {
            self.shared.leave(position);
        }
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// An admission; settled when it is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    shared: Arc<Shared>,
    booked: Tick,
    used: u32,
}

impl Admitted {
    fn sent(mut self) -> Self {
        self.used = COST;
        self
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.settle(self.booked, self.used);
    }
}

pub(super) struct NeverFits;

/// Cost of a request, in units of the limit.
pub(super) const COST: u32 = 1;

/// The limit and its queue, shared by all services of a layer.
#[derive(Debug)]
pub(super) struct Shared {
    epoch: Epoch,
    /// Poison is ignored: the lock is held over commands of the limiter, which don't panic.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limiter: Limiter,
    /// Wakers of the waiting services, by order of arrival; `None` after a wake-up, until the next poll.
    queue: BTreeMap<u64, Option<Waker>>,
    /// Services ever queued, which numbers the next one.
    arrivals: u64,
}

impl Shared {
    pub(super) fn new(limiter: Limiter) -> Self {
        Self {
            epoch: Epoch::start(Tick::ZERO),
            state: Mutex::new(State {
                limiter,
                queue: BTreeMap::new(),
                arrivals: 0,
            }),
        }
    }

    pub(super) fn now(&self) -> Tick {
        self.epoch.now()
    }

    /// Reads the limit at the present tick.
    pub(super) fn read<R>(&self, read: impl FnOnce(&Limiter, Tick) -> R) -> R {
        let state = self.lock();
        read(&state.limiter, self.epoch.now())
    }

    /// Admits a request unless others are queued, or returns when the limit could.
    fn admit(&self) -> Result<Tick, Wait> {
        let mut state = self.lock();
        let now = self.epoch.now();
        match state.queue.is_empty() {
            true => state.limiter.try_acquire(now, COST),
            false => Err(state.limiter.earliest(now, COST)),
        }
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a request at the head of the queue, or queues it; returns when to poll again, if that is known.
    fn poll(
        &self,
        position: &mut Option<u64>,
        context: &Context<'_>,
    ) -> (Poll<Result<Tick, NeverFits>>, Option<Tick>) {
        // Wakers run foreign code when they are dropped or called: do that after unlocking.
        let (answer, replaced, next) = {
            let mut state = self.lock();
            let answer = match state.is_first(*position) {
                true => state.limiter.try_acquire(self.epoch.now(), COST),
                false => Err(Wait::ForSettlement),
            };
            match answer {
                Err(wait @ (Wait::Until(_) | Wait::ForSettlement)) => {
                    let waker = context.waker().clone();
                    (Err(wait), state.enqueue(position, waker), None)
                }
                decided @ (Ok(_) | Err(Wait::Never)) => {
                    let left = position.take();
                    let left = left.and_then(|position| state.queue.remove(&position));
                    (decided, left.flatten(), state.take_first_waker())
                }
            }
        };
        drop(replaced);
        if let Some(next) = next {
            next.wake();
        }
        match answer {
            Ok(booked) => (Poll::Ready(Ok(booked)), None),
            Err(Wait::Never) => (Poll::Ready(Err(NeverFits)), None),
            Err(Wait::ForSettlement) => (Poll::Pending, None),
            Err(Wait::Until(tick)) => (Poll::Pending, Some(tick)),
        }
    }

    fn settle(&self, booked: Tick, used: u32) {
        let mut state = self.lock();
        let now = self.epoch.now();
        state.limiter.settle(now, booked, COST, used);
        let next = state.take_first_waker();
        drop(state);
        if let Some(next) = next {
            next.wake();
        }
    }

    fn leave(&self, position: u64) {
        let mut state = self.lock();
        let was_first = state.is_first(Some(position));
        let left = state.queue.remove(&position);
        let next = was_first.then(|| state.take_first_waker()).flatten();
        drop(state);
        drop(left);
        if let Some(next) = next {
            next.wake();
        }
    }
}

impl State {
    /// Whether this is the position at the head of the queue; `None` is, if the queue is empty.
    fn is_first(&self, position: Option<u64>) -> bool {
        self.queue.keys().next().copied() == position
    }

    /// Stores the waker of a position, a new one at the end if there is none; returns the waker it replaced.
    fn enqueue(&mut self, position: &mut Option<u64>, waker: Waker) -> Option<Waker> {
        let position = *position.get_or_insert_with(|| {
            self.arrivals = self.arrivals.saturating_add(1);
            self.arrivals
        });
        self.queue.entry(position).or_default().replace(waker)
    }

    /// Takes the waker at the head of the queue, which may be admitted now or earlier than it was told.
    fn take_first_waker(&mut self) -> Option<Waker> {
        self.queue.values_mut().next()?.take()
    }
}
