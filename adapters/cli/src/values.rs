//! Values of command line flags.
//!
//! Invariant: every error says what to write instead.

use crate::CliError;
use core::fmt;
use core::net::IpAddr;
use core::num::{IntErrorKind, ParseIntError};
use core::ops::RangeInclusive;
use core::str::FromStr;
use core::time::Duration;
use leasehold_core::limit::{LimitSpecs, ParseLimitError};
use leasehold_core::time::parse_span;
use serde_json::Value;

/// Parses a whole number, `NonZero` types included.
pub(crate) fn parse_whole<T: FromStr<Err = ParseIntError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: ParseIntError| {
        let problem = if *error.kind() == IntErrorKind::Zero {
            "must be at least 1"
        } else if *error.kind() == IntErrorKind::PosOverflow {
            "the number is too large"
        } else {
            "must be a whole number, such as 10"
        };
        problem.to_owned()
    })
}

pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_span(text) {
        Ok(Duration::ZERO) => Err("must be above zero".to_owned()),
        Ok(timeout) => Ok(timeout),
        Err(error) => Err(error.to_string()),
    }
}

/// A timeout of a call, or of a phase of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PhaseTimeout {
    Total(Duration),
    Connect(Duration),
    FirstByte(Duration),
}

/// Parses a timeout (`600s`), or that of a phase (`connect=10s`).
pub(crate) fn parse_phase(text: &str) -> Result<PhaseTimeout, String> {
    match text.split_once('=') {
        None => parse_timeout(text).map(PhaseTimeout::Total),
        Some(("total", time)) => parse_timeout(time).map(PhaseTimeout::Total),
        Some(("connect", time)) => parse_timeout(time).map(PhaseTimeout::Connect),
        Some(("first-byte", time)) => parse_timeout(time).map(PhaseTimeout::FirstByte),
        Some((phase, _)) => Err(format!(
            "there is no phase {phase:?}; write total=600s, connect=10s or first-byte=60s"
        )),
    }
}

/// Parses a duration (`50ms`), or a range of durations (`20ms..80ms`).
pub(crate) fn parse_latency(text: &str) -> Result<RangeInclusive<Duration>, String> {
    let parse = |text: &str| parse_span(text).map_err(|error| format!("{text:?}: {error}"));
    let advice = "write the shorter duration first, such as 20ms..80ms";
    parse_range(text, parse, advice)
}

/// Parses a value, or a range of values; `advice` is the error if its end is below its start.
pub(crate) fn parse_range<T: PartialOrd>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
    advice: &str,
) -> Result<RangeInclusive<T>, String> {
    let (start, end) = text.split_once("..").unwrap_or((text, text));
    let (start, end) = (parse(start)?, parse(end)?);
    if start > end {
        return Err(advice.to_owned());
    }
    Ok(start..=end)
}

pub(crate) fn parse_error_status(text: &str) -> Result<u16, String> {
    match parse_whole(text) {
        Ok(status) if (400..=599).contains(&status) => Ok(status),
        Ok(_) | Err(_) => Err("must be a status from 400 to 599".to_owned()),
    }
}

pub(crate) fn parse_host(text: &str) -> Result<IpAddr, String> {
    let address = text.parse();
    address.map_err(|_| "must be an IP address, such as 127.0.0.1 or ::1".to_owned())
}

/// The value of one `--limit`.
#[derive(Clone, Debug)]
pub(crate) struct LimitArgument {
    /// The only model that the limits count.
    pub(crate) model: Option<String>,
    pub(crate) limits: LimitSpecs,
}

/// Parses limits, with the name of a model before them or without.
pub(crate) fn parse_limit(text: &str) -> Result<LimitArgument, String> {
    let (model, limits) = split_model(text)?;
    let limits = limits
        .parse()
        .map_err(|error: ParseLimitError| error.to_string())?;
    Ok(LimitArgument { model, limits })
}

/// Splits `[MODEL=]VALUE`. No value has an equals sign, and a model's name may have one.
pub(crate) fn split_model(text: &str) -> Result<(Option<String>, &str), String> {
    match text.rsplit_once('=') {
        Some((model, _)) if model.trim().is_empty() => {
            Err("the name of the model before = is empty".to_owned())
        }
        Some((model, value)) => Ok((Some(model.trim().to_owned()), value)),
        None => Ok((None, text)),
    }
}

/// Parses a field of a request: `temperature=0`; a value that is not JSON is a text.
pub(crate) fn parse_field(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            Ok((name.trim().to_owned(), value))
        }
        Some(_) | None => Err("write it as NAME=VALUE, such as temperature=0".to_owned()),
    }
}

/// A header as written, `NAME=VALUE`. It is parsed later, because clap's errors repeat a value, which may be a secret.
#[derive(Clone)]
pub(crate) struct Header(String);

impl Header {
    /// Returns the name and the value.
    pub(crate) fn parts(&self) -> Result<(&str, &str), CliError> {
        // A name with a space or a colon is the start of `NAME: VALUE`, so that it must not be shown either.
        let is_name = |name: &str| !name.is_empty() && !name.contains([':', ' ', '\t']);
        match self.0.split_once('=') {
            Some((name, value)) if is_name(name.trim()) => Ok((name.trim(), value.trim())),
            Some(_) | None => {
                let problem = "--header: write it as NAME=VALUE, such as openai-project=p-1";
                Err(CliError::usage(problem))
            }
        }
    }
}

impl From<String> for Header {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Header(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroU32;

    #[test]
    fn a_latency_is_a_duration_or_a_range() {
        let ms = Duration::from_millis;
        assert_eq!(parse_latency("50ms"), Ok(ms(50)..=ms(50)));
        assert_eq!(parse_latency("20ms..1s"), Ok(ms(20)..=ms(1_000)));
        for wrong in ["", "50", "..", "80ms..20ms", "1ms..2ms..3ms"] {
            assert!(parse_latency(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_limit_may_name_a_model_and_a_field_any_value() {
        let limit = parse_limit("gpt-4o=500/min, 2 concurrent").unwrap();
        assert_eq!(
            (limit.model.as_deref(), limit.limits.len()),
            (Some("gpt-4o"), 2)
        );
        assert_eq!(parse_limit("3/60s").unwrap().model, None);
        assert!(parse_limit("=3/60s").is_err() && parse_limit("m=3").is_err());
        let field = |text| parse_field(text).unwrap().1;
        assert_eq!(field("temperature=0"), 0);
        assert_eq!(field("stop=[\"a\"]"), serde_json::json!(["a"]));
        assert_eq!(field("user=me"), "me");
        assert!(parse_field("temperature").is_err());
    }

    #[test]
    fn a_header_is_never_shown_with_its_value() {
        let parts = |text: &str| {
            let header = Header::from(text.to_owned());
            assert!(!format!("{header:?}").contains("secret"));
            let parts = header
                .parts()
                .map(|(name, value)| (name.to_owned(), value.to_owned()));
            parts.map_err(|error| error.message)
        };
        let expected = ("a".to_owned(), "secret=1".to_owned());
        assert_eq!(parts("a = secret=1").unwrap(), expected);
        for wrong in [
            "x-api-key: secret",
            "Authorization: Bearer secret==",
            "=secret",
        ] {
            let message = parts(wrong).unwrap_err();
            assert!(
                message.contains("NAME=VALUE") && !message.contains("secret"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_bad_number_gets_advice() {
        let error = |text| parse_whole::<NonZeroU32>(text).unwrap_err();
        assert_eq!(error("0"), "must be at least 1");
        assert_eq!(error("4294967296"), "the number is too large");
        assert_eq!(error("ten"), "must be a whole number, such as 10");
        assert_eq!(parse_error_status("503"), Ok(503));
        assert!(parse_error_status("200").is_err());
    }
}
