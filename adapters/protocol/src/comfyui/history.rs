//! Entries of a server's history: how a job has ended.

use super::job::Ended;
use serde_json::{Map, Value, json};

/// Fields of `extra_data` that are keys.
const SECRETS: [&str; 2] = ["auth_token_comfy_org", "api_key_comfy_org"];

/// A job that has ended, as a server tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// How it has ended.
    pub ended: Ended,
    /// The entry.
    pub value: Value,
}

/// Returns a job's entry of the answer of `GET /history/{id}`; `None` if it has none.
#[must_use]
pub fn entry_of(answer: &Value, id: &str) -> Option<Entry> {
    let value = answer.get(id).filter(|entry| entry.is_object())?;
    let messages = value["status"]["messages"].as_array();
    let mut names = messages.into_iter().flatten().map(|one| one[0].as_str());
    let ended = match value["status"]["status_str"].as_str() {
        // Servers of before 2024 have no status where all went well.
        Some("success") | None => Ended::Succeeded,
        Some(_) if names.any(|name| name == Some("execution_interrupted")) => Ended::Interrupted,
        Some(_) => Ended::Failed,
    };
    Some(Entry {
        ended,
        value: value.clone(),
    })
}

/// Makes the entry of a job that no server has ended, with the event that says why.
#[must_use]
pub fn failed_entry(item: Value, event: &str, data: Value) -> Value {
    json!({
        "prompt": item,
        "outputs": {},
        "status": {"status_str": "error", "completed": false, "messages": [[event, data]]},
        "meta": {},
    })
}

/// Removes keys from a prompt's extra data, before it is shown.
pub fn hide_secrets(extra_data: &mut Map<String, Value>) {
    for name in SECRETS {
        extra_data.shift_remove(name);
    }
}
