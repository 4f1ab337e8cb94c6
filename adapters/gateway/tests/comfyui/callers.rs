//! One caller's wishes never touch another's jobs.

use crate::http::repeat_until;
use crate::support::{QUICK, servers, sleeping, start, taking};
use serde_json::json;

#[test]
fn interrupt_clear_and_delete_are_for_a_callers_own_jobs() {
    let world = start(servers([taking(10), taking(10)]), QUICK(), "");
    let (one, other) = (world.caller("one"), world.caller("other"));
    let mut theirs: Vec<String> = (0..3)
        .map(|_| other.queue(&sleeping("other", 0.4)))
        .collect();
    let mut mine: Vec<String> = (0..5).map(|_| one.queue(&sleeping("one", 0.4))).collect();
    theirs.extend((0..3).map(|_| other.queue(&sleeping("other", 0.1))));
    mine.push(one.queue(&sleeping("one", 0.4)));
    let ids = |jobs: &serde_json::Value| jobs.as_array().unwrap().len();
    repeat_until("jobs run", || {
        ids(&one.get_json("/queue")["queue_running"]) == 2
    });
    assert_eq!(one.post("/interrupt", &json!({})).status, 200);
    assert_eq!(
        one.post("/interrupt", &json!({"prompt_id": theirs[0]}))
            .status,
        200
    );
    assert_eq!(
        one.post(
            "/queue",
            &json!({"delete": [theirs[1], theirs[2], mine[4]]})
        )
        .status,
        200
    );
    assert_eq!(one.post("/queue", &json!({"clear": true})).status, 200);
    assert_eq!(one.post("/history", &json!({"clear": true})).status, 200);
    let cancelled = one.post("/api/jobs/cancel", &json!({"job_ids": theirs}));
    assert_eq!(cancelled.text(), r#"{"cancelled":false}"#);
    let ends = other.all_ended(&theirs);
    assert!(ends.iter().all(|end| end == "success"), "{ends:?}");
    // The one's own jobs are over as well, and none of its waiting ones has run.
    repeat_until("the queue is empty", || {
        one.get_json("/prompt")["exec_info"]["queue_remaining"] == 0
    });
    let starts = world.starts();
    assert!(theirs.iter().all(|id| starts[id] == 1));
    assert!(
        !starts.contains_key(&mine[4]) && !starts.contains_key(&mine[5]),
        "{starts:?}"
    );
    // What one caller sees of the other's jobs is their place in line.
    assert_eq!(other.get_json(&format!("/history/{}", mine[0])), json!({}));
    assert_eq!(other.get(&format!("/api/jobs/{}", mine[0])).status, 404);
    assert_eq!(
        other.get(&format!("/lb/comfyui/jobs/{}", mine[0])).status,
        404
    );
}

#[test]
fn pages_of_other_sites_are_refused_and_servers_guards_never_bite() {
    let world = start(servers([taking(10)]), QUICK(), "");
    let caller = world.caller("one");
    let body = sleeping("me", 0.0).to_string();
    for (headers, status) in [
        ("origin: http://test\r\n", 200),
        (
            "origin: http://test\r\nsec-fetch-site: same-origin\r\n",
            200,
        ),
        ("origin: http://evil.test\r\n", 403),
        ("origin: null\r\n", 403),
        ("sec-fetch-site: cross-site\r\n", 403),
    ] {
        let answer = caller.post_bytes("/prompt", "application/json", body.as_bytes(), headers);
        assert_eq!(answer.status, status, "{headers}");
        // One that is passed on to a server.
        let answer = caller.post_bytes("/api/userdata/x.json", "application/json", b"{}", headers);
        assert_eq!(answer.status, status, "{headers} {}", answer.text());
    }
}

#[test]
fn no_other_way_to_write_a_path_leads_around_the_gateway() {
    let world = start(servers([taking(10)]), QUICK(), "");
    let (one, other) = (world.caller("one"), world.caller("other"));
    let id = one.queue(&crate::support::picture("me"));
    let entry = one.ended(&id);
    let name = entry["outputs"]["3"]["images"][0]["filename"]
        .as_str()
        .unwrap();
    for path in [
        format!("/view?filename={name}&subfolder=@a"),
        format!("/view?filename={name}&subfolder=@a/."),
        format!("/view?filename=x/{name}"),
        format!("/view?filename={name}%20[output]"),
        format!("/view?filename={name}"),
        "/api/api/jobs".to_owned(),
        "/%71ueue/".to_owned(),
        "/%68istory/x/../".to_owned(),
        "/api//jobs".to_owned(),
    ] {
        assert_eq!(other.get(&path).status, 404, "{path}");
    }
    let before = one.get_json("/history");
    assert_eq!(
        other.post("/%68istory", &json!({"clear": true})).status,
        200
    );
    assert_eq!(
        other
            .post("/api/api/jobs/cancel", &json!({"job_ids": [id]}))
            .status,
        404
    );
    assert_eq!(one.get_json("/history"), before);
    // The same job again is the same job, and another under its id is none.
    let mut again = crate::support::picture("me");
    again["prompt_id"] = id.as_str().into();
    assert_eq!(one.queue(&again), id);
    again["prompt"]["1"]["inputs"]["width"] = 1_024.into();
    assert_eq!(one.post("/prompt", &again).status, 400);
    assert_eq!(world.starts()[&id], 1);
}
