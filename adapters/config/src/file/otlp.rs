//! The table of the export of traces and metrics.
//!
//! Invariant: a default is the one of the settings.

use super::{FilePath, Name, Share, Text, Timeout, Url};
use crate::settings::OtlpSettings;
use http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Traces and metrics for a collector of OpenTelemetry; without it, none are made.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OtlpTable {
    /// The collector's URL for OTLP over HTTP, without `/v1/traces`: `http://127.0.0.1:4318`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(crate) endpoint: Option<Text<Url>>,
    /// A file of header fields that the collector asks for, one a line: `NAME: VALUE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) headers_file: Option<Text<FilePath>>,
    /// The share of traces that begin here and are exported; a trace of a caller's is exported if the caller's is.
    #[serde(default = "all")]
    pub(crate) sample: Text<Share>,
    /// The time that an export may take.
    #[serde(default = "timeout")]
    pub(crate) timeout: Text<Timeout>,
    /// The time between two exports of metrics; spans wait for 5 s at most.
    #[serde(default = "interval")]
    pub(crate) interval: Text<Timeout>,
    /// The name of this gateway in traces and metrics.
    #[serde(default = "service_name")]
    pub(crate) service_name: Text<Name>,
}

fn default() -> OtlpTable {
    OtlpTable::of(&OtlpSettings::new(Uri::default()))
}

fn all() -> Text<Share> {
    default().sample
}

fn timeout() -> Text<Timeout> {
    default().timeout
}

fn interval() -> Text<Timeout> {
    default().interval
}

fn service_name() -> Text<Name> {
    default().service_name
}

impl OtlpTable {
    pub(crate) fn of(settings: &OtlpSettings) -> Self {
        let file = settings.headers.as_ref().map(|headers| &headers.file);
        Self {
            endpoint: Some(Text(Url(settings.endpoint.clone()))),
            headers_file: file.map(|file| Text(FilePath(file.clone()))),
            sample: Text(Share(settings.sample)),
            timeout: Text(Timeout(settings.timeout)),
            interval: Text(Timeout(settings.interval)),
            service_name: Text(Name(settings.service_name.clone())),
        }
    }

    /// Returns the settings, without headers.
    pub(crate) fn build(&self) -> OtlpSettings {
        let endpoint = self.endpoint.as_ref();
        OtlpSettings {
            // The schema requires it.
            endpoint: endpoint.map_or_else(Uri::default, |url| url.0.0.clone()),
            headers: None,
            sample: self.sample.0.0,
            timeout: self.timeout.0.0,
            interval: self.interval.0.0,
            service_name: self.service_name.0.0.clone(),
        }
    }
}
