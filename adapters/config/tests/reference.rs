//! The reference of all keys in the README, which is the schema as tables.
//!
//! After a change of the schema: `UPDATE_REFERENCE=1 cargo test -p leasehold-config --test reference`.

use leasehold_config::schema;
use serde_json::Value;
use std::{env, fs};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const BEGIN: &str = "<!-- reference -->\n";
const END: &str = "<!-- end of reference -->\n";

#[test]
fn the_readme_has_every_key_with_its_type_default_and_meaning() {
    let mut expected = String::new();
    write_table(&mut expected, &schema(), &Table::top());
    let readme = fs::read_to_string(README).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (reference, after) = rest.split_once(END).unwrap();
    if env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(README, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
    } else {
        assert!(reference == expected, "the README must have:\n{expected}");
    }
}

#[test]
fn the_readme_explains_every_form_of_text() {
    let readme = fs::read_to_string(README).unwrap();
    let mut forms = Vec::new();
    collect_forms(&schema(), &mut forms);
    assert!(forms.len() > 10);
    for form in forms {
        assert!(readme.contains(&format!("\n| {form} | ")), "{form}");
    }
}

fn collect_forms(schema: &Value, forms: &mut Vec<String>) {
    if let Some(form) = schema["format"].as_str()
        && schema["type"] == "string"
    {
        forms.push(form.to_owned());
    }
    match schema {
        Value::Object(fields) => fields.values().for_each(|it| collect_forms(it, forms)),
        Value::Array(items) => items.iter().for_each(|it| collect_forms(it, forms)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A table's name in a file.
struct Table {
    path: String,
    is_list: bool,
}

impl Table {
    fn top() -> Self {
        Self {
            path: String::new(),
            is_list: false,
        }
    }

    fn key(&self, key: &str, is_list: bool) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self {
            path: format!("{}{dot}{key}", self.path),
            is_list,
        }
    }

    fn title(&self) -> String {
        match (self.path.as_str(), self.is_list) {
            ("", _) => "At the top".to_owned(),
            (path, true) => format!("`[[{path}]]`"),
            (path, false) => format!("`[{path}]`"),
        }
    }
}

fn write_table(page: &mut String, schema: &Value, table: &Table) {
    let meaning = text(&schema["description"]);
    *page += &format!("\n### {}\n\n{meaning}\n\n", table.title());
    *page += "| key | type | default | meaning |\n|---|---|---|---|\n";
    let mut inner = Vec::new();
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let is_required = schema["required"]
            .as_array()
            .is_some_and(|it| it.contains(&key.as_str().into()));
        let default = match &property["default"] {
            _ if is_required => "required".to_owned(),
            Value::Null | Value::Object(_) => String::new(),
            default @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                format!("`{default}`")
            }
        };
        let meaning = text(&property["description"]);
        *page += &format!(
            "| `{key}` | {} | {default} | {meaning} |\n",
            type_of(property)
        );
        if let Some(found) = table_in(property) {
            inner.push((found, key));
        }
    }
    for ((schema, is_list, is_map), key) in inner {
        let mut table = table.key(key, is_list);
        if is_map {
            table = table.key("NAME", is_list);
        }
        write_table(page, schema, &table);
    }
}

/// Returns the table of a key's value, and whether it is one of a list or of a map.
fn table_in(property: &Value) -> Option<(&Value, bool, bool)> {
    let branches = property["anyOf"].as_array();
    let branch = branches
        .into_iter()
        .flatten()
        .find(|it| it["type"] == "object");
    let property = branch.unwrap_or(property);
    let items = &property["items"];
    let values = &property["additionalProperties"];
    if items["type"] == "object" {
        Some((items, true, false))
    } else if values["type"] == "object" {
        Some((values, false, true))
    } else if values.is_object() {
        None
    } else {
        (property["type"] == "object").then_some((property, false, false))
    }
}

fn type_of(schema: &Value) -> String {
    if let Some(branches) = schema["anyOf"].as_array() {
        let branches: Vec<String> = branches.iter().map(type_of).collect();
        return branches.join(" or ");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|it| format!("`{}`", text(it))).collect();
        return words.join(", ");
    }
    let kind = text(&schema["type"]);
    match kind {
        "string" => schema["format"]
            .as_str()
            .unwrap_or("name of a pool")
            .to_owned(),
        "boolean" => "`true`, `false`".to_owned(),
        "array" if schema["items"]["type"] == "object" => "tables".to_owned(),
        "array" => format!("list of: {}", type_of(&schema["items"])),
        "object" if schema["additionalProperties"]["type"] == "object" => {
            "tables by name".to_owned()
        }
        "object" if schema["additionalProperties"].is_object() => {
            let value = type_of(&schema["additionalProperties"]);
            format!("{value} by {}", type_of(&schema["propertyNames"]))
        }
        "object" => "table".to_owned(),
        _ => {
            let (least, most) = (&schema["minimum"], &schema["maximum"]);
            let most = match most.as_u64() {
                Some(most) if most < u32::MAX.into() => format!("{least} to {most}"),
                Some(_) | None => format!("{least} or more"),
            };
            format!("{kind}, {most}")
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("the schema has a text here")
}
