//! Entries of a server's history: how a job has ended.

use super::step::Ended;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(status: Value) -> Value {
        json!({"x": {"prompt": [1, "x", {}, {}, ["9"]], "outputs": {}, "status": status, "meta": {}}})
    }

    fn ended(answer: &Value) -> Option<Ended> {
        entry_of(answer, "x").map(|entry| entry.ended)
    }

    #[test]
    fn a_job_has_ended_as_its_entry_says() {
        let start = json!(["execution_start", {"prompt_id": "x", "timestamp": 1760000000000_u64}]);
        let with = |status: &str, last: &str| {
            let completed = status == "success";
            entry(json!({
                "status_str": status, "completed": completed, "messages": [start, [last, {"prompt_id": "x"}]],
            }))
        };
        assert_eq!(
            ended(&with("success", "execution_success")),
            Some(Ended::Succeeded)
        );
        assert_eq!(
            ended(&with("error", "execution_error")),
            Some(Ended::Failed)
        );
        assert_eq!(
            ended(&with("error", "execution_interrupted")),
            Some(Ended::Interrupted)
        );
    }

    #[test]
    fn an_entry_without_a_status_is_that_of_a_success() {
        assert_eq!(ended(&entry(Value::Null)), Some(Ended::Succeeded));
    }

    #[test]
    fn a_job_that_waits_runs_or_is_unknown_has_no_entry() {
        assert_eq!(ended(&json!({})), None);
        assert_eq!(ended(&json!([])), None);
        assert_eq!(ended(&json!({"x": null})), None);
        assert_eq!(entry_of(&entry(Value::Null), "y"), None);
    }

    #[test]
    fn the_entry_of_a_job_that_no_server_ended_is_read_as_a_failure() {
        let data = json!({"prompt_id": "x", "exception_message": "its server was restarted"});
        let value = failed_entry(json!([1, "x", {}, {}, []]), "execution_error", data);
        assert_eq!(ended(&json!({ "x": value })), Some(Ended::Failed));
        let value = failed_entry(Value::Null, "execution_interrupted", json!({}));
        assert_eq!(ended(&json!({ "x": value })), Some(Ended::Interrupted));
    }

    #[test]
    fn keys_are_removed_and_the_rest_stays_in_order() {
        let extra =
            json!({"a": 1, "auth_token_comfy_org": "s", "b": 2, "api_key_comfy_org": "s", "c": 3});
        let mut extra = extra.as_object().unwrap().clone();
        hide_secrets(&mut extra);
        assert_eq!(Value::Object(extra).to_string(), r#"{"a":1,"b":2,"c":3}"#);
    }
}
