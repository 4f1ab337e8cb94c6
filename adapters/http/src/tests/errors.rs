//! Errors: sent or not, and what the verdict says.

use super::*;

#[test]
fn a_refused_connection_counts_as_not_sent() {
    let unused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = client().chat(&endpoint(&format!("http://{unused}")), &request());
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::NotConnected, "{error}");
    assert!(error.is_retryable() && !error.was_sent());
    assert_eq!(error.verdict().fate, Fate::Rest(Pause::Overload));
}

#[test]
fn an_unknown_host_counts_as_not_sent_and_is_looked_up_again() {
    let client = client();
    for lookups in 1..=2 {
        let error = client.chat(&endpoint("http://nowhere.invalid"), &request());
        let error = error.unwrap_err();
        // Without a network, the name service can't say that there is no such host.
        assert!(
            matches!(error.kind(), Kind::HostNotFound | Kind::NotConnected),
            "{error}"
        );
        assert!(!error.was_sent());
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
    assert_eq!(error.kind(), Kind::TlsFailed, "{error}");
    assert!(!error.was_sent());

    let secure = endpoint(&server.url().replace("http:", "https:"));
    let config = ClientConfig {
        connect_timeout: Duration::from_millis(50),
        ..ClientConfig::default()
    };
    let error = Client::new(config).chat(&secure, &request()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotConnected, "{error}");
    assert!(!error.was_sent());
}

#[test]
fn a_connection_that_ends_before_the_response_is_lost() {
    for bytes in ["", "HTTP/1.1 2"] {
        let error = chat_with(Reply::SendAndClose(bytes.into())).unwrap_err();
        assert_eq!(error.kind(), Kind::ConnectionLost, "{error}");
        assert!(error.is_retryable() && error.was_sent());
    }
}

#[test]
fn what_came_before_a_connection_ended_is_kept() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
    let error = chat_with(Reply::SendAndClose(format!("{head}{{\"id\"").into())).unwrap_err();
    assert_eq!(error.kind(), Kind::CutAnswer, "{error}");
    assert!(error.is_retryable() && error.was_sent());
    assert_eq!(error.completion().unwrap().raw, "{\"id\"");
    // An answer that is there in full was paid for.
    let whole = chat_with(Reply::SendAndClose(format!("{head}{BODY}").into())).unwrap();
    assert_eq!(whole.content(), "hi");
}

#[test]
fn a_service_that_never_responds_times_out() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".into();
    for (reply, kind) in [
        (Reply::Hang, Kind::TimedOut),
        (Reply::Send(half), Kind::CutAnswer),
    ] {
        let server = Server::start(vec![reply]);
        let began = clock::now();
        let error = impatient_client().chat(&server.endpoint(), &request());
        let error = error.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.is_retryable() && error.was_sent());
        assert!(error.to_string().contains("timeout"), "{error}");
    }
}

#[test]
fn an_error_keeps_the_fields_of_the_error_response() {
    let body = r#"{"error": {"message": "slow\ndown", "type": "requests", "code": "limit"}}"#;
    let headers = "x-request-id: r-9\r\nretry-after: 2\r\n";
    let error = chat_with(reply(429, headers, body)).unwrap_err();
    let verdict = error.verdict();
    assert_eq!(verdict.status, Some(StatusCode::TOO_MANY_REQUESTS));
    let body = verdict.error.as_ref().unwrap();
    assert_eq!(
        (body.code.as_deref(), &*body.message),
        (Some("limit"), "slow down")
    );
    assert_eq!(body.error_type.as_deref(), Some("requests"));
    assert_eq!(verdict.request_id.as_deref(), Some("r-9"));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    assert!(error.is_throttled() && error.is_retryable() && !error.rejects_key());
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
fn a_date_in_a_header_is_compared_with_the_clock() {
    let soon = std::time::UNIX_EPOCH + clock::since_epoch() + Duration::from_secs(30);
    let header = format!("Retry-After: {}\r\n", httpdate::fmt_http_date(soon));
    let error = chat_with(reply(429, &header, "")).unwrap_err();
    let wait = error.retry_after().unwrap().as_millis();
    assert!((20_000..=30_000).contains(&wait), "{wait}");
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(vec![success()]);
    for status in [301, 302, 307, 308] {
        let location = format!("location: {}/v1\r\n", elsewhere.url());
        let error = chat_with(reply(status, &location, "moved")).unwrap_err();
        assert_eq!(
            (error.kind(), error.verdict().next),
            (Kind::Redirected, Next::Stop)
        );
        assert!(error.to_string().contains(&elsewhere.url()), "{error}");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn a_contradictory_request_is_not_sent() {
    let server = Server::start(vec![success()]);
    let client = client();
    let mut request = request();
    request.extra.insert("model".to_owned(), json!("other"));
    let error = client.chat(&server.endpoint(), &request).unwrap_err();
    assert_eq!(error.kind(), Kind::NotSent, "{error}");
    assert!(!error.is_retryable() && !error.was_sent());
    assert_eq!((server.connections(), client.stats().calls), (0, 0));
}

#[test]
fn an_error_with_status_success_is_an_error() {
    let body = r#"{"error": {"message": "Provider returned error", "code": 502}}"#;
    let error = chat_with(reply(200, "", body)).unwrap_err();
    let (wait, tally) = (Duration::ZERO, Tally::AttemptUnlessOutage);
    assert_eq!(error.verdict().next, Next::RetryAfter { wait, tally });
}
