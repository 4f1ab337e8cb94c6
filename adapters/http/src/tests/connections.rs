//! Reuse of connections and agents, and name lookups.

use super::*;

#[test]
fn calls_from_one_thread_share_a_connection() {
    let server = Server::start(vec![success()]);
    let client = client();
    for _ in 0..50 {
        client.chat(&server.endpoint(), &request()).unwrap();
    }
    assert_eq!((server.connections(), server.requests()), (1, 50));
    let stats = client.stats();
    assert_eq!((stats.agents_created, stats.agents_reused), (1, 49));
}

/// Each lookup starts a thread, so the count of lookups is the count of threads.
#[test]
fn a_name_is_looked_up_once_for_many_calls() {
    let server = Server::start(vec![success()]);
    let client = client();
    let endpoint = endpoint(&format!("http://localhost:{}", server.address.port()));
    for _ in 0..200 {
        client.chat(&endpoint, &request()).unwrap();
    }
    assert_eq!(client.stats().name_lookups, 1);
    assert_eq!(server.connections(), 1);
    client.chat(&server.endpoint(), &request()).unwrap();
    assert_eq!(client.stats().name_lookups, 1);
}

#[test]
fn a_host_is_looked_up_again_after_a_failed_connection() {
    let unused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let endpoint = endpoint(&format!("http://localhost:{}", unused.port()));
    let client = client();
    for lookups in 1..=2 {
        assert!(client.chat(&endpoint, &request()).is_err());
        assert_eq!(client.stats().name_lookups, lookups);
    }
}

#[test]
fn a_connection_closed_while_idle_is_replaced() {
    let Reply::Send(bytes) = success() else {
        panic!("a success is sent");
    };
    let server = Server::start(vec![Reply::SendAndClose(bytes)]);
    let client = client();
    for connections in 1..=3 {
        client.chat(&server.endpoint(), &request()).unwrap();
        assert_eq!(server.connections(), connections);
        // Let the end of the connection arrive: if the client writes first, the connection counts as lost.
        thread::sleep(Duration::from_millis(50));
    }
}

/// A hidden repetition would be a call without a lease, which the service counts against the limit.
#[test]
fn a_request_on_a_reused_connection_is_sent_once() {
    let server = Server::start(vec![success(), Reply::SendAndClose(Vec::new())]);
    let client = client();
    client.chat(&server.endpoint(), &request()).unwrap();
    let error = client.chat(&server.endpoint(), &request()).unwrap_err();
    assert_eq!(error.kind(), Kind::ConnectionLost, "{error}");
    assert_eq!((server.requests(), server.connections()), (2, 1));
}

#[test]
fn too_many_endpoints_close_the_least_recently_used() {
    let server = Server::start(vec![success()]);
    let client = Client::new(ClientConfig {
        max_agents: 2,
        ..ClientConfig::default()
    });
    for (key, connections) in [("a", 1), ("b", 2), ("a", 2), ("c", 3), ("a", 3), ("b", 4)] {
        let endpoint = Endpoint::new(&server.url(), ApiKey::new(key).unwrap()).unwrap();
        client.chat(&endpoint, &request()).unwrap();
        assert_eq!(server.connections(), connections, "{key}");
    }
    let stats = client.stats();
    let counts = (
        stats.agents_created,
        stats.agents_reused,
        stats.agents_closed,
    );
    assert_eq!(counts, (4, 2, 2));
}

#[test]
fn a_long_error_response_is_cut_and_closes_its_connection() {
    let long = "é".repeat(100_000);
    let server = Server::start(vec![reply(500, "", &long)]);
    let client = client();
    for connections in 1..=2 {
        let error = client.chat(&server.endpoint(), &request()).unwrap_err();
        assert!(error.verdict().message.chars().count() <= 1_025);
        assert_eq!(error.kind(), Kind::ServerError);
        assert_eq!(server.connections(), connections);
    }
}

#[test]
fn extreme_settings_do_no_harm() {
    let server = Server::start(vec![success()]);
    let client = Client::new(ClientConfig {
        max_agents: 0,
        timeout: Duration::MAX,
        connect_timeout: Duration::MAX,
        max_idle_per_agent: 0,
        max_idle_age: Duration::MAX,
        max_response_bytes: u64::MAX,
        user_agent: "a\r\nx: y\u{e9}".to_owned(),
        ..ClientConfig::default()
    });
    for connections in 1..=2 {
        let completion = client.chat_with_retries(&server.endpoint(), &request(), &quick_retries());
        assert!(completion.is_ok());
        assert_eq!(server.connections(), connections);
    }
    assert!(lock(&server.requests)[0].contains("user-agent: ax: y\r\n"));
}

#[test]
fn a_client_is_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Client>();
}

#[test]
fn an_error_response_leaves_its_connection_usable() {
    let response = reply(429, "", r#"{"error": {"message": "slow down"}}"#);
    let server = Server::start(vec![response.clone(), response, success()]);
    let client = client();
    for _ in 0..2 {
        assert!(client.chat(&server.endpoint(), &request()).is_err());
    }
    assert!(client.chat(&server.endpoint(), &request()).is_ok());
    assert_eq!(server.connections(), 1);
}

#[test]
fn calls_from_many_threads_reuse_their_connections() {
    const THREADS: usize = 40;
    let server = Server::start(vec![success()]);
    let client = client();
    let endpoint = server.endpoint();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..10 {
                    client.chat(&endpoint, &request()).unwrap();
                }
            });
        }
    });
    let connections = server.connections();
    assert!(connections <= THREADS, "{connections}");
    assert_eq!(client.stats().agents_created, 1);
}
