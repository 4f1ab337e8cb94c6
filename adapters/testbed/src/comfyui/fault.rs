//! Faults of `POST /prompt`.
//!
//! Invariant: a fault's name says whether the prompt is in the queue afterwards.

use crate::text::parse_span;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;

/// Trouble that a `POST /prompt` meets.
///
/// As text: `accept-reset`, `accept-silence`, `accept-error`, `reset`, `error`, `delay=50ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ComfyFault {
    /// The prompt is queued if it is valid; the connection is reset without an answer.
    AcceptReset,
    /// The prompt is queued if it is valid; no answer is ever sent.
    AcceptSilence,
    /// The prompt is queued if it is valid; the answer is 500.
    AcceptError,
    /// The prompt is read and dropped; the connection is reset.
    Reset,
    /// The prompt is read and dropped; the answer is 500.
    Error,
    /// The prompt is queued if it is valid; the answer comes after this pause.
    Delay(Duration),
}

impl ComfyFault {
    /// Whether the prompt is handled as without the fault.
    pub(super) const fn accepts(self) -> bool {
        match self {
            Self::AcceptReset | Self::AcceptSilence | Self::AcceptError | Self::Delay(_) => true,
            Self::Reset | Self::Error => false,
        }
    }

    /// Name without a duration.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::AcceptReset => "accept-reset",
            Self::AcceptSilence => "accept-silence",
            Self::AcceptError => "accept-error",
            Self::Reset => "reset",
            Self::Error => "error",
            Self::Delay(_) => "delay",
        }
    }
}

impl fmt::Display for ComfyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delay(pause) => write!(f, "delay={}ms", pause.as_millis()),
            Self::AcceptReset
            | Self::AcceptSilence
            | Self::AcceptError
            | Self::Reset
            | Self::Error => f.write_str(self.name()),
        }
    }
}

impl FromStr for ComfyFault {
    type Err = ComfyFaultError;

    fn from_str(text: &str) -> Result<Self, ComfyFaultError> {
        let plain = [
            Self::AcceptReset,
            Self::AcceptSilence,
            Self::AcceptError,
            Self::Reset,
            Self::Error,
        ];
        let named = plain.into_iter().find(|fault| fault.name() == text);
        let delay = || {
            text.strip_prefix("delay=")
                .and_then(parse_span)
                .map(Self::Delay)
        };
        named
            .or_else(delay)
            .ok_or_else(|| ComfyFaultError(text.to_owned()))
    }
}

/// A text that names no [`ComfyFault`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no fault; write accept-reset, accept-silence, accept-error, reset, error or delay=50ms"
)]
pub struct ComfyFaultError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_read_back() {
        for name in [
            "accept-reset",
            "accept-silence",
            "accept-error",
            "reset",
            "error",
            "delay=50ms",
        ] {
            let fault: ComfyFault = name.parse().unwrap();
            assert_eq!(fault.to_string(), name);
            assert_eq!(fault.accepts(), name != "reset" && name != "error");
        }
        for text in ["", "delay", "delay=x", "close"] {
            assert!(text.parse::<ComfyFault>().is_err(), "{text}");
        }
    }
}
