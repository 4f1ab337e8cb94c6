//! Requests that are passed on to one server as they are: its page, its settings, its lists of models.
//!
//! Invariant: a caller's Host, Origin and credentials stay with the gateway, so that no server's own guard refuses a
//! request that the gateway's has let through.

use super::answers::{bad, no_server};
use super::server::uri;
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::proxy::{AnswerBody, BackendBody, CallerBody, X_REQUEST_ID, copied, remove_hop_by_hop};
use crate::record::Record;
use crate::trace::Attempt;
use crate::upstream::send;
use crate::worker::Worker;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use leasehold_protocol::Refusal;
use std::rc::Rc;
use std::sync::Arc;

/// Passes a request on to one of some servers, the first that can be reached.
pub(super) async fn pass(
    worker: &Rc<Worker>,
    pool: &BackendPool,
    backends: &[Arc<Backend>],
    parts: &Parts,
    path: &str,
    mut body: CallerBody,
    record: &mut Record,
) -> Result<Response<AnswerBody>, Refusal> {
    let bounds = pool.settings().upstream;
    for backend in backends {
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri(backend, path).map_err(|error| bad(error.to_string()))?;
        let mut headers = passed(&parts.headers, backend, record);
        record.backend = Some(Arc::clone(backend));
        record.attempts = record.attempts.saturating_add(1);
        let attempt = Attempt {
            pool: &pool.settings().name,
            backend,
            method: &parts.method,
            path: request.uri().path(),
            model: None,
        };
        record.begin_attempt(&attempt, &mut headers);
        *request.headers_mut() = headers;
        match send(Some(worker.idle()), backend, &bounds, request).await {
            Ok(sent) => {
                record.first_byte = Some(record.elapsed());
                record.attempt_answered(sent.response.status());
                let (mut parts, body) = sent.response.into_parts();
                remove_hop_by_hop(&mut parts.headers);
                parts
                    .headers
                    .insert(X_REQUEST_ID, record.request_id.clone());
                parts.version = http::Version::HTTP_11;
                let worker = Rc::clone(worker);
                let body = BackendBody::new(body, sent.connection, backend, bounds, worker);
                return Ok(Response::from_parts(parts, AnswerBody::passed_on(body)));
            }
            Err(crate::upstream::SendError::Connect { request, error }) => {
                backend.note_failure(&error);
                record.attempt_failed("no_connection", &error);
                body = request.into_body();
            }
            Err(error) => {
                backend.note_failure(&error);
                record.attempt_failed("server_broke", &error);
                let text = format!("server {}: {error}", backend.name());
                return Err(Refusal::new(StatusCode::BAD_GATEWAY, "server_broke", text));
            }
        }
    }
    Err(no_server())
}

fn passed(headers: &HeaderMap, backend: &Backend, record: &Record) -> HeaderMap {
    let mut passed = copied(headers, |name| {
        name.starts_with("sec-fetch-")
            || name.starts_with("x-leasehold-")
            || matches!(
                name,
                "host" | "origin" | "referer" | "authorization" | "x-api-key" | "cookie" | "expect"
            )
    });
    passed.insert(HOST, backend.authority().clone());
    passed.insert(X_REQUEST_ID, record.request_id.clone());
    passed
}
