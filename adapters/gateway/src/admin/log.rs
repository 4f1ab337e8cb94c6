//! The log for the operator: how it is written now, and changes of that.
//!
//! Invariant: a change holds until the settings are read again, and no longer than the process.

use super::error::AdminError;
use crate::operator_log::{OperatorLog, target};
use crate::shared::Shared;
use leasehold_config::{LogLevel, LogSettings};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A change; what it does not set stays.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Change {
    #[serde(deserialize_with = "given")]
    level: Option<String>,
    /// Takes the place of all that were set.
    #[serde(deserialize_with = "given")]
    targets: Option<BTreeMap<String, String>>,
}

/// Reads a field that may be missing, but not be null.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Returns how the log is written.
pub(crate) fn view(shared: &Shared) -> Result<Value, AdminError> {
    let log = log(shared)?;
    Ok(told(log, &log.settings()))
}

fn told(log: &OperatorLog, settings: &LogSettings) -> Value {
    json!({
        "format": settings.format.to_string(),
        "level": settings.level.to_string(),
        "targets": levels(settings),
        "lines_dropped": log.dropped(),
    })
}

/// Makes a change, and returns how the log is written from then on.
pub(crate) fn change(shared: &Shared, body: &[u8]) -> Result<Value, AdminError> {
    let log = log(shared)?;
    let changed = log.change(|settings| changed(settings, body));
    let settings = changed.map_err(AdminError::bad_request)?;
    let targets = Value::Object(levels(&settings));
    tracing::info!(
        target: target::ADMIN,
        new_level = %settings.level,
        new_targets = %targets,
        "the log was changed by the admin interface"
    );
    Ok(told(log, &settings))
}

fn changed(mut settings: LogSettings, body: &[u8]) -> Result<LogSettings, String> {
    // A list of values would be read as a change too.
    let fields = serde_json::from_slice::<Map<String, Value>>(body);
    let change = fields.and_then(|fields| serde_json::from_value::<Change>(fields.into()));
    let change = change.map_err(|error| {
        format!("the body has to be such as {{\"level\": \"debug\", \"targets\": {{}}}}: {error}")
    })?;
    if let Some(level) = change.level {
        settings.level = read("level", &level)?;
    }
    if let Some(targets) = change.targets {
        let targets = targets.into_iter().map(|(target, level)| {
            if !LogSettings::is_target(&target) {
                let text = "targets has to be by names such as leasehold::health, not";
                return Err(format!("{text} {target:?}"));
            }
            let level = read(&target, &level)?;
            Ok((target, level))
        });
        settings.targets = targets.collect::<Result<_, String>>()?;
    }
    Ok(settings)
}

fn read(name: &str, level: &str) -> Result<LogLevel, String> {
    level
        .parse()
        .map_err(|error| format!("{name} {error}, not {level:?}"))
}

fn levels(settings: &LogSettings) -> Map<String, Value> {
    let targets = settings.targets.iter();
    targets
        .map(|(target, level)| (target.clone(), level.to_string().into()))
        .collect()
}

fn log(shared: &Shared) -> Result<&OperatorLog, AdminError> {
    shared.operator_log().ok_or_else(|| {
        let text = "the program around this gateway has a log of its own; change it there";
        AdminError::conflict("no_log", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_sets_what_it_names_and_says_what_is_wrong() {
        let before = LogSettings {
            targets: [("a".to_owned(), LogLevel::Off)].into(),
            ..LogSettings::default()
        };
        let after = |body: &str| changed(before.clone(), body.as_bytes());
        assert_eq!(after("{}"), Ok(before.clone()));
        let level = LogLevel::Trace;
        let expected = LogSettings {
            level,
            ..before.clone()
        };
        assert_eq!(after(r#"{"level":"trace"}"#), Ok(expected));
        let set = after(r#"{"targets":{"leasehold::health":"debug"}}"#).unwrap();
        assert_eq!(set.level, LogLevel::Info);
        let targets = [("leasehold::health".to_owned(), LogLevel::Debug)];
        assert_eq!(set.targets, targets.into());
        for (body, told) in [
            ("", "such as"),
            ("[]", "such as"),
            (r#"{"level":null}"#, "such as"),
            (r#"{"levle":"info"}"#, "unknown field `levle`"),
            (r#"{"level":"loud"}"#, "level must be one of off, error"),
            (r#"{"targets":{"a=b":"info"}}"#, "not \"a=b\""),
            (r#"{"targets":{"a":"INFO"}}"#, "a must be one of"),
        ] {
            let error = after(body).unwrap_err();
            assert!(error.contains(told), "{body}: {error}");
        }
    }
}
