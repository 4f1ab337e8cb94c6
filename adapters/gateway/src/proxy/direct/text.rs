//! Heads as bytes.

use crate::clock::{poll_time, time_of_day};
use core::cell::RefCell;
use core::time::Duration;
use http::{HeaderMap, Method, StatusCode};
use tokio::time::Instant;

thread_local! {
    /// The date as text, and when it is told anew.
    static DATE: RefCell<(Option<Instant>, String)> = const { RefCell::new((None, String::new())) };
}

/// Writes a request's head, with all but the empty line at its end.
pub(super) fn write_request(out: &mut Vec<u8>, method: &Method, path: &str) {
    for part in [method.as_str(), " ", path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes an answer's first line.
pub(super) fn write_status(out: &mut Vec<u8>, status: StatusCode, reason: &str) {
    for part in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

pub(super) fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

pub(super) fn write_fields(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        write_field(out, name.as_str().as_bytes(), value.as_bytes());
    }
}

/// Writes the field `date`, which is right to the second.
pub(super) fn write_date(out: &mut Vec<u8>) {
    DATE.with_borrow_mut(|(until, text)| {
        let now = poll_time();
        if until.is_none_or(|until| now >= until) {
            let date = time_of_day();
            let since = date
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default();
            let part = Duration::from_nanos(since.subsec_nanos().into());
            *until = Some(now + Duration::from_secs(1).saturating_sub(part));
            *text = httpdate::fmt_http_date(date);
        }
        write_field(out, b"date", text.as_bytes());
    });
}
