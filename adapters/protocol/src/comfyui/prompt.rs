//! A prompt: the body of `POST /prompt`, and what a server's refusal of it means.
//!
//! Invariant: what goes to a server has the id and the client that the gateway has chosen, and no place in the server's
//! own queue.

use super::files::replace_inputs;
use leasehold_core::balance::stable_hash;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The priority of prompts that say nothing; lower ones go first.
const ORDINARY: u8 = 128;
/// The priority of prompts that are to go first.
const FRONT: u8 = 64;

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
    /// Texts of the graph that stand for files which are brought to its server, so that no server lacks them.
    pub files: BTreeSet<String>,
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
            number: body.get("number").and_then(number_of),
            is_front: body.get("front").is_some_and(is_true),
            extra_data,
            files: BTreeSet::new(),
        })
    }

    /// Notes which texts of the graph stand for files that are brought to its server.
    pub fn note_files(&mut self, is_brought: impl Fn(&str) -> bool) {
        let files = &mut self.files;
        replace_inputs(&mut self.graph, &mut |text| {
            if is_brought(text) {
                files.insert(text.to_owned());
            }
            None
        });
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
            (false, Some(_) | None) => ORDINARY,
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
                if let Some(text) = value.as_str().filter(|text| !self.files.contains(*text)) {
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

/// Reads a number as Python's `float` does, from a number or a text.
fn number_of(value: &Value) -> Option<f64> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.as_f64()
        }
    };
    number.filter(|number: &f64| number.is_finite())
}

/// Whether a value is true for Python: any but null, false, 0 and what is empty.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_true) => *is_true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    fn read(body: Value) -> Result<Prompt, PromptError> {
        Prompt::read(body.to_string().as_bytes())
    }

    fn graph() -> Value {
        json!({
            "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
            "9": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "out"}},
        })
    }

    fn judge(body: Value) -> Refused {
        judge_refusal(graph().as_object().unwrap(), &body)
    }

    #[test]
    fn a_prompt_is_read_and_goes_to_a_server_with_the_gateways_names_and_no_place() {
        let extra = json!({"extra_pnginfo": {"workflow": {}}, "api_key_comfy_org": "s"});
        let prompt = read(json!({
            "prompt": graph(), "prompt_id": ID, "client_id": "c", "extra_data": extra, "number": -2.5,
            "front": true, "partial_execution_targets": ["9"],
        }));
        let prompt = prompt.unwrap();
        assert_eq!(
            (prompt.id.as_deref(), prompt.client_id.as_deref()),
            (Some(ID), Some("c"))
        );
        assert_eq!((prompt.number, prompt.is_front), (Some(-2.5), true));
        assert_eq!(
            prompt.body_for(&prompt.graph, "own", "gateway"),
            json!({
                "prompt": graph(), "prompt_id": "own", "client_id": "gateway", "extra_data": extra,
                "partial_execution_targets": ["9"],
            })
        );
        let item =
            json!([7.0, "own", graph(), {"extra_pnginfo": {"workflow": {}}, "client_id": "c"}, []]);
        assert_eq!(prompt.item(7.0, "own"), item);
    }

    #[test]
    fn a_prompt_without_an_id_or_with_null_has_none() {
        for id in [
            json!({ "prompt": graph() }),
            json!({"prompt": graph(), "prompt_id": null}),
        ] {
            assert_eq!(read(id).unwrap().id, None);
        }
    }

    #[test]
    fn ids_that_newer_servers_refuse_are_refused() {
        let bad = [
            ID.to_uppercase(),
            ID.replace('-', ""),
            format!("{{{ID}}}"),
            format!("{ID}0"),
            ID.replace('f', "g"),
            "my-job".to_owned(),
            String::new(),
        ];
        for id in bad {
            let error = read(json!({"prompt": graph(), "prompt_id": id})).unwrap_err();
            assert_eq!(error.body()["error"]["type"], "invalid_prompt_id", "{id}");
        }
        let number = read(json!({"prompt": graph(), "prompt_id": 7}));
        assert_eq!(number.unwrap_err(), PromptError::InvalidId);
    }

    #[test]
    fn a_body_without_a_graph_is_refused_as_comfyui_does() {
        let body = read(json!({"client_id": "c"})).unwrap_err().body();
        let message = "No prompt provided";
        let error =
            json!({"type": "no_prompt", "message": message, "details": message, "extra_info": {}});
        assert_eq!(body, json!({"error": error, "node_errors": {}}));
        assert_eq!(
            read(json!({"prompt": []})).unwrap_err(),
            PromptError::NoPrompt
        );
        assert!(matches!(read(json!([])), Err(PromptError::NotJson(_))));
        assert!(matches!(Prompt::read(b"{"), Err(PromptError::NotJson(_))));
    }

    #[test]
    fn priorities_follow_front_and_number() {
        let priority = |more: Value| {
            let mut body = more;
            body["prompt"] = graph();
            read(body).unwrap().priority()
        };
        assert_eq!(priority(json!({})), ORDINARY);
        assert_eq!(priority(json!({"front": true, "number": 9})), FRONT);
        assert_eq!(priority(json!({"number": -1})), FRONT);
        assert_eq!(priority(json!({"number": 9.5})), ORDINARY);
        assert_eq!(priority(json!({"front": false, "number": "9"})), ORDINARY);
        // As Python reads them.
        assert_eq!(priority(json!({"front": 1})), FRONT);
        assert_eq!(priority(json!({"front": 0, "number": "-1"})), FRONT);
        assert_eq!(priority(json!({"front": "", "number": "-inf"})), ORDINARY);
    }

    #[test]
    fn prompts_with_the_same_types_of_nodes_are_of_one_class() {
        let class = |graph: Value| read(json!({ "prompt": graph })).unwrap().class();
        let mut other = graph();
        other["4"]["inputs"]["ckpt_name"] = json!("b.safetensors");
        assert_eq!(class(graph()), class(other.clone()));
        other["9"]["class_type"] = json!("PreviewImage");
        assert_ne!(class(graph()), class(other));
    }

    #[test]
    fn a_missing_type_is_a_fact_of_the_server_in_the_words_of_both_ages() {
        let of_2025 = json!({"error": {
            "type": "invalid_prompt", "message": "Cannot execute because node SaveImage does not exist.",
            "details": "Node ID '#9'", "extra_info": {},
        }, "node_errors": {}});
        let of_2026 = json!({"error": {
            "type": "missing_node_type", "message": "Node 'SaveImage' not found. The custom node may not be installed.",
            "details": "Node ID '#9'",
            "extra_info": {"node_id": "9", "class_type": "SaveImage", "node_title": "SaveImage"},
        }, "node_errors": {}});
        for body in [of_2025, of_2026] {
            assert_eq!(
                judge(body),
                Refused::Here(vec!["node SaveImage".to_owned()])
            );
        }
    }

    #[test]
    fn a_node_without_a_type_is_wrong_everywhere_in_the_words_of_both_ages() {
        let of_2025 = json!({"error": {
            "type": "invalid_prompt", "message": "Cannot execute because a node is missing the class_type property.",
            "details": "Node ID '#27'", "extra_info": {},
        }, "node_errors": {}});
        let of_2026 = json!({"error": {
            "type": "missing_node_type",
            "message": "Node 'ID #27' has no class_type. The workflow may be corrupted or a custom node is missing.",
            "details": "Node ID '#27'", "extra_info": {"node_id": "27", "class_type": null, "node_title": null},
        }, "node_errors": {}});
        for body in [of_2025, of_2026] {
            assert_eq!(judge(body), Refused::Everywhere);
        }
    }

    fn failed(errors: Value) -> Value {
        json!({"error": {
            "type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation",
            "details": "", "extra_info": {},
        }, "node_errors": {
            "4": {"errors": errors, "dependent_outputs": ["9"], "class_type": "CheckpointLoaderSimple"},
        }})
    }

    fn not_in_list(value: Value) -> Value {
        json!({
            "type": "value_not_in_list", "message": "Value not in list", "details": "ckpt_name: 'b' not in []",
            "extra_info": {"input_name": "ckpt_name", "input_config": null, "received_value": value},
        })
    }

    #[test]
    fn a_missing_model_is_a_fact_of_the_server() {
        let fact = "value CheckpointLoaderSimple.ckpt_name=b.safetensors".to_owned();
        let body = failed(json!([not_in_list(json!("b.safetensors"))]));
        assert_eq!(judge(body.clone()), Refused::Here(vec![fact.clone()]));
        let mut unnamed = body;
        unnamed["node_errors"]["4"]
            .as_object_mut()
            .unwrap()
            .shift_remove("class_type");
        assert_eq!(
            judge(unnamed),
            Refused::Here(vec![fact]),
            "the graph names the type"
        );
    }

    #[test]
    fn a_value_that_is_no_text_and_a_file_that_is_not_there_name_no_fact() {
        let number = failed(json!([not_in_list(json!(7))]));
        let file = json!({
            "type": "custom_validation_failed", "message": "Custom validation failed for node",
            "details": "image - Invalid image file: a.png", "extra_info": {"input_name": "image"},
        });
        for body in [number, failed(json!([file])), failed(json!([]))] {
            assert_eq!(judge(body), Refused::Here(Vec::new()));
        }
    }

    #[test]
    fn one_error_of_the_prompt_itself_is_one_everywhere() {
        let missing =
            json!({"type": "required_input_missing", "message": "Required input is missing"});
        let both = failed(json!([not_in_list(json!("b.safetensors")), missing]));
        assert_eq!(judge(both), Refused::Everywhere);
        let none =
            json!({"error": {"type": "prompt_no_outputs", "details": ""}, "node_errors": {}});
        assert_eq!(judge(none), Refused::Everywhere);
        assert_eq!(judge(json!("<html>")), Refused::Everywhere);
    }
}
