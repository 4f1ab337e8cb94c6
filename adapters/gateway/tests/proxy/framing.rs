//! Requests that could be read in two ways, against a backend that records every byte.

use crate::support::{Caller, config, start};
use leasehold_testbed::{RawBackend, RawBackendConfig};

const AMBIGUOUS: [&str; 18] = [
    "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
    "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5, 5\r\n\r\nabcde",
    "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: +5\r\n\r\nabcde",
    "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.0\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\nabcde\r\n0\r\n\r\n",
    "GET / HTTP/1.1\nhost: h\n\n",
    "GET / HTTP/1.1\r\nhost: h\r\nx: a\rb: c\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: h\r\nx: a\r\n folded\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: h\r\nhost: other\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "GET http://one/ HTTP/1.1\r\nhost: two\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: h\r\nx y: z\r\n\r\n",
];

#[test]
fn an_ambiguous_request_is_refused_and_its_connection_closed() {
    let backend = RawBackend::start(RawBackendConfig::default()).unwrap();
    let running = start(&config("", "", &[(backend.address(), 1)]));
    for request in AMBIGUOUS {
        let mut caller = Caller::connect(running.address);
        // What follows must be read by no server as a request.
        caller.send(format!(
            "{request}GET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n"
        ));
        let answers = String::from_utf8(caller.rest()).unwrap();
        let statuses: Vec<_> = answers
            .lines()
            .filter(|line| line.starts_with("HTTP/1.1 "))
            .collect();
        assert_eq!(statuses, ["HTTP/1.1 400 Bad Request"], "{request:?}");
    }
    running.gateway.drain();
    let report = backend.stop();
    for connection in &report {
        let bytes = String::from_utf8_lossy(&connection.bytes);
        assert!(!bytes.contains("smuggled"), "{bytes}");
    }
}

/// A parser may have read a part of such a head before its ambiguous line comes.
#[test]
fn an_ambiguous_head_that_is_long_is_refused_too() {
    let backend = RawBackend::start(RawBackendConfig::default()).unwrap();
    let running = start(&config("", "", &[(backend.address(), 1)]));
    let sound = "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let pad = "a".repeat(20_000);
    for before in ["", sound] {
        for lines in [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "x: y\n",
            "x : y\r\n",
        ] {
            let mut caller = Caller::connect(running.address);
            caller.send(before);
            if !before.is_empty() {
                assert_eq!(caller.answer().unwrap().status, 200);
            }
            caller.send(format!(
                "POST / HTTP/1.1\r\nhost: h\r\npad: {pad}\r\n{lines}\r\n"
            ));
            let answer = caller.answer().expect("an answer");
            assert_eq!(answer.status, 400, "{lines:?}");
            assert_eq!(caller.rest(), b"");
        }
    }
}

#[test]
fn a_request_that_is_passed_on_keeps_its_borders() {
    let backend = RawBackend::start(RawBackendConfig::default()).unwrap();
    let running = start(&config("", "", &[(backend.address(), 1)]));
    let requests = [
        "POST /1 HTTP/1.1\r\nhost: h\r\ncontent-length: 36\r\n\r\nGET /inner HTTP/1.1\r\nhost: inner\r\n\r\n",
        "POST /2 HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nab\ncd\r\n0\r\nt: u\r\n\r\n",
        "\r\nGET /3 HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
        "GET /4 HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ];
    let mut caller = Caller::connect(running.address);
    // All at once, and cut at an odd place.
    let all = requests.concat();
    let (first, second) = all.split_at(all.len() / 3);
    caller.send(first);
    caller.send(second);
    for _ in requests {
        assert_eq!(caller.answer().unwrap().status, 200);
    }
    running.gateway.drain();
    let report = backend.stop();
    let mut seen: Vec<_> = report
        .iter()
        .flat_map(|connection| connection.requests())
        .collect();
    seen.sort_by_key(|request| request.target.clone());
    let targets: Vec<_> = seen.iter().map(|request| request.target.as_str()).collect();
    assert_eq!(targets, ["/1", "/2", "/3", "/4"]);
    assert_eq!(seen[0].body, b"GET /inner HTTP/1.1\r\nhost: inner\r\n\r\n");
    assert_eq!(seen[1].body, b"ab\ncd");
    assert!(seen[2].body.is_empty());
    assert_eq!(seen[3].body, b"abc");
}
