//! Answers of the gateway itself: why a request was not passed on, or has no answer of a backend.
//!
//! Invariant: each has a code, by which programs and logs tell one from another, and a sentence for people.

use super::answer::AnswerBody;
use core::time::Duration;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

/// Why a request is answered by the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// One word, as in a log.
    pub(crate) code: &'static str,
    pub(crate) text: String,
    /// The time after which a repeat may be served, if that is known.
    pub(crate) wait: Option<Duration>,
    /// Whether nothing more is read from the connection.
    pub(crate) closes: bool,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Self {
            status,
            code,
            text: text.into(),
            wait: None,
            closes: false,
        }
    }

    /// A request that is wrong in itself, after which the connection closes.
    pub(crate) fn bad_request(text: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", text).closing()
    }

    pub(crate) fn wait(mut self, wait: Option<Duration>) -> Self {
        self.wait = wait;
        self
    }

    pub(crate) fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    /// Returns the answer: its text, and `Retry-After` in whole seconds, rounded up.
    pub(crate) fn into_response(self) -> Response<AnswerBody> {
        let mut response =
            Response::new(AnswerBody::text(format!("{}: {}\n", self.code, self.text)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if let Some(wait) = self.wait {
            let begun = u64::from(wait.subsec_nanos() > 0);
            headers.insert(
                RETRY_AFTER,
                wait.as_secs().saturating_add(begun).max(1).into(),
            );
        }
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
