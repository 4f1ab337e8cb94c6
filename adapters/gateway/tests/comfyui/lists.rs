//! What is checked before a job is accepted, and the lists of jobs.

use crate::http::repeat_until;
use crate::support::{QUICK, picture, servers, sleeping, start, taking, two_known};
use serde_json::{Value, json};

#[test]
fn a_job_goes_to_the_server_that_has_its_nodes_and_models() {
    let (mut plain, mut special) = (taking(10), taking(10));
    plain.checkpoints = vec!["v1-5-pruned-emaonly.safetensors".to_owned()];
    plain.custom_nodes = vec!["Plain".to_owned()];
    special.custom_nodes = vec!["Upscale".to_owned()];
    special.checkpoints = vec!["big.safetensors".to_owned()];
    let world = start(servers([plain, special]), QUICK(), "");
    world.wait_for_nodes(&["Plain", "Upscale"]);
    let caller = world.caller("one");
    let mut with_model = picture("me");
    with_model["prompt"]["4"]["inputs"]["ckpt_name"] = "big.safetensors".into();
    let mut with_node = picture("me");
    with_node["prompt"]["9"] = json!({"class_type": "Upscale", "inputs": {"input": ["2", 0]}});
    with_node["prompt"]["4"]["inputs"]["ckpt_name"] = "big.safetensors".into();
    let small: Vec<String> = (0..3).map(|_| caller.queue(&picture("me"))).collect();
    let big: Vec<String> = (0..3).map(|_| caller.queue(&with_model)).collect();
    let node: Vec<String> = (0..3).map(|_| caller.queue(&with_node)).collect();
    let all = [small, big, node].concat();
    assert!(caller.all_ended(&all).iter().all(|end| end == "success"));
    assert_eq!(world.accepted(), [3, 6]);
    assert_eq!(
        world
            .servers
            .iter()
            .map(|server| server.report().refused)
            .sum::<u64>(),
        0
    );
    // What no server has is refused at once, in the words of a server.
    let mut unknown = picture("me");
    unknown["prompt"]["7"] = json!({"class_type": "NoSuchNode", "inputs": {}});
    let answer = caller.post("/prompt", &unknown);
    let refused: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (answer.status, &refused["error"]["type"]),
        (400, &json!("missing_node_type"))
    );
    let mut unknown = picture("me");
    unknown["prompt"]["4"]["inputs"]["ckpt_name"] = "none.safetensors".into();
    let answer = caller.post("/prompt", &unknown);
    let refused: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(refused["error"]["type"], "prompt_outputs_failed_validation");
    assert_eq!(
        refused["node_errors"]["4"]["errors"][0]["type"],
        "value_not_in_list"
    );
    let merged = caller.get_json("/object_info");
    assert!(merged["Upscale"].is_object() && merged["KSampler"].is_object());
}

#[test]
fn of_a_prompt_that_no_server_can_run_whole_the_good_part_is_run() {
    let world = start(two_known(), QUICK(), "");
    world.wait_for_nodes(&["A", "B"]);
    let caller = world.caller("one");
    let mut prompt = picture("me");
    let load = json!({"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "none"}});
    let decode =
        json!({"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": ["14", 2]}});
    let save =
        json!({"class_type": "SaveImage", "inputs": {"images": ["12", 0], "filename_prefix": "x"}});
    for (id, node) in [("14", load), ("12", decode), ("13", save)] {
        prompt["prompt"][id] = node;
    }
    let answer = caller.post("/prompt", &prompt);
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    let error = &told["node_errors"]["14"]["errors"][0]["type"];
    assert_eq!((answer.status, error), (200, &json!("value_not_in_list")));
    let entry = caller.ended(told["prompt_id"].as_str().unwrap());
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    let outputs = entry["outputs"].as_object().unwrap();
    assert!(
        outputs.contains_key("3") && !outputs.contains_key("13"),
        "{entry}"
    );
}

#[test]
fn bad_prompts_are_refused_and_nothing_is_lost() {
    let world = start(servers([taking(10)]), QUICK(), "");
    world.wait_for_nodes(&["KSampler"]);
    let caller = world.caller("one");
    for (body, kind) in [
        (json!({}), "no_prompt"),
        (json!({"prompt": 3}), "no_prompt"),
        (
            json!({"prompt": {}, "prompt_id": "UPPER"}),
            "invalid_prompt_id",
        ),
        (json!({"prompt": {}}), "prompt_no_outputs"),
        (json!([]), "invalid_json"),
    ] {
        let answer = caller.post("/prompt", &body);
        let refused: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            (answer.status, refused["error"]["type"].as_str()),
            (400, Some(kind)),
            "{body}"
        );
    }
    let failing = json!({"prompt": {"1": {"class_type": "TestbedFail", "inputs": {}}}});
    let id = caller.queue(&failing);
    let entry = caller.ended(&id);
    assert_eq!(entry["status"]["status_str"], "error");
    let job = caller.get_json(&format!("/api/jobs/{id}"));
    assert_eq!(job["status"], "failed");
}

#[test]
fn an_id_of_ones_own_is_kept_and_a_repeated_submission_counts_once() {
    let world = start(servers([taking(10)]), QUICK(), "");
    let caller = world.caller("one");
    let id = "01234567-89ab-4cde-8f01-23456789abcd";
    let mut prompt = sleeping("me", 0.3);
    prompt["prompt_id"] = id.into();
    assert_eq!(caller.queue(&prompt), id);
    assert_eq!(caller.queue(&prompt), id);
    let answer = world.caller("other").post("/prompt", &prompt);
    assert_eq!(answer.status, 400, "another caller's");
    caller.ended(id);
    assert_eq!(world.starts()[id], 1);
}

#[test]
fn lists_have_all_jobs_in_their_order() {
    let world = start(servers([taking(10)]), QUICK(), "");
    let caller = world.caller("one");
    let ids: Vec<String> = (0..4).map(|_| caller.queue(&sleeping("me", 0.3))).collect();
    let mut first = sleeping("me", 0.1);
    first["front"] = true.into();
    let front = caller.queue(&first);
    repeat_until("one runs", || {
        caller.get_json("/queue")["queue_running"]
            .as_array()
            .unwrap()
            .len()
            == 1
    });
    let queue = caller.get_json("/api/queue");
    let pending: Vec<&str> = queue["queue_pending"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item[1].as_str().unwrap())
        .collect();
    assert_eq!(queue["queue_running"][0][1], ids[0]);
    assert_eq!(pending.len(), 4, "{pending:?}");
    assert!(pending.contains(&&*front));
    let told = caller.get_json(&format!("/lb/comfyui/jobs/{}", ids[3]));
    assert_eq!(told["status"], "waiting", "{told}");
    let page = caller.get_json("/api/jobs?status=pending&limit=2");
    assert_eq!(
        (
            &page["pagination"]["total"],
            &page["pagination"]["has_more"]
        ),
        (&json!(4), &json!(true))
    );
    let all = [ids, vec![front.clone()]].concat();
    assert!(caller.all_ended(&all).iter().all(|end| end == "success"));
    let starts = world.servers[0].report().starts;
    let at = |id: &str| starts.iter().position(|start| start.prompt_id == id);
    assert!(at(&front) < at(&all[3]), "the front goes first");
    assert_eq!(
        caller
            .get_json("/history?max_items=2")
            .as_object()
            .unwrap()
            .len(),
        2
    );
    let stats = caller.get_json("/system_stats");
    assert!(stats["devices"].is_array());
}

#[test]
fn a_caller_chooses_a_server_by_its_name() {
    let world = start(servers([taking(10), taking(10)]), QUICK(), "");
    let caller = world.caller("one");
    let body = sleeping("me", 0.0).to_string();
    let queue = |headers: &str, path: &str| {
        caller
            .post_bytes(path, "application/json", body.as_bytes(), headers)
            .status
    };
    for _ in 0..3 {
        assert_eq!(queue("x-leasehold-server: b\r\n", "/prompt"), 200);
        assert_eq!(queue("", "/prompt?server=b"), 200);
    }
    assert_eq!(
        queue("x-leasehold-server: http://evil.test\r\n", "/prompt"),
        400
    );
    assert_eq!(queue("x-leasehold-labels: sdxl\r\n", "/prompt"), 400);
    repeat_until("all are done", || {
        caller.get_json("/prompt")["exec_info"]["queue_remaining"] == 0
    });
    assert_eq!(world.accepted(), [0, 6]);
}

#[test]
fn operators_are_told_how_the_servers_do() {
    let world = start(servers([taking(10), taking(10)]), QUICK(), "");
    world.wait_for_nodes(&["KSampler"]);
    let caller = world.caller("one");
    let ask = || {
        let request =
            "GET /lb/comfyui/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let answer = crate::http::ask(world.address, request);
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice::<Value>(&answer.body).unwrap()
    };
    let ids: Vec<String> = (0..4).map(|_| caller.queue(&sleeping("me", 0.5))).collect();
    let is_busy = |status: &Value| {
        let servers = status["servers"].as_array().unwrap();
        servers
            .iter()
            .all(|one| one["own_running"] == 1 && one["own_waiting"] == 1)
    };
    let mut status = ask();
    repeat_until("both run one and have one", || {
        status = ask();
        is_busy(&status)
    });
    assert_eq!(
        (&status["total"], &status["healthy"]),
        (&json!(2), &json!(2))
    );
    assert!(
        status["bestServer"].is_string() && status["lastHealthCheck"].is_u64(),
        "{status}"
    );
    let first = &status["servers"][0];
    assert_eq!((&first["name"], &first["total"]), (&json!("a"), &json!(2)));
    assert!(
        first["version"].is_string() && first["vram_total"].is_u64(),
        "{first}"
    );
    // Others may know how long the queue is, and no more.
    assert_eq!(caller.get_json("/lb/comfyui")["running"], 2);
    assert_eq!(caller.get("/lb/comfyui/status").status, 403);
    caller.all_ended(&ids);
}
