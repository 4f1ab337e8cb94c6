//! `POST /prompt`: ids, numbers, validation, order.

use super::*;

fn queue_ids(comfy: &Comfy) -> (Vec<String>, Vec<(f64, String)>) {
    let queue = comfy.get_json("/queue");
    let id = |item: &Value| item[1].as_str().unwrap().to_owned();
    let running = queue["queue_running"].as_array().unwrap();
    let pending = queue["queue_pending"].as_array().unwrap();
    let mut pending: Vec<_> = pending
        .iter()
        .map(|item| (item[0].as_f64().unwrap(), id(item)))
        .collect();
    pending.sort_by(|a, b| a.0.total_cmp(&b.0));
    (running.iter().map(id).collect(), pending)
}

#[test]
fn a_prompt_runs_and_its_history_has_picture_status_and_messages() {
    let comfy = start(quick());
    let answer = comfy.queue(&uuid(1), &graph());
    assert_eq!(
        answer,
        json!({ "prompt_id": uuid(1), "number": 0, "node_errors": {} })
    );
    comfy.wait_until(|report| report.finished == 1);
    let history = comfy.get_json(&format!("/api/history/{}", uuid(1)));
    let entry = &history[uuid(1)];
    let image = json!({ "filename": "ComfyUI_00001_.png", "subfolder": "", "type": "output" });
    assert_eq!(entry["outputs"], json!({ "6": { "images": [image] } }));
    assert_eq!(entry["status"]["status_str"], "success");
    assert_eq!(entry["status"]["completed"], true);
    let messages = entry["status"]["messages"].as_array().unwrap();
    let kinds: Vec<_> = messages
        .iter()
        .map(|message| message[0].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        ["execution_start", "execution_cached", "execution_success"]
    );
    assert!(
        messages
            .iter()
            .all(|message| message[1]["timestamp"].is_u64())
    );
    let item = entry["prompt"].as_array().unwrap();
    assert_eq!(
        (item.len(), &item[0], &item[4]),
        (5, &json!(0), &json!(["6"]))
    );
    assert_eq!(item[2], graph());
    assert!(item[3]["create_time"].is_u64());
    let meta =
        json!({ "node_id": "6", "display_node": "6", "parent_node": null, "real_node_id": "6" });
    assert_eq!(entry["meta"]["6"], meta);
    assert_eq!(comfy.get_json("/history/none"), json!({}));

    let picture = comfy.get("/view?filename=ComfyUI_00001_.png");
    assert_eq!(picture.header("content-type"), Some("image/png"));
    assert_eq!(
        picture.header("content-disposition"),
        Some("filename=\"ComfyUI_00001_.png\"")
    );
    let text = String::from_utf8_lossy(&picture.body).into_owned();
    assert!(text.contains(&format!("server\0{}", comfy.id())), "{text}");
    assert!(text.contains(&format!("prompt_id\0{}", uuid(1))), "{text}");
}

#[test]
fn jobs_run_one_at_a_time_by_number_and_front_goes_first() {
    let comfy = start(quick());
    comfy.queue(&uuid(0), &sleep(60.0));
    comfy.wait_until(|report| report.running.is_some());
    for (id, field) in [
        (1, json!({})),
        (2, json!({})),
        (3, json!({ "front": true })),
        (4, json!({ "number": 1.5 })),
        (5, json!({ "number": -7 })),
        (6, json!({ "front": false })),
    ] {
        let mut body = json!({ "prompt": sleep(0.0), "prompt_id": uuid(id) });
        body.as_object_mut()
            .unwrap()
            .extend(field.as_object().unwrap().clone());
        assert_eq!(comfy.post("/prompt", &body).status, 200);
    }
    // The counter does not rise with a `number` of the body's own.
    let expected = [(-7.0, 5), (-3.0, 3), (1.0, 1), (1.5, 4), (2.0, 2), (4.0, 6)];
    let (running, pending) = queue_ids(&comfy);
    assert_eq!(running, [uuid(0)]);
    assert_eq!(pending, expected.map(|(number, id)| (number, uuid(id))));
    assert_eq!(
        comfy.get_json("/prompt"),
        json!({ "exec_info": { "queue_remaining": 7 } })
    );
    assert_eq!(comfy.post("/interrupt", &json!({})).status, 200);
    comfy.wait_until(|report| report.finished == 6);
    let report = comfy.report();
    let starts: Vec<_> = report
        .starts
        .iter()
        .map(|start| start.prompt_id.clone())
        .collect();
    assert_eq!(starts, [0, 5, 3, 1, 4, 2, 6].map(uuid));
    assert_eq!(
        (report.max_queued, report.pending, report.interrupted),
        (7, 0, 1)
    );
}

#[test]
fn the_same_id_posted_twice_runs_twice_and_the_later_history_stays() {
    let comfy = start(quick());
    comfy.queue(&uuid(1), &sleep(0.0));
    comfy.wait_until(|report| report.finished == 1);
    comfy.queue(&uuid(1), &graph());
    comfy.wait_until(|report| report.finished == 2);
    let report = comfy.report();
    assert_eq!((report.starts_of(&uuid(1)), report.prompts.len()), (2, 1));
    let history = comfy.get_json("/history");
    assert_eq!(history.as_object().unwrap().len(), 1);
    assert!(history[uuid(1)]["outputs"]["6"].is_object());

    // Equal in number and id while both are pending: 500, and it is queued all the same.
    comfy.queue(&uuid(2), &sleep(60.0));
    comfy.wait_until(|report| report.running.is_some());
    let body = json!({ "prompt": sleep(0.0), "prompt_id": uuid(3), "number": 5 });
    assert_eq!(comfy.post("/prompt", &body).status, 200);
    assert_eq!(comfy.post("/prompt", &body).status, 500);
    assert_eq!(comfy.report().pending, 2);
}

#[test]
fn ids_are_canonical_uuids_in_2026_and_any_text_in_2025() {
    let comfy = start(quick());
    let id_of = |comfy: &Comfy, id: Value| {
        let reply = comfy.post("/prompt", &json!({ "prompt": sleep(0.0), "prompt_id": id }));
        match reply.status {
            200 => reply.json()["prompt_id"].as_str().unwrap().to_owned(),
            _ => refusal(&reply).1,
        }
    };
    for id in [
        json!("x"),
        json!(uuid(1).to_uppercase().replace('0', "A")),
        json!(5),
        json!(""),
    ] {
        assert_eq!(id_of(&comfy, id.clone()), "invalid_prompt_id", "{id}");
    }
    assert!(prompt::is_canonical_uuid(&id_of(&comfy, Value::Null)));
    let minted = comfy
        .post("/prompt", &json!({ "prompt": sleep(0.0) }))
        .json();
    assert!(prompt::is_canonical_uuid(
        minted["prompt_id"].as_str().unwrap()
    ));
    assert_eq!(minted["number"], 5, "refused prompts count too");

    let comfy = start(ComfyConfig {
        age: ComfyAge::Y2025,
        ..quick()
    });
    for (id, text) in [
        (json!("x"), "x"),
        (json!(5), "5"),
        (json!(true), "True"),
        (json!(null), "None"),
    ] {
        assert_eq!(id_of(&comfy, id), text);
    }
    comfy.wait_until(|report| report.finished == 4);
    let entry = &comfy.get_json("/history/x")["x"];
    assert_eq!(entry["prompt"][3].get("create_time"), None);
}

#[test]
fn a_whole_prompt_is_refused_with_the_type_of_its_age() {
    let unknown = json!({
        "1": { "class_type": "Gone", "inputs": {}, "_meta": { "title": "My node" } },
    });
    let no_class = json!({ "3": { "inputs": {} } });
    for (age, kind) in [
        (ComfyAge::Y2025, "invalid_prompt"),
        (ComfyAge::Y2026, "missing_node_type"),
    ] {
        let comfy = start(ComfyConfig { age, ..quick() });
        let post = |body: Value| comfy.post("/prompt", &body);
        let reply = post(json!({ "prompt": unknown }));
        assert_eq!(refusal(&reply), (400, kind.to_owned()));
        let extra = match age {
            ComfyAge::Y2025 => json!({}),
            ComfyAge::Y2026 => {
                json!({ "node_id": "1", "class_type": "Gone", "node_title": "My node" })
            }
        };
        assert_eq!(reply.json()["error"]["extra_info"], extra);
        assert_eq!(
            refusal(&post(json!({ "prompt": no_class }))),
            (400, kind.to_owned())
        );
        let expected = |kind: &str| (400, kind.to_owned());
        assert_eq!(refusal(&post(json!({}))), expected("no_prompt"));
        assert_eq!(
            refusal(&post(json!({ "prompt": {} }))),
            expected("prompt_no_outputs")
        );
        let reply = comfy.ask("POST", "/prompt", "", b"no json");
        assert_eq!(reply.status, 500);
        assert_eq!(post(json!([])).status, 500);
        let report = comfy.report();
        assert_eq!((report.posted, report.refused, report.accepted), (6, 6, 0));
    }
}

/// The errors of one node after its input was replaced.
fn errors_with(comfy: &Comfy, node: &str, input: &str, value: Option<Value>) -> Vec<Value> {
    let mut prompt = graph();
    let inputs = prompt[node]["inputs"].as_object_mut().unwrap();
    match value {
        Some(value) => drop(inputs.insert(input.to_owned(), value)),
        None => drop(inputs.shift_remove(input)),
    }
    let reply = comfy.post("/prompt", &json!({ "prompt": prompt }));
    assert_eq!(
        refusal(&reply),
        (400, "prompt_outputs_failed_validation".to_owned())
    );
    let body = reply.json();
    let entry = &body["node_errors"][node];
    assert_eq!(entry["dependent_outputs"], json!(["6"]), "{body}");
    let details = body["error"]["details"].as_str().unwrap();
    let errors = entry["errors"].as_array().unwrap();
    for error in errors {
        let line = format!(
            "{}: {}",
            error["message"].as_str().unwrap(),
            error["details"].as_str().unwrap()
        );
        assert!(details.contains(&line), "{details}");
    }
    errors.clone()
}

#[test]
fn each_input_is_checked_with_the_error_of_its_kind() {
    let comfy = start(quick());
    for (node, input, value, kind) in [
        ("4", "seed", None, "required_input_missing"),
        ("4", "model", Some(json!(["1"])), "bad_linked_input"),
        ("4", "model", Some(json!(["3", 0])), "return_type_mismatch"),
        ("4", "steps", Some(json!("many")), "invalid_input_type"),
        ("4", "steps", Some(json!(0)), "value_smaller_than_min"),
        ("4", "denoise", Some(json!(1.5)), "value_bigger_than_max"),
        (
            "4",
            "sampler_name",
            Some(json!("none")),
            "value_not_in_list",
        ),
        (
            "1",
            "ckpt_name",
            Some(json!("gone.safetensors")),
            "value_not_in_list",
        ),
        (
            "6",
            "images",
            Some(json!(["9", 0])),
            "exception_during_validation",
        ),
    ] {
        let errors = errors_with(&comfy, node, input, value.clone());
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0]["type"], kind, "{errors:?}");
        if kind.starts_with("value_") {
            let extra = &errors[0]["extra_info"];
            assert_eq!(
                (&extra["input_name"], &extra["received_value"]),
                (&json!(input), &value.unwrap())
            );
        }
    }
    // A number as text is converted, and what no input has is ignored.
    let mut prompt = graph();
    prompt["4"]["inputs"]["steps"] = json!("20");
    prompt["4"]["inputs"]["unknown"] = json!([1]);
    comfy.queue(&uuid(1), &prompt);
}

#[test]
fn a_missing_file_a_broken_inner_link_and_a_cycle_are_told() {
    let comfy = start(quick());
    let mut prompt = json!({
        "1": { "class_type": "LoadImage", "inputs": { "image": "gone.png" } },
        "2": { "class_type": "PreviewImage", "inputs": { "images": ["1", 0] } },
    });
    let error_of = |comfy: &Comfy, prompt: &Value, node: &str| {
        let body = comfy.post("/prompt", &json!({ "prompt": prompt })).json();
        body["node_errors"][node]["errors"][0]["type"].clone()
    };
    assert_eq!(error_of(&comfy, &prompt, "1"), "custom_validation_failed");
    let mut inner = graph();
    inner["4"]["inputs"]["model"] = json!(["9", 0]);
    assert_eq!(
        error_of(&comfy, &inner, "5"),
        "exception_during_inner_validation"
    );
    prompt = json!({
        "1": { "class_type": "TestbedSleep", "inputs": { "seconds": 1, "input": ["2", 0] } },
        "2": { "class_type": "TestbedSleep", "inputs": { "seconds": 1, "input": ["1", 0] } },
    });
    assert_eq!(error_of(&comfy, &prompt, "2"), "dependency_cycle");
    // A chain that is deeper than Python's recursion is an exception, and not the end of the server.
    let link = |number: u32| {
        let inputs = match number {
            0 => json!({ "seconds": 0 }),
            _ => json!({ "seconds": 0, "input": [(number - 1).to_string(), 0] }),
        };
        (
            number.to_string(),
            json!({ "class_type": "TestbedSleep", "inputs": inputs }),
        )
    };
    let chain = |length: u32| Value::Object((0..length).rev().map(link).collect());
    comfy.queue(&uuid(1), &chain(800));
    let reply = comfy.post(
        "/prompt",
        &json!({
            "prompt": chain(2_000),
            "partial_execution_targets": ["1999"],
        }),
    );
    assert_eq!(
        refusal(&reply),
        (400, "prompt_outputs_failed_validation".to_owned())
    );
}

#[test]
fn failed_outputs_are_dropped_while_a_good_one_remains() {
    let comfy = start(quick());
    let mut prompt = graph();
    prompt["7"] = json!({ "class_type": "PreviewImage", "inputs": {} });
    let answer = comfy.queue(&uuid(1), &prompt);
    let entry = &answer["node_errors"]["7"];
    assert_eq!(entry["errors"][0]["type"], "required_input_missing");
    assert_eq!(entry["dependent_outputs"], json!(["7"]));
    assert_eq!(entry["class_type"], "PreviewImage");
    comfy.wait_until(|report| report.finished == 1);
    let history = comfy.get_json("/history");
    assert_eq!(history[uuid(1)]["prompt"][4], json!(["6"]));
    // Only the targets are run, and only they are checked.
    prompt["7"]["inputs"]["images"] = json!(["5", 0]);
    let body = json!({
        "prompt": prompt,
        "prompt_id": uuid(2),
        "partial_execution_targets": ["7"],
    });
    assert_eq!(comfy.post("/prompt", &body).status, 200);
    comfy.wait_until(|report| report.finished == 2);
    let outputs = &comfy.get_json("/history")[uuid(2)]["outputs"];
    assert_eq!(
        outputs.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["7"]
    );
    assert_eq!(outputs["7"]["images"][0]["type"], "temp");
    let none = json!({ "prompt": prompt, "partial_execution_targets": ["5"] });
    assert_eq!(
        refusal(&comfy.post("/prompt", &none)).1,
        "prompt_no_outputs"
    );
}

#[test]
fn a_server_has_its_own_nodes_and_checkpoints() {
    let small = start(ComfyConfig {
        nodes: vec!["TestbedSleep".to_owned()],
        custom_nodes: vec!["FaceDetailer".to_owned()],
        checkpoints: vec!["own.safetensors".to_owned()],
        ..quick()
    });
    let kind = |prompt: &Value| refusal(&small.post("/prompt", &json!({ "prompt": prompt }))).1;
    assert_eq!(kind(&graph()), "missing_node_type");
    let custom = json!({
        "1": { "class_type": "FaceDetailer", "inputs": {} },
        "2": { "class_type": "TestbedSleep", "inputs": { "seconds": 0, "input": ["1", 0] } },
    });
    small.queue(&uuid(1), &custom);
    let info = small.get_json("/object_info");
    assert_eq!(
        info.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["TestbedSleep", "FaceDetailer"]
    );
    assert_eq!(small.get_json("/object_info/KSampler"), json!({}));
    assert_eq!(
        small.get_json("/models/checkpoints"),
        json!(["own.safetensors"])
    );

    let other = start(ComfyConfig {
        checkpoints: vec!["own.safetensors".to_owned()],
        ..quick()
    });
    let reply = other.post("/prompt", &json!({ "prompt": graph() }));
    let error = &reply.json()["node_errors"]["1"]["errors"][0];
    assert_eq!(error["type"], "value_not_in_list");
    assert_eq!(
        error["details"],
        "ckpt_name: 'v1-5-pruned-emaonly.safetensors' not in ['own.safetensors']"
    );
}

#[test]
fn secrets_of_the_users_accounts_are_not_shown() {
    let comfy = start(quick());
    let extra = json!({
        "auth_token_comfy_org": "secret-1",
        "api_key_comfy_org": "secret-2",
        "extra_pnginfo": { "workflow": { "id": "w" } },
    });
    let body = json!({ "prompt": sleep(60.0), "client_id": "c", "extra_data": extra });
    let body = body.to_string();
    let reply = comfy.ask(
        "POST",
        "/api/prompt",
        "comfy-usage-source: test\r\n",
        body.as_bytes(),
    );
    assert_eq!(reply.status, 200);
    comfy.wait_until(|report| report.running.is_some());
    let queue = comfy.get("/queue").text();
    assert!(!queue.contains("secret"), "{queue}");
    let item = &comfy.get_json("/queue")["queue_running"][0];
    assert_eq!(
        (&item[3]["client_id"], &item[3]["comfy_usage_source"]),
        (&json!("c"), &json!("test"))
    );
    assert_eq!(item[3]["extra_pnginfo"]["workflow"]["id"], "w");
}
