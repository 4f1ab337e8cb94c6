//! Files, batches, responses and conversations: only the key that made one finds it.

use super::*;

const OTHER_KEY: &str = "sk-testbed-key-0002";

/// Uploads a file, and returns what the server says of it.
fn upload(client: &mut Client, key: &str, content: &str) -> Value {
    let form = format!(
        "--cut\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--cut\r\n\
         content-disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\
         content-type: application/octet-stream\r\n\r\n{content}\r\n--cut--\r\n"
    );
    let length = form.len();
    client.send(&format!(
        "POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
         content-type: multipart/form-data; boundary=cut\r\ncontent-length: {length}\r\n\r\n{form}"
    ));
    let reply = client.receive().unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn id(value: &Value) -> &str {
    value["id"].as_str().unwrap()
}

/// Checks that a resource is there for its key and for no other.
#[track_caller]
fn check_owner(client: &mut Client, path: &str, value: &Value) {
    let path = format!("{path}/{}", id(value));
    let reply = client.ask("GET", &path, KEY, "");
    assert_eq!((reply.status, &reply.json()), (200, value));
    for (key, status) in [(OTHER_KEY, 404), ("sk-stranger", 401)] {
        let reply = client.ask("GET", &path, key, "");
        assert_eq!(reply.status, status, "{path}");
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
}

#[test]
fn a_file_is_read_and_deleted_with_the_key_that_made_it() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let content = "{\"a\":1}\r\n--cu\r\n";
    let file = upload(&mut client, KEY, content);
    assert!(id(&file).starts_with("file-"));
    assert_eq!(
        (&file["bytes"], &file["filename"]),
        (&json!(15), &json!("in.jsonl"))
    );
    assert_eq!(
        (&file["object"], &file["purpose"]),
        (&json!("file"), &json!("batch"))
    );
    check_owner(&mut client, "/v1/files", &file);

    let path = format!("/v1/files/{}", id(&file));
    let content_path = format!("{path}/content");
    let reply = client.ask("GET", &content_path, KEY, "");
    assert_eq!((reply.status, reply.text().as_str()), (200, content));
    assert_eq!(client.ask("GET", &content_path, OTHER_KEY, "").status, 404);
    assert_eq!(
        client
            .ask("GET", &path.replace("files", "batches"), KEY, "")
            .status,
        404
    );

    assert_eq!(client.ask("DELETE", &path, OTHER_KEY, "").status, 404);
    let deleted = client.ask("DELETE", &path, KEY, "").json();
    assert_eq!(
        deleted,
        json!({ "id": id(&file), "object": "file", "deleted": true })
    );
    assert_eq!(client.ask("GET", &path, KEY, "").status, 404);
    let reply = client.ask("PUT", &path, KEY, "");
    assert_eq!(
        (reply.status, reply.header("allow")),
        (405, Some("GET, DELETE"))
    );
    assert_eq!(server.stop().calls, 0);
}

#[test]
fn an_upload_that_is_no_form_is_refused() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let reply = client.ask("POST", "/v1/files", KEY, "{}");
    assert_eq!(reply.status, 400);
    client.send(&head("POST", "/v1/files", KEY, 9 << 20));
    assert_eq!(client.receive().unwrap().status, 413);
}

#[test]
fn a_batch_needs_a_file_of_its_own_key() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let file = upload(&mut client, KEY, "{}");
    let body = json!({
        "input_file_id": id(&file),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    });
    let reply = client.ask("POST", "/v1/batches", KEY, &body.to_string());
    assert_eq!(reply.status, 200);
    let batch = reply.json();
    assert!(id(&batch).starts_with("batch_"));
    assert_eq!(
        (&batch["object"], &batch["status"]),
        (&json!("batch"), &json!("validating"))
    );
    assert_eq!(batch["input_file_id"], file["id"]);
    check_owner(&mut client, "/v1/batches", &batch);

    let reply = client.ask("POST", "/v1/batches", OTHER_KEY, &body.to_string());
    assert_eq!(reply.status, 404);
    let message = format!("No such File object: {}", id(&file));
    assert_eq!(reply.json()["error"]["message"], message);
    let reply = client.ask("POST", "/v1/batches", KEY, "{}");
    assert_eq!(
        (reply.status, &reply.json()["error"]["param"]),
        (400, &json!("input_file_id"))
    );
}

#[test]
fn a_response_is_found_and_gone_on_from_with_its_own_key() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let mut ask =
        |key: &str, body: &Value| client.ask("POST", "/v1/responses", key, &body.to_string());
    let first = ask(KEY, &json!({ "model": "m", "input": "hello" })).json();
    let body = json!({ "model": "m", "input": "again", "previous_response_id": id(&first) });
    let second = ask(KEY, &body).json();
    assert_eq!(second["previous_response_id"], first["id"]);
    let reply = ask(OTHER_KEY, &body);
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (400, "\"previous_response_not_found\"")
    );
    assert_eq!(reply.json()["error"]["param"], "previous_response_id");

    let streamed = ask(
        KEY,
        &json!({ "model": "m", "input": "hello", "stream": true }),
    );
    let last = chunks(&streamed.body).pop().unwrap();
    let unkept = ask(
        KEY,
        &json!({ "model": "m", "input": "hello", "store": false }),
    )
    .json();
    for response in [&first, &second, &last["response"]] {
        assert!(id(response).starts_with("resp_"));
        check_owner(&mut client, "/v1/responses", response);
    }
    let path = format!("/v1/responses/{}", id(&unkept));
    assert_eq!(client.ask("GET", &path, KEY, "").status, 404);
    let report = server.stop();
    assert_eq!((report.ok, report.invalid), (4, 1));
}

#[test]
fn a_response_that_failed_is_not_kept() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    server.control().script(["stream-cut".parse().unwrap()]);
    let body = json!({ "model": "m", "input": "hello", "stream": true }).to_string();
    let reply = client.ask("POST", "/v1/responses", KEY, &body);
    let first = &chunks(&reply.body)[0]["response"];
    let path = format!("/v1/responses/{}", id(first));
    assert_eq!(client.ask("GET", &path, KEY, "").status, 404);
}

#[test]
fn a_conversation_is_gone_on_from_with_its_own_key() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let body = json!({ "metadata": { "topic": "tests" } });
    let reply = client.ask("POST", "/v1/conversations", KEY, &body.to_string());
    let conversation = reply.json();
    assert!(id(&conversation).starts_with("conv_"));
    assert_eq!(conversation["metadata"], body["metadata"]);
    check_owner(&mut client, "/v1/conversations", &conversation);
    let body = json!({ "model": "m", "input": "hello", "conversation": id(&conversation) });
    for (key, status) in [(KEY, 200), (OTHER_KEY, 404)] {
        let reply = client.ask("POST", "/v1/responses", key, &body.to_string());
        assert_eq!(reply.status, status);
    }
    let empty = client.ask("POST", "/v1/conversations", KEY, "").json();
    assert_eq!(empty["metadata"], json!({}));
}

#[test]
fn requests_without_limits_are_recorded_with_their_key() {
    let server = OpenAi::start(OpenAiConfig {
        limit: NonZeroU32::new(1),
        recording: Recording::Full,
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    for key in [KEY, OTHER_KEY, "sk-stranger"] {
        client.ask("POST", "/v1/conversations", key, "{}");
    }
    client.ask("GET", "/v1/files/file-0", KEY, "");
    let calls = server.control().calls();
    let seen: Vec<_> = calls
        .iter()
        .map(|call| (call.key.as_deref(), call.status))
        .collect();
    assert_eq!(
        seen,
        [
            (Some(KEY), CallStatus::Ok),
            (Some(OTHER_KEY), CallStatus::Ok),
            (Some("sk-stranger"), CallStatus::UnknownKey),
            (Some(KEY), CallStatus::Invalid),
        ]
    );
    assert_eq!(
        (calls[0].path.as_str(), calls[0].body.as_slice()),
        ("/v1/conversations", &b"{}"[..])
    );
    assert!(calls.iter().all(|call| call.ended.is_some()));
}

#[test]
fn the_record_of_an_upload_ends_when_its_caller_hangs_up() {
    let server = OpenAi::start(OpenAiConfig {
        recording: Recording::Calls,
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    client.send(&head("POST", "/v1/files", KEY, 100));
    let has = |now: &Control, status| now.calls().iter().any(|call| call.status == status);
    wait_until(&server, |now| has(now, CallStatus::InFlight));
    drop(client);
    wait_until(&server, |now| !has(now, CallStatus::InFlight));
    assert!(!has(&server.control(), CallStatus::Ok));
}
