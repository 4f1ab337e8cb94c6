//! Refusals of the admin interface.
//!
//! Invariant: each is JSON, with a code for programs and a sentence for people, and names no token.

use super::access::Denied;
use super::answer::json;
use crate::proxy::AnswerBody;
use http::header::{ALLOW, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdminError {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The methods that the path has, for a wrong one.
    pub(crate) allow: Option<String>,
}

impl AdminError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            allow: None,
        }
    }

    /// A request that is wrong in itself.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(crate) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    pub(crate) fn into_response(self) -> Response<AnswerBody> {
        let error = json!({"error": {"code": self.code, "message": self.message}});
        let mut response = json(&error);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(allow) = self.allow.and_then(|allow| allow.try_into().ok()) {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

impl From<Denied> for AdminError {
    fn from(denied: Denied) -> Self {
        let (status, code) = match denied {
            Denied::WrongToken => (StatusCode::UNAUTHORIZED, "wrong_token"),
            Denied::NoToken => (StatusCode::UNAUTHORIZED, "no_token"),
            Denied::NoTokenSet
            | Denied::Origin
            | Denied::Stranger
            | Denied::Forwarded
            | Denied::Host => (StatusCode::FORBIDDEN, "forbidden"),
        };
        Self::new(status, code, denied.to_string())
    }
}
