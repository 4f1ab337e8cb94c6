//! A tower layer that leases a member of a pool for each request.
//!
//! Invariant: a lease is held from before the inner service is asked for readiness until its answer has been
//! classified, or the call's future is dropped. `lease_body` prolongs that to the end of the answer's body.

mod call;

#[cfg(feature = "http")]
pub(crate) use call::HeldLease;
pub(crate) use call::{LeaseCall, Stopwatch};

use crate::pool::TokioPool;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use leasehold_core::pool::{Outcome, Release, Request};
use leasehold_sync::AcquireError;
use pin_project_lite::pin_project;
use std::sync::Arc;
use tower_layer::Layer;
use tower_service::Service;

/// Outcome of an abandoned call, one whose future is dropped after it was sent, unless
/// [`LeaseLayer::abandoned`] sets another.
const ABANDONED: Outcome = Outcome::Unknown;

/// Layer that leases a member of a pool for each request.
///
/// ```
/// use core::convert::Infallible;
/// use core::num::NonZeroU32;
/// use leasehold_tokio::{LeaseLayer, Leased, Member, Policy, PoolConfig, Request, TokioPool};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
/// pool.blocking().add(Member::new("127.0.0.1:8001").max_leases(NonZeroU32::MIN))?;
/// let service = ServiceBuilder::new()
///     .layer(LeaseLayer::new(pool.clone(), |_: &String| Request::new()))
///     .service_fn(async |Leased { member, request }: Leased<&str, String>| {
///         Ok::<_, Infallible>(format!("http://{member}{request}"))
///     });
/// assert_eq!(service.oneshot("/v1".into()).await?, "http://127.0.0.1:8001/v1");
/// assert_eq!(pool.blocking().stats().total.ok, 1);
/// # Ok(())
/// # }
/// ```
pub struct LeaseLayer<T, F, C = ClassifyByResult> {
    settings: Settings<T, F, C>,
}

/// Service that leases a member for each request, and passes both on as [`Leased`].
///
/// It is always ready itself: a call first waits for the lease, then for the inner service's readiness. The
/// lease is held until the inner service's future is ready or dropped, and not until a streamed body ends, which
/// `LeaseLayer::hold_body` is for. A call that is dropped before the inner service was called releases its
/// lease as not sent.
pub struct LeaseService<S, T, F, C = ClassifyByResult> {
    inner: S,
    settings: Settings<T, F, C>,
}

/// How leases are requested and released.
pub(crate) struct Settings<T, F, C> {
    pub(crate) pool: TokioPool<T>,
    pub(crate) to_request: F,
    pub(crate) classify: C,
    pub(crate) abandoned: Release,
}

/// A request, and the member that is leased for it.
#[derive(Debug)]
pub struct Leased<T, R> {
    /// The member's payload.
    pub member: Arc<T>,
    /// The request.
    pub request: R,
}

/// Why a call has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError<E> {
    /// The pool granted no lease.
    #[error("no lease was granted: {0}")]
    Refused(AcquireError),
    /// The inner service failed. Not a [`source`](core::error::Error::source), because tower's boxed errors
    /// can't be one.
    #[error("{0}")]
    Inner(E),
}

/// Classifies a response: how the lease of its call is released. Implemented for closures.
///
/// ```
/// use core::time::Duration;
/// use leasehold_tokio::{LeaseLayer, Outcome, Policy, PoolConfig, Release, Request, TokioPool};
///
/// struct Busy(Duration);
///
/// let pool: TokioPool<&str> = TokioPool::new(PoolConfig::new(Policy::Fifo));
/// let clock = pool.blocking().clone();
/// let layer = LeaseLayer::new(pool, |_: &String| Request::new());
/// let layer = layer.classify(move |answer: &Result<String, Busy>| match answer {
///     Ok(_) => Release::from(Outcome::Ok),
///     Err(Busy(pause)) => Outcome::Throttled { until: clock.now().saturating_add(*pause) }.into(),
/// });
/// ```
pub trait Classify<Response, Error> {
    /// Returns how to release the lease.
    fn classify(&self, answer: &Result<Response, Error>) -> Release;
}

impl<F, Response, Error> Classify<Response, Error> for F
where
    F: Fn(&Result<Response, Error>) -> Release,
{
    fn classify(&self, answer: &Result<Response, Error>) -> Release {
        self(answer)
    }
}

/// Classifies any response as [`Outcome::Ok`] and any error as [`Outcome::Failed`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassifyByResult;

impl<Response, Error> Classify<Response, Error> for ClassifyByResult {
    fn classify(&self, answer: &Result<Response, Error>) -> Release {
        let outcome = match answer {
            Ok(_) => Outcome::Ok,
            Err(_) => Outcome::Failed,
        };
        outcome.into()
    }
}

impl<T, F> LeaseLayer<T, F> {
    /// Makes a layer that asks the pool for `to_request`'s answer to each request.
    pub fn new(pool: TokioPool<T>, to_request: F) -> Self {
        Self {
            settings: Settings {
                pool,
                to_request,
                classify: ClassifyByResult,
                abandoned: ABANDONED.into(),
            },
        }
    }
}

impl<T, F, C> LeaseLayer<T, F, C> {
    /// Releases leases as this [`Classify`] says; [`ClassifyByResult`] by default.
    pub fn classify<D>(self, classify: D) -> LeaseLayer<T, F, D> {
        let Settings {
            pool,
            to_request,
            abandoned,
            ..
        } = self.settings;
        LeaseLayer {
            settings: Settings {
                pool,
                to_request,
                classify,
                abandoned,
            },
        }
    }

    /// Releases the lease of an abandoned call like this; as [`Outcome::Unknown`] by default: its cost stays
    /// booked, and no breaker moves.
    ///
    /// A call is abandoned when its future is dropped before there is an answer, for instance by a timeout
    /// farther out in the stack. A call that panics ends as [`Outcome::Failed`].
    #[must_use]
    pub fn abandoned(mut self, release: impl Into<Release>) -> Self {
        self.settings.abandoned = release.into();
        self
    }

    /// Holds each lease until the body of its response ends, fails or is dropped; for services that answer with
    /// an `http::Response`.
    ///
    /// ```
    /// use core::convert::Infallible;
    /// use core::num::NonZeroU32;
    /// use http_body_util::{BodyExt, Full};
    /// use leasehold_tokio::{LeaseLayer, Leased, Member, Policy, PoolConfig, Request, TokioPool};
    /// use tower::{ServiceBuilder, ServiceExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
    /// pool.blocking().add(Member::new("a page").max_leases(NonZeroU32::MIN))?;
    /// let service = ServiceBuilder::new()
    ///     .layer(LeaseLayer::new(pool.clone(), |_: &()| Request::new()).hold_body())
    ///     .service_fn(async |leased: Leased<&'static str, ()>| {
    ///         let body = Full::new(leased.member.as_bytes());
    ///         Ok::<_, Infallible>(http::Response::new(body))
    ///     });
    /// let response = service.oneshot(()).await?;
    /// assert!(pool.try_acquire().is_err());
    /// assert_eq!(response.into_body().collect().await?.to_bytes(), "a page");
    /// assert!(pool.try_acquire().is_ok());
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "http")]
    #[must_use]
    pub fn hold_body(self) -> crate::LeaseBodyLayer<T, F, C> {
        crate::LeaseBodyLayer::new(self.settings)
    }
}

impl<S, T, F: Clone, C: Clone> Layer<S> for LeaseLayer<T, F, C> {
    type Service = LeaseService<S, T, F, C>;

    fn layer(&self, inner: S) -> Self::Service {
        LeaseService {
            inner,
            settings: self.settings.clone(),
        }
    }
}

impl<S, T, F, C, R> Service<R> for LeaseService<S, T, F, C>
where
    S: Service<Leased<T, R>> + Clone,
    F: Fn(&R) -> Request,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = LeaseError<S::Error>;
    type Future = LeaseFuture<S, T, R, C>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        LeaseFuture {
            call: LeaseCall::new(&self.settings, &self.inner, request, Stopwatch::Unused),
            classify: self.settings.classify.clone(),
        }
    }
}

pin_project! {
    /// Future of [`LeaseService`]'s answer. Its first poll asks for the lease.
    pub struct LeaseFuture<S, T, R, C>
    where
        S: Service<Leased<T, R>>,
    {
        #[pin]
        call: LeaseCall<S, T, R>,
        classify: C,
    }
}

impl<S, T, R, C> Future for LeaseFuture<S, T, R, C>
where
    S: Service<Leased<T, R>>,
    C: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, LeaseError<S::Error>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answered = ready!(this.call.poll(context))?;
        let release = this.classify.classify(&answered.answer);
        answered.held.release(release);
        Poll::Ready(answered.answer.map_err(LeaseError::Inner))
    }
}

impl<T, F: Clone, C: Clone> Clone for Settings<T, F, C> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            to_request: self.to_request.clone(),
            classify: self.classify.clone(),
            abandoned: self.abandoned,
        }
    }
}

impl<T, F: Clone, C: Clone> Clone for LeaseLayer<T, F, C> {
    fn clone(&self) -> Self {
        Self {
            settings: self.settings.clone(),
        }
    }
}

impl<S: Clone, T, F: Clone, C: Clone> Clone for LeaseService<S, T, F, C> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            settings: self.settings.clone(),
        }
    }
}

impl<T, F, C> fmt::Debug for LeaseLayer<T, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseLayer").finish_non_exhaustive()
    }
}

impl<S: fmt::Debug, T, F, C> fmt::Debug for LeaseService<S, T, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, T, R, C> fmt::Debug for LeaseFuture<S, T, R, C>
where
    S: Service<Leased<T, R>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseFuture").finish_non_exhaustive()
    }
}
