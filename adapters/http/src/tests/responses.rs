//! Successful and malformed responses.

use super::*;

#[test]
fn a_completion_has_every_field_of_the_response() {
    let server = Server::start(vec![success()]);
    let client = client();
    let completion = client.chat(&server.endpoint(), &request()).unwrap();
    assert_eq!((&*completion.content, &*completion.model), ("hi", "m-2024"));
    let tokens = (completion.prompt_tokens, completion.completion_tokens);
    assert_eq!((tokens, completion.total_tokens), ((3, 4), 8));
    assert_eq!(
        (&*completion.request_id, completion.created),
        ("r-1", 1_700_000_000)
    );
    assert_eq!(completion.finish_reason.as_deref(), Some("stop"));
    assert!(completion.latency > Duration::ZERO);
    let stats = client.stats();
    assert_eq!(stats.total_time, completion.latency);
    assert_eq!((stats.calls, stats.failed, stats.agents_created), (1, 0, 1));
}

#[test]
fn a_request_has_the_expected_headers_and_body() {
    let server = Server::start(vec![success()]);
    let completion = client().chat(&server.endpoint(), &request()).unwrap();
    let request = lock(&server.requests)[0].clone();
    assert_eq!(completion.trace_id.len(), 32);
    for line in [
        "POST /v1/chat/completions HTTP/1.1\r\n".to_owned(),
        format!("authorization: Bearer {KEY}\r\n"),
        format!("x-trace-id: {}\r\n", completion.trace_id),
        format!("user-agent: leasehold/{}\r\n", env!("CARGO_PKG_VERSION")),
        "content-type: application/json\r\n".to_owned(),
        r#""messages":[{"role":"user","content":"hello"}],"max_tokens":30720}"#.to_owned(),
    ] {
        assert!(request.contains(&line), "{line} in {request}");
    }
}

#[test]
fn missing_fields_are_filled_in_from_the_request() {
    let body = r#"{"id": "c-1", "choices": [{"message": {"content": null}}]}"#;
    let completion = chat_with(reply(200, "", body)).unwrap();
    assert_eq!((&*completion.content, &*completion.model), ("", "m"));
    assert_eq!(
        (&*completion.request_id, completion.total_tokens),
        ("c-1", 0)
    );
}

#[test]
fn a_chunked_response_is_read() {
    let (start, end) = BODY.split_at(40);
    let chunks = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{start}\r\n{:x}\r\n{end}\r\n0\r\n\r\n",
        start.len(),
        end.len()
    );
    let server = Server::start(vec![Reply::Send(chunks)]);
    let client = client();
    for _ in 0..2 {
        let completion = client.chat(&server.endpoint(), &request()).unwrap();
        assert_eq!(completion.content, "hi");
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_malformed_response_is_an_error_and_not_retryable() {
    for bad in [
        reply(200, "", "<html>"),
        reply(200, "", "{}"),
        reply(204, "", ""),
        reply(200, "", &BODY[..50]),
        Reply::SendAndClose("SSH-2.0-OpenSSH\r\n\r\n".to_owned()),
    ] {
        let error = chat_with(bad).unwrap_err();
        assert!(
            matches!(error.kind(), CallErrorKind::InvalidResponse { .. }),
            "{error}"
        );
        assert!(!error.is_retryable() && error.was_sent());
    }
}

#[test]
fn a_response_is_accepted_up_to_the_maximum_length() {
    let server = Server::start(vec![success()]);
    let limited = |max_response_bytes| {
        let config = ClientConfig {
            max_response_bytes,
            ..ClientConfig::default()
        };
        Client::new(config)
    };
    let limit = BODY.len() as u64;
    let client = limited(limit);
    for _ in 0..2 {
        assert!(client.chat(&server.endpoint(), &request()).is_ok());
    }
    assert_eq!(server.connections(), 1);
    let client = limited(limit - 1);
    for _ in 0..2 {
        let error = client.chat(&server.endpoint(), &request()).unwrap_err();
        assert_eq!(
            error.kind(),
            &CallErrorKind::ResponseTooLarge { limit: limit - 1 }
        );
        assert!(!error.is_retryable() && error.was_sent());
    }
    assert_eq!(server.connections(), 3);
}
