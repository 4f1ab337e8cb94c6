//! `POST /prompt`: from the body to the queue.
//!
//! Invariant: the counter rises with each body that has no `number`, also if its prompt is refused.

use super::queue::Item;
use super::state::Studio;
use super::validate::{Refused, Validator, error};
use crate::clock::unix_now;
use crate::reply::Reply;
use serde_json::{Map, Number, Value, json};

/// Keys of the user's accounts, which no caller gets to see.
const SENSITIVE: [&str; 2] = ["auth_token_comfy_org", "api_key_comfy_org"];

/// The handler raised an exception, which is answered with 500.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raises;

/// Queues a prompt, or refuses it.
pub(super) fn post(
    studio: &Studio,
    body: &[u8],
    usage_source: Option<&str>,
) -> Result<Reply, Raises> {
    let reply = queue(studio, body, usage_source);
    let status = reply.as_ref().map(Reply::status);
    if !matches!(status, Ok(200)) {
        studio.change(|state| state.report.refused += 1);
    }
    if matches!(status, Ok(200)) {
        studio.queued.notify_one();
    }
    reply
}

fn queue(studio: &Studio, body: &[u8], usage_source: Option<&str>) -> Result<Reply, Raises> {
    let body: Map<String, Value> = serde_json::from_slice(body).map_err(|_| Raises)?;
    let number = number(studio, &body)?;
    let Some(prompt) = body.get("prompt") else {
        let text = "No prompt provided";
        let error = error("no_prompt", text, text, json!({}));
        return Ok(refuse(&error));
    };
    let id = match prompt_id(studio, body.get("prompt_id")) {
        Ok(id) => id,
        Err(details) => {
            let text = "Invalid prompt id";
            let error = error("invalid_prompt_id", text, &details, json!({}));
            return Ok(refuse(&error));
        }
    };
    let prompt = prompt.as_object().ok_or(Raises)?;
    let targets = body
        .get("partial_execution_targets")
        .and_then(Value::as_array);
    let files = studio.read(|state| (state.disk.input_files(), state.disk.made_files()));
    let validator = Validator::new(studio.age(), &studio.classes, [&files.0, &files.1], prompt);
    let validated = match validator.validate(targets.map(Vec::as_slice)) {
        Ok(validated) => validated,
        Err(Refused(body)) => return Ok(Reply::json(400, &body)),
    };
    let answer = json!({
        "prompt_id": id,
        "number": number,
        "node_errors": validated.node_errors,
    });
    let item = Item {
        number,
        id,
        prompt: prompt.clone(),
        extra_data: extra_data(studio, &body, usage_source),
        outputs: validated.outputs,
    };
    studio
        .change(|state| state.enqueue(item))
        .map_err(|_| Raises)?;
    Ok(Reply::json(200, &answer))
}

fn refuse(error: &Value) -> Reply {
    Reply::json(400, &json!({ "error": error, "node_errors": {} }))
}

/// The number that the body asks for, or else the counter's; before the others if it says `front`.
fn number(studio: &Studio, body: &Map<String, Value>) -> Result<Number, Raises> {
    if let Some(number) = body.get("number") {
        let parsed = number.as_str().and_then(|text| text.trim().parse().ok());
        let number = number.as_f64().or(parsed);
        return number.and_then(Number::from_f64).ok_or(Raises);
    }
    let is_front = body.get("front").is_some_and(is_true);
    let counter = studio.change(|state| {
        let counter = state.life.counter;
        state.life.counter += 1;
        counter
    });
    Ok(Number::from(if is_front { -counter } else { counter }))
}

/// Whether Python takes a value for true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_true) => *is_true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// The id that the body asks for, or a new one; the reason, if it may not be used.
fn prompt_id(studio: &Studio, asked: Option<&Value>) -> Result<String, String> {
    let mint = || studio.change(|state| state.draw_uuid());
    if !studio.age().is_2026() {
        return Ok(asked.map_or_else(mint, python_text));
    }
    match asked {
        None | Some(Value::Null) => Ok(mint()),
        Some(Value::String(id)) if is_canonical_uuid(id) => Ok(id.clone()),
        Some(Value::String(_)) => {
            Err("prompt_id must be a UUID in canonical lowercase hyphenated form".to_owned())
        }
        Some(other) => Err(format!("prompt_id must be a string, got {other}")),
    }
}

/// A value as Python's `str` shows it; lists and objects as JSON.
fn python_text(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(text) => text.clone(),
        other @ (Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    }
}

/// Whether a text is 8-4-4-4-12 lower-case hexadecimal digits.
pub(super) fn is_canonical_uuid(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => is_digit(byte),
        })
}

fn extra_data(
    studio: &Studio,
    body: &Map<String, Value>,
    usage_source: Option<&str>,
) -> Map<String, Value> {
    let extra = body.get("extra_data").and_then(Value::as_object);
    let mut extra = extra.cloned().unwrap_or_default();
    if let Some(client_id) = body.get("client_id") {
        extra.insert("client_id".to_owned(), client_id.clone());
    }
    for key in SENSITIVE {
        extra.shift_remove(key);
    }
    if studio.age().is_2026() {
        let now = u64::try_from(unix_now().as_millis()).unwrap_or(u64::MAX);
        extra.insert("create_time".to_owned(), json!(now));
        if let Some(source) = usage_source {
            extra.insert("comfy_usage_source".to_owned(), json!(source));
        }
    }
    extra
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_spelling_of_a_uuid_is_canonical() {
        let good = "0a1b2c3d-4e5f-4a6b-8c7d-0123456789ab";
        assert!(is_canonical_uuid(good));
        let bad = [
            "",
            "x",
            &good.to_uppercase(),
            &good.replace('-', ""),
            &good[1..],
        ];
        assert!(bad.iter().all(|id| !is_canonical_uuid(id)));
        assert!(!is_canonical_uuid(&format!("{{{good}}}")));
    }
}
