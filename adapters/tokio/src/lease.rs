//! A tower layer that gives each request a member of a pool to go to.
//!
//! Invariant: a lease is held from before the inner service is asked whether it is ready until its answer
//! has been judged, or its future is gone.

use crate::acquire::Acquire;
use crate::pool::TokioPool;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use leasehold_core::pool::{Outcome, Release, Request};
use leasehold_sync::{AcquireError, Lease};
use pin_project_lite::pin_project;
use std::sync::Arc;
use tower_layer::Layer;
use tower_service::Service;

/// A request and the member that it is to go to, for as long as the future of its answer is there.
#[derive(Debug)]
pub struct Leased<T, R> {
    /// What the member carries.
    pub member: Arc<T>,
    /// The request.
    pub request: R,
}

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError<E> {
    /// The pool has granted no lease.
    #[error("no lease was granted: {0}")]
    Refused(AcquireError),
    /// The inner service failed. It is no [`source`](core::error::Error::source), as tower's boxed
    /// errors could not be one.
    #[error("{0}")]
    Inner(E),
}

/// Says what an answer means for the member that it came from. Closures do.
///
/// ```
/// use core::time::Duration;
/// use leasehold_tokio::core::balance::Policy;
/// use leasehold_tokio::core::pool::{PoolConfig, Outcome, Release, Request};
/// use leasehold_tokio::{LeaseLayer, TokioPool};
///
/// struct Busy(Duration);
///
/// let pool: TokioPool<&str> = TokioPool::new(PoolConfig::new(Policy::Fifo));
/// let clock = pool.blocking().clone();
/// let layer = LeaseLayer::new(pool, |_: &String| Request::new());
/// let layer = layer.judge(move |answer: &Result<String, Busy>| match answer {
///     Ok(_) => Release::from(Outcome::Ok),
///     Err(Busy(pause)) => Outcome::Throttled { until: clock.now().saturating_add(*pause) }.into(),
/// });
/// ```
pub trait Classify<Response, Error> {
    /// How the lease is given back.
    fn judge(&self, answer: &Result<Response, Error>) -> Release;
}

impl<F, Response, Error> Classify<Response, Error> for F
where
    F: Fn(&Result<Response, Error>) -> Release,
{
    fn judge(&self, answer: &Result<Response, Error>) -> Release {
        self(answer)
    }
}

/// Takes any response for [`Outcome::Ok`] and any error for [`Outcome::Failed`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassifyByResult;

impl<Response, Error> Classify<Response, Error> for ClassifyByResult {
    fn judge(&self, answer: &Result<Response, Error>) -> Release {
        let outcome = match answer {
            Ok(_) => Outcome::Ok,
            Err(_) => Outcome::Failed,
        };
        outcome.into()
    }
}

/// Makes [`LeaseService`]s that share a pool.
///
/// ```
/// use core::convert::Infallible;
/// use core::num::NonZeroU32;
/// use leasehold_tokio::core::balance::Policy;
/// use leasehold_tokio::core::pool::{PoolConfig, Member, Request};
/// use leasehold_tokio::{LeaseLayer, Leased, TokioPool};
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
pub struct LeaseLayer<T, C, J = ClassifyByResult> {
    terms: Terms<T, C, J>,
}

/// Gives each request a member to go to. It is always ready itself: the pool is asked once there is a
/// request, then the inner service has to become ready, and is called.
///
/// The lease is held until the inner service's future is ready or dropped; what is streamed after that is
/// not under the lease. A future that is dropped before the inner service was called gives its lease back
/// as not sent.
pub struct LeaseService<S, T, C, J = ClassifyByResult> {
    inner: S,
    terms: Terms<T, C, J>,
}

/// How leases are asked for and given back.
struct Terms<T, C, J> {
    pool: TokioPool<T>,
    classify: C,
    judge: J,
    abandoned: Release,
}

impl<T, C> LeaseLayer<T, C> {
    /// Asks the pool for what `classify` makes of each request.
    pub fn new(pool: TokioPool<T>, classify: C) -> Self {
        Self {
            terms: Terms {
                pool,
                classify,
                judge: ClassifyByResult,
                abandoned: Outcome::Ok.into(),
            },
        }
    }
}

impl<T, C, J> LeaseLayer<T, C, J> {
    /// Gives leases back as this [`Classify`] says.
    pub fn judge<K>(self, judge: K) -> LeaseLayer<T, C, K> {
        let Terms {
            pool,
            classify,
            abandoned,
            ..
        } = self.terms;
        LeaseLayer {
            terms: Terms {
                pool,
                classify,
                judge,
                abandoned,
            },
        }
    }

    /// What a call counts as whose future is dropped before there is an answer, as a timeout does that is
    /// farther out in the stack; [`Outcome::Ok`] unless told. In a panic it is [`Outcome::Failed`].
    #[must_use]
    pub fn abandoned(mut self, release: impl Into<Release>) -> Self {
        self.terms.abandoned = release.into();
        self
    }
}

impl<S, T, C: Clone, J: Clone> Layer<S> for LeaseLayer<T, C, J> {
    type Service = LeaseService<S, T, C, J>;

    fn layer(&self, inner: S) -> Self::Service {
        LeaseService {
            inner,
            terms: self.terms.clone(),
        }
    }
}

impl<S, T, C, J, R> Service<R> for LeaseService<S, T, C, J>
where
    S: Service<Leased<T, R>> + Clone,
    C: Fn(&R) -> Request,
    J: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = LeaseError<S::Error>;
    type Future = LeaseFuture<S, T, R, J>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let terms = &self.terms;
        let asked = (terms.classify)(&request);
        LeaseFuture {
            call: None,
            held: Held {
                lease: None,
                unless_released: Outcome::NotSent.into(),
            },
            acquire: terms.pool.acquire_with(asked),
            inner: self.inner.clone(),
            request: Some(request),
            judge: terms.judge.clone(),
            abandoned: terms.abandoned,
        }
    }
}

pin_project! {
    /// Becomes the answer of [`LeaseService`]. It asks for a lease when it is first polled.
    pub struct LeaseFuture<S, T, R, J>
    where
        S: Service<Leased<T, R>>,
    {
        // Before `held`, so that a call that is dropped is gone before another has its member.
        #[pin]
        call: Option<S::Future>,
        held: Held<T>,
        acquire: Acquire<T>,
        inner: S,
        request: Option<R>,
        judge: J,
        abandoned: Release,
    }
}

impl<S, T, R, J> Future for LeaseFuture<S, T, R, J>
where
    S: Service<Leased<T, R>>,
    J: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, LeaseError<S::Error>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let call = loop {
            if let Some(call) = this.call.as_mut().as_pin_mut() {
                break call;
            }
            let Some(lease) = &this.held.lease else {
                let acquired = ready!(Pin::new(&mut *this.acquire).poll(context));
                this.held.lease = Some(acquired.map_err(LeaseError::Refused)?);
                continue;
            };
            let member = Arc::clone(lease.payload());
            if let Err(error) = ready!(this.inner.poll_ready(context)) {
                this.held.release(Outcome::NotSent.into());
                return Poll::Ready(Err(LeaseError::Inner(error)));
            }
            let request = this.request.take();
            let request = request.expect("there is no second lease to be had");
            this.held.unless_released = *this.abandoned;
            let call = this.inner.call(Leased { member, request });
            this.call.set(Some(call));
        };
        let answer = ready!(call.poll(context));
        this.call.set(None);
        this.held.release(this.judge.judge(&answer));
        Poll::Ready(answer.map_err(LeaseError::Inner))
    }
}

/// A lease that is given back in the way that was set when it is dropped.
struct Held<T> {
    lease: Option<Lease<T>>,
    unless_released: Release,
}

impl<T> Held<T> {
    fn release(&mut self, release: Release) {
        if let Some(lease) = self.lease.take() {
            // One that has expired was taken back already, and the answer is as good as ever.
            let _ = lease.release(release);
        }
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        let release = match std::thread::panicking() {
            true => Outcome::Failed.into(),
            false => self.unless_released,
        };
        self.release(release);
    }
}

impl<T, C: Clone, J: Clone> Clone for Terms<T, C, J> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            classify: self.classify.clone(),
            judge: self.judge.clone(),
            abandoned: self.abandoned,
        }
    }
}

impl<T, C: Clone, J: Clone> Clone for LeaseLayer<T, C, J> {
    fn clone(&self) -> Self {
        Self {
            terms: self.terms.clone(),
        }
    }
}

impl<S: Clone, T, C: Clone, J: Clone> Clone for LeaseService<S, T, C, J> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            terms: self.terms.clone(),
        }
    }
}

impl<T, C, J> fmt::Debug for LeaseLayer<T, C, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseLayer").finish_non_exhaustive()
    }
}

impl<S: fmt::Debug, T, C, J> fmt::Debug for LeaseService<S, T, C, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, T, R, J> fmt::Debug for LeaseFuture<S, T, R, J>
where
    S: Service<Leased<T, R>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseFuture").finish_non_exhaustive()
    }
}
