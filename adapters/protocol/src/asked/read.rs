//! One way over a request's body, which keeps of it what is asked for and nothing else.
//!
//! Invariant: what is read is what [`serde_json::Value`] has under the same names, of a field that comes twice the last.

use crate::resource::{add, names_needed};
use core::fmt;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// What is read of a body.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) model: String,
    pub(super) is_stream: bool,
    pub(super) includes_usage: bool,
    pub(super) store: Option<bool>,
    /// Ids of what only one key has.
    pub(super) needs: Vec<String>,
}

impl Body {
    /// Returns what no body says, with ids that are known from elsewhere.
    pub(super) fn new(needs: Vec<String>) -> Self {
        Self {
            model: String::new(),
            is_stream: false,
            includes_usage: false,
            store: None,
            needs,
        }
    }

    /// Reads a body; an empty one says nothing.
    pub(super) fn read(needs: Vec<String>, body: &[u8]) -> Result<Self, serde_json::Error> {
        let mut read = Self::new(needs);
        if body.is_empty() {
            return Ok(read);
        }
        let text = str::from_utf8(body).map_err(serde_json::Error::custom)?;
        let mut parser = serde_json::Deserializer::from_str(text);
        if text.trim_start().starts_with('{') {
            parser.deserialize_any(Fields(&mut read))?;
        } else {
            let (ids, is_id) = (&mut read.needs, false);
            parser.deserialize_any(Ids { ids, is_id })?;
        }
        parser.end()?;
        Ok(read)
    }
}

/// The outermost value, of which some fields are kept.
struct Fields<'a>(&'a mut Body);

/// Any value, for the ids in it.
struct Ids<'a> {
    ids: &'a mut Vec<String>,
    /// Whether a text here is one.
    is_id: bool,
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Self(body) = self;
        while let Some(field) = fields.next_key_seed(Name { in_id: false })? {
            match field {
                Field::Model => {
                    let model = fields.next_value::<Value>()?;
                    body.model = model.as_str().unwrap_or_default().to_owned();
                }
                Field::Stream => body.is_stream = fields.next_value::<Value>()? == true,
                Field::StreamOptions => {
                    let options = fields.next_value::<Value>()?;
                    body.includes_usage = options["include_usage"] == true;
                }
                Field::Store => body.store = fields.next_value::<Value>()?.as_bool(),
                Field::Other { is_id } => {
                    let ids = &mut body.needs;
                    fields.next_value_seed(Ids { ids, is_id })?;
                }
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Ids<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Ids<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if self.is_id {
            add(self.ids, text);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { ids, is_id } = self;
        while items.next_element_seed(Ids { ids, is_id })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Self { ids, is_id } = self;
        while let Some(field) = fields.next_key_seed(Name { in_id: is_id })? {
            let is_id = matches!(field, Field::Other { is_id: true });
            fields.next_value_seed(Ids { ids, is_id })?;
        }
        Ok(())
    }
}

/// A field of an object.
enum Field {
    Model,
    Stream,
    StreamOptions,
    Store,
    /// Whether its value is an id.
    Other {
        is_id: bool,
    },
}

/// Reads a field's name.
struct Name {
    /// Whether the object stands where an id is wanted: `conversation` is an id or an object with one.
    in_id: bool,
}

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<Field, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        Ok(match name {
            "model" => Field::Model,
            "stream" => Field::Stream,
            "stream_options" => Field::StreamOptions,
            "store" => Field::Store,
            _ => Field::Other {
                is_id: names_needed(name) || self.in_id && name == "id",
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::Asked;
    use crate::resource::{MAX_ID, MAX_IDS};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn read(path: &str, body: &Value) -> Asked {
        Asked::read(path, body.to_string().as_bytes()).expect("JSON")
    }

    fn field() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "model",
            "stream",
            "stream_options",
            "store",
            "messages",
        ])
    }

    fn value() -> impl Strategy<Value = Value> {
        let options = [
            json!({}),
            json!({"include_usage": true, "id": [1]}),
            json!([{"store": true}]),
        ];
        let plain = [
            json!(null),
            json!(true),
            json!(false),
            json!(-1.5),
            json!("a\"b"),
        ];
        prop::sample::select([&options[..], &plain[..]].concat())
    }

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
            assert_eq!(read(path, &body).needs, ids, "{path} {body}");
        }
    }

    proptest! {
        #[test]
        fn no_request_names_more_than_its_bound(count in 0_usize..60, length in 0_usize..200) {
            let ids = vec!["a".repeat(length); count];
            let read = read("/v1/files/file-1", &json!({"file_ids": ids, "a": [{"file_id": ids}]})).needs;
            prop_assert!(read.len() <= MAX_IDS);
            prop_assert!(read.iter().all(|id| id.len() <= MAX_ID));
        }

        /// Of each field, the last is taken, as a parser does that keeps all.
        #[test]
        fn what_is_read_is_what_is_there(
            fields in prop::collection::vec((field(), value()), 0..6),
        ) {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            let text = format!("{{{}}}", fields.join(","));
            let value: Value = serde_json::from_str(&text).expect("JSON");
            let read = Asked::read("/v1/chat/completions", text.as_bytes()).expect("JSON");
            prop_assert_eq!(&*read.model, value["model"].as_str().unwrap_or_default());
            prop_assert_eq!(read.is_stream, value["stream"] == true);
            prop_assert_eq!(read.shows_usage, value["stream_options"]["include_usage"] == true);
            prop_assert_eq!(read.is_kept, value["store"] == true);
        }
    }
}
