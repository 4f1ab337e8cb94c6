//! Whole answers: their fields, their shapes, and how they are encoded.

use super::*;
use flate2::Compression;
use flate2::read::{GzEncoder, ZlibEncoder};
use std::io::Read;

#[test]
fn a_completion_has_every_field_of_the_response() {
    let server = Server::start(vec![success()]);
    let client = client();
    let answer = client.chat(&server.endpoint(), &request()).unwrap();
    let completion = &answer.completion;
    assert_eq!((answer.content(), &*completion.model), ("hi", "m-2024"));
    let usage = completion.usage.unwrap();
    assert_eq!(
        (usage.prompt_tokens, usage.completion_tokens),
        (Some(3), Some(4))
    );
    assert_eq!(answer.total_tokens(), Some(8));
    assert_eq!(
        (&*completion.request_id, completion.created),
        ("r-1", 1_700_000_000)
    );
    assert_eq!(completion.choice.finish_reason.as_deref(), Some("stop"));
    assert_eq!(completion.raw["id"], "c-1");
    assert!(answer.latency > Duration::ZERO);
    let stats = client.stats();
    assert_eq!(stats.total_time, answer.latency);
    assert_eq!((stats.calls, stats.failed, stats.agents_created), (1, 0, 1));
}

#[test]
fn a_serialized_completion_has_what_is_known() {
    let answer = chat_with(success()).unwrap();
    let value = serde_json::to_value(&answer).unwrap();
    let expected = json!({"content": "hi", "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 4,
        "total_tokens": 8, "model": "m-2024", "request_id": "r-1", "created": 1_700_000_000, "trace_id": answer.trace_id});
    assert_eq!(value, expected);
    let bare = chat_with(reply(200, "", r#"{"choices": [{"message": {}}]}"#)).unwrap();
    let value = serde_json::to_value(&bare).unwrap();
    assert_eq!(value.get("total_tokens"), None);
}

#[test]
fn a_request_has_the_expected_headers_and_body() {
    let server = Server::start(vec![success()]);
    let config = ClientConfig {
        trace_header: http::HeaderName::from_static("m-traceid"),
        ..ClientConfig::default()
    };
    let config = config.with_header("openai-project", "p-1").unwrap();
    let answer = Client::new(config)
        .chat(&server.endpoint(), &request())
        .unwrap();
    let request = lock(&server.requests)[0].clone();
    assert_eq!(answer.trace_id.len(), 32);
    for line in [
        "POST /v1/chat/completions HTTP/1.1\r\n".to_owned(),
        format!("authorization: Bearer {KEY}\r\n"),
        format!("m-traceid: {}\r\n", answer.trace_id),
        "openai-project: p-1\r\n".to_owned(),
        format!("user-agent: leasehold/{}\r\n", env!("CARGO_PKG_VERSION")),
        "content-type: application/json\r\n".to_owned(),
        "accept-encoding: gzip, deflate, br\r\n".to_owned(),
        r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#.to_owned(),
    ] {
        assert!(request.contains(&line), "{line} in {request}");
    }
}

#[test]
fn any_call_is_sent_with_its_path_body_and_headers() {
    let body =
        r#"{"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 8, "total_tokens": 8}}"#;
    let server = Server::start(vec![
        reply(200, "", body),
        reply(400, "", "{\"error\": \"sk-secret-12345678\"}"),
    ]);
    let mut headers = HeaderMap::new();
    headers.insert("x-own", "1".parse().unwrap());
    headers.insert("authorization", "Bearer other".parse().unwrap());
    let client = client();
    let request = json!({"model": "e", "input": "x"});
    let send = || {
        client
            .send(&server.endpoint(), "/v1/embeddings", &request, &headers)
            .unwrap()
    };
    let reply = send();
    assert!(reply.is_answer());
    assert_eq!(reply.verdict.usage.unwrap().total_tokens, Some(8));
    assert_eq!(
        reply.json(server.endpoint().key())["data"][0]["embedding"][0],
        0.5
    );
    let refused = send();
    assert_eq!(
        (refused.status, refused.verdict.kind),
        (StatusCode::BAD_REQUEST, Kind::BadRequest)
    );
    assert_eq!(refused.json(server.endpoint().key())["error"], "…5678");
    assert_eq!(client.stats().failed, 1);
    let sent = lock(&server.requests)[0].clone();
    for line in [
        "POST /v1/embeddings ",
        "x-own: 1\r\n",
        &format!("authorization: Bearer {KEY}\r\n"),
        &request.to_string(),
    ] {
        assert!(sent.contains(line), "{line} in {sent}");
    }
    assert!(!sent.contains("other"), "{sent}");
}

#[test]
fn missing_fields_are_filled_in_from_the_request() {
    let body = r#"{"id": "c-1", "choices": [{"message": {"content": null}}]}"#;
    let answer = chat_with(reply(200, "", body)).unwrap();
    assert_eq!((answer.content(), &*answer.completion.model), ("", "m"));
    assert_eq!(
        (&*answer.completion.request_id, answer.total_tokens()),
        ("c-1", None)
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
    let server = Server::start(vec![Reply::Send(chunks.into())]);
    let client = client();
    for _ in 0..2 {
        let answer = client.chat(&server.endpoint(), &request()).unwrap();
        assert_eq!(answer.content(), "hi");
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_compressed_response_is_decompressed_and_its_connection_reused() {
    let compress = |mut reader: Box<dyn Read>| {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    };
    let gzip = compress(Box::new(GzEncoder::new(
        BODY.as_bytes(),
        Compression::fast(),
    )));
    let deflate = compress(Box::new(ZlibEncoder::new(
        BODY.as_bytes(),
        Compression::fast(),
    )));
    let server = Server::start(vec![
        reply_bytes(200, "content-encoding: gzip\r\n", &gzip),
        reply_bytes(200, "content-encoding: deflate\r\n", &deflate),
        reply_bytes(200, "", &gzip),
        // Proxies decompress bodies and leave the header.
        reply(200, "content-encoding: br\r\n", BODY),
        reply(200, "content-encoding: zstd\r\n", BODY),
    ]);
    let client = client();
    let wrong = &[Note::WrongEncoding][..];
    for notes in [&[], &[], wrong, wrong, wrong] {
        let answer = client.chat(&server.endpoint(), &request()).unwrap();
        assert_eq!((answer.content(), &*answer.completion.notes), ("hi", notes));
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn an_error_in_a_compressed_body_is_read() {
    let body = br#"{"error": {"code": "insufficient_quota"}}"#;
    let mut gzip = Vec::new();
    GzEncoder::new(&body[..], Compression::fast())
        .read_to_end(&mut gzip)
        .unwrap();
    let error = chat_with(reply_bytes(429, "content-encoding: gzip\r\n", &gzip)).unwrap_err();
    assert!(error.rejects_key(), "{error}");
}

#[test]
fn a_malformed_response_is_an_error_with_the_reason() {
    for (bad, kind) in [
        (reply(200, "", "<html>"), Kind::ProxyPage),
        (reply(200, "", "{}"), Kind::UntypedAnswer),
        (reply(204, "", ""), Kind::EmptyAnswer),
        (reply(200, "", &BODY[..50]), Kind::CutAnswer),
        (
            Reply::SendAndClose("SSH-2.0-OpenSSH\r\n\r\n".into()),
            Kind::NotHttp,
        ),
    ] {
        let error = chat_with(bad).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.was_sent());
    }
}

#[test]
fn an_answer_without_a_known_shape_is_kept() {
    let error = chat_with(reply(200, "", r#"{"result": "paid for"}"#)).unwrap_err();
    assert_eq!(error.verdict().next, Next::GiveUp);
    assert_eq!(error.completion().unwrap().raw["result"], "paid for");
}

#[test]
fn a_response_is_accepted_up_to_the_maximum_length() {
    let server = Server::start(vec![success()]);
    let limited = |max_response_bytes| {
        Client::new(ClientConfig {
            max_response_bytes,
            ..ClientConfig::default()
        })
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
        assert_eq!(error.kind(), Kind::AnswerTooLong);
        assert!(!error.is_retryable() && error.was_sent() && error.completion().is_none());
    }
    assert_eq!(server.connections(), 3);
}

#[test]
fn an_answer_with_too_long_a_padding_is_an_answer() {
    let mut gzip = Vec::new();
    let padded = format!("{BODY}{}", " ".repeat(1_000_000));
    GzEncoder::new(padded.as_bytes(), Compression::fast())
        .read_to_end(&mut gzip)
        .unwrap();
    let server = Server::start(vec![
        reply(200, "", &padded),
        reply_bytes(200, "content-encoding: gzip\r\n", &gzip),
    ]);
    let client = Client::new(ClientConfig {
        max_response_bytes: 100_000,
        ..ClientConfig::default()
    });
    for _ in 0..2 {
        let answer = client.chat(&server.endpoint(), &request()).unwrap();
        assert_eq!(answer.content(), "hi");
    }
}

#[test]
fn a_long_head_is_accepted_up_to_its_maximum() {
    let padded =
        |length: usize| reply(200, &format!("x-padding: {}\r\n", "x".repeat(length)), BODY);
    let server = Server::start(vec![padded(60 << 10), padded(64 << 10), padded(200 << 10)]);
    let client = client();
    assert!(client.chat(&server.endpoint(), &request()).is_ok());
    for _ in 0..2 {
        let error = client.chat(&server.endpoint(), &request()).unwrap_err();
        assert_eq!(error.kind(), Kind::AnswerTooLong, "{error}");
        assert!(!error.is_retryable() && error.was_sent());
    }
}

#[test]
fn a_decompressed_response_is_accepted_up_to_the_maximum_length() {
    let mut gzip = Vec::new();
    let zeros = vec![b'0'; 1_000_000];
    GzEncoder::new(&zeros[..], Compression::fast())
        .read_to_end(&mut gzip)
        .unwrap();
    let server = Server::start(vec![reply_bytes(200, "content-encoding: gzip\r\n", &gzip)]);
    let config = ClientConfig {
        max_response_bytes: 100_000,
        ..ClientConfig::default()
    };
    let error = Client::new(config)
        .chat(&server.endpoint(), &request())
        .unwrap_err();
    assert_eq!(error.kind(), Kind::AnswerTooLong, "{error}");
}
