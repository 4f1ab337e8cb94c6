//! Backends that die, refuse or break in the middle.

use crate::support::{Caller, LONG, ask, backends, config, get, start, start_before};
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;

const BREAKER: &str = "policy = \"round_robin\"\nbreaker = { failures = 3, open = \"200ms\" }";

#[test]
fn no_get_fails_while_a_backend_dies_and_comes_back() {
    let mut backends = backends::<3>();
    let running = start_before(BREAKER, "", &backends);
    let address = running.address;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = || {
            let mut statuses = Vec::new();
            let mut caller = Caller::connect(address);
            while !stop.load(Ordering::Relaxed) {
                caller.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
                statuses.push(caller.answer().expect("an answer").status);
            }
            statuses
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        for _ in 0..5 {
            let before = backends[0].report().answered;
            assert!(backends[0].wait(LONG, |report| report.answered > before + 20));
            backends[0].kill().unwrap();
            let before = backends[1].report().answered;
            assert!(backends[1].wait(LONG, |report| report.answered > before + 50));
            backends[0].restart().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            let statuses = worker.join().unwrap();
            assert!(statuses.len() > 20);
            assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        }
    });
}

#[test]
fn a_connection_that_went_stale_fails_no_request() {
    let mut backends = backends::<1>();
    let running = start_before("", "", &backends);
    for _ in 0..5 {
        assert_eq!(get(running.address, "/").status, 200);
        backends[0].kill().unwrap();
        backends[0].restart().unwrap();
        let body =
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab";
        assert_eq!(ask(running.address, body).status, 200);
        assert_eq!(get(running.address, "/").status, 200);
    }
}

/// A backend that closes every connection on which it is asked for `/poison`, which it counts.
fn poisoned() -> (SocketAddr, Arc<AtomicU32>) {
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (address, count) = (
        server.local_addr().expect("an address"),
        Arc::new(AtomicU32::new(0)),
    );
    let (counted, all) = (Arc::clone(&count), Arc::new(Barrier::new(KEPT)));
    thread::spawn(move || {
        for stream in server.incoming() {
            let (stream, count, all) = (
                stream.expect("a connection"),
                Arc::clone(&counted),
                Arc::clone(&all),
            );
            thread::spawn(move || serve_poisoned(BufReader::new(stream), &count, &all));
        }
    });
    (address, count)
}

/// Connections that the gateway is made to keep.
const KEPT: usize = 10;

fn serve_poisoned(mut stream: BufReader<TcpStream>, count: &AtomicU32, all: &Barrier) {
    let (mut line, mut is_poison) = (String::new(), false);
    while stream.read_line(&mut line).is_ok_and(|read| read > 0) {
        is_poison |= line.contains("/poison");
        if line == "\r\n" && is_poison {
            count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if line == "\r\n" {
            // All are asked at once, so that there are as many connections.
            all.wait();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.get_mut().write_all(answer).expect("it is open");
        }
        line.clear();
    }
}

#[test]
fn a_request_on_a_connection_that_went_stale_is_sent_again_on_a_new_one() {
    // A length of nothing is for one transport, and HTTP/1.0 for the other.
    for version in ["1.1", "1.0"] {
        let (backend, count) = poisoned();
        let running = start(&config("retry = { attempts = 2 }", "", &[(backend, 1)]));
        let status = |path: &str| {
            let request = format!("GET {path} HTTP/{version}\r\nhost: h\r\n\r\n");
            ask(running.address, &request).status
        };
        thread::scope(|scope| {
            let all: Vec<_> = (0..KEPT).map(|_| scope.spawn(|| status("/"))).collect();
            for asked in all {
                assert_eq!(asked.join().unwrap(), 200);
            }
        });
        assert_eq!(status("/poison"), 502);
        // Once on a kept connection, and as often as it may be attempted.
        let sent = count.load(Ordering::Relaxed);
        assert!((2..=3).contains(&sent), "{sent}");
    }
}

#[test]
fn a_request_that_reached_no_backend_goes_to_another_with_its_body() {
    let mut backends = backends::<2>();
    let running = start_before("policy = \"round_robin\"", "", &backends);
    backends[0].kill().unwrap();
    for number in 0..4 {
        let body = format!("number {number}");
        let length = body.len();
        let request = format!(
            "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let answer = ask(running.address, &request);
        assert_eq!((answer.status, answer.text()), (200, &*body));
    }
}

#[test]
fn a_request_that_may_have_been_served_is_not_repeated() {
    let backends = backends::<2>();
    let running = start_before("policy = \"round_robin\"", "", &backends);
    let post = "POST /close?when=before HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\nconnection: close\r\n\r\na";
    let answer = ask(running.address, post);
    assert_eq!(answer.status, 502);
    assert!(
        answer
            .text()
            .starts_with("backend_broke: backend 127.0.0.1:"),
        "{}",
        answer.text()
    );
    let seen: u64 = backends
        .iter()
        .map(|backend| backend.report().requests)
        .sum();
    assert_eq!(seen, 1);
}

#[test]
fn repeats_are_bounded() {
    let backends = backends::<5>();
    let running = start_before(
        "policy = \"round_robin\"\nretry = { attempts = 3 }",
        "",
        &backends,
    );
    assert_eq!(get(running.address, "/close?when=before").status, 502);
    let seen: u64 = backends
        .iter()
        .map(|backend| backend.report().requests)
        .sum();
    assert_eq!(seen, 3);
}

#[test]
fn a_request_that_no_backend_can_serve_is_told_so_in_time() {
    let mut backends = backends::<1>();
    let running = start_before(
        "max_wait = \"100ms\"\nbreaker = { failures = 1, open = \"60s\" }",
        "",
        &backends,
    );
    backends[0].kill().unwrap();
    // The first finds out, and has no other backend to go to.
    for _ in 0..2 {
        let refused = get(running.address, "/");
        assert_eq!(refused.status, 503);
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((55..=60).contains(&wait), "{wait}");
        assert!(refused.text().contains("pool web"), "{}", refused.text());
    }
}

#[test]
fn an_answer_that_is_cut_is_cut_for_the_caller_too() {
    let backends = backends::<1>();
    let running = start_before("", "", &backends);
    let mut caller = Caller::connect(running.address);
    caller.send("GET /close?when=body HTTP/1.1\r\nhost: test\r\n\r\n");
    let head = caller.read_until("\r\n\r\n");
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let rest = caller.rest();
    match length {
        Some(length) => assert!(rest.len() < length.parse().unwrap()),
        None => assert!(!rest.ends_with(b"0\r\n\r\n")),
    }
}

#[test]
fn a_backend_that_a_health_check_finds_down_gets_no_request() {
    let backends = backends::<2>();
    let health = "policy = \"round_robin\"\n\
        health = { path = \"/health\", interval = \"20ms\", timeout = \"20ms\", healthy_after = 1, unhealthy_after = 1 }";
    let running = start_before(health, "", &backends);
    backends[0].set_healthy(false);
    let before = backends[0].report().probes;
    assert!(backends[0].wait(LONG, |report| report.probes > before + 3));
    backends[0].clear_recorded();
    let before = backends[0].report().requests;
    for _ in 0..10 {
        assert_eq!(get(running.address, "/").status, 200);
    }
    assert_eq!(backends[0].report().requests, before);
    backends[0].set_healthy(true);
    assert!(backends[0].wait(LONG, |report| {
        let _ = get(running.address, "/");
        report.requests > before
    }));
}
