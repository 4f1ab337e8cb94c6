//! What an upstream saw, as people and programs read it. No key is ever shown whole.

use core::time::Duration;
use serde::{Deserialize, Serialize};

/// What an upstream saw since it started.
///
/// `calls` is the sum of `ok`, `rejected_429`, `rejected_503`, `faults`, `invalid`, `abandoned` and of
/// the calls still in flight.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Report {
    /// Calls a key may make in a window, where there is a limit.
    pub limit: Option<u32>,
    /// The window; written as `window_ms`, in milliseconds.
    #[serde(rename = "window_ms", with = "millis")]
    pub window: Duration,
    /// Calls with a known key, whatever became of them.
    pub calls: u64,
    /// Answered in full.
    pub ok: u64,
    /// Refused as over the limit.
    pub rejected_429: u64,
    /// Refused as too many at once.
    pub rejected_503: u64,
    /// Failed on purpose.
    pub faults: u64,
    /// Admitted, but not a valid call: malformed, too large, or for an unknown model.
    pub invalid: u64,
    /// Admitted, but the caller hung up, or the server stopped, before there was an answer.
    pub abandoned: u64,
    /// The most calls of any one key that arrived in any one window, refused ones included.
    pub max_in_window: u64,
    /// The most calls in flight at once, over all keys. A refused call counts at its arrival.
    pub max_concurrent: u64,
    /// Connections accepted.
    pub connections_opened: u64,
    /// Each key's figures, in the order of the configuration, or of first sight where that named none.
    pub per_key: Vec<KeyReport>,
    /// How long each valid call was made to take, in order of their start: the first 100,000 of them.
    /// Written as `latencies_ms`, in milliseconds.
    #[serde(rename = "latencies_ms", with = "millis_list")]
    pub latencies: Vec<Duration>,
}

/// What an upstream saw of one key.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct KeyReport {
    /// The key, masked: `…` and its last four characters, or fewer where four are over half of it.
    pub key: String,
    /// Calls, whatever became of them.
    pub calls: u64,
    /// Answered in full.
    pub ok: u64,
    /// Refused as over the limit.
    pub rejected_429: u64,
    /// The most calls that arrived in any one window, refused ones included. Above the limit, the caller
    /// broke it.
    pub max_in_window: u64,
    /// The most calls in flight at once. A refused call counts at its arrival.
    pub max_concurrent: u64,
}

/// A key as it may be shown: `…` and its last four characters, never over half of it.
pub(crate) fn masked(key: &str) -> String {
    let length = key.chars().count();
    let shown = length.saturating_sub((length / 2).min(4));
    let tail: String = key.chars().skip(shown).collect();
    format!("…{tail}")
}

/// A span as milliseconds with a fraction.
mod millis {
    use core::time::Duration;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(of(*span))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        span(f64::deserialize(from)?).map_err(de::Error::custom)
    }

    pub(super) fn of(span: Duration) -> f64 {
        span.as_secs_f64() * 1e3
    }

    pub(super) fn span(millis: f64) -> Result<Duration, core::time::TryFromFloatSecsError> {
        Duration::try_from_secs_f64(millis / 1e3)
    }
}

/// Spans as milliseconds with a fraction.
mod millis_list {
    use super::millis;
    use core::time::Duration;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(spans: &[Duration], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(spans.iter().map(|span| millis::of(*span)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<Duration>, D::Error> {
        Vec::<f64>::deserialize(from)?
            .into_iter()
            .map(|millis| millis::span(millis).map_err(de::Error::custom))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_key_shows_at_most_half_of_it() {
        assert_eq!(masked("sk-proj-abcd1234"), "…1234");
        assert_eq!(masked("abcdef"), "…def");
        assert_eq!(masked("k1"), "…1");
        assert_eq!(masked("k"), "…");
        assert_eq!(masked(""), "…");
        assert_eq!(masked("schlüßel"), "…üßel");
    }
}
