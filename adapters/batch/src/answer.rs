//! Answers and failures in the form of the output.
//!
//! Invariant: what was paid for is kept: whatever an answer's own fields do not hold is under `raw`.

use crate::input::Item;
use crate::item_results::REQUEST_HASH;
use leasehold_http::{CallError, Reply};
use leasehold_protocol::verdict::{Kind, Verdict};
use leasehold_protocol::{ApiKey, Completion, Endpoint};
use serde_json::{Map, Value, json};

/// What came of one attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) verdict: Verdict,
    completion: Option<Completion>,
    /// The body of an answer that is none.
    body: Value,
    trace_id: String,
    /// Bytes of the answer's body, if it came whole.
    pub(crate) received: usize,
    /// What happened, for people: with the URL and the masked key.
    pub(crate) text: String,
}

impl Attempt {
    pub(crate) fn new(sent: Result<Reply, CallError>, endpoint: &Endpoint) -> Self {
        match sent {
            Ok(reply) => Self::of_reply(reply, endpoint),
            Err(error) => Self {
                verdict: error.verdict().clone(),
                completion: error.completion().cloned(),
                body: Value::Null,
                trace_id: error.trace_id().to_owned(),
                received: 0,
                text: error.to_string(),
            },
        }
    }

    fn of_reply(reply: Reply, endpoint: &Endpoint) -> Self {
        let key: &ApiKey = endpoint.key();
        let received = reply.body.len();
        let body = match reply.completion {
            Some(_) => Value::Null,
            None => reply.json(key),
        };
        let (url, trace) = (endpoint.url(), &reply.trace_id);
        let text = format!("{url} (key {key}, trace {trace}): {}", reply.verdict);
        Self {
            verdict: reply.verdict,
            completion: reply.completion,
            body,
            trace_id: reply.trace_id,
            received,
            text,
        }
    }

    /// Whether the task has its answer, or one that can't be read and was paid for.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self.verdict.kind, Kind::Answer | Kind::UntypedAnswer)
    }

    /// Returns the answer for the output.
    pub(crate) fn into_answer(self, item: &Item, hash: &str, keep_full: bool) -> Value {
        let completion = self.completion.unwrap_or_default();
        if item.is_call() {
            let status = self.verdict.status.map_or(200, |status| status.as_u16());
            let id = text_or(&completion.request_id, &self.trace_id);
            let mut line = line_of_call(item, &self.trace_id);
            let response = json!({"status_code": status, "request_id": id, "body": completion.raw});
            line.insert("response".to_owned(), response);
            line.insert("error".to_owned(), Value::Null);
            line.insert(REQUEST_HASH.to_owned(), hash.into());
            return line.into();
        }
        let choice = &completion.choice;
        let is_typed = self.verdict.kind == Kind::Answer
            && (!choice.content.is_empty()
                || !choice.tool_calls.is_empty()
                || choice.refusal.is_some()
                || choice.reasoning.is_some());
        let raw = (keep_full || !is_typed).then(|| completion.raw.clone());
        let mut answer = match serde_json::to_value(&completion) {
            Ok(Value::Object(answer)) => answer,
            Ok(_) | Err(_) => Map::new(),
        };
        answer.insert("trace_id".to_owned(), self.trace_id.into());
        answer.insert(REQUEST_HASH.to_owned(), hash.into());
        if let Some(raw) = raw {
            answer.insert("raw".to_owned(), raw);
        }
        answer.into()
    }

    /// Returns what is left of an attempt that failed for good, beside its error.
    pub(crate) fn into_remains(self) -> Option<Value> {
        let partial = self.completion.map(|completion| completion.raw);
        let remains = partial.unwrap_or(self.body);
        (!remains.is_null()).then_some(remains)
    }
}

/// Returns a failure for the output. `remains` is the last answer of the service, if there was one.
pub(crate) fn failure(
    item: &Item,
    reason: &str,
    status: Option<u16>,
    remains: Option<Value>,
) -> Value {
    if !item.is_call() {
        return reason.into();
    }
    let mut line = line_of_call(item, "");
    let response = match (status, remains) {
        (Some(status), Some(body)) => {
            json!({"status_code": status, "request_id": "", "body": body})
        }
        (Some(_) | None, Some(_) | None) => Value::Null,
    };
    line.insert("response".to_owned(), response);
    let code = status.map_or_else(|| "not_answered".to_owned(), |status| status.to_string());
    line.insert("error".to_owned(), json!({"code": code, "message": reason}));
    line.into()
}

/// Begins a line of the output of OpenAI's Batch API.
fn line_of_call(item: &Item, trace_id: &str) -> Map<String, Value> {
    let custom_id = serde_json::from_str(&item.id).unwrap_or(Value::Null);
    let mut line = Map::new();
    line.insert("id".to_owned(), format!("batch_req_{trace_id}").into());
    line.insert("custom_id".to_owned(), custom_id);
    line
}

fn text_or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}
