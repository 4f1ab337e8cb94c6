//! A tower layer that lets through what a limit allows.
//!
//! Invariant: everything that was taken from the limit is held by exactly one service that is ready or by
//! one future of a call, and goes back when that is gone. Whoever is first in line has been woken since the
//! limit last changed, or waits for the tick that it named.

use crate::clock::{Alarm, Ticks};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker, ready};
use leasehold_core::limit::{Limit, Limiter, Wait};
use leasehold_core::time::Tick;
use pin_project_lite::pin_project;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tower_layer::Layer;
use tower_service::Service;

/// Why a service isn't ready or there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateLimitError<E> {
    /// The limit will never admit another request.
    #[error("the limit admits no request at all")]
    NeverFits,
    /// The inner service failed. It is no [`source`](core::error::Error::source), as tower's boxed
    /// errors could not be one.
    #[error("{0}")]
    Inner(E),
}

/// Puts all services that it makes, and their clones, under one limit.
///
/// ```
/// use core::convert::Infallible;
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_tokio::RateLimitLayer;
/// use leasehold_tokio::core::limit::{Anchor, SlidingLog};
/// use tower::{Service, ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let minute = Duration::from_secs(60);
/// let limit = SlidingLog::new(NonZeroU32::MIN, minute, Anchor::Completion)?;
/// let mut service = ServiceBuilder::new()
///     .layer(RateLimitLayer::new(limit))
///     .service_fn(async |request: u32| Ok::<_, Infallible>(request));
/// let start = tokio::time::Instant::now();
/// service.ready().await?.call(1).await?;
/// service.ready().await?.call(2).await?;
/// assert_eq!(start.elapsed(), minute);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    gate: Arc<Gate>,
}

/// Is ready once its inner service is and the limit admits a request, in this order, so that what is
/// admitted is sent soon.
///
/// A request is admitted when the service becomes ready. If the service is dropped after that, or fails,
/// it was not; called, it counts as completed when the future of the answer is ready or dropped.
///
/// Those that wait are served strictly in the order in which they first asked, whatever the order in which
/// their tasks run; nobody who comes later gets ahead, even if the first of them is slow to ask again. One
/// that is dropped leaves the line to the next at once. Clones begin without a place in line and without
/// an admission.
///
/// ```
/// use core::convert::Infallible;
/// use core::num::NonZeroU32;
/// use leasehold_tokio::RateLimitLayer;
/// use leasehold_tokio::core::limit::Concurrency;
/// use tower::{Layer, Service, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let alone = RateLimitLayer::new(Concurrency::new(NonZeroU32::MIN));
/// let mut service = alone.layer(service_fn(async |name: u32| Ok::<_, Infallible>(name)));
/// let mut other = service.clone();
/// let first = service.ready().await?.call(1);
/// let second = async { other.ready().await?.call(2).await };
/// assert_eq!(tokio::try_join!(second, first)?, (2, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RateLimit<S> {
    inner: S,
    turn: Turn,
}

impl RateLimitLayer {
    /// Admits what `limit` does, whose ticks begin now.
    #[must_use]
    pub fn new(limit: impl Into<Limiter>) -> Self {
        Self {
            gate: Arc::new(Gate {
                ticks: Ticks::start(),
                door: Mutex::new(Door {
                    limiter: limit.into(),
                    line: BTreeMap::new(),
                    arrivals: 0,
                }),
            }),
        }
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit {
            inner,
            turn: Turn::new(&self.gate),
        }
    }
}

impl<S: Clone> Clone for RateLimit<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            turn: Turn::new(&self.turn.gate),
        }
    }
}

impl<S: Service<R>, R> Service<R> for RateLimit<S> {
    type Response = S::Response;
    type Error = RateLimitError<S::Error>;
    type Future = RateLimitFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if let Err(error) = ready!(self.inner.poll_ready(context)) {
            self.turn.give_up();
            return Poll::Ready(Err(RateLimitError::Inner(error)));
        }
        let admitted = ready!(self.turn.poll(context));
        Poll::Ready(admitted.map_err(|NeverFits| RateLimitError::NeverFits))
    }

    /// Passes the request on.
    ///
    /// # Panics
    /// Where the service wasn't ready.
    fn call(&mut self, request: R) -> Self::Future {
        let admitted = self.turn.admitted.take();
        let admitted = admitted.expect("a service is ready before it is called");
        RateLimitFuture {
            call: self.inner.call(request),
            admitted: Some(admitted.sent()),
        }
    }
}

pin_project! {
    /// Becomes the answer of [`RateLimit`].
    pub struct RateLimitFuture<F> {
        // Before `admitted`, so that a call that is dropped is gone before another is admitted.
        #[pin]
        call: F,
        admitted: Option<Admitted>,
    }
}

impl<F, Response, Error> Future for RateLimitFuture<F>
where
    F: Future<Output = Result<Response, Error>>,
{
    type Output = Result<Response, RateLimitError<Error>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.call.poll(context));
        *this.admitted = None;
        Poll::Ready(answer.map_err(RateLimitError::Inner))
    }
}

impl<F> fmt::Debug for RateLimitFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitFuture").finish_non_exhaustive()
    }
}

/// One service's place in line, and what it was admitted for.
#[derive(Debug)]
struct Turn {
    gate: Arc<Gate>,
    place: Option<u64>,
    admitted: Option<Admitted>,
    alarm: Alarm,
}

impl Turn {
    fn new(gate: &Arc<Gate>) -> Self {
        Self {
            gate: Arc::clone(gate),
            place: None,
            admitted: None,
            alarm: Alarm::new(gate.ticks),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), NeverFits>> {
        if self.admitted.is_some() {
            return Poll::Ready(Ok(()));
        }
        let Self {
            gate, place, alarm, ..
        } = self;
        let booked = ready!(alarm.poll(context, |context| gate.poll(place, context)))?;
        self.admitted = Some(Admitted {
            gate: Arc::clone(gate),
            booked,
            used: 0,
        });
        Poll::Ready(Ok(()))
    }

    /// Leaves the line, and gives back what it was admitted for.
    fn give_up(&mut self) {
        self.admitted = None;
        if let Some(place) = self.place.take() {
            self.gate.leave(place);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// A request that was admitted; settled when it is dropped.
#[derive(Debug)]
struct Admitted {
    gate: Arc<Gate>,
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
        self.gate.settle(self.booked, self.used);
    }
}

struct NeverFits;

/// What a request costs.
const COST: u32 = 1;

/// The limit and those who wait for it. The lock is held over commands of the limit only; it is used even
/// if it is poisoned, as these don't panic.
#[derive(Debug)]
struct Gate {
    ticks: Ticks,
    door: Mutex<Door>,
}

#[derive(Debug)]
struct Door {
    limiter: Limiter,
    /// Those who wait, in order of arrival, and whom to wake; `None` where it was woken and has not asked
    /// again.
    line: BTreeMap<u64, Option<Waker>>,
    /// How many ever waited.
    arrivals: u64,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a request if it is its turn, and else keeps a place for it. Answers when to ask again, if that
    /// is known.
    fn poll(
        &self,
        place: &mut Option<u64>,
        context: &Context<'_>,
    ) -> (Poll<Result<Tick, NeverFits>>, Option<Tick>) {
        // Wakers run code of others as they are dropped or called, so that is left until after the lock.
        let (answer, replaced, next) = {
            let mut door = self.lock();
            let answer = match door.is_turn_of(*place) {
                true => door.limiter.try_acquire(self.ticks.now(), COST),
                false => Err(Wait::ForSettlement),
            };
            match answer {
                Err(wait @ (Wait::Until(_) | Wait::ForSettlement)) => {
                    let waker = context.waker().clone();
                    (Err(wait), door.keep(place, waker), None)
                }
                decided @ (Ok(_) | Err(Wait::Never)) => {
                    let left = place.take().and_then(|place| door.line.remove(&place));
                    (decided, left.flatten(), door.next())
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
        let mut door = self.lock();
        let now = self.ticks.now();
        door.limiter.settle(now, booked, COST, used);
        let next = door.next();
        drop(door);
        if let Some(next) = next {
            next.wake();
        }
    }

    fn leave(&self, place: u64) {
        let mut door = self.lock();
        let was_first = door.is_turn_of(Some(place));
        let left = door.line.remove(&place);
        let next = was_first.then(|| door.next()).flatten();
        drop(door);
        drop(left);
        if let Some(next) = next {
            next.wake();
        }
    }
}

impl Door {
    fn is_turn_of(&self, place: Option<u64>) -> bool {
        self.line.keys().next().copied() == place
    }

    /// Keeps a place for who is to be woken; whom it was to wake before.
    fn keep(&mut self, place: &mut Option<u64>, waker: Waker) -> Option<Waker> {
        let place = *place.get_or_insert_with(|| {
            self.arrivals = self.arrivals.saturating_add(1);
            self.arrivals
        });
        self.line.entry(place).or_default().replace(waker)
    }

    /// Whom to wake because it is their turn, or may be sooner than they were told.
    fn next(&mut self) -> Option<Waker> {
        self.line.values_mut().next()?.take()
    }
}

#[cfg(test)]
impl RateLimitLayer {
    /// How much could be admitted, and how many wait.
    pub(crate) fn idle_capacity(&self) -> (u32, usize) {
        let door = self.gate.lock();
        let now = self.gate.ticks.now();
        (door.limiter.available(now), door.line.len())
    }
}
