//! Files of callers and servers.

use crate::support::{Caller, QUICK, servers, start, taking, two_known};
use serde_json::{Value, json};

fn form(name: &str, content: &str, fields: &[(&str, &str)]) -> (String, Vec<u8>) {
    let mut body = String::new();
    for (field, value) in fields {
        body +=
            &format!("--x\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n{value}\r\n");
    }
    body += &format!(
        "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{name}\"\r\n\r\n{content}\r\n--x--\r\n"
    );
    (
        "multipart/form-data; boundary=x".to_owned(),
        body.into_bytes(),
    )
}

/// A prompt that saves a picture, which a node of this class loads by this input.
fn load(class: &str, input: &str, name: &str) -> Value {
    json!({"client_id": "me", "prompt": {
        "1": {"class_type": class, "inputs": {input: name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }})
}

#[test]
fn what_a_job_has_made_is_an_input_on_every_server() {
    let world = start(servers([taking(10), taking(10)]), QUICK(), "");
    let (caller, other) = (world.caller("one"), world.caller("other"));
    let entry = caller.ended(&caller.queue(&crate::support::picture("me")));
    let file = &entry["outputs"]["3"]["images"][0];
    let (name, folder) = (&file["filename"], &file["subfolder"]);
    let (name, folder) = (name.as_str().unwrap(), folder.as_str().unwrap());
    let queue_at = |caller: &Caller, server: &str, text: &str| {
        let mut asked = load("LoadImage", "image", text);
        // What is no file stays as it is, however it looks.
        let words = json!({"text": "ganyu \\(genshin impact\\), [blurry]", "clip": ["1", 0]});
        asked["prompt"]["3"] = json!({"class_type": "CLIPTextEncode", "inputs": words});
        let header = format!("x-leasehold-server: {server}\r\n");
        let asked = asked.to_string();
        let answer = caller.post_bytes("/prompt", "application/json", asked.as_bytes(), &header);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
        told["prompt_id"].as_str().expect("an id").to_owned()
    };
    let named = format!("{folder}/{name} [output]");
    for text in [named.clone(), format!("{name} [output]")] {
        for server in ["a", "b"] {
            let entry = caller.ended(&queue_at(&caller, server, &text));
            let status = &entry["status"]["status_str"];
            assert_eq!(status, "success", "{text} on {server}: {entry}");
        }
    }
    let at = folder.trim_start_matches('@');
    for text in [
        named,
        format!("{name} [output]"),
        format!("{name}_[output]"),
        format!("../output/{name}"),
        format!("@x/../{name} [output]"),
    ] {
        let entry = other.ended(&queue_at(&other, at, &text));
        let told = entry["status"]["messages"][0][1]["exception_message"].to_string();
        assert!(told.contains("the caller has no file"), "{text}: {told}");
    }
}

#[test]
fn an_upload_is_lacked_nowhere_though_no_list_has_it() {
    let world = start(two_known(), QUICK(), "");
    world.wait_for_nodes(&["A", "B"]);
    let caller = world.caller("one");
    let asked = load("TestbedVideo", "video", "cat.mp4");
    let refused = caller.post("/prompt", &asked);
    assert_eq!(refused.status, 400, "{}", refused.text());
    let (kind, body) = form("cat.mp4", "a film", &[("type", "input")]);
    let answer = caller.post_bytes("/upload/image", &kind, &body, "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let ids: Vec<String> = (0..4).map(|_| caller.queue(&asked)).collect();
    let ends = caller.all_ended(&ids);
    assert!(ends.iter().all(|end| end == "success"), "{ends:?}");
}

#[test]
fn an_upload_reaches_the_server_that_needs_it_under_whatever_name() {
    let world = start(servers([taking(10), taking(10)]), QUICK(), "");
    let caller = world.caller("one");
    let upload = |name: &str, content: &str| -> Value {
        let (kind, body) = form(name, content, &[("type", "input")]);
        let answer = caller.post_bytes("/upload/image", &kind, &body, "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice(&answer.body).expect("JSON")
    };
    assert_eq!(upload("cat.png", "one")["name"], "cat.png");
    assert_eq!(upload("cat.png", "two")["name"], "cat (1).png");
    let seen = caller.get("/view?filename=cat.png&type=input");
    assert_eq!((seen.status, seen.text()), (200, "one"));
    let ids: Vec<String> = ["cat.png", "cat (1).png", "cat.png", "cat (1).png"]
        .map(|name| caller.queue(&load("LoadImage", "image", name)))
        .into();
    let ends = caller.all_ended(&ids);
    assert!(ends.iter().all(|end| end == "success"), "{ends:?}");
    let uploads: u64 = world
        .servers
        .iter()
        .map(|server| server.report().uploads)
        .sum();
    assert!(
        (2..=4).contains(&uploads),
        "each file goes to a server once: {uploads}"
    );
}

#[test]
fn files_of_one_name_are_told_apart_by_their_servers() {
    let world = start(servers([taking(30), taking(30)]), QUICK(), "");
    let (one, other) = (world.caller("one"), world.caller("other"));
    let ids: Vec<String> = (0..4)
        .map(|_| one.queue(&crate::support::picture("me")))
        .collect();
    let mut folders = Vec::new();
    for id in &ids {
        let entry = one.ended(id);
        let file = &entry["outputs"]["3"]["images"][0];
        let (name, folder) = (
            file["filename"].as_str().unwrap(),
            file["subfolder"].as_str().unwrap(),
        );
        let path = format!("/view?filename={name}&subfolder={folder}&type=output");
        let seen = one.get(&path);
        assert!(
            seen.body
                .windows(id.len())
                .any(|part| part == id.as_bytes()),
            "{path}"
        );
        assert_eq!(other.get(&path).status, 404, "another caller's picture");
        folders.push(folder.to_owned());
    }
    folders.sort_unstable();
    folders.dedup();
    assert_eq!(folders, ["@a", "@b"]);
    assert_eq!(one.get("/view?filename=none.png").status, 404);
    assert_eq!(one.get("/view").status, 400);
}
