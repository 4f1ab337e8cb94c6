//! What a server can run: its types of nodes, and the values that they take.
//!
//! Invariant: a prompt is refused only for what its server would surely refuse: a type that it has not, a graph without
//! outputs, values in no list that all its outputs depend on.

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
                if let Some(value) = class.unlisted(prompt, input, value) {
                    lacks.push(value_fact(name, input, value));
                }
            }
        }
        lacks
    }

    /// Returns the body of the server's refusal of a prompt for its types or its lack of outputs, if any.
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

    /// Returns the body of the server's refusal of values, if each output depends on one that no list has.
    #[must_use]
    pub fn value_refusal(&self, prompt: &Prompt) -> Option<Value> {
        let (node_errors, details) = self.value_errors(prompt);
        let fails = !node_errors.is_empty() && !self.has_good_output(prompt, &node_errors);
        fails.then(|| {
            error_body(
                "prompt_outputs_failed_validation",
                "Prompt outputs failed validation",
                &details.join("\n"),
                json!({}),
                node_errors.into(),
            )
        })
    }

    /// Returns the errors of nodes whose values no list has, and the same in words. A prompt of which an output does
    /// without them is run as far as that.
    #[must_use]
    pub fn value_errors(&self, prompt: &Prompt) -> (Map<String, Value>, Vec<String>) {
        let mut node_errors = Map::new();
        let mut details = Vec::new();
        for (id, node) in &prompt.graph {
            let name = node["class_type"].as_str().unwrap_or_default();
            let Some(class) = self.classes.get(name) else {
                continue;
            };
            let mut errors = Vec::new();
            for (input, value) in node["inputs"].as_object().into_iter().flatten() {
                if let Some(value) = class.unlisted(prompt, input, value) {
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
        (node_errors, details)
    }

    /// Whether an output that is wanted depends on no node with errors: ComfyUI then runs that one, and drops others.
    fn has_good_output(&self, prompt: &Prompt, node_errors: &Map<String, Value>) -> bool {
        let mut users: HashMap<&str, Vec<&str>> = HashMap::new();
        for (id, node) in &prompt.graph {
            for value in node["inputs"].as_object().into_iter().flat_map(Map::values) {
                // A link: the other node's id and the number of its output.
                if let Some(from) = value[0].as_str() {
                    users.entry(from).or_default().push(id);
                }
            }
        }
        let mut bad: Vec<&str> = node_errors.keys().map(String::as_str).collect();
        let mut seen: BTreeSet<&str> = bad.iter().copied().collect();
        while let Some(id) = bad.pop() {
            for user in users.remove(id).into_iter().flatten() {
                if seen.insert(user) {
                    bad.push(user);
                }
            }
        }
        let targets = prompt.targets.as_ref().and_then(Value::as_array);
        prompt.graph.iter().any(|(id, node)| {
            let class = node["class_type"].as_str();
            let class = class.and_then(|class| self.classes.get(class));
            class.is_some_and(|class| class.is_output)
                && targets.is_none_or(|targets| targets.iter().any(|it| it == id))
                && !seen.contains(id.as_str())
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
    fn unlisted<'a>(&self, prompt: &Prompt, input: &str, value: &'a Value) -> Option<&'a str> {
        let (choices, value) = (self.choices.get(input)?, value.as_str()?);
        let is_there = choices.contains(value) || prompt.files.contains(value);
        (!is_there && !names_folder(value)).then_some(value)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comfyui::{Refused, judge_refusal};

    /// The answer of a server of 2025, and of one of 2026, which names lists otherwise.
    fn infos() -> [Value; 2] {
        let ckpts = json!([["a.safetensors", "b.safetensors"], {"tooltip": "The model."}]);
        let combo =
            json!(["COMBO", {"multiselect": false, "options": ["a.safetensors", "b.safetensors"]}]);
        let image = json!([["a.png"], {"image_upload": true}]);
        let upload = json!(["COMBO", {"options": ["a.png"], "image_upload": true}]);
        [(ckpts, image), (combo, upload)].map(|(ckpts, image)| {
            json!({
                "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": ckpts}}, "output_node": false},
                "LoadImage": {"input": {"required": {"image": image}}, "output_node": false},
                "SaveImage": {"input": {"required": {"images": ["IMAGE"]}}, "output_node": true},
            })
        })
    }

    fn prompt(graph: Value) -> Prompt {
        let body = json!({ "prompt": graph }).to_string();
        Prompt::read(body.as_bytes()).unwrap()
    }

    fn loads(ckpt: &str) -> Prompt {
        prompt(json!({
            "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": ckpt}},
            "9": {"class_type": "SaveImage", "inputs": {"images": ["4", 0]}},
        }))
    }

    #[test]
    fn a_prompt_runs_where_its_types_and_values_are_in_the_words_of_both_ages() {
        for info in infos() {
            let info = NodeInfo::read(&info).unwrap();
            assert_eq!(info.lacks(&loads("b.safetensors")), Vec::<String>::new());
            assert_eq!(info.refusal(&loads("b.safetensors")), None);
            assert_eq!(info.value_refusal(&loads("b.safetensors")), None);
        }
    }

    #[test]
    fn a_value_that_is_in_no_list_is_refused_as_comfyui_does() {
        for info in infos() {
            let info = NodeInfo::read(&info).unwrap();
            let prompt = loads("c.safetensors");
            let fact = "value CheckpointLoaderSimple.ckpt_name=c.safetensors".to_owned();
            assert_eq!(info.lacks(&prompt), core::slice::from_ref(&fact));
            let body = info.value_refusal(&prompt).unwrap();
            assert_eq!(body["error"]["type"], "prompt_outputs_failed_validation");
            assert_eq!(
                judge_refusal(&prompt.graph, &body),
                Refused::Here(vec![fact])
            );
        }
    }

    #[test]
    fn a_prompt_with_one_good_output_is_not_refused() {
        let info = NodeInfo::read(&infos()[0]).unwrap();
        let graph = json!({
            "3": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
            "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "gone.safetensors"}},
            "8": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
            "9": {"class_type": "SaveImage", "inputs": {"images": ["4", 0]}},
        });
        let mut both = prompt(graph);
        assert_eq!(info.value_refusal(&both), None);
        both.targets = Some(json!(["9"]));
        assert!(
            info.value_refusal(&both).is_some(),
            "only the bad one is wanted"
        );
    }

    #[test]
    fn a_missing_type_is_refused_by_the_title_of_its_node() {
        let info = NodeInfo::read(&infos()[1]).unwrap();
        let prompt = prompt(json!({
            "27": {"class_type": "KSampler //Inspire", "inputs": {}, "_meta": {"title": "Sampler"}},
        }));
        let body = info.refusal(&prompt).unwrap();
        assert_eq!(
            body["error"],
            json!({
                "type": "missing_node_type",
                "message": "Node 'Sampler' not found. The custom node may not be installed.",
                "details": "Node ID '#27'",
                "extra_info": {"node_id": "27", "class_type": "KSampler //Inspire", "node_title": "Sampler"},
            })
        );
        assert_eq!(info.lacks(&prompt), ["node KSampler //Inspire"]);
    }

    #[test]
    fn a_graph_without_outputs_or_without_a_type_is_refused() {
        let info = NodeInfo::read(&infos()[0]).unwrap();
        let loads = json!({"class_type": "LoadImage", "inputs": {"image": "a.png"}});
        let kind = |graph| info.refusal(&prompt(graph)).unwrap()["error"]["type"].clone();
        assert_eq!(kind(json!({ "1": loads })), "prompt_no_outputs");
        assert_eq!(kind(json!({"1": {"inputs": {}}})), "invalid_prompt");
    }

    #[test]
    fn uploads_and_files_named_with_their_folder_are_in_no_list() {
        let info = NodeInfo::read(&infos()[1]).unwrap();
        let graph = json!({"3": {"class_type": "LoadImage", "inputs": {"image": "brought.png"}}});
        assert_eq!(info.lacks(&prompt(graph)), Vec::<String>::new());
        assert_eq!(
            info.lacks(&loads("c.latent [output]")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_file_that_is_brought_is_lacked_nowhere() {
        let info = NodeInfo::read(&infos()[0]).unwrap();
        let mut prompt = loads("uploaded.mp4");
        prompt.note_files(|text| text == "uploaded.mp4");
        assert_eq!(info.lacks(&prompt), Vec::<String>::new());
        assert_eq!(info.value_refusal(&prompt), None);
        let needs = ["node CheckpointLoaderSimple", "node SaveImage"];
        assert_eq!(Vec::from_iter(prompt.needs()), needs);
    }

    #[test]
    fn an_empty_list_refuses_each_value() {
        let mut info = infos()[0].clone();
        info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] = json!([]);
        let info = NodeInfo::read(&info).unwrap();
        assert_eq!(info.lacks(&loads("a.safetensors")).len(), 1);
    }

    #[test]
    fn a_merged_answer_has_the_classes_and_values_of_both() {
        let [mut one, mut other] = infos();
        other["CheckpointLoaderSimple"]["input"] =
            json!({"optional": {"ckpt_name": ["COMBO", {"options": ["c.safetensors"]}]}});
        one["Only"] = json!({"input": {}, "output_node": false});
        for (mut into, from) in [(one.clone(), other.clone()), (other, one)] {
            NodeInfo::merge(&mut into, &from);
            let info = NodeInfo::read(&into).unwrap();
            for ckpt in ["a.safetensors", "b.safetensors", "c.safetensors"] {
                assert_eq!(info.lacks(&loads(ckpt)), Vec::<String>::new(), "{into}");
            }
            assert!(into.get("Only").is_some());
        }
    }
}
