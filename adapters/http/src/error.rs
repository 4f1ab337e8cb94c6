//! Errors of a call: what an answer or a broken connection means, and where it happened.
//!
//! Invariant: no text in a [`CallError`] holds the key, a line break, or more than 1,024 characters.

use crate::body::BodyError;
use crate::not_connected::{NotConnected, Phase};
use core::fmt;
use core::time::Duration;
use leasehold_protocol::verdict::{Context, Failure, verdict_of_failure};
use leasehold_protocol::verdict::{Fate, Kind, Next, Outcome, Verdict};
use leasehold_protocol::{Completion, Endpoint, sanitize};
use std::io::ErrorKind;

/// A failed call. Displays the URL, the masked key, the trace id and the cause.
#[derive(Clone, PartialEq)]
pub struct CallError(Box<Detail>);

#[derive(Clone, PartialEq)]
struct Detail {
    url: String,
    key: String,
    trace_id: String,
    verdict: Verdict,
    completion: Option<Completion>,
}

impl CallError {
    pub(crate) fn new(
        endpoint: &Endpoint,
        trace_id: String,
        verdict: Verdict,
        completion: Option<Completion>,
    ) -> Self {
        let key = endpoint.key();
        Self(Box::new(Detail {
            url: sanitize(endpoint.url(), Some(key)),
            key: key.to_string(),
            trace_id,
            verdict,
            completion,
        }))
    }

    /// What the failure means for the pool, the task and the key.
    #[must_use]
    pub fn verdict(&self) -> &Verdict {
        &self.0.verdict
    }

    /// The kind of the failure.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.verdict.kind
    }

    /// What came of the answer before it failed, or an answer without a known shape.
    #[must_use]
    pub fn completion(&self) -> Option<&Completion> {
        self.0.completion.as_ref()
    }

    /// The base URL of the call.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// The key of the call, masked.
    #[must_use]
    pub fn masked_key(&self) -> &str {
        &self.0.key
    }

    /// The client's id of the call.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.0.trace_id
    }

    /// Whether the same call with the same key may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.verdict.next, Next::RetryAfter { .. })
    }

    /// Whether the service may have seen the call.
    ///
    /// False only if no byte of it was sent, so that its lease can be refunded in full.
    #[must_use]
    pub fn was_sent(&self) -> bool {
        self.kind().was_sent()
    }

    /// The wait that the service asks for, at most a day.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.verdict.asked_wait
    }

    /// Whether the service turned the call away and the key must rest.
    #[must_use]
    pub fn is_throttled(&self) -> bool {
        self.0.verdict.outcome == Outcome::Throttled
    }

    /// Whether the key will not work again until an operator acts.
    #[must_use]
    pub fn rejects_key(&self) -> bool {
        self.0.verdict.fate == Fate::Reject
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = &*self.0;
        write!(
            f,
            "{} (key {}, trace {}): {}",
            detail.url, detail.key, detail.trace_id, detail.verdict
        )
    }
}

/// Shows no content of answers.
impl fmt::Debug for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail {
            url,
            key,
            trace_id,
            verdict,
            ..
        } = &*self.0;
        f.debug_struct("CallError")
            .field("url", url)
            .field("key", key)
            .field("trace_id", trace_id)
            .field("verdict", verdict)
            .finish_non_exhaustive()
    }
}

impl core::error::Error for CallError {}

/// Judges an error of ureq before the head of an answer was there.
pub(crate) fn verdict_of_ureq(error: &ureq::Error, context: &Context<'_>) -> Verdict {
    verdict_of_failure(failure(error), &message(error), context)
}

/// Judges an error within the body of an answer.
pub(crate) fn verdict_of_body(error: &BodyError, limit: u64, context: &Context<'_>) -> Verdict {
    match error {
        BodyError::TooLong => {
            let reason = format!("more than {limit} bytes");
            verdict_of_failure(Failure::AnswerTooLong, &reason, context)
        }
        BodyError::Transport(error) => {
            verdict_of_failure(Failure::AnswerCut, &message(error), context)
        }
    }
}

fn failure(error: &ureq::Error) -> Failure {
    use ureq::Error;
    if let Some((phase, cause)) = NotConnected::cause(error) {
        return not_connected(phase, cause);
    }
    if matches!(error, Error::TlsRequired) {
        Failure::TlsFailed
    } else if matches!(
        error,
        Error::ConnectionFailed | Error::ConnectProxyFailed(_)
    ) {
        Failure::NotConnected
    } else if matches!(error, Error::Timeout(_)) {
        Failure::TimedOut
    } else if matches!(error, Error::Io(_)) {
        Failure::ConnectionLost
    } else if matches!(error, Error::Http(_) | Error::BadUri(_)) {
        Failure::NotSent
    } else if matches!(error, Error::LargeResponseHeader(..)) {
        Failure::AnswerTooLong
    } else {
        // The only case left is a response that isn't HTTP.
        Failure::NotHttp
    }
}

fn not_connected(phase: Phase, cause: &ureq::Error) -> Failure {
    use ureq::Error;
    let text = cause.to_string();
    let is_timeout = matches!(cause, Error::Timeout(_));
    match phase {
        // Without a network, or when the name service is down, the name may still be right.
        Phase::Resolve if is_timeout || TEMPORARY.iter().any(|part| text.contains(part)) => {
            Failure::NotConnected
        }
        Phase::Resolve => Failure::HostNotFound,
        Phase::Connect if matches!(cause, Error::Rustls(_) | Error::Tls(_)) => Failure::TlsFailed,
        // rustls reports a bad certificate and a bad handshake as invalid data.
        Phase::Connect if matches!(cause, Error::Io(io) if io.kind() == ErrorKind::InvalidData) => {
            Failure::TlsFailed
        }
        Phase::Connect => Failure::NotConnected,
    }
}

/// Parts of the messages of `getaddrinfo` for errors that pass: glibc's and musl's.
const TEMPORARY: [&str; 2] = ["emporary failure", "Try again"];

/// Returns ureq's message, for an I/O error without the `io:` before it.
fn message(error: &ureq::Error) -> String {
    let error = NotConnected::cause(error).map_or(error, |(_, cause)| cause);
    if let ureq::Error::Io(io) = error {
        return io.to_string();
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_protocol::{ApiKey, Call};

    #[test]
    fn no_error_shows_the_key_or_an_answer() {
        let key = ApiKey::new("sk-secret-12345678").unwrap();
        let endpoint = Endpoint::new("http://h:1/sk-secret-12345678", key.clone()).unwrap();
        let context = Context {
            call: Call::Chat,
            key: Some(&key),
        };
        let reason = "a\nsk-secret-12345678 b";
        let verdict = verdict_of_failure(Failure::AnswerCut, reason, &context);
        let mut completion = Completion::default();
        completion.choice.content = "what sk-secret-12345678 said".to_owned();
        let error = CallError::new(&endpoint, "trace".to_owned(), verdict, Some(completion));
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("secret"), "{shown}");
        assert!(shown.contains("a …5678 b") && shown.contains("http://h:1"));
        assert!(shown.contains("key …5678, trace trace"), "{shown}");
        assert!(error.completion().is_some());
    }

    #[test]
    fn a_name_that_can_not_be_looked_up_now_is_told_from_one_that_is_unknown() {
        let lookup = |message: &str| {
            let error = ureq::Error::Io(std::io::Error::other(message.to_owned()));
            failure(&NotConnected::mark(Phase::Resolve, error))
        };
        assert_eq!(
            lookup("failed to lookup address information: Name or service not known"),
            Failure::HostNotFound
        );
        assert_eq!(
            lookup("failed to lookup address information: Temporary failure in name resolution"),
            Failure::NotConnected
        );
        assert_eq!(
            failure(&NotConnected::mark(
                Phase::Resolve,
                ureq::Error::HostNotFound
            )),
            Failure::HostNotFound
        );
    }
}
