//! JSON lines: the gateway's own access log, and arrivals that any program may write.

use super::{Entry, date};
use core::time::Duration;
use serde_json::Value;

/// Reads an object with `at` (seconds) or `time` (a date, or seconds since 1970), and what else it tells.
pub(super) fn parse(line: &str) -> Option<Entry> {
    let object: Value = serde_json::from_str(line).ok()?;
    let number = |name: &str| object.get(name).and_then(Value::as_f64);
    let text = |name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
    let count = |name: &str| object.get(name).and_then(Value::as_u64);
    let millis = |name: &str| {
        let value = number(name)?;
        Duration::try_from_secs_f64(value / 1e3).ok()
    };
    let is_access_log = object.get("total_ms").is_some();
    let own = millis("call_ms").or_else(|| millis("duration_ms"));
    let time = match millis("total_ms") {
        // The wait for a member is the plan's to say.
        Some(total) => Some(total.saturating_sub(millis("queue_ms").unwrap_or_default())),
        None => own,
    };
    let (start, tick) = match object.get("at").or_else(|| object.get("time"))? {
        Value::Number(seconds) => (of_seconds(seconds.as_f64()?)?, 0),
        Value::String(date) => date::of_log(date).or_else(|| date::of_rfc3339(date))?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    Some(Entry {
        start,
        // Other programs write when a call came, and not when it ended.
        tick: if is_access_log { tick } else { 0 },
        time,
        member: text("backend").or_else(|| text("member")),
        caller: text("client").or_else(|| text("caller")),
        model: text("model"),
        prompt: count("prompt_tokens"),
        completion: count("completion_tokens"),
    })
}

fn of_seconds(seconds: f64) -> Option<i128> {
    // Up to the year 9999.
    let is_time = seconds.is_finite() && seconds.abs() < 3e11;
    is_time.then_some((seconds * 1e9) as i128)
}
