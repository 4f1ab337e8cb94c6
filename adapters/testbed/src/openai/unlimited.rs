//! Requests that need a key but count against no limit: resources, and counts of tokens.
//!
//! They get no faults. They are recorded as calls are, but the report does not count them.

use super::anthropic;
use super::call::{CallStatus, LogIndex};
use super::error::{ApiError, ErrorForm};
use super::request::ApiRequest;
use super::resource::Kind;
use super::route::{Want, credential};
use super::state::Upstream;
use crate::judge::KeyId;
use crate::reply::Reply;
use crate::server::{drain, read_body};
use core::time::Duration;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use serde_json::json;

/// A request for something of a key.
pub(super) struct Visit<'a> {
    pub(super) upstream: &'a Upstream,
    pub(super) want: Want<'a>,
    pub(super) head: &'a Parts,
    pub(super) arrived: u64,
    pub(super) form: ErrorForm<'a>,
}

/// A request's place in the log; it ends there when this is dropped.
struct Record<'a> {
    upstream: &'a Upstream,
    index: LogIndex,
    status: CallStatus,
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let now = self.upstream.now();
        self.upstream
            .change(|state| state.log.close(self.index, self.status, now));
    }
}

impl Visit<'_> {
    pub(super) async fn answer(&self, body: Incoming) -> Reply {
        let token = credential(&self.head.headers);
        let (key, mut record) = self.arrive(token);
        let Some(key) = key else {
            record.status = CallStatus::UnknownKey;
            drain(body).await;
            return ApiError::unauthorized(self.form.vendor(), token).reply(self.form);
        };
        let answer = match read_body(body).await {
            Ok(body) => {
                self.upstream
                    .change(|state| state.log.note_body(record.index, &body));
                self.visit(key, &body)
            }
            Err(error) => Err(error.into()),
        };
        record.status = match &answer {
            Ok(_) => CallStatus::Ok,
            Err(_) => CallStatus::Invalid,
        };
        answer.unwrap_or_else(|error| error.reply(self.form))
    }

    fn arrive(&self, token: Option<&str>) -> (Option<KeyId>, Record<'_>) {
        let path = self.head.uri.path_and_query();
        let path = path.map_or("", |path| path.as_str());
        let headers = &self.head.headers;
        let arrived = Duration::from_nanos(self.arrived);
        let (key, index) = self.upstream.change(|state| {
            let key = token.and_then(|token| state.judge.identify(token));
            (key, state.log.open(path, token, headers, arrived))
        });
        let record = Record {
            upstream: self.upstream,
            index,
            status: CallStatus::Abandoned,
        };
        (key, record)
    }

    fn visit(&self, key: KeyId, body: &Bytes) -> Result<Reply, ApiError> {
        let stored = |body: Bytes| Reply::new(200, "application/json", body);
        let id = self.form.id;
        self.upstream.change(|state| {
            let resources = &mut state.resources;
            match self.want {
                Want::CreateFile => {
                    let content_type = self.head.headers.get(CONTENT_TYPE);
                    let content_type = content_type.and_then(|value| value.to_str().ok());
                    let content_type = content_type.unwrap_or("");
                    resources
                        .create_file(key, id, content_type, body)
                        .map(stored)
                }
                Want::CreateBatch => resources.create_batch(key, id, body).map(stored),
                Want::CreateConversation => {
                    resources.create_conversation(key, id, body).map(stored)
                }
                Want::Read(kind, id) => {
                    let found = resources.find(kind, key, id)?;
                    Ok(stored(found.body.clone()))
                }
                Want::Delete(kind, id) => {
                    let deleted = resources.delete(kind, key, id)?;
                    Ok(Reply::json(200, &deleted))
                }
                Want::Content(id) => {
                    let found = resources.find(Kind::File, key, id)?;
                    let content = found.content.clone();
                    Ok(Reply::new(200, "application/octet-stream", content))
                }
                Want::CountTokens => {
                    anthropic::check_version(&self.head.headers)?;
                    let request = ApiRequest::parse_count(body)?;
                    let count = json!({ "input_tokens": request.prompt_tokens });
                    Ok(Reply::json(200, &count))
                }
            }
        })
    }
}
