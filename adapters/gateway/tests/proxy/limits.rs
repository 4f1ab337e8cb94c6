//! What callers are told of a listener's limits.

use crate::support::{Answer, Caller, ask, backends, get, get_for, start_before};

/// A field that tells a limit, with each `t=` as `t=*`, because tests don't know how long a request takes.
fn field(answer: &Answer, name: &str) -> String {
    let value = answer.header(name).unwrap_or("");
    let items = value.split(", ").map(|item| match item.split_once(";t=") {
        None => item.to_owned(),
        Some((rest, seconds)) => {
            let seconds: u64 = seconds.parse().expect("whole seconds");
            assert!((1..=60).contains(&seconds), "{value}");
            format!("{rest};t=*")
        }
    });
    items.collect::<Vec<_>>().join(", ")
}

fn limit(answer: &Answer) -> (u16, String) {
    (answer.status, field(answer, "ratelimit"))
}

#[test]
fn answers_and_refusals_tell_what_is_left_of_each_limit() {
    let backends = backends::<1>();
    let listen = "trusted_proxies = \"all\"\nclient_limit = \"2/60s\"\nlimit = \"4/60s\"";
    let running = start_before("", listen, &backends);
    let policies = r#""all";q=4;w=60, "client";q=2;w=60"#;
    for (client, status, told) in [
        ("10.0.0.1", 200, r#""all";r=3;t=*, "client";r=1;t=*"#),
        ("10.0.0.1", 200, r#""all";r=2;t=*, "client";r=0;t=*"#),
        ("10.0.0.1", 429, r#""all";r=2;t=*, "client";r=0;t=*"#),
        ("10.0.0.2", 200, r#""all";r=1;t=*, "client";r=1;t=*"#),
        ("10.0.0.3", 200, r#""all";r=0;t=*, "client";r=1;t=*"#),
        // The limit of all refuses before that of the client is asked.
        ("10.0.0.4", 429, r#""all";r=0;t=*"#),
    ] {
        let answer = get_for(running.address, client);
        assert_eq!(limit(&answer), (status, told.to_owned()), "{client}");
        assert_eq!(answer.header("ratelimit-policy"), Some(policies));
        let seconds = answer.header("ratelimit").unwrap().rsplit("t=").next();
        if status == 429 {
            assert_eq!(answer.header("retry-after"), seconds, "{client}");
        }
    }
    assert_eq!(backends[0].report().requests, 4);
}

#[test]
fn each_limit_of_a_setting_has_a_name() {
    let backends = backends::<1>();
    let running = start_before("", "limit = \"9/60s, 2/s paced\"", &backends);
    let answer = get(running.address, "/");
    assert_eq!(
        answer.header("ratelimit-policy"),
        Some(r#""all";q=9;w=60, "all-2";q=2;w=1"#)
    );
    assert_eq!(
        limit(&answer),
        (200, r#""all";r=8;t=*, "all-2";r=0;t=*"#.to_owned())
    );
}

#[test]
fn an_answer_of_the_gateway_and_another_protocol_tell_limits_too() {
    let mut backends = backends::<1>();
    let running = start_before("retry = { attempts = 1 }", "limit = \"9/60s\"", &backends);
    let mut caller = Caller::connect(running.address);
    caller.send(
        "GET /ws HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let upgraded = caller.answer().unwrap();
    assert_eq!(limit(&upgraded), (101, r#""all";r=8;t=*"#.to_owned()));
    backends[0].kill().unwrap();
    let broken = get(running.address, "/");
    assert_eq!(limit(&broken), (502, r#""all";r=7;t=*"#.to_owned()));
}

#[test]
fn a_request_that_names_no_host_costs_and_tells_nothing_and_so_does_a_listener_without_limits() {
    let backends = backends::<1>();
    let limited = start_before("", "limit = \"9/60s\"", &backends);
    let answer = ask(
        limited.address,
        "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
    );
    assert_eq!(limit(&answer), (400, String::new()));
    let free = start_before("", "", &backends);
    let answer = get(free.address, "/");
    assert_eq!(limit(&answer), (200, String::new()));
    assert_eq!(answer.header("ratelimit-policy"), None);
}
