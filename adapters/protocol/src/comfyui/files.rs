//! Files in outputs and inputs of jobs: which server has them, and what it calls them.
//!
//! Files are local to a server, and two servers give different files one name. So the gateway's answers name the server
//! in a file's folder, as `@SERVER` or `@SERVER/FOLDER`.

use serde_json::{Map, Value};

/// Calls `change` with the folder of each file in a value, and puts what it returns in its place.
///
/// A file is an object with a `filename` and a `subfolder`.
pub fn map_files(value: &mut Value, change: &mut dyn FnMut(&str, &Map<String, Value>) -> String) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| map_files(item, change)),
        Value::Object(fields) => {
            let folder = fields.get("subfolder").and_then(Value::as_str);
            match folder {
                Some(folder) if fields.get("filename").is_some_and(Value::is_string) => {
                    let changed = change(folder, fields);
                    fields.insert("subfolder".to_owned(), changed.into());
                }
                Some(_) | None => fields.values_mut().for_each(|it| map_files(it, change)),
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Replaces texts among the inputs of a graph's nodes: `rename` returns what is to stand in a text's place, if another.
pub fn replace_inputs(
    graph: &mut Map<String, Value>,
    rename: &mut dyn FnMut(&str) -> Option<String>,
) {
    for node in graph.values_mut() {
        let Some(inputs) = node.get_mut("inputs").and_then(Value::as_object_mut) else {
            continue;
        };
        for value in inputs.values_mut() {
            if let Some(other) = value.as_str().and_then(&mut *rename) {
                *value = other.into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_folder_of_each_file_is_changed_and_nothing_else() {
        let mut outputs = json!({
            "9": {"images": [
                {"filename": "ComfyUI_00001_.png", "subfolder": "", "type": "output"},
                {"filename": "b.png", "subfolder": "day", "type": "temp"},
            ], "animated": [false]},
            "12": {"text": ["subfolder"], "subfolder": "of no file", "more": {"filename": 7, "subfolder": "x"}},
        });
        let mut types = Vec::new();
        map_files(&mut outputs, &mut |folder, file| {
            types.push(file["type"].clone());
            format!("@gpu/{folder}")
        });
        assert_eq!(types, ["output", "temp"]);
        assert_eq!(outputs["9"]["images"][0]["subfolder"], "@gpu/");
        assert_eq!(outputs["9"]["images"][1]["subfolder"], "@gpu/day");
        assert_eq!(outputs["12"]["subfolder"], "of no file");
        assert_eq!(outputs["12"]["more"]["subfolder"], "x");
    }

    #[test]
    fn texts_among_inputs_are_replaced_and_links_are_not() {
        let graph = json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "@gpu/a.png", "upload": "image"}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["@gpu/a.png", 0]}},
            "3": {"class_type": "@gpu/a.png"},
        });
        let mut changed = graph.as_object().unwrap().clone();
        replace_inputs(&mut changed, &mut |text| {
            text.strip_prefix("@gpu/").map(ToOwned::to_owned)
        });
        let mut expected = graph;
        expected["1"]["inputs"]["image"] = json!("a.png");
        assert_eq!(Value::Object(changed), expected);
    }
}
