//! The callers that reach the admin interface, and the listener it is on.

use crate::support::*;
use leasehold_config::Address;
use leasehold_core::balance::Policy;

const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn a_change_needs_the_token_and_a_proxys_caller_more_than_that() {
    let one = backend();
    let running = Running::in_front_of(&[one]);
    let disable = format!("/lb/backends/{one}/disable");
    for (headers, status, code) in [
        (vec![], 401, "no_token"),
        (vec![("authorization", "Bearer wrong")], 401, "wrong_token"),
        (vec![("host", "evil.test")], 403, "forbidden"),
        (
            vec![BEARER, ("origin", "http://evil.test")],
            403,
            "forbidden",
        ),
        (vec![("x-real-ip", "192.0.2.7")], 403, "forbidden"),
        (
            vec![BEARER, ("content-type", "text/plain")],
            415,
            "wrong_content_type",
        ),
    ] {
        let answer = call(running.address, "POST", &disable, &headers, None);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{headers:?}"
        );
        assert!(!answer.body.contains(TOKEN));
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, (status == 401).then_some("Bearer"));
    }
    assert_eq!(running.read("/lb/backends")[0]["status"], "enabled");
    let far = [
        BEARER,
        ("host", "lb.test"),
        ("x-forwarded-for", "192.0.2.7"),
    ];
    assert_eq!(
        call(running.address, "POST", &disable, &far, None).status,
        200
    );
    assert_eq!(running.read("/lb/backends")[0]["status"], "disabled");
}

#[test]
fn a_stranger_learns_nothing_of_any_path() {
    let running = Running::in_front_of(&[]);
    for path in [
        "/lb",
        "/lb/",
        "/lb/stats",
        "/lb/nothing",
        "/lb/openapi.json",
        "/lb/events",
    ] {
        let answer = call(running.address, "GET", path, &[("host", "a.test")], None);
        assert_eq!(
            (answer.status, answer.code()),
            (403, "forbidden".to_owned()),
            "{path}"
        );
    }
    // HTTP/1.0 is what nginx speaks to its upstreams by default.
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(running.address).unwrap();
    write!(stream, "GET /lb/stats HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains(" 403 "), "{text}");
}

#[test]
fn a_gateway_from_flags_is_open_to_its_machine() {
    let one = backend();
    let mut settings = settings(vec![pool("web", Policy::RoundRobin, &[one])]);
    settings.admin.token = None;
    settings.admin.open_on_loopback = true;
    let running = Running::start(settings);
    let disable = format!("/lb/backends/{one}/disable");
    let stranger = [("forwarded", "for=192.0.2.7")];
    assert_eq!(
        call(running.address, "POST", &disable, &stranger, None).status,
        403
    );
    let page = [("origin", "http://evil.test")];
    assert_eq!(
        call(running.address, "POST", &disable, &page, None).status,
        403
    );
    assert_eq!(
        call(running.address, "POST", &disable, &[], None).status,
        200
    );
}

#[test]
fn without_a_token_nothing_can_be_changed() {
    let mut settings = settings(vec![pool("web", Policy::RoundRobin, &[backend()])]);
    settings.admin.token = None;
    let running = Running::start(settings);
    let answer = running.change("POST", "/lb/backends/a/disable", None);
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("token_file"), "{}", answer.body);
}

#[test]
fn its_own_listener_has_all_of_it_and_the_others_none() {
    let one = backend();
    let mut web = pool("web", Policy::RoundRobin, &[one]);
    web.health = Some(health());
    let mut settings = settings(vec![web]);
    settings.admin.listen = Some(Address::Tcp(([127, 0, 0, 1], 0).into()));
    let running = Running::start(settings);
    assert_ne!(running.admin, running.address);
    // To a backend, as any other path.
    for path in ["/lb/stats", "/health", "/ready"] {
        assert_eq!(running.get(path).body, one.to_string(), "{path}");
    }
    assert_eq!(running.read("/lb/stats")["total_requests"], 3);
    // Any caller may ask whether it lives, such as a node that knows it by another name.
    let get = |path| call(running.admin, "GET", path, &[("host", "10.0.0.1")], None);
    assert_eq!(get("/health").status, 200);
    assert_eq!(get("/ready").status, 200);
    assert_eq!(get("/lb/stats").status, 403);
    assert_eq!(call(running.admin, "GET", "/", &[], None).status, 404);
    running.changed("POST", &format!("/lb/backends/{one}/disable"), None);
    let unready = get("/ready");
    assert_eq!(
        (
            unready.status,
            unready.json()["pools_without_backend"][0].as_str()
        ),
        (503, Some("web"))
    );
    assert_eq!(get("/health").status, 200);
    let stats = running.read("/lb/stats");
    assert!(stats["connections"]["open"].as_u64() >= Some(1), "{stats}");
}

#[test]
fn a_long_body_is_refused_and_its_sender_reads_why() {
    let running = Running::in_front_of(&[]);
    let padding = " ".repeat(64 * 1_024);
    let fits = format!("{}{{\"weight\":1}}", &padding[12..]);
    let path = "/lb/backends/a/weight";
    assert_eq!(running.change("POST", path, Some(&fits)).status, 404);
    for long in [format!("{fits} "), padding.repeat(8)] {
        let answer = running.change("POST", path, Some(&long));
        assert_eq!((answer.status, answer.code()), (413, "too_long".to_owned()));
        let stranger = call(
            running.address,
            "POST",
            path,
            &[JSON, ("via", "x")],
            Some(&long),
        );
        assert_eq!(stranger.status, 403);
    }
}
