//! A tower layer that holds requests to a limit: each waits for its admission, or is refused.
//!
//! Invariant: the inner service is called only with an admission.

mod queue;
mod quota;

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use leasehold_core::limit::{Allowance, LimitConfigError, LimitSpec, Limiter, Quota};
use pin_project_lite::pin_project;
use queue::{Admitted, NeverFits, QueueSlot, Shared};
use quota::Until;
use std::sync::Arc;
use tower_layer::Layer;
use tower_service::Service;

/// Why a service can't become ready, or a call has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateLimitError<E> {
    /// The limit is used up, and the layer [refuses](RateLimitLayer::refuse). Nothing is left of the quota, whose
    /// reset is when to try again.
    #[error("the limit is used up; try again {}", Until(.0.reset))]
    Refused(Quota),
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
/// Requests over the limit wait, or are [refused](Self::refuse). Each costs one unit.
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
    allowance: Allowance,
    over_limit: OverLimit,
}

/// What happens to a request over the limit.
#[derive(Clone, Copy, Debug)]
enum OverLimit {
    Wait,
    Refuse,
}

/// Service that is ready once its inner service is ready and the limit admits a request, in this order.
///
/// The limit comes second so that an admitted request is sent soon. A service that is dropped or fails after its
/// admission gives it back; a call counts as completed when its future is ready or dropped, not when the body of
/// its answer ends.
///
/// Waiting services are admitted strictly in the order of their first poll, even if the first of them is slow to
/// poll again. A dropped one lets the next move up at once. A clone starts without a place in the queue and
/// without an admission.
///
/// One that [refuses](RateLimitLayer::refuse) is ready once its inner service is, and asks for the admission when it
/// is called.
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
    allowance: Allowance,
    over_limit: OverLimit,
}

impl RateLimitLayer {
    /// Makes a layer with this limit; its clock starts at tick 0 now. Its [quota](Self::quota) has no window.
    #[must_use]
    pub fn new(limit: impl Into<Limiter>) -> Self {
        let limiter = limit.into();
        let allowance = Allowance::of_limiter(&limiter);
        Self::with_allowance(limiter, allowance)
    }

    /// Makes a layer with the limit of a text such as `100/min from grant`, for a [quota](Self::quota) with a window.
    ///
    /// Count a limit for callers from the grant: a window that counts from completion can't tell when it admits the
    /// next request while earlier ones are in flight.
    ///
    /// # Errors
    /// The limit can't be built; a spec read from text always can.
    pub fn from_spec(spec: &LimitSpec) -> Result<Self, LimitConfigError> {
        Ok(Self::with_allowance(
            spec.limiter()?,
            Allowance::of_spec(spec),
        ))
    }

    /// Refuses a call over the limit with [`RateLimitError::Refused`], instead of waiting.
    ///
    /// Clones made before share the limit and go on waiting; a call is refused while one of them does.
    ///
    /// ```
    /// use core::convert::Infallible;
    /// use core::time::Duration;
    /// use leasehold_tokio::limit::LimitSpec;
    /// use leasehold_tokio::{RateLimitError, RateLimitLayer};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limit: LimitSpec = "1/min from grant".parse()?;
    /// let service = RateLimitLayer::from_spec(&limit)?
    ///     .refuse()
    ///     .layer(service_fn(async |request: u32| Ok::<_, Infallible>(request)));
    /// assert_eq!(service.clone().oneshot(1).await, Ok(1));
    /// let Err(RateLimitError::Refused(quota)) = service.oneshot(2).await else {
    ///     panic!("the limit is used up");
    /// };
    /// assert_eq!((quota.limit, quota.remaining), (1, 0));
    /// assert_eq!(quota.reset, Some(Duration::from_secs(60)));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn refuse(mut self) -> Self {
        self.over_limit = OverLimit::Refuse;
        self
    }

    /// What the limit allows now.
    #[must_use]
    pub fn quota(&self) -> Quota {
        quota::read(self.allowance, &self.shared)
    }

    /// Time until the limit can admit a request, for a `Retry-After` header; zero if it can now.
    ///
    /// `None` if that depends on requests in flight, or the limit never admits one. Queued requests, which are
    /// admitted first, are not accounted for.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        quota::retry_after(&self.shared)
    }

    /// Tells the quota in headers of each response, and answers a refused request with a response too; for services
    /// that answer with an `http::Response`.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn with_headers(self) -> crate::RateLimitHeadersLayer {
        crate::RateLimitHeadersLayer::new(self)
    }

    #[cfg(feature = "http")]
    pub(crate) fn allowance(&self) -> Allowance {
        self.allowance
    }

    fn with_allowance(limiter: Limiter, allowance: Allowance) -> Self {
        Self {
            shared: Arc::new(Shared::new(limiter)),
            allowance,
            over_limit: OverLimit::Wait,
        }
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit {
            inner,
            slot: QueueSlot::new(&self.shared),
            allowance: self.allowance,
            over_limit: self.over_limit,
        }
    }
}

impl<S: Clone> Clone for RateLimit<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            slot: QueueSlot::new(&self.slot.shared),
            allowance: self.allowance,
            over_limit: self.over_limit,
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
        match self.over_limit {
            OverLimit::Refuse => Poll::Ready(Ok(())),
            OverLimit::Wait => {
                let admitted = ready!(self.slot.poll(context));
                Poll::Ready(admitted.map_err(|NeverFits| RateLimitError::NeverFits))
            }
        }
    }

    /// Calls the inner service, or refuses the request.
    ///
    /// # Panics
    /// The service is not ready.
    fn call(&mut self, request: R) -> Self::Future {
        let admitted = match self.over_limit {
            OverLimit::Wait => {
                let admitted = self.slot.take();
                Ok(admitted.expect("a service must be ready before it is called"))
            }
            OverLimit::Refuse => self.slot.admit(),
        };
        let stage = match admitted {
            Ok(admitted) => Stage::Called {
                call: self.inner.call(request),
                admitted: Some(admitted),
            },
            Err(wait) => Stage::Refused {
                quota: self.allowance.used_up(self.slot.shared.now(), wait),
            },
        };
        RateLimitFuture { stage }
    }
}

pin_project! {
    /// Future of [`RateLimit`]'s answer.
    pub struct RateLimitFuture<F> {
        #[pin]
        stage: Stage<F>,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<F> {
        Called {
            // Dropped before `admitted`, so that a dropped call has ended before another is admitted.
            #[pin]
            call: F,
            admitted: Option<Admitted>,
        },
        Refused {
            // `None` if the limit never admits another request.
            quota: Option<Quota>,
        },
    }
}

impl<F, Response, Error> Future for RateLimitFuture<F>
where
    F: Future<Output = Result<Response, Error>>,
{
    type Output = Result<Response, RateLimitError<Error>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().stage.project() {
            StageProjection::Called { call, admitted } => {
                let answer = ready!(call.poll(context));
                *admitted = None;
                answer.map_err(RateLimitError::Inner)
            }
            StageProjection::Refused { quota } => Err(match *quota {
                Some(quota) => RateLimitError::Refused(quota),
                None => RateLimitError::NeverFits,
            }),
        })
    }
}

impl<F> fmt::Debug for RateLimitFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
impl RateLimitLayer {
    /// Units available now, and waiting services.
    pub(crate) fn available_and_waiting(&self) -> (u32, usize) {
        (self.quota().remaining, self.shared.waiting())
    }
}
