//! Checks a file against the schema: keys, types, ranges and the forms of texts.
//!
//! Invariant: a file without mistakes is read by serde. All mistakes are found, each at its place.

use crate::error::{Problem, Report, nearest};
use crate::file::READERS;
use crate::source::{At, Node, Source};
use serde_json::Value;
use toml::de::{DeTable, DeValue};

/// Adds the mistakes of a file to a report.
pub(crate) fn check(root: &Node<'_>, source: &Source, schema: &Value, report: &mut Report) {
    let mut check = Check { source, report };
    check.node(root, schema, &At::Root);
}

struct Check<'a> {
    source: &'a Source,
    report: &'a mut Report,
}

impl Check<'_> {
    fn node(&mut self, node: &Node<'_>, schema: &Value, at: &At<'_>) {
        let Some(schema) = branch(node.get_ref(), schema) else {
            let problem = Problem::WrongType {
                expected: expected(schema),
                found: type_name(node.get_ref()),
            };
            return self.add(node, at, problem);
        };
        match node.get_ref() {
            DeValue::Table(table) => self.table(node, table, schema, at),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.node(item, &schema["items"], &at.item(index));
                }
            }
            DeValue::String(text) => self.text(node, text, schema, at),
            DeValue::Integer(integer) => {
                let number = i128::from_str_radix(integer.as_str(), integer.radix());
                self.number(node, number.ok().map(|it| it as f64), schema, at);
            }
            DeValue::Float(float) => {
                self.number(node, float.as_str().parse().ok(), schema, at);
            }
            DeValue::Boolean(_) | DeValue::Datetime(_) => {}
        }
    }

    fn table(&mut self, node: &Node<'_>, table: &DeTable<'_>, schema: &Value, at: &At<'_>) {
        let no_keys = serde_json::Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&no_keys);
        for (key, value) in table {
            let name: &str = key.get_ref();
            let at = at.key(name);
            // The values of a map, such as that of pools, are all of one kind.
            let others = schema
                .get("additionalProperties")
                .filter(|it| it.is_object());
            match properties.get(name).or(others) {
                Some(schema) => self.node(value, schema, &at),
                None => {
                    let known = properties.keys().map(String::as_str);
                    let problem = Problem::UnknownKey {
                        nearest: nearest(name, known).map(str::to_owned),
                        known: properties.keys().cloned().collect(),
                    };
                    let mistake = self.source.mistake(key.span().start, at, problem);
                    self.report.add(mistake);
                }
            }
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            let is_misspelt = || {
                table.keys().any(|key| {
                    !properties.contains_key::<str>(key.get_ref())
                        && nearest(key.get_ref(), properties.keys().map(String::as_str))
                            == Some(name)
                })
            };
            if !table.contains_key(name) && !is_misspelt() {
                let example = format!("{name} = {}", example(&properties[name]));
                self.add(node, &at.key(name), Problem::Missing(example));
            }
        }
    }

    fn text(&mut self, node: &Node<'_>, text: &str, schema: &Value, at: &At<'_>) {
        if let Some(words) = schema["enum"].as_array() {
            let words = words.iter().filter_map(Value::as_str);
            if !words.clone().any(|word| word == text) {
                let problem = Problem::UnknownWord {
                    nearest: nearest(text, words.clone()).map(str::to_owned),
                    known: words.map(str::to_owned).collect(),
                };
                self.add(node, at, problem);
            }
        }
        let format = schema["format"].as_str();
        let reader = READERS.iter().find(|(name, _)| Some(*name) == format);
        if let Some(Err(misread)) = reader.map(|(_, read)| read(text)) {
            let byte = self.source.byte_in(node.span(), text, misread.at);
            let problem = Problem::Invalid(misread.problem);
            let mistake = self.source.mistake(byte, at, problem);
            self.report.add(mistake);
        }
    }

    fn number(&mut self, node: &Node<'_>, number: Option<f64>, schema: &Value, at: &At<'_>) {
        let bound = |name: &str| schema[name].as_f64().unwrap_or_default();
        let (least, most) = (bound("minimum"), bound("maximum"));
        if !number.is_some_and(|number| (least..=most).contains(&number)) {
            let problem = Problem::OutOfRange {
                least: least as i128,
                most: most as i128,
            };
            self.add(node, at, problem);
        }
    }

    fn add(&mut self, node: &Node<'_>, at: &At<'_>, problem: Problem) {
        let mistake = self.source.mistake(node.span().start, at, problem);
        self.report.add(mistake);
    }
}

/// Returns the schema, or the branch of it, whose type a value has.
fn branch<'s>(value: &DeValue<'_>, schema: &'s Value) -> Option<&'s Value> {
    let names: &[&str] = match value {
        DeValue::String(_) => &["string"],
        DeValue::Integer(_) => &["integer", "number"],
        DeValue::Float(_) => &["number"],
        DeValue::Boolean(_) => &["boolean"],
        DeValue::Datetime(_) => &[],
        DeValue::Array(_) => &["array"],
        DeValue::Table(_) => &["object"],
    };
    let fits = |schema: &&Value| {
        schema["type"]
            .as_str()
            .is_some_and(|it| names.contains(&it))
    };
    match schema["anyOf"].as_array() {
        Some(branches) => branches.iter().find(fits),
        None => Some(schema).filter(fits),
    }
}

/// Names the type of a schema, with an example.
fn expected(schema: &Value) -> String {
    if let Some(branches) = schema["anyOf"].as_array() {
        let branches: Vec<String> = branches.iter().map(expected).collect();
        return branches.join(" or ");
    }
    match schema["type"].as_str() {
        Some("string") => format!("a string such as {}", example(schema)),
        Some("integer") => "an integer".to_owned(),
        Some("number") => "a number".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some("array") => format!("a list such as {}", example(schema)),
        Some(_) | None => "a table".to_owned(),
    }
}

/// Returns a value that a schema allows, as TOML.
fn example(schema: &Value) -> String {
    match schema["type"].as_str() {
        Some("array") => format!("[{}]", example(&schema["items"])),
        Some("object") => "{ .. }".to_owned(),
        Some(_) | None => {
            let example = schema.pointer("/examples/0").or(schema.pointer("/enum/0"));
            example.map_or("\"..\"".to_owned(), Value::to_string)
        }
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
