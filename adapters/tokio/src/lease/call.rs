//! A call under a lease: waits for the lease, then for the inner service's readiness and its answer.
//!
//! Invariant: from the grant on, the lease is in a [`HeldLease`], which releases it wherever the call is dropped.

use super::{LeaseError, Leased, Settings};
use crate::acquire::Acquire;
use crate::clock::Epoch;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use leasehold_core::pool::{Outcome, Release, Request};
use leasehold_core::time::Tick;
use leasehold_sync::Lease;
use pin_project_lite::pin_project;
use std::sync::Arc;
use tower_service::Service;

pin_project! {
    /// A future of an inner service's answer and of the lease it was got with.
    pub(crate) struct LeaseCall<S, T, R>
    where
        S: Service<Leased<T, R>>,
    {
        // Dropped before `held`, so that a dropped call has ended before another one gets its member.
        #[pin]
        call: Option<S::Future>,
        held: HeldLease<T>,
        acquire: Acquire<T>,
        inner: S,
        request: Option<R>,
        abandoned: Release,
        stopwatch: Stopwatch,
    }
}

/// An answer, with the lease of its call.
pub(crate) struct Answered<T, Response, Error> {
    pub(crate) answer: Result<Response, Error>,
    pub(crate) held: HeldLease<T>,
    /// Time from the inner service's call to its answer, if it was to be measured.
    #[cfg_attr(
        not(feature = "http"),
        expect(dead_code, reason = "only the layer over bodies needs it")
    )]
    pub(crate) latency: Option<Duration>,
}

impl<S, T, R> LeaseCall<S, T, R>
where
    S: Service<Leased<T, R>> + Clone,
{
    pub(crate) fn new<F, C>(
        settings: &Settings<T, F, C>,
        inner: &S,
        request: R,
        stopwatch: Stopwatch,
    ) -> Self
    where
        F: Fn(&R) -> Request,
    {
        Self {
            call: None,
            held: HeldLease {
                lease: None,
                on_drop: Outcome::NotSent.into(),
            },
            acquire: settings.pool.acquire_with((settings.to_request)(&request)),
            inner: inner.clone(),
            request: Some(request),
            abandoned: settings.abandoned,
            stopwatch,
        }
    }
}

impl<S, T, R> Future for LeaseCall<S, T, R>
where
    S: Service<Leased<T, R>>,
{
    type Output = Result<Answered<T, S::Response, S::Error>, LeaseError<S::Error>>;

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
            let request = request.expect("a future gets at most one lease");
            this.held.on_drop = *this.abandoned;
            this.stopwatch.start();
            let call = this.inner.call(Leased { member, request });
            this.call.set(Some(call));
        };
        let answer = ready!(call.poll(context));
        this.call.set(None);
        Poll::Ready(Ok(Answered {
            answer,
            held: this.held.take(),
            latency: this.stopwatch.elapsed(),
        }))
    }
}

/// A lease, and how it is released if it is dropped.
pub(crate) struct HeldLease<T> {
    pub(crate) lease: Option<Lease<T>>,
    pub(crate) on_drop: Release,
}

impl<T> HeldLease<T> {
    pub(crate) fn release(&mut self, release: Release) {
        if let Some(lease) = self.lease.take() {
            // An expired lease has ended already; the answer is valid nevertheless.
            let _ = lease.release(release);
        }
    }

    fn take(&mut self) -> Self {
        Self {
            lease: self.lease.take(),
            on_drop: self.on_drop,
        }
    }
}

impl<T> Drop for HeldLease<T> {
    fn drop(&mut self) {
        let release = match std::thread::panicking() {
            true => Outcome::Failed.into(),
            false => self.on_drop,
        };
        self.release(release);
    }
}

/// Measures the time of a call, if anything needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stopwatch {
    Unused,
    #[cfg_attr(
        not(feature = "http"),
        expect(dead_code, reason = "only the layer over bodies needs it")
    )]
    Stopped(Epoch),
    Running(Epoch, Tick),
}

impl Stopwatch {
    fn start(&mut self) {
        if let Self::Stopped(epoch) = *self {
            *self = Self::Running(epoch, epoch.now());
        }
    }

    fn elapsed(self) -> Option<Duration> {
        match self {
            Self::Running(epoch, start) => Some(epoch.now().since(start)),
            Self::Unused | Self::Stopped(_) => None,
        }
    }
}
