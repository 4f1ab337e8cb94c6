//! What the answer of a plain HTTP backend says about the backend.
//!
//! Invariant: only a server that failed counts as failed; what a server says about a request or its sender does not.

use http::StatusCode;

/// What an answer says about the backend that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendHealth {
    /// The backend works, whatever it thinks of the request.
    Works,
    /// The backend, or one behind it, failed.
    Fails,
}

/// Judges a backend by the status of its answer.
///
/// | status | meaning |
/// |---|---|
/// | 500, 502, 503, 504, 507, 508, 520 to 530 | fails |
/// | all others | works: 429 is about the sender, 501 and 505 about the request |
///
/// ```
/// use http::StatusCode;
/// use leasehold_protocol::{BackendHealth, backend_health};
///
/// assert_eq!(backend_health(StatusCode::BAD_GATEWAY), BackendHealth::Fails);
/// assert_eq!(backend_health(StatusCode::TOO_MANY_REQUESTS), BackendHealth::Works);
/// ```
#[must_use]
pub fn backend_health(status: StatusCode) -> BackendHealth {
    match status.as_u16() {
        500 | 502..=504 | 507 | 508 | 520..=530 => BackendHealth::Fails,
        _ => BackendHealth::Works,
    }
}
