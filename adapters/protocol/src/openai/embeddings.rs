//! Answers of `/embeddings`; the vectors stay in the raw body.

use crate::completion::{Completion, Shape};
use serde_json::Value;

/// Reads a body that has `data`.
pub(crate) fn read(body: &Value) -> (Shape, Completion) {
    let completion = Completion::default().with_common_fields(body);
    let is_empty = body["data"].as_array().is_none_or(Vec::is_empty);
    // A list of models or files may be empty; vectors come with a count of tokens.
    let shape = if is_empty && completion.usage.is_some() {
        Shape::Empty
    } else {
        Shape::Answer
    };
    (shape, completion)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_usage_of_embeddings_is_read() {
        let body = json!({"object": "list", "data": [{"embedding": "AAAA", "index": 0}], "model": "e",
            "usage": {"prompt_tokens": 8, "total_tokens": 8}});
        let (shape, completion) = read(&body);
        assert_eq!((shape, &*completion.model), (Shape::Answer, "e"));
        assert_eq!(
            completion.usage.and_then(|usage| usage.total_tokens),
            Some(8)
        );
        assert_eq!(
            read(&json!({"data": [], "usage": {"total_tokens": 8}})).0,
            Shape::Empty
        );
        assert_eq!(
            read(&json!({"object": "list", "data": []})).0,
            Shape::Answer
        );
    }
}
