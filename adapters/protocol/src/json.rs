//! JSON as services send it: strict JSON first, and else the same text with its defects mended.
//!
//! Invariant: what is strict JSON is read as strict JSON. The scanner that mends does not recurse, and takes time
//! linear in the text.

use crate::note::{Note, Notes};
use serde_json::Value;
use serde_json::error::Category;
use std::borrow::Cow;

/// Depth below which a value is replaced by null; serde_json itself refuses more than 127.
const MAX_DEPTH: usize = 100;

/// Result of reading a body as JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    /// The value.
    Value(Value),
    /// The text is JSON that ends early.
    Cut,
    /// The text is something else.
    Other,
}

/// Reads a body as JSON and notes what was mended.
pub(crate) fn read(bytes: &[u8], notes: &mut Notes) -> Json {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Json::Value(value);
    }
    let text = text(bytes, notes);
    if !text.starts_with(['{', '[']) {
        return Json::Other;
    }
    let mut mender = Mender::new(&text);
    mender.run();
    match serde_json::from_str(&mender.out) {
        Ok(value) => {
            notes.extend(&mender.notes);
            Json::Value(value)
        }
        Err(error) => match error.classify() {
            Category::Eof => Json::Cut,
            Category::Io | Category::Syntax | Category::Data => Json::Other,
        },
    }
}

/// Decodes a body, without a byte order mark and the padding around it.
pub(crate) fn text<'a>(bytes: &'a [u8], notes: &mut Notes) -> Cow<'a, str> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let is_padding = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0;
    let start = bytes.iter().position(|byte| !is_padding(byte));
    let end = bytes.iter().rposition(|byte| !is_padding(byte));
    let (Some(start), Some(end)) = (start, end) else {
        return Cow::Borrowed("");
    };
    let text = String::from_utf8_lossy(&bytes[start..=end]);
    if matches!(text, Cow::Owned(_)) {
        notes.add(Note::BadUtf8);
    }
    text
}

/// A scanner that copies one JSON value and mends what strict JSON does not allow.
struct Mender<'a> {
    text: &'a str,
    at: usize,
    out: String,
    notes: Notes,
}

impl<'a> Mender<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            out: String::with_capacity(text.len()),
            notes: Notes::default(),
        }
    }

    fn run(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => self.string(),
                b'{' | b'[' if depth >= MAX_DEPTH => self.skip_nested(),
                b'{' | b'[' => {
                    depth += 1;
                    self.copy(1);
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    self.copy(1);
                    if depth == 0 {
                        break;
                    }
                }
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.' => self.word(),
                _ => self.copy(1),
            }
        }
        if !self.rest().trim().is_empty() {
            self.notes.add(Note::TextAfterJson);
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Copies `bytes` bytes, and the rest of the character in which they end.
    fn copy(&mut self, bytes: usize) {
        let mut end = self.at.saturating_add(bytes).min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        self.out.push_str(&self.text[self.at..end]);
        self.at = end;
    }

    /// Skips a value in brackets and writes null.
    fn skip_nested(&mut self) {
        self.notes.add(Note::TooDeep);
        let (mut depth, mut in_string) = (0_usize, false);
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'\\' if in_string => self.at += 1,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
                _ => continue,
            }
            if depth == 0 && !in_string {
                self.out.push_str("null");
                return;
            }
        }
        self.at = self.text.len();
    }

    /// Copies a number or a word; what JSON can't hold becomes null.
    fn word(&mut self) {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let rest = self.rest();
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let word = &rest[..length];
        let name = word.trim_start_matches(['+', '-']);
        let is_number = name.starts_with(|c: char| c.is_ascii_digit());
        let is_out_of_range = is_number && word.parse().is_ok_and(|it: f64| it.is_infinite());
        if is_out_of_range || ["NaN", "nan", "Infinity", "inf", "Inf"].contains(&name) {
            self.notes.add(Note::NotANumber);
            self.out.push_str("null");
            self.at += length;
        } else {
            self.copy(length);
        }
    }

    fn string(&mut self) {
        self.copy(1);
        loop {
            let rest = self.rest();
            let plain = rest.find(|c: char| c == '"' || c == '\\' || c < ' ');
            self.copy(plain.unwrap_or(rest.len()));
            match self.peek() {
                None => return,
                Some(b'"') => return self.copy(1),
                Some(b'\\') => self.escape(),
                Some(control) => {
                    self.notes.add(Note::UnescapedCharacter);
                    self.out.push_str(&format!("\\u{control:04x}"));
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self) {
        match self.text.as_bytes().get(self.at + 1) {
            None => self.at += 1,
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.copy(2),
            Some(b'u') => self.unicode_escape(),
            Some(_) => {
                self.notes.add(Note::UnescapedCharacter);
                self.out.push_str("\\\\");
                self.at += 1;
            }
        }
    }

    fn unicode_escape(&mut self) {
        let code = |at: usize| {
            let digits = self.text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
            u16::from_str_radix(digits, 16).ok()
        };
        match code(self.at) {
            Some(0xd800..=0xdbff) if matches!(code(self.at + 6), Some(0xdc00..=0xdfff)) => {
                self.copy(12);
            }
            Some(0xd800..=0xdfff) => {
                self.notes.add(Note::LoneSurrogate);
                self.out.push_str("\\ufffd");
                self.at += 6;
            }
            Some(_) => self.copy(6),
            // Cut within the escape, or no hexadecimal number.
            None if self.rest().len() < 6 => self.at = self.text.len(),
            None => {
                self.notes.add(Note::UnescapedCharacter);
                self.out.push_str("\\\\");
                self.at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_all(bytes: &[u8]) -> (Json, Vec<Note>) {
        let mut notes = Notes::default();
        let json = read(bytes, &mut notes);
        (json, notes.0)
    }

    #[test]
    fn every_defect_is_mended_and_noted() {
        let replaced = "a\u{fffd}b";
        for (bytes, value, note) in [
            (&b" {\"a\": 1}\n"[..], json!({"a": 1}), None),
            (b"\xef\xbb\xbf{\"a\": 1}", json!({"a": 1}), None),
            (b"\0\0\r\n{\"a\": 1}\0", json!({"a": 1}), None),
            (
                b"{\"a\": \"a\xffb\"}",
                json!({"a": replaced}),
                Some(Note::BadUtf8),
            ),
            (
                b"{\"a\": \"a\\ud83db\"}",
                json!({"a": replaced}),
                Some(Note::LoneSurrogate),
            ),
            (
                b"{\"a\": \"a\\ude00b\"}",
                json!({"a": replaced}),
                Some(Note::LoneSurrogate),
            ),
            (
                b"{\"a\": \"\\ud83d\\u0041\\q\"}",
                json!({"a": "\u{fffd}A\\q"}),
                Some(Note::LoneSurrogate),
            ),
            (
                b"{\"a\": \"\\ud83d\\ude00\n\"}",
                json!({"a": "😀\n"}),
                Some(Note::UnescapedCharacter),
            ),
            (
                b"{\"a\": \"x\ty\0\"}",
                json!({"a": "x\ty\0"}),
                Some(Note::UnescapedCharacter),
            ),
            (
                b"{\"a\": \"\\x41\\u00\\uzzzz\"}",
                json!({"a": "\\x41\\u00\\uzzzz"}),
                Some(Note::UnescapedCharacter),
            ),
            (
                b"{\"a\": NaN, \"b\": [-Infinity, 1e999]}",
                json!({"a": null, "b": [null, null]}),
                Some(Note::NotANumber),
            ),
            (
                b"{\"a\": 1} trailing",
                json!({"a": 1}),
                Some(Note::TextAfterJson),
            ),
            (b"[1, 2]{}", json!([1, 2]), Some(Note::TextAfterJson)),
        ] {
            let (found, notes) = read_all(bytes);
            assert_eq!(found, Json::Value(value), "{}", bytes.escape_ascii());
            assert_eq!(notes.first().copied(), note, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn an_integer_of_any_length_is_a_number() {
        let (found, notes) = read_all(br#"{"a": 123456789012345678901234567890}"#);
        let Json::Value(value) = found else {
            panic!("a value");
        };
        assert!(value["a"].as_f64().unwrap() > 1.2e29);
        assert!(notes.is_empty());
    }

    #[test]
    fn a_value_nested_too_deep_is_null_and_the_rest_is_kept() {
        for depth in [100, 101, 128, 1_000, 1_000_000] {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            let text = format!(r#"{{"x": {open}"]\"]"{close}, "a": "kept"}}"#);
            let (found, notes) = read_all(text.as_bytes());
            let Json::Value(value) = found else {
                panic!("a value at depth {depth}");
            };
            assert_eq!(value["a"], "kept");
            assert_eq!(notes.contains(&Note::TooDeep), depth > 126, "{depth}");
        }
    }

    #[test]
    fn cut_json_is_told_from_other_text() {
        for cut in [
            "{",
            "{\"a\": \"x",
            "{\"a\": \"x\\",
            "{\"a\": \"\\ud8",
            "[[1, 2]",
            "{\"a\": NaN",
        ] {
            assert_eq!(read_all(cut.as_bytes()).0, Json::Cut, "{cut}");
        }
        let deep = "[".repeat(500);
        assert_eq!(read_all(deep.as_bytes()).0, Json::Cut);
        for other in ["", " ", "<html>", "plain", "{not json}", "data: {}", "{]"] {
            assert_eq!(read_all(other.as_bytes()).0, Json::Other, "{other}");
        }
    }
}
