//! Why a call brought no answer, and what follows from it.
//!
//! Invariant: no text gets into a [`CallError`] but through [`tidy`], so that none holds the key, a line
//! break, or more than [`MAX_TEXT`] characters.

use crate::connect::NotConnected;
use crate::endpoint::Endpoint;
use crate::secret::ApiKey;
use core::fmt;
use core::time::Duration;

/// The longest text that is kept of what a service said, in characters.
const MAX_TEXT: usize = 1_024;

/// A call that brought no answer. Shows the URL, the masked key, the trace id and what went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError(Box<Detail>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Detail {
    url: String,
    key: String,
    trace_id: String,
    failure: CallErrorKind,
}

/// What went wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallErrorKind {
    /// The request contradicts itself or can't be written.
    #[error("the request could not be built: {reason}")]
    Unsendable {
        /// What is wrong with it.
        reason: String,
    },
    /// The name was not resolved, or no connection made, in time.
    #[error("no connection: {reason}")]
    NotConnected {
        /// What the resolver, the network or the TLS layer said.
        reason: String,
    },
    /// A connection was there, but no whole answer in time.
    #[error("timed out ({phase})")]
    TimedOut {
        /// Which of ureq's timeouts it was.
        phase: String,
    },
    /// The connection ended before the answer did.
    #[error("the connection was lost: {reason}")]
    Lost {
        /// What the network said.
        reason: String,
    },
    /// The service answered with a status other than success.
    #[error("{0}")]
    Refused(ErrorResponse),
    /// The service reported success, but its answer could not be understood.
    #[error("the answer could not be understood: {reason}")]
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
    /// The answer is longer than [`ClientConfig::max_answer_bytes`](crate::ClientConfig).
    #[error("the answer is longer than {limit} bytes")]
    TooLarge {
        /// The most bytes allowed.
        limit: u64,
    },
}

/// What a service said as it refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorResponse {
    /// The HTTP status. A redirect is one too: none is followed, lest the key be sent elsewhere.
    pub status: u16,
    /// The service's own code, such as `rate_limit_exceeded`.
    pub code: Option<String>,
    /// The service's own kind of error (`type`), such as `invalid_request_error`.
    pub kind: Option<String>,
    /// What the service says about it.
    pub message: String,
    /// How long the service asks its caller to wait.
    pub retry_after: Option<Duration>,
    /// The service's name for the call: its `x-request-id` header.
    pub request_id: Option<String>,
}

impl ErrorResponse {
    fn is_out_of_quota(&self) -> bool {
        let quota = Some("insufficient_quota");
        self.status == 429 && (self.code.as_deref() == quota || self.kind.as_deref() == quota)
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        if let Some(name) = self.code.as_ref().or(self.kind.as_ref()) {
            write!(f, " ({name})")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(id) = &self.request_id {
            write!(f, " [request {id}]")?;
        }
        Ok(())
    }
}

impl CallError {
    pub(crate) fn new(endpoint: &Endpoint, trace_id: String, failure: CallErrorKind) -> Self {
        let key = endpoint.key();
        Self(Box::new(Detail {
            url: tidy(endpoint.url(), key),
            key: key.to_string(),
            trace_id,
            failure: failure.tidied(key),
        }))
    }

    /// What went wrong.
    #[must_use]
    pub fn failure(&self) -> &CallErrorKind {
        &self.0.failure
    }

    /// What the service said, if it refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&ErrorResponse> {
        match self.failure() {
            CallErrorKind::Refused(refusal) => Some(refusal),
            CallErrorKind::Unsendable { .. }
            | CallErrorKind::NotConnected { .. }
            | CallErrorKind::TimedOut { .. }
            | CallErrorKind::Lost { .. }
            | CallErrorKind::Unreadable { .. }
            | CallErrorKind::TooLarge { .. } => None,
        }
    }

    /// The base URL that was called.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// The key that was used, masked.
    #[must_use]
    pub fn masked_key(&self) -> &str {
        &self.0.key
    }

    /// The `x-trace-id` that was sent along.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.0.trace_id
    }

    /// Whether the same call may succeed later: after a timeout, a connection not made or lost, or one
    /// of the statuses 408, 409, 425, 429 (unless the quota is used up) and 5xx. An answer that could not
    /// be understood or is too long is not asked for again: it was paid for, and its like would follow.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.failure() {
            CallErrorKind::NotConnected { .. }
            | CallErrorKind::TimedOut { .. }
            | CallErrorKind::Lost { .. } => true,
            CallErrorKind::Refused(refusal) => {
                matches!(refusal.status, 408 | 409 | 425 | 429 | 500..=599)
                    && !refusal.is_out_of_quota()
            }
            CallErrorKind::Unsendable { .. }
            | CallErrorKind::Unreadable { .. }
            | CallErrorKind::TooLarge { .. } => false,
        }
    }

    /// Whether the service may have seen the call. False only where it certainly hasn't, so that a lease
    /// can be given back in full.
    #[must_use]
    pub fn was_sent(&self) -> bool {
        !matches!(
            self.failure(),
            CallErrorKind::Unsendable { .. } | CallErrorKind::NotConnected { .. }
        )
    }

    /// How long the service asks its caller to wait; a day at most.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal()?.retry_after
    }

    /// Whether the service asks for fewer calls: 429 unless the quota is used up, or 503 with a time to
    /// come back.
    #[must_use]
    pub fn is_throttled(&self) -> bool {
        self.refusal().is_some_and(|refusal| match refusal.status {
            429 => !refusal.is_out_of_quota(),
            503 => refusal.retry_after.is_some(),
            _ => false,
        })
    }

    /// Whether the key won't work again without somebody's help: 401, 402, or 429 with the quota used
    /// up.
    #[must_use]
    pub fn rejects_key(&self) -> bool {
        self.refusal()
            .is_some_and(|refusal| matches!(refusal.status, 401 | 402) || refusal.is_out_of_quota())
    }

    /// Whether the same call may succeed with another key: 403, which services answer both to a key
    /// that may not use a model and to a prompt that nobody may send.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.status == 403)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail {
            url,
            key,
            trace_id,
            failure,
        } = &*self.0;
        write!(f, "{url} (key {key}, trace {trace_id}): {failure}")
    }
}

impl core::error::Error for CallError {}

impl CallErrorKind {
    /// Sorts what ureq reports.
    pub(crate) fn from_ureq(error: &ureq::Error) -> Self {
        use ureq::Error;
        let reason = error.to_string();
        if NotConnected::marks(error)
            || matches!(error, Error::ConnectionFailed | Error::TlsRequired)
        {
            Self::NotConnected { reason }
        } else if let Error::Timeout(phase) = error {
            let phase = phase.to_string();
            Self::TimedOut { phase }
        } else if matches!(error, Error::Io(_)) {
            Self::Lost { reason }
        } else if matches!(error, Error::Http(_) | Error::BadUri(_)) {
            Self::Unsendable { reason }
        } else {
            // What is left by now is an answer that isn't HTTP.
            Self::Unreadable { reason }
        }
    }

    fn tidied(self, key: &ApiKey) -> Self {
        let tidy = |text: String| tidy(&text, key);
        match self {
            Self::Unsendable { reason } => Self::Unsendable {
                reason: tidy(reason),
            },
            Self::NotConnected { reason } => Self::NotConnected {
                reason: tidy(reason),
            },
            Self::TimedOut { phase } => Self::TimedOut { phase: tidy(phase) },
            Self::Lost { reason } => Self::Lost {
                reason: tidy(reason),
            },
            Self::Refused(refusal) => Self::Refused(ErrorResponse {
                status: refusal.status,
                code: refusal.code.map(tidy),
                kind: refusal.kind.map(tidy),
                message: tidy(refusal.message),
                retry_after: refusal.retry_after,
                request_id: refusal.request_id.map(tidy),
            }),
            Self::Unreadable { reason } => Self::Unreadable {
                reason: tidy(reason),
            },
            Self::TooLarge { limit } => Self::TooLarge { limit },
        }
    }
}

/// A foreign text that is fit for a log: without the key, on one line, of bounded length.
fn tidy(text: &str, key: &ApiKey) -> String {
    // The key goes first: cut through, it would not be found.
    let text = key.redact(text);
    let one_line = text.trim().replace(char::is_control, " ");
    match one_line.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &one_line[..end]),
        None => one_line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(failure: CallErrorKind) -> CallError {
        let key = ApiKey::new("sk-secret-12345678").unwrap();
        let endpoint = Endpoint::new("http://h:1/sk-secret-12345678", key).unwrap();
        CallError::new(&endpoint, "trace".to_owned(), failure)
    }

    fn refused(status: u16, code: Option<&str>, retry_after: Option<Duration>) -> CallError {
        error(CallErrorKind::Refused(ErrorResponse {
            status,
            code: code.map(str::to_owned),
            retry_after,
            ..ErrorResponse::default()
        }))
    }

    #[test]
    fn each_status_has_its_consequence() {
        let wait = Some(Duration::ZERO);
        let quota = Some("insufficient_quota");
        for (status, code, wait, retryable, throttled, condemned) in [
            (307, None, None, false, false, false),
            (400, None, None, false, false, false),
            (401, None, None, false, false, true),
            (402, None, None, false, false, true),
            (403, None, None, false, false, false),
            (404, None, None, false, false, false),
            (408, None, None, true, false, false),
            (409, None, None, true, false, false),
            (413, None, None, false, false, false),
            (422, None, None, false, false, false),
            (425, None, None, true, false, false),
            (429, None, None, true, true, false),
            (429, Some("other"), wait, true, true, false),
            (429, quota, wait, false, false, true),
            (500, None, None, true, false, false),
            (503, None, None, true, false, false),
            (503, None, wait, true, true, false),
            (599, quota, None, true, false, false),
        ] {
            let error = refused(status, code, wait);
            assert_eq!(error.is_retryable(), retryable, "{error}");
            assert_eq!(error.is_throttled(), throttled, "{error}");
            assert_eq!(error.rejects_key(), condemned, "{error}");
            assert!(error.was_sent());
        }
    }

    #[test]
    fn used_up_quota_may_be_named_as_kind() {
        let refusal = ErrorResponse {
            status: 429,
            kind: Some("insufficient_quota".to_owned()),
            ..ErrorResponse::default()
        };
        assert!(error(CallErrorKind::Refused(refusal)).rejects_key());
    }

    #[test]
    fn no_error_shows_the_key_whoever_wrote_it() {
        let text = || "a\nsk-secret-12345678 b".to_owned();
        let failures = [
            CallErrorKind::Unsendable { reason: text() },
            CallErrorKind::NotConnected { reason: text() },
            CallErrorKind::TimedOut { phase: text() },
            CallErrorKind::Lost { reason: text() },
            CallErrorKind::Unreadable { reason: text() },
            CallErrorKind::Refused(ErrorResponse {
                status: 401,
                code: Some(text()),
                kind: Some(text()),
                message: text(),
                retry_after: None,
                request_id: Some(text()),
            }),
        ];
        for failure in failures {
            let error = error(failure);
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("secret"), "{shown}");
            assert!(shown.contains("a …5678 b") && shown.contains("http://h:1"));
            assert!(shown.contains("key …5678, trace trace"), "{shown}");
        }
    }

    #[test]
    fn a_key_at_the_cut_is_masked() {
        let key = ApiKey::new("sk-secret-12345678").unwrap();
        for filler in MAX_TEXT - 20..=MAX_TEXT {
            let text = format!("{}{}{}", "é".repeat(filler), key.expose(), "é".repeat(99));
            let tidied = tidy(&text, &key);
            assert_eq!(tidied.chars().count(), MAX_TEXT + 1);
            assert!(!tidied.contains("sk-"), "{tidied}");
        }
    }
}
