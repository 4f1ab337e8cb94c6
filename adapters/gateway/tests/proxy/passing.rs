//! What is passed on, and how: headers, streams, upgrades, bodies.

use crate::support::{Caller, LONG, ask, backends, start_before};
use std::io::Write;
use std::net::Shutdown;

#[test]
fn a_backend_is_told_who_calls_and_not_what_is_for_one_connection() {
    let backends = backends::<1>();
    let running = start_before("", "", &backends);
    let request = "GET /a?b=c HTTP/1.1\r\nhost: Test:80\r\nconnection: close, x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\n\
        proxy-authorization: Basic x\r\nx-forwarded-for: 1.2.3.4\r\nx-request-id: id-1\r\n\r\n";
    let answer = ask(running.address, request);
    assert_eq!(answer.header("x-request-id"), Some("id-1"));
    let report = backends[0].report();
    let seen = report.recorded.last().unwrap();
    assert_eq!(seen.target, "/a?b=c");
    for (name, value) in [
        ("host", Some("Test:80")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("Test:80")),
        (
            "forwarded",
            Some("for=127.0.0.1;proto=http;host=\"Test:80\""),
        ),
        ("x-request-id", Some("id-1")),
        ("connection", None),
        ("x-hop", None),
        ("keep-alive", None),
        ("proxy-authorization", None),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
}

#[test]
fn an_answer_is_passed_on_as_it_comes() {
    let backends = backends::<1>();
    let running = start_before("", "", &backends);
    let mut caller = Caller::connect(running.address);
    caller.send("GET /stall?when=body HTTP/1.1\r\nhost: test\r\n\r\n");
    // The backend is silent from here on, so that a gateway that gathers would never send this.
    let head = String::from_utf8(caller.read_until("\r\n\r\n")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(!caller.exactly(1).is_empty());
}

#[test]
fn a_request_is_passed_on_as_it_comes() {
    let backends = backends::<1>();
    let running = start_before("", "", &backends);
    let mut caller = Caller::connect(running.address);
    caller.send(
        "POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    );
    let head = String::from_utf8(caller.read_until("\r\n\r\n")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(caller.chunk(), b"abc");
    caller.send("2\r\nde\r\n");
    assert_eq!(caller.chunk(), b"de");
    caller.send("0\r\n\r\n");
    assert_eq!(caller.chunk(), b"\r\n");
}

#[test]
fn trailers_are_passed_on_both_ways() {
    let backends = backends::<1>();
    let running = start_before("", "", &backends);
    let mut caller = Caller::connect(running.address);
    caller.send("POST /echo HTTP/1.1\r\nhost: test\r\nte: trailers\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 7\r\n\r\n");
    let _ = caller.read_until("\r\n\r\n");
    assert_eq!(caller.chunk(), b"a");
    let _ = caller.read_until("0\r\n");
    let trailers = String::from_utf8(caller.read_until("\r\n\r\n")).unwrap();
    assert!(trailers.to_lowercase().contains("x-sum: 7"), "{trailers}");
    let report = backends[0].report();
    assert_eq!(
        report.recorded.last().unwrap().trailers,
        [("x-sum".to_owned(), b"7".to_vec())]
    );
}

#[test]
fn a_slow_reader_holds_the_backend_back() {
    let backends = backends::<1>();
    let running = start_before("", "", &backends);
    let mut caller = Caller::connect(running.address);
    caller.send("GET /bytes?n=100000000 HTTP/1.1\r\nhost: test\r\n\r\n");
    let _ = caller.read_until("\r\n\r\n");
    // The buffers of two sockets and a gateway hold some megabytes, and no hundred.
    let stalled = |before: u64| {
        std::thread::sleep(core::time::Duration::from_millis(200));
        backends[0].report().bytes_written == before
    };
    let mut written = backends[0].report().bytes_written;
    for _ in 0..50 {
        if stalled(written) {
            break;
        }
        written = backends[0].report().bytes_written;
    }
    assert!(written < 50_000_000, "{written}");
    let rest = caller.exactly(100_000_000);
    assert_eq!(rest.len(), 100_000_000);
}

#[test]
fn a_caller_that_expects_100_gets_it() {
    let backends = backends::<1>();
    let running = start_before("", "", &backends);
    let mut caller = Caller::connect(running.address);
    caller.send(
        "POST /echo HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
    );
    let interim = String::from_utf8(caller.read_until("\r\n\r\n")).unwrap();
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    caller.send("ab");
    assert_eq!(caller.answer().unwrap().text(), "ab");
}

#[test]
fn heads_and_statuses_without_a_body_have_none() {
    let backends = backends::<1>();
    let running = start_before("", "", &backends);
    let mut caller = Caller::connect(running.address);
    for (method, path, status) in [
        ("HEAD", "/bytes?n=10", 200),
        ("GET", "/status/204", 204),
        ("GET", "/status/304", 304),
        ("GET", "/", 200),
    ] {
        caller.send(format!("{method} {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
        let answer = caller.answer_to(method).unwrap();
        assert_eq!(answer.status, status, "{method} {path}");
        if method == "HEAD" {
            assert_eq!(answer.header("content-length"), Some("10"));
        }
    }
}

#[test]
fn an_old_client_gets_an_answer_that_it_can_read() {
    let backends = backends::<1>();
    let running = start_before("", "", &backends);
    let mut caller = Caller::connect(running.address);
    caller.send("GET /stream?chunks=3&ms=0&bytes=2 HTTP/1.0\r\n\r\n");
    let answer = caller.answer().unwrap();
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.body.len(), 6);
}

/// Opens a websocket.
fn websocket(address: core::net::SocketAddr) -> Caller {
    let mut caller = Caller::connect(address);
    caller.send(
        "GET /ws HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let head = String::from_utf8(caller.read_until("\r\n\r\n")).expect("a head in ASCII");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let accept = "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";
    assert!(head.to_lowercase().contains(accept), "{head}");
    caller
}

#[test]
fn another_protocol_is_tunnelled_until_either_side_ends() {
    let backends = backends::<1>();
    let running = start_before("", "", &backends);
    let mut caller = websocket(running.address);
    // A masked text frame, with a mask of zeros, comes back without one.
    caller.send(b"\x81\x82\0\0\0\0\r\n");
    assert_eq!(caller.exactly(4), b"\x81\x02\r\n");
    assert!(backends[0].wait(LONG, |report| report.websockets_open == 1));
    caller.stream().shutdown(Shutdown::Both).unwrap();
    assert!(backends[0].wait(LONG, |report| report.websockets_open == 0));
}

#[test]
fn a_tunnel_counts_as_a_connection_and_a_thousand_of_them_are_served() {
    let backends = backends::<1>();
    let running = start_before("", "bounds = { max_client_connections = 1000 }", &backends);
    let mut callers: Vec<_> = (0..1_000).map(|_| websocket(running.address)).collect();
    assert!(backends[0].wait(LONG, |report| report.websockets_open == 1_000));
    for caller in &mut callers {
        caller.send(b"\x81\x82\0\0\0\0ok");
    }
    for caller in &mut callers {
        assert_eq!(caller.exactly(4), b"\x81\x02ok");
    }
    assert_eq!(Caller::connect(running.address).rest(), b"");
    drop(callers);
    assert!(backends[0].wait(LONG, |report| report.websockets_open == 0));
    // The gateway notices at its own time.
    let served = || {
        let mut caller = Caller::connect(running.address);
        caller.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        caller.answer().is_some()
    };
    assert!((0..1_000).any(|_| served()));
}

#[test]
fn a_refused_upgrade_is_an_answer_like_others() {
    let backends = backends::<1>();
    let running = start_before("", "", &backends);
    let request = "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
    let answer = ask(running.address, request);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection"), Some("close"));
}

#[test]
fn a_body_that_is_too_long_is_refused() {
    let backends = backends::<1>();
    let running = start_before("", "bounds = { max_body = 4 }", &backends);
    let chunked = "POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n";
    for request in [
        "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nabcde",
        chunked,
    ] {
        let answer = ask(running.address, request);
        assert_eq!(answer.status, 413, "{request}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    let fits = "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nabcd";
    assert_eq!(ask(running.address, fits).text(), "abcd");
}

#[test]
fn a_path_and_a_host_choose_the_pool() {
    let [one, two, three] = backends::<3>();
    let pool = |name: &str, address| {
        format!("[pools.{name}]\nkind = \"http\"\nmembers = [{{ url = \"http://{address}\" }}]\n")
    };
    let text = format!(
        "access_log = false\n{}{}{}[[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"one\"\n\
        [[listen.route]]\nhost = \"b.test\"\npool = \"two\"\n[[listen.route]]\npath = \"/api\"\npool = \"three\"\n",
        pool("one", one.address()),
        pool("two", two.address()),
        pool("three", three.address()),
    );
    let running = crate::support::start(&text);
    for (host, path, backend) in [
        ("a.test", "/", &one),
        ("a.test", "/apis", &one),
        ("B.test:80", "/api/x", &two),
        ("a.test", "/api", &three),
        ("a.test", "/api/x?y", &three),
    ] {
        let answer = ask(
            running.address,
            &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"),
        );
        assert_eq!(answer.backend(), backend.id(), "{host}{path}");
    }
}

#[test]
fn a_unix_socket_serves_like_a_port() {
    let backends = backends::<1>();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.sock");
    let text = crate::support::config("", "", &[(backends[0].address(), 1)]);
    let text = text.replace("127.0.0.1:0", &format!("unix:{}", path.display()));
    let gateway = leasehold_gateway::Gateway::start(crate::support::settings(&text)).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    gateway.drain();
    assert!(get_nothing(&path));
}

fn get_nothing(path: &std::path::Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_err()
}

#[test]
fn interim_answers_are_passed_on_before_the_final_one() {
    let backends = backends::<1>();
    let running = start_before("", "", &backends);
    let mut caller = Caller::connect(running.address);
    for _ in 0..2 {
        caller.send("GET /early-hints?count=2&ms=50 HTTP/1.1\r\nhost: test\r\n\r\n");
        let statuses = [(); 3].map(|()| caller.answer().unwrap().status);
        assert_eq!(statuses, [103, 103, 200]);
    }
}
