//! What an answer means: for the pool, for the task, for the key.
//!
//! Invariant: a status code has a meaning in the table and nowhere else. No text of a verdict holds the
//! key, and no wait is longer than a day.

mod brief;
mod kind;
mod sign;
mod table;

pub use kind::{Fate, Kind, Next, Outcome, Pause, Scope, Tally};
pub use table::table_markdown;

use crate::call::Call;
use crate::completion::{Completion, Reading, Shape, request_id};
use crate::error_body::ErrorBody;
use crate::json::{self, Json};
use crate::note::Notes;
use crate::page::Page;
use crate::rate_headers::{Counted, LearnedLimit, learned};
use crate::retry_after::{retry_after, should_retry};
use crate::secret::{ApiKey, sanitize};
use crate::sse::is_event_stream;
use crate::stream::{self, JoinedStream};
use crate::usage::Usage;
use crate::wait::AnswerTime;
use core::fmt;
use core::time::Duration;
use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use leasehold_core::limit::Cost;
use serde_json::Value;
use sign::{Sign, status_of, too_large};
use table::Row;

/// An answer as it came over the wire, its body decompressed.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The body; `None` if it was not read, as for a success that is passed on as it comes.
    pub body: Option<&'a [u8]>,
}

/// The call that an answer belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The kind of the call.
    pub call: Call,
    /// The key of the call, which is masked in every text.
    pub key: Option<&'a ApiKey>,
}

/// A call that brought no whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The request contradicts itself or can't be written; nothing was sent.
    NotSent,
    /// The host's name is unknown.
    HostNotFound,
    /// The connection is not secure: no TLS, or a certificate that is not trusted.
    TlsFailed,
    /// No connection was made in time.
    NotConnected,
    /// The answer did not begin in time.
    TimedOut,
    /// The connection ended before the answer began.
    ConnectionLost,
    /// The connection ended, or the time, within the answer.
    AnswerCut,
    /// The answer is not HTTP.
    NotHttp,
    /// The answer is longer than the caller accepts.
    AnswerTooLong,
    /// The caller gave up after the request was sent.
    Abandoned,
}

/// What an answer, or its absence, means.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// What happened, as a type.
    pub kind: Kind,
    /// The outcome to release the lease with.
    pub outcome: Outcome,
    /// What the task should do.
    pub next: Next,
    /// What becomes of the key.
    pub fate: Fate,
    /// The wait that the service asks for, at most a day; never zero.
    pub asked_wait: Option<Duration>,
    /// Limits that the answer tells.
    pub limits: Vec<LearnedLimit>,
    /// Tokens used; `None` if unknown, which is not zero.
    pub usage: Option<Usage>,
    /// The HTTP status; `None` if no answer came.
    pub status: Option<StatusCode>,
    /// The service's id of the call.
    pub request_id: Option<String>,
    /// The error as the service words it, its texts without the key.
    pub error: Option<ErrorBody>,
    /// What happened, for people: one line, without the key; empty for an answer.
    pub message: String,
}

/// Judges an answer.
///
/// `now` is the time since 1970.
///
/// ```
/// use core::time::Duration;
/// use http::{HeaderMap, StatusCode};
/// use leasehold_protocol::verdict::{Answer, Context, Fate, Kind, Pause, verdict};
/// use leasehold_protocol::Call;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("retry-after-ms", "1500".parse()?);
/// let body = br#"{"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}"#;
/// let answer = Answer { status: StatusCode::TOO_MANY_REQUESTS, headers: &headers, body: Some(body) };
/// let context = Context { call: Call::Chat, key: None };
///
/// let verdict = verdict(&answer, Duration::from_secs(1_800_000_000), &context);
/// assert_eq!(verdict.kind, Kind::RateLimited);
/// assert_eq!(verdict.fate, Fate::Rest(Pause::Told(Duration::from_millis(1_500))));
/// assert_eq!(verdict.message, "status 429 (rate_limit_exceeded): Rate limit reached");
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[must_use]
pub fn verdict(answer: &Answer<'_>, now: Duration, context: &Context<'_>) -> Verdict {
    read(answer, now, context).0
}

/// Judges a whole answer that is not needed itself; as [`verdict`], but without building a plain answer's JSON. The
/// limits of one are left to [`told_limits`], which can be asked once its head has come.
///
/// ```
/// # use core::time::Duration;
/// # use http::{HeaderMap, StatusCode};
/// # use leasehold_protocol::Call;
/// # use leasehold_protocol::verdict::{Answer, Context, judge, verdict};
/// let body = br#"{"choices": [{"message": {"content": "hello"}}], "usage": {"total_tokens": 7}}"#;
/// let answer = Answer { status: StatusCode::OK, headers: &HeaderMap::new(), body: Some(body) };
/// let context = Context { call: Call::Chat, key: None };
/// let now = Duration::from_secs(1_800_000_000);
/// assert_eq!(judge(&answer, now, &context), verdict(&answer, now, &context));
/// ```
#[must_use]
pub fn judge(answer: &Answer<'_>, now: Duration, context: &Context<'_>) -> Verdict {
    let body = answer.body.filter(|_| table::is_success(answer.status));
    let reading = body.and_then(|body| brief::read(context.call, body));
    match reading {
        Some(reading) => {
            let head = Head {
                tells_limits: false,
                ..Head::new(answer.status, answer.headers)
            };
            judge_reading(head, reading, now, context).0
        }
        None => verdict(answer, now, context),
    }
}

/// Returns the limits that the headers of an answer tell, which was at `now` since 1970.
#[must_use]
pub fn told_limits(headers: &HeaderMap, now: Duration) -> Vec<LearnedLimit> {
    learned(headers, AnswerTime::of(headers, now))
}

/// Judges an answer, and returns it in one form if it is one or may have been paid for.
#[must_use]
pub fn read(
    answer: &Answer<'_>,
    now: Duration,
    context: &Context<'_>,
) -> (Verdict, Option<Completion>) {
    if table::is_success(answer.status) {
        let reading = match answer.body {
            Some(body) => read_body(context.call, answer.headers, body),
            None => Reading {
                shape: Shape::Answer,
                completion: Completion::default(),
            },
        };
        let (verdict, completion) = judge_reading(
            Head::new(answer.status, answer.headers),
            reading,
            now,
            context,
        );
        return (verdict, Some(completion));
    }
    let body = answer.body.unwrap_or_default();
    let error = ErrorBody::read(answer.headers, body);
    let sign = Sign::of_error(&error);
    let judged = Judged {
        head: Head::new(answer.status, answer.headers),
        effective: answer.status.as_u16(),
        sign,
        error: Some(error),
        usage: None,
    };
    (judged.verdict(now, context), None)
}

/// Judges a streamed answer that has ended, and returns it joined.
///
/// `status` and `headers` are those with which it began.
#[must_use]
pub fn read_stream(
    status: StatusCode,
    headers: &HeaderMap,
    joined: JoinedStream,
    now: Duration,
    context: &Context<'_>,
) -> (Verdict, Completion) {
    judge_reading(Head::new(status, headers), joined.0, now, context)
}

/// Judges a call that brought no whole answer; `reason` is the message of the transport.
#[must_use]
pub fn verdict_of_failure(failure: Failure, reason: &str, context: &Context<'_>) -> Verdict {
    let row = Row::of_failure(failure);
    Verdict {
        kind: row.kind,
        outcome: row.outcome,
        next: row.step.next(Duration::ZERO),
        fate: row.fate,
        asked_wait: None,
        limits: Vec::new(),
        usage: None,
        status: None,
        request_id: None,
        error: None,
        message: sanitize(&format!("{}: {reason}", row.kind), context.key),
    }
}

impl Verdict {
    /// Returns the next step, given whether an earlier call with the same URL and model succeeded.
    ///
    /// Then the URL and the model are right, and what would stop the run is an outage: the task is tried again.
    #[must_use]
    pub const fn next_after_success(&self, has_succeeded: bool) -> Next {
        let wait = Duration::ZERO;
        match (self.next, self.fate) {
            (Next::Stop, Fate::Rest(_)) if has_succeeded => {
                let tally = Tally::Free;
                Next::RetryAfter { wait, tally }
            }
            (Next::Stop, Fate::Keep | Fate::Reject | Fate::TooSmall) if has_succeeded => {
                let tally = Tally::Attempt;
                Next::RetryAfter { wait, tally }
            }
            (next, _) => next,
        }
    }

    /// Returns the cost to settle a lease at, of which `reserved` was the estimate.
    ///
    /// Unknown is not zero: without a reported usage the reservation stays. Nothing is charged for a call that never
    /// reached the service.
    #[must_use]
    pub fn cost(&self, reserved: Cost) -> Cost {
        if !self.kind.was_sent() {
            return Cost::default();
        }
        let total = self.usage.and_then(|usage| usage.total_tokens);
        let tokens = total.map(|total| u32::try_from(total).unwrap_or(u32::MAX));
        Cost {
            tokens: tokens.unwrap_or(reserved.tokens),
            ..reserved
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            return self.kind.fmt(f);
        }
        f.write_str(&self.message)
    }
}

/// Reads the body of a success.
fn read_body(call: Call, headers: &HeaderMap, body: &[u8]) -> Reading {
    let is_typed = call != Call::Other;
    let mut notes = Notes::default();
    // A few servers label JSON as a stream.
    let json = json::read(body, &mut notes);
    match json {
        Json::Value(body) => Reading::of_json(body, is_typed, notes),
        Json::Cut => Reading::of_text(Shape::Cut, json::text(body, &mut notes).into_owned(), notes),
        Json::Other => {
            let text = json::text(body, &mut notes);
            let is_events = ["data:", "event:", ":", "id:"]
                .iter()
                .any(|start| text.starts_with(start));
            if is_event_stream(headers) || (is_typed && is_events) {
                return stream::join(call, body);
            }
            // Many services are behind a proxy that names itself, so plain text may be their own.
            let page = Page::of(headers, &text).filter(|page| page.is_told_by_body);
            let shape = match page {
                Some(_) if is_typed => Shape::Error(Box::new(ErrorBody::read(headers, body))),
                _ if !is_typed => Shape::Answer,
                _ if text.is_empty() => Shape::Empty,
                _ => Shape::Untyped,
            };
            // The bytes of a file or of speech are no text.
            let text = if is_typed {
                text.into_owned()
            } else {
                String::new()
            };
            Reading::of_text(shape, text, notes)
        }
    }
}

/// The head of an answer.
#[derive(Clone, Copy)]
struct Head<'a> {
    /// The status on the wire.
    status: StatusCode,
    headers: &'a HeaderMap,
    /// Whether the verdict has the limits that the headers tell.
    tells_limits: bool,
}

impl<'a> Head<'a> {
    fn new(status: StatusCode, headers: &'a HeaderMap) -> Self {
        Self {
            status,
            headers,
            tells_limits: true,
        }
    }
}

fn judge_reading(
    head: Head<'_>,
    reading: Reading,
    now: Duration,
    context: &Context<'_>,
) -> (Verdict, Completion) {
    let Reading {
        shape,
        mut completion,
    } = reading;
    let status = head.status;
    let (effective, sign, error) = match shape {
        Shape::Answer => (status.as_u16(), Sign::Answer, None),
        Shape::Empty => (status.as_u16(), Sign::Empty, None),
        Shape::Cut => (status.as_u16(), Sign::Cut, None),
        Shape::Untyped => (status.as_u16(), Sign::Untyped, None),
        Shape::Error(error) if error.proxy.is_some() => (status.as_u16(), Sign::Page, Some(error)),
        Shape::Error(error) => (status_of(&error), Sign::of_error(&error), Some(error)),
    };
    let judged = Judged {
        head,
        effective,
        sign,
        error: error.map(|error| *error),
        usage: completion.usage,
    };
    let mut verdict = judged.verdict(now, context);
    if verdict.request_id.is_none() && !completion.request_id.is_empty() {
        verdict.request_id = Some(sanitize(&completion.request_id, context.key));
    }
    // The text of an answer is the model's and stays as it is; all else may echo the key.
    if verdict.kind != Kind::Answer
        && let Some(key) = context.key
    {
        completion.redact(key);
    }
    if let Some(id) = &verdict.request_id {
        completion.request_id.clone_from(id);
    }
    (verdict, completion)
}

/// An answer with all that its verdict depends on.
struct Judged<'a> {
    head: Head<'a>,
    /// The status that the table is asked about; an error within a success names its own.
    effective: u16,
    sign: Sign,
    error: Option<ErrorBody>,
    usage: Option<Usage>,
}

impl Judged<'_> {
    fn verdict(mut self, now: Duration, context: &Context<'_>) -> Verdict {
        let headers = self.head.headers;
        let mut limits = match self.head.tells_limits {
            true => told_limits(headers, now),
            false => Vec::new(),
        };
        let row = Row::of_status(self.effective, self.sign);
        let asked = self.error.as_ref().and_then(|error| {
            let time = AnswerTime::of(headers, now);
            retry_after(headers, time, error, &limits).filter(|wait| !wait.is_zero())
        });
        if row.kind == Kind::TooLarge
            && let Some((limit, _)) = self
                .error
                .as_ref()
                .and_then(|error| too_large(&error.message))
        {
            let mut told = LearnedLimit::new(Counted::Tokens);
            told.limit = Some(limit);
            limits.push(told);
        }
        let id = request_id(headers);
        let id = id.or_else(|| {
            self.error
                .as_mut()
                .and_then(|error| error.request_id.take())
        });
        let message = self.message(row, id.as_deref(), context.key);
        let (outcome, fate) = match row.fate {
            Fate::Rest(pause) => match asked {
                Some(wait) => (Outcome::Throttled, Fate::Rest(Pause::Told(wait))),
                None => (row.outcome, Fate::Rest(pause)),
            },
            Fate::Keep | Fate::Reject | Fate::TooSmall => (row.outcome, row.fate),
        };
        // While the key rests, the task may use another.
        let wait = match fate {
            Fate::Rest(_) => Duration::ZERO,
            Fate::Keep | Fate::Reject | Fate::TooSmall => asked.unwrap_or_default(),
        };
        Verdict {
            kind: row.kind,
            outcome,
            next: row
                .step
                .overruled(row.kind, should_retry(headers))
                .next(wait),
            fate,
            asked_wait: asked,
            limits,
            usage: self.usage,
            status: Some(self.head.status),
            request_id: id.map(|id| sanitize(&id, context.key)),
            error: self.error.map(|error| sanitized(error, context.key)),
            message,
        }
    }

    /// Words what happened: the status, the error's name and message, and what to do where it is known.
    fn message(&self, row: &Row, id: Option<&str>, key: Option<&ApiKey>) -> String {
        if row.kind == Kind::Answer {
            return String::new();
        }
        let mut text = format!("status {}", self.head.status.as_u16());
        let error = self.error.as_ref();
        if let Some(proxy) = error.and_then(|error| error.proxy) {
            text.push_str(&format!(" from {proxy}, not from the service"));
        }
        if let Some(name) = error.and_then(ErrorBody::name) {
            text.push_str(&format!(" ({name})"));
        }
        let message = error
            .map(|error| error.message.trim())
            .filter(|message| !message.is_empty());
        match (row.kind, message) {
            (Kind::Redirected, _) => text.push_str(&format!(": {}", self.redirect())),
            (_, Some(message)) => text.push_str(&format!(": {message}")),
            (kind, None) => text.push_str(&format!(": {kind}")),
        }
        if let Some(advice) = row.kind.advice() {
            // Not behind a text that is cut: the advice is the more useful part.
            text = sanitize(&text, key).chars().take(700).collect();
            text.push_str(&format!("; {advice}"));
        }
        if let Some(id) = id {
            text.push_str(&format!(" [request {id}]"));
        }
        sanitize(&text, key)
    }

    /// Names the target of a redirect, without a query, which may hold a secret.
    fn redirect(&self) -> String {
        let headers = self.head.headers;
        let location = headers.get(LOCATION).and_then(|it| it.to_str().ok());
        match location.and_then(|location| location.split(['?', '#']).next()) {
            Some(target) if !target.is_empty() => {
                format!("redirected to {target}, which was not followed")
            }
            _ => "redirected without a target".to_owned(),
        }
    }
}

/// Returns a body as JSON, its defects mended and the key masked; what is not JSON becomes a string.
#[must_use]
pub fn body_as_json(body: &[u8], key: Option<&ApiKey>) -> Value {
    let mut notes = Notes::default();
    let mut value = match json::read(body, &mut notes) {
        Json::Value(value) => value,
        Json::Cut | Json::Other => match json::text(body, &mut notes) {
            text if text.is_empty() => Value::Null,
            text => Value::String(text.into_owned()),
        },
    };
    if let Some(key) = key {
        key.redact_json(&mut value);
    }
    value
}

fn sanitized(error: ErrorBody, key: Option<&ApiKey>) -> ErrorBody {
    let clean = |text: String| sanitize(&text, key);
    ErrorBody {
        message: clean(error.message),
        code: error.code.map(clean),
        error_type: error.error_type.map(clean),
        param: error.param.map(clean),
        request_id: error.request_id.map(clean),
        reasons: error.reasons.into_iter().map(clean).collect(),
        ..error
    }
}

#[cfg(test)]
mod tests;
