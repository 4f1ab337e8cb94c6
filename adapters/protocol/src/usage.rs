//! Tokens that a call used, as its answer reports them.
//!
//! Invariant: what is not reported is unknown, never zero.

use crate::wait::decimal;
use serde::Serialize;
use serde_json::Value;

/// Tokens that a call used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    /// Tokens of the completion, reasoning included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u64>,
    /// Total tokens; if not reported, the sum of the two above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_tokens: Option<u64>,
    /// Tokens of the prompt that came from the service's cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// Tokens of the completion that are hidden reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
}

impl Usage {
    /// Reads a `usage` object of chat completions, responses, embeddings or messages.
    ///
    /// `None` if no field is a count, or all counts are zero: a call that was answered used something.
    #[must_use]
    pub fn read(usage: &Value) -> Option<Self> {
        // Of two names for one count, the first is taken if it has one.
        let first = |[one, other]: [Option<u64>; 2]| one.or(other);
        let [mut prompt, mut completion, mut cached, mut reasoning] = [[None; 2]; 4];
        let [mut total, mut read, mut written] = [None; 3];
        // One walk, since a look for each of a dozen names would take longer than to read the answer.
        for (name, value) in usage.as_object()? {
            match &**name {
                "prompt_tokens" => prompt[0] = count(value),
                "input_tokens" => prompt[1] = count(value),
                "completion_tokens" => completion[0] = count(value),
                "output_tokens" => completion[1] = count(value),
                "total_tokens" => total = count(value).filter(|total| *total > 0),
                "cache_read_input_tokens" => read = count(value),
                "cache_creation_input_tokens" => written = count(value),
                "prompt_tokens_details" => cached[0] = count(&value["cached_tokens"]),
                "input_tokens_details" => cached[1] = count(&value["cached_tokens"]),
                "completion_tokens_details" => reasoning[0] = count(&value["reasoning_tokens"]),
                "output_tokens_details" => reasoning[1] = count(&value["reasoning_tokens"]),
                _ => {}
            }
        }
        // Anthropic counts cached tokens beside the others, OpenAI among them.
        let beside = read.unwrap_or(0_u64).saturating_add(written.unwrap_or(0));
        let prompt_tokens = first(prompt).map(|prompt| prompt.saturating_add(beside));
        let completion_tokens = first(completion);
        let sum = || Some(prompt_tokens?.saturating_add(completion_tokens?));
        let found = Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: total.or_else(sum),
            cached_tokens: read.or(first(cached)),
            reasoning_tokens: first(reasoning),
        };
        let counts = [
            found.prompt_tokens,
            found.completion_tokens,
            found.total_tokens,
        ];
        counts
            .into_iter()
            .flatten()
            .any(|count| count > 0)
            .then_some(found)
    }
}

/// Reads a count: an integer, a float (rounded up), or either in a string.
fn count(value: &Value) -> Option<u64> {
    let number = match value {
        Value::Number(number) => match number.as_u64() {
            Some(count) => return Some(count),
            None => number.as_f64()?,
        },
        Value::String(text) => decimal(text)?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    // A float's cast is saturating.
    (number >= 0.0).then_some(number.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn usage_is_read_in_every_form() {
        for (usage, prompt, completion, total) in [
            (
                json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 6}),
                Some(3),
                Some(2),
                Some(6),
            ),
            (
                json!({"prompt_tokens": 3, "completion_tokens": 2}),
                Some(3),
                Some(2),
                Some(5),
            ),
            (
                json!({"prompt_tokens": 3.0, "completion_tokens": 1.5}),
                Some(3),
                Some(2),
                Some(5),
            ),
            (
                json!({"prompt_tokens": "3", "completion_tokens": null}),
                Some(3),
                None,
                None,
            ),
            (
                json!({"input_tokens": 4, "output_tokens": 5, "total_tokens": 9}),
                Some(4),
                Some(5),
                Some(9),
            ),
            (
                json!({"input_tokens": 4, "output_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 10}),
                Some(114),
                Some(5),
                Some(119),
            ),
            (
                json!({"prompt_tokens": 7, "total_tokens": 7}),
                Some(7),
                None,
                Some(7),
            ),
            (
                json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 0}),
                Some(3),
                Some(2),
                Some(5),
            ),
            (
                json!({"prompt_tokens": 3, "total_tokens": 0}),
                Some(3),
                None,
                None,
            ),
            (
                json!({"total_tokens": u64::MAX}),
                None,
                None,
                Some(u64::MAX),
            ),
            (
                json!({"prompt_tokens": 1e300, "completion_tokens": 1}),
                Some(u64::MAX),
                Some(1),
                Some(u64::MAX),
            ),
        ] {
            let found = Usage::read(&usage).unwrap();
            assert_eq!(
                (
                    found.prompt_tokens,
                    found.completion_tokens,
                    found.total_tokens
                ),
                (prompt, completion, total),
                "{usage}"
            );
        }
    }

    #[test]
    fn what_is_not_reported_is_unknown() {
        for usage in [
            json!(null),
            json!({}),
            json!([]),
            json!("none"),
            json!({"prompt_tokens": null, "completion_tokens": null}),
            json!({"prompt_tokens": -3}),
            json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
            json!({"prompt_tokens": "many"}),
        ] {
            assert_eq!(Usage::read(&usage), None, "{usage}");
        }
    }

    #[test]
    fn details_are_read_in_both_dialects() {
        let chat = json!({"prompt_tokens": 9, "completion_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 7}, "completion_tokens_details": {"reasoning_tokens": 6}});
        let responses = json!({"input_tokens": 9, "output_tokens": 8,
            "input_tokens_details": {"cached_tokens": 7}, "output_tokens_details": {"reasoning_tokens": 6}});
        for usage in [chat, responses] {
            let found = Usage::read(&usage).unwrap();
            assert_eq!(
                (found.cached_tokens, found.reasoning_tokens),
                (Some(7), Some(6))
            );
            assert_eq!(found.prompt_tokens, Some(9));
        }
    }
}
