//! Errors of a call, and what the caller can do about each.
//!
//! Invariant: every text in a [`CallError`] went through [`sanitize`], so none holds the key, a line break, or
//! more than [`MAX_TEXT`] characters.

use crate::endpoint::Endpoint;
use crate::not_connected::NotConnected;
use crate::secret::ApiKey;
use core::fmt;
use core::time::Duration;

/// Longest text kept of a service's message, in characters.
const MAX_TEXT: usize = 1_024;

/// A failed call. Displays the URL, the masked key, the trace id and the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError(Box<Detail>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Detail {
    url: String,
    key: String,
    trace_id: String,
    kind: CallErrorKind,
}

/// The cause of a failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallErrorKind {
    /// The request contradicts itself or can't be written.
    #[error("invalid request: {reason}")]
    InvalidRequest {
        /// The contradiction, or the field that can't be written.
        reason: String,
    },
    /// The name was not resolved, or no connection made, in time.
    #[error("no connection: {reason}")]
    NotConnected {
        /// Message of the resolver, the network or the TLS layer.
        reason: String,
    },
    /// The connection was made, but the response was not complete in time.
    #[error("timed out ({phase})")]
    TimedOut {
        /// Name of ureq's timeout.
        phase: String,
    },
    /// The connection ended before the response did.
    #[error("connection lost: {reason}")]
    ConnectionLost {
        /// Message of the network.
        reason: String,
    },
    /// The response has a status other than success.
    #[error("{0}")]
    Status(ErrorResponse),
    /// The status is success, but the response can't be parsed.
    #[error("invalid response: {reason}")]
    InvalidResponse {
        /// The part that can't be parsed.
        reason: String,
    },
    /// The response is longer than [`ClientConfig::max_response_bytes`](crate::ClientConfig).
    #[error("the response is longer than {limit} bytes")]
    ResponseTooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
}

/// A response with a status other than success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorResponse {
    /// The HTTP status. A redirect counts as an error: following it would send the key to another host.
    pub status: u16,
    /// The service's error code, such as `rate_limit_exceeded`.
    pub code: Option<String>,
    /// The service's error type (`type`), such as `invalid_request_error`.
    pub error_type: Option<String>,
    /// The service's message.
    pub message: String,
    /// The wait that the service asks for.
    pub retry_after: Option<Duration>,
    /// The service's id of the call: the `x-request-id` header.
    pub request_id: Option<String>,
}

impl ErrorResponse {
    fn is_out_of_quota(&self) -> bool {
        let quota = Some("insufficient_quota");
        self.status == 429 && (self.code.as_deref() == quota || self.error_type.as_deref() == quota)
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        if let Some(name) = self.code.as_ref().or(self.error_type.as_ref()) {
            write!(f, " ({name})")?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " [request {id}]")?;
        }
        Ok(())
    }
}

impl CallError {
    pub(crate) fn new(endpoint: &Endpoint, trace_id: String, kind: CallErrorKind) -> Self {
        let key = endpoint.key();
        Self(Box::new(Detail {
            url: sanitize(endpoint.url(), key),
            key: key.to_string(),
            trace_id,
            kind: kind.sanitized(key),
        }))
    }

    /// The cause.
    #[must_use]
    pub fn kind(&self) -> &CallErrorKind {
        &self.0.kind
    }

    /// The error response, if the service sent one.
    #[must_use]
    pub fn response(&self) -> Option<&ErrorResponse> {
        match self.kind() {
            CallErrorKind::Status(response) => Some(response),
            CallErrorKind::InvalidRequest { .. }
            | CallErrorKind::NotConnected { .. }
            | CallErrorKind::TimedOut { .. }
            | CallErrorKind::ConnectionLost { .. }
            | CallErrorKind::InvalidResponse { .. }
            | CallErrorKind::ResponseTooLarge { .. } => None,
        }
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

    /// The `x-trace-id` of the call.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.0.trace_id
    }

    /// Whether the same call may succeed later.
    ///
    /// True after a timeout, a failed or lost connection, and for the statuses 408, 409, 425, 429 (with quota
    /// left) and 5xx. A response that is invalid or too long is not retried: it was billed, and a retry would
    /// probably fail the same way.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            CallErrorKind::NotConnected { .. }
            | CallErrorKind::TimedOut { .. }
            | CallErrorKind::ConnectionLost { .. } => true,
            CallErrorKind::Status(response) => {
                matches!(response.status, 408 | 409 | 425 | 429 | 500..=599)
                    && !response.is_out_of_quota()
            }
            CallErrorKind::InvalidRequest { .. }
            | CallErrorKind::InvalidResponse { .. }
            | CallErrorKind::ResponseTooLarge { .. } => false,
        }
    }

    /// Whether the service may have seen the call.
    ///
    /// False only if no byte of it was sent, so that its lease can be refunded in full.
    #[must_use]
    pub fn was_sent(&self) -> bool {
        !matches!(
            self.kind(),
            CallErrorKind::InvalidRequest { .. } | CallErrorKind::NotConnected { .. }
        )
    }

    /// The wait that the service asks for, at most a day.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.response()?.retry_after
    }

    /// Whether the service asks for fewer calls: 429 with quota left, or 503 with a wait.
    #[must_use]
    pub fn is_throttled(&self) -> bool {
        self.response()
            .is_some_and(|response| match response.status {
                429 => !response.is_out_of_quota(),
                503 => response.retry_after.is_some(),
                _ => false,
            })
    }

    /// Whether the key will not work again until an operator acts: 401, 402, or 429 with the quota used up.
    #[must_use]
    pub fn rejects_key(&self) -> bool {
        self.response().is_some_and(|response| {
            matches!(response.status, 401 | 402) || response.is_out_of_quota()
        })
    }

    /// Whether the same call may succeed with another key: 403.
    ///
    /// Services send 403 both for a key without access to a model and for a prompt against their rules.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.response()
            .is_some_and(|response| response.status == 403)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail {
            url,
            key,
            trace_id,
            kind,
        } = &*self.0;
        write!(f, "{url} (key {key}, trace {trace_id}): {kind}")
    }
}

impl core::error::Error for CallError {}

impl CallErrorKind {
    /// Classifies an error of ureq.
    pub(crate) fn from_ureq(error: &ureq::Error) -> Self {
        use ureq::Error;
        if let Some(cause) = NotConnected::cause(error) {
            let reason = message(cause);
            return Self::NotConnected { reason };
        }
        let reason = message(error);
        if matches!(error, Error::ConnectionFailed | Error::TlsRequired) {
            Self::NotConnected { reason }
        } else if let Error::Timeout(phase) = error {
            let phase = phase.to_string();
            Self::TimedOut { phase }
        } else if matches!(error, Error::Io(_)) {
            Self::ConnectionLost { reason }
        } else if matches!(error, Error::Http(_) | Error::BadUri(_)) {
            Self::InvalidRequest { reason }
        } else {
            // The only case left is a response that isn't HTTP.
            Self::InvalidResponse { reason }
        }
    }

    fn sanitized(self, key: &ApiKey) -> Self {
        let sanitize = |text: String| sanitize(&text, key);
        match self {
            Self::InvalidRequest { reason } => Self::InvalidRequest {
                reason: sanitize(reason),
            },
            Self::NotConnected { reason } => Self::NotConnected {
                reason: sanitize(reason),
            },
            Self::TimedOut { phase } => Self::TimedOut {
                phase: sanitize(phase),
            },
            Self::ConnectionLost { reason } => Self::ConnectionLost {
                reason: sanitize(reason),
            },
            Self::Status(response) => Self::Status(ErrorResponse {
                status: response.status,
                code: response.code.map(sanitize),
                error_type: response.error_type.map(sanitize),
                message: sanitize(response.message),
                retry_after: response.retry_after,
                request_id: response.request_id.map(sanitize),
            }),
            Self::InvalidResponse { reason } => Self::InvalidResponse {
                reason: sanitize(reason),
            },
            Self::ResponseTooLarge { limit } => Self::ResponseTooLarge { limit },
        }
    }
}

/// Returns ureq's message, for an I/O error without the `io:` before it.
fn message(error: &ureq::Error) -> String {
    if let ureq::Error::Io(io) = error {
        return io.to_string();
    }
    error.to_string()
}

/// Makes a foreign text fit for a log: without the key, on one line, at most [`MAX_TEXT`] characters.
fn sanitize(text: &str, key: &ApiKey) -> String {
    // The key goes first: a key cut in half would not be found.
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

    fn error(kind: CallErrorKind) -> CallError {
        let key = ApiKey::new("sk-secret-12345678").unwrap();
        let endpoint = Endpoint::new("http://h:1/sk-secret-12345678", key).unwrap();
        CallError::new(&endpoint, "trace".to_owned(), kind)
    }

    fn status(status: u16, code: Option<&str>, retry_after: Option<Duration>) -> CallError {
        error(CallErrorKind::Status(ErrorResponse {
            status,
            code: code.map(str::to_owned),
            retry_after,
            ..ErrorResponse::default()
        }))
    }

    #[test]
    fn the_status_decides_about_retry_throttle_and_key() {
        let wait = Some(Duration::ZERO);
        let quota = Some("insufficient_quota");
        for (code, name, wait, retryable, throttled, rejects_key) in [
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
            let error = status(code, name, wait);
            assert_eq!(error.is_retryable(), retryable, "{error}");
            assert_eq!(error.is_throttled(), throttled, "{error}");
            assert_eq!(error.rejects_key(), rejects_key, "{error}");
            assert_eq!(error.is_forbidden(), code == 403, "{error}");
            assert!(error.was_sent());
        }
    }

    #[test]
    fn the_error_type_may_also_say_that_the_quota_is_used_up() {
        let response = ErrorResponse {
            status: 429,
            error_type: Some("insufficient_quota".to_owned()),
            ..ErrorResponse::default()
        };
        assert!(error(CallErrorKind::Status(response)).rejects_key());
    }

    #[test]
    fn no_error_shows_the_key() {
        let text = || "a\nsk-secret-12345678 b".to_owned();
        let kinds = [
            CallErrorKind::InvalidRequest { reason: text() },
            CallErrorKind::NotConnected { reason: text() },
            CallErrorKind::TimedOut { phase: text() },
            CallErrorKind::ConnectionLost { reason: text() },
            CallErrorKind::InvalidResponse { reason: text() },
            CallErrorKind::Status(ErrorResponse {
                status: 401,
                code: Some(text()),
                error_type: Some(text()),
                message: text(),
                retry_after: None,
                request_id: Some(text()),
            }),
        ];
        for kind in kinds {
            let error = error(kind);
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
            let sanitized = sanitize(&text, &key);
            assert_eq!(sanitized.chars().count(), MAX_TEXT + 1);
            assert!(!sanitized.contains("sk-"), "{sanitized}");
        }
    }
}
