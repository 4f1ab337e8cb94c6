//! Settings that are read again while the gateway runs.
//!
//! Invariant: settings that can't be put in force change nothing, and what was wrong with them is shown until others are.

use crate::clock::time_of_day;
use crate::lock;
use crate::operator_log::target;
use crate::shared::Shared;
use core::fmt;
use leasehold_config::Settings;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::SystemTime;

/// Reads the settings again, or says what is wrong with them.
pub type SettingsSource = Box<dyn Fn() -> Result<Settings, String> + Send + Sync>;

/// Where settings are read again, and what became of the last time.
#[derive(Default)]
pub(crate) struct Reloads {
    source: Option<SettingsSource>,
    last: Mutex<Option<Reload>>,
}

struct Reload {
    at: SystemTime,
    result: Result<(), String>,
}

impl Reloads {
    pub(crate) fn from(source: SettingsSource) -> Self {
        Self {
            source: Some(source),
            last: Mutex::default(),
        }
    }

    /// Reads the settings again and puts them in force, or says why not.
    pub(crate) fn reload(&self, shared: &Shared) -> Result<(), String> {
        // One at a time, so that the last one shown is the last one made.
        let mut last = lock(&self.last);
        let read = self.source.as_ref().map_or_else(
            || Err("the gateway was started from flags, and has no file to read again".to_owned()),
            |source| source(),
        );
        let result = read.and_then(|settings| {
            let reloaded = shared.reload(settings);
            reloaded.map_err(|error| error.to_string())
        });
        match &result {
            Ok(()) => tracing::info!(target: target::RELOAD, "the settings were reloaded"),
            Err(error) => tracing::error!(target: target::RELOAD, "not reloaded: {error}"),
        }
        *last = Some(Reload {
            at: time_of_day(),
            result: result.clone(),
        });
        result
    }

    /// The last one, for people; null if there was none.
    pub(crate) fn view(&self) -> Value {
        lock(&self.last).as_ref().map_or(Value::Null, |last| {
            json!({
                "at": httpdate::fmt_http_date(last.at),
                "successful": last.result.is_ok(),
                "error": last.result.as_ref().err(),
            })
        })
    }
}

impl fmt::Debug for Reloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloads")
            .field("has_source", &self.source.is_some())
            .finish_non_exhaustive()
    }
}
