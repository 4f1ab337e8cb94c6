//! A rate limit whose responses tell it: `Retry-After`, `RateLimit` and `RateLimit-Policy`.
//!
//! The last two are those of draft-ietf-httpapi-ratelimit-headers-11 (May 2026), where `q` is the quota, `w` its
//! window, `r` what remains, and `t` the time for which no more does. Seconds are whole and rounded up, so that `t`
//! never ends after `Retry-After`.
//!
//! Invariant: a refused request gets a response, never an error.

use crate::rate_limit::{Quota, RateLimit, RateLimitError, RateLimitFuture, RateLimitLayer};
use crate::refusal::{retry_after, text_response, whole_seconds};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use pin_project_lite::pin_project;
use std::sync::Arc;
use tower_layer::Layer;
use tower_service::Service;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The bound on a policy's name, in bytes.
const MAX_NAME: usize = 64;

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

/// Why a policy can't have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyNameError {
    /// The name is empty or too long.
    #[error("a policy's name must have 1 to {MAX_NAME} characters")]
    Length,
    /// The name has a character that the header's text can't hold.
    #[error("a policy's name must be printable ASCII without quotes and backslashes")]
    Character,
}

impl RateLimitHeadersLayer {
    pub(crate) fn new(limit: RateLimitLayer) -> Self {
        Self {
            fields: Arc::new(Fields::new(limit, "default".into())),
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
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(PolicyNameError::Length);
        }
        let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        if !name.as_bytes().iter().all(is_plain) {
            return Err(PolicyNameError::Character);
        }
        let limit = self.fields.limit.clone();
        self.fields = Arc::new(Fields::new(limit, name.into()));
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
    name: String,
    policy: HeaderValue,
}

impl Fields {
    /// Makes the fields of a policy whose name was checked.
    fn new(limit: RateLimitLayer, name: String) -> Self {
        let quota = limit.quota();
        let unit = match limit.is_concurrency() {
            true => r#";qu="concurrent-requests""#,
            false => "",
        };
        let window = match quota.window {
            Some(window) => format!(";w={}", whole_seconds(window)),
            None => String::new(),
        };
        let policy = value(format!("\"{name}\";q={}{unit}{window}", quota.limit));
        Self {
            limit,
            name,
            policy,
        }
    }

    /// The quota of a limit that never admits another request.
    fn never(&self) -> Quota {
        Quota {
            remaining: 0,
            reset: None,
            ..self.limit.quota()
        }
    }

    fn add_to(&self, headers: &mut HeaderMap, quota: &Quota) {
        let effective = match quota.reset {
            Some(reset) => format!(";t={}", whole_seconds(reset)),
            None => String::new(),
        };
        let limit = value(format!(
            "\"{}\";r={}{effective}",
            self.name, quota.remaining
        ));
        // Both are lists, to which each layer of a stack appends its policy.
        headers.append(RATE_LIMIT_POLICY, self.policy.clone());
        headers.append(RATE_LIMIT, limit);
    }
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and a checked name are printable")
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
