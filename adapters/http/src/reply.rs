//! What a call brings.

use core::time::Duration;
use http::{HeaderMap, StatusCode};
use leasehold_protocol::verdict::{Kind, Verdict, body_as_json};
use leasehold_protocol::{ApiKey, Chunk, Completion};
use serde::Serialize;
use serde_json::Value;

/// An answer of a service, of any status.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, decompressed; empty for a stream, which is in `completion`.
    pub body: Vec<u8>,
    /// What the answer means.
    pub verdict: Verdict,
    /// The answer in one form; `None` for an error with a status of its own.
    pub completion: Option<Completion>,
    /// The client's id of the call.
    pub trace_id: String,
    /// Duration of the attempt.
    pub latency: Duration,
}

impl Reply {
    /// Whether the service answered the call.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        self.verdict.kind == Kind::Answer
    }

    /// Returns the body as JSON, of a stream as joined; what is not JSON becomes a string. The key is masked in errors.
    #[must_use]
    pub fn json(&self, key: &ApiKey) -> Value {
        match &self.completion {
            Some(completion) => completion.raw.clone(),
            None => body_as_json(&self.body, Some(key)),
        }
    }
}

/// An event of a call in progress.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallEvent<'a> {
    /// The head of the answer is there, so the service has seen the call.
    Arrived {
        /// The status.
        status: StatusCode,
        /// The headers.
        headers: &'a HeaderMap,
    },
    /// A part of a streamed answer.
    Chunk(Chunk),
}

/// A chat completion, with what the client knows of its call.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ChatCompletion {
    /// The answer.
    #[serde(flatten)]
    pub completion: Completion,
    /// The client's id of the call, sent in the trace header.
    pub trace_id: String,
    /// Duration of the successful attempt. Not serialized.
    #[serde(skip)]
    pub latency: Duration,
}

impl ChatCompletion {
    /// The text of the first choice.
    #[must_use]
    pub fn content(&self) -> &str {
        &self.completion.choice.content
    }

    /// Total tokens, if the service reports them.
    #[must_use]
    pub fn total_tokens(&self) -> Option<u64> {
        self.completion.usage?.total_tokens
    }
}
