//! Refusals, disguised failures and odd shapes: the bytes of each are what its name says.

use super::*;
use crate::clock::unix_now;
use crate::text::{http_date, rfc3339};
use std::io::Cursor;

const WAIT: Duration = Duration::from_millis(2_500);

/// A server, and the reply to one call with each fault.
struct Faults {
    server: OpenAi,
    client: Client,
}

impl Faults {
    fn new() -> Self {
        let server = OpenAi::start(OpenAiConfig {
            fault_wait: WAIT,
            limit: NonZeroU32::new(1_000),
            ..config()
        })
        .unwrap();
        let client = Client::new(&server);
        Self { server, client }
    }

    fn ask(&mut self, fault: Fault) -> Reply {
        self.server.control().script([fault]);
        let reply = self.client.chat(&call());
        assert_eq!(reply.end, End::Whole);
        reply
    }

    /// Checks that as many calls failed, and that all had one connection.
    fn stop(self, faults: usize) {
        let report = self.server.stop();
        assert_eq!(
            (report.faults, report.connections_opened),
            (faults as u64, 1)
        );
    }
}

/// Whether a header is a text that `write` makes of a time between `since` and now, plus `WAIT`.
fn is_time(value: &str, since: Duration, offset: u64, write: impl Fn(u64) -> String) -> bool {
    let second =
        |time: Duration| (time + WAIT + Duration::from_nanos(999_999_999)).as_secs() + offset;
    (second(since)..=second(unix_now())).any(|at| write(at) == value)
}

#[test]
fn each_dialect_of_429_tells_the_wait_its_own_way() {
    let mut faults = Faults::new();
    for (kind, name, _) in RateLimitFault::TABLE {
        let since = unix_now();
        let reply = faults.ask(Fault::RateLimit(*kind));
        assert_eq!(reply.status, 429, "{name}");
        check_wait(*kind, &reply, since);
        let message = String::from_utf8_lossy(&reply.body).contains("try again in");
        assert_eq!(message, *kind == RateLimitFault::Message, "{name}");
        let told = reply.head.contains("retry-after") || reply.head.contains("reset");
        let silent = matches!(
            kind,
            RateLimitFault::RateLimitHeader
                | RateLimitFault::Google
                | RateLimitFault::Message
                | RateLimitFault::Untold
                | RateLimitFault::Text
                | RateLimitFault::Html
                | RateLimitFault::ShouldRetry
        );
        assert_eq!(told, !silent, "{name}: {}", reply.head);
    }
    faults.stop(RateLimitFault::TABLE.len());
}

/// Checks that both dates are of the same clock, an hour ahead.
fn check_skewed(reply: &Reply, since: Duration) {
    let retry_after = reply.header("retry-after").unwrap();
    assert!(is_time(retry_after, since, 3_600, http_date));
    let date = reply.header("date").unwrap();
    let now = unix_now().as_secs() + 3_600;
    assert!((now - 2..=now).any(|at| http_date(at) == date), "{date}");
    assert_eq!(reply.head.matches("date:").count(), 1);
}

fn check_wait(kind: RateLimitFault, reply: &Reply, since: Duration) {
    let is = |name: &str, value: &str| assert_eq!(reply.header(name), Some(value), "{kind:?}");
    let retry_after = || reply.header("retry-after").unwrap();
    let json_type = || is("content-type", "application/json");
    match kind {
        RateLimitFault::Seconds => is("retry-after", "3"),
        RateLimitFault::Decimal => is("retry-after", "2.500"),
        RateLimitFault::Unit => is("retry-after", "2.5s"),
        RateLimitFault::Date => assert!(is_time(retry_after(), since, 0, http_date)),
        RateLimitFault::DateSkewed => check_skewed(reply, since),
        RateLimitFault::Epoch => assert!(is_time(retry_after(), since, 0, |at| at.to_string())),
        RateLimitFault::Zero => is("retry-after", "0"),
        RateLimitFault::Garbage => is("retry-after", "soon"),
        RateLimitFault::Millis => {
            is("retry-after-ms", "2500");
            is("retry-after", "4");
        }
        RateLimitFault::XMillis => is("x-ms-retry-after-ms", "2500"),
        RateLimitFault::ResetDuration => {
            is("x-ratelimit-remaining-requests", "0");
            is("x-ratelimit-reset-requests", "2.5s");
            is("x-ratelimit-reset-tokens", "12ms");
        }
        RateLimitFault::ResetTokens => {
            is("x-ratelimit-remaining-tokens", "0");
            is("x-ratelimit-reset-tokens", "2.5s");
            is("x-ratelimit-reset-requests", "25s");
        }
        RateLimitFault::ResetSeconds => is("x-ratelimit-reset", "3"),
        RateLimitFault::ResetEpoch => {
            let value = reply.header("x-ratelimit-reset").unwrap();
            assert!(is_time(value, since, 0, |at| at.to_string()));
        }
        RateLimitFault::ResetEpochMillis => {
            let at = u128::from(reply.number("x-ratelimit-reset"));
            let millis = |time: Duration| (time + WAIT).as_millis();
            assert!(
                (millis(since)..=millis(unix_now()) + 1).contains(&at),
                "{at}"
            );
        }
        RateLimitFault::ResetIso => {
            let value = reply.header("x-rate-limit-reset").unwrap();
            assert!(is_time(value, since, 0, rfc3339));
        }
        RateLimitFault::RateLimitHeader => is("ratelimit", "\"default\";r=0;t=3"),
        RateLimitFault::Anthropic => {
            let value = reply.header("anthropic-ratelimit-requests-reset").unwrap();
            assert!(is_time(value, since, 0, rfc3339));
            assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
        }
        RateLimitFault::Google => {
            assert_eq!(reply.json()["error"]["details"][1]["retryDelay"], "2.5s");
        }
        RateLimitFault::Azure => {
            is("retry-after", "3");
            is("x-ratelimit-remaining-requests", "-1");
            assert_eq!(reply.json()["error"]["code"], "429");
        }
        RateLimitFault::Message => assert!(reply.text().contains("Please try again in 2.5s.")),
        RateLimitFault::Untold => json_type(),
        RateLimitFault::Text => assert_eq!(reply.text(), "Too Many Requests"),
        RateLimitFault::Html => assert!(reply.text().contains("<h1>429 Too Many Requests</h1>")),
        RateLimitFault::ShouldRetry => is("x-should-retry", "true"),
        RateLimitFault::ShouldNotRetry => {
            is("x-should-retry", "false");
            is("retry-after", "3");
        }
    }
}

#[test]
fn each_refusal_of_a_key_has_its_status_and_code() {
    let mut faults = Faults::new();
    for (kind, name, _) in KeyFault::TABLE {
        let reply = faults.ask(Fault::Key(*kind));
        let (status, words) = match kind {
            KeyFault::Quota => (429, "\"code\":\"insufficient_quota\""),
            KeyFault::QuotaForbidden => (403, "\"code\":\"insufficient_quota\""),
            KeyFault::QuotaPayment => (402, "\"code\":402"),
            KeyFault::Billing => (429, "\"code\":\"billing_hard_limit_reached\""),
            KeyFault::BillingBadRequest => (400, "\"code\":\"billing_hard_limit_reached\""),
            KeyFault::BillingInactive => (429, "\"code\":\"billing_not_active\""),
            KeyFault::BillingAnthropic => (400, "credit balance is too low"),
            KeyFault::Invalid => (401, "\"code\":\"invalid_api_key\""),
            KeyFault::Deactivated => (401, "\"code\":\"account_deactivated\""),
            KeyFault::InvalidAzure => (401, "\"code\":\"401\""),
            KeyFault::Forbidden => (403, "\"code\":null"),
            KeyFault::Country => (403, "\"code\":\"unsupported_country_region_territory\""),
            KeyFault::Challenge => (403, "<title>Just a moment...</title>"),
        };
        assert_eq!(reply.status, status, "{name}");
        assert!(reply.text().contains(words), "{name}: {}", reply.text());
        let foreign = *kind == KeyFault::Challenge;
        assert_eq!(reply.header("x-request-id").is_none(), foreign, "{name}");
    }
    faults.stop(KeyFault::TABLE.len());
}

#[test]
fn each_refusal_of_a_request_has_its_status_and_code() {
    let mut faults = Faults::new();
    for (kind, name, _) in RequestFault::TABLE {
        let reply = faults.ask(Fault::Request(*kind));
        let (status, words) = match kind {
            RequestFault::TooLargeForLimit => (429, "Request too large for gpt-test"),
            RequestFault::ContextLength => (400, "\"code\":\"context_length_exceeded\""),
            RequestFault::ContentFilter => (400, "\"code\":\"content_filter\""),
            RequestFault::Bad => (400, "\"code\":null"),
            RequestFault::BadParameter => (400, "Use 'max_completion_tokens' instead."),
            RequestFault::BadText => (400, "Bad Request"),
            RequestFault::Unprocessable => (422, "\"code\":null"),
            RequestFault::BodyTooLarge => (413, "<h1>413 Request Entity Too Large</h1>"),
            RequestFault::Model => (404, "\"code\":\"model_not_found\""),
            RequestFault::Url => (404, "\"code\":\"unknown_url\""),
            RequestFault::UrlHtml => (404, "<center>nginx/"),
            RequestFault::UrlEmpty => (404, ""),
            RequestFault::Method => (405, "\"code\":\"method_not_supported\""),
            RequestFault::Conflict => (409, "\"code\":null"),
            RequestFault::Redirect => (308, ""),
            RequestFault::RedirectLogin => (302, "<a href="),
        };
        assert_eq!(reply.status, status, "{name}");
        assert!(reply.text().contains(words), "{name}: {}", reply.text());
        assert_eq!(reply.body.is_empty(), words.is_empty(), "{name}");
        let leads_on = matches!(kind, RequestFault::Redirect | RequestFault::RedirectLogin);
        assert_eq!(reply.header("location").is_some(), leads_on, "{name}");
    }
    faults.stop(RequestFault::TABLE.len());
}

#[test]
fn each_overload_has_its_status_and_sender() {
    let mut faults = Faults::new();
    for (kind, name, _) in OverloadFault::TABLE {
        let reply = faults.ask(Fault::Overload(*kind));
        let (status, server, words) = match kind {
            OverloadFault::RequestTimeout => (408, None, "\"code\":null"),
            OverloadFault::ServerError => (500, None, "\"type\":\"server_error\""),
            OverloadFault::BadGateway => (502, Some("nginx/1.27.3"), "502 Bad Gateway"),
            OverloadFault::Unavailable => (503, None, "currently overloaded"),
            OverloadFault::UnavailableRetryAfter => (503, None, "currently overloaded"),
            OverloadFault::UnavailableNginx => {
                (503, Some("nginx/1.27.3"), "503 Service Unavailable")
            }
            OverloadFault::UnavailableText => (503, Some("envoy"), "upstream connect error"),
            OverloadFault::UnavailableEmpty => (503, None, ""),
            OverloadFault::GatewayTimeout => (504, Some("nginx/1.27.3"), "504 Gateway Timeout"),
            OverloadFault::Overloaded => (529, None, "\"type\":\"overloaded_error\""),
            OverloadFault::Unknown => (520, Some("cloudflare"), "unknown error"),
            OverloadFault::Down => (521, Some("cloudflare"), "Web server is down"),
            OverloadFault::ConnectTimeout => (522, Some("cloudflare"), "Connection timed out"),
            OverloadFault::Unreachable => (523, Some("cloudflare"), "Origin is unreachable"),
            OverloadFault::Timeout => (524, Some("cloudflare"), "A timeout occurred"),
            OverloadFault::UnknownText => (520, Some("cloudflare"), "error code: 520"),
        };
        assert_eq!(
            (reply.status, reply.header("server")),
            (status, server),
            "{name}"
        );
        assert!(reply.text().contains(words), "{name}: {}", reply.text());
        let told = *kind == OverloadFault::UnavailableRetryAfter;
        assert_eq!(reply.header("retry-after"), told.then_some("3"), "{name}");
    }
    let reply = faults.ask(Fault::Status(507));
    assert_eq!(
        (reply.status, &reply.json()["error"]["type"]),
        (507, &json!("server_error"))
    );
    faults.stop(OverloadFault::TABLE.len() + 1);
}

#[test]
fn each_disguised_failure_is_status_200_without_an_answer() {
    let mut faults = Faults::new();
    for (kind, name, _) in DisguiseFault::TABLE {
        let reply = faults.ask(Fault::Disguise(*kind));
        assert_eq!(reply.status, 200, "{name}");
        let json = serde_json::from_slice::<Value>(&reply.body).ok();
        let json = |path: &str| json.as_ref().and_then(|json| json.pointer(path)).cloned();
        let is = |path, value| assert_eq!(json(path), Some(value), "{name}");
        match kind {
            DisguiseFault::Error => is("/error/code", json!(502)),
            DisguiseFault::ErrorRate => is("/error/code", json!(429)),
            DisguiseFault::ErrorString => is("/error", json!("upstream timed out")),
            DisguiseFault::ErrorChoice => is("/choices/0/error/code", json!(502)),
            DisguiseFault::NoChoices => is("/choices", json!([])),
            DisguiseFault::NoMessage => is("/choices/0", json!({ "index": 0 })),
            DisguiseFault::Null => is("", Value::Null),
            DisguiseFault::List => is("/0/object", json!("chat.completion")),
            DisguiseFault::Html => {
                assert_eq!(reply.header("server"), Some("squid/6.6"));
                assert!(reply.text().starts_with("<!DOCTYPE html>"));
            }
            DisguiseFault::Text => assert_eq!(reply.text(), "OK"),
            DisguiseFault::Empty => assert_eq!(reply.header("content-length"), Some("0")),
            DisguiseFault::CutJson => assert!(json("").is_none() && reply.text().contains("echo")),
            DisguiseFault::CutGzip => {
                assert_eq!(reply.header("content-encoding"), Some("gzip"));
                let mut gzip = flate2::read::GzDecoder::new(reply.body.as_slice());
                assert!(gzip.read_to_end(&mut Vec::new()).is_err());
            }
        }
    }
    faults.stop(DisguiseFault::TABLE.len());
}

#[test]
fn each_shape_is_a_whole_answer_in_json() {
    let mut faults = Faults::new();
    for (kind, name, _) in ShapeFault::TABLE {
        let reply = faults.ask(Fault::Shape(*kind));
        assert_eq!(reply.status, 200, "{name}");
        check_shape(*kind, &reply.json());
    }
    faults.stop(0);
}

fn check_shape(kind: ShapeFault, body: &Value) {
    let choice = &body["choices"][0];
    let message = &choice["message"];
    let content = || message["content"].as_str().unwrap();
    let usage = |name: &str| body["usage"][name].clone();
    match kind {
        ShapeFault::ContentNull => assert_eq!(message.get("content"), Some(&Value::Null)),
        ShapeFault::ContentEmpty => assert_eq!(content(), ""),
        ShapeFault::ContentMissing => assert_eq!(message.get("content"), None),
        ShapeFault::ContentParts => {
            assert_eq!(
                message["content"][0],
                json!({ "type": "text", "text": "echo" })
            );
            assert_eq!(message["content"].as_array().unwrap().len(), 2);
        }
        ShapeFault::ToolCalls => assert_eq!(message["tool_calls"][0]["function"]["name"], "f"),
        ShapeFault::FunctionCall => assert_eq!(message["function_call"]["name"], "f"),
        ShapeFault::Refusal => {
            assert!(message["refusal"].is_string() && message["content"].is_null())
        }
        ShapeFault::Filtered => assert_eq!(choice["finish_reason"], "content_filter"),
        ShapeFault::Cut => assert_eq!(choice["finish_reason"], "length"),
        ShapeFault::FinishNull => assert_eq!(choice["finish_reason"], Value::Null),
        ShapeFault::FinishUnknown => assert_eq!(choice["finish_reason"], "eos"),
        ShapeFault::Reasoning => assert_eq!(message["reasoning_content"], "First I think."),
        ShapeFault::ReasoningDetails => {
            assert_eq!(message["reasoning_details"][0]["text"], "First I think.");
        }
        ShapeFault::ThinkTags => assert!(content().starts_with("<think>\n")),
        ShapeFault::UsageNone => assert_eq!(body.get("usage"), None),
        ShapeFault::UsageNull => assert_eq!(body.get("usage"), Some(&Value::Null)),
        ShapeFault::UsageFloat => assert_eq!(usage("total_tokens").to_string(), "7.0"),
        ShapeFault::UsageText => assert_eq!(usage("total_tokens"), "7"),
        ShapeFault::UsageZero => assert_eq!(usage("total_tokens"), 0),
        ShapeFault::UsagePartial => assert_eq!(body["usage"], json!({ "total_tokens": 7 })),
        ShapeFault::UsageExtra => assert!(usage("cost").is_f64()),
        ShapeFault::Minimal => assert_eq!(body.as_object().unwrap().len(), 1),
        ShapeFault::Nulls => assert!(body["id"].is_null() && body["model"].is_null()),
        ShapeFault::Extra => {
            assert!(message["x_unknown"].is_object() && body["x_unknown"].is_object())
        }
        ShapeFault::FloatTimes => assert!(body["created"].is_f64()),
        ShapeFault::Long => assert!(content().len() > 1_000_000),
        ShapeFault::OddCharacters => assert!(content().starts_with("\0\u{1}\u{1b}")),
    }
}

#[test]
fn each_kind_of_bytes_hides_the_same_answer() {
    let mut faults = Faults::new();
    for (kind, name, _) in BytesFault::TABLE {
        let reply = faults.ask(Fault::Bytes(*kind));
        assert_eq!(reply.status, 200, "{name}");
        check_bytes(*kind, &reply);
    }
    faults.stop(0);
}

/// Whether the bytes are the JSON of an answer.
fn is_answer(bytes: &[u8]) -> bool {
    let body: Value = serde_json::from_slice(bytes).unwrap();
    let content = body["choices"][0]["message"]["content"].as_str().unwrap();
    content.ends_with("hello there")
}

fn decoded(mut decoder: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    decoder.read_to_end(&mut bytes).unwrap();
    bytes
}

fn check_bytes(kind: BytesFault, reply: &Reply) {
    let body = Cursor::new(reply.body.clone());
    let encoding = reply.header("content-encoding");
    let gunzip = |body| decoded(flate2::read::GzDecoder::new(body));
    let lossy = String::from_utf8_lossy(&reply.body);
    let is_json = serde_json::from_slice::<Value>(&reply.body).is_ok();
    match kind {
        BytesFault::Gzip => assert!(encoding == Some("gzip") && is_answer(&gunzip(body))),
        BytesFault::XGzip => assert!(encoding == Some("X-GZIP") && is_answer(&gunzip(body))),
        BytesFault::GzipUnlabelled => assert!(encoding.is_none() && is_answer(&gunzip(body))),
        BytesFault::GzipTwice => {
            assert_eq!(encoding, Some("gzip, gzip"));
            assert!(is_answer(&gunzip(Cursor::new(gunzip(body)))));
        }
        BytesFault::Deflate => {
            assert_eq!(encoding, Some("deflate"));
            assert!(is_answer(&decoded(flate2::read::ZlibDecoder::new(body))));
        }
        BytesFault::DeflateRaw => {
            assert_eq!(encoding, Some("deflate"));
            assert!(is_answer(&decoded(flate2::read::DeflateDecoder::new(body))));
        }
        BytesFault::Brotli => {
            assert_eq!(encoding, Some("br"));
            let decoder = brotli_decompressor::Decompressor::new(body, 4_096);
            assert!(is_answer(&decoded(decoder)));
        }
        BytesFault::GzipBomb => {
            assert!(reply.body.len() < 200_000);
            assert!(gunzip(body).len() > 64 << 20);
        }
        BytesFault::Events => {
            assert!(reply.head.contains("text/event-stream"));
            assert!(content(&chunks(&reply.body)).ends_with("hello there"));
        }
        BytesFault::Bom => {
            assert!(!is_json && is_answer(reply.body.strip_prefix(b"\xef\xbb\xbf").unwrap()))
        }
        BytesFault::Padding => assert!(lossy.starts_with("\r\n\n") && is_answer(&reply.body)),
        BytesFault::PaddingLong => assert!(reply.body.len() > 1 << 20 && is_answer(&reply.body)),
        BytesFault::Trailing => assert!(!is_json && lossy.ends_with("-->\n")),
        BytesFault::Control => assert!(!is_json && reply.body.contains(&1)),
        BytesFault::Surrogate => assert!(!is_json && lossy.contains("\\ud83d echo")),
        BytesFault::BadUtf8 => assert!(core::str::from_utf8(&reply.body).is_err()),
        BytesFault::Latin1 => {
            let is_latin =
                reply.header("content-type") == Some("application/json; charset=iso-8859-1");
            assert!(is_latin && reply.body.windows(3).any(|bytes| bytes == b"d\xe9j"));
        }
        BytesFault::NotANumber => assert!(!is_json && lossy.contains(":NaN,")),
        BytesFault::Deep => assert!(lossy.contains(&"[".repeat(300))),
        BytesFault::Deeper => assert!(lossy.contains(&"]".repeat(100_000))),
        BytesFault::HugeIntegers => assert!(lossy.contains("123456789012345678901234567890")),
        BytesFault::Duplicate => assert_eq!(lossy.matches("\"id\":").count(), 2),
        BytesFault::TypeText => {
            assert!(reply.head.contains("text/plain") && is_answer(&reply.body))
        }
        BytesFault::TypeEvents => {
            assert!(reply.head.contains("text/event-stream") && is_answer(&reply.body));
        }
        BytesFault::TypeNone => {
            assert!(reply.header("content-type").is_none() && is_answer(&reply.body))
        }
        BytesFault::Chunked => {
            assert!(reply.chunks.len() > 50 && reply.chunks.iter().all(|chunk| chunk.len() <= 7));
            assert!(is_answer(&reply.body));
        }
    }
}

#[test]
fn refusals_and_shapes_apply_to_responses_and_embeddings_too() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let body = json!({ "model": "m", "input": "hello there" }).to_string();
    for path in ["/v1/responses", "/v1/embeddings"] {
        let mut ask = |name: &str| {
            server.control().set_faults(vec![name.parse().unwrap()]);
            client.ask("POST", path, KEY, &body)
        };
        assert_eq!(ask("429-google").status, 429, "{path}");
        assert_eq!(ask("usage-null").json()["usage"], Value::Null, "{path}");
        assert_eq!(
            ask("gzip").header("content-encoding"),
            Some("gzip"),
            "{path}"
        );
        assert!(
            ask("content-null").json()["usage"].is_object(),
            "{path}: it is for chats"
        );
    }
    let mut ask = |name: &str| {
        server.control().set_faults(vec![name.parse().unwrap()]);
        client.ask("POST", "/v1/responses", KEY, &body)
    };
    assert_eq!(ask("error-200-choice").json()["status"], "failed");
    assert_eq!(ask("no-choices").json()["output"], json!([]));
    assert!(
        String::from_utf8(ask("lone-surrogate").body)
            .unwrap()
            .contains("\\ud83d ")
    );
}
