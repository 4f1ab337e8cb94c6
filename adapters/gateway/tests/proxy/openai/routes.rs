//! Calls by their models: to which pool, under which name, and where to if that fails.

use super::*;

/// A gateway with a pool for each service, named `a`, `b` and so on, and these routes.
fn start_routes(services: &[&OpenAi], members: &[&str], listen: &str) -> Running {
    let mut text = "access_log = false\n".to_owned();
    for ((service, more), name) in services.iter().zip(members).zip(["a", "b", "c"]) {
        let url = service.url();
        text += &format!(
            "[pools.{name}]\nkind = \"openai\"\n[[pools.{name}.members]]\n\
            url = \"{url}\"\nkeys = \"keys.txt\"\n{more}\n"
        );
    }
    text += &format!("[[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"openai\"\n{listen}\n");
    started(&text, services[0])
}

fn of_model(model: &str) -> Value {
    let mut body = chat("hello");
    body["model"] = model.into();
    body
}

#[test]
fn a_model_goes_to_its_pool_under_the_name_it_has_there() {
    let services = [service(1, ""), service(1, "")];
    let listen = "pool = \"b\"\n\
        [[listen.route]]\nmodel = \"fast\"\nas = \"gpt-4o-mini\"\npool = \"a\"\n\
        [[listen.route]]\nmodel = \"gpt-*\"\npool = \"a\"\n";
    let running = start_routes(&[&services[0], &services[1]], &["", ""], listen);
    for (model, service, name, pool) in [
        ("fast", &services[0], "gpt-4o-mini", "a"),
        ("gpt-5", &services[0], "gpt-5", "a"),
        ("claude", &services[1], "claude", "b"),
    ] {
        let answer = post(running.address, &of_model(model));
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        assert_eq!(answer.header("x-leasehold-pool"), Some(pool));
        let call = service.control().calls().pop().unwrap();
        let sent: Value = serde_json::from_slice(&call.body).unwrap();
        assert_eq!(sent["model"], name);
        let mut stream = streamed("hello", json!(null));
        stream["model"] = model.into();
        assert_eq!(post(running.address, &stream).status, 200);
        let call = service.control().calls().pop().unwrap();
        let sent: Value = serde_json::from_slice(&call.body).unwrap();
        assert_eq!(
            (&sent["model"], &sent["stream"]),
            (&json!(name), &json!(true))
        );
    }
    let running = start_routes(
        &[&services[0]],
        &[""],
        "[[listen.route]]\nmodel = \"gpt-*\"\npool = \"a\"\n",
    );
    let refused = post(running.address, &of_model("claude"));
    assert_eq!(
        (refused.status, &error_of(&refused)["code"]),
        (404, &json!("model_not_found"))
    );
}

#[test]
fn a_call_that_one_pool_can_not_serve_goes_to_the_next() {
    let listen = "[[listen.route]]\nmodel = \"gpt-4o\"\npool = \"a\"\n\
        fallbacks = [{ pool = \"b\", as = \"other\" }]\n";
    for name in ["500-error", "401", "429-seconds", "close"] {
        let services = [service(1, ""), service(1, "")];
        let members = ["limits = \"1/60s\"", ""];
        let running = start_routes(&[&services[0], &services[1]], &members, listen);
        services[0]
            .control()
            .script([fault(name), fault(name), fault(name)]);
        let mut hurried = request(
            "/v1/chat/completions",
            "x-stainless-timeout: 1\r\n",
            &chat("a"),
        );
        let answer = ask(running.address, &hurried);
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert_eq!(answer.header("x-leasehold-pool"), Some("b"), "{name}");
        let call = services[1].control().calls().pop().unwrap();
        let sent: Value = serde_json::from_slice(&call.body).unwrap();
        assert_eq!(sent["model"], "other");
        hurried = request(
            "/v1/chat/completions",
            "x-stainless-timeout: 1\r\n",
            &chat("b"),
        );
        // The limit of the first pool is used up for a minute.
        let answer = ask(running.address, &hurried);
        assert_eq!(answer.header("x-leasehold-pool"), Some("b"), "{name}");
    }
    // What is wrong with the call itself is told at once.
    let services = [service(1, ""), service(1, "")];
    let running = start_routes(&[&services[0], &services[1]], &["", ""], listen);
    services[0].control().script([fault("400")]);
    assert_eq!(post(running.address, &chat("a")).status, 400);
    assert_eq!(services[1].report().calls, 0);
}

#[test]
fn the_models_of_all_pools_are_listed_without_a_call_for_each() {
    let mut config = OpenAiConfig::default();
    config.keys = vec![key(1)];
    config.models = ["m1", "m2"].map(str::to_owned).to_vec();
    let all = OpenAi::start(config).expect("a free port");
    let named = service(1, "");
    let listen = "pool = \"b\"\n[[listen.route]]\nmodel = \"fast\"\nas = \"gpt-4o\"\npool = \"a\"\n\
        [[listen.route]]\nmodel = \"gpt-*\"\npool = \"a\"\n";
    let members = ["labels = [\"gpt-4o\", \"gpt-5\", \"hidden\"]", ""];
    let running = start_routes(&[&named, &all], &members, listen);
    let get = |path: &str| {
        let answer = ask(
            running.address,
            &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        );
        let body: Value = serde_json::from_str(answer.text()).expect("JSON");
        (answer.status, body)
    };
    for _ in 0..10 {
        let (status, list) = get("/v1/models");
        assert_eq!((status, &list["object"]), (200, &json!("list")));
        let models = list["data"].as_array().unwrap().iter();
        let names: Vec<_> = models.map(|model| model["id"].as_str().unwrap()).collect();
        assert_eq!(names, ["fast", "gpt-4o", "gpt-5", "m1", "m2"]);
    }
    let (status, one) = get("/v1/models/m1");
    assert_eq!(
        (status, &one["id"], &one["object"]),
        (200, &json!("m1"), &json!("model"))
    );
    let (status, none) = get("/v1/models/hidden");
    assert_eq!(
        (status, &none["error"]["code"]),
        (404, &json!("model_not_found"))
    );
    let asked: u64 = [&named, &all]
        .map(|service| service.report().calls)
        .iter()
        .sum();
    assert!(asked <= 1, "{asked}");
}

/// Asks for JSON, which must come with this status.
fn get(address: SocketAddr, method: &str, path: &str, status: u16) -> Answer {
    let answer = ask(
        address,
        &format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    );
    assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    answer
}

fn id_of(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(answer.text()).expect("JSON");
    body["id"].as_str().expect("an id").to_owned()
}

fn send_file(address: SocketAddr, text: &str) -> Answer {
    let body = format!(
        "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
        --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n{text}\r\n--b--\r\n"
    );
    ask(
        address,
        &format!(
            "POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=b\r\n\
            content-length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
}

#[test]
fn what_a_key_has_made_goes_to_that_key_again_over_restarts_too() {
    let service = service(4, "");
    let folder = tempfile::tempdir().unwrap();
    let top = format!("state = \"{}\"\n", folder.path().join("state").display());
    let text = top + &text_of(&service, "", "", "");
    let running = started(&text, &service);
    let address = running.address;
    // Each is made by another key.
    let files: Vec<(String, String)> = (0..4)
        .map(|number| {
            let made = send_file(address, &format!("line {number}"));
            assert_eq!(made.status, 200, "{}", made.text());
            let key = made.header("x-leasehold-key").unwrap().to_owned();
            (id_of(&made), key)
        })
        .collect();
    let keys: std::collections::BTreeSet<_> = files.iter().map(|(_, key)| key).collect();
    assert_eq!(keys.len(), 4);
    let mut needs = Vec::new();
    for (file, key) in &files {
        let body =
            json!({"input_file_id": file, "endpoint": "/v1/responses", "completion_window": "24h"});
        let made = ask(address, &request("/v1/batches", "", &body));
        assert_eq!(
            (made.status, made.header("x-leasehold-key")),
            (200, Some(key.as_str()))
        );
        needs.push((format!("/v1/batches/{}", id_of(&made)), key));
        needs.push((format!("/v1/files/{file}/content"), key));
    }
    let respond = |address: SocketAddr, before: &str, stream: bool| {
        let mut body = json!({"model": "gpt-4o", "input": "hello", "stream": stream});
        if !before.is_empty() {
            body["previous_response_id"] = before.into();
        }
        ask(address, &request("/v1/responses", "", &body))
    };
    // A chain of answers stays with one key, however they come.
    let mut last = (String::new(), None);
    for stream in [false, true, true, false, true, false] {
        let answer = respond(address, &last.0, stream);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let key = answer.header("x-leasehold-key").map(str::to_owned);
        assert!(
            last.1.is_none() || key == last.1,
            "{key:?} after {:?}",
            last.1
        );
        let id = match stream {
            false => id_of(&answer),
            true => {
                let first: Value = serde_json::from_str(&events(&answer)[0]).unwrap();
                first["response"]["id"].as_str().expect("an id").to_owned()
            }
        };
        last = (id, key);
    }
    running.gateway.drain();
    let running = started(&text, &service);
    for (path, key) in &needs {
        let answer = get(running.address, "GET", path, 200);
        assert_eq!(
            answer.header("x-leasehold-key"),
            Some(key.as_str()),
            "{path}"
        );
    }
    let answer = respond(running.address, &last.0, false);
    assert_eq!(answer.header("x-leasehold-key").map(str::to_owned), last.1);
    // Nothing is known of what others have made.
    get(running.address, "GET", "/v1/files/file-unknown", 404);
    let state = std::fs::read_to_string(folder.path().join("state")).unwrap();
    assert!(files.iter().all(|(file, _)| !state.contains(file)));
}
