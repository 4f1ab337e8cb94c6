//! Retries, their delays, and the timeout over all of them.

use super::*;

#[test]
fn retries_stop_at_the_first_success_and_wait_as_asked() {
    let server = Server::start(vec![
        reply(429, "retry-after-ms: 120\r\n", ""),
        Reply::SendAndClose(Vec::new()),
        success(),
    ]);
    let client = client();
    let began = clock::now();
    let completion = client.chat_with_retries(&server.endpoint(), &request(), &quick_retries());
    assert_eq!(completion.unwrap().content(), "hi");
    assert!(began.elapsed() >= Duration::from_millis(120));
    assert_eq!(server.requests(), 3);
    let stats = client.stats();
    assert_eq!((stats.calls, stats.failed), (3, 2));
    let requests = lock(&server.requests);
    let trace = |request: &str| request.split("x-trace-id: ").nth(1).unwrap()[..32].to_owned();
    assert_ne!(trace(&requests[0]), trace(&requests[1]));
}

#[test]
fn retries_end_after_the_third() {
    let server = Server::start(vec![reply(500, "", "")]);
    let error = client().chat_with_retries(&server.endpoint(), &request(), &quick_retries());
    assert_eq!(error.unwrap_err().kind(), Kind::ServerError);
    assert_eq!((server.requests(), server.connections()), (4, 1));
}

#[test]
fn a_permanent_error_is_not_retried() {
    let quota = r#"{"error": {"message": "no", "code": "insufficient_quota"}}"#;
    for (status, body) in [(400, ""), (401, ""), (429, quota)] {
        let server = Server::start(vec![reply(status, "", body)]);
        let error = client().chat_with_retries(&server.endpoint(), &request(), &quick_retries());
        let found = error.unwrap_err().verdict().status;
        assert_eq!(found.map(|it| it.as_u16()), Some(status));
        assert_eq!(server.requests(), 1);
    }
}

#[test]
fn a_wait_longer_than_the_timeout_is_not_begun() {
    let server = Server::start(vec![reply(429, "retry-after: 60\r\n", "")]);
    let client = Client::new(ClientConfig {
        timeout: Duration::from_secs(20),
        ..ClientConfig::default()
    });
    let began = clock::now();
    let error = client.chat_with_retries(&server.endpoint(), &request(), &quick_retries());
    assert!(error.unwrap_err().is_throttled());
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(server.requests(), 1);
}

#[test]
fn all_attempts_together_end_within_the_timeout() {
    let unavailable = reply(503, "retry-after-ms: 700\r\n", "");
    let server = Server::start(vec![unavailable, Reply::Hang]);
    let client = Client::new(ClientConfig {
        timeout: Duration::from_millis(1_000),
        ..ClientConfig::default()
    });
    let began = clock::now();
    let error = client.chat_with_retries(&server.endpoint(), &request(), &quick_retries());
    let (error, took) = (error.unwrap_err(), began.elapsed());
    assert_eq!(error.kind(), Kind::TimedOut, "{error}");
    assert!((1_000..1_600).contains(&took.as_millis()), "{took:?}");
    assert_eq!((server.requests(), server.connections()), (2, 1));
}
