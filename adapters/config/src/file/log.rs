//! The table of the log for the operator.
//!
//! Invariant: a default is the one of the settings.

use super::value::Misread;
use super::{Text, Value};
use crate::settings::{LogLevel, LogSettings, LogStyle};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The log for the operator, on standard error.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogTable {
    /// The form of a line: a sentence, or an object with the time, the level and all fields.
    pub(crate) format: Text<LogStyle>,
    /// The least level of lines. It can be changed while the gateway runs, by a reload and by `POST /lb/log`.
    pub(crate) level: Text<LogLevel>,
    /// Other levels for some targets, by the begins of their names: `{ "leasehold::health" = "debug" }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = { "type": "string", "format": "target", "examples": ["leasehold::health"] }))]
    pub(crate) targets: BTreeMap<String, Text<LogLevel>>,
}

/// The name of a target of the log, or the begin of one.
pub(crate) struct Target(String);

impl Value for Target {
    const FORMAT: &'static str = "target";
    const EXAMPLE: &'static str = "leasehold::health";

    fn read(text: &str) -> Result<Self, Misread> {
        match LogSettings::is_target(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(Misread::new(
                "must be letters, digits, _ and ::, such as leasehold::health",
            )),
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Default for LogTable {
    fn default() -> Self {
        Self::of(&LogSettings::default())
    }
}

impl LogTable {
    pub(crate) fn of(settings: &LogSettings) -> Self {
        let targets = settings.targets.iter();
        Self {
            format: Text(settings.format),
            level: Text(settings.level),
            targets: targets
                .map(|(target, level)| (target.clone(), Text(*level)))
                .collect(),
        }
    }

    pub(crate) fn build(&self) -> LogSettings {
        let targets = self.targets.iter();
        LogSettings {
            format: self.format.0,
            level: self.level.0,
            targets: targets
                .map(|(target, level)| (target.clone(), level.0))
                .collect(),
        }
    }
}
