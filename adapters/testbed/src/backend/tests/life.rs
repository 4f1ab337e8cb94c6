//! Kill, restart, stop.

use super::*;
use std::io::ErrorKind;
use std::net::TcpStream;

#[test]
fn a_killed_backend_refuses_and_comes_back_on_its_port() {
    let mut backend = start();
    let address = backend.address();
    let mut idle = Client::to(&backend);
    assert_eq!(idle.get("/").status, 200);
    let mut busy = Client::to(&backend);
    busy.request("GET", "/stream?ms=3600000", "", "");
    busy.receive_head().unwrap();
    for round in 1..=3 {
        backend.kill().unwrap();
        assert_eq!(idle.read_all().1, End::Closed);
        if round == 1 {
            assert_eq!(busy.read_all().1, End::Closed);
        }
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let report = backend.report();
        assert_eq!(
            (report.connections_open, report.in_flight, report.killed),
            (0, 0, 1)
        );

        backend.restart().unwrap();
        assert_eq!(backend.address(), address);
        idle = Client::to(&backend);
        assert_eq!(idle.get("/").status, 200);
    }
    backend.restart().unwrap();
    assert_eq!(
        Client::to(&backend).get("/").status,
        200,
        "a restart without a kill"
    );
    let report = backend.stop();
    assert_eq!((report.requests, report.answered, report.killed), (6, 5, 1));
    assert_eq!((report.hung_up, report.connections_opened), (0, 6));
}

#[test]
fn a_port_stays_taken_while_its_backend_is_down() {
    let mut backend = start();
    backend.kill().unwrap();
    backend.kill().unwrap();
    // Each of them could be given the port of the backend, or connect to itself.
    for _ in 0..200 {
        assert!(TcpStream::connect(backend.address()).is_err());
        let other = start();
        assert_ne!(other.address(), backend.address());
    }
    backend.restart().unwrap();
    assert_eq!(Client::to(&backend).get("/health").status, 200);
    let config = BackendConfig {
        listen: backend.address(),
        ..BackendConfig::default()
    };
    let error = Backend::start(config).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {}: ", backend.address())));
}

#[test]
fn a_stop_lets_requests_end_and_counts_what_was_open() {
    let backend = start();
    let _idle = Client::to(&backend);
    let mut client = Client::to(&backend);
    client.request("GET", "/slow?ms=200", "", "");
    wait_until(&backend, |now| {
        now.in_flight == 1 && now.connections_open == 2
    });
    let report = backend.stop();
    assert_eq!((report.answered, report.connections_open), (1, 2));
    let reply = client.receive().unwrap();
    assert_eq!(
        (reply.status, reply.header("connection")),
        (200, Some("close"))
    );
}

#[test]
fn a_drop_waits_for_nothing() {
    let clock = crate::clock::Clock::start();
    let backend = start();
    let mut client = Client::to(&backend);
    client.request("GET", "/stall", "", "");
    wait_until(&backend, |now| now.in_flight == 1);
    drop(backend);
    assert_eq!(client.read_all().1, End::Closed);
    assert!(clock.nanos() < 4_000_000_000);
}

#[test]
fn the_last_connections_and_the_first_paths_are_listed() {
    let backend = start();
    for number in 0..1_100 {
        Client::to(&backend).get(&format!("/{number}"));
    }
    let long = format!("/{}", "x".repeat(300));
    Client::to(&backend).get(&long);
    wait_until(&backend, |now| now.connections_open == 0);
    let report = backend.stop();
    assert_eq!((report.by_path.len(), report.by_path["…"]), (1_001, 101));
    assert_eq!(
        (report.connections.len(), report.connections[0].number),
        (1_000, 102)
    );
    assert!(
        report
            .connections
            .iter()
            .all(|connection| connection.requests == 1)
    );
}
