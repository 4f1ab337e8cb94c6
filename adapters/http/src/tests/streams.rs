//! Streamed answers.

use super::*;

const HE: &str = "data: {\"id\":\"c-1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"he\"}}]}\n\n";
const LLO: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"llo\"},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// A chunked answer with one chunk for each text, ended properly or not.
fn stream(texts: &[&str], is_ended: bool) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nx-request-id: r-1\r\n\r\n".to_vec();
    for text in texts {
        bytes.extend(format!("{:x}\r\n{text}\r\n", text.len()).into_bytes());
    }
    if is_ended {
        bytes.extend(b"0\r\n\r\n");
    }
    bytes
}

/// Makes a streamed call; returns the texts of the chunks, and whether the head came before them.
fn chat_stream(
    client: &Client,
    endpoint: &Endpoint,
) -> (Vec<String>, bool, Result<ChatCompletion, CallError>) {
    let (mut texts, mut arrived_first) = (Vec::new(), false);
    let result = client.chat_stream(endpoint, &request(), &mut |event| match event {
        CallEvent::Arrived { status, headers } => {
            arrived_first = texts.is_empty() && status.is_success() && !headers.is_empty();
        }
        CallEvent::Chunk(chunk) => texts.push(chunk.text().to_owned()),
    });
    (texts, arrived_first, result)
}

#[test]
fn a_stream_is_joined_and_its_connection_reused() {
    let server = Server::start(vec![Reply::Send(stream(&[HE, LLO, USAGE, DONE], true))]);
    let client = client();
    for _ in 0..3 {
        let (texts, arrived_first, result) = chat_stream(&client, &server.endpoint());
        let answer = result.unwrap();
        assert_eq!((texts.concat(), arrived_first), ("hello".to_owned(), true));
        assert_eq!(
            (answer.content(), answer.total_tokens()),
            ("hello", Some(5))
        );
        assert_eq!(
            (&*answer.completion.request_id, &*answer.completion.model),
            ("r-1", "m")
        );
        assert_eq!(
            answer.completion.raw["choices"][0]["message"]["role"],
            "assistant"
        );
    }
    assert_eq!(server.connections(), 1);
    let sent = lock(&server.requests)[0].clone();
    for part in [
        "\"stream\":true",
        "\"stream_options\":{\"include_usage\":true}",
        "accept: text/event-stream\r\n",
        "accept-encoding: identity\r\n",
    ] {
        assert!(sent.contains(part), "{part} in {sent}");
    }
}

#[test]
fn a_cut_stream_is_an_error_with_what_came_so_far() {
    for reply in [
        // The connection ends within the chunks, or the chunks end without an end mark.
        Reply::SendAndClose(stream(&[HE], false)),
        Reply::Send(stream(&[HE], true)),
        Reply::SendAndClose(stream(&[HE, &LLO[..20]], false)),
    ] {
        let server = Server::start(vec![reply]);
        let (texts, _, result) = chat_stream(&client(), &server.endpoint());
        let error = result.unwrap_err();
        assert_eq!(
            (texts.concat(), error.kind()),
            ("he".to_owned(), Kind::CutAnswer)
        );
        assert!(error.is_retryable());
        assert_eq!(error.completion().unwrap().choice.content, "he");
    }
}

#[test]
fn a_stream_that_stalls_times_out_with_what_came_so_far() {
    let server = Server::start(vec![Reply::Send(stream(&[HE], false))]);
    let (texts, _, result) = chat_stream(&impatient_client(), &server.endpoint());
    let error = result.unwrap_err();
    assert_eq!(
        (texts.concat(), error.kind()),
        ("he".to_owned(), Kind::CutAnswer)
    );
    assert!(error.to_string().contains("timeout"), "{error}");
    assert_eq!(error.completion().unwrap().choice.content, "he");
}

#[test]
fn a_stream_that_has_ended_is_an_answer_however_its_connection_ends() {
    for reply in [
        Reply::SendAndClose(stream(&[HE, LLO, DONE], false)),
        Reply::SendAndClose(stream(&[HE, LLO], false)),
        Reply::Send(stream(&[HE, LLO, DONE], false)),
    ] {
        let server = Server::start(vec![reply]);
        let (_, _, result) = chat_stream(&impatient_client(), &server.endpoint());
        assert_eq!(result.unwrap().content(), "hello");
    }
}

#[test]
fn an_error_within_a_stream_is_judged() {
    let error = "data: {\"error\":{\"message\":\"no\",\"type\":\"overloaded_error\"}}\n\n";
    let server = Server::start(vec![Reply::Send(stream(&[HE, error], true))]);
    let (_, _, result) = chat_stream(&client(), &server.endpoint());
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Overloaded, "{error}");
    assert_eq!(error.completion().unwrap().choice.content, "he");
}

#[test]
fn json_where_a_stream_was_asked_for_is_an_answer() {
    let server = Server::start(vec![success()]);
    let (texts, arrived_first, result) = chat_stream(&client(), &server.endpoint());
    assert_eq!((texts.len(), arrived_first), (0, true));
    assert_eq!(result.unwrap().content(), "hi");
}

#[test]
fn a_stream_where_json_was_asked_for_is_an_answer() {
    let answer = chat_with(Reply::Send(stream(&[HE, LLO, DONE], true))).unwrap();
    assert_eq!(answer.content(), "hello");
    let body = format!("{HE}{LLO}{DONE}");
    let answer = chat_with(reply(200, "content-type: application/json\r\n", &body)).unwrap();
    assert_eq!(
        (answer.content(), &*answer.completion.notes),
        ("hello", &[Note::StreamForJson][..])
    );
}

#[test]
fn an_error_before_a_stream_is_read() {
    let server = Server::start(vec![reply(429, "retry-after: 2\r\n", "")]);
    let (_, arrived_first, result) = chat_stream(&client(), &server.endpoint());
    let error = result.unwrap_err();
    assert_eq!((error.kind(), arrived_first), (Kind::RateLimited, false));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
}

#[test]
fn a_stream_is_accepted_up_to_the_maximum_length() {
    let length = (HE.len() + LLO.len()) as u64;
    for (limit, is_accepted) in [(length, true), (length - 1, false)] {
        let server = Server::start(vec![Reply::Send(stream(&[HE, LLO], true))]);
        let config = ClientConfig {
            max_response_bytes: limit,
            ..ClientConfig::default()
        };
        let (_, _, result) = chat_stream(&Client::new(config), &server.endpoint());
        match result {
            Ok(answer) => assert!(is_accepted && answer.content() == "hello"),
            Err(error) => assert!(
                !is_accepted && error.kind() == Kind::AnswerTooLong,
                "{error}"
            ),
        }
    }
}

#[test]
fn the_events_of_responses_are_joined() {
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"status\":\"in_progress\",\"output\":[]}}\n\n";
    let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"output_index\":0,\"delta\":\"hi\"}\n\n";
    let completed = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"status\":\"completed\",\"output\":[{\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\"hi\"}]}],\"usage\":{\"input_tokens\":1,\"output_tokens\":1,\"total_tokens\":2}}}\n\n";
    let server = Server::start(vec![Reply::Send(stream(
        &[created, delta, completed],
        true,
    ))]);
    let body = json!({"model": "m", "input": "x", "stream": true});
    let mut texts = String::new();
    let endpoint = server.endpoint();
    let reply = client().send_with_events(
        &endpoint,
        "/responses",
        &body,
        &HeaderMap::new(),
        &mut |event| {
            if let CallEvent::Chunk(chunk) = event {
                texts.push_str(chunk.text());
            }
        },
    );
    let reply = reply.unwrap();
    assert!(reply.is_answer());
    assert_eq!(
        (&*texts, &*reply.completion.as_ref().unwrap().choice.content),
        ("hi", "hi")
    );
    assert_eq!(reply.verdict.usage.unwrap().total_tokens, Some(2));
    assert_eq!(reply.json(endpoint.key())["status"], "completed");
}
