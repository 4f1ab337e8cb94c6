//! Leases over HTTP: what a holder is told, when a lease ends, and what becomes of one that no worker got.

use crate::support::*;
use core::net::SocketAddr;
use core::time::Duration;
use leasehold_config::{Given, KeyHash, Settings};
use leasehold_gateway::Gateway;
use serde_json::{Value, json};
use std::path::Path;
use std::thread;

pub(crate) const TOKEN: &str = "a-token-of-some-length";
const AS_TOKEN: &str = "authorization: Bearer a-token-of-some-length\r\n";

/// A pool of keys of these limits, and one of a GPU server; workers have a token.
pub(crate) fn text_of(limits: &str, listen: &str) -> String {
    format!(
        "access_log = false\n[pools.keys]\nkind = \"openai\"\npolicy = \"fifo\"\n\
        [[pools.keys.members]]\nurl = \"https://api.test/v1\"\nkeys = \"keys.txt\"\nlimits = \"{limits}\"\n\
        [pools.gpu]\nkind = \"http\"\n[[pools.gpu.members]]\nname = \"one\"\nurl = \"http://gpu.test\"\nmax_connections = 1\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"leases\"\n{listen}\n"
    )
}

fn settings_of(text: &str) -> Settings {
    let given = Given::new()
        .with_file("/keys.txt", "sk-test-0001\nsk-test-0002\n")
        .with_file("/token", TOKEN);
    Settings::parse(text, Path::new("/"), &given).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn started(text: &str) -> Running {
    let gateway = Gateway::start(settings_of(text)).unwrap_or_else(|error| panic!("{error}"));
    let address = gateway.addresses()[0].expect("a TCP listener");
    Running { gateway, address }
}

pub(crate) fn start(limits: &str, listen: &str) -> Running {
    let token = "token_file = \"/token\"\n";
    started(&text_of(limits, &format!("{token}{listen}")))
}

fn request(path: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

/// A call's status and answer.
fn call_as(address: SocketAddr, headers: &str, path: &str, body: &Value) -> (u16, Value) {
    read(&ask(address, &request(path, headers, body)))
}

fn call(address: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    call_as(address, AS_TOKEN, path, body)
}

fn read(answer: &Answer) -> (u16, Value) {
    let body = serde_json::from_str(answer.text());
    (answer.status, body.unwrap_or_else(|_| panic!("{answer:?}")))
}

pub(crate) fn lease(address: SocketAddr, body: &Value) -> Value {
    let (status, lease) = call(address, "/v1/leases", body);
    assert_eq!(status, 200, "{lease}");
    lease
}

pub(crate) fn end(address: SocketAddr, lease: &Value, outcome: &str) -> u16 {
    let path = path_of(lease, "release");
    call(address, &path, &json!({"outcome": outcome})).0
}

fn path_of(lease: &Value, what: &str) -> String {
    format!(
        "/v1/leases/{}/{what}",
        lease["lease"].as_str().expect("an id")
    )
}

pub(crate) fn view(address: SocketAddr, pool: &str) -> Value {
    let head = format!("GET /v1/pools/{pool} HTTP/1.1\r\nhost: localhost\r\n{AS_TOKEN}\r\n");
    let (status, view) = read(&ask(address, &head));
    assert_eq!(status, 200, "{view}");
    view
}

fn now_free() -> Value {
    json!({"pool": "gpu", "wait_ms": 0})
}

#[test]
fn a_holder_gets_a_key_and_gives_it_back_once() {
    let running = start("1 concurrent", "lease_ttl = \"30s\"");
    let address = running.address;
    let first = lease(address, &json!({"pool": "keys"}));
    assert_eq!(first["url"], "https://api.test/v1");
    assert_eq!(first["secret"], "sk-test-0001");
    let expires = first["expires_in_ms"].as_u64().unwrap();
    assert!((29_000..=30_000).contains(&expires), "{expires}");
    assert_eq!(first["renew_in_ms"].as_u64().unwrap(), expires / 3);
    let second = lease(address, &json!({"pool": "keys"}));
    assert_eq!(second["secret"], "sk-test-0002");
    assert!(second["fence"].as_u64() > first["fence"].as_u64());
    let (status, refused) = call(
        address,
        "/v1/leases",
        &json!({"pool": "keys", "wait_ms": 0}),
    );
    assert_eq!(
        (status, &refused["error"]["cause"]),
        (429, &json!("awaiting_completion"))
    );
    assert_eq!(
        call(address, &path_of(&first, "arrived"), &json!({})),
        (200, json!({}))
    );
    assert_eq!(end(address, &first, "ok"), 200);
    for what in ["release", "arrived", "renew"] {
        let (status, gone) = call(address, &path_of(&first, what), &json!({"outcome": "ok"}));
        assert_eq!(
            (status, &gone["error"]["code"]),
            (410, &json!("lease_expired"))
        );
    }
    assert_eq!(
        lease(address, &json!({"pool": "keys"}))["secret"],
        "sk-test-0001"
    );
    let seen = view(address, "keys");
    assert_eq!(
        (&seen["held"], &seen["members"][0]["ok"]),
        (&json!(2), &json!(1))
    );
    assert!(!seen.to_string().contains("sk-test"));
}

#[test]
fn without_a_token_only_programs_on_this_machine_lease_and_learn_no_secret() {
    let running = started(&text_of("9 concurrent", ""));
    let asked = |headers: &str| {
        let body = json!({"pool": "keys"}).to_string();
        let length = body.len();
        let head = format!("POST /v1/leases HTTP/1.1\r\n{headers}content-length: {length}\r\n\r\n");
        read(&ask(running.address, &(head + &body)))
    };
    let (status, lease) = asked("host: localhost\r\n");
    assert_eq!((status, lease.get("secret")), (200, None));
    for foreign in [
        "host: evil.test\r\n",
        "host: localhost\r\norigin: http://evil.test\r\n",
        "host: localhost\r\nx-forwarded-for: 192.0.2.1\r\n",
    ] {
        assert_eq!(asked(foreign).0, 403, "{foreign}");
    }
    let with_token = start("9 concurrent", "");
    for (headers, status) in [
        ("", 401),
        ("authorization: Bearer wrong\r\n", 401),
        (AS_TOKEN, 200),
    ] {
        let body = json!({"pool": "keys"});
        assert_eq!(
            call_as(with_token.address, headers, "/v1/leases", &body).0,
            status
        );
    }
}

#[test]
fn a_caller_has_its_own_leases_alone() {
    let caller = |name: &str| {
        let hash = KeyHash::of(format!("lh-{name}").as_bytes());
        format!("[[caller]]\nname = \"{name}\"\nkey_sha256 = \"{hash}\"\n")
    };
    let running = started(&text_of(
        "9 concurrent",
        &(caller("alice") + &caller("bob")),
    ));
    let as_caller = |name: &str| format!("authorization: Bearer lh-{name}\r\n");
    let asked = json!({"pool": "gpu"});
    let (status, lease) = call_as(running.address, &as_caller("alice"), "/v1/leases", &asked);
    assert_eq!(status, 200);
    let path = path_of(&lease, "release");
    for (name, status) in [("eve", 401), ("bob", 410), ("alice", 200)] {
        let done = call_as(
            running.address,
            &as_caller(name),
            &path,
            &json!({"outcome": "ok"}),
        );
        assert_eq!(done.0, status, "{name}");
    }
}

#[test]
fn a_worker_that_waits_has_the_next_lease_and_one_that_has_left_has_none() {
    let running = start("1 concurrent", "");
    let address = running.address;
    let held = lease(address, &json!({"pool": "gpu"}));
    let waiting = |count: u64| {
        repeat_until("they wait", || view(address, "gpu")["waiting"] == count);
    };
    let mut leaves = Caller::connect(address);
    leaves.send(request("/v1/leases", AS_TOKEN, &json!({"pool": "gpu"})));
    waiting(1);
    thread::scope(|scope| {
        let next = scope.spawn(|| lease(address, &json!({"pool": "gpu"})));
        waiting(2);
        drop(leaves);
        waiting(1);
        assert_eq!(end(address, &held, "ok"), 200);
        let next = next.join().unwrap();
        assert!(next["waited_ms"].as_u64().is_some());
        assert_eq!(view(address, "gpu")["held"], 1);
        assert_eq!(end(address, &next, "ok"), 200);
    });
}

#[test]
fn a_lease_ends_when_it_is_not_renewed() {
    let running = start("1 concurrent", "lease_ttl = \"400ms\"");
    let address = running.address;
    let first = lease(address, &json!({"pool": "gpu"}));
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(200));
        let (status, renewed) = call(address, &path_of(&first, "renew"), &json!({}));
        assert_eq!(status, 200, "{renewed}");
        assert!(renewed["expires_in_ms"].as_u64().unwrap() > 300);
        assert_eq!(call(address, "/v1/leases", &now_free()).0, 429);
    }
    let next = lease(address, &json!({"pool": "gpu"}));
    assert!(next["waited_ms"].as_u64().unwrap() > 200);
    assert_eq!(call(address, &path_of(&first, "renew"), &json!({})).0, 410);
    assert_eq!(view(address, "gpu")["members"][0]["expired"], 1);
}

#[test]
fn a_request_that_comes_again_has_the_same_lease() {
    let running = start("1 concurrent", "");
    let asked = json!({"pool": "gpu", "idempotency_key": "job 7", "wait_ms": 0});
    let first = lease(running.address, &asked);
    assert_eq!(lease(running.address, &asked)["lease"], first["lease"]);
    assert_eq!(end(running.address, &first, "ok"), 200);
    assert_ne!(lease(running.address, &asked)["lease"], first["lease"]);
}

#[test]
fn a_batch_frees_before_it_asks_and_each_part_stands_alone() {
    let running = start("2 concurrent", "");
    let address = running.address;
    let held = lease(address, &json!({"pool": "keys", "count": 9, "wait_ms": 0}));
    let held = held["leases"].as_array().unwrap();
    assert_eq!(held.len(), 4, "all that are free");
    let release = |lease: &Value| json!({"lease": lease["lease"], "outcome": "ok"});
    let (status, done) = call(
        address,
        "/v1/batch",
        &json!({
            "arrived": [held[2]["lease"]],
            "renew": [held[3]["lease"], "keys-1"],
            "release": [release(&held[0]), release(&held[0]), release(&held[1])],
            "acquire": [{"pool": "keys", "count": 5}, {"pool": "none"}, {"pool": "keys", "wait_ms": 0}],
        }),
    );
    assert_eq!(status, 200, "{done}");
    let statuses = |list: &str| -> Vec<u64> {
        let parts = done[list].as_array().unwrap().iter();
        parts
            .map(|part| part["error"]["status"].as_u64().unwrap_or(200))
            .collect()
    };
    assert_eq!(statuses("arrived"), [200]);
    assert_eq!(statuses("renewed"), [200, 410]);
    assert_eq!(statuses("released"), [200, 410, 200]);
    assert_eq!(statuses("acquired"), [200, 404, 429]);
    assert_eq!(done["acquired"][0]["leases"].as_array().unwrap().len(), 2);
}

#[test]
fn a_throttled_member_rests_and_another_is_taken() {
    let running = start("9 concurrent", "");
    let address = running.address;
    let first = lease(address, &json!({"pool": "keys"}));
    let throttled = json!({"outcome": "throttled", "retry_after_ms": 60_000});
    assert_eq!(
        call(address, &path_of(&first, "release"), &throttled).0,
        200
    );
    for _ in 0..4 {
        assert_eq!(
            lease(address, &json!({"pool": "keys"}))["secret"],
            "sk-test-0002"
        );
    }
    let second = lease(address, &json!({"pool": "keys"}));
    assert_eq!(
        call(address, &path_of(&second, "release"), &throttled).0,
        200
    );
    let (status, refused) = call(
        address,
        "/v1/leases",
        &json!({"pool": "keys", "wait_ms": 100}),
    );
    assert_eq!(
        (status, &refused["error"]["cause"]),
        (429, &json!("throttled"))
    );
    let wait = refused["error"]["retry_after_ms"].as_u64().unwrap();
    assert!((50_000..=60_000).contains(&wait), "{wait}");
}

#[test]
fn members_that_have_failed_a_task_are_left_out_where_others_serve() {
    let running = start("9 concurrent", "");
    let member = |avoid: &[&Value]| {
        let asked = json!({"pool": "keys", "avoid": avoid});
        lease(running.address, &asked)["member"].clone()
    };
    let first = member(&[]);
    let other = member(&[&first]);
    assert_ne!(other, first);
    for _ in 0..4 {
        assert_eq!(member(&[&first]), other);
    }
    assert!([&first, &other].contains(&&member(&[&first, &other])));
}

#[test]
fn leases_outlive_the_gateway_and_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let state = format!("state = \"{}\"\n", folder.path().join("state").display());
    let text = |policy: &str| {
        let text = text_of("3/60s", "token_file = \"/token\"\nlease_ttl = \"30s\"");
        state.clone() + &text.replace("policy = \"fifo\"", policy)
    };
    let running = started(&text("policy = \"fifo\""));
    let gpu = lease(running.address, &json!({"pool": "gpu"}));
    let keys = lease(running.address, &json!({"pool": "keys", "count": 6}));
    let keys = keys["leases"].as_array().unwrap().clone();
    running.gateway.drain();
    let running = started(&text("policy = \"fifo\""));
    let address = running.address;
    assert_eq!(
        call(address, "/v1/leases", &now_free()).0,
        429,
        "it is held"
    );
    assert_eq!(call(address, &path_of(&gpu, "renew"), &json!({})).0, 200);
    assert_eq!(end(address, &gpu, "ok"), 200);
    let next = lease(address, &json!({"pool": "gpu"}));
    assert!(next["fence"].as_u64() > gpu["fence"].as_u64());
    let none_left = || {
        let (status, refused) = call(
            address,
            "/v1/leases",
            &json!({"pool": "keys", "wait_ms": 0}),
        );
        assert_eq!(status, 429, "{refused}");
    };
    none_left();
    // What was not sent may be sent again.
    assert_eq!(end(address, &keys[0], "not_sent"), 200);
    let reloaded = settings_of(&text("policy = \"least_used\""));
    running
        .gateway
        .reload(reloaded)
        .expect("only the policy has changed");
    assert_eq!(end(address, &keys[1], "ok"), 200);
    assert_eq!(
        lease(address, &json!({"pool": "keys", "wait_ms": 0}))["member"],
        keys[0]["member"]
    );
    none_left();
}

#[test]
fn what_is_asked_wrongly_is_named() {
    let running = start("1 concurrent", "");
    let head = format!("GET /v1/openapi.json HTTP/1.1\r\nhost: localhost\r\n{AS_TOKEN}\r\n");
    let (_, document) = read(&ask(running.address, &head));
    for (path, body, status, words) in [
        ("/v1/leases", json!({}), 400, "name a pool"),
        (
            "/v1/leases",
            json!({"pol": "gpu"}),
            400,
            "unknown field `pol`",
        ),
        ("/v1/leases", json!({"pool": "cpu"}), 404, "no pool \"cpu\""),
        (
            "/v1/leases",
            json!({"pool": "gpu", "count": 0}),
            400,
            "count is 1 to 256",
        ),
        (
            "/v1/leases",
            json!({"pool": "gpu", "labels": ["a100"]}),
            404,
            "label \"a100\"",
        ),
        (
            "/v1/leases",
            json!({"pool": "gpu", "priority": 256}),
            400,
            "256",
        ),
        (
            "/v1/leases/gpu-1/release",
            json!({"outcome": "fine"}),
            400,
            "unknown variant `fine`",
        ),
        ("/v1/leases/gpu-x/renew", json!({}), 410, "lease anew"),
        ("/v1/lease", json!({}), 404, "no such call"),
        ("/v1/pools", json!({}), 405, "GET, HEAD"),
    ] {
        let (got, answer) = call(running.address, path, &body);
        assert_eq!(got, status, "{path} {answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
        let operation = match path.split('/').nth(4) {
            Some(what) => &document["paths"][format!("/v1/leases/{{lease}}/{what}")]["post"],
            None => &document["paths"][path]["post"],
        };
        let is_documented = operation["responses"][status.to_string()].is_object();
        assert_eq!(is_documented, operation.is_object(), "{path} {status}");
    }
}
