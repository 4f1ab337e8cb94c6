//! What a server can run: its types of nodes, and the values that they take.
//!
//! Invariant: a prompt is refused only for what its server would surely refuse: a type that it has not, a graph without
//! outputs, a value that is in no list.

use super::prompt::{Prompt, error_body, names_folder, node_fact, value_fact};
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};

/// The types of nodes of a server, from its `/object_info`.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    classes: HashMap<String, Class>,
}

#[derive(Clone, Debug, Default)]
struct Class {
    is_output: bool,
    /// The values of inputs that are chosen from a list.
    choices: HashMap<String, BTreeSet<String>>,
}

impl NodeInfo {
    /// Reads the answer of `GET /object_info`; `None` if it is another.
    #[must_use]
    pub fn read(answer: &Value) -> Option<Self> {
        let classes = answer.as_object()?.iter();
        let classes = classes.map(|(name, info)| (name.clone(), Class::read(info)));
        Some(Self {
            classes: classes.collect(),
        })
    }

    /// What of a prompt's needs the server lacks.
    #[must_use]
    pub fn lacks(&self, prompt: &Prompt) -> Vec<String> {
        let mut lacks = Vec::new();
        for node in prompt.graph.values() {
            let Some(name) = node["class_type"].as_str() else {
                continue;
            };
            let Some(class) = self.classes.get(name) else {
                lacks.push(node_fact(name));
                continue;
            };
            for (input, value) in node["inputs"].as_object().into_iter().flatten() {
                if let Some(value) = class.unlisted(input, value) {
                    lacks.push(value_fact(name, input, value));
                }
            }
        }
        lacks
    }

    /// Returns the body with which the server would refuse a prompt for its types or its lack of outputs, if it would.
    #[must_use]
    pub fn refusal(&self, prompt: &Prompt) -> Option<Value> {
        let mut has_output = false;
        for (id, node) in &prompt.graph {
            let title = node["_meta"]["title"].as_str();
            let Some(name) = node["class_type"].as_str() else {
                let details = format!("Node ID '#{id}'");
                let message = "Cannot execute because a node is missing the class_type property.";
                let extra = json!({"node_id": id});
                return Some(error_body(
                    "invalid_prompt",
                    message,
                    &details,
                    extra,
                    json!({}),
                ));
            };
            match self.classes.get(name) {
                Some(class) => has_output |= class.is_output,
                None => {
                    let title = title.unwrap_or(name);
                    let message =
                        format!("Node '{title}' not found. The custom node may not be installed.");
                    let details = format!("Node ID '#{id}'");
                    let extra = json!({"node_id": id, "class_type": name, "node_title": title});
                    return Some(error_body(
                        "missing_node_type",
                        &message,
                        &details,
                        extra,
                        json!({}),
                    ));
                }
            }
        }
        (!has_output).then(|| {
            let message = "Prompt has no outputs";
            error_body("prompt_no_outputs", message, "", json!({}), json!({}))
        })
    }

    /// Returns the body with which the server would refuse values that are in none of its lists, if it would.
    #[must_use]
    pub fn value_refusal(&self, prompt: &Prompt) -> Option<Value> {
        let mut node_errors = Map::new();
        let mut details = Vec::new();
        for (id, node) in &prompt.graph {
            let name = node["class_type"].as_str().unwrap_or_default();
            let Some(class) = self.classes.get(name) else {
                continue;
            };
            let mut errors = Vec::new();
            for (input, value) in node["inputs"].as_object().into_iter().flatten() {
                if let Some(value) = class.unlisted(input, value) {
                    let text = format!("{input}: '{value}' not in the lists of all servers");
                    details.push(format!("Value not in list: {text}"));
                    errors.push(json!({
                        "type": "value_not_in_list", "message": "Value not in list", "details": text,
                        "extra_info": {"input_name": input, "input_config": null, "received_value": value},
                    }));
                }
            }
            if !errors.is_empty() {
                let error = json!({"errors": errors, "dependent_outputs": [], "class_type": name});
                node_errors.insert(id.clone(), error);
            }
        }
        (!node_errors.is_empty()).then(|| {
            error_body(
                "prompt_outputs_failed_validation",
                "Prompt outputs failed validation",
                &details.join("\n"),
                json!({}),
                node_errors.into(),
            )
        })
    }

    /// Adds the classes of another server's answer to a list for callers, and the values of its choices.
    pub fn merge(into: &mut Value, other: &Value) {
        let (Some(all), Some(other)) = (into.as_object_mut(), other.as_object()) else {
            return;
        };
        for (name, info) in other {
            match all.get_mut(name) {
                None => {
                    all.insert(name.clone(), info.clone());
                }
                Some(known) => merge_choices(known, info),
            }
        }
    }
}

impl Class {
    /// The value of an input, if there is a list of its values that has it not.
    fn unlisted<'a>(&self, input: &str, value: &'a Value) -> Option<&'a str> {
        let (choices, value) = (self.choices.get(input)?, value.as_str()?);
        (!choices.contains(value) && !names_folder(value)).then_some(value)
    }

    fn read(info: &Value) -> Self {
        let mut choices = HashMap::new();
        for kind in ["required", "optional"] {
            for (input, config) in info["input"][kind].as_object().into_iter().flatten() {
                // An empty list refuses every value, as the others do.
                if let Some(values) = list_of(config) {
                    let values = values.iter().filter_map(Value::as_str);
                    choices.insert(input.clone(), values.map(ToOwned::to_owned).collect());
                }
            }
        }
        // Uploads are brought to the server before the prompt.
        choices.retain(|input, _| !is_upload(info, input));
        Self {
            is_output: info["output_node"].as_bool().unwrap_or(false),
            choices,
        }
    }
}

/// The values of an input that is chosen from a list, in the words of both ages.
fn list_of(config: &Value) -> Option<&Vec<Value>> {
    match &config[0] {
        Value::Array(values) => Some(values),
        Value::String(kind) if kind == "COMBO" => config[1]["options"].as_array(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            None
        }
    }
}

fn is_upload(info: &Value, input: &str) -> bool {
    ["required", "optional"].iter().any(|kind| {
        let options = info["input"][kind][input][1].as_object();
        let mut names = options.into_iter().flat_map(Map::keys);
        names.any(|name| name.ends_with("_upload") || name == "remote")
    })
}

fn merge_choices(known: &mut Value, other: &Value) {
    for inputs in [&other["input"]["required"], &other["input"]["optional"]] {
        for (input, config) in inputs.as_object().into_iter().flatten() {
            for kind in ["required", "optional"] {
                if let Some(values) = list_of(config) {
                    let mine = known.get_mut("input").and_then(|it| it.get_mut(kind));
                    add_choices(mine.and_then(|it| it.get_mut(input)), values);
                }
            }
        }
    }
}

/// Adds values to the list of an input that has one, in the words of either age.
fn add_choices(config: Option<&mut Value>, values: &[Value]) {
    let Some(Value::Array(config)) = config else {
        return;
    };
    let list = match config.split_first_mut() {
        Some((Value::Array(list), _)) => Some(list),
        Some((Value::String(kind), [options, ..])) if kind == "COMBO" => {
            options.get_mut("options").and_then(Value::as_array_mut)
        }
        Some(_) | None => None,
    };
    if let Some(list) = list {
        for value in values {
            if !list.contains(value) {
                list.push(value.clone());
            }
        }
    }
}
