//! Calls through the gateway to a service with keys, judged by what the service saw.

use super::*;

#[test]
fn a_call_and_its_answer_pass_with_the_services_key_in_place_of_the_callers() {
    let service = service(1, "");
    let running = start(&service, "");
    let body = chat("hello there");
    let headers =
        "authorization: Bearer sk-of-the-caller\r\nopenai-organization: org\r\nx-own: 1\r\n";
    let answer = ask(
        running.address,
        &request("/v1/chat/completions?a=b", headers, &body),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said: Value = serde_json::from_str(answer.text()).unwrap();
    assert_eq!(
        said["choices"][0]["message"]["content"],
        "echo from gpt-4o: hello there"
    );
    assert_eq!(answer.header("x-leasehold-key"), Some("0001"));
    assert_eq!(answer.header("x-leasehold-attempts"), Some("1"));
    let call = &service.control().calls()[0];
    assert_eq!(call.path, "/v1/chat/completions?a=b");
    assert_eq!(call.key.as_deref(), Some(key(1).as_str()));
    assert_eq!(call.body, body.to_string().into_bytes());
    assert_eq!(
        (call.header("x-own"), call.header("openai-organization")),
        (Some("1"), None)
    );
    assert_eq!(
        answer
            .header("x-request-id")
            .map(|id| id.starts_with("req_")),
        Some(true)
    );
}

#[test]
fn a_stream_shows_its_usage_to_those_who_asked() {
    let service = service(1, "");
    let running = start(&service, "");
    for (options, shows) in [(json!(null), false), (json!({"include_usage": true}), true)] {
        let answer = post(running.address, &streamed("hello there", options));
        assert_eq!(answer.status, 200);
        let events = events(&answer);
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
        let chunks: Vec<Value> = events[..events.len() - 1]
            .iter()
            .map(|data| serde_json::from_str(data).unwrap())
            .collect();
        let words: String = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(words, "echo from gpt-4o: hello there");
        let has_usage = chunks.iter().any(|chunk| chunk.get("usage").is_some());
        assert_eq!(has_usage, shows, "{events:?}");
        let call = service.control().calls().pop().unwrap();
        let sent: Value = serde_json::from_slice(&call.body).unwrap();
        assert_eq!(sent["stream_options"]["include_usage"], true);
    }
}

#[test]
fn a_hundred_callers_keep_the_limits_of_five_keys_and_share_them_evenly() {
    let limits = "10/1s";
    let service = service(5, limits);
    let running = start(&service, limits);
    let address = running.address;
    let statuses: Vec<u16> = thread::scope(|scope| {
        let callers: Vec<_> = (0..100)
            .map(|number| {
                scope.spawn(move || post(address, &chat(&format!("number {number}"))).status)
            })
            .collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .collect()
    });
    assert_eq!(statuses, [200; 100]);
    let report = service.stop();
    assert_eq!(
        (report.ok, report.rejected_429, report.repeated),
        (100, 0, 0)
    );
    assert!(report.limits[0].max_in_window <= 10, "{:?}", report.limits);
    let calls = calls_by_key(&report);
    let (least, most) = (calls.iter().min().unwrap(), calls.iter().max().unwrap());
    assert!(most - least <= 1, "{calls:?}");
}

#[test]
fn streams_that_outlast_the_window_hold_up_no_other_call() {
    let limits = "2/500ms";
    let mut config = OpenAiConfig::default();
    config.keys = (1..=5).map(key).collect();
    config.limits = Limit::parse_list(limits).expect("limits");
    // A stream of about eight events lasts four windows.
    config.chunk_delay = Duration::from_millis(250)..=Duration::from_millis(250);
    let service = OpenAi::start(config).expect("a free port");
    let running = start(&service, limits);
    let address = running.address;
    thread::scope(|scope| {
        for _ in 0..80 {
            scope.spawn(move || {
                let answer = post(address, &streamed("one two three", json!(null)));
                assert_eq!(answer.status, 200);
                let waited = answer.header("x-leasehold-waited-ms");
                let waited: f64 = waited.expect("a header").parse().expect("a number");
                // Eight windows let all begin, four of them before the first stream has ended.
                assert!(waited < 4_500.0, "{waited}");
            });
        }
    });
    let report = service.stop();
    assert_eq!((report.ok, report.rejected_429), (80, 0));
    let calls = calls_by_key(&report);
    assert!(
        calls.iter().all(|calls| (15..=17).contains(calls)),
        "{calls:?}"
    );
}

#[test]
fn a_caller_with_few_calls_does_not_wait_behind_one_with_many() {
    let service = slow_service(10);
    let running = start(&service, "1 concurrent");
    let address = running.address;
    let send = |caller: &str| {
        let headers = format!("authorization: Bearer {caller}\r\n");
        let sent = request("/v1/chat/completions", &headers, &chat(caller));
        move || assert_eq!(ask(address, &sent).status, 200)
    };
    let control = service.control();
    thread::scope(|scope| {
        for _ in 0..60 {
            scope.spawn(send("of-many"));
        }
        assert!(control.wait(LONG, |control| control.report().calls >= 20));
        for _ in 0..5 {
            scope.spawn(send("of-few"));
        }
    });
    let calls = control.calls();
    let is_few =
        |call: &leasehold_testbed::Call| String::from_utf8_lossy(&call.body).contains("of-few");
    let first = calls.iter().position(is_few).expect("a call");
    let last = calls.iter().rposition(is_few).expect("a call");
    // They take turns; one of the few may have come a turn later than another.
    assert!(last - first <= 2 * 5, "{first} to {last}");
    assert!(last < 50, "{last}");
}

#[test]
fn tokens_are_reserved_before_a_call_and_settled_after_it() {
    // An echo of three words is seven tokens with those of its question.
    let limits = "100 tokens/1s";
    let service = service(1, limits);
    let running = start(&service, limits);
    let address = running.address;
    let mut body = chat("one two three");
    body["max_tokens"] = 20.into();
    thread::scope(|scope| {
        for _ in 0..30 {
            let body = &body;
            scope.spawn(move || assert_eq!(post(address, body).status, 200));
        }
    });
    let report = service.stop();
    assert_eq!(
        (report.ok, report.limits[0].refused),
        (30, 0),
        "{:?}",
        report.limits
    );
}

#[test]
fn a_call_that_fails_is_made_again_with_another_key() {
    for name in [
        "500-error",
        "503-retry-after",
        "529-error",
        "429-seconds",
        "429-untold",
        "401",
        "quota",
        "close",
        "reset",
        "error-200",
    ] {
        let service = service(2, "");
        let running = start(&service, "");
        service.control().script([fault(name)]);
        let answer = post(running.address, &chat("hello"));
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert_eq!(answer.header("x-leasehold-attempts"), Some("2"), "{name}");
        assert_eq!(calls_by_key(&service.stop()), [1, 1], "{name}");
    }
}

#[test]
fn a_key_that_is_refused_rests_and_one_that_is_rejected_is_left_alone() {
    let service = service(1, "");
    let running = start(&service, "");
    service.control().script([fault("429-seconds")]);
    let answer = post(running.address, &chat("hello"));
    assert_eq!(answer.status, 200);
    // The service's word, 300 ms, rounded up to whole seconds.
    let waited: f64 = answer
        .header("x-leasehold-waited-ms")
        .unwrap()
        .parse()
        .unwrap();
    assert!(waited > 900.0, "{waited}");
    assert_eq!(service.report().early, 0);
    let service = self::service(2, "");
    let running = start(&service, "");
    service.control().script([fault("401")]);
    for _ in 0..6 {
        assert_eq!(post(running.address, &chat("hello")).status, 200);
    }
    let mut calls = calls_by_key(&service.stop());
    calls.sort_unstable();
    assert_eq!(calls, [1, 6]);
}

#[test]
fn a_pool_whose_keys_are_turned_away_is_down() {
    let service = service(1, "");
    let running = start(&service, "");
    assert_eq!(post(running.address, &chat("hello")).status, 200);
    service.control().script([fault("401")]);
    for _ in 0..2 {
        let answer = post(running.address, &chat("hello"));
        let error = error_of(&answer);
        assert_eq!((answer.status, &error["code"]), (503, &json!("no_key")));
        let told = error["message"].as_str().expect("a text");
        assert!(told.contains("turned away: "), "{told}");
    }
    let backends = ask(
        running.address,
        "GET /lb/backends HTTP/1.1\r\nhost: localhost\r\n\r\n",
    );
    let backends: Value = serde_json::from_str(backends.text()).expect("JSON");
    assert_eq!(backends[0]["healthy"], json!(false));
    assert_eq!(service.stop().calls, 2);
}

#[test]
fn what_no_other_key_would_change_is_the_callers_to_read() {
    let service = service(2, "");
    let running = start(&service, "");
    for (name, status) in [("400", 400), ("404", 404), ("422", 422)] {
        service.control().script([fault(name)]);
        let answer = post(running.address, &chat("hello"));
        assert_eq!(answer.status, status, "{name}");
        assert!(error_of(&answer)["message"].is_string());
    }
    assert_eq!(service.report().calls, 3);
    let answer = ask(
        running.address,
        &request("/v1/chat/completions", "", &json!("no object")),
    );
    assert_eq!(answer.status, 400);
    let cut = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{\"model\":";
    let answer = ask(running.address, cut);
    assert_eq!(
        (answer.status, &error_of(&answer)["code"]),
        (400, &json!("bad_json"))
    );
}

#[test]
fn a_stream_that_fails_at_once_is_made_again_and_one_that_breaks_says_so() {
    for name in ["stream-error-first", "stream-empty", "cut-headers"] {
        let service = service(2, "");
        let running = start(&service, "");
        service.control().script([fault(name)]);
        let answer = post(running.address, &streamed("hello", json!(null)));
        assert_eq!(
            events(&answer).last().map(String::as_str),
            Some("[DONE]"),
            "{name}"
        );
        assert_eq!(answer.header("x-leasehold-attempts"), Some("2"), "{name}");
    }
    for name in [
        "stream-cut",
        "stream-cut-line",
        "stream-abort",
        "stream-reset",
        "stream-error",
    ] {
        let service = service(2, "");
        let running = start(&service, "");
        for options in [json!(null), json!({"include_usage": true})] {
            service.control().script([fault(name)]);
            let answer = post(
                running.address,
                &streamed("one two three four five", options),
            );
            let events = events(&answer);
            let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
            assert!(last["error"].is_object(), "{name}: {events:?}");
            assert!(events.len() > 1, "{name}");
        }
        let control = service.control();
        assert!(control.wait(LONG, |control| control.in_flight() == 0));
    }
}

/// Makes as many calls as `LEASEHOLD_LEAK_CALLS` says, and 60 without it.
#[test]
fn callers_that_leave_take_no_slot_with_them() {
    let calls = std::env::var("LEASEHOLD_LEAK_CALLS").ok();
    let calls: u64 = calls.map_or(60, |text| text.parse().expect("a number of calls"));
    let mut config = OpenAiConfig::default();
    config.keys = vec![key(1)];
    config.latency = Duration::from_millis(20)..=Duration::from_millis(60);
    config.faults = ["500-error=5%", "stream-reset=5%", "429-untold=5%"]
        .map(|rule| rule.parse().expect("a fault"))
        .to_vec();
    config.chunk_delay = Duration::from_millis(1)..=Duration::from_millis(5);
    let service = OpenAi::start(config).unwrap();
    let running = start(&service, "3 concurrent");
    let address = running.address;
    thread::scope(|scope| {
        for thread in 0..60 {
            scope.spawn(move || {
                for number in (thread..calls).step_by(60) {
                    let mut caller = Caller::connect(address);
                    let body = match number % 2 {
                        0 => chat("one two three"),
                        _ => streamed("one two three four five six", json!(null)),
                    };
                    caller.send(request("/v1/chat/completions", "", &body));
                    thread::sleep(Duration::from_millis(number * 7 % 200));
                }
            });
        }
    });
    let control = service.control();
    assert!(control.wait(LONG, |control| control.in_flight() == 0));
    control.set_faults(Vec::new());
    // Three slots are there for three callers at once.
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || assert_eq!(post(address, &chat("hello")).status, 200));
        }
    });
    assert!(service.stop().max_concurrent <= 3);
}

#[test]
fn a_refusal_says_when_to_come_back_in_the_services_words() {
    let service = service(1, "");
    let pool = "max_wait = \"0s\"";
    let running = start_with(&service, pool, "limits = \"1/90s\"", "");
    assert_eq!(post(running.address, &chat("hello")).status, 200);
    let refused = post(running.address, &chat("hello"));
    assert_eq!(refused.status, 429);
    let error = error_of(&refused);
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("requests"), &json!("rate_limit_exceeded"))
    );
    // SDKs give up on more than a minute; the true time is told beside it.
    assert_eq!(refused.header("retry-after"), Some("60"));
    assert_eq!(refused.header("retry-after-ms"), Some("60000"));
    assert_eq!(refused.header("x-should-retry"), Some("true"));
    let reset = refused.header("x-ratelimit-reset-requests").unwrap();
    assert!(reset.starts_with("1m"), "{reset}");
    let refused = ask(
        running.address,
        &request("/v1/messages", "", &chat("hello")),
    );
    let body: Value = serde_json::from_str(refused.text()).unwrap();
    assert_eq!(body["error"]["type"], "rate_limit_error");
    // A caller that would have given up is told at once.
    let running = start_with(&service, "", "limits = \"1/90s\"", "");
    assert_eq!(post(running.address, &chat("hello")).status, 200);
    let hurried = request(
        "/v1/chat/completions",
        "x-stainless-read-timeout: 5\r\n",
        &chat("a"),
    );
    assert_eq!(ask(running.address, &hurried).status, 429);
}

#[test]
fn keys_are_for_callers_with_the_token_or_for_this_machine() {
    let service = service(1, "");
    let guarded = start_with(&service, "", "", "token_file = \"token\"");
    let open = start(&service, "");
    let path = "/v1/chat/completions";
    for (headers, status) in [
        ("", 401),
        ("authorization: Bearer another-token-of-some\r\n", 401),
        ("authorization: Bearer a-token-of-some-length\r\n", 200),
        ("x-api-key: a-token-of-some-length\r\n", 200),
    ] {
        let answer = ask(guarded.address, &request(path, headers, &chat("hello")));
        assert_eq!(answer.status, status, "{headers}");
    }
    for (headers, status) in [
        ("authorization: Bearer anything\r\n", 200),
        ("origin: http://evil.test\r\n", 403),
        ("x-forwarded-for: 192.0.2.1\r\n", 403),
    ] {
        let answer = ask(open.address, &request(path, headers, &chat("hello")));
        assert_eq!(answer.status, status, "{headers}");
    }
    let rebound = request(path, "", &chat("hello")).replace("localhost", "evil.test");
    assert_eq!(ask(open.address, &rebound).status, 403);
    let calls = service.control().calls();
    assert!(
        calls
            .iter()
            .all(|call| call.key.as_deref() == Some(key(1).as_str()))
    );
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|call| call.status == CallStatus::Ok));
}

#[test]
fn a_model_goes_to_the_keys_that_serve_it() {
    let service = service(2, "");
    let url = service.url();
    let text = format!(
        "access_log = false\n[pools.keys]\nkind = \"openai\"\n\
        [[pools.keys.members]]\nurl = \"{url}\"\nkeys = \"one.txt\"\nlabels = [\"gpt-4o\"]\n\
        [[pools.keys.members]]\nurl = \"{url}\"\nkeys = \"two.txt\"\nMORE\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"openai\"\npool = \"keys\"\n"
    );
    let given = Given::new()
        .with_file("/one.txt", key(1))
        .with_file("/two.txt", key(2));
    // One that names its models serves those; one that names none serves all.
    for (more, served) in [
        ("labels = [\"mini\"]", [&["0001"][..], &["0002"], &[]]),
        ("", [&["0001", "0002"], &["0002"], &["0002"]]),
    ] {
        let text = text.replace("MORE", more);
        let settings = Settings::parse(&text, Path::new("/"), &given);
        let settings = settings.unwrap_or_else(|error| panic!("{error}"));
        let gateway = Gateway::start(settings).unwrap();
        let address = gateway.addresses()[0].unwrap();
        let models = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n";
        assert_eq!(ask(address, models).status, 200);
        for (model, keys) in ["gpt-4o", "mini", "other"].into_iter().zip(served) {
            let mut body = chat("hello");
            body["model"] = model.into();
            for _ in 0..4 {
                let answer = post(address, &body);
                let expected = if keys.is_empty() { 404 } else { 200 };
                assert_eq!(answer.status, expected, "{model}");
                let key = answer.header("x-leasehold-key");
                assert!(
                    key.is_none_or(|key| keys.contains(&key)),
                    "{model}: {key:?}"
                );
            }
        }
    }
}

#[test]
fn calls_that_wait_are_served_by_the_limits_that_a_reload_puts_in_force() {
    let service = slow_service(200);
    let running = start(&service, "1 concurrent");
    let address = running.address;
    let control = service.control();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(move || {
                let answer = post(address, &chat("hello"));
                assert_eq!(answer.status, 200, "{}", answer.text());
            });
        }
        assert!(control.wait(LONG, |control| control.in_flight() == 1));
        // Another policy takes another pool.
        let text = text_of(
            &service,
            "policy = \"fifo\"",
            "limits = \"3 concurrent\"",
            "",
        );
        running
            .gateway
            .reload(settings_of(&text, &service))
            .expect("a reload");
    });
    let report = service.stop();
    assert_eq!(report.ok, 6);
    assert!(
        (2..=4).contains(&report.max_concurrent),
        "{}",
        report.max_concurrent
    );
}
