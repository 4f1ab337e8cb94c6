//! The jobs interface, and changes of queue and history.

use super::*;

/// A server with one job in each state: 1 completed, 2 failed, 3 cancelled, 4 in progress, 5 pending.
fn of_each_state() -> Comfy {
    let comfy = start(quick());
    let workflow = json!({ "extra_pnginfo": { "workflow": { "id": "w1" } } });
    let body = json!({ "prompt": graph(), "prompt_id": uuid(1), "extra_data": workflow });
    assert_eq!(comfy.post("/prompt", &body).status, 200);
    let fail = json!({ "1": { "class_type": "TestbedFail", "inputs": {} } });
    comfy.queue(&uuid(2), &fail);
    comfy.queue(&uuid(3), &sleep(60.0));
    comfy.wait_until(|report| report.running == Some(uuid(3)));
    assert_eq!(
        comfy
            .post(&format!("/api/jobs/{}/cancel", uuid(3)), &json!({}))
            .json(),
        json!({ "cancelled": true })
    );
    comfy.wait_until(|report| report.interrupted == 1);
    comfy.queue(&uuid(4), &sleep(60.0));
    comfy.wait_until(|report| report.running == Some(uuid(4)));
    comfy.queue(&uuid(5), &sleep(60.0));
    comfy
}

fn ids(list: &Value) -> Vec<String> {
    let jobs = list["jobs"].as_array().unwrap();
    let mut ids: Vec<_> = jobs
        .iter()
        .map(|job| job["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

#[test]
fn each_job_has_its_state() {
    let comfy = of_each_state();
    for (id, status) in [
        (1, "completed"),
        (2, "failed"),
        (3, "cancelled"),
        (4, "in_progress"),
        (5, "pending"),
    ] {
        let job = comfy.get_json(&format!("/api/jobs/{}", uuid(id)));
        assert_eq!(
            (&job["id"], &job["status"]),
            (&json!(uuid(id)), &json!(status))
        );
        assert!(job["workflow"]["prompt"].is_object() && job["create_time"].is_u64());
        assert_eq!(job.get("outputs").is_some(), id <= 3);
        let list = comfy.get_json(&format!("/api/jobs?status={status}"));
        assert_eq!(ids(&list), [uuid(id)], "{status}");
        assert!(list["jobs"][0].get("workflow").is_none());
    }
    let done = comfy.get_json(&format!("/api/jobs/{}", uuid(1)));
    assert_eq!(
        (&done["outputs_count"], &done["workflow_id"]),
        (&json!(1), &json!("w1"))
    );
    let preview = &done["preview_output"];
    assert_eq!(
        (&preview["nodeId"], &preview["mediaType"]),
        (&json!("6"), &json!("images"))
    );
    assert!(done["execution_end_time"].as_u64() >= done["execution_start_time"].as_u64());
    let failed = comfy.get_json(&format!("/api/jobs/{}", uuid(2)));
    assert_eq!(failed["execution_error"]["node_type"], "TestbedFail");
    assert!(
        failed.get("preview_output").is_none(),
        "null fields are dropped"
    );

    let unknown = comfy.get(&format!("/api/jobs/{}", uuid(9)));
    assert_eq!(
        (unknown.status, unknown.json()),
        (404, json!({ "error": "Job not found" }))
    );
    assert_eq!(comfy.get("/jobs").status, 404);
}

#[test]
fn lists_are_filtered_sorted_and_paged() {
    let comfy = of_each_state();
    let all = comfy.get_json("/api/jobs");
    assert_eq!(ids(&all).len(), 5);
    let pagination = json!({ "offset": 0, "limit": null, "total": 5, "has_more": false });
    assert_eq!(all["pagination"], pagination);
    let page = comfy.get_json("/api/jobs?limit=2&offset=1&sort_order=asc");
    let pagination = json!({ "offset": 1, "limit": 2, "total": 5, "has_more": true });
    assert_eq!((ids(&page).len(), &page["pagination"]), (2, &pagination));
    let slowest = comfy.get_json("/api/jobs?sort_by=execution_duration&limit=1");
    assert!(
        ["1", "2", "3"]
            .iter()
            .any(|id| ids(&slowest)[0].ends_with(id))
    );
    assert_eq!(ids(&comfy.get_json("/api/jobs?workflow_id=w1")), [uuid(1)]);
    assert_eq!(
        ids(&comfy.get_json("/api/jobs?status=pending,%20failed")),
        [uuid(2), uuid(5)]
    );
    for query in [
        "status=done",
        "sort_by=id",
        "sort_order=up",
        "limit=0",
        "limit=x",
        "offset=x",
    ] {
        let reply = comfy.get(&format!("/api/jobs?{query}"));
        assert_eq!(reply.status, 400, "{query}");
        assert!(reply.json()["error"].is_string());
    }
}

#[test]
fn a_cancel_tells_whether_it_did_something() {
    let comfy = of_each_state();
    let cancel = |ids: Value| comfy.post("/api/jobs/cancel", &json!({ "job_ids": ids }));
    assert_eq!(
        cancel(json!([uuid(1), uuid(9)])).json(),
        json!({ "cancelled": false })
    );
    let reply = cancel(json!([uuid(5), "X", 3]));
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["invalid_ids"], json!(["X", "3"]));
    assert_eq!(comfy.report().pending, 1, "nothing was done");
    assert_eq!(
        cancel(json!([uuid(1), uuid(5), uuid(4)])).json(),
        json!({ "cancelled": true })
    );
    comfy.wait_until(|report| report.interrupted == 2 && report.dequeued == 1);
    assert_eq!(comfy.ask("POST", "/api/jobs/cancel", "", b"x").status, 400);
    assert_eq!(comfy.post("/api/jobs/cancel", &json!({})).status, 400);
    let reply = comfy.post(&format!("/api/jobs/{}/cancel", uuid(5)), &json!({}));
    assert_eq!(reply.json(), json!({ "cancelled": false }));
}

#[test]
fn there_are_no_jobs_in_2025() {
    let comfy = start(ComfyConfig {
        age: ComfyAge::Y2025,
        ..quick()
    });
    assert_eq!(comfy.get("/api/jobs").status, 404);
    assert_eq!(
        comfy
            .post("/api/jobs/cancel", &json!({ "job_ids": [] }))
            .status,
        405
    );
}

#[test]
fn the_queue_and_the_history_are_changed_by_ids_or_wholly() {
    let comfy = of_each_state();
    comfy.queue(&uuid(6), &sleep(60.0));
    comfy.queue(&uuid(7), &sleep(60.0));
    let post = |path: &str, body: Value| {
        let reply = comfy.post(path, &body);
        assert_eq!((reply.status, reply.body.len()), (200, 0));
    };
    post("/queue", json!({ "delete": [uuid(6), uuid(4), "none"] }));
    let report = comfy.report();
    assert_eq!(
        (report.pending, report.running),
        (2, Some(uuid(4))),
        "what runs is not deleted"
    );
    post("/api/queue", json!({ "clear": true }));
    assert_eq!((comfy.report().pending, comfy.report().dequeued), (0, 3));

    post("/history", json!({ "delete": [uuid(2)] }));
    let keys = |path: &str| {
        let history = comfy.get_json(path);
        history
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys("/history"), [uuid(1), uuid(3)]);
    assert_eq!(keys("/history?max_items=1"), [uuid(3)]);
    assert_eq!(keys("/history?max_items=1&offset=0"), [uuid(1)]);
    assert_eq!(comfy.get("/history?max_items=x").status, 500);
    post("/history", json!({ "clear": true }));
    assert!(keys("/history").is_empty());
    assert_eq!(comfy.ask("POST", "/queue", "", b"no json").status, 500);
    assert_eq!(comfy.ask("POST", "/interrupt", "", b"no json").status, 200);
    comfy.wait_until(|report| report.running.is_none());
}
