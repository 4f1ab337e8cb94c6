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
pub(crate) const MAX_IDS: usize = 16;
/// Bytes of an id.
pub(crate) const MAX_ID: usize = 128;

/// Returns the id in a path, of what only the key that made it has.
pub(crate) fn needed_by_path(path: &str) -> Vec<String> {
    let mut ids = Vec::new();
    if let Some((_, rest)) = kept(path) {
        let id = rest.split(['/', '?']).next().unwrap_or_default();
        add(&mut ids, id);
    }
    ids
}

/// Whether a field of a request names what only the key that made it has.
pub(crate) fn names_needed(field: &str) -> bool {
    FIELDS.contains(&field)
}

/// Whether the service keeps what it makes for a request, which may say whether it is to be stored.
pub(crate) fn is_kept(path: &str, store: Option<bool>) -> bool {
    match kept(path) {
        Some(("chat/completions", "")) => store == Some(true),
        Some(("responses", "")) => store != Some(false),
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
        let id = if value.is_object() {
            &value["id"]
        } else {
            value
        };
        add(&mut ids, id.as_str().unwrap_or_default());
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

/// Adds an id, within the bounds.
pub(crate) fn add(ids: &mut Vec<String>, id: &str) {
    if !id.is_empty() && id.len() <= MAX_ID && ids.len() < MAX_IDS {
        ids.push(id.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_where_the_service_keeps_them() {
        for (path, store, kept) in [
            ("/v1/chat/completions", None, false),
            ("/v1/chat/completions", Some(true), true),
            ("/v1/responses", None, true),
            ("/v1/responses", Some(false), false),
            ("/v1/batches/batch_1", None, true),
            ("/v1/embeddings", None, false),
        ] {
            assert_eq!(is_kept(path, store), kept, "{path} {store:?}");
        }
    }
}
