//! Values that are written as texts, such as a span of time.
//!
//! Invariant: a value is shown as a text that is read back as the same value.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error};
use serde::{Serialize, Serializer};
use std::borrow::Cow;

/// A value that is written as a text.
pub(crate) trait Value: Sized {
    /// The name of the texts' form; the schema has it as `format`.
    const FORMAT: &'static str;
    /// A text that can be read.
    const EXAMPLE: &'static str;
    /// All texts, if they are few words.
    const WORDS: &'static [&'static str] = &[];

    /// Reads a text.
    fn read(text: &str) -> Result<Self, Misread>;

    /// Shows the value as a text.
    fn show(&self) -> String;
}

/// The reason that a text is not of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misread {
    /// Byte offset of the mistake in the text, if it is not all of it.
    pub(crate) at: usize,
    pub(crate) problem: String,
}

impl Misread {
    pub(crate) fn new(problem: impl ToString) -> Self {
        Self {
            at: 0,
            problem: problem.to_string(),
        }
    }
}

/// A value in the types of the file, where it is a string.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Text<V>(pub(crate) V);

impl<'de, V: Value> Deserialize<'de> for Text<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let read = V::read(&text).map(Self);
        read.map_err(|misread| D::Error::custom(misread.problem))
    }
}

impl<V: Value> Serialize for Text<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.show())
    }
}

impl<V: Value> JsonSchema for Text<V> {
    fn schema_name() -> Cow<'static, str> {
        V::FORMAT.into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        if V::WORDS.is_empty() {
            json_schema!({ "type": "string", "format": V::FORMAT, "examples": [V::EXAMPLE] })
        } else {
            json_schema!({ "type": "string", "enum": V::WORDS })
        }
    }
}
