//! The settings of an OpenAI-compatible server.

use super::call::Recording;
use super::fault::{Fault, FaultRule};
use crate::limit::Limit;
use crate::report::masked;
use crate::text::parse_span;
use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};
use core::num::{NonZeroU32, NonZeroU64};
use core::ops::RangeInclusive;
use core::str::FromStr;
use core::time::Duration;

/// Settings of an [`OpenAi`](super::OpenAi) server.
///
/// By default it accepts any key, has no limit, answers at once, and listens on a free port of 127.0.0.1.
#[derive(Clone)]
#[non_exhaustive]
pub struct OpenAiConfig {
    /// Accepted keys; if empty, any key.
    pub keys: Vec<String>,
    /// Maximum number of calls of each key in any `window`.
    ///
    /// Every call with a known key counts, malformed ones too, except those rejected by this limit.
    pub limit: Option<NonZeroU32>,
    /// Window of the limit: 60 s by default. A call at `t` does not count any more at `t + window`.
    ///
    /// The report counts arrivals over it even without a limit.
    pub window: Duration,
    /// Further limits of each key: tokens, other windows, single models.
    ///
    /// A limit on tokens or of a model is checked when a call's body was read; a call that it refuses has already
    /// counted as a request. Tokens are those of the answer's usage.
    pub limits: Vec<Limit>,
    /// Range from which the duration of a valid call is drawn, uniformly. Streams begin then.
    pub latency: RangeInclusive<Duration>,
    /// Maximum number of calls in flight of each key; more are rejected with 503.
    pub max_concurrent: Option<u32>,
    /// Faults and odd shapes of answers; none by default. They come after the drawn latency.
    pub faults: Vec<FaultRule>,
    /// Wait that refusals tell and slow answers take: 1 s by default.
    pub fault_wait: Duration,
    /// Silence of a stall: 10 min by default.
    pub stall: Duration,
    /// Pause before each byte of a trickle: 2 ms by default. The timer's step is 1 ms.
    pub trickle: Duration,
    /// Spans in which every call fails; none by default.
    pub outages: Vec<Outage>,
    /// Number of pieces of a streamed answer's text, at most 20,000; by default one a word.
    ///
    /// If the words of all choices are more, each choice has as many equal pieces as fit.
    pub chunks: Option<NonZeroU32>,
    /// Range from which the pause before each event of a stream is drawn, uniformly.
    pub chunk_delay: RangeInclusive<Duration>,
    /// Range from which the least number of an answer's tokens is drawn; by default an answer is the echo only.
    pub answer_tokens: RangeInclusive<u64>,
    /// Seed of the drawn latencies, faults, pauses and lengths.
    pub seed: u64,
    /// Address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Known models; if empty, any model.
    pub models: Vec<String>,
    /// Parameters that models refuse.
    pub model_rules: Vec<ModelRule>,
    /// The parts of calls that are kept; none by default.
    pub recording: Recording,
}

impl Default for OpenAiConfig {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            limit: None,
            window: Duration::from_secs(60),
            limits: Vec::new(),
            latency: Duration::ZERO..=Duration::ZERO,
            max_concurrent: None,
            faults: Vec::new(),
            fault_wait: Duration::from_secs(1),
            stall: Duration::from_secs(600),
            trickle: Duration::from_millis(2),
            outages: Vec::new(),
            chunks: None,
            chunk_delay: Duration::ZERO..=Duration::ZERO,
            answer_tokens: 0..=0,
            seed: 0,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            models: Vec::new(),
            model_rules: Vec::new(),
            recording: Recording::default(),
        }
    }
}

impl fmt::Debug for OpenAiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            keys,
            limit,
            window,
            limits,
            latency,
            max_concurrent,
            faults,
            fault_wait,
            stall,
            trickle,
            outages,
            chunks,
            chunk_delay,
            answer_tokens,
            seed,
            listen,
            models,
            model_rules,
            recording,
        } = self;
        let keys: Vec<_> = keys.iter().map(|key| masked(key)).collect();
        f.debug_struct("OpenAiConfig")
            .field("keys", &keys)
            .field("limit", limit)
            .field("window", window)
            .field("limits", limits)
            .field("latency", latency)
            .field("max_concurrent", max_concurrent)
            .field("faults", faults)
            .field("fault_wait", fault_wait)
            .field("stall", stall)
            .field("trickle", trickle)
            .field("outages", outages)
            .field("chunks", chunks)
            .field("chunk_delay", chunk_delay)
            .field("answer_tokens", answer_tokens)
            .field("seed", seed)
            .field("listen", listen)
            .field("models", models)
            .field("model_rules", model_rules)
            .field("recording", recording)
            .finish()
    }
}

/// A span in which every call gets the same fault.
///
/// Its text is `FROM..TO[=FAULT]`, in seconds or with units, such as `10..70=503`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Outage {
    /// Start, counted from the arrival of the first call.
    pub from: Duration,
    /// End; a call that arrives then is served again.
    pub to: Duration,
    /// The fault that calls get: status 503 by default, and where a fault makes no sense for a call.
    pub fault: Fault,
}

impl Outage {
    /// An outage in which every call gets status 503.
    #[must_use]
    pub const fn new(from: Duration, to: Duration) -> Self {
        Self {
            from,
            to,
            fault: Fault::Status(503),
        }
    }
}

impl FromStr for Outage {
    type Err = OutageError;

    fn from_str(text: &str) -> Result<Self, OutageError> {
        let (span, fault) = match text.split_once('=') {
            Some((span, fault)) => (span, Some(fault)),
            None => (text, None),
        };
        let error = || OutageError(text.to_owned());
        let (from, to) = span.split_once("..").ok_or_else(error)?;
        let from = parse_span(from).ok_or_else(error)?;
        let to = parse_span(to).filter(|to| *to > from).ok_or_else(error)?;
        let mut outage = Self::new(from, to);
        if let Some(fault) = fault {
            outage.fault = fault.parse().map_err(|_| error())?;
        }
        Ok(outage)
    }
}

/// The text of an outage that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an outage; write it as 10..70 or 10..70=502, in seconds, the earlier first")]
pub struct OutageError(String);

/// Parameters that a model refuses, with 400.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelRule {
    /// The model; every model if `None`.
    pub model: Option<String>,
    /// Whether `max_tokens` is refused in favour of `max_completion_tokens`.
    pub refuses_max_tokens: bool,
    /// Most completion tokens that a call may ask for.
    pub max_output: Option<NonZeroU64>,
}

impl ModelRule {
    /// A rule for every model that refuses nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn applies_to(&self, model: &str) -> bool {
        self.model.as_deref().is_none_or(|only| only == model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_has_a_start_an_end_and_a_fault() {
        let secs = Duration::from_secs;
        assert_eq!("10..70".parse(), Ok(Outage::new(secs(10), secs(70))));
        let outage: Outage = "0..1500ms=reset".parse().unwrap();
        assert_eq!(outage.to, Duration::from_millis(1_500));
        assert_eq!(outage.fault.to_string(), "reset");
        for text in ["", "10", "10..10", "9..3", "1..2=nothing", "a..b"] {
            let error = text.parse::<Outage>().unwrap_err().to_string();
            assert!(error.contains("is not an outage"), "{text}");
        }
    }
}
