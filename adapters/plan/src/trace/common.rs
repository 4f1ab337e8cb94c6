//! The Common Log Format and what is put after it: the combined format, times, and what the gateway adds.

use super::{Entry, date};
use core::time::Duration;

/// Reads a line such as `127.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 12 "-" "curl"`.
pub(super) fn parse(line: &str) -> Option<Entry> {
    let (head, rest) = line.split_once(" [")?;
    // HAProxy's lines begin with a date of syslog.
    let client = head.split(' ').next().filter(|client| !client.is_empty())?;
    let (date, rest) = rest.split_once("] \"")?;
    let (start, tick) = date::of_log(date)?;
    let rest = after_quoted(rest)?;
    let mut words = rest.split_ascii_whitespace();
    let is_status = |word: &str| word.len() == 3 && word.bytes().all(|it| it.is_ascii_digit());
    words.next().filter(|word| is_status(word))?;
    words.next()?;
    let (time, member) = extras(rest);
    Some(Entry {
        start,
        tick,
        time,
        member,
        caller: Some(client.to_owned()),
        ..Entry::default()
    })
}

/// Returns what comes after a quoted text, in which quotes are escaped.
fn after_quoted(text: &str) -> Option<&str> {
    let mut is_escaped = false;
    let end = text.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })?;
    text.get(end.saturating_add(1)..)
}

/// Reads the time and the member after the quoted texts: of the gateway's own lines, or a time in seconds with a point.
fn extras(rest: &str) -> (Option<Duration>, Option<String>) {
    let tail = rest.rsplit('"').next().unwrap_or_default();
    let words: Vec<&str> = tail.split_ascii_whitespace().collect();
    match words.as_slice() {
        // `REQUEST-ID BACKEND SECONDS END`
        [_, backend, time, _] if seconds(time).is_some() => {
            let backend = (*backend != "-").then(|| (*backend).to_owned());
            (seconds(time), backend)
        }
        words => {
            let named = words.iter().map(|word| {
                let value = word
                    .strip_prefix("rt=")
                    .or_else(|| word.strip_prefix("request_time="));
                value.unwrap_or(word)
            });
            (
                named.filter(|word| word.contains('.')).find_map(seconds),
                None,
            )
        }
    }
}

/// Reads seconds such as `0.042`.
fn seconds(word: &str) -> Option<Duration> {
    let is_number = word.bytes().all(|it| it.is_ascii_digit() || it == b'.');
    let seconds = word.parse::<f64>().ok().filter(|_| is_number)?;
    Duration::try_from_secs_f64(seconds).ok()
}
