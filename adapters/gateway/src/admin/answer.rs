//! Answers of the admin interface.

use crate::proxy::AnswerBody;
use core::time::Duration;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use serde::Serialize;

/// Returns a value as a JSON document that ends with a line feed.
pub(crate) fn json(value: &impl Serialize) -> Response<AnswerBody> {
    // The values of this module have text for keys and no number that JSON lacks.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(AnswerBody::text(text));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns a time in milliseconds, to the microsecond.
pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
