//! Bounds on time and number, for callers and backends that stall, and limits.

use crate::support::{Caller, ask, backends, config, get, get_for, start, start_before};
use std::io::Write as _;
use std::net::TcpListener;
use std::thread;

#[test]
fn a_caller_that_does_not_finish_its_head_is_cut_off() {
    let backends = backends::<1>();
    let running = start_before("", "bounds = { header_read = \"100ms\" }", &backends);
    for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: test\r\n"] {
        let mut caller = Caller::connect(running.address);
        caller.send(begun);
        assert_eq!(caller.rest(), b"", "{begun:?}");
    }
    assert_eq!(backends[0].report().requests, 0);
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let backends = backends::<1>();
    let running = start_before(
        "",
        "bounds = { keep_alive = \"100ms\", header_read = \"50ms\" }",
        &backends,
    );
    let mut caller = Caller::connect(running.address);
    caller.send("GET /slow?ms=400 HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(caller.answer().unwrap().status, 200);
    assert_eq!(caller.rest(), b"");
}

#[test]
fn a_body_that_stalls_is_refused() {
    let backends = backends::<1>();
    let running = start_before("", "bounds = { body_idle = \"100ms\" }", &backends);
    let mut caller = Caller::connect(running.address);
    caller.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nab");
    let rest = String::from_utf8(caller.rest()).unwrap();
    assert!(
        rest.is_empty() || rest.starts_with("HTTP/1.1 400"),
        "{rest}"
    );
}

#[test]
fn a_backend_that_does_not_answer_in_time_is_a_504() {
    let backends = backends::<1>();
    let running = start_before("upstream = { response_header = \"100ms\" }", "", &backends);
    let answer = get(running.address, "/stall?when=before");
    assert_eq!(answer.status, 504);
    assert!(
        answer.text().starts_with("backend_timeout: "),
        "{}",
        answer.text()
    );
}

#[test]
fn a_backend_that_reads_no_body_is_a_504() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let pool = "upstream = { response_header = \"300ms\", body_idle = \"300ms\" }";
    // A caller has this time for its next part besides.
    let listen = "bounds = { body_idle = \"300ms\" }";
    let running = start(&config(pool, listen, &[(backend.local_addr().unwrap(), 1)]));
    for (field, size, end) in [
        ("content-length: 999999999", "", ""),
        ("transfer-encoding: chunked", "10000\r\n", "\r\n"),
    ] {
        let mut caller = Caller::connect(running.address);
        let mut sending = caller.stream().try_clone().unwrap();
        let head = format!("POST / HTTP/1.1\r\nhost: h\r\n{field}\r\n\r\n");
        let part = format!("{size}{}{end}", "a".repeat(0x10000));
        let sender = thread::spawn(move || {
            let mut sent = sending.write_all(head.as_bytes());
            while sent.is_ok() {
                sent = sending.write_all(part.as_bytes());
            }
        });
        assert_eq!(caller.answer().unwrap().status, 504, "{field}");
        drop(caller);
        sender.join().unwrap();
    }
}

#[test]
fn an_answer_that_stalls_is_cut() {
    let backends = backends::<1>();
    let running = start_before("upstream = { body_idle = \"100ms\" }", "", &backends);
    let mut caller = Caller::connect(running.address);
    caller.send("GET /stall?when=body HTTP/1.1\r\nhost: test\r\n\r\n");
    let rest = caller.rest();
    assert!(rest.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn a_client_has_a_number_of_connections_and_a_connection_of_requests() {
    let backends = backends::<1>();
    let bounds = "bounds = { max_client_connections = 2, max_requests = 2 }";
    let running = start_before("", bounds, &backends);
    let request = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    let mut callers = [(); 2].map(|()| Caller::connect(running.address));
    for caller in &mut callers {
        caller.send(request);
        assert_eq!(caller.answer().unwrap().header("connection"), None);
    }
    assert_eq!(Caller::connect(running.address).rest(), b"");
    callers[0].send(request);
    assert_eq!(
        callers[0].answer().unwrap().header("connection"),
        Some("close")
    );
    assert_eq!(callers[0].rest(), b"");
}

#[test]
fn each_client_has_a_limit_and_is_told_when_to_come_back() {
    let backends = backends::<1>();
    let listen = "trusted_proxies = \"all\"\nclient_limit = \"2/60s\"\nlimit = \"5/60s\"";
    let running = start_before("", listen, &backends);
    for (client, status) in [
        ("10.0.0.1", 200),
        ("10.0.0.1", 200),
        ("10.0.0.1", 429),
        ("10.0.0.2", 200),
    ] {
        let answer = get_for(running.address, client);
        assert_eq!(answer.status, status, "{client}");
        if status == 429 {
            let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((58..=60).contains(&wait), "{wait}");
        }
    }
    for (client, status) in [("10.0.0.3", 200), ("10.0.0.4", 200), ("10.0.0.5", 429)] {
        assert_eq!(get_for(running.address, client).status, status, "{client}");
    }
}

#[test]
fn a_limit_of_a_backend_makes_requests_wait_and_then_refuses_them() {
    let backends = backends::<1>();
    let text = crate::support::config("max_wait = \"50ms\"", "", &[(backends[0].address(), 1)]);
    let running = crate::support::start(&text.replace("weight = 1", "limits = \"2/60s\""));
    for status in [200, 200, 429] {
        assert_eq!(get(running.address, "/").status, status);
    }
    assert_eq!(backends[0].report().requests, 2);
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let backends = backends::<1>();
    let running = start_before(
        "",
        "bounds = { max_header_bytes = 8192, max_headers = 8 }",
        &backends,
    );
    let long = "a".repeat(9_000);
    let many = "x: y\r\n".repeat(9);
    let lines = format!("x: {}\r\n", "a".repeat(2_000)).repeat(5);
    for fields in [format!("x: {long}\r\n"), many, lines] {
        let statuses = [431, 400];
        let answer = ask(
            running.address,
            &format!("GET / HTTP/1.1\r\nhost: test\r\n{fields}\r\n"),
        );
        assert!(statuses.contains(&answer.status), "{}", answer.status);
    }
}
