//! The log by which a gateway tells its operator what happens.
//!
//! Invariant: a level has a name by which files and calls set it, and it is shown by the same name.

use crate::file::Value;
use core::fmt;
use core::str::FromStr;
use std::collections::BTreeMap;

/// The log for the operator, on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The form of a line.
    pub format: LogStyle,
    /// The least level of the gateway's own lines.
    pub level: LogLevel,
    /// The least levels of some targets, by the begins of their names.
    pub targets: BTreeMap<String, LogLevel>,
}

impl Default for LogSettings {
    /// Sentences of level `info` and above.
    fn default() -> Self {
        Self {
            format: LogStyle::Human,
            level: LogLevel::Info,
            targets: BTreeMap::new(),
        }
    }
}

/// The form of a line of the log for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStyle {
    /// A sentence.
    Human,
    /// An object with the time, the level, the target and the fields of the event.
    Json,
}

/// A level of the log, the one with the fewest lines first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// No line at all.
    Off,
    /// The gateway has failed to do what it must.
    Error,
    /// A backend, a job or a setting is wrong.
    Warn,
    /// Something has changed.
    Info,
    /// An attempt has failed, or a request was refused.
    Debug,
    /// All there is.
    Trace,
}

/// The text names no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseLogLevelError(String);

impl FromStr for LogLevel {
    type Err = ParseLogLevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::read(text).map_err(|misread| ParseLogLevelError(misread.problem))
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

impl fmt::Display for LogStyle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

impl LogSettings {
    /// Whether a text can be the name of a target or its begin.
    #[must_use]
    pub fn is_target(text: &str) -> bool {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
        (1..=255).contains(&text.len()) && text.bytes().all(is_part)
    }
}
