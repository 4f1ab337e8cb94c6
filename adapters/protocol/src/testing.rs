//! Headers of answers in tests.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Returns a map of headers from names in any case, and values.
pub(crate) fn headers(named: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        let name: HeaderName = name.parse().unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    };
    named.iter().map(pair).collect()
}
