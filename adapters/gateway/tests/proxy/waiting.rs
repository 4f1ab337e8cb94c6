//! Requests that wait, and an operator that cancels one.

use crate::leases::{TOKEN, started};
use crate::support::*;
use core::net::SocketAddr;
use core::time::Duration;
use leasehold_testbed::{OpenAi, OpenAiConfig};
use serde_json::{Value, json};
use std::thread;

fn read(answer: &Answer) -> Value {
    serde_json::from_str(answer.text()).expect("JSON")
}

/// The requests that wait, of a pool.
fn waiting(address: SocketAddr, pool: &str) -> Vec<Value> {
    let answer = ask(
        address,
        &format!("GET /lb/waiting?pool={pool} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    read(&answer)["requests"]
        .as_array()
        .expect("a list")
        .clone()
}

/// Waits until this many wait for a pool.
fn until(address: SocketAddr, pool: &str, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    repeat_until("they wait", || {
        found = waiting(address, pool);
        found.len() == count
    });
    found
}

fn cancel(address: SocketAddr, id: &str, token: &str) -> Answer {
    ask(
        address,
        &format!(
            "POST /lb/waiting/{id}/cancel HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n"
        ),
    )
}

#[test]
fn a_request_that_is_cancelled_is_refused_and_those_behind_it_go_on() {
    let backends = backends::<1>();
    backends[0].set_delay(Duration::from_secs(4));
    let members = [(backends[0].address(), 1)];
    let text = config("limits = \"1 concurrent\"", "", &members);
    let running = started(&format!("{text}[admin]\ntoken_file = \"/token\"\n"));
    let address = running.address;
    thread::scope(|scope| {
        let first = scope.spawn(move || get(address, "/first"));
        repeat_until("the first is served", || backends[0].report().requests == 1);
        let second = scope.spawn(move || get(address, "/second?a=b"));
        let row = until(address, "web", 1).remove(0);
        let third = scope.spawn(move || get(address, "/third"));
        let rows = until(address, "web", 2);
        assert_eq!(
            (&rows[0], &rows[1]["request"]),
            (&row, &json!("GET /third"))
        );
        let (id, since) = (row["id"].as_str().expect("an id"), &row["since"]);
        let expected = json!({
            "id": id, "pool": "web", "request": "GET /second", "client": "127.0.0.1", "caller": null, "since": since,
        });
        assert_eq!(row, expected);
        assert_eq!(
            cancel(address, id, "a-wrong-token-of-some-length").status,
            401
        );
        assert_eq!(cancel(address, "x", TOKEN).status, 404);
        let answer = cancel(address, id, TOKEN);
        assert_eq!(
            (answer.status, read(&answer)),
            (200, json!({"cancelled": true}))
        );
        let refused = second.join().expect("no panic");
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(
            refused
                .text()
                .contains("an operator has cancelled the request while it waited")
        );
        assert_eq!(refused.header("retry-after"), None);
        assert_eq!(cancel(address, id, TOKEN).status, 404);
        for others in [first, third] {
            assert_eq!(others.join().expect("no panic").status, 200);
        }
    });
    assert_eq!(waiting(address, "web"), Vec::<Value>::new());
    assert_eq!(backends[0].report().requests, 2);
}

#[test]
fn a_call_and_a_lease_that_are_cancelled_are_not_tried_again() {
    let mut config = OpenAiConfig::default();
    config.keys = vec!["sk-test-0001".to_owned(), "sk-test-0002".to_owned()];
    let service = OpenAi::start(config).expect("a free port");
    let text = format!(
        "access_log = false\n[admin]\ntoken_file = \"/token\"\n[pools.keys]\nkind = \"openai\"\n\
        [[pools.keys.members]]\nurl = \"{0}\"\nkeys = \"keys.txt\"\nlimits = \"1 concurrent\"\n\
        [pools.spare]\nkind = \"openai\"\n[[pools.spare.members]]\nurl = \"{0}\"\nkeys = \"keys.txt\"\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"openai\"\npool = \"keys\"\n\
        route = [{{ model = \"*\", pool = \"keys\", fallbacks = [{{ pool = \"spare\" }}] }}]\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"leases\"\n",
        service.url()
    );
    let running = started(&text);
    let (address, leases) = (
        running.address,
        running.gateway.addresses()[1].expect("TCP"),
    );
    let post = |address: SocketAddr, path: &str, body: &Value| {
        let body = body.to_string();
        let length = body.len();
        ask(
            address,
            &format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            ),
        )
    };
    let lease = json!({"pool": "keys"});
    for _ in 0..2 {
        assert_eq!(post(leases, "/v1/leases", &lease).status, 200);
    }
    let call = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "one"}]});
    for (to, path, body, request, client) in [
        (leases, "/v1/leases", &lease, "a lease", Value::Null),
        (
            address,
            "/v1/chat/completions",
            &call,
            "POST /v1/chat/completions",
            json!("127.0.0.1"),
        ),
    ] {
        let refused = thread::scope(|scope| {
            let waits = scope.spawn(move || post(to, path, body));
            let row = until(address, "keys", 1).remove(0);
            assert_eq!(
                (&row["request"], &row["client"]),
                (&json!(request), &client)
            );
            let id = row["id"].as_str().expect("an id");
            assert_eq!(cancel(address, id, TOKEN).status, 200);
            waits.join().expect("no panic")
        });
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert_eq!(read(&refused)["error"]["code"], "cancelled");
        assert_eq!(refused.header("x-should-retry"), Some("false"));
    }
    // It has not gone to the pool that its route falls back to.
    assert_eq!(service.report().calls, 0);
    assert!(waiting(address, "keys").is_empty());
}
