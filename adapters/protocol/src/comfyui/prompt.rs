//! A prompt: the body of `POST /prompt`, and what a server's refusal of it means.
//!
//! Invariant: what goes to a server has the id and the client that the gateway has chosen, and no place in the server's
//! own queue.

use leasehold_core::balance::stable_hash;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The priority of prompts that say nothing; lower ones go first.
const ORDINARY: u8 = 128;
/// The priority of prompts that are to go first.
const FRONT: u8 = 64;
/// Prompts of one priority class that are later than others by their own number.
const LATE: u8 = 192;

/// A job as its caller asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The id that the caller has chosen.
    pub id: Option<String>,
    /// The client that is told of its progress.
    pub client_id: Option<String>,
    /// The nodes by their ids.
    pub graph: Map<String, Value>,
    /// What the caller adds: its workflow, its keys.
    pub extra_data: Map<String, Value>,
    /// The outputs that alone are wanted.
    pub targets: Option<Value>,
    /// Its number in the line, if it has one of its own; lower ones go first.
    pub number: Option<f64>,
    /// Whether it goes before others.
    pub is_front: bool,
}

/// Why a prompt is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// The body is no JSON object.
    #[error("the body is no JSON object: {0}")]
    NotJson(String),
    /// It has no graph.
    #[error("No prompt provided")]
    NoPrompt,
    /// Its id is no UUID as Python writes it.
    #[error("Invalid prompt_id: must be a canonical UUID string")]
    InvalidId,
}

/// What a server's refusal of a prompt says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The server lacks these: nodes, or files of models.
    Here(Vec<String>),
    /// The prompt is wrong on each server.
    Everywhere,
}

impl Prompt {
    /// Reads the body of `POST /prompt`.
    ///
    /// # Errors
    /// [`PromptError`], whose [`body`](PromptError::body) is what ComfyUI answers.
    pub fn read(body: &[u8]) -> Result<Self, PromptError> {
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| PromptError::NotJson(error.to_string()))?;
        let Value::Object(mut body) = body else {
            return Err(PromptError::NotJson("it is of another kind".to_owned()));
        };
        let id = match body.remove("prompt_id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if is_uuid(&id) => Some(id),
            Some(_) => return Err(PromptError::InvalidId),
        };
        let Some(Value::Object(graph)) = body.remove("prompt") else {
            return Err(PromptError::NoPrompt);
        };
        let extra_data = match body.remove("extra_data") {
            Some(Value::Object(extra)) => extra,
            Some(_) | None => Map::new(),
        };
        let client_id = body
            .get("client_id")
            .or_else(|| extra_data.get("client_id"));
        Ok(Self {
            id,
            client_id: client_id.and_then(Value::as_str).map(ToOwned::to_owned),
            graph,
            targets: body.remove("partial_execution_targets"),
            number: body.get("number").and_then(Value::as_f64),
            is_front: body.get("front").and_then(Value::as_bool).unwrap_or(false),
            extra_data,
        })
    }

    /// Returns the body that a server gets.
    #[must_use]
    pub fn body_for(&self, graph: &Map<String, Value>, id: &str, client_id: &str) -> Value {
        let mut body = json!({
            "prompt": graph,
            "prompt_id": id,
            "client_id": client_id,
            "extra_data": self.extra_data,
        });
        if let Some(targets) = &self.targets {
            body["partial_execution_targets"] = targets.clone();
        }
        body
    }

    /// Returns the body in its caller's words; read again it is the same prompt.
    #[must_use]
    pub fn to_body(&self) -> Value {
        let mut body = json!({
            "prompt": self.graph,
            "extra_data": self.extra_data,
            "front": self.is_front,
        });
        let fields = [
            ("prompt_id", self.id.as_deref().map(Value::from)),
            ("client_id", self.client_id.as_deref().map(Value::from)),
            ("number", self.number.map(Value::from)),
            ("partial_execution_targets", self.targets.clone()),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body
    }

    /// Returns the item that lists of jobs show, without secrets.
    #[must_use]
    pub fn item(&self, number: f64, id: &str) -> Value {
        let mut extra = self.extra_data.clone();
        super::hide_secrets(&mut extra);
        if let Some(client) = &self.client_id {
            extra.insert("client_id".to_owned(), client.as_str().into());
        }
        json!([number, id, self.graph, extra, []])
    }

    /// The types of its nodes.
    pub fn node_types(&self) -> BTreeSet<&str> {
        let nodes = self.graph.values();
        nodes
            .filter_map(|node| node["class_type"].as_str())
            .collect()
    }

    /// Returns the kind of job that it is: those with the same types of nodes take about the same time.
    #[must_use]
    pub fn class(&self) -> u32 {
        let types: Vec<&str> = self.node_types().into_iter().collect();
        let hash = stable_hash(types.join("\n").as_bytes());
        // 0 is the class of requests that name none.
        u32::try_from(hash >> 32).unwrap_or_default().max(1)
    }

    /// Its priority: lower ones go first.
    #[must_use]
    pub fn priority(&self) -> u8 {
        match (self.is_front, self.number) {
            (true, _) => FRONT,
            (false, Some(number)) if number <= 0.0 => FRONT,
            (false, Some(_)) => LATE,
            (false, None) => ORDINARY,
        }
    }

    /// Returns all that a server may lack for it, as [`judge_refusal`] names it.
    #[must_use]
    pub fn needs(&self) -> BTreeSet<String> {
        let mut needs = BTreeSet::new();
        for node in self.graph.values() {
            let Some(class) = node["class_type"].as_str() else {
                continue;
            };
            needs.insert(node_fact(class));
            for (input, value) in node["inputs"].as_object().into_iter().flatten() {
                if let Some(text) = value.as_str() {
                    needs.insert(value_fact(class, input, text));
                }
            }
        }
        needs
    }
}

impl PromptError {
    /// Returns the body of the answer with status 400, as ComfyUI words it.
    #[must_use]
    pub fn body(&self) -> Value {
        let kind = match self {
            Self::NotJson(_) => "invalid_json",
            Self::NoPrompt => "no_prompt",
            Self::InvalidId => "invalid_prompt_id",
        };
        let message = self.to_string();
        error_body(kind, &message, &message, json!({}), json!({}))
    }
}

/// Makes the body of a refusal, as ComfyUI words it.
#[must_use]
pub(super) fn error_body(
    kind: &str,
    message: &str,
    details: &str,
    extra: Value,
    node_errors: Value,
) -> Value {
    json!({
        "error": {"type": kind, "message": message, "details": details, "extra_info": extra},
        "node_errors": node_errors,
    })
}

/// The name of a type of node, as a thing that a server may lack.
pub(super) fn node_fact(class: &str) -> String {
    format!("node {class}")
}

/// The name of a value, such as a model's file, as a thing that a server may lack.
pub(super) fn value_fact(class: &str, input: &str, value: &str) -> String {
    format!("value {class}.{input}={value}")
}

/// Says whether another server may take a prompt that one has answered with status 400 and this body.
#[must_use]
pub fn judge_refusal(graph: &Map<String, Value>, body: &Value) -> Refused {
    let kind = body["error"]["type"].as_str().unwrap_or_default();
    if kind == "missing_node_type" || kind == "invalid_prompt" {
        return match refused_class(graph, &body["error"]) {
            Some(class) => Refused::Here(vec![node_fact(class)]),
            // A node has no class, which no server can run.
            None => Refused::Everywhere,
        };
    }
    let mut lacks = Vec::new();
    for (id, node) in body["node_errors"].as_object().into_iter().flatten() {
        let class = node["class_type"].as_str();
        let class = class.or_else(|| graph.get(id)?["class_type"].as_str());
        for error in node["errors"].as_array().into_iter().flatten() {
            match error["type"].as_str() {
                Some("value_not_in_list") => {
                    let info = &error["extra_info"];
                    if let (Some(class), Some(input), Some(value)) = (
                        class,
                        info["input_name"].as_str(),
                        info["received_value"].as_str(),
                    ) {
                        lacks.push(value_fact(class, input, value));
                    }
                }
                // A file that is not there: uploads are brought anew.
                Some("custom_validation_failed") => {}
                Some(_) | None => return Refused::Everywhere,
            }
        }
    }
    match body["node_errors"]
        .as_object()
        .is_some_and(|it| !it.is_empty())
    {
        true => Refused::Here(lacks),
        false => Refused::Everywhere,
    }
}

/// The type of node that a server lacks: servers of 2025 name it by the node's id alone.
fn refused_class<'a>(graph: &'a Map<String, Value>, error: &'a Value) -> Option<&'a str> {
    if let Some(class) = error["extra_info"]["class_type"].as_str() {
        return Some(class);
    }
    let details = error["details"].as_str()?;
    let id = details.strip_prefix("Node ID '#")?.strip_suffix('\'')?;
    graph.get(id)?["class_type"].as_str()
}

/// Whether a value names a file by its folder, as in `a.png [output]`, which no list has.
pub(super) fn names_folder(value: &str) -> bool {
    [" [input]", " [output]", " [temp]"]
        .iter()
        .any(|folder| value.ends_with(folder))
}

/// Whether an id is a UUID in lower case with hyphens, as newer servers demand.
fn is_uuid(id: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    id.len() == 36
        && id
            .bytes()
            .enumerate()
            .all(|(at, byte)| match hyphens.contains(&at) {
                true => byte == b'-',
                false => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
            })
}
