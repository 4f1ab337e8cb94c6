//! The report of what a server saw.
//!
//! Invariant: no key is shown whole.

use core::time::Duration;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counts of a server since it started.
///
/// `calls` is the sum of `ok`, `rejected_429`, `rejected_503`, `faults`, `invalid`, `abandoned` and the calls in
/// flight.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Maximum number of calls of a key in any `window`, if limited.
    pub limit: Option<u32>,
    /// The window; serialized as `window_ms`, in milliseconds.
    #[serde(rename = "window_ms", with = "millis")]
    pub window: Duration,
    /// Calls with a known key.
    pub calls: u64,
    /// Calls answered in full.
    pub ok: u64,
    /// Calls rejected as over a limit.
    pub rejected_429: u64,
    /// Calls rejected because too many were in flight: 503, or 529 for messages.
    pub rejected_503: u64,
    /// Calls failed on purpose, those in an outage included.
    pub faults: u64,
    /// Calls admitted but malformed, too large, or for an unknown model.
    pub invalid: u64,
    /// Calls admitted whose caller hung up, or whose server stopped, before the response.
    pub abandoned: u64,
    /// Most calls of one key that arrived in any window, rejected ones included.
    pub max_in_window: u64,
    /// Most calls in flight at once, over all keys. A rejected call counts at its arrival.
    pub max_concurrent: u64,
    /// Connections accepted.
    pub connections_opened: u64,
    /// Connections that are open, the one that asks for the report included.
    ///
    /// In the report of a stop: those that were open when it began. Above 0, callers left some open.
    pub connections_open: u64,
    /// Calls that arrived while their key was told to wait.
    ///
    /// A call counts only once the caller has shown that it knows: by another call on the connection that told it, or
    /// by closing it. A caller that makes several calls with a key at a time may still have sent some before.
    pub early: u64,
    /// Calls answered in full whose path and body equal those of an earlier one. Above 0, work was paid for twice.
    pub repeated: u64,
    /// Calls whose caller closed the connection before the end of the answer.
    pub hung_up: u64,
    /// Number of calls by the name of their fault, faults with a whole answer included.
    pub by_fault: BTreeMap<String, u64>,
    /// Counts of each limit over all keys, in the order of the configuration.
    pub limits: Vec<LimitReport>,
    /// Counts of each key, in the order of the configuration; without configured keys, of their first call.
    pub per_key: Vec<KeyReport>,
    /// Latency drawn for each of the first 100,000 valid calls, in the order of their start.
    ///
    /// Serialized as `latencies_ms`, in milliseconds.
    #[serde(rename = "latencies_ms", with = "millis_list")]
    pub latencies: Vec<Duration>,
}

/// Counts of one key.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyReport {
    /// The key, masked: `…` and its last four characters, at most half of it.
    pub key: String,
    /// Number of calls.
    pub calls: u64,
    /// Calls answered in full.
    pub ok: u64,
    /// Calls rejected as over a limit.
    pub rejected_429: u64,
    /// Most calls that arrived in any window, rejected ones included. Above the limit, the caller exceeded it.
    pub max_in_window: u64,
    /// Most calls in flight at once. A rejected call counts at its arrival.
    pub max_concurrent: u64,
    /// Calls that arrived while the key was told to wait.
    pub early: u64,
    /// Counts of each limit, in the order of the configuration.
    pub limits: Vec<LimitReport>,
}

/// Counts of one limit.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitReport {
    /// The limit, such as `40000 tokens/60s`.
    pub limit: String,
    /// Most units that are admitted in any window.
    pub amount: u64,
    /// Most units that arrived in any window, refused ones included. Above `amount`, a caller exceeded the limit.
    pub max_in_window: u64,
    /// Calls refused for this limit.
    pub refused: u64,
}

/// Masks a key: `…` and its last four characters, at most half of it.
pub(crate) fn masked(key: &str) -> String {
    let length = key.chars().count();
    let shown = length.saturating_sub((length / 2).min(4));
    let tail: String = key.chars().skip(shown).collect();
    format!("…{tail}")
}

mod millis {
    use core::time::Duration;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(to_millis(*span))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        from_millis(f64::deserialize(from)?).map_err(de::Error::custom)
    }

    pub(super) fn to_millis(span: Duration) -> f64 {
        span.as_secs_f64() * 1e3
    }

    pub(super) fn from_millis(millis: f64) -> Result<Duration, core::time::TryFromFloatSecsError> {
        Duration::try_from_secs_f64(millis / 1e3)
    }
}

mod millis_list {
    use super::millis;
    use core::time::Duration;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(spans: &[Duration], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(spans.iter().map(|span| millis::to_millis(*span)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<Duration>, D::Error> {
        Vec::<f64>::deserialize(from)?
            .into_iter()
            .map(|millis| millis::from_millis(millis).map_err(de::Error::custom))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_key_shows_at_most_half_of_itself() {
        assert_eq!(masked("sk-proj-abcd1234"), "…1234");
        assert_eq!(masked("abcdef"), "…def");
        assert_eq!(masked("k1"), "…1");
        assert_eq!(masked("k"), "…");
        assert_eq!(masked(""), "…");
        assert_eq!(masked("schlüßel"), "…üßel");
    }
}
