//! Verdicts over answers of every kind.

use super::*;
use crate::stream::AnswerStream;
use crate::testing::headers;

const NOW: Duration = Duration::from_secs(1_795_888_924);
const KEY: &str = "sk-secret-12345678";

fn judge_call(
    call: Call,
    status: u16,
    named: &[(&str, &str)],
    body: &str,
) -> (Verdict, Option<Completion>) {
    let headers = headers(named);
    let answer = Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: &headers,
        body: Some(body.as_bytes()),
    };
    let key = ApiKey::new(KEY).unwrap();
    let context = Context {
        call,
        key: Some(&key),
    };
    read(&answer, NOW, &context)
}

fn judge(status: u16, named: &[(&str, &str)], body: &str) -> Verdict {
    judge_call(Call::Chat, status, named, body).0
}

#[test]
fn the_status_decides_where_the_body_says_nothing() {
    for (status, kind) in [
        (204, Kind::EmptyAnswer),
        (301, Kind::Redirected),
        (307, Kind::Redirected),
        (400, Kind::BadRequest),
        (401, Kind::KeyRejected),
        (402, Kind::QuotaUsedUp),
        (403, Kind::Forbidden),
        (404, Kind::WrongUrl),
        (405, Kind::WrongUrl),
        (408, Kind::Transient),
        (409, Kind::Transient),
        (413, Kind::BadRequest),
        (422, Kind::BadRequest),
        (425, Kind::Transient),
        (429, Kind::RateLimited),
        (500, Kind::ServerError),
        (501, Kind::WrongUrl),
        (502, Kind::BadGateway),
        (503, Kind::Overloaded),
        (504, Kind::BadGateway),
        (520, Kind::Overloaded),
        (524, Kind::BadGateway),
        (529, Kind::Overloaded),
        (599, Kind::ServerError),
        (999, Kind::NotHttp),
    ] {
        let verdict = judge(status, &[], "");
        assert_eq!(verdict.kind, kind, "{status}");
        assert_eq!(verdict.status.map(|it| it.as_u16()), Some(status));
        assert!(verdict.kind.was_sent());
        assert!(
            verdict.message.starts_with(&format!("status {status}")),
            "{verdict}"
        );
    }
}

/// Rows of a status, the kind that follows, and the body.
const KINDS: &str = r#"
400 QuotaUsedUp {"error": {"code": "billing_hard_limit_reached"}}
403 QuotaUsedUp {"error": {"type": "insufficient_quota"}}
429 QuotaUsedUp {"error": {"code": "insufficient_quota"}}
400 QuotaUsedUp {"error": {"message": "Your credit balance is too low"}}
400 KeyRejected {"error": {"code": 400, "details": [{"reason": "API_KEY_INVALID"}]}}
413 TooLarge {"error": {"message": "Request too large for model: Limit 6000, Requested 9000", "code": "rate_limit_exceeded"}}
413 BadRequest {"type": "error", "error": {"type": "request_too_large", "message": "too large"}}
400 RateLimited {"__type": "ThrottlingException"}
500 RateLimited {"error": {"code": "rate_limit_exceeded"}}
500 Overloaded {"type": "error", "error": {"type": "overloaded_error"}}
429 Overloaded {"error": {"type": "engine_overloaded_error"}}
400 PromptTooLong {"error": {"code": "context_length_exceeded"}}
400 Blocked {"error": {"code": "content_filter"}}
400 WrongModel {"error": {"code": "model_not_found"}}
403 Forbidden {"error": {"code": "model_not_found"}}
404 WrongUrl <html><title>404 Not Found</title><center>nginx</center></html>
403 Forbidden <html><title>Just a moment...</title>cloudflare</html>
429 RateLimited <html><title>Access denied | error 1015</title>cloudflare</html>
502 BadGateway <html><h1>502 Bad Gateway</h1>haproxy</html>
"#;

/// Bodies that come with a success and are none.
const KINDS_OF_SUCCESS: &str = r#"
200 BadGateway {"error": {"message": "Provider returned error", "code": 502}}
200 RateLimited {"error": {"message": "m", "code": 429}}
200 QuotaUsedUp {"error": {"code": "insufficient_quota"}}
200 BadRequest {"error": {"type": "invalid_request_error"}}
200 ServerError {"error": "model is loading"}
200 BadRequest {"object": "error", "message": "m", "code": 400}
200 Overloaded {"type": "error", "error": {"type": "overloaded_error"}}
200 Overloaded {"choices": [{"error": {"code": 503}, "message": {"content": ""}}]}
200 RateLimited {"output": [], "status": "failed", "error": {"code": "rate_limit_exceeded"}}
200 ProxyPage <html><title>Sign in</title></html>
200 UntypedAnswer {}
200 UntypedAnswer OK
200 UntypedAnswer {"choices": [{}]}
200 EmptyAnswer {"choices": []}
200 EmptyAnswer
200 CutAnswer {"choices": [{"message": {"content": "hal
"#;

/// Splits a table into its rows: the status, the kind's name and the body.
fn rows(table: &str) -> impl Iterator<Item = (u16, &str, &str)> {
    table.trim().lines().map(|row| {
        let mut parts = row.splitn(3, ' ');
        let status = parts.next().unwrap().parse().unwrap();
        let kind = parts.next().unwrap();
        (status, kind, parts.next().unwrap_or_default())
    })
}

#[test]
fn the_body_decides_before_the_status() {
    for (status, kind, body) in rows(KINDS) {
        let found = judge(status, &[], body).kind;
        assert_eq!(format!("{found:?}"), kind, "{status} {body}");
    }
}

#[test]
fn an_error_with_status_success_is_judged_by_what_it_names() {
    for (status, kind, body) in rows(KINDS_OF_SUCCESS) {
        let (verdict, completion) = judge_call(Call::Chat, status, &[], body);
        assert_eq!(format!("{:?}", verdict.kind), kind, "{body}");
        // What may have been paid for is kept.
        assert_eq!(completion.unwrap().raw.is_null(), body.is_empty(), "{body}");
    }
}

#[test]
fn plain_text_with_status_success_is_no_page_for_a_header_alone() {
    let nginx = [("server", "nginx")];
    assert_eq!(judge(200, &nginx, "OK").kind, Kind::UntypedAnswer);
    assert_eq!(judge(200, &nginx, "").kind, Kind::EmptyAnswer);
    assert_eq!(judge(200, &nginx, "<html>").kind, Kind::ProxyPage);
    let envoy = "no healthy upstream";
    assert_eq!(judge(200, &[], envoy).kind, Kind::ProxyPage);
}

#[test]
fn answers_of_every_call_are_read() {
    for (call, body, tokens) in [
        (
            Call::Chat,
            r#"{"choices": [{"message": {"content": "x"}}], "usage": {"total_tokens": 5}}"#,
            Some(5),
        ),
        (
            Call::Completions,
            r#"{"choices": [{"text": "x"}], "usage": null}"#,
            None,
        ),
        (
            Call::Responses,
            r#"{"output": [{"type": "message"}], "status": "completed", "usage": {"input_tokens": 2, "output_tokens": 3}}"#,
            Some(5),
        ),
        (
            Call::Embeddings,
            r#"{"data": [{"embedding": []}], "usage": {"prompt_tokens": 5, "total_tokens": 5}}"#,
            Some(5),
        ),
        (
            Call::Messages,
            r#"{"type": "message", "content": [], "usage": {"input_tokens": 2, "output_tokens": 3}}"#,
            Some(5),
        ),
        (
            Call::Other,
            r#"{"anything": 1, "usage": {"total_tokens": 5.0}}"#,
            Some(5),
        ),
        (
            Call::Other,
            r#"{"id": "job_1", "status": "failed", "error": {"message": "m"}}"#,
            None,
        ),
        (Call::Other, "\u{1}\u{2}", None),
        (Call::Other, "", None),
    ] {
        let (verdict, _) = judge_call(call, 200, &[], body);
        assert_eq!(
            (verdict.kind, verdict.next),
            (Kind::Answer, Next::Done),
            "{body}"
        );
        assert_eq!(
            verdict.usage.and_then(|usage| usage.total_tokens),
            tokens,
            "{body}"
        );
        assert_eq!(verdict.message, "");
    }
}

#[test]
fn an_answer_that_is_not_read_yet_is_judged_by_its_head() {
    let headers = headers(&[
        ("x-ratelimit-remaining-requests", "4"),
        ("x-request-id", "r-1"),
    ]);
    let judged = |status| {
        let answer = Answer {
            status,
            headers: &headers,
            body: None,
        };
        let context = Context {
            call: Call::Chat,
            key: None,
        };
        verdict(&answer, NOW, &context)
    };
    let success = judged(StatusCode::OK);
    assert_eq!(
        (success.kind, success.usage, success.limits.len()),
        (Kind::Answer, None, 1)
    );
    assert_eq!(success.request_id.as_deref(), Some("r-1"));
    assert_eq!(
        judged(StatusCode::TOO_MANY_REQUESTS).kind,
        Kind::RateLimited
    );
}

#[test]
fn a_rest_is_told_or_left_to_the_caller() {
    let told = judge(503, &[("retry-after", "7")], "");
    assert_eq!(told.fate, Fate::Rest(Pause::Told(Duration::from_secs(7))));
    assert_eq!(
        (told.outcome, told.asked_wait),
        (Outcome::Throttled, Some(Duration::from_secs(7)))
    );
    let untold = judge(503, &[], "");
    assert_eq!(
        (untold.fate, untold.outcome),
        (Fate::Rest(Pause::Overload), Outcome::Failed)
    );
    let untold = judge(429, &[("retry-after", "0")], "");
    assert_eq!(
        (untold.fate, untold.outcome),
        (Fate::Rest(Pause::Rate), Outcome::Throttled)
    );
    // Azure tells nothing by these.
    let azure = [
        ("x-ratelimit-reset-requests", "-1"),
        ("x-ratelimit-reset-tokens", "0"),
    ];
    assert_eq!(judge(429, &azure, "").fate, Fate::Rest(Pause::Rate));
    // A server error lets the task wait, not the key.
    let failed = judge(500, &[("retry-after", "7")], "");
    let (wait, tally) = (Duration::from_secs(7), Tally::Attempt);
    assert_eq!(
        (failed.fate, failed.next),
        (Fate::Keep, Next::RetryAfter { wait, tally })
    );
}

#[test]
fn the_services_word_on_retries_is_heard() {
    let tally = Tally::Attempt;
    let word = |value| [("x-should-retry", value)];
    assert_eq!(
        judge(429, &word("false"), "").next,
        Next::OtherMember { tally }
    );
    let wait = Duration::ZERO;
    assert_eq!(
        judge(400, &word("true"), "").next,
        Next::RetryAfter { wait, tally }
    );
}

#[test]
fn a_message_says_what_happened_and_what_to_do() {
    let body = r#"{"error": {"message": "slow\ndown", "type": "requests", "code": "limit"}}"#;
    for (status, named, body, message) in [
        (
            429,
            &[("x-request-id", "r-9")][..],
            body,
            "status 429 (limit): slow down [request r-9]",
        ),
        (429, &[], "", "status 429: rate limited"),
        (
            529,
            &[],
            r#"{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_1"}"#,
            "status 529 (overloaded_error): Overloaded [request req_1]",
        ),
        (
            308,
            &[("location", "https://h/v2?key=x#y")],
            "",
            "status 308: redirected to https://h/v2, which was not followed; use the new address as the URL",
        ),
        (
            302,
            &[],
            "",
            "status 302: redirected without a target; use the new address as the URL",
        ),
        (
            404,
            &[("server", "nginx")],
            "<html><title>404 Not Found</title></html>",
            "status 404 from nginx, not from the service: 404 Not Found; check the URL, and whether it ends in /v1",
        ),
        (
            200,
            &[],
            r#"{"error": {"message": "m", "code": 502}}"#,
            "status 200 (502): m",
        ),
        (
            200,
            &[],
            "<html>hello</html>",
            "status 200 from a proxy, not from the service: hello",
        ),
    ] {
        assert_eq!(judge(status, named, body).message, message);
    }
    let long = format!(
        r#"{{"error": {{"message": "{}", "code": "model_not_found"}}}}"#,
        "é".repeat(5_000)
    );
    let message = judge(404, &[], &long).message;
    assert!(
        message.ends_with("; check the name of the model"),
        "{message}"
    );
    assert!(message.chars().count() <= crate::MAX_TEXT + 1);
}

#[test]
fn a_key_that_is_echoed_appears_in_no_text() {
    let body = format!(
        r#"{{"error": {{"message": "bad {KEY}", "code": "{KEY}", "type": "{KEY}", "param": "{KEY}", "details": [{{"reason": "{KEY}"}}]}}, "request_id": "{KEY}"}}"#
    );
    for (status, body) in [
        (401, &*body),
        (200, &*body),
        (403, KEY),
        (301, ""),
        (500, &*format!("<html>{KEY}")),
    ] {
        for named in [
            &[("x-request-id", KEY), ("location", KEY)][..],
            &[("location", "/x")],
        ] {
            let verdict = judge(status, named, body);
            let shown = format!("{verdict} {verdict:?}");
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
    for body in [
        body.clone(),
        format!(r#"{{"{KEY}": 1}}"#),
        format!(r#"{{"error": "{KEY}", "model": "{KEY}", "choices": []}}"#),
        format!(r#"{{"choices": [{{"message": {{"content": "{KEY}"#),
    ] {
        let (verdict, kept) = judge_call(Call::Chat, 200, &[("x-request-id", KEY)], &body);
        assert_ne!(verdict.kind, Kind::Answer);
        assert!(!format!("{kept:?}").contains("secret"), "{kept:?}");
    }
    let key = ApiKey::new(KEY).unwrap();
    assert!(
        !body_as_json(body.as_bytes(), Some(&key))
            .to_string()
            .contains("secret")
    );
    let context = Context {
        call: Call::Chat,
        key: Some(&key),
    };
    let verdict = verdict_of_failure(Failure::NotConnected, &format!("to {KEY}\n"), &context);
    assert_eq!(verdict.message, "no connection: to …5678");
}

#[test]
fn a_key_that_is_cut_in_half_appears_in_no_text() {
    let half = &KEY[..10];
    for (padding, quote) in [(4_096, "<html>"), (16 * 1024, "")] {
        for body in [
            format!("{quote}{}{KEY}", " ".repeat(padding - quote.len() - 10)),
            format!(
                r#"{{"error": {{"message": "{}{KEY}"}}}}"#,
                " ".repeat(padding - 10)
            ),
        ] {
            let verdict = judge(500, &[], &body);
            assert!(!verdict.message.contains(half), "{verdict}");
        }
    }
}

#[test]
fn a_failed_call_is_charged_only_if_it_was_sent() {
    let context = Context {
        call: Call::Chat,
        key: None,
    };
    let reserved = Cost {
        requests: 1,
        tokens: 100,
    };
    for (failure, cost) in [
        (Failure::NotSent, Cost::default()),
        (Failure::HostNotFound, Cost::default()),
        (Failure::TlsFailed, Cost::default()),
        (Failure::NotConnected, Cost::default()),
        (Failure::TimedOut, reserved),
        (Failure::ConnectionLost, reserved),
        (Failure::AnswerCut, reserved),
        (Failure::NotHttp, reserved),
        (Failure::AnswerTooLong, reserved),
        (Failure::Abandoned, reserved),
    ] {
        let verdict = verdict_of_failure(failure, "m", &context);
        assert_eq!(verdict.cost(reserved), cost, "{failure:?}");
    }
    let used = judge(200, &[], r#"{"choices": [], "usage": {"total_tokens": 7}}"#);
    assert_eq!(
        used.cost(reserved),
        Cost {
            requests: 1,
            tokens: 7
        }
    );
    assert_eq!(
        judge(200, &[], r#"{"choices": []}"#).cost(reserved),
        reserved
    );
}

#[test]
fn what_would_stop_a_run_is_an_outage_once_calls_succeeded() {
    let context = Context {
        call: Call::Chat,
        key: None,
    };
    let no_host = verdict_of_failure(Failure::HostNotFound, "m", &context);
    assert_eq!(no_host.next_after_success(false), Next::Stop);
    let wait = Duration::ZERO;
    let again = |tally| Next::RetryAfter { wait, tally };
    assert_eq!(no_host.next_after_success(true), again(Tally::Free));
    assert_eq!(
        judge(404, &[], "").next_after_success(true),
        again(Tally::Attempt)
    );
    assert_eq!(judge(400, &[], "").next_after_success(true), Next::GiveUp);
}

#[test]
fn a_stream_is_judged_by_its_end() {
    let judged = |text: &str| {
        let mut stream = AnswerStream::new(Call::Chat);
        stream.feed(text.as_bytes()).unwrap();
        let context = Context {
            call: Call::Chat,
            key: None,
        };
        read_stream(
            StatusCode::OK,
            &HeaderMap::new(),
            stream.finish(),
            NOW,
            &context,
        )
        .0
    };
    let he = "data: {\"id\":\"c-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"he\"}}],\"usage\":{\"total_tokens\":9}}\n\n";
    let done = judged(&format!("{he}data: [DONE]\n\n"));
    assert_eq!(
        (done.kind, done.request_id.as_deref()),
        (Kind::Answer, Some("c-1"))
    );
    assert_eq!(done.usage.and_then(|usage| usage.total_tokens), Some(9));
    assert_eq!(judged(he).kind, Kind::CutAnswer);
    assert_eq!(judged("data: [DONE]\n\n").kind, Kind::EmptyAnswer);
    let error = "data: {\"error\":{\"message\":\"m\",\"type\":\"overloaded_error\"}}\n\n";
    let failed = judged(&format!("{he}{error}"));
    assert_eq!(
        (failed.kind, &*failed.message),
        (Kind::Overloaded, "status 200 (overloaded_error): m")
    );
    assert_eq!(failed.usage.and_then(|usage| usage.total_tokens), Some(9));
}

#[test]
fn a_body_is_kept_as_json_or_as_text() {
    assert_eq!(
        body_as_json(b"\xef\xbb\xbf{\"a\": NaN}", None),
        serde_json::json!({"a": null})
    );
    assert_eq!(body_as_json(b" <html> ", None), "<html>");
    assert_eq!(body_as_json(b"", None), Value::Null);
}
