//! Calls to a ComfyUI server that are read whole.
//!
//! Invariant: a call that was surely not sent is told apart from one that may have reached the server.

use crate::backend::Backend;
use crate::proxy::{BackendBody, CallerBody};
use crate::trace::AttemptSpan;
use crate::upstream::{SendError, send};
use crate::worker::Worker;
use bytes::Bytes;
use core::time::Duration;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use leasehold_config::UpstreamBounds;
use serde_json::Value;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::timeout;

/// Bytes of an answer at most: descriptions of nodes and queues with their graphs have megabytes.
const MAX_ANSWER: usize = 256 << 20;
/// How long a whole answer may take after its head.
const BODY: Duration = Duration::from_secs(60);

/// The path by which jobs are submitted.
pub(super) const SUBMIT: &str = "/prompt";

/// A call to a server.
pub(super) struct Call<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) backend: &'a Arc<Backend>,
    pub(super) bounds: UpstreamBounds,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// Nothing was sent.
    #[error("{0}")]
    Unsent(String),
    /// The server may have the request.
    #[error("{0}")]
    Unsure(String),
}

impl Answer {
    /// Returns the body as JSON, null if it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(super) fn is_ok(&self) -> bool {
        self.status.is_success()
    }
}

impl Call<'_> {
    pub(super) async fn get(&self, path: &str) -> Result<Answer, CallError> {
        self.send(Method::GET, path, None).await
    }

    pub(super) async fn post_json(&self, path: &str, body: &Value) -> Result<Answer, CallError> {
        self.send(Method::POST, path, Some(json(body))).await
    }

    /// Submits a job, under the span of its attempt if there is one.
    pub(super) async fn submit(
        &self,
        body: &Value,
        span: Option<&AttemptSpan>,
    ) -> Result<Answer, CallError> {
        let mut request = self.request(Method::POST, SUBMIT, Some(json(body)))?;
        if let Some(span) = span {
            span.propagate(request.headers_mut());
        }
        self.read(request).await
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(Bytes, &str)>,
    ) -> Result<Answer, CallError> {
        let request = self.request(method, path, body)?;
        self.read(request).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<(Bytes, &str)>,
    ) -> Result<Request<CallerBody>, CallError> {
        let mut request = Request::new(match &body {
            Some((bytes, _)) => CallerBody::whole(bytes.clone()),
            None => CallerBody::none(),
        });
        *request.method_mut() = method;
        *request.uri_mut() = uri(self.backend, path)?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.backend.authority().clone());
        headers.insert(USER_AGENT, HeaderValue::from_static("leasehold"));
        if let Some((_, kind)) = body
            && let Ok(kind) = HeaderValue::from_str(kind)
        {
            headers.insert(CONTENT_TYPE, kind);
        }
        Ok(request)
    }

    async fn read(&self, request: Request<CallerBody>) -> Result<Answer, CallError> {
        let sent = send(
            Some(self.worker.idle()),
            self.backend,
            &self.bounds,
            request,
        )
        .await;
        let sent = sent.map_err(|error| {
            let text = error.to_string();
            match error {
                SendError::Connect { .. } => CallError::Unsent(text),
                SendError::Broken { .. } | SendError::TimedOut(_) => CallError::Unsure(text),
            }
        })?;
        let (parts, body) = sent.response.into_parts();
        let worker = Rc::clone(self.worker);
        let body = BackendBody::new(body, sent.connection, self.backend, self.bounds, worker);
        let body = timeout(BODY, Limited::new(body, MAX_ANSWER).collect()).await;
        let unsure = |text: &dyn core::fmt::Display| CallError::Unsure(text.to_string());
        let body = body.map_err(|_| unsure(&format_args!("the answer took more than {BODY:?}")))?;
        let body = body.map_err(|error| unsure(&error))?;
        Ok(Answer {
            status: parts.status,
            body: body.to_bytes(),
        })
    }
}

fn json(body: &Value) -> (Bytes, &'static str) {
    (body.to_string().into(), "application/json")
}

/// Returns a path of a server, below the path of its URL.
pub(super) fn uri(backend: &Backend, path: &str) -> Result<Uri, CallError> {
    let base = backend.url().path().trim_end_matches('/');
    let uri = format!("{base}{path}").parse::<Uri>();
    uri.map_err(|error| CallError::Unsent(format!("{path:?} is no path: {error}")))
}
