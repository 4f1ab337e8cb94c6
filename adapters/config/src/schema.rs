//! The JSON schema of the configuration file.
//!
//! Invariant: the schema has neither references nor null, which TOML lacks, and every table has all its keys.

use crate::file::ConfigFile;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::Value;
use std::sync::LazyLock;

/// Returns the JSON schema (draft 2020-12) of the configuration file, for editors and checks.
///
/// A file that is read is valid by it. What the schema can't say, such as whether a listener's pool is there, is
/// checked besides.
///
/// ```
/// let schema = leasehold_config::schema();
/// assert_eq!(schema["properties"]["drain"]["default"], "30s");
/// ```
#[must_use]
pub fn schema() -> Value {
    SCHEMA.clone()
}

pub(crate) static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.transforms.push(Box::new(ForToml));
    settings
        .into_generator()
        .into_root_schema_for::<ConfigFile>()
        .into()
});

/// Takes null out of types and defaults, and gives every integer its range in place of its width.
#[derive(Clone, Debug)]
struct ForToml;

impl Transform for ForToml {
    fn transform(&mut self, schema: &mut schemars::Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else {
            return;
        };
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|it| it != "null");
            if let [only] = &types[..] {
                let only = only.clone();
                object.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(words)) = object.get_mut("enum") {
            words.retain(|word| !word.is_null());
        }
        if let Some(Value::Array(mut branches)) = object.remove("anyOf") {
            branches.retain(|branch| branch["type"] != "null");
            match (branches.pop(), branches.is_empty()) {
                (Some(Value::Object(only)), true) => {
                    for (key, value) in only {
                        object.entry(key).or_insert(value);
                    }
                }
                (last, _) => {
                    branches.extend(last);
                    object.insert("anyOf".to_owned(), Value::Array(branches));
                }
            }
        }
        if object.get("default") == Some(&Value::Null) {
            object.remove("default");
        }
        let most = match object.get("format").and_then(Value::as_str) {
            Some("uint8" | "uint16" | "uint64" | "double") => None,
            Some("uint32") => Some(u32::MAX),
            Some(_) | None => return,
        };
        object.remove("format");
        if let Some(most) = most
            && !object.contains_key("maximum")
        {
            object.insert("maximum".to_owned(), most.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::READERS;

    /// Calls `visit` with every schema inside of one.
    fn each(schema: &Value, visit: &mut dyn FnMut(&Value)) {
        visit(schema);
        match schema {
            Value::Object(fields) => fields.values().for_each(|field| each(field, visit)),
            Value::Array(items) => items.iter().for_each(|item| each(item, visit)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn the_schema_has_no_null_and_no_reference() {
        each(&SCHEMA, &mut |schema| {
            assert!(
                schema
                    .as_object()
                    .is_none_or(|it| !it.values().any(Value::is_null)),
                "{schema}"
            );
            assert!(schema.get("$ref").is_none());
        });
    }

    #[test]
    fn every_form_has_a_reader_and_every_integer_a_range() {
        let mut count = 0;
        each(&SCHEMA, &mut |schema| match schema["type"].as_str() {
            Some("string") => {
                let format = schema["format"].as_str();
                let is_known = |format: &str| READERS.iter().any(|(name, _)| *name == format);
                // A pool is named as it is.
                let is_free = schema.get("enum").is_some() || format.is_none();
                assert!(is_free || format.is_some_and(is_known), "{schema}");
                count += 1;
            }
            Some("integer" | "number") => {
                let range = schema.get("minimum").zip(schema.get("maximum"));
                assert!(range.is_some(), "{schema}");
            }
            Some(_) | None => {}
        });
        assert!(count > 50, "{count}");
    }

    #[test]
    fn the_schema_itself_is_valid() {
        assert!(jsonschema::meta::is_valid(&SCHEMA));
    }
}
