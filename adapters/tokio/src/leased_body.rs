//! A response body that owns the lease it is served under.
//!
//! Invariant: the inner body is gone before its lease is released, so that a member never serves more bodies than
//! it has leases.

use crate::lease::HeldLease;
use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use http_body::{Body, Frame, SizeHint};
use leasehold_core::pool::{Outcome, Release};
use leasehold_sync::Lease;
use pin_project_lite::pin_project;

pin_project! {
    /// A body that holds a lease until it ends, fails or is dropped by its reader.
    ///
    /// | the body | the lease is released |
    /// |---|---|
    /// | ends: its last frame or its trailers were read | as was decided at the headers |
    /// | fails | as [`Outcome::Failed`] |
    /// | is dropped before its end | as [`abandoned`](Self::abandoned) says: [`Outcome::Unknown`] by default |
    /// | panics, or its reader does | as [`Outcome::Failed`] |
    ///
    /// A [`ClassifyEnd`] can decide otherwise in the first three cases. A body that is empty from the start releases
    /// its lease at once; the bytes of a connection that is upgraded are no body.
    ///
    /// ```
    /// use core::num::NonZeroU32;
    /// use http_body_util::{BodyExt, Full};
    /// use leasehold_tokio::{LeasedBody, Member, Outcome, Policy, PoolConfig, TokioPool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
    /// pool.blocking().add(Member::new("127.0.0.1:8001").max_leases(NonZeroU32::MIN))?;
    /// let lease = pool.acquire().await?;
    /// let body = LeasedBody::new(Full::new(&b"a page"[..]), lease, Outcome::Ok);
    /// assert!(pool.try_acquire().is_err());
    /// body.collect().await?;
    /// assert!(pool.try_acquire().is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub struct LeasedBody<B, T, E = KeepRelease>
    where
        B: Body,
        E: ClassifyEnd<B>,
    {
        // `None` from its end on. Dropped before `held`.
        #[pin]
        body: Option<B>,
        held: HeldLease<T>,
        complete: Release,
        classify_end: E,
    }

    impl<B, T, E> PinnedDrop for LeasedBody<B, T, E>
    where
        B: Body,
        E: ClassifyEnd<B>,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let (Some(body), Some(_)) = (this.body.as_ref().get_ref(), &this.held.lease)
                && !std::thread::panicking()
            {
                // A reader need not ask for more once a body says that it has ended.
                let (end, release) = match body.is_end_stream() {
                    true => (BodyEnd::Complete, *this.complete),
                    false => (BodyEnd::Abandoned, this.held.on_drop),
                };
                this.held.on_drop = this.classify_end.classify_end(body, end, release);
            }
        }
    }
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// All of it was read.
    Complete,
    /// It failed.
    Failed,
    /// Its reader dropped it before its end.
    Abandoned,
}

/// Classifies the end of a body: how its lease is released. Implemented for closures.
///
/// It sees the inner body, which may have gathered something on the way, such as the usage that a streamed answer
/// reports.
///
/// ```
/// use http_body_util::Full;
/// use leasehold_tokio::limit::Cost;
/// use leasehold_tokio::{BodyEnd, ClassifyEnd, Release};
///
/// struct Counted {
///     body: Full<&'static [u8]>,
///     tokens: u32,
/// }
///
/// fn settle(body: &Counted, end: BodyEnd, release: Release) -> Release {
///     match end {
///         BodyEnd::Complete => release.cost(Cost { requests: 1, tokens: body.tokens }),
///         BodyEnd::Failed | BodyEnd::Abandoned => release,
///     }
/// }
///
/// fn is_classifier<B>(_: impl ClassifyEnd<B>) {}
/// is_classifier(settle);
/// ```
pub trait ClassifyEnd<B> {
    /// Returns how to release the lease; without this classifier, it would be as `release` says.
    fn classify_end(&self, body: &B, end: BodyEnd, release: Release) -> Release;
}

impl<F, B> ClassifyEnd<B> for F
where
    F: Fn(&B, BodyEnd, Release) -> Release,
{
    fn classify_end(&self, body: &B, end: BodyEnd, release: Release) -> Release {
        self(body, end, release)
    }
}

/// Releases a lease as it would be without a classifier of the body's end.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepRelease;

impl<B> ClassifyEnd<B> for KeepRelease {
    fn classify_end(&self, _: &B, _: BodyEnd, release: Release) -> Release {
        release
    }
}

impl<B: Body, T> LeasedBody<B, T> {
    /// Makes a body that releases the lease like this at its end.
    pub fn new(body: B, lease: Lease<T>, release: impl Into<Release>) -> Self {
        let held = HeldLease {
            lease: Some(lease),
            on_drop: Outcome::Unknown.into(),
        };
        Self::holding(body, held, release.into(), KeepRelease)
    }

    /// Releases the lease like this if the body is dropped before its end; as [`Outcome::Unknown`] by default.
    #[must_use]
    pub fn abandoned(mut self, release: impl Into<Release>) -> Self {
        self.held.on_drop = release.into();
        self
    }
}

impl<B: Body, T, E: ClassifyEnd<B>> LeasedBody<B, T, E> {
    /// Makes a body whose end `classify_end` decides how the lease is released; `release` is what it is told of a body
    /// that was read to its end.
    pub fn classified(
        body: B,
        lease: Lease<T>,
        release: impl Into<Release>,
        classify_end: E,
    ) -> Self {
        let held = HeldLease {
            lease: Some(lease),
            on_drop: Outcome::Unknown.into(),
        };
        Self::holding(body, held, release.into(), classify_end)
    }

    /// Makes a body that holds this lease, unless the body has ended already.
    pub(crate) fn holding(body: B, held: HeldLease<T>, complete: Release, classify_end: E) -> Self {
        let has_ended = body.is_end_stream();
        let mut leased = Self {
            body: Some(body),
            held,
            complete,
            classify_end,
        };
        if has_ended && let Some(body) = &leased.body {
            let classify_end = &leased.classify_end;
            let release = classify_end.classify_end(body, BodyEnd::Complete, complete);
            leased.body = None;
            leased.held.release(release);
        }
        leased
    }

    /// The lease, for instance to renew it; `None` once it is released.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease<T>> {
        self.held.lease.as_ref()
    }

    fn end(self: Pin<&mut Self>, end: BodyEnd) {
        let mut this = self.project();
        if let Some(body) = this.body.as_ref().get_ref() {
            let release = match end {
                BodyEnd::Complete => *this.complete,
                BodyEnd::Failed => Outcome::Failed.into(),
                BodyEnd::Abandoned => this.held.on_drop,
            };
            let release = this.classify_end.classify_end(body, end, release);
            this.body.set(None);
            this.held.release(release);
        }
    }
}

impl<B: Body, T, E: ClassifyEnd<B>> Body for LeasedBody<B, T, E> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Some(body) = self.as_mut().project().body.as_pin_mut() else {
            return Poll::Ready(None);
        };
        let frame = ready!(body.poll_frame(context));
        match &frame {
            None => self.end(BodyEnd::Complete),
            Some(Err(_)) => self.end(BodyEnd::Failed),
            Some(Ok(frame)) => {
                if frame.is_trailers() || self.is_end_stream() {
                    self.end(BodyEnd::Complete);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body, T, E: ClassifyEnd<B>> fmt::Debug for LeasedBody<B, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedBody")
            .field("lease", &self.held.lease)
            .finish_non_exhaustive()
    }
}
