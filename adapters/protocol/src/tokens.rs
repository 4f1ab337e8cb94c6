//! Token counts before a call.
//!
//! Invariant: no text makes the tokenizer panic or take time beyond linear: it gets pieces of at most
//! [`MAX_PIECE`] bytes. Its expression engine gives up on runs of about a million like characters.

use serde_json::Value;
use tiktoken_rs::tokenizer::{Tokenizer, get_tokenizer};
use tiktoken_rs::{CoreBPE, cl100k_base_singleton, o200k_base_singleton};

/// Bytes that are encoded at once. A cut within a word adds at most two tokens.
const MAX_PIECE: usize = 4 * 1024;
/// Tokens taken for a part that is no text: about those of a picture at high detail.
const TOKENS_OF_PART: u32 = 1_024;
/// Tokens around each message, and those that begin the answer, as OpenAI's cookbook counts them.
const TOKENS_OF_MESSAGE: u32 = 3;

/// A vocabulary of OpenAI's models.
///
/// Each is read at its first use; see the crate's README for the time that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `cl100k_base`: gpt-4, gpt-3.5 and the embeddings.
    Cl100k,
    /// `o200k_base`: gpt-4o, gpt-4.1, gpt-5, the o series and gpt-oss.
    O200k,
}

impl Encoding {
    /// Returns the encoding of a model; `None` if it is unknown. A provider's name before a slash is skipped.
    #[must_use]
    pub fn of_model(model: &str) -> Option<Self> {
        let model = model.rsplit('/').next().unwrap_or(model);
        match get_tokenizer(&model.to_ascii_lowercase())? {
            Tokenizer::O200kBase | Tokenizer::O200kHarmony => Some(Self::O200k),
            Tokenizer::Cl100kBase => Some(Self::Cl100k),
            Tokenizer::P50kBase | Tokenizer::R50kBase | Tokenizer::P50kEdit | Tokenizer::Gpt2 => {
                None
            }
        }
    }

    /// Counts the tokens of a text.
    #[must_use]
    pub fn count(self, text: &str) -> u32 {
        let tokenizer = self.tokenizer();
        let mut count = 0_usize;
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_end(rest));
            count = count.saturating_add(tokenizer.count_ordinary(piece));
            rest = after;
        }
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Reads the vocabulary, so that no call has to wait for it; call it on a thread of its own.
    pub fn load(self) {
        let _ = self.tokenizer();
    }

    fn tokenizer(self) -> &'static CoreBPE {
        match self {
            Self::Cl100k => cl100k_base_singleton(),
            Self::O200k => o200k_base_singleton(),
        }
    }
}

/// Returns the end of the next piece: before the last space within the bound, else at the bound.
fn piece_end(text: &str) -> usize {
    if text.len() <= MAX_PIECE {
        return text.len();
    }
    let end = (1..=MAX_PIECE)
        .rev()
        .find(|end| text.is_char_boundary(*end));
    let end = end.unwrap_or(text.len());
    // Tokens begin with their space.
    let space = text[..end].rfind(' ').filter(|space| *space > 0);
    space.unwrap_or(end)
}

/// Counts the tokens of a text for a model.
///
/// If the model is unknown, a quarter of the text's bytes is returned, rounded up.
///
/// ```
/// use leasehold_protocol::count_tokens;
///
/// assert_eq!(count_tokens("gpt-4o", "hello world"), 2);
/// assert_eq!(count_tokens("some-model", "hello world"), 3);
/// ```
#[must_use]
pub fn count_tokens(model: &str, text: &str) -> u32 {
    count(Encoding::of_model(model), text)
}

/// Estimates the tokens of a request's prompt, from its body.
///
/// Texts are counted exactly where the model is known. A part that is no text, such as an image, is taken for 1,024
/// tokens; tools are counted by their JSON.
///
/// ```
/// use leasehold_protocol::estimate_prompt;
/// use serde_json::json;
///
/// let body = json!({"messages": [{"role": "user", "content": "hello world"}]});
/// assert_eq!(estimate_prompt("gpt-4o", &body), 3 + 3 + 1 + 2);
/// ```
#[must_use]
pub fn estimate_prompt(model: &str, body: &Value) -> u32 {
    let encoding = Encoding::of_model(model);
    let mut total = 0_u32;
    for name in ["messages", "input", "prompt", "system", "instructions"] {
        let value = &body[name];
        if name == "messages" && value.is_array() {
            total = total.saturating_add(TOKENS_OF_MESSAGE);
        }
        total = total.saturating_add(content(encoding, value));
    }
    for name in ["tools", "functions", "response_format"] {
        let value = &body[name];
        if !value.is_null() {
            total = total.saturating_add(count(encoding, &value.to_string()));
        }
    }
    total
}

/// Estimates the most tokens that a call may use: its prompt, and the longest answer of each choice.
///
/// `default_output` is taken for an answer without a limit of its own.
#[must_use]
pub fn estimate_most(model: &str, body: &Value, default_output: u32) -> u32 {
    estimate_prompt(model, body).saturating_add(estimate_output(body, default_output))
}

/// Estimates the most tokens that the answers to a call may have: the longest answer of each choice.
///
/// `default_output` is taken for an answer without a limit of its own.
#[must_use]
pub fn estimate_output(body: &Value, default_output: u32) -> u32 {
    let number = |name: &str| {
        body[name]
            .as_u64()
            .map(|it| u32::try_from(it).unwrap_or(u32::MAX))
    };
    let limits = ["max_completion_tokens", "max_output_tokens", "max_tokens"];
    let output = limits
        .into_iter()
        .find_map(number)
        .unwrap_or(default_output);
    let choices = number("n").unwrap_or(1).max(1);
    output.saturating_mul(choices)
}

fn count(encoding: Option<Encoding>, text: &str) -> u32 {
    match encoding {
        Some(encoding) => encoding.count(text),
        None => u32::try_from(text.len().div_ceil(4)).unwrap_or(u32::MAX),
    }
}

/// Counts a content: a text, a message, a part, or a list of them. The depth is bounded by that of the JSON.
fn content(encoding: Option<Encoding>, value: &Value) -> u32 {
    match value {
        Value::String(text) => count(encoding, text),
        Value::Array(items) => {
            // An input of embeddings may be a list of tokens.
            let tokens = items.iter().filter(|item| item.is_number()).count();
            let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            items.iter().fold(tokens, |sum, item| {
                sum.saturating_add(content(encoding, item))
            })
        }
        Value::Object(fields) if fields.contains_key("role") => {
            let named = ["role", "content", "name", "tool_calls", "function_call"];
            let parts = named.iter().filter_map(|name| fields.get(*name));
            parts.fold(TOKENS_OF_MESSAGE, |sum, part| {
                sum.saturating_add(content(encoding, part))
            })
        }
        Value::Object(fields) => {
            let texts = [
                "text",
                "thinking",
                "arguments",
                "output",
                "content",
                "function",
                "input",
                "name",
            ];
            let mut found = texts.iter().filter_map(|name| fields.get(*name)).peekable();
            if found.peek().is_none() {
                return TOKENS_OF_PART;
            }
            found.fold(0, |sum, part| sum.saturating_add(content(encoding, part)))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_model_has_its_encoding() {
        for (model, encoding) in [
            ("gpt-4o-mini", Some(Encoding::O200k)),
            ("GPT-4o", Some(Encoding::O200k)),
            ("openai/gpt-5", Some(Encoding::O200k)),
            ("o3-mini", Some(Encoding::O200k)),
            ("gpt-4-turbo", Some(Encoding::Cl100k)),
            ("gpt-3.5-turbo", Some(Encoding::Cl100k)),
            ("ft:gpt-4o:org:name:id", Some(Encoding::O200k)),
            ("text-embedding-3-small", Some(Encoding::Cl100k)),
            ("claude-sonnet-4", None),
            ("text-davinci-003", None),
            ("", None),
        ] {
            assert_eq!(Encoding::of_model(model), encoding, "{model}");
        }
    }

    #[test]
    fn tokens_are_counted_as_openai_does() {
        for (model, text, tokens) in [
            ("gpt-4o", "", 0),
            ("gpt-4o", "tiktoken is great!", 6),
            ("gpt-4", "tiktoken is great!", 6),
            ("gpt-4", "antidisestablishmentarianism", 6),
            ("gpt-4", "お誕生日おめでとう", 9),
            ("gpt-4o", "お誕生日おめでとう", 8),
            ("other", "hello", 2),
            ("other", "", 0),
        ] {
            assert_eq!(count_tokens(model, text), tokens, "{model}: {text}");
        }
    }

    #[test]
    fn a_long_text_is_counted_in_pieces_to_within_a_hundredth() {
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(2_000);
        let exact = o200k_base_singleton().count_ordinary(&text);
        let counted = Encoding::O200k.count(&text) as usize;
        assert!(
            counted.abs_diff(exact) * 100 <= exact,
            "{counted} for {exact}"
        );
    }

    #[test]
    fn a_run_of_like_characters_is_counted_in_time() {
        for text in ["a", "^", " ", "é", "\n", "😀"] {
            let text = text.repeat(300_000);
            let count = Encoding::O200k.count(&text);
            assert!(count > 0 && (count as usize) < text.len(), "{count}");
        }
    }

    #[test]
    fn a_prompt_is_estimated_from_every_kind_of_body() {
        let message = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
        let image = json!([{"type": "text", "text": "hello world"}, {"type": "image_url", "image_url": {"url": "data:..."}}]);
        for (body, tokens) in [
            (json!({}), 0),
            (message(json!("hello world")), 9),
            (message(json!(null)), 7),
            (message(image), 9 + 1_024),
            (json!({"input": "hello world"}), 2),
            (json!({"input": ["hello world", "hello"]}), 3),
            (json!({"input": [1, 2, 3]}), 3),
            (json!({"prompt": "hello world"}), 2),
            (
                json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hello world"}]}]}),
                6,
            ),
            (json!({"system": "hello", "messages": []}), 4),
            (json!({"tools": [{"type": "function"}]}), 7),
            (json!("hello"), 0),
        ] {
            assert_eq!(estimate_prompt("gpt-4o", &body), tokens, "{body}");
        }
    }

    #[test]
    fn the_most_that_a_call_may_use_counts_every_choice() {
        let most = |extra: Value| {
            let mut body = json!({"prompt": "hello world"});
            body.as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            estimate_most("gpt-4o", &body, 100)
        };
        assert_eq!(most(json!({})), 102);
        assert_eq!(most(json!({"max_tokens": 10, "n": 3})), 32);
        assert_eq!(
            most(json!({"max_tokens": 10, "max_completion_tokens": 20})),
            22
        );
        assert_eq!(
            most(json!({"max_output_tokens": u64::MAX, "n": 0})),
            u32::MAX
        );
    }
}
