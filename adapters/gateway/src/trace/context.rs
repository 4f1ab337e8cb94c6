//! The header fields by which a caller's trace goes on (W3C Trace Context).
//!
//! Invariant: a `traceparent` that breaks the recommendation begins a new trace, and its `tracestate` goes no further.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The fields of a trace.
pub(crate) const TRACE_FIELDS: [HeaderName; 2] = [TRACEPARENT, TRACESTATE];
/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// Returns the span of the caller, if its header fields name one.
pub(super) fn caller_of(headers: &HeaderMap) -> Option<SpanContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (trace, span, flags) = parse(values.next()?.to_str().ok()?)?;
    if values.next().is_some() {
        return None;
    }
    let state = headers.get_all(TRACESTATE).iter();
    let state: Vec<&str> = state.filter_map(|value| value.to_str().ok()).collect();
    // One that is wrong is not told to the collector; the backend gets it as it is.
    let state: TraceState = state.join(",").parse().unwrap_or_default();
    Some(SpanContext::new(trace, span, flags, true, state))
}

/// Reads a `traceparent`; a later version than 00 may have more after its fields.
fn parse(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let (fields, rest) = text.split_at_checked(LENGTH)?;
    let mut parts = fields.split('-');
    let mut hex = |length: usize| {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let part = parts.next()?;
        (part.len() == length && part.bytes().all(is_digit)).then_some(part)
    };
    let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let is_whole = match version {
        "00" => rest.is_empty(),
        "ff" => false,
        _ => rest.is_empty() || rest.starts_with('-'),
    };
    let trace = TraceId::from_hex(trace).ok();
    let span = SpanId::from_hex(span).ok();
    let (trace, span) = (
        trace.filter(|id| *id != TraceId::INVALID)?,
        span.filter(|id| *id != SpanId::INVALID)?,
    );
    let flags = u8::from_str_radix(flags, 16).ok()?;
    is_whole.then(|| (trace, span, TraceFlags::new(flags) & TraceFlags::SAMPLED))
}

/// Names a span as the parent of what a backend does; the caller's `tracestate` stays if its trace goes on.
pub(super) fn propagate(span: &SpanContext, goes_on: bool, headers: &mut HeaderMap) {
    if !span.is_valid() {
        // After its end, the export makes no spans that could be a parent.
        return;
    }
    let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags());
    let text = format!("00-{trace}-{id}-{flags:02x}");
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(TRACEPARENT, value);
    }
    if !goes_on {
        headers.remove(TRACESTATE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, value.parse().unwrap());
        }
        headers.append(TRACESTATE, HeaderValue::from_static("a=1,b=2"));
        headers.append(TRACESTATE, HeaderValue::from_static("c=3"));
        headers
    }

    #[test]
    fn a_right_parent_is_taken_and_a_wrong_one_is_not() {
        for (flags, is_sampled) in [("00", false), ("01", true), ("03", true), ("02", false)] {
            let caller = caller_of(&headers(&[&format!("00-{TRACE}-{SPAN}-{flags}")])).unwrap();
            assert_eq!(caller.trace_id().to_string(), TRACE);
            assert_eq!(caller.span_id().to_string(), SPAN);
            assert_eq!(caller.is_sampled(), is_sampled);
            assert_eq!(caller.trace_state().header(), "a=1,b=2,c=3");
            assert!(caller.is_remote());
        }
        assert!(caller_of(&headers(&[&format!("cc-{TRACE}-{SPAN}-01")])).is_some());
        assert!(caller_of(&headers(&[&format!("cc-{TRACE}-{SPAN}-01-more")])).is_some());
        let good = format!("00-{TRACE}-{SPAN}-01");
        for wrong in [
            String::new(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01more"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00_{TRACE}-{SPAN}-01"),
            format!(" {good}"),
        ] {
            assert!(caller_of(&headers(&[&wrong])).is_none(), "{wrong:?}");
        }
        assert!(caller_of(&headers(&[&good, &good])).is_none());
        assert!(caller_of(&headers(&[])).is_none());
    }

    #[test]
    fn a_span_is_named_as_parent_and_the_state_of_a_foreign_trace_is_dropped() {
        let parse = |sampled| {
            let flags = TraceFlags::default().with_sampled(sampled);
            let (trace, span) = (TraceId::from_hex(TRACE), SpanId::from_hex(SPAN));
            SpanContext::new(
                trace.unwrap(),
                span.unwrap(),
                flags,
                false,
                TraceState::NONE,
            )
        };
        let mut passed = headers(&["anything"]);
        propagate(&parse(true), true, &mut passed);
        assert_eq!(passed[TRACEPARENT], format!("00-{TRACE}-{SPAN}-01"));
        assert_eq!(passed.get_all(TRACESTATE).iter().count(), 2);
        propagate(&parse(false), false, &mut passed);
        assert_eq!(passed[TRACEPARENT], format!("00-{TRACE}-{SPAN}-00"));
        assert!(!passed.contains_key(TRACESTATE));
    }
}
