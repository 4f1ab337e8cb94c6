//! What a service keeps for the key that made it: files, batches, stored answers, conversations.
//!
//! Invariant: no more ids are read of a request or an answer than [`MAX_IDS`], each of a bounded length.

use serde_json::Value;

/// The first segments of the paths of what services keep.
const KEPT: [&str; 15] = [
    "assistants",
    "batches",
    "chat/completions",
    "containers",
    "conversations",
    "evals",
    "files",
    "fine_tuning/jobs",
    "messages/batches",
    "responses",
    "skills",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
];
/// The fields of a request that name what is kept.
const FIELDS: [&str; 12] = [
    "assistant_id",
    "container",
    "conversation",
    "file_id",
    "file_ids",
    "image_file_id",
    "input_file_id",
    "previous_response_id",
    "thread_id",
    "training_file",
    "validation_file",
    "vector_store_ids",
];
/// The fields of an answer that name what the service has made for it.
const MADE: [&str; 4] = ["id", "output_file_id", "error_file_id", "conversation"];
/// Ids of one request or answer.
const MAX_IDS: usize = 16;
/// Bytes of an id.
const MAX_ID: usize = 128;

/// Returns the ids of what a request needs, which only the key that made them has.
pub(crate) fn needed(path: &str, body: &Value) -> Vec<String> {
    let mut ids = Vec::new();
    if let Some((_, rest)) = kept(path) {
        let id = rest.split(['/', '?']).next().unwrap_or_default();
        add(&mut ids, id);
    }
    collect(&mut ids, body, None);
    ids
}

/// Whether the service keeps what it makes for a request.
pub(crate) fn is_kept(path: &str, body: &Value) -> bool {
    match kept(path) {
        Some(("chat/completions", "")) => body["store"] == true,
        Some(("responses", "")) => body["store"] != false,
        found => found.is_some(),
    }
}

/// Returns the ids of what a service has made, from its answer to a request whose answer is kept.
///
/// ```
/// use leasehold_protocol::made_ids;
/// use serde_json::json;
///
/// let batch = json!({"id": "batch_1", "input_file_id": "file-1", "output_file_id": "file-2"});
/// assert_eq!(made_ids(&batch), ["batch_1", "file-2"]);
/// ```
#[must_use]
pub fn made_ids(answer: &Value) -> Vec<String> {
    let mut ids = Vec::new();
    for name in MADE {
        let value = &answer[name];
        add_text(
            &mut ids,
            if value.is_object() {
                &value["id"]
            } else {
                value
            },
        );
    }
    ids
}

/// Finds the kind of what a path is of, and the rest of the path behind it.
fn kept(path: &str) -> Option<(&'static str, &str)> {
    let path = path.strip_prefix("/v1/")?;
    KEPT.into_iter().find_map(|kind| {
        let rest = path.strip_prefix(kind)?;
        match rest.strip_prefix('/') {
            Some(rest) => Some((kind, rest)),
            None => rest.is_empty().then_some((kind, "")),
        }
    })
}

/// Adds the ids under the fields that have them, however deep. The depth is bounded by the parser's.
fn collect(ids: &mut Vec<String>, value: &Value, field: Option<&str>) {
    if ids.len() >= MAX_IDS {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_id = FIELDS.contains(&name.as_str());
                // `conversation` is an id or an object with one.
                let is_inner = field.is_some() && name == "id";
                collect(ids, value, (is_id || is_inner).then_some(name));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(ids, item, field)),
        Value::String(_) if field.is_some() => add_text(ids, value),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn add_text(ids: &mut Vec<String>, value: &Value) {
    add(ids, value.as_str().unwrap_or_default());
}

fn add(ids: &mut Vec<String>, id: &str) {
    if !id.is_empty() && id.len() <= MAX_ID && ids.len() < MAX_IDS {
        ids.push(id.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_request_names_what_it_needs_in_its_path_and_its_body() {
        for (path, body, ids) in [
            ("/v1/files", json!(null), &[][..]),
            ("/v1/files/file-1/content", json!(null), &["file-1"]),
            (
                "/v1/fine_tuning/jobs/ftjob-1/events",
                json!(null),
                &["ftjob-1"],
            ),
            ("/v1/filesystem/file-1", json!(null), &[]),
            (
                "/v1/batches",
                json!({"input_file_id": "file-1"}),
                &["file-1"],
            ),
            (
                "/v1/responses",
                json!({"previous_response_id": "resp_1", "conversation": {"id": "conv_1"}, "id": "x"}),
                &["resp_1", "conv_1"],
            ),
            (
                "/v1/responses",
                json!({"input": [{"content": [{"type": "input_file", "file_id": "file-1"}]}],
                    "tools": [{"vector_store_ids": ["vs_1", "vs_2"]}]}),
                &["file-1", "vs_1", "vs_2"],
            ),
            (
                "/v1/chat/completions",
                json!({"messages": [{"content": "file_id"}]}),
                &[],
            ),
        ] {
            assert_eq!(needed(path, &body), ids, "{path} {body}");
        }
    }

    #[test]
    fn answers_are_kept_where_the_service_keeps_them() {
        for (path, body, kept) in [
            ("/v1/chat/completions", json!({}), false),
            ("/v1/chat/completions", json!({"store": true}), true),
            ("/v1/responses", json!({}), true),
            ("/v1/responses", json!({"store": false}), false),
            ("/v1/batches/batch_1", json!(null), true),
            ("/v1/embeddings", json!({}), false),
        ] {
            assert_eq!(is_kept(path, &body), kept, "{path} {body}");
        }
    }

    proptest! {
        #[test]
        fn no_request_names_more_than_its_bound(count in 0_usize..60, length in 0_usize..200) {
            let ids = vec!["a".repeat(length); count];
            let read = needed("/v1/files/file-1", &json!({"file_ids": ids, "a": [{"file_id": ids}]}));
            prop_assert!(read.len() <= MAX_IDS);
            prop_assert!(read.iter().all(|id| id.len() <= MAX_ID));
        }
    }
}
