//! Readers of what callers and servers say, held to their promises over any bytes.

use leasehold_protocol::comfyui::{
    NodeInfo, Preview, Prompt, Queue, Refused, ServerFrame, StatusFrame, entry_of, failed_entry,
    hide_secrets, judge_refusal, map_files, replace_inputs,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Reads parts of bytes, which zeros separate, as all that they may be.
///
/// The first part is a prompt where it can be one, the second and third are node information of two servers.
///
/// # Panics
/// If a reader breaks a promise.
pub fn run(bytes: &[u8]) {
    check_preview(bytes);
    let mut parts = bytes.split(|byte| *byte == 0);
    let first = parts.next().unwrap_or_default();
    let mut values = parts.map(|part| serde_json::from_slice(part).unwrap_or(Value::Null));
    let (one, other) = (values.next(), values.next());
    let (one, other) = (one.unwrap_or_default(), other.unwrap_or_default());
    check_frame(first);
    let prompt = Prompt::read(first);
    match &prompt {
        Ok(prompt) => check_prompt(prompt),
        Err(error) => assert!(error.body()["error"]["type"].is_string()),
    }
    if let Ok(prompt) = &prompt {
        check_nodes(prompt, &one, &other);
        let _ = judge_refusal(&prompt.graph, &one);
        check_inputs(&prompt.graph);
    }
    let first = serde_json::from_slice(first).unwrap_or(Value::Null);
    for value in [first, one, other] {
        check_answers(&value);
        check_files(&value);
    }
}

fn check_preview(bytes: &[u8]) {
    let Some(preview) = Preview::read(bytes) else {
        return;
    };
    let plain = preview.plain();
    let again = Preview::read(&plain).expect("a plain frame is a preview");
    assert_eq!(again.plain(), plain);
    assert_eq!(again.prompt_id(), None, "a plain frame names no job");
    let image = &plain[8..];
    assert!(bytes.ends_with(image), "the image is the same");
    let metadata = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    match bytes[3] {
        1 => assert_eq!(plain, bytes),
        _ => assert_eq!(image.len() + metadata as usize + 8, bytes.len()),
    }
}

fn check_frame(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else {
        return;
    };
    match ServerFrame::read(text) {
        ServerFrame::Status(status) => {
            let again = ServerFrame::read(&status.text(Some(text)));
            assert_eq!(again, ServerFrame::Status(status));
        }
        ServerFrame::Event(event) => {
            assert_eq!(event.frame["data"]["prompt_id"], event.prompt_id.as_str());
            let again = ServerFrame::read(&event.frame.to_string());
            assert_eq!(again, ServerFrame::Event(event));
        }
        ServerFrame::Unnamed(frame) => {
            let again = ServerFrame::read(&frame.to_string());
            assert_eq!(again, ServerFrame::Unnamed(frame));
        }
        ServerFrame::Features(_) | ServerFrame::Other => {}
    }
}

fn check_prompt(prompt: &Prompt) {
    let body = prompt.body_for(&prompt.graph, "id", "client");
    assert_eq!(
        (&body["prompt_id"], &body["client_id"]),
        (&json!("id"), &json!("client"))
    );
    assert!(body.get("number").is_none() && body.get("front").is_none());
    let mut body = body;
    body["prompt_id"] = json!("0f8fad5b-d9cb-469f-a165-70867728950e");
    let again = Prompt::read(&serde_json::to_vec(&body).expect("it is JSON"));
    let again = again.expect("a server can read it");
    assert_eq!(
        (&again.graph, &again.targets),
        (&prompt.graph, &prompt.targets)
    );
    assert_eq!(again.extra_data, prompt.extra_data);
    assert_eq!(again.class(), prompt.class());
    assert_ne!(prompt.class(), 0);
    let item = prompt.item(7.0, "id");
    let extra = item[3].as_object().expect("an object");
    assert!(
        !extra.contains_key("api_key_comfy_org") && !extra.contains_key("auth_token_comfy_org")
    );
    let nodes = prompt.node_types().len();
    assert_eq!(
        prompt
            .needs()
            .iter()
            .filter(|it| it.starts_with("node "))
            .count(),
        nodes
    );
    let _ = prompt.priority();
}

fn check_nodes(prompt: &Prompt, one: &Value, other: &Value) {
    for info in [one, other] {
        check_refusals(&NodeInfo::read(info).unwrap_or_default(), prompt);
    }
    let mut complete = prompt.clone();
    complete.note_files(|_| true);
    let lacks = NodeInfo::read(one).unwrap_or_default().lacks(&complete);
    assert!(
        lacks.iter().all(|it| it.starts_with("node ")),
        "files are brought: {lacks:?}"
    );
    let mut merged = one.clone();
    NodeInfo::merge(&mut merged, other);
    let Some(merged) = NodeInfo::read(&merged) else {
        return;
    };
    let lacks = merged.lacks(prompt);
    let sides = if one.is_object() {
        [one, other]
    } else {
        [one, one]
    };
    for side in sides {
        let has: BTreeSet<String> = listed(side);
        assert!(
            lacks.iter().all(|it| !has.contains(it)),
            "{lacks:?} of {side}"
        );
    }
}

/// All that a server says that it has, by a reader of its own.
fn listed(info: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (class, info) in info.as_object().into_iter().flatten() {
        all.insert(format!("node {class}"));
        for kind in ["required", "optional"] {
            for (input, config) in info["input"][kind].as_object().into_iter().flatten() {
                let list = if config[0] == "COMBO" {
                    &config[1]["options"]
                } else {
                    &config[0]
                };
                let values = list
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str);
                all.extend(values.map(|value| format!("value {class}.{input}={value}")));
            }
        }
    }
    all
}

/// Checks that refusals name what the server lacks, and that what is read of them is the same.
fn check_refusals(info: &NodeInfo, prompt: &Prompt) {
    let lacks = info.lacks(prompt);
    let needs = prompt.needs();
    assert!(
        lacks.iter().all(|it| needs.contains(it)),
        "{lacks:?} of {needs:?}"
    );
    let (nodes, values): (Vec<String>, Vec<String>) =
        lacks.into_iter().partition(|it| it.starts_with("node "));
    match info.refusal(prompt) {
        None => assert!(nodes.is_empty(), "it lacks {nodes:?}"),
        Some(body) => match judge_refusal(&prompt.graph, &body) {
            Refused::Here(named) => {
                assert!(!named.is_empty() && named.iter().all(|it| nodes.contains(it)))
            }
            Refused::Everywhere => {}
        },
    }
    if let Some(body) = info.value_refusal(prompt) {
        let Refused::Here(named) = judge_refusal(&prompt.graph, &body) else {
            panic!("another server may have {values:?}");
        };
        assert!(!named.is_empty() && named.iter().all(|it| values.contains(it)));
    }
}

fn check_inputs(graph: &Map<String, Value>) {
    let mut same = graph.clone();
    let mut texts = BTreeSet::new();
    replace_inputs(&mut same, &mut |text| {
        texts.insert(text.to_owned());
        None
    });
    assert_eq!(&same, graph);
    let mut changed = graph.clone();
    replace_inputs(&mut changed, &mut |text| Some(format!("@{text}")));
    replace_inputs(&mut changed, &mut |text| {
        let text = text.strip_prefix('@').expect("each text was renamed");
        assert!(texts.contains(text));
        Some(text.to_owned())
    });
    assert_eq!(&changed, graph);
}

fn check_answers(value: &Value) {
    if let Some(queue) = Queue::read(value) {
        assert_eq!(queue.ids().count(), queue.len());
        assert_eq!(queue.is_empty(), queue.ids().next().is_none());
    }
    for id in value.as_object().into_iter().flat_map(Map::keys) {
        let entry = entry_of(value, id);
        assert_eq!(entry.is_some(), value[id].is_object());
        assert!(entry.is_none_or(|entry| entry.value == value[id]));
    }
    let failed = json!({"id": failed_entry(Value::Null, "execution_error", value.clone())});
    let entry = entry_of(&failed, "id").expect("it is an entry");
    assert_eq!(entry.ended, leasehold_protocol::comfyui::Ended::Failed);
    if let Some(mut fields) = value.as_object().cloned() {
        hide_secrets(&mut fields);
        let hidden = |name: &str| name == "api_key_comfy_org" || name == "auth_token_comfy_org";
        let mut left = value.as_object().cloned().unwrap_or_default();
        left.retain(|name, _| !hidden(name));
        assert_eq!(fields, left);
    }
    let status = StatusFrame { remaining: 7 };
    assert_eq!(
        ServerFrame::read(&status.text(None)),
        ServerFrame::Status(status)
    );
}

/// Counts files by a reader of its own: objects with two texts, none of which is within another.
fn files(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(files).sum(),
        Value::Object(fields) => {
            if value["filename"].is_string() && value["subfolder"].is_string() {
                1
            } else {
                fields.values().map(files).sum()
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn check_files(value: &Value) {
    let mut seen = 0;
    let mut changed = value.clone();
    map_files(&mut changed, &mut |folder, file| {
        assert_eq!(file["subfolder"], folder);
        seen += 1;
        format!("@{folder}")
    });
    assert_eq!(seen, files(value));
    map_files(&mut changed, &mut |folder, _| {
        folder
            .strip_prefix('@')
            .expect("each was changed")
            .to_owned()
    });
    assert_eq!(&changed, value);
}
