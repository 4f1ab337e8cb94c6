//! The form of a line of the access log.
//!
//! Invariant: a line is one line, whatever a caller sends.

use crate::clock::time_of_day;
use crate::record::Record;
use core::time::Duration;
use http::{HeaderValue, Version};
use leasehold_config::LogFormat;
use serde::Serialize;
use std::io::Write;
use std::time::SystemTime;
use tokio::time::Instant;

/// Dates as text, made once a second.
#[derive(Debug, Default)]
pub(crate) struct Dates {
    /// The end of the second that the text stands for.
    until: Option<Instant>,
    /// `10/Oct/2000:13:55:36 +0000`.
    text: String,
}

impl Dates {
    /// Returns the date of the end of a request that has just ended.
    pub(crate) fn of(&mut self, started: Instant, took: Duration) -> &str {
        let ended = started + took;
        if self.until.is_none_or(|until| ended >= until) {
            let date = time_of_day();
            let since = date.duration_since(SystemTime::UNIX_EPOCH);
            let part = Duration::from_nanos(since.unwrap_or_default().subsec_nanos().into());
            self.until = Some(ended + Duration::from_secs(1).saturating_sub(part));
            self.text = common_date(date);
        }
        &self.text
    }
}

/// Writes a date as the Common Log Format has it, in UTC.
fn common_date(time: SystemTime) -> String {
    // `Sun, 06 Nov 1994 08:49:37 GMT`
    let text = httpdate::fmt_http_date(time);
    let mut words = text.split(' ').skip(1);
    let mut next = || words.next().unwrap_or_default();
    let (day, month, year, clock) = (next(), next(), next(), next());
    format!("{day}/{month}/{year}:{clock} +0000")
}

/// A line as an object.
#[derive(Serialize)]
struct JsonLine<'a> {
    time: &'a str,
    client: &'a str,
    method: &'a str,
    uri: String,
    status: u16,
    bytes: u64,
    request_id: &'a str,
    backend: Option<&'a str>,
    attempts: u32,
    end: &'a str,
    queue_ms: f64,
    first_byte_ms: Option<f64>,
    total_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    referrer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
}

/// Adds the line of a request that took this time.
pub(crate) fn write(
    out: &mut Vec<u8>,
    format: LogFormat,
    date: &str,
    record: &Record,
    took: Duration,
) {
    match format {
        LogFormat::Json => {
            // Writing to memory does not fail.
            let _ = write_json(out, date, record, took);
        }
        LogFormat::Common => {
            write_common(out, date, record);
            out.push(b'\n');
        }
        LogFormat::Combined => write_combined(out, date, record, took),
    }
}

fn write_common(out: &mut Vec<u8>, date: &str, record: &Record) {
    let version = match record.version {
        Version::HTTP_10 => " HTTP/1.0\" ",
        _ => " HTTP/1.1\" ",
    };
    let mut bytes = itoa::Buffer::new();
    for part in [
        client_of(record),
        " - - [",
        date,
        "] \"",
        record.method.as_str(),
        " ",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
    escape(out, path_of(record).as_bytes());
    for part in [
        version,
        record.status.as_str(),
        " ",
        bytes.format(record.bytes),
    ] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn write_combined(out: &mut Vec<u8>, date: &str, record: &Record, took: Duration) {
    write_common(out, date, record);
    for field in [&record.referrer, &record.agent] {
        out.extend_from_slice(b" \"");
        escape(out, field.as_ref().map_or(b"-", HeaderValue::as_bytes));
        out.push(b'"');
    }
    // What the combined format lacks and an operator asks for.
    let backend = record
        .backend
        .as_ref()
        .map_or("-", |backend| backend.name());
    for part in [
        b" ",
        record.request_id.as_bytes(),
        b" ",
        backend.as_bytes(),
        b" ",
    ] {
        out.extend_from_slice(part);
    }
    write_seconds(out, took);
    for part in [" ", record.end.code(), "\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes a time in seconds, rounded to three decimals. Formatting a float takes ten times as long.
fn write_seconds(out: &mut Vec<u8>, time: Duration) {
    let rounded = time.saturating_add(Duration::from_micros(500));
    out.extend_from_slice(itoa::Buffer::new().format(rounded.as_secs()).as_bytes());
    let mut millis = itoa::Buffer::new();
    // The first digit is a 1 that keeps the zeros after it.
    let millis = millis.format(rounded.subsec_millis().saturating_add(1_000));
    out.push(b'.');
    out.extend_from_slice(millis.as_bytes().get(1..).unwrap_or_default());
}

fn write_json(
    out: &mut Vec<u8>,
    date: &str,
    record: &Record,
    took: Duration,
) -> std::io::Result<()> {
    let text = |field: &Option<HeaderValue>| {
        field
            .as_ref()
            .and_then(|value| value.to_str().ok().map(str::to_owned))
    };
    let (referrer, agent) = (text(&record.referrer), text(&record.agent));
    let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let line = JsonLine {
        time: date,
        client: client_of(record),
        method: record.method.as_str(),
        uri: path_of(record).to_owned(),
        status: record.status.as_u16(),
        bytes: record.bytes,
        request_id: record.request_id.to_str().unwrap_or_default(),
        backend: record.backend.as_ref().map(|backend| backend.name()),
        attempts: record.attempts,
        end: record.end.code(),
        queue_ms: millis(record.waited),
        first_byte_ms: record.first_byte.map(millis),
        total_ms: millis(took),
        referrer: referrer.as_deref(),
        agent: agent.as_deref(),
    };
    serde_json::to_writer(&mut *out, &line)?;
    writeln!(out)
}

fn client_of(record: &Record) -> &str {
    let client = record.client.as_ref();
    client
        .and_then(|client| client.to_str().ok())
        .unwrap_or("unix:")
}

fn path_of(record: &Record) -> &str {
    record
        .uri
        .path_and_query()
        .map_or("-", |path| path.as_str())
}

/// Writes bytes so that they end neither a quoted text nor a line.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_as_the_common_log_format_has_it() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(971_186_136);
        assert_eq!(common_date(time), "10/Oct/2000:13:55:36 +0000");
    }

    #[test]
    fn a_time_is_seconds_with_three_decimals() {
        for (micros, text) in [
            (0, "0.000"),
            (499, "0.000"),
            (1_500, "0.002"),
            (999_499, "0.999"),
            (999_500, "1.000"),
            (61_042_000, "61.042"),
        ] {
            let mut out = Vec::new();
            write_seconds(&mut out, Duration::from_micros(micros));
            assert_eq!(str::from_utf8(&out), Ok(text));
        }
    }

    #[test]
    fn a_caller_cannot_end_a_line_or_a_quoted_text() {
        let mut out = Vec::new();
        escape(&mut out, b"a\"b\\c\nd\xff");
        assert_eq!(out, br#"a\"b\\c\x0ad\xff"#);
    }
}
