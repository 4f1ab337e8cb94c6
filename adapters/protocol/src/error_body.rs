//! Error bodies in the forms that services and proxies send.
//!
//! Invariant: every text is bounded, and nothing here decides what an error means; see [`verdict`](crate::verdict).

use crate::json::{self, Json};
use crate::note::Notes;
use crate::page::{Page, Proxy};
use crate::secret::cut;
use crate::wait;
use core::time::Duration;
use http::HeaderMap;
use serde_json::Value;

/// Longest text read of an error, in characters; it is cut to less once the key is masked.
const MAX_CHARACTERS: usize = 16 * 1024;

/// An error as a service words it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorBody {
    /// The message; empty if there is none.
    pub message: String,
    /// The code, such as `rate_limit_exceeded`.
    pub code: Option<String>,
    /// The type, such as `invalid_request_error`; Google's `status`.
    pub error_type: Option<String>,
    /// The field of the request that is wrong.
    pub param: Option<String>,
    /// The HTTP status that the body names, such as 502 in an answer with status 200.
    pub status: Option<u16>,
    /// The wait that the body names: Google's `RetryInfo`, or `retry_after`.
    pub retry_delay: Option<Duration>,
    /// The service's id of the call.
    pub request_id: Option<String>,
    /// The server in between that sent the body as a page.
    pub proxy: Option<Proxy>,
    /// Further names of the error, such as Google's `reason`.
    pub(crate) reasons: Vec<String>,
}

impl ErrorBody {
    /// Reads a body: JSON in any common form, a page, or text.
    pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Self {
        match json::read(body, &mut Notes::default()) {
            Json::Value(value) => Self::from_value(&value),
            Json::Cut | Json::Other => Self::from_text(headers, body),
        }
    }

    fn from_text(headers: &HeaderMap, body: &[u8]) -> Self {
        let text = json::text(body, &mut Notes::default());
        match Page::of(headers, &text) {
            Some(page) => Self {
                message: page.words,
                proxy: Some(page.proxy),
                ..Self::default()
            },
            None => Self {
                message: bounded(&text),
                ..Self::default()
            },
        }
    }

    /// Reads `{"error": {"message", "code", "type"}}` and its common variants.
    ///
    /// Any other value becomes the message as it is.
    #[must_use]
    pub fn from_value(body: &Value) -> Self {
        // Google wraps the error of a stream in an array.
        let body = body.get(0).unwrap_or(body);
        let error = match &body["error"] {
            Value::Object(_) => &body["error"],
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => body
                .pointer("/response/error")
                .filter(|it| it.is_object())
                .unwrap_or(body),
        };
        let message = [
            "message",
            "detail",
            "error_description",
            "error",
            "errors",
            "msg",
            "Message",
        ];
        let message = message.into_iter().find_map(|name| text(&error[name]));
        let mut found = Self {
            message: message.unwrap_or_else(|| bounded(&body.to_string())),
            code: text(&error["code"]).or_else(|| text(&error["__type"])),
            error_type: text(&error["type"]).or_else(|| text(&error["status"])),
            param: text(&error["param"]),
            status: status(&error["code"])
                .or_else(|| status(&error["status"]))
                .or_else(|| status(&error["statusCode"])),
            request_id: text(&body["request_id"]),
            ..Self::default()
        };
        found.read_details(error);
        found
    }

    /// Reads Google's `details`, OpenRouter's `metadata`, and fields that name a wait.
    fn read_details(&mut self, error: &Value) {
        let details = error["details"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        for detail in details.iter().take(32) {
            self.reasons.extend(text(&detail["reason"]));
            let delay = detail["retryDelay"].as_str().and_then(wait::duration);
            self.retry_delay = self.retry_delay.or(delay);
        }
        let metadata = &error["metadata"];
        let named = [
            &error["retry_after"],
            &error["retry_after_seconds"],
            &metadata["retry_after_seconds"],
        ];
        let seconds = named.iter().find_map(|value| value.as_f64());
        let seconds = seconds.filter(|seconds| *seconds > 0.0);
        let asked = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        self.retry_delay = self.retry_delay.or(asked).map(|it| it.min(wait::MAX_WAIT));
        for name in ["innererror", "inner_error"] {
            self.reasons.extend(text(&error[name]["code"]));
        }
        if let Some(raw) = text(&metadata["raw"]) {
            let provider =
                text(&metadata["provider_name"]).unwrap_or_else(|| "the provider".to_owned());
            self.message = bounded(&format!("{}; {provider} says: {raw}", self.message));
        }
    }

    /// Returns every name of the error in lower case: code, type and reasons.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let names = [self.code.as_deref(), self.error_type.as_deref()];
        let names = names.into_iter().flatten();
        let reasons = self.reasons.iter().map(String::as_str);
        // Amazon writes `namespace#Name:url`.
        let bare = |name: &str| {
            let name = name.rsplit('#').next().unwrap_or_default();
            name.split(':')
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase()
        };
        names.chain(reasons).map(bare)
    }

    /// Returns the code, else the type.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.code.as_deref().or(self.error_type.as_deref())
    }
}

/// Returns a value as bounded text; `None` for null and for an empty text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(bounded(text)),
        Value::Array(items) if items.len() == 1 && items[0].is_object() => {
            let item = &items[0];
            text(&item["message"])
                .or_else(|| text(&item["msg"]))
                .or_else(|| Some(bounded(&item.to_string())))
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Some(bounded(&value.to_string()))
        }
    }
}

fn bounded(text: &str) -> String {
    cut(text, MAX_CHARACTERS).to_owned()
}

/// Reads an HTTP error status, as a number or as its digits.
fn status(value: &Value) -> Option<u16> {
    let number = match value {
        Value::Number(number) => number.as_u64()?,
        Value::String(digits) => digits.parse().ok()?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    u16::try_from(number)
        .ok()
        .filter(|status| (400..=599).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> ErrorBody {
        ErrorBody::read(&HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn an_error_is_read_in_every_common_form() {
        let fields = |body: &str| {
            let error = read(body);
            (error.message, error.code, error.error_type)
        };
        for (body, message, code, error_type) in [
            (
                r#"{"error": {"message": "m", "code": "c", "type": "t"}}"#,
                "m",
                Some("c"),
                Some("t"),
            ),
            (
                r#"{"error": {"message": "m", "code": 429}}"#,
                "m",
                Some("429"),
                None,
            ),
            (
                r#"{"type": "error", "error": {"type": "t", "message": "m"}}"#,
                "m",
                None,
                Some("t"),
            ),
            (
                r#"[{"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}]"#,
                "m",
                Some("429"),
                Some("RESOURCE_EXHAUSTED"),
            ),
            (r#"{"error": "m"}"#, "m", None, None),
            (r#"{"error": "m", "code": "c"}"#, "m", Some("c"), None),
            (r#"{"message": "m"}"#, "m", None, None),
            (r#"{"detail": "m"}"#, "m", None, None),
            (r#"{"detail": ["m"]}"#, r#"["m"]"#, None, None),
            (
                r#"{"detail": [{"loc": ["body"], "msg": "m"}]}"#,
                "m",
                None,
                None,
            ),
            (r#"{"errors": [{"message": "m"}]}"#, "m", None, None),
            (
                r#"{"__type": "com.amazon#ThrottlingException", "Message": "m"}"#,
                "m",
                Some("com.amazon#ThrottlingException"),
                None,
            ),
            (
                r#"{"type": "response.failed", "response": {"error": {"code": "c", "message": "m"}}}"#,
                "m",
                Some("c"),
                None,
            ),
            (r#"{"other": 1}"#, r#"{"other":1}"#, None, None),
            ("plain", "plain", None, None),
            ("", "", None, None),
        ] {
            let expected = (
                message.to_owned(),
                code.map(str::to_owned),
                error_type.map(str::to_owned),
            );
            assert_eq!(fields(body), expected, "{body}");
        }
    }

    #[test]
    fn a_status_and_a_wait_are_read_from_the_body() {
        for (body, status, seconds) in [
            (r#"{"error": {"code": 502}}"#, Some(502), None),
            (r#"{"error": {"code": "429"}}"#, Some(429), None),
            (r#"{"error": {"code": 200}}"#, None, None),
            (r#"{"error": {"code": 70000}}"#, None, None),
            (r#"{"statusCode": 429, "message": "m"}"#, Some(429), None),
            (
                r#"{"error": {"details": [{"reason": "x"}, {"@type": "RetryInfo", "retryDelay": "34.5s"}]}}"#,
                None,
                Some(34.5),
            ),
            (r#"{"error": {"retry_after": 2.5}}"#, None, Some(2.5)),
            (r#"{"error": {"retry_after": -2}}"#, None, None),
            (r#"{"error": {"retry_after": 1e300}}"#, None, None),
            (r#"{"error": {"retry_after": 1e9}}"#, None, Some(86_400.0)),
        ] {
            let error = read(body);
            assert_eq!(error.status, status, "{body}");
            assert_eq!(
                error.retry_delay.map(|it| it.as_secs_f64()),
                seconds,
                "{body}"
            );
        }
    }

    #[test]
    fn the_names_of_an_error_are_bare_and_in_lower_case() {
        let body = r#"{"error": {"code": "a.b#ThrottlingException:http://x", "type": "T", "details": [{"reason": "API_KEY_INVALID"}]}}"#;
        let names: Vec<_> = read(body).names().collect();
        assert_eq!(names, ["throttlingexception", "t", "api_key_invalid"]);
    }

    #[test]
    fn what_a_provider_behind_the_service_said_is_in_the_message() {
        let body = r#"{"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "slow down", "provider_name": "P"}}}"#;
        assert_eq!(
            read(body).message,
            "Provider returned error; P says: slow down"
        );
    }

    #[test]
    fn a_page_is_told_from_text() {
        let page =
            read("<html><head><title>502 Bad Gateway</title></head><center>nginx</center></html>");
        assert_eq!(
            (page.proxy, &*page.message),
            (Some(Proxy::Nginx), "502 Bad Gateway")
        );
        assert_eq!(read("oops").proxy, None);
    }
}
