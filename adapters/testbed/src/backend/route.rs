//! Paths and queries.
//!
//! Invariant: every path is a route; one without a meaning of its own answers as `/` does.

use crate::text::parse_span;
use core::time::Duration;
use hyper::StatusCode;

/// The beginning of the paths that end with a status.
pub(super) const STATUS_PATH: &str = "/status/";

/// The handler of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Control(Control),
    WebSocket,
    Page(Page),
}

/// A path that is not counted: the health check, and those of the testbed itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Health,
    Report,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Says what arrived.
    Info,
    Slow,
    Stream,
    Bytes,
    Echo,
    Status,
    EarlyHints,
    Continue,
    Close,
    Redirect,
    Cookie,
    Stall,
}

impl Route {
    pub(super) fn of(path: &str) -> Self {
        Self::Page(match path {
            "/ws" => return Self::WebSocket,
            "/health" => return Self::Control(Control::Health),
            "/testbed/report" => return Self::Control(Control::Report),
            "/testbed/set" => return Self::Control(Control::Set),
            "/slow" => Page::Slow,
            "/stream" => Page::Stream,
            "/bytes" => Page::Bytes,
            "/echo" => Page::Echo,
            "/early-hints" => Page::EarlyHints,
            "/continue" => Page::Continue,
            "/close" => Page::Close,
            "/redirect" => Page::Redirect,
            "/cookie" => Page::Cookie,
            "/stall" => Page::Stall,
            _ if path.starts_with(STATUS_PATH) => Page::Status,
            _ => Page::Info,
        })
    }
}

/// The query of a request: `name=value` pairs, taken as they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a>(pub(super) Option<&'a str>);

/// A part of a request that can't be read, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadRequest(pub(super) String);

impl<'a> Query<'a> {
    pub(super) fn pairs(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let parts = self.0.unwrap_or_default().split('&');
        parts
            .filter(|part| !part.is_empty())
            .map(|part| part.split_once('=').unwrap_or((part, "")))
    }

    /// The value of a name; the first, if there are several.
    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        self.0?;
        let mut pairs = self.pairs();
        pairs
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// Whether a name is there, with a value or without.
    pub(super) fn has(self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A number of at most `most`.
    pub(super) fn number(self, name: &str, default: u64, most: u64) -> Result<u64, BadRequest> {
        let Some(text) = self.get(name) else {
            return Ok(default);
        };
        let number = text.parse().ok().filter(|number| *number <= most);
        let advice = || BadRequest(format!("{name}: {text:?} is not a number from 0 to {most}"));
        number.ok_or_else(advice)
    }

    pub(super) fn millis(self, name: &str, default: Duration) -> Result<Duration, BadRequest> {
        let default = u64::try_from(default.as_millis()).unwrap_or(MAX_MILLIS);
        let millis = self.number(name, default.min(MAX_MILLIS), MAX_MILLIS)?;
        Ok(Duration::from_millis(millis))
    }
}

/// Longest pause that a request may ask for: a day.
const MAX_MILLIS: u64 = 86_400_000;

/// Parses a status that a response can end with.
pub(super) fn parse_status(text: &str) -> Result<StatusCode, BadRequest> {
    let status = text.parse().ok().filter(|status| *status >= 200);
    status
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| BadRequest(format!("{text:?} is not a status from 200 to 999")))
}

/// Parses a pause such as `50ms`.
pub(super) fn parse_delay(text: &str) -> Result<Duration, BadRequest> {
    let advice = || {
        BadRequest(format!(
            "delay: {text:?} is not a duration; write it as 50ms or 2s"
        ))
    };
    parse_span(text).ok_or_else(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_with_defaults_and_bounds() {
        let query = Query(Some("n=3&&flag&ms=&n=4&to=/a=b"));
        assert_eq!(query.get("n"), Some("3"));
        assert_eq!(query.get("to"), Some("/a=b"));
        assert!(query.has("flag") && !query.has("fla"));
        assert_eq!(query.number("n", 7, 9), Ok(3));
        assert_eq!(query.number("m", 7, 9), Ok(7));
        let error = query.number("n", 7, 2).unwrap_err().to_string();
        assert_eq!(error, "n: \"3\" is not a number from 0 to 2");
        assert!(query.millis("ms", Duration::ZERO).is_err());
        assert_eq!(Query(None).get("n"), None);
        assert!(parse_status("503").is_ok() && parse_status("101").is_err());
        assert!(parse_status("1000").is_err() && parse_status("ok").is_err());
    }
}
