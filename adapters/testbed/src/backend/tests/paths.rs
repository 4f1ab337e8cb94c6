//! Each path, seen as framed bytes.

use super::*;
use crate::clock::Clock;
use serde_json::json;
use std::io::Write;
use std::net::Shutdown;

#[test]
fn an_answer_names_the_backend_and_says_what_arrived() {
    let backend = start();
    let mut client = Client::to(&backend);
    client.request(
        "POST",
        "/a/b?c=%20d",
        "x-a: 1\r\nX-A: \"2\"\r\nx-b: é\r\n",
        "hello",
    );
    let reply = client.receive().unwrap();
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let port = backend.address().port();
    assert_eq!(
        reply.json(),
        json!({
            "server_info": { "id": format!("backend-{port}"), "address": format!("127.0.0.1:{port}") },
            "method": "POST",
            "path": "/a/b?c=%20d",
            "headers": { "host": "x", "x-a": ["1", "\"2\""], "x-b": "é", "content-length": "5" },
            "body_length": 5,
            "version": "HTTP/1.1",
            "connection": { "number": 1, "request": 1 },
        })
    );
    client.send("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\nabcd\r\n0\r\n\r\n");
    let reply = client.receive().unwrap().json();
    assert_eq!(reply["body_length"], 7);
    assert_eq!(reply["connection"], json!({ "number": 1, "request": 2 }));
    client.send("GET http://other/x HTTP/1.1\r\nhost: other\r\n\r\n");
    assert_eq!(client.receive().unwrap().json()["path"], "http://other/x");
    client.send("HEAD / HTTP/1.1\r\nhost: x\r\n\r\n");
    let reply = client.receive_head().unwrap();
    assert!(reply.number("content-length") > 100);
    assert_eq!(client.get("/").json()["connection"]["request"], 5);

    let report = backend.report();
    assert_eq!((report.requests, report.answered, sum(&report)), (5, 5, 5));
    let paths: Vec<_> = report
        .by_path
        .iter()
        .map(|(path, count)| (path.as_str(), *count))
        .collect();
    assert_eq!(paths, [("/", 3), ("/a/b", 1), ("/x", 1)]);
    assert_eq!(report.by_status, [(200, 5)].into());
    assert_eq!(report.connections[0].requests, 5);
    assert!(report.connections[0].is_open);
    assert_eq!(report.connections[0].bytes_read, report.bytes_read);
    assert!(report.bytes_written > 5 * 100);
}

#[test]
fn a_head_is_long_and_has_as_many_headers_as_configured() {
    let config = BackendConfig {
        max_headers: Some(300),
        ..BackendConfig::default()
    };
    let many = Backend::start(config).unwrap();
    let few = start();
    let lines = |count: usize, length: usize| {
        let line = |number| format!("x-{number}: {}\r\n", "v".repeat(length));
        (0..count).map(line).collect::<String>()
    };
    let status = |backend: &Backend, lines: &str| {
        let mut client = Client::to(backend);
        client.request("GET", "/", lines, "");
        client.receive().unwrap().status
    };
    assert_eq!(status(&many, &lines(290, 10)), 200);
    assert_eq!(status(&many, &lines(300, 10)), 431);
    assert_eq!(status(&few, &lines(99, 1_000)), 200);
    assert_eq!(status(&few, &lines(100, 10)), 431);
}

#[test]
fn health_is_switched_and_not_counted() {
    let backend = start();
    let mut client = Client::to(&backend);
    let reply = client.get("/health");
    assert_eq!(
        (reply.status, &reply.json()["status"]),
        (200, &json!("healthy"))
    );
    assert_eq!(reply.json()["server_info"]["id"], backend.id());
    backend.set_healthy(false);
    backend.set_delay(Duration::from_secs(3_600));
    let reply = client.get("/health");
    assert_eq!(
        (reply.status, &reply.json()["status"]),
        (503, &json!("unhealthy"))
    );
    assert_eq!(client.get("/health?fault=418").status, 418);
    let report = backend.report();
    assert_eq!((report.requests, report.probes), (0, 3));

    let reply = client.upload(
        "/testbed/set?healthy=true&delay=0s&fault=404=first:1&fault=close@/x",
        "",
    );
    assert_eq!(
        reply.json()["now"],
        json!({ "healthy": true, "delay_ms": 0 })
    );
    assert_eq!(client.get("/health").status, 200);
    assert_eq!((client.get("/").status, client.get("/").status), (404, 200));
    assert_eq!(client.upload("/testbed/set?fault=none", "").status, 200);
    assert_eq!(client.get("/x").status, 200);
    for wrong in [
        "healthy=maybe",
        "delay=soon",
        "fault=sorrow",
        "color=red",
        "healthy=false&delay=x",
    ] {
        let reply = client.upload(&format!("/testbed/set?{wrong}"), "");
        assert_eq!(reply.status, 400, "{wrong}");
    }
    assert_eq!(client.get("/testbed/set?healthy=false").status, 405);
    assert_eq!(
        client.get("/health").status,
        200,
        "what is wrong in part changes nothing"
    );
    let report = client.get("/testbed/report").json();
    assert_eq!(
        (&report["requests"], &report["probes"]),
        (&json!(3), &json!(5))
    );
}

#[test]
fn bytes_have_their_length_and_a_pattern() {
    let backend = start();
    let mut client = Client::to(&backend);
    for size in [0, 1, 1_024, 65_536, 65_537, 3_000_000] {
        let reply = client.get(&format!("/bytes?n={size}"));
        assert_eq!(reply.number("content-length"), size);
        assert_eq!(reply.header("x-backend"), Some(backend.id()));
        let pattern = b"0123456789abcdef".iter().cycle();
        assert!(reply.body.iter().eq(pattern.take(size as usize)), "{size}");
    }
    assert_eq!(client.get("/bytes").body.len(), 1_024);
    let reply = client.get("/bytes?n=many");
    assert_eq!(reply.status, 400);
    assert!(
        reply.json()["error"]
            .as_str()
            .unwrap()
            .starts_with("n: \"many\"")
    );
}

#[test]
fn a_stream_has_paced_chunks_and_trailers_for_a_caller_that_takes_them() {
    let backend = start();
    let mut client = Client::to(&backend);
    let clock = Clock::start();
    client.request(
        "GET",
        "/stream?chunks=4&ms=20&bytes=5&trailers",
        "te: trailers\r\n",
        "",
    );
    let reply = client.receive().unwrap();
    assert!(clock.nanos() >= 60_000_000);
    assert_eq!(reply.chunks, [b"01234"; 4]);
    assert_eq!(reply.header("trailer"), Some("x-chunks"));
    assert_eq!(reply.trailers, ["x-chunks: 4"]);
    let reply = client.get("/stream?chunks=2&ms=0&trailers");
    assert_eq!((reply.body.len(), reply.header("trailer")), (32, None));
    assert!(reply.trailers.is_empty());
    assert_eq!(client.get("/stream?chunks=0").body.len(), 0);
    assert_eq!(client.get("/stream?bytes=99999999").status, 400);
    // The first chunk comes before the pause.
    client.request("GET", "/stream?chunks=2&ms=3600000&bytes=3", "", "");
    client.receive_head().unwrap();
    assert_eq!(client.read(8).0, b"3\r\n012\r\n");
    drop(client);
    wait_until(&backend, |now| {
        now.hung_up == 1 && now.connections_open == 0
    });
}

#[test]
fn an_echo_streams_and_waits_for_a_slow_reader() {
    let backend = start();
    let mut client = Client::to(&backend);
    let lines =
        "te: trailers\r\ntransfer-encoding: chunked\r\ncontent-type: text/x\r\ntrailer: x-sum\r\n";
    client.request("POST", "/echo", lines, "");
    client.send("5\r\nhello\r\n");
    let reply = client.receive_head().unwrap();
    assert_eq!(reply.header("content-type"), Some("text/x"));
    assert_eq!(
        client.read(10).0,
        b"5\r\nhello\r\n",
        "before the end of the request"
    );
    client.send("0\r\nx-sum: 7\r\n\r\n");
    assert_eq!(client.read(15).0, b"0\r\nx-sum: 7\r\n\r\n");

    let reply = client.upload("/echo", "known length");
    assert_eq!(
        (reply.number("content-length"), reply.text().as_str()),
        (12, "known length")
    );

    client.request(
        "POST",
        "/echo",
        "expect: 100-continue\r\ncontent-length: 3\r\n",
        "",
    );
    assert_eq!(client.receive().unwrap().status, 100);
    client.send("abc");
    assert_eq!(client.receive().unwrap().text(), "abc");

    // A caller that sends without reading is stopped by back-pressure, far below the length of its body.
    let length = 1_u64 << 30;
    let stream = client.0.into_inner();
    let mut writer = stream.try_clone().unwrap();
    let head = format!("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    writer.write_all(head.as_bytes()).unwrap();
    writer
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let block = vec![7; 1 << 20];
    let sent = (0..1_024)
        .take_while(|_| writer.write_all(&block).is_ok())
        .count();
    assert!(sent < 64, "{sent} MiB were taken");
    writer.shutdown(Shutdown::Both).unwrap();
    wait_until(&backend, |now| now.hung_up == 1);
}

#[test]
fn a_status_is_sent_with_the_body_that_it_may_have() {
    let backend = start();
    let mut client = Client::to(&backend);
    for status in [200, 299, 400, 404, 503, 599, 999] {
        let reply = client.get(&format!("/status/{status}"));
        assert_eq!(
            (reply.status, &reply.json()["status"]),
            (status, &json!(status))
        );
    }
    for status in [204, 304] {
        let reply = client.get(&format!("/status/{status}"));
        assert_eq!((reply.status, reply.body.len()), (status, 0));
    }
    for wrong in ["", "99", "101", "1000", "ok", "200/x"] {
        assert_eq!(
            client.get(&format!("/status/{wrong}")).status,
            400,
            "{wrong}"
        );
    }
}

#[test]
fn early_hints_come_before_the_pause() {
    let backend = start();
    let mut client = Client::to(&backend);
    client.request("GET", "/early-hints?count=2", "", "");
    let statuses = [0; 3].map(|_| client.receive().unwrap().status);
    assert_eq!(statuses, [103, 103, 200]);
    client.request("GET", "/early-hints?ms=3600000", "", "");
    let reply = client.receive().unwrap();
    assert_eq!((reply.status, reply.header("link").is_some()), (103, true));
    let mut old = Client::to(&backend);
    old.send("GET /early-hints HTTP/1.0\r\n\r\n");
    assert_eq!(old.receive().unwrap().status, 200);
}

#[test]
fn a_body_is_asked_for_or_refused_unread() {
    let backend = start();
    let mut client = Client::to(&backend);
    let expect = "expect: 100-continue\r\ncontent-length: 5\r\n";
    client.request("POST", "/continue?ms=1", expect, "");
    assert_eq!(client.receive().unwrap().status, 100);
    client.send("hello");
    let reply = client.receive().unwrap();
    assert_eq!(
        (reply.status, &reply.json()["body_length"]),
        (200, &json!(5))
    );
    client.request("POST", "/continue?refuse=417", expect, "");
    assert_eq!(client.receive().unwrap().status, 417);
    assert_eq!(client.read_all().1, End::Closed);
}

#[test]
fn redirects_and_cookies_are_as_asked() {
    let backend = start();
    let mut client = Client::to(&backend);
    let reply = client.get("/redirect");
    assert_eq!((reply.status, reply.header("location")), (302, Some("/")));
    let reply = client.get("/redirect?to=http://x/y?z&status=308");
    assert_eq!(
        (reply.status, reply.header("location")),
        (308, Some("http://x/y?z"))
    );
    let reply = client.get("/cookie");
    let cookies: Vec<_> = reply
        .head
        .lines()
        .filter(|line| line.starts_with("set-cookie: "))
        .collect();
    let session = format!("set-cookie: session={}; Path=/; HttpOnly", backend.id());
    assert_eq!(
        cookies,
        [session.as_str(), "set-cookie: request=3; Path=/cookie"]
    );
    let reply = client.get("/cookie?name=a&value=b");
    assert!(reply.head.contains("set-cookie: a=b; Path=/; HttpOnly\r\n"));
}

#[test]
fn slow_answers_and_delays_take_their_time() {
    let backend = start();
    let mut client = Client::to(&backend);
    let clock = Clock::start();
    assert_eq!(client.get("/slow?ms=30").status, 200);
    assert!(clock.nanos() >= 30_000_000);
    backend.set_delay(Duration::from_millis(30));
    assert_eq!(client.get("/").status, 200);
    assert!(clock.nanos() >= 60_000_000);
    assert_eq!(client.get("/slow?ms=-1").status, 400);
    assert_eq!(client.get("/slow?ms=86400001").status, 400);
}
