//! A tower layer that holds requests to a limit.
//!
//! Invariant: each admission is owned by exactly one ready service or one call, and is settled when that is
//! dropped. The service at the head of the queue has been woken since the limit last changed, or waits for the
//! tick that the limit named.

use crate::clock::{Epoch, Timer};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker, ready};
use core::time::Duration;
use leasehold_core::limit::{Limit, Limiter, Wait};
use leasehold_core::time::Tick;
use pin_project_lite::pin_project;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tower_layer::Layer;
use tower_service::Service;

/// Why a service can't become ready, or a call has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateLimitError<E> {
    /// The limit will never admit another request.
    #[error("the limit never admits another request")]
    NeverFits,
    /// The inner service failed. Not a [`source`](core::error::Error::source), because tower's boxed errors
    /// can't be one.
    #[error("{0}")]
    Inner(E),
}

/// Layer that holds all services that it makes, and their clones, to one limit.
///
/// ```
/// use core::convert::Infallible;
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_tokio::RateLimitLayer;
/// use leasehold_tokio::limit::{Anchor, SlidingLog};
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
    shared: Arc<Shared>,
}

/// Service that is ready once its inner service is ready and the limit admits a request, in this order.
///
/// The limit comes second so that an admitted request is sent soon. A service that is dropped or fails after its
/// admission gives it back; a call counts as completed when its future is ready or dropped.
///
/// Waiting services are admitted strictly in the order of their first poll, even if the first of them is slow to
/// poll again. A dropped one lets the next move up at once. A clone starts without a place in the queue and
/// without an admission.
///
/// ```
/// use core::convert::Infallible;
/// use core::num::NonZeroU32;
/// use leasehold_tokio::RateLimitLayer;
/// use leasehold_tokio::limit::Concurrency;
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
    slot: QueueSlot,
}

impl RateLimitLayer {
    /// Makes a layer with this limit; its clock starts at tick 0 now.
    #[must_use]
    pub fn new(limit: impl Into<Limiter>) -> Self {
        Self {
            shared: Arc::new(Shared {
                epoch: Epoch::start(),
                state: Mutex::new(State {
                    limiter: limit.into(),
                    queue: BTreeMap::new(),
                    arrivals: 0,
                }),
            }),
        }
    }

    /// Time until the limit can admit a request, for a `Retry-After` header; zero if it can now.
    ///
    /// `None` if that depends on requests in flight, or the limit never admits one. Queued requests, which are
    /// admitted first, are not accounted for.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let now = self.shared.epoch.now();
        match self.shared.lock().limiter.earliest(now, COST) {
            Wait::Until(tick) => Some(tick.since(now)),
            Wait::ForSettlement | Wait::Never => None,
        }
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit {
            inner,
            slot: QueueSlot::new(&self.shared),
        }
    }
}

impl<S: Clone> Clone for RateLimit<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            slot: QueueSlot::new(&self.slot.shared),
        }
    }
}

impl<S: Service<R>, R> Service<R> for RateLimit<S> {
    type Response = S::Response;
    type Error = RateLimitError<S::Error>;
    type Future = RateLimitFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if let Err(error) = ready!(self.inner.poll_ready(context)) {
            self.slot.give_up();
            return Poll::Ready(Err(RateLimitError::Inner(error)));
        }
        let admitted = ready!(self.slot.poll(context));
        Poll::Ready(admitted.map_err(|NeverFits| RateLimitError::NeverFits))
    }

    /// Calls the inner service.
    ///
    /// # Panics
    /// The service is not ready.
    fn call(&mut self, request: R) -> Self::Future {
        let admitted = self.slot.admitted.take();
        let admitted = admitted.expect("a service must be ready before it is called");
        RateLimitFuture {
            call: self.inner.call(request),
            admitted: Some(admitted.sent()),
        }
    }
}

pin_project! {
    /// Future of [`RateLimit`]'s answer.
    pub struct RateLimitFuture<F> {
        // Dropped before `admitted`, so that a dropped call has ended before another is admitted.
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

/// A service's place in the queue, or its admission.
#[derive(Debug)]
struct QueueSlot {
    shared: Arc<Shared>,
    position: Option<u64>,
    admitted: Option<Admitted>,
    timer: Timer,
}

impl QueueSlot {
    fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            position: None,
            admitted: None,
            timer: Timer::new(shared.epoch),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), NeverFits>> {
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

    /// Leaves the queue and gives the admission back.
    fn give_up(&mut self) {
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
struct Admitted {
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

struct NeverFits;

/// Cost of a request, in units of the limit.
const COST: u32 = 1;

/// The limit and its queue, shared by all services of a layer.
#[derive(Debug)]
struct Shared {
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

#[cfg(test)]
impl RateLimitLayer {
    /// Units available now, and waiting services.
    pub(crate) fn available_and_waiting(&self) -> (u32, usize) {
        let state = self.shared.lock();
        let now = self.shared.epoch.now();
        (state.limiter.available(now), state.queue.len())
    }
}
