//! The span of an attempt at a key, in OpenTelemetry's words for models.
//!
//! Invariant: what is sent names this span as its parent.

use super::call::{Call, Leg};
use crate::backend::Backend;
use crate::proxy::CallerBody;
use crate::trace::{Attempt, AttemptSpan, ModelCall, Parent};
use http::Request;
use leasehold_protocol::{Auth, Call as CallKind};

/// Begins the span of an attempt with its number; `None` for a backend that is no service.
pub(super) fn begin(
    parent: &Parent,
    (call, leg): (&Call, &Leg),
    backend: &Backend,
    number: u32,
    request: &mut Request<CallerBody>,
) -> Option<AttemptSpan> {
    let operation = match call.asked.call {
        CallKind::Chat | CallKind::Responses | CallKind::Messages => Some("chat"),
        CallKind::Completions => Some("text_completion"),
        CallKind::Embeddings => Some("embeddings"),
        CallKind::Other => None,
    };
    let provider = match backend.service()?.endpoint.auth(request.uri().path()) {
        Auth::Bearer => "openai",
        Auth::ApiKey => "azure.ai.openai",
        Auth::XApiKey => "anthropic",
    };
    let attempt = Attempt {
        pool: &leg.target.pool.settings().name,
        backend,
        method: &call.method,
        path: request.uri().path(),
        model: operation.map(|operation| ModelCall {
            operation,
            provider,
            model: &leg.target.model,
        }),
    };
    let span = parent.attempt(&attempt, number);
    span.propagate(request.headers_mut());
    Some(span)
}
