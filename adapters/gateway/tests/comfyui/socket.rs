//! Callers' websockets: whole events, the state after a reconnect, and readers that are slow.

use crate::support::{Frame, QUICK, Socket, block_on, picture, servers, sleeping, start, taking};
use serde_json::json;

#[test]
fn a_client_sees_one_server_from_the_prompt_to_its_picture() {
    let world = start(servers([taking(100), taking(100)]), QUICK(), "");
    let caller = world.caller("one");
    block_on(async {
        let mut socket = Socket::open(world.address, "me").await;
        let Some(Frame::Text(first)) = socket.next().await else {
            panic!("a first frame");
        };
        assert_eq!(first["data"]["sid"], "me");
        assert_eq!(first["data"]["status"]["exec_info"]["queue_remaining"], 0);
        let id = caller.queue(&picture("me"));
        let kinds = socket.until_over(&id).await;
        assert_eq!(
            kinds.first().map(String::as_str),
            Some("execution_start"),
            "{kinds:?}"
        );
        let count = |kind: &str| kinds.iter().filter(|one| *one == kind).count();
        assert_eq!(
            (count("execution_success"), count("executed")),
            (1, 1),
            "{kinds:?}"
        );
        assert!(count("progress") > 0, "{kinds:?}");
        // At `executing null` the history has the entry.
        let entry = &caller.get_json(&format!("/history/{id}"))[&id];
        assert_eq!(entry["status"]["status_str"], "success");
        assert_eq!(entry["prompt"][3]["client_id"], "me");
        let file = &entry["outputs"]["3"]["images"][0];
        let path = format!(
            "/view?filename={}&subfolder={}&type=output",
            file["filename"].as_str().unwrap(),
            file["subfolder"].as_str().unwrap()
        );
        let seen = caller.get(&path);
        assert_eq!(seen.status, 200);
        assert!(
            seen.body
                .windows(id.len())
                .any(|part| part == id.as_bytes()),
            "its own picture"
        );
    });
}

#[test]
fn a_client_hears_events_of_custom_nodes_and_what_the_server_can_do() {
    let mut config = taking(10);
    config.custom_nodes = vec!["Custom".to_owned()];
    let world = start(servers([config]), QUICK(), "");
    let caller = world.caller("one");
    block_on(async {
        let mut other = Socket::open(world.address, "other").await;
        let hello = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
        // The server tells its own soon after the gateway has come.
        let mut socket = loop {
            let mut socket = Socket::open(world.address, "me").await;
            socket.send(&hello).await;
            let data = loop {
                match socket.next().await {
                    Some(Frame::Text(frame)) if frame["type"] == "feature_flags" => {
                        break frame["data"].clone();
                    }
                    Some(_) => {}
                    None => panic!("it is open"),
                }
            };
            assert_eq!(data["leasehold_places"], true, "{data}");
            if data["max_upload_size"].is_u64() {
                break socket;
            }
        };
        let mut prompt = picture("me");
        prompt["prompt"]["7"] = json!({"class_type": "Custom", "inputs": {"input": ["1", 0]}});
        prompt["prompt"]["2"]["inputs"]["samples"] = json!(["7", 0]);
        let id = caller.queue(&prompt);
        let mut notes = 0;
        loop {
            let Some(Frame::Text(frame)) = socket.next().await else {
                continue;
            };
            match frame["type"].as_str().expect("a type") {
                "testbed.note" => notes += u32::from(frame["data"] == json!({"node": "7"})),
                "executing" if frame["data"]["node"].is_null() => break,
                _ => {}
            }
        }
        assert_eq!(notes, 1);
        let own = caller.queue(&sleeping("other", 0.01));
        let kinds = other.until_over(&own).await;
        assert!(
            kinds.contains(&"execution_success".to_owned()),
            "{id} {kinds:?}"
        );
    });
}

#[test]
fn a_client_that_comes_back_is_told_how_its_job_stands() {
    let world = start(servers([taking(100)]), QUICK(), "");
    let caller = world.caller("one");
    block_on(async {
        let id = caller.queue(&sleeping("me", 1.0));
        for _ in 0..10 {
            let mut socket = Socket::open(world.address, "me").await;
            let mut kinds = Vec::new();
            while !kinds.contains(&"progress_state".to_owned()) {
                match socket.next().await {
                    Some(Frame::Text(frame)) => {
                        kinds.push(frame["type"].as_str().unwrap().to_owned())
                    }
                    Some(Frame::Binary(_)) => {}
                    None => panic!("it was closed"),
                }
            }
            let start = kinds.iter().position(|kind| kind == "execution_start");
            assert!(start.is_some(), "{kinds:?}");
        }
        let away = caller.queue(&sleeping("me", 0.0));
        caller.ended(&away);
        let mut socket = Socket::open(world.address, "me").await;
        let kinds = socket.until_over(&id).await;
        assert!(kinds.contains(&"execution_success".to_owned()), "{kinds:?}");
        let kinds = socket.until_over(&away).await;
        assert_eq!(kinds, ["execution_success", "executing"]);
    });
}

#[test]
fn previews_come_in_the_form_that_a_client_knows() {
    let mut config = taking(300);
    config.previews = 3;
    let world = start(servers([config]), QUICK(), "");
    let caller = world.caller("one");
    block_on(async {
        let (mut old, mut new) = (
            Socket::open(world.address, "old").await,
            Socket::open(world.address, "new").await,
        );
        new.send(&json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}}))
            .await;
        for (socket, client, expected) in [(&mut old, "old", 1), (&mut new, "new", 4)] {
            caller.queue(&picture(client));
            let kind = loop {
                match socket.next().await.expect("a frame") {
                    Frame::Binary(kind) => break kind,
                    Frame::Text(_) => {}
                }
            };
            assert_eq!(kind, expected, "{client}");
        }
    });
}

#[test]
fn a_client_that_asks_is_told_its_place_in_line() {
    let world = start(servers([taking(10)]), QUICK(), "");
    let caller = world.caller("one");
    block_on(async {
        let mut socket = Socket::open(world.address, "me").await;
        socket
            .send(&json!({"type": "feature_flags", "data": {"leasehold_places": true}}))
            .await;
        let ids: Vec<String> = (0..5).map(|_| caller.queue(&sleeping("me", 1.2))).collect();
        let mut places = Vec::new();
        while places.len() < 2 {
            if let Some(Frame::Text(frame)) = socket.next().await
                && frame["type"] == "leasehold_place"
                && frame["data"]["id"] == *ids[4]
            {
                places.push(frame["data"]["ahead"].as_u64().unwrap());
            }
        }
        assert!(places.is_sorted_by(|one, next| one > next), "{places:?}");
        let told = caller.get_json(&format!("/lb/comfyui/jobs/{}", ids[4]));
        assert!(told["expected_end_ms"].is_u64(), "one has ended: {told}");
    });
}
