//! Callers with keys of their own: what they may ask, how much, and what it costs.

use super::*;
use leasehold_config::KeyHash;

/// A caller's table, with further settings.
fn caller(name: &str, more: &str) -> String {
    let hash = KeyHash::of(key_of(name).as_bytes());
    format!("[[caller]]\nname = \"{name}\"\nkey_sha256 = \"{hash}\"\n{more}\n")
}

fn key_of(name: &str) -> String {
    format!("lh-key-of-{name}")
}

fn post_as(address: SocketAddr, name: &str, body: &Value) -> Answer {
    let headers = format!("authorization: Bearer {}\r\n", key_of(name));
    ask(address, &request("/v1/chat/completions", &headers, body))
}

/// What `/lb/usage` tells of a caller.
fn usage(address: SocketAddr, name: Option<&str>) -> Value {
    let answer = ask(address, "GET /lb/usage HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let view: Value = serde_json::from_str(answer.text()).expect("JSON");
    let callers = view["callers"].as_array().expect("a list");
    let found = callers.iter().find(|caller| caller["name"] == json!(name));
    found.cloned().unwrap_or_default()
}

#[test]
fn a_caller_is_known_by_its_key_and_asks_for_its_models_alone() {
    let service = service(1, "");
    let callers = caller("alice", "models = [\"gpt-4o*\", \"o3\"]") + &caller("bob", "");
    let running = start_with(&service, "", "", &callers);
    let address = running.address;
    let of_model = |model: &str| {
        let mut body = chat("hello");
        body["model"] = model.into();
        body
    };
    for (name, model, status) in [
        ("alice", "gpt-4o-mini", 200),
        ("alice", "o3", 200),
        ("alice", "o3-mini", 403),
        ("bob", "o3-mini", 200),
        ("eve", "o3-mini", 401),
    ] {
        let answer = post_as(address, name, &of_model(model));
        assert_eq!(answer.status, status, "{name} {model}: {}", answer.text());
    }
    let refused = error_of(&post_as(address, "alice", &of_model("x")));
    assert_eq!(refused["code"], "model_not_found");
    assert_eq!(post(address, &chat("hello")).status, 401);
    let anthropic = format!("x-api-key: {}\r\n", key_of("bob"));
    let sent = request("/v1/chat/completions", &anthropic, &chat("hello"));
    assert_eq!(ask(address, &sent).status, 200);
    // The hash of a key, which the settings have, is no key.
    let hash = KeyHash::of(key_of("bob").as_bytes());
    let sent = request(
        "/v1/chat/completions",
        &format!("authorization: Bearer {hash}\r\n"),
        &chat("hello"),
    );
    assert_eq!(ask(address, &sent).status, 401);
    assert_eq!(service.report().calls, 4);
}

#[test]
fn a_caller_above_its_limits_takes_no_place_from_another() {
    let service = slow_service(5);
    let callers = caller("alice", "limits = \"2/60s\"") + &caller("bob", "");
    let pool = "max_wait = \"2s\"";
    let running = start_with(&service, pool, "limits = \"1 concurrent\"", &callers);
    let address = running.address;
    let alice: Vec<u16> = thread::scope(|scope| {
        let alices: Vec<_> = (0..10)
            .map(|_| scope.spawn(move || post_as(address, "alice", &chat("a")).status))
            .collect();
        for _ in 0..20 {
            assert_eq!(post_as(address, "bob", &chat("b")).status, 200);
        }
        alices.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let served = alice.iter().filter(|status| **status == 200).count();
    assert_eq!(served, 2, "{alice:?}");
    assert!(alice.iter().all(|status| [200, 429].contains(status)));
    assert_eq!(service.report().calls, 22);
}

#[test]
fn callers_that_wait_share_a_key_by_their_weights() {
    let service = slow_service(3);
    let callers = caller("one", "weight = 1") + &caller("three", "weight = 3");
    let running = start_with(&service, "", "limits = \"1 concurrent\"", &callers);
    let address = running.address;
    thread::scope(|scope| {
        for name in ["one", "three"] {
            for _ in 0..240 {
                scope.spawn(move || {
                    assert_eq!(post_as(address, name, &chat(name)).status, 200);
                });
            }
        }
    });
    let calls = service.control().calls();
    let is_of = |call: &leasehold_testbed::Call, name: &str| {
        String::from_utf8_lossy(&call.body).contains(&format!("\"{name}\""))
    };
    // Between the time when all wait and that when those of one have ended.
    let waiting = &calls[80..280];
    let three = waiting.iter().filter(|call| is_of(call, "three")).count();
    assert!((143..=157).contains(&three), "{three} of 200");
}

#[test]
fn a_callers_priority_comes_before_those_who_wait_already() {
    let service = slow_service(10);
    let callers = caller("slow", "") + &caller("urgent", "priority = 1");
    let running = start_with(&service, "", "limits = \"1 concurrent\"", &callers);
    let address = running.address;
    let control = service.control();
    thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(move || assert_eq!(post_as(address, "slow", &chat("slow")).status, 200));
        }
        assert!(control.wait(LONG, |control| control.report().calls >= 5));
        assert_eq!(post_as(address, "urgent", &chat("urgent")).status, 200);
        assert!(control.report().calls < 25, "{}", control.report().calls);
    });
}

/// A price by which a call of four words costs some millionths of a dollar.
const PRICE: &str = "[price.\"gpt*\"]\ninput = \"1000 USD\"\noutput = \"10000 USD\"\n[price.\"*\"]\ninput = \"1 USD\"\n";

#[test]
fn what_is_used_is_counted_by_caller_and_model_and_bounded_by_a_budget() {
    let service = service(1, "");
    let callers = caller("alice", "budget = \"1 USD/day\"") + &caller("bob", "") + PRICE;
    let running = start_with(&service, "", "", &callers);
    let address = running.address;
    let mut body = chat("one two three");
    body["max_tokens"] = 20.into();
    let answer = post_as(address, "bob", &body);
    let told: Value = serde_json::from_str(answer.text()).unwrap();
    let count = |name: &str| told["usage"][name].as_u64().unwrap();
    let (prompt, completion) = (count("prompt_tokens"), count("completion_tokens"));
    #[expect(clippy::cast_precision_loss, reason = "the counts are small")]
    let cost = (prompt * 1_000 + completion * 10_000) as f64 / 1e6;
    let bob = usage(address, Some("bob"));
    let of_model = &bob["models"]["gpt-4o"];
    for view in [&bob, of_model] {
        assert_eq!(
            (&view["calls"], &view["calls_without_usage"]),
            (&json!(1), &json!(0))
        );
        assert_eq!(view["prompt_tokens"], prompt);
        assert_eq!(view["completion_tokens"], completion);
        assert_eq!(view["cost_usd"], cost);
    }
    // Streams are counted too, whether their callers ask for the usage or not.
    assert_eq!(
        post_as(address, "bob", &streamed("one", json!(null))).status,
        200
    );
    repeat_until("the stream is counted", || {
        usage(address, Some("bob"))["calls"] == 2
    });
    assert_eq!(usage(address, Some("bob"))["calls_without_usage"], 0);
    // 20 tokens of an answer may cost 0.2 USD.
    let mut statuses = Vec::new();
    while statuses.last() != Some(&429) && statuses.len() < 100 {
        statuses.push(post_as(address, "alice", &body).status);
    }
    assert!(statuses.len() > 5, "{statuses:?}");
    let refused = post_as(address, "alice", &body);
    assert_eq!(error_of(&refused)["code"], "insufficient_quota");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert!(
        refused.text().contains("of the caller alice"),
        "{}",
        refused.text()
    );
    let alice = usage(address, Some("alice"));
    assert_eq!(alice["calls"], statuses.len() - 1);
    let spent = alice["budget"]["spent_usd"].as_f64().unwrap();
    assert!((0.8..=1.0).contains(&spent), "{alice}");
    assert_eq!(alice["cost_usd"], alice["budget"]["spent_usd"]);
    // A shorter answer still fits.
    body["max_tokens"] = 1.into();
    assert_eq!(post_as(address, "alice", &body).status, 200);
}

#[test]
fn usage_and_budgets_outlive_a_restart() {
    let service = service(1, "");
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let callers = caller("alice", "budget = \"1 USD/365d\"") + PRICE;
    let with_state = format!("state = \"{}\"", state.display());
    let mut body = chat("one two three");
    body["max_tokens"] = 60.into();
    let running = start_at_top(&service, &with_state, &callers);
    assert_eq!(post_as(running.address, "alice", &body).status, 200);
    let before = usage(running.address, Some("alice"));
    running.gateway.drain();
    let running = start_at_top(&service, &with_state, &callers);
    let after = usage(running.address, Some("alice"));
    assert_eq!(after["models"], before["models"]);
    assert_eq!(after["budget"]["spent_usd"], before["budget"]["spent_usd"]);
    assert!(after["cost_usd"].as_f64().unwrap() > 0.0);
    let text = std::fs::read_to_string(&state).unwrap();
    assert!(
        !text.contains("lh-key") && !text.contains("sk-test"),
        "{text}"
    );
}

/// A gateway with a setting at the top of its file.
fn start_at_top(service: &OpenAi, top: &str, callers: &str) -> Running {
    let text = text_of(service, "", "", callers);
    started(&format!("{top}\n{text}"), service)
}

#[test]
fn a_call_whose_caller_has_left_is_heard_out_where_it_is_to_be() {
    for (on_disconnect, unknown) in [("cancel", 1), ("drain", 0)] {
        let mut config = OpenAiConfig::default();
        config.keys = vec![key(1)];
        config.chunk_delay = Duration::from_millis(20)..=Duration::from_millis(20);
        config.latency = Duration::from_millis(100)..=Duration::from_millis(100);
        let service = OpenAi::start(config).expect("a free port");
        let listen = format!("on_disconnect = \"{on_disconnect}\"");
        let running = start_with(&service, "", "", &listen);
        let control = service.control();
        for (number, stream) in [true, false].into_iter().enumerate() {
            let body = match stream {
                true => streamed("one two three four five six", json!(null)),
                false => chat("hello"),
            };
            let mut caller = Caller::connect(running.address);
            caller.send(request("/v1/chat/completions", "", &body));
            assert!(control.wait(LONG, |control| control.in_flight() == 1));
            if stream {
                caller.read_until("data:");
            }
            drop(caller);
            assert!(control.wait(LONG, |control| control.in_flight() == 0));
            repeat_until("it is counted", || {
                usage(running.address, None)["calls"] == number + 1
            });
        }
        let counted = usage(running.address, None);
        assert_eq!(
            counted["calls_without_usage"],
            2 * unknown,
            "{on_disconnect}"
        );
        assert_eq!(service.stop().hung_up, 2 * unknown, "{on_disconnect}");
    }
}

#[test]
fn what_was_made_for_one_caller_is_there_for_no_other() {
    let service = service(1, "");
    let callers = caller("alice", "") + &caller("bob", "");
    let running = start_with(&service, "", "", &callers);
    let address = running.address;
    let respond = |name: &str, before: &Value| {
        let body = json!({"model": "gpt-4o", "input": "hello", "previous_response_id": before});
        let headers = format!("authorization: Bearer {}\r\n", key_of(name));
        ask(address, &request("/v1/responses", &headers, &body))
    };
    let made = respond("alice", &json!(null));
    let made: Value = serde_json::from_str(made.text()).unwrap();
    let look = |name: &str| {
        let id = made["id"].as_str().expect("an id");
        let key = key_of(name);
        let text = format!(
            "GET /v1/responses/{id} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n\r\n"
        );
        ask(address, &text).status
    };
    assert_eq!((look("alice"), look("bob")), (200, 404));
    let refused = respond("bob", &made["id"]);
    assert_eq!(
        (refused.status, &error_of(&refused)["code"]),
        (404, &json!("not_found"))
    );
    assert_eq!(respond("alice", &made["id"]).status, 200);
    assert_eq!((look("bob"), look("alice")), (404, 200));
}

#[test]
fn what_callers_spend_is_told_of() {
    let service = service(1, "");
    let alerts =
        "[[alert]]\nwhen = \"spend > 0.05 USD\"\n[[alert]]\nwhen = \"caller spend > 0.05 USD\"\n";
    let callers = caller("alice", "") + &caller("bob", "") + PRICE + alerts;
    let running = start_with(&service, "", "", &callers);
    let address = running.address;
    let told = || {
        let answer = ask(
            address,
            "GET /lb/alerts HTTP/1.1\r\nhost: localhost\r\n\r\n",
        );
        let view: Value = serde_json::from_str(answer.text()).expect("JSON");
        view["alerts"].as_array().cloned().unwrap_or_default()
    };
    // What was spent before the first look is not counted.
    repeat_until("there was a look", || !told().is_empty());
    assert_eq!(post_as(address, "bob", &chat("one")).status, 200);
    while usage(address, Some("alice"))["cost_usd"].as_f64() < Some(0.06) {
        assert_eq!(
            post_as(address, "alice", &chat("one two three")).status,
            200
        );
    }
    repeat_until("both are told", || {
        told().iter().all(|alert| alert["active"] != json!([]))
    });
    let told = told();
    let all = told[0]["active"][0]["text"]
        .as_str()
        .expect("a text")
        .to_owned();
    assert!(
        all.starts_with("all callers together have spent 0.") && all.ends_with(" USD in 1d"),
        "{all}"
    );
    assert_eq!(
        told[1]["active"].as_array().map(Vec::len),
        Some(1),
        "{told:?}"
    );
    assert_eq!(told[1]["active"][0]["caller"], "alice");
}
