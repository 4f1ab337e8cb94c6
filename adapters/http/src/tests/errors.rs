//! Classification of errors: sent or not, retryable, throttled.

use super::*;

#[test]
fn a_refused_connection_counts_as_not_sent() {
    let unused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = client().chat(&endpoint(&format!("http://{unused}")), &request());
    let error = error.unwrap_err();
    assert!(
        matches!(error.kind(), CallErrorKind::NotConnected { .. }),
        "{error}"
    );
    assert!(error.is_retryable() && !error.was_sent());
}

#[test]
fn an_unknown_host_counts_as_not_sent_and_is_looked_up_again() {
    let client = client();
    for lookups in 1..=2 {
        let error = client.chat(&endpoint("http://nowhere.invalid"), &request());
        let error = error.unwrap_err();
        assert!(
            matches!(error.kind(), CallErrorKind::NotConnected { .. }),
            "{error}"
        );
        assert!(error.is_retryable() && !error.was_sent());
        assert_eq!(client.stats().name_lookups, lookups);
    }
}

#[test]
fn a_failed_handshake_counts_as_not_sent() {
    let server = Server::start(vec![Reply::Hang]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            stream
                .unwrap()
                .write_all(b"HTTP/1.1 400 Bad\r\n\r\n")
                .unwrap();
        }
    });
    let error = client().chat(&endpoint(&format!("https://{plain}")), &request());
    let error = error.unwrap_err();
    assert!(
        matches!(error.kind(), CallErrorKind::NotConnected { .. }),
        "{error}"
    );

    let secure = endpoint(&server.url().replace("http:", "https:"));
    let config = ClientConfig {
        connect_timeout: Duration::from_millis(50),
        ..ClientConfig::default()
    };
    let error = Client::new(config).chat(&secure, &request()).unwrap_err();
    assert!(
        matches!(error.kind(), CallErrorKind::NotConnected { .. }),
        "{error}"
    );
    assert!(!error.was_sent());
}

#[test]
fn a_connection_that_ends_before_the_response_is_lost() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned();
    for bytes in [String::new(), "HTTP/1.1 2".to_owned(), cut] {
        let error = chat_with(Reply::SendAndClose(bytes)).unwrap_err();
        assert!(
            matches!(error.kind(), CallErrorKind::ConnectionLost { .. }),
            "{error}"
        );
        assert!(error.is_retryable() && error.was_sent());
    }
}

#[test]
fn a_service_that_never_responds_times_out() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned();
    for reply in [Reply::Hang, Reply::Send(half)] {
        let server = Server::start(vec![reply]);
        let began = clock::now();
        let error = impatient_client().chat(&server.endpoint(), &request());
        let error = error.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(
            matches!(error.kind(), CallErrorKind::TimedOut { .. }),
            "{error}"
        );
        assert!(error.is_retryable() && error.was_sent());
    }
}

#[test]
fn an_error_keeps_the_fields_of_the_error_response() {
    let body = r#"{"error": {"message": "slow\ndown", "type": "requests", "code": "limit"}}"#;
    let headers = "x-request-id: r-9\r\nretry-after: 2\r\n";
    let error = chat_with(reply(429, headers, body)).unwrap_err();
    let response = error.response().unwrap();
    assert_eq!((response.status, &*response.message), (429, "slow down"));
    assert_eq!(response.code.as_deref(), Some("limit"));
    assert_eq!(response.error_type.as_deref(), Some("requests"));
    assert_eq!(response.request_id.as_deref(), Some("r-9"));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    assert!(error.is_throttled() && error.is_retryable());
    let shown = error.to_string();
    for part in [
        "http://127.0.0.1",
        "…5678",
        "429",
        "limit",
        "slow down",
        "r-9",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(shown.contains(error.trace_id()));
}

#[test]
fn the_wait_is_read_from_the_response_headers() {
    let soon = httpdate::fmt_http_date(clock::wall() + Duration::from_secs(30));
    for (header, least, most) in [
        ("retry-after-ms: 250\r\nretry-after: 9".to_owned(), 250, 250),
        ("Retry-After: 9".to_owned(), 9_000, 9_000),
        (format!("Retry-After: {soon}"), 20_000, 30_000),
    ] {
        let error = chat_with(reply(429, &format!("{header}\r\n"), "")).unwrap_err();
        let wait = error.retry_after().unwrap().as_millis();
        assert!((least..=most).contains(&wait), "{header}: {wait}");
    }
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(vec![success()]);
    for status in [301, 302, 307, 308] {
        let location = format!("location: {}/v1\r\n", elsewhere.url());
        let error = chat_with(reply(status, &location, "moved")).unwrap_err();
        assert_eq!(error.response().unwrap().status, status);
        assert!(!error.is_retryable());
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn a_contradictory_request_is_not_sent() {
    let server = Server::start(vec![success()]);
    let client = client();
    let mut request = request();
    request.extra.insert("stream".to_owned(), true.into());
    let error = client.chat(&server.endpoint(), &request).unwrap_err();
    assert!(
        matches!(error.kind(), CallErrorKind::InvalidRequest { .. }),
        "{error}"
    );
    assert!(!error.is_retryable() && !error.was_sent());
    assert_eq!((server.connections(), client.stats().calls), (0, 0));
}
