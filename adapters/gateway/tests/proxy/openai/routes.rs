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
