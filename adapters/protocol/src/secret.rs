//! Secrets, and the API keys among them.
//!
//! Invariant: only [`Secret::expose`] and [`ApiKey::expose`] show a secret; an [`ApiKey`] fits into a header. No text that
//! went through [`sanitize`] holds the key, a line break, or more than [`MAX_TEXT`] characters and a dot.

use core::fmt;
use serde_json::Value;

/// Longest text kept of a service's message, in characters.
pub const MAX_TEXT: usize = 1_024;

/// Makes a foreign text fit for a log: without the key, on one line, at most [`MAX_TEXT`] characters.
///
/// ```
/// use leasehold_protocol::{ApiKey, sanitize};
///
/// let key = ApiKey::new("sk-secret-12345678")?;
/// assert_eq!(sanitize("no access\nfor sk-secret-12345678", Some(&key)), "no access for …5678");
/// # Ok::<(), leasehold_protocol::ApiKeyError>(())
/// ```
#[must_use]
pub fn sanitize(text: &str, key: Option<&ApiKey>) -> String {
    // The key goes first: a key cut in half would not be found.
    let text = key.map_or_else(|| text.to_owned(), |key| key.redact(text));
    let breaks_line = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let one_line = text.trim().replace(breaks_line, " ");
    match one_line.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &one_line[..end]),
        None => one_line,
    }
}

/// Returns the first `max` characters of a text, without the part of a key that a cut may leave at its end.
///
/// A key is visible ASCII, so all of such a run before the cut is left out.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let Some((end, _)) = text.char_indices().nth(max) else {
        return text;
    };
    let kept = &text[..end];
    let run = kept.bytes().rev().take_while(u8::is_ascii_graphic).count();
    &kept[..end - run.min(ApiKey::MAX_LEN)]
}

/// A text that `Debug` never shows, such as a token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Takes a text as it is.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the whole text, for use in a request or a comparison only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// An API key.
///
/// `Debug` and `Display` show `…` and its last four characters; for a key shorter than eight characters, only
/// `…`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ApiKey(Secret);

impl ApiKey {
    /// Maximum length in bytes: the header has to fit into a connection's buffer.
    pub const MAX_LEN: usize = 8 * 1024;

    /// Parses a key, without the white space around it.
    ///
    /// # Errors
    /// If the key is empty, longer than [`ApiKey::MAX_LEN`], or has a character other than visible ASCII.
    pub fn new(key: impl AsRef<str>) -> Result<Self, ApiKeyError> {
        let key = key.as_ref().trim();
        if key.is_empty() {
            return Err(ApiKeyError::Empty);
        }
        if key.len() > Self::MAX_LEN {
            return Err(ApiKeyError::TooLong);
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ApiKeyError::NotVisibleAscii);
        }
        Ok(Self(Secret::new(key)))
    }

    /// Returns the whole key, for use in a request only.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Masks every occurrence of the key in `text`.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(self.expose(), &self.to_string())
    }

    /// Masks the key in every text and every name of a value. The depth is bounded by that of the JSON.
    pub(crate) fn redact_json(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.redact(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.redact_json(item)),
            Value::Object(fields) => {
                let masked = core::mem::take(fields)
                    .into_iter()
                    .map(|(name, mut field)| {
                        self.redact_json(&mut field);
                        (self.redact(&name), field)
                    });
                *fields = masked.collect();
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.expose();
        let shown = if key.len() < 8 { 0 } else { 4 };
        write!(f, "…{}", &key[key.len() - shown..])
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({self})")
    }
}

/// The reason that a text is not an [`ApiKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiKeyError {
    /// The text is empty or only white space.
    #[error("the API key is empty")]
    Empty,
    /// The key is longer than [`ApiKey::MAX_LEN`].
    #[error("the API key is longer than {} bytes", ApiKey::MAX_LEN)]
    TooLong,
    /// A character that could change the meaning of a header, or can't be in one.
    #[error("the API key has a space or another character that is not visible ASCII")]
    NotVisibleAscii,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing() {
        let secret = Secret::new("tk-12345678");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(secret.expose(), "tk-12345678");
    }

    #[test]
    fn a_key_shows_its_last_four_characters_at_most() {
        let long = ApiKey::new(" sk-secret-12345678\n").unwrap();
        assert_eq!(format!("{long} {long:?}"), "…5678 ApiKey(…5678)");
        assert_eq!(long.expose(), "sk-secret-12345678");
        assert_eq!(ApiKey::new("1234567").unwrap().to_string(), "…");
        assert_eq!(
            long.redact("a sk-secret-12345678 b sk-secret-12345678"),
            "a …5678 b …5678"
        );
    }

    #[test]
    fn a_key_at_the_cut_is_masked() {
        let key = ApiKey::new("sk-secret-12345678").unwrap();
        for filler in MAX_TEXT - 20..=MAX_TEXT {
            let text = format!("{}{}{}", "é".repeat(filler), key.expose(), "é".repeat(99));
            let sanitized = sanitize(&text, Some(&key));
            assert_eq!(sanitized.chars().count(), MAX_TEXT + 1);
            assert!(!sanitized.contains("sk-"), "{sanitized}");
        }
    }

    #[test]
    fn a_text_that_is_cut_ends_before_what_may_be_half_a_key() {
        for (text, max, kept) in [
            ("no sk-secret", 12, "no sk-secret"),
            ("no sk-secret", 11, "no "),
            ("ключ sk-secret", 6, "ключ "),
            ("ключ", 2, "кл"),
            ("", 0, ""),
        ] {
            assert_eq!(cut(text, max), kept, "{text}");
        }
        let long = "x".repeat(3 * ApiKey::MAX_LEN);
        assert_eq!(cut(&long, 2 * ApiKey::MAX_LEN).len(), ApiKey::MAX_LEN);
    }

    #[test]
    fn a_key_is_masked_in_names_and_texts_of_json() {
        let key = ApiKey::new("sk-secret-12345678").unwrap();
        let name = format!("of {}", key.expose());
        let mut value = serde_json::json!({ name: [key.expose(), 7, {"a": null}] });
        key.redact_json(&mut value);
        assert_eq!(
            value,
            serde_json::json!({"of …5678": ["…5678", 7, {"a": null}]})
        );
    }

    #[test]
    fn a_key_that_does_not_fit_into_a_header_is_an_error() {
        assert_eq!(ApiKey::new(" \t"), Err(ApiKeyError::Empty));
        for key in ["a b", "a\r\nHost: x", "ключ", "a\0"] {
            assert_eq!(ApiKey::new(key), Err(ApiKeyError::NotVisibleAscii));
        }
        let long = "k".repeat(ApiKey::MAX_LEN + 1);
        assert_eq!(ApiKey::new(&long), Err(ApiKeyError::TooLong));
        assert!(ApiKey::new(&long[1..]).is_ok());
    }
}
