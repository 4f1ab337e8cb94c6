//! What a caller of a gateway asks a service for.
//!
//! Invariant: the request that goes to the service differs from the caller's in nothing but that its usage is reported.

mod read;

use crate::call::Call;
use crate::resource;
use core::time::Duration;
use http::HeaderMap;
use leasehold_core::balance::stable_hash;
use read::Body;
use serde_json::{Value, json};

/// Subtracted from the wait that a caller tells, so that a refusal comes before it has given up.
const MARGIN: Duration = Duration::from_secs(1);
/// Headers by which SDKs tell how many seconds they wait for an answer, or for the next piece of it.
const TIMEOUTS: [&str; 3] = [
    "x-leasehold-deadline",
    "x-stainless-read-timeout",
    "x-stainless-timeout",
];

/// A request as far as a gateway has to understand it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Asked {
    /// The kind of the call.
    pub call: Call,
    /// The model's name; empty if the request has none.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub is_stream: bool,
    /// Whether the caller asked for the usage of a stream, or gets it unasked.
    pub shows_usage: bool,
    /// Ids of what the request needs, such as files, which only the key that made them has; at most 16.
    pub needs: Vec<String>,
    /// Whether the service keeps what it makes for the request, under [ids](crate::made_ids) that later ones may need.
    pub is_kept: bool,
}

impl Asked {
    /// Reads a request by its path and its body, in one way over it; no body asks for nothing.
    ///
    /// # Errors
    /// The body is no JSON.
    ///
    /// ```
    /// use leasehold_protocol::Asked;
    /// use serde_json::json;
    ///
    /// let body = json!({"model": "gpt-4o", "stream": true, "messages": []});
    /// let asked = Asked::read("/v1/chat/completions", body.to_string().as_bytes())?;
    /// assert!(asked.is_stream && !asked.shows_usage);
    /// assert_eq!(asked.for_service(body)["stream_options"]["include_usage"], true);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn read(path: &str, body: &[u8]) -> Result<Self, serde_json::Error> {
        let needs = resource::needed_by_path(path);
        Ok(Self::of(path, Body::read(needs, body)?))
    }

    /// Reads a request that has no body, or none that is JSON.
    #[must_use]
    pub fn bare(path: &str) -> Self {
        Self::of(path, Body::new(resource::needed_by_path(path)))
    }

    fn of(path: &str, body: Body) -> Self {
        let call = Call::of_path(path);
        let asks_usage = matches!(call, Call::Chat | Call::Completions);
        Self {
            call,
            model: body.model,
            is_stream: body.is_stream,
            shows_usage: !asks_usage || body.includes_usage,
            needs: body.needs,
            is_kept: resource::is_kept(path, body.store),
        }
    }

    /// Returns the body for the service: with the usage of a stream asked for.
    #[must_use]
    pub fn for_service(&self, mut body: Value) -> Value {
        if self.is_stream
            && !self.shows_usage
            && let Some(fields) = body.as_object_mut()
        {
            let options = fields.entry("stream_options").or_insert_with(|| json!({}));
            if options.is_null() {
                *options = json!({});
            }
            // What is no object is the service's to refuse.
            if let Some(options) = options.as_object_mut() {
                options.insert("include_usage".to_owned(), true.into());
            }
        }
        body
    }
}

/// Returns how long a caller waits for an answer, as its headers tell, less a margin; `None` if they don't.
///
/// ```
/// use core::time::Duration;
/// use leasehold_protocol::patience;
///
/// let headers = [("x-stainless-read-timeout", "600"), ("x-stainless-timeout", "20.5")];
/// let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
/// assert_eq!(patience(&headers.into_iter().collect()), Some(Duration::from_millis(19_500)));
/// ```
#[must_use]
pub fn patience(headers: &HeaderMap) -> Option<Duration> {
    let told = TIMEOUTS
        .iter()
        .filter_map(|name| headers.get(*name)?.to_str().ok()?.trim().parse().ok())
        .filter(|seconds: &f64| *seconds > 0.0)
        .filter_map(|seconds| Duration::try_from_secs_f64(seconds).ok());
    // A caller in a hurry is served if that takes no wait.
    told.min()
        .map(|told| told.saturating_sub(MARGIN.min(told / 10)))
}

/// Returns what requests with a common beginning share, so that one key's prompt cache serves them: the caller's key for
/// it, else the system's words at the beginning.
///
/// ```
/// use leasehold_protocol::affinity;
/// use serde_json::json;
///
/// let asked = |text: &str| affinity(&json!({"system": "Be brief.", "messages": [{"content": text}]}));
/// assert_eq!(asked("Why?"), asked("How?"));
/// ```
#[must_use]
pub fn affinity(body: &Value) -> Option<u64> {
    let leading = |messages: &Value| {
        let first = &messages[0];
        matches!(first["role"].as_str(), Some("system" | "developer"))
            .then(|| first["content"].clone())
    };
    let told = &body["prompt_cache_key"];
    let text = [told, &body["instructions"], &body["system"]]
        .into_iter()
        .find(|value| !value.is_null())
        .cloned()
        .or_else(|| leading(&body["messages"]))
        .or_else(|| leading(&body["input"]))?;
    Some(stable_hash(text.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::headers;
    use proptest::prelude::*;

    fn read(path: &str, body: &Value) -> Asked {
        Asked::read(path, body.to_string().as_bytes()).expect("JSON")
    }

    #[test]
    fn usage_is_asked_for_where_the_caller_does_not_see_it() {
        for (options, asked) in [
            (json!(null), json!({"include_usage": true})),
            (json!({}), json!({"include_usage": true})),
            (
                json!({"include_usage": false, "include_obfuscation": false}),
                json!({"include_usage": true, "include_obfuscation": false}),
            ),
            (
                json!({"include_usage": true}),
                json!({"include_usage": true}),
            ),
            (json!("no object"), json!("no object")),
        ] {
            let body = json!({"stream": true, "stream_options": options});
            let read = read("/v1/chat/completions", &body);
            assert_eq!(read.for_service(body)["stream_options"], asked);
        }
        for (path, stream) in [
            ("/v1/responses", true),
            ("/v1/messages", true),
            ("/v1/chat/completions", false),
        ] {
            let body = json!({"stream": stream});
            assert_eq!(read(path, &body).for_service(body.clone()), body);
        }
    }

    #[test]
    fn requests_with_one_beginning_belong_together() {
        let system = |text: &str, user: &str| {
            affinity(
                &json!({"messages": [{"role": "system", "content": text}, {"role": "user", "content": user}]}),
            )
        };
        assert_eq!(system("a", "1"), system("a", "2"));
        assert_ne!(system("a", "1"), system("b", "1"));
        assert_eq!(
            affinity(&json!({"messages": [{"role": "user", "content": "a"}]})),
            None
        );
        let told = affinity(
            &json!({"prompt_cache_key": "k", "messages": [{"role": "system", "content": "a"}]}),
        );
        assert_eq!(told, affinity(&json!({"prompt_cache_key": "k"})));
    }

    #[test]
    fn a_caller_is_refused_before_it_has_given_up() {
        for (told, wait) in [
            ("600", Some(599_000)),
            ("1", Some(900)),
            ("0.5", Some(450)),
            ("0", None),
            ("-1", None),
            ("nan", None),
            ("soon", None),
            ("1e99", None),
        ] {
            let wait = wait.map(Duration::from_millis);
            assert_eq!(
                patience(&headers(&[("x-stainless-timeout", told)])),
                wait,
                "{told}"
            );
        }
    }

    proptest! {
        /// What is no JSON is refused, and nothing else.
        #[test]
        fn a_body_is_read_where_it_is_json(text in "[\\[\\]{}\":,a-z0-9. \\-]{1,60}") {
            let value = serde_json::from_str::<Value>(&text);
            let asked = Asked::read("/v1/chat/completions", text.as_bytes());
            prop_assert_eq!(value.is_ok(), asked.is_ok(), "{:?} {:?}", value, asked);
        }
    }
}
