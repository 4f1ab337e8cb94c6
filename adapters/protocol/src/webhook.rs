//! The answers of a webhook, to which messages are posted.
//!
//! Invariant: a wait is at most [`MAX_WAIT`](crate::MAX_WAIT).

use crate::retry_after::in_headers;
use crate::wait::AnswerTime;
use core::time::Duration;
use http::{HeaderMap, StatusCode};

/// The meaning of an answer for the message that was posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookAnswer {
    /// It was taken.
    Taken,
    /// It may be taken later: after a time, if the answer names one.
    Later(Option<Duration>),
    /// It is never taken.
    Refused,
}

/// Reads the answer of a webhook at a time since 1970.
///
/// | status | meaning |
/// |---|---|
/// | 2xx | taken |
/// | 408, 425, 429, 5xx but 501 | later, and not before `Retry-After` |
/// | others, redirects too | refused: the URL or the message is wrong |
///
/// ```
/// use core::time::Duration;
/// use http::{HeaderMap, HeaderValue, StatusCode};
/// use leasehold_protocol::{WebhookAnswer, webhook_answer};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("retry-after", HeaderValue::from_static("7"));
/// let wait = Some(Duration::from_secs(7));
/// let answer = webhook_answer(StatusCode::TOO_MANY_REQUESTS, &headers, Duration::ZERO);
/// assert_eq!(answer, WebhookAnswer::Later(wait));
/// ```
#[must_use]
pub fn webhook_answer(status: StatusCode, headers: &HeaderMap, now: Duration) -> WebhookAnswer {
    match status.as_u16() {
        200..=299 => WebhookAnswer::Taken,
        501 => WebhookAnswer::Refused,
        408 | 425 | 429 | 500..=599 => {
            WebhookAnswer::Later(in_headers(headers, AnswerTime::of(headers, now)))
        }
        _ => WebhookAnswer::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_of_statuses_has_its_meaning() {
        let answer = |status: u16| {
            let status = StatusCode::from_u16(status).expect("a status");
            webhook_answer(status, &HeaderMap::new(), Duration::ZERO)
        };
        for taken in [200, 202, 204, 299] {
            assert_eq!(answer(taken), WebhookAnswer::Taken, "{taken}");
        }
        for later in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert_eq!(answer(later), WebhookAnswer::Later(None), "{later}");
        }
        for refused in [101, 301, 307, 400, 401, 404, 410, 413, 422, 501, 600] {
            assert_eq!(answer(refused), WebhookAnswer::Refused, "{refused}");
        }
    }
}
