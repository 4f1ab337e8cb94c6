//! A pool's refusal as an HTTP response.
//!
//! Invariant: `Retry-After` is whole seconds, rounded up, at least 1, and there only if the time is known.

use crate::pool::TokioPool;
use core::time::Duration;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use leasehold_sync::AcquireError;

impl<T> TokioPool<T> {
    /// A response that says why and until when there is no lease.
    ///
    /// The status is 429 where capacity is used up ([`Cause::is_exhaustion`](leasehold_sync::Cause::is_exhaustion))
    /// or a request costs more than any limit admits, and 503 otherwise. `Retry-After` is
    /// [`retry_after`](Self::retry_after), if that is known. The body is the error's text.
    ///
    /// ```
    /// use core::num::NonZeroU32;
    /// use core::time::Duration;
    /// use leasehold_tokio::limit::{Anchor, SlidingLog};
    /// use leasehold_tokio::{Member, Policy, PoolConfig, TokioPool};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
    /// let limit = SlidingLog::new(NonZeroU32::MIN, Duration::from_secs(60), Anchor::Completion)?;
    /// pool.blocking().add(Member::new("sk-1").limit(limit))?;
    /// drop(pool.acquire().await?);
    /// let refused = pool.acquire_timeout(Duration::from_secs(5)).await.unwrap_err();
    /// let response: http::Response<String> = pool.refusal_response(&refused);
    /// assert_eq!(response.status(), 429);
    /// assert_eq!(response.headers()["retry-after"], "60");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn refusal_response<B: From<String>>(&self, refused: &AcquireError) -> Response<B> {
        let wait = self.retry_after(refused);
        text_response(status(refused), wait, format!("{refused}\n"))
    }
}

/// A response of plain text, with a `Retry-After` header if the wait is known.
pub(crate) fn text_response<B: From<String>>(
    status: StatusCode,
    wait: Option<Duration>,
    text: String,
) -> Response<B> {
    let mut response = Response::new(B::from(text));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    if let Some(wait) = wait {
        response
            .headers_mut()
            .insert(RETRY_AFTER, retry_after(wait));
    }
    response
}

/// The value of a `Retry-After` header; never 0, since the request was refused now.
pub(crate) fn retry_after(wait: Duration) -> HeaderValue {
    whole_seconds(wait).max(1).into()
}

/// A time in whole seconds, rounded up.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    let begun = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(begun)
}

fn status(refused: &AcquireError) -> StatusCode {
    let is_used_up = match refused {
        AcquireError::QueueFull { cause }
        | AcquireError::FlowQueueFull { cause }
        | AcquireError::NotReady { cause }
        | AcquireError::TimedOut { cause }
        | AcquireError::DeadlineTooSoon { cause, .. } => cause.is_exhaustion(),
        AcquireError::NeverFits => true,
        AcquireError::Closed
        | AcquireError::PinnedMemberRemoved
        | AcquireError::ForeignLabels
        | AcquireError::TooManyLanes
        | AcquireError::Cancelled => false,
    };
    match is_used_up {
        true => StatusCode::TOO_MANY_REQUESTS,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}
