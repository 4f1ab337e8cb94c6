//! A rate limit whose responses tell it: `Retry-After`, `RateLimit` and `RateLimit-Policy`.
//!
//! [`RateLimitPolicies`] forms the last two.
//!
//! Invariant: a refused request gets a response, never an error.

use crate::rate_limit::{RateLimit, RateLimitError, RateLimitFuture, RateLimitLayer};
use crate::rate_limit_policies::{PolicyNameError, RateLimitPolicies};
use crate::refusal::{retry_after, text_response, whole_seconds};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use http::header::{HeaderMap, RETRY_AFTER};
use http::{Response, StatusCode};
use leasehold_core::limit::Quota;
use pin_project_lite::pin_project;
use std::sync::Arc;
use tower_layer::Layer;
use tower_service::Service;

/// Layer that holds services to one limit, and tells it in headers of each response.
///
/// [`RateLimitLayer::with_headers`] makes it. A request that the limit refuses gets the response of a
/// [`BuildRefusal`], to which the headers are added: 429 and a line of text by default. The errors are those of the
/// inner service, so that a server such as axum's needs no handler for others. Several such layers in a stack each add
/// their policy; give them different [names](Self::name).
///
/// ```
/// use core::convert::Infallible;
/// use http::Response;
/// use leasehold_tokio::RateLimitLayer;
/// use leasehold_tokio::limit::LimitSpec;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limit: LimitSpec = "1/min from grant".parse()?;
/// let layer = RateLimitLayer::from_spec(&limit)?.refuse().with_headers();
/// let service = layer.layer(service_fn(async |()| Ok::<_, Infallible>(Response::new(String::new()))));
/// let served = service.clone().oneshot(()).await?;
/// assert_eq!(served.headers()["ratelimit-policy"], r#""default";q=1;w=60"#);
/// assert_eq!(served.headers()["ratelimit"], r#""default";r=0;t=60"#);
/// let refused = service.oneshot(()).await?;
/// assert_eq!(refused.status(), 429);
/// assert_eq!(refused.headers()["retry-after"], "60");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RateLimitHeadersLayer<F = TextRefusal> {
    fields: Arc<Fields>,
    build: F,
}

/// Service that tells its limit in headers of each response, and answers a refused request.
#[derive(Clone)]
pub struct RateLimitHeaders<S, F = TextRefusal> {
    limited: RateLimit<S>,
    fields: Arc<Fields>,
    build: F,
    /// The quota of a request that a waiting service is ready to refuse, because its limit admits none ever again.
    refusal: Option<Quota>,
}

/// Builds the response to a refused request. Implemented for closures.
///
/// The layer adds the headers; one that is there already stays, in the case of `Retry-After`.
pub trait BuildRefusal<B> {
    /// Returns the response; the quota's reset is the time after which the limit admits a request.
    fn build_refusal(&self, quota: &Quota) -> Response<B>;
}

impl<F, B> BuildRefusal<B> for F
where
    F: Fn(&Quota) -> Response<B>,
{
    fn build_refusal(&self, quota: &Quota) -> Response<B> {
        self(quota)
    }
}

/// Builds a response of status 429 (Too Many Requests) with a line of plain text.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextRefusal;

impl<B: From<String>> BuildRefusal<B> for TextRefusal {
    fn build_refusal(&self, quota: &Quota) -> Response<B> {
        let text = match quota.reset {
            Some(wait) => {
                let seconds = whole_seconds(wait).max(1);
                format!("too many requests; try again in {seconds} s\n")
            }
            None => "too many requests; try again later\n".into(),
        };
        text_response(StatusCode::TOO_MANY_REQUESTS, None, text)
    }
}

impl RateLimitHeadersLayer {
    pub(crate) fn new(limit: RateLimitLayer) -> Self {
        Self {
            fields: Arc::new(Fields {
                policies: RateLimitPolicies::unnamed(limit.allowance()),
                limit,
            }),
            build: TextRefusal,
        }
    }
}

impl<F> RateLimitHeadersLayer<F> {
    /// Names the policy in the headers; `default` by default.
    ///
    /// # Errors
    /// The name is empty, has more than 64 characters, or some that are not printable ASCII, quotes or backslashes.
    pub fn name(mut self, name: &str) -> Result<Self, PolicyNameError> {
        let limit = self.fields.limit.clone();
        let policies = RateLimitPolicies::new([(name, limit.allowance())])?;
        self.fields = Arc::new(Fields { limit, policies });
        Ok(self)
    }

    /// Answers refused requests with the response of this [`BuildRefusal`]; [`TextRefusal`] by default.
    pub fn on_refusal<G>(self, build: G) -> RateLimitHeadersLayer<G> {
        RateLimitHeadersLayer {
            fields: self.fields,
            build,
        }
    }
}

impl<S, F: Clone> Layer<S> for RateLimitHeadersLayer<F> {
    type Service = RateLimitHeaders<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimitHeaders {
            limited: self.fields.limit.layer(inner),
            fields: Arc::clone(&self.fields),
            build: self.build.clone(),
            refusal: None,
        }
    }
}

impl<S, F, R, B> Service<R> for RateLimitHeaders<S, F>
where
    S: Service<R, Response = Response<B>>,
    F: BuildRefusal<B> + Clone,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = RateLimitHeadersFuture<S::Future, F>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.refusal = match ready!(self.limited.poll_ready(context)) {
            Ok(()) => None,
            Err(RateLimitError::Inner(error)) => return Poll::Ready(Err(error)),
            Err(RateLimitError::Refused(quota)) => Some(quota),
            Err(RateLimitError::NeverFits) => Some(self.fields.never()),
        };
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let stage = match self.refusal.take() {
            None => Stage::Called {
                call: self.limited.call(request),
            },
            Some(quota) => Stage::Refused { quota },
        };
        RateLimitHeadersFuture {
            stage,
            fields: Arc::clone(&self.fields),
            build: self.build.clone(),
        }
    }
}

pin_project! {
    /// Future of [`RateLimitHeaders`]'s response.
    pub struct RateLimitHeadersFuture<C, F> {
        #[pin]
        stage: Stage<C>,
        fields: Arc<Fields>,
        build: F,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<C> {
        Called {
            #[pin]
            call: RateLimitFuture<C>,
        },
        Refused {
            quota: Quota,
        },
    }
}

impl<C, F, B, Error> Future for RateLimitHeadersFuture<C, F>
where
    C: Future<Output = Result<Response<B>, Error>>,
    F: BuildRefusal<B>,
{
    type Output = Result<Response<B>, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let fields = &**this.fields;
        let refusal = match this.stage.project() {
            StageProjection::Refused { quota } => *quota,
            StageProjection::Called { call } => match ready!(call.poll(context)) {
                Ok(mut response) => {
                    fields.add_to(response.headers_mut(), &fields.limit.quota());
                    return Poll::Ready(Ok(response));
                }
                Err(RateLimitError::Inner(error)) => return Poll::Ready(Err(error)),
                Err(RateLimitError::Refused(quota)) => quota,
                Err(RateLimitError::NeverFits) => fields.never(),
            },
        };
        let mut response = this.build.build_refusal(&refusal);
        let headers = response.headers_mut();
        if let Some(wait) = refusal.reset {
            headers
                .entry(RETRY_AFTER)
                .or_insert_with(|| retry_after(wait));
        }
        fields.add_to(headers, &refusal);
        Poll::Ready(Ok(response))
    }
}

/// The limit and its header fields.
#[derive(Debug)]
struct Fields {
    limit: RateLimitLayer,
    policies: RateLimitPolicies,
}

impl Fields {
    /// The quota of a limit that never admits another request.
    fn never(&self) -> Quota {
        Quota {
            remaining: 0,
            reset: None,
            ..self.limit.quota()
        }
    }

    fn add_to(&self, headers: &mut HeaderMap, quota: &Quota) {
        self.policies.tell([*quota]).add_to(headers);
    }
}

impl<S: fmt::Debug, F> fmt::Debug for RateLimitHeaders<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitHeaders")
            .field("limited", &self.limited)
            .finish_non_exhaustive()
    }
}

impl<C, F> fmt::Debug for RateLimitHeadersFuture<C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitHeadersFuture")
            .finish_non_exhaustive()
    }
}
