//! The export of traces and metrics to a collector of OpenTelemetry.
//!
//! Invariant: a header that was read fits into a request, and `Debug` shows no value of one.

use crate::file::{Url, Value};
use core::time::Duration;
use http::{HeaderName, HeaderValue, Uri};
use leasehold_protocol::Secret;
use std::path::PathBuf;

/// Where traces and metrics go, by OTLP over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpSettings {
    /// The collector; `/v1/traces` and `/v1/metrics` are below it.
    pub endpoint: Uri,
    /// Header fields of each export, such as a token.
    pub headers: Option<OtlpHeaders>,
    /// The share of traces that begin here and are exported, in permille; a caller's trace is as its caller says.
    pub sample: u16,
    /// The time that an export may take.
    pub timeout: Duration,
    /// The time between two exports of metrics.
    pub interval: Duration,
    /// The name of this gateway in traces and metrics.
    pub service_name: String,
}

impl OtlpSettings {
    /// Reads the URL of a collector, as a file would have it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_endpoint(text: &str) -> Result<Uri, String> {
        let Url(url) = Url::read(text).map_err(|misread| misread.problem)?;
        Self::check_endpoint(&url)?;
        Ok(url)
    }

    /// Checks a URL that a collector has been given.
    pub(crate) fn check_endpoint(url: &Uri) -> Result<(), &'static str> {
        let path = url.path().trim_end_matches('/');
        if url.query().is_some() {
            return Err("the URL of a collector has no query; send a key in headers_file");
        }
        match ["/v1/traces", "/v1/metrics", "/v1/logs"]
            .iter()
            .any(|end| path.ends_with(end))
        {
            true => Err(
                "write the URL without /v1/traces, which is added for traces, as /v1/metrics is for metrics",
            ),
            false => Ok(()),
        }
    }

    /// Makes the export of everything to a collector, once a minute for metrics.
    #[must_use]
    pub fn new(endpoint: Uri) -> Self {
        Self {
            endpoint,
            headers: None,
            sample: 1_000,
            timeout: Duration::from_secs(10),
            interval: Duration::from_secs(60),
            service_name: "leasehold".to_owned(),
        }
    }
}

/// Header fields that an export has of itself.
const OWN: [&str; 5] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
];

/// Secret header fields, and the file that they were read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpHeaders {
    /// The file.
    pub file: PathBuf,
    /// The fields.
    pub fields: Vec<(HeaderName, Secret)>,
}

impl OtlpHeaders {
    /// Reads fields from the text of a file, one a line as `NAME: VALUE`; empty lines and those with `#` are skipped.
    ///
    /// # Errors
    /// The number of the first line that is no field; its text is not repeated.
    pub(crate) fn of_file(text: &str, file: PathBuf) -> Result<Self, usize> {
        let lines = (1..).zip(text.lines().map(str::trim));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let field = |(number, line): (usize, &str)| {
            let (name, value) = line.split_once(':').ok_or(number)?;
            let name = name.trim_end().parse::<HeaderName>().map_err(|_| number)?;
            // These are the export's own.
            if OWN.contains(&name.as_str()) {
                return Err(number);
            }
            let value = value.trim();
            HeaderValue::from_str(value).map_err(|_| number)?;
            Ok((name, Secret::new(value)))
        };
        Ok(Self {
            fields: lines.map(field).collect::<Result<_, usize>>()?,
            file,
        })
    }
}
