//! A tower layer that leases a member for each request until the body of its response ends.
//!
//! Invariant: a lease passes from the call to the body of its response without being released between.

use crate::lease::{
    Classify, ClassifyByResult, LeaseCall, LeaseError, Leased, Settings, Stopwatch,
};
use crate::leased_body::{ClassifyEnd, KeepRelease, LeasedBody};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use http::Response;
use http_body::Body;
use leasehold_core::pool::Request;
use leasehold_sync::Lease;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

/// Layer that leases a member of a pool for each request, until the body of its response ends.
///
/// [`LeaseLayer::hold_body`](crate::LeaseLayer::hold_body) makes it. The classifier of that layer decides at the
/// headers how the lease is released if the body ends well; [`LeasedBody`] lists the other ends.
pub struct LeaseBodyLayer<T, F, C = ClassifyByResult, E = KeepRelease> {
    settings: Settings<T, F, C>,
    classify_end: E,
    latency: Latency,
}

/// Service that leases a member for each request, and answers with a [`LeasedBody`].
///
/// It is always ready itself, like [`LeaseService`](crate::LeaseService).
pub struct LeaseBodyService<S, T, F, C = ClassifyByResult, E = KeepRelease> {
    inner: S,
    settings: Settings<T, F, C>,
    classify_end: E,
    latency: Latency,
}

/// The span that a release reports as its latency.
#[derive(Clone, Copy, Debug)]
enum Latency {
    /// The time for which the lease was held, unless the classifier gives another.
    UntilEnd,
    /// The time from the inner service's call to its response's headers.
    UntilHeaders,
}

impl<T, F, C> LeaseBodyLayer<T, F, C> {
    pub(crate) fn new(settings: Settings<T, F, C>) -> Self {
        Self {
            settings,
            classify_end: KeepRelease,
            latency: Latency::UntilEnd,
        }
    }
}

impl<T, F, C, E> LeaseBodyLayer<T, F, C, E> {
    /// Releases leases as this [`ClassifyEnd`] says at the end of each body; [`KeepRelease`] by default.
    pub fn classify_end<D>(self, classify_end: D) -> LeaseBodyLayer<T, F, C, D> {
        LeaseBodyLayer {
            settings: self.settings,
            classify_end,
            latency: self.latency,
        }
    }

    /// Reports the time until the headers as each call's latency, in place of the time until the body's end.
    ///
    /// Peak EWMA then compares how soon members answer, and not how long their answers are. Policies that weigh
    /// members by the time that leases are held for need the default.
    #[must_use]
    pub fn latency_until_headers(mut self) -> Self {
        self.latency = Latency::UntilHeaders;
        self
    }
}

impl<S, T, F: Clone, C: Clone, E: Clone> Layer<S> for LeaseBodyLayer<T, F, C, E> {
    type Service = LeaseBodyService<S, T, F, C, E>;

    fn layer(&self, inner: S) -> Self::Service {
        LeaseBodyService {
            inner,
            settings: self.settings.clone(),
            classify_end: self.classify_end.clone(),
            latency: self.latency,
        }
    }
}

impl<S, T, F, C, E, R, B> Service<R> for LeaseBodyService<S, T, F, C, E>
where
    S: Service<Leased<T, R>, Response = Response<B>> + Clone,
    F: Fn(&R) -> Request,
    C: Classify<Response<B>, S::Error> + Clone,
    E: ClassifyEnd<B> + Clone,
    B: Body,
{
    type Response = Response<LeasedBody<B, T, E>>;
    type Error = LeaseError<S::Error>;
    type Future = LeaseBodyFuture<S, T, R, C, E>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let settings = &self.settings;
        let stopwatch = match self.latency {
            Latency::UntilEnd => Stopwatch::Unused,
            Latency::UntilHeaders => Stopwatch::Stopped(settings.pool.epoch()),
        };
        LeaseBodyFuture {
            call: LeaseCall::new(settings, &self.inner, request, stopwatch),
            classify: settings.classify.clone(),
            classify_end: self.classify_end.clone(),
        }
    }
}

pin_project! {
    /// Future of [`LeaseBodyService`]'s response. Its first poll asks for the lease.
    pub struct LeaseBodyFuture<S, T, R, C, E>
    where
        S: Service<Leased<T, R>>,
    {
        #[pin]
        call: LeaseCall<S, T, R>,
        classify: C,
        classify_end: E,
    }
}

impl<S, T, R, C, E, B> Future for LeaseBodyFuture<S, T, R, C, E>
where
    S: Service<Leased<T, R>, Response = Response<B>>,
    C: Classify<Response<B>, S::Error>,
    E: ClassifyEnd<B> + Clone,
    B: Body,
{
    type Output = Result<Response<LeasedBody<B, T, E>>, LeaseError<S::Error>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answered = ready!(this.call.poll(context))?;
        let mut release = this.classify.classify(&answered.answer);
        if let Some(latency) = answered.latency {
            release = release.latency(latency);
        }
        Poll::Ready(match answered.answer {
            Ok(response) => {
                let held = answered.held;
                // The headers prove that the call has arrived; a lease that has expired has ended already.
                let _ = held.lease.as_ref().map(Lease::arrived);
                let classify_end = this.classify_end.clone();
                Ok(response.map(|body| LeasedBody::holding(body, held, release, classify_end)))
            }
            Err(error) => {
                answered.held.release(release);
                Err(LeaseError::Inner(error))
            }
        })
    }
}

impl<T, F: Clone, C: Clone, E: Clone> Clone for LeaseBodyLayer<T, F, C, E> {
    fn clone(&self) -> Self {
        Self {
            settings: self.settings.clone(),
            classify_end: self.classify_end.clone(),
            latency: self.latency,
        }
    }
}

impl<S: Clone, T, F: Clone, C: Clone, E: Clone> Clone for LeaseBodyService<S, T, F, C, E> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            settings: self.settings.clone(),
            classify_end: self.classify_end.clone(),
            latency: self.latency,
        }
    }
}

impl<T, F, C, E> fmt::Debug for LeaseBodyLayer<T, F, C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseBodyLayer").finish_non_exhaustive()
    }
}

impl<S: fmt::Debug, T, F, C, E> fmt::Debug for LeaseBodyService<S, T, F, C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseBodyService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, T, R, C, E> fmt::Debug for LeaseBodyFuture<S, T, R, C, E>
where
    S: Service<Leased<T, R>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseBodyFuture").finish_non_exhaustive()
    }
}
