//! The validation of a prompt, with the errors of the real server.
//!
//! Invariant: an output is good only if it and all nodes that it depends on are; each node is checked once.

use super::config::ComfyAge;
use super::nodes::{Class, Classes, Input, Kind};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Deepest chain of links; Python's own limit of recursion is near it.
const MAX_DEPTH: usize = 900;

/// Longest list that an error shows in full.
const MAX_LISTED: usize = 20;

/// A prompt that may run, at least in part.
#[derive(Debug)]
pub(super) struct Validated {
    pub(super) outputs: Vec<String>,
    /// Errors of outputs that are dropped.
    pub(super) node_errors: Value,
}

/// The body of a refusal.
#[derive(Debug)]
pub(super) struct Refused(pub(super) Value);

impl Refused {
    fn new(error: &Value, node_errors: &Value) -> Self {
        Self(json!({ "error": error, "node_errors": node_errors }))
    }
}

/// Checks prompts against a server's classes and files.
#[derive(Debug)]
pub(super) struct Validator<'a> {
    pub(super) age: ComfyAge,
    pub(super) classes: &'a Classes,
    pub(super) input_files: &'a [String],
    /// Files that jobs have made, as nodes are given them.
    made_files: &'a [String],
    pub(super) prompt: &'a Map<String, Value>,
    /// Errors of the checked nodes, by id; valid ones have none.
    checked: HashMap<String, Checked>,
    /// Nodes whose check has begun and not ended.
    open: Vec<String>,
}

#[derive(Clone, Debug)]
struct Checked {
    is_valid: bool,
    errors: Vec<Value>,
}

/// An exception: its message and type.
#[derive(Debug)]
struct Raised(String, &'static str);

/// The body of an error of the whole prompt.
pub(super) fn error(kind: &str, message: &str, details: &str, extra_info: Value) -> Value {
    json!({ "type": kind, "message": message, "details": details, "extra_info": extra_info })
}

impl<'a> Validator<'a> {
    pub(super) fn new(
        age: ComfyAge,
        classes: &'a Classes,
        [input_files, made_files]: [&'a [String]; 2],
        prompt: &'a Map<String, Value>,
    ) -> Self {
        Self {
            age,
            classes,
            input_files,
            made_files,
            prompt,
            checked: HashMap::new(),
            open: Vec::new(),
        }
    }

    /// Validates all outputs, or those that are asked for.
    pub(super) fn validate(mut self, targets: Option<&[Value]>) -> Result<Validated, Refused> {
        let whole = |error| Refused::new(&error, &json!({}));
        let outputs = self.outputs(targets).map_err(whole)?;
        if outputs.is_empty() {
            let empty = error("prompt_no_outputs", "Prompt has no outputs", "", json!({}));
            return Err(whole(empty));
        }
        let (mut good, mut lines, mut node_errors) = (Vec::new(), Vec::new(), Map::new());
        for output in outputs {
            if self.check_output(&output) {
                good.push(output);
                continue;
            }
            self.collect(&output, &mut lines, &mut node_errors);
        }
        let node_errors = Value::Object(node_errors);
        if good.is_empty() {
            let message = "Prompt outputs failed validation";
            let kind = "prompt_outputs_failed_validation";
            let error = error(
                kind,
                message,
                &lines.join(
                    "
",
                ),
                json!({}),
            );
            return Err(Refused::new(&error, &node_errors));
        }
        Ok(Validated {
            outputs: good,
            node_errors,
        })
    }

    /// The output nodes, if every node has a class that is there.
    fn outputs(&self, targets: Option<&[Value]>) -> Result<Vec<String>, Value> {
        let mut outputs = Vec::new();
        for (id, node) in self.prompt {
            let name = node.get("class_type");
            let class = name
                .and_then(Value::as_str)
                .and_then(|name| self.classes.get(name));
            let Some(class) = class else {
                return Err(self.unknown_class(id, node, name));
            };
            let is_target = targets.is_none_or(|targets| targets.iter().any(|target| target == id));
            if class.is_output && is_target {
                outputs.push(id.clone());
            }
        }
        Ok(outputs)
    }

    fn unknown_class(&self, id: &str, node: &Value, name: Option<&Value>) -> Value {
        let details = format!("Node ID '#{id}'");
        let class = name.map_or_else(String::new, shown);
        if !self.age.is_2026() {
            let message = match name {
                None => "Cannot execute because a node is missing the class_type property.".into(),
                Some(_) => format!("Cannot execute because node {class} does not exist."),
            };
            return error("invalid_prompt", &message, &details, json!({}));
        }
        let title = node.pointer("/_meta/title").cloned();
        let title = title.unwrap_or_else(|| name.cloned().unwrap_or(Value::Null));
        let title_text = title.as_str().unwrap_or(id);
        let message = match name {
            None => format!(
                "Node '{title_text}' has no class_type. The workflow may be corrupted or a custom node is missing."
            ),
            Some(_) => {
                format!("Node '{title_text}' not found. The custom node may not be installed.")
            }
        };
        let extra = json!({ "node_id": id, "class_type": name, "node_title": title });
        error("missing_node_type", &message, &details, extra)
    }

    fn check_output(&mut self, id: &str) -> bool {
        match self.check(id) {
            Ok(is_valid) => is_valid,
            Err(Raised(message, kind)) => {
                let reason = json!({
                    "type": "exception_during_validation",
                    "message": "Exception when validating node",
                    "details": message,
                    "extra_info": { "exception_type": kind, "traceback": [] },
                });
                self.open.clear();
                self.note(id, false, vec![reason]);
                false
            }
        }
    }

    /// Adds the errors of a failed output, and of the nodes that it depends on, to those of all.
    fn collect(&self, output: &str, lines: &mut Vec<String>, all: &mut Map<String, Value>) {
        let text = |error: &Value, name: &str| error[name].as_str().unwrap_or_default().to_owned();
        for (id, node) in self.prompt {
            let Some(checked) = self.checked.get(id).filter(|node| !node.errors.is_empty()) else {
                continue;
            };
            if id != output && !self.depends(output, id) {
                continue;
            }
            if !all.contains_key(id) {
                let parts =
                    |error| format!("{}: {}", text(error, "message"), text(error, "details"));
                lines.extend(checked.errors.iter().map(parts));
                let entry = json!({
                    "errors": checked.errors,
                    "dependent_outputs": [],
                    "class_type": node["class_type"],
                });
                all.insert(id.clone(), entry);
            }
            let outputs = all
                .get_mut(id)
                .and_then(|entry| entry.get_mut("dependent_outputs"));
            if let Some(Value::Array(outputs)) = outputs {
                outputs.push(json!(output));
            }
        }
    }

    /// Whether a node is reached from another by its links.
    fn depends(&self, from: &str, on: &str) -> bool {
        let (mut todo, mut seen) = (vec![from], vec![from]);
        while let Some(id) = todo.pop() {
            if id == on {
                return true;
            }
            for next in links(self.prompt, id) {
                if !seen.contains(&next) {
                    seen.push(next);
                    todo.push(next);
                }
            }
        }
        false
    }

    fn note(&mut self, id: &str, is_valid: bool, errors: Vec<Value>) {
        self.checked
            .insert(id.to_owned(), Checked { is_valid, errors });
    }

    /// Checks a node and those it depends on.
    fn check(&mut self, id: &str) -> Result<bool, Raised> {
        if let Some(checked) = self.checked.get(id) {
            return Ok(checked.is_valid);
        }
        if self.open.len() > MAX_DEPTH {
            let message = "maximum recursion depth exceeded".to_owned();
            return Err(Raised(message, "RecursionError"));
        }
        let node = &self.prompt[id];
        let inputs = node.get("inputs").and_then(Value::as_object);
        let Some(inputs) = inputs else {
            return Err(Raised("'inputs'".to_owned(), "KeyError"));
        };
        let class = node["class_type"].as_str();
        let Some(class) = class.and_then(|name| self.classes.get(name)) else {
            return Err(Raised("'class_type'".to_owned(), "KeyError"));
        };
        self.open.push(id.to_owned());
        let (mut is_valid, mut errors) = (true, Vec::new());
        for input in class.inputs {
            match self.check_input(class, *input, inputs.get(input.name)) {
                Ok(Found::Valid) => {}
                Ok(Found::Invalid) => is_valid = false,
                Ok(Found::Error(error)) => errors.push(error),
                Err(raised) => return Err(raised),
            }
        }
        self.open.pop();
        let is_valid = is_valid && errors.is_empty();
        self.note(id, is_valid, errors);
        Ok(is_valid)
    }

    fn check_input(
        &mut self,
        class: &Class,
        input: Input,
        value: Option<&Value>,
    ) -> Result<Found, Raised> {
        let Some(value) = value else {
            let extra = json!({ "input_name": input.name });
            let message = "Required input is missing";
            let missing = error("required_input_missing", message, input.name, extra);
            return Ok(match input.is_required {
                true => Found::Error(missing),
                false => Found::Valid,
            });
        };
        match value.as_array() {
            Some(link) => self.check_link(input, value, link),
            None => Ok(self.check_value(class, input, value)),
        }
    }

    fn extra(&self, input: Input, received: &Value) -> Value {
        json!({
            "input_name": input.name,
            "input_config": self.classes.declaration(input.kind, self.input_files),
            "received_value": received,
        })
    }

    fn check_link(&mut self, input: Input, value: &Value, link: &[Value]) -> Result<Found, Raised> {
        let [from, slot] = link else {
            let message = "Bad linked input, must be a length-2 list of [node_id, slot_index]";
            let extra = self.extra(input, value);
            return Ok(Found::Error(error(
                "bad_linked_input",
                message,
                input.name,
                extra,
            )));
        };
        let from = shown(from);
        let key_error = || Raised(format!("'{from}'"), "KeyError");
        let linked = self.prompt.get(&from).ok_or_else(key_error)?;
        let class = linked["class_type"].as_str();
        let class = class.and_then(|name| self.classes.get(name));
        let class = class.ok_or_else(key_error)?;
        let slot = slot.as_u64().and_then(|slot| usize::try_from(slot).ok());
        let out_of_range = || Raised("tuple index out of range".to_owned(), "IndexError");
        let received = slot.and_then(|slot| class.outputs.get(slot));
        let received = *received.ok_or_else(out_of_range)?;
        let wanted = type_name(input.kind);
        if received != wanted && received != "*" && wanted != "*" {
            let details = format!(
                "{}, received_type({received}) mismatch input_type({wanted})",
                input.name
            );
            let mut extra = self.extra(input, value);
            if let Value::Object(extra) = &mut extra {
                extra.shift_remove("received_value");
                extra.insert("received_type".into(), json!(received));
                extra.insert("linked_node".into(), value.clone());
            }
            let message = "Return type mismatch between linked nodes";
            return Ok(Found::Error(error(
                "return_type_mismatch",
                message,
                &details,
                extra,
            )));
        }
        if self.open.contains(&from) {
            return self.cycle(&from);
        }
        match self.check(&from) {
            Ok(true) => Ok(Found::Valid),
            Ok(false) => Ok(Found::Invalid),
            Err(raised) => {
                let at = self.open.iter().position(|open| *open == from);
                self.open.truncate(at.unwrap_or(self.open.len()));
                self.note(&from, false, Vec::new());
                Ok(Found::Error(self.inner_exception(input, value, &raised)))
            }
        }
    }

    fn cycle(&self, from: &str) -> Result<Found, Raised> {
        if !self.age.is_2026() {
            let message = "maximum recursion depth exceeded".to_owned();
            return Err(Raised(message, "RecursionError"));
        }
        let at = self.open.iter().position(|open| open == from);
        let mut cycle = self.open[at.unwrap_or_default()..].to_vec();
        cycle.push(from.to_owned());
        Ok(Found::Error(error(
            "dependency_cycle",
            "Dependency cycle detected",
            &cycle.join(" -> "),
            json!({ "cycle_nodes": cycle }),
        )))
    }

    fn inner_exception(&self, input: Input, value: &Value, raised: &Raised) -> Value {
        let Raised(text, kind) = raised;
        let extra = json!({
            "input_name": input.name,
            "input_config": self.classes.declaration(input.kind, self.input_files),
            "exception_message": text,
            "exception_type": kind,
            "traceback": [],
            "linked_node": value,
        });
        let message = "Exception when validating inner node";
        error("exception_during_inner_validation", message, text, extra)
    }

    fn check_value(&self, class: &Class, input: Input, value: &Value) -> Found {
        match input.kind {
            Kind::Link(_) | Kind::Text => Found::Valid,
            Kind::Int(_, least, most) => {
                let number = as_number(value).filter(|number| number.is_finite());
                self.check_number(
                    input,
                    value,
                    "INT",
                    number.map(f64::trunc),
                    least as f64,
                    most as f64,
                )
            }
            Kind::Float(_, least, most) => {
                self.check_number(input, value, "FLOAT", as_number(value), least, most)
            }
            Kind::Choice(values) => {
                let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
                self.check_choice(input, value, &values)
            }
            Kind::Checkpoint => self.check_choice(input, value, &self.classes.checkpoints),
            Kind::InputFile | Kind::ListedFile => self.check_file(class, input, value),
        }
    }

    fn check_number(
        &self,
        input: Input,
        value: &Value,
        kind: &str,
        number: Option<f64>,
        least: f64,
        most: f64,
    ) -> Found {
        let extra = self.extra(input, value);
        let Some(number) = number else {
            let message = format!("Failed to convert an input value to a {kind} value");
            let problem = format!("could not convert {value} to {kind}");
            let details = format!("{}, {value}, {problem}", input.name);
            let mut extra = extra;
            extra["exception_message"] = json!(problem);
            return Found::Error(error("invalid_input_type", &message, &details, extra));
        };
        if number < least {
            let message = format!("Value {value} smaller than min of {least}");
            return Found::Error(error("value_smaller_than_min", &message, input.name, extra));
        }
        if number > most {
            let message = format!("Value {value} bigger than max of {most}");
            return Found::Error(error("value_bigger_than_max", &message, input.name, extra));
        }
        Found::Valid
    }

    fn check_choice(&self, input: Input, value: &Value, values: &[String]) -> Found {
        if values.iter().any(|known| value == known) {
            return Found::Valid;
        }
        let received = shown(value);
        let mut extra = self.extra(input, value);
        let listed = if values.len() > MAX_LISTED {
            extra["input_config"] = Value::Null;
            format!("(list of length {})", values.len())
        } else {
            let values: Vec<_> = values.iter().map(|value| format!("'{value}'")).collect();
            format!("[{}]", values.join(", "))
        };
        let details = format!("{}: '{received}' not in {listed}", input.name);
        Found::Error(error(
            "value_not_in_list",
            "Value not in list",
            &details,
            extra,
        ))
    }

    fn check_file(&self, class: &Class, input: Input, value: &Value) -> Found {
        let name = value.as_str().unwrap_or_default();
        let name = name.strip_suffix(" [input]").unwrap_or(name);
        let mut files = self.input_files.iter().chain(self.made_files);
        if files.any(|file| file == name) {
            return Found::Valid;
        }
        let details = format!("{} - Invalid image file: {name}", input.name);
        let message = "Custom validation failed for node";
        let mut extra = self.extra(input, value);
        extra["class_type"] = json!(class.name);
        Found::Error(error("custom_validation_failed", message, &details, extra))
    }
}

/// Result of an input's check.
#[derive(Debug)]
enum Found {
    Valid,
    /// A node that it is linked to has errors.
    Invalid,
    Error(Value),
}

/// The nodes that a node is linked to.
pub(super) fn links<'a>(prompt: &'a Map<String, Value>, id: &str) -> Vec<&'a str> {
    let inputs = prompt.get(id).and_then(|node| node["inputs"].as_object());
    let values = inputs.into_iter().flat_map(|inputs| inputs.values());
    let links = values.filter_map(|value| match value.as_array()?.as_slice() {
        [from, _slot] => from.as_str(),
        _ => None,
    });
    links.collect()
}

/// A text as it is, any other value as JSON.
fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// A number, also one written as text, as Python converts it.
fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(is_true) => Some(f64::from(u8::from(*is_true))),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

const fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Link(name) => name,
        Kind::Text => "STRING",
        Kind::Int(..) => "INT",
        Kind::Float(..) => "FLOAT",
        Kind::Choice(_) | Kind::Checkpoint | Kind::InputFile | Kind::ListedFile => "COMBO",
    }
}
