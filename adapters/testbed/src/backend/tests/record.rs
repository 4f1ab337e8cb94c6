//! Recorded requests, and the bound of their memory.

use super::*;

fn recording(requests: usize, body: usize) -> Backend {
    let config = BackendConfig {
        recorded_requests: requests,
        recorded_body: body,
        ..BackendConfig::default()
    };
    Backend::start(config).unwrap()
}

#[test]
fn a_recorded_request_is_what_was_sent() {
    let backend = recording(10, 100);
    let mut client = Client::to(&backend);
    client.request("PUT", "/a?b", "X-A: 1\r\nx-a: 2\r\n", "hello");
    client.receive().unwrap();
    client.send("POST /c HTTP/1.1\r\nhost: y\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 9\r\n\r\n");
    client.receive().unwrap();
    let mut cut = Client::to(&backend);
    cut.request("POST", "/cut", "content-length: 9\r\n", "");
    cut.send("abc");
    wait_until(&backend, |now| now.requests == 3);
    drop(cut);
    wait_until(&backend, |now| now.recorded.len() == 3);
    client.get("/health");
    let report = backend.report();
    let [first, second, third] = report.recorded.as_slice() else {
        panic!("{report:?}");
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    assert_eq!((first.number, first.connection), (1, 1));
    assert_eq!(
        (first.method.as_str(), first.target.as_str()),
        ("PUT", "/a?b")
    );
    assert_eq!(first.version, "HTTP/1.1");
    let headers = [
        pair("host", "x"),
        pair("x-a", "1"),
        pair("x-a", "2"),
        pair("content-length", "5"),
    ];
    assert_eq!(first.headers, headers);
    assert_eq!(first.header("X-A"), Some("1"));
    assert_eq!(
        (first.body.as_slice(), first.body_length, first.is_complete),
        (&b"hello"[..], 5, true)
    );
    assert_eq!(
        (second.body.as_slice(), second.is_complete),
        (&b"abc"[..], true)
    );
    assert_eq!(second.trailers, [pair("x-t", "9")]);
    assert_eq!(
        (third.target.as_str(), third.connection, third.is_complete),
        ("/cut", 2, false)
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(
        json["recorded"][0]["headers"][1],
        serde_json::json!(["x-a", "1"])
    );
    assert_eq!(json["recorded"][1]["body"], "abc");
    backend.clear_recorded();
    assert!(backend.report().recorded.is_empty());
}

#[test]
fn what_is_recorded_is_bounded_in_number_and_bytes() {
    let backend = recording(3, 10);
    let mut client = Client::to(&backend);
    for number in 0..20 {
        let reply = client.upload(&format!("/{number}"), &"x".repeat(1_000_000));
        assert_eq!(reply.json()["body_length"], 1_000_000);
    }
    assert_eq!(
        client.upload("/echo", "echoed in part").text(),
        "echoed in part"
    );
    let report = backend.stop();
    let targets: Vec<_> = report
        .recorded
        .iter()
        .map(|seen| seen.target.as_str())
        .collect();
    assert_eq!(targets, ["/18", "/19", "/echo"]);
    assert!(
        report
            .recorded
            .iter()
            .all(|seen| seen.body.len() == 10 && seen.is_complete)
    );
    assert_eq!(report.recorded[0].body_length, 1_000_000);

    // 100 MiB of bodies that are kept whole, within 64 MiB.
    let backend = recording(usize::MAX, usize::MAX);
    let mut client = Client::to(&backend);
    let body = "x".repeat(5 << 20);
    for _ in 0..20 {
        client.upload("/", &body);
    }
    let recorded = backend.stop().recorded;
    let bytes: usize = recorded.iter().map(|seen| seen.body.capacity()).sum();
    assert!(bytes <= 64 << 20, "{bytes}");
    assert!(recorded.len() >= 6 && recorded.last().unwrap().number == 20);
}
