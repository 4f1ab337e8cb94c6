//! Attempts through hyper, which takes every request: with a body of any form, or for another protocol.
//!
//! Invariant: a body that was not begun is there for the next attempt.

use super::caller_body::CallerBody;
use super::caller_io::CallerState;
use super::forward::{Fault, FaultKind, NoAnswer, Outgoing, ToBackend, Transport};
use super::headers::remove_hop_by_hop;
use crate::upstream::{BackendConnection, IdleConnections, SendError, Sent, send};
use core::mem;
use http::header::TRANSFER_ENCODING;
use http::uri::Uri;
use http::{Extensions, HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body::Body;
use std::sync::Arc;

/// The transport of all other requests.
#[derive(Debug)]
pub(super) struct HyperTransport<'a> {
    pub(super) idle: &'a IdleConnections<BackendConnection>,
    /// By which interim answers reach the caller.
    pub(super) interim: &'a Extensions,
    /// The body, unless an attempt has taken it.
    pub(super) body: Option<CallerBody>,
}

impl Transport for HyperTransport<'_> {
    type Sent = Sent;

    async fn send(
        &mut self,
        outgoing: &Outgoing<'_>,
        attempt: &ToBackend<'_>,
    ) -> Result<Sent, NoAnswer> {
        let body = self.body.take().unwrap_or_else(CallerBody::none);
        let progress = body.progress();
        let mut request = Request::new(body);
        if outgoing.parts.version == Version::HTTP_11 {
            *request.extensions_mut() = self.interim.clone();
        }
        *request.method_mut() = outgoing.parts.method.clone();
        *request.uri_mut() = Uri::from(outgoing.target.path.clone());
        let headers = request.headers_mut();
        outgoing.write_fields(attempt, |name, value| {
            headers.append(name.clone(), value.clone());
        });
        if !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
            // hyper leaves out a body of unknown length that its method rarely has.
            let chunked = HeaderValue::from_static("chunked");
            request.headers_mut().insert(TRANSFER_ENCODING, chunked);
        }
        let bounds = &outgoing.pool.settings().upstream;
        let idle = (!attempt.is_anew).then_some(self.idle);
        let error = match send(idle, attempt.backend, bounds, request).await {
            Ok(sent) if is_switched(&sent) && outgoing.target.upgrade.is_none() => {
                let why = "the backend switched to a protocol that was not asked for".to_owned();
                let kind = FaultKind::Broken { was_kept: false };
                return Err(NoAnswer::Fault(Fault { kind, why }));
            }
            Ok(sent) => return Ok(sent),
            Err(error) => error,
        };
        if let Some(cut) = progress.failed.get() {
            return Err(NoAnswer::Cut(cut));
        }
        let why = error.to_string();
        let kind = match error {
            SendError::Connect { request, .. } => {
                self.body = Some(request.into_body());
                let has_begun = progress.has_begun.get();
                FaultKind::NotSent { has_begun }
            }
            SendError::Broken { was_kept, .. } => FaultKind::Broken { was_kept },
            SendError::TimedOut(_) => FaultKind::TimedOut,
        };
        Err(NoAnswer::Fault(Fault { kind, why }))
    }
}

fn is_switched(sent: &Sent) -> bool {
    sent.response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// Makes the extensions of requests whose interim answers are passed on to this caller.
pub(crate) fn passing_interim(state: &Arc<CallerState>) -> Extensions {
    let mut request = Request::new(());
    let state = Arc::clone(state);
    hyper::ext::on_informational(&mut request, move |interim| {
        pass_interim(&state, interim.status(), interim.headers());
    });
    mem::take(request.extensions_mut())
}

/// Passes interim answers on; 100 was the gateway's to give, and 101 is a final one.
pub(super) fn pass_interim(state: &CallerState, status: StatusCode, headers: &HeaderMap) {
    if status.as_u16() > 101 {
        let mut headers = headers.clone();
        remove_hop_by_hop(&mut headers);
        state.pass_interim(status, &headers);
    }
}
