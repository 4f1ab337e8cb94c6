//! 429 in the dialects of real services.

use super::{Properties, Scene};
use crate::openai::error::{ApiError, rate_limited};
use crate::reply::Reply;
use crate::text::{decimal_seconds, go_duration, http_date, rfc3339, whole_millis, whole_seconds};
use core::time::Duration;
use serde_json::json;

/// Error of the clock that a skewed date is written by.
const SKEW_SECONDS: u64 = 3_600;

const UNTOLD: Properties = Properties::FAILURE;
const TOLD: Properties = UNTOLD.telling_wait();

fault_table! {
    /// 429, in one of the dialects that tell when to come back.
    RateLimitFault {
        Seconds TOLD "429-seconds" "Retry-After in whole seconds, rounded up",
        Decimal TOLD "429-decimal" "Retry-After in seconds with decimals",
        Unit TOLD "429-unit" "Retry-After with a unit, such as 3s",
        Date TOLD "429-date" "Retry-After as an HTTP date",
        DateSkewed TOLD "429-date-skewed" "Retry-After and Date by a clock that is an hour ahead",
        Epoch TOLD "429-epoch" "Retry-After as seconds since 1970",
        Zero UNTOLD "429-zero" "Retry-After: 0",
        Garbage UNTOLD "429-garbage" "Retry-After: soon",
        Millis TOLD "429-ms" "retry-after-ms, and a Retry-After that is longer",
        XMillis TOLD "429-x-ms" "x-ms-retry-after-ms, as Azure has it",
        ResetDuration TOLD "429-reset-duration" "x-ratelimit-reset-requests such as 1m2.5s; 0 requests remain",
        ResetTokens TOLD "429-reset-tokens" "x-ratelimit-reset-tokens; 0 tokens remain, requests reset later",
        ResetSeconds TOLD "429-reset-seconds" "x-ratelimit-reset in seconds",
        ResetEpoch TOLD "429-reset-epoch" "x-ratelimit-reset as seconds since 1970",
        ResetEpochMillis TOLD "429-reset-epoch-ms" "x-ratelimit-reset as milliseconds since 1970",
        ResetIso TOLD "429-reset-iso" "x-rate-limit-reset as an RFC 3339 time",
        RateLimitHeader TOLD "429-ietf" "RateLimit and RateLimit-Policy, as in the IETF draft",
        Anthropic TOLD "429-anthropic" "anthropic-ratelimit-requests-reset, and Anthropic's error body",
        Google TOLD "429-google" "RetryInfo.retryDelay in Google's error body",
        Azure TOLD "429-azure" "Retry-After, remaining -1, and Azure's error body",
        Message TOLD "429-message" "only the message tells: try again in 3.2s",
        Untold UNTOLD "429-untold" "nothing tells when to come back",
        Text UNTOLD "429-text" "plain text, nothing tells when to come back",
        Html UNTOLD "429-html" "an HTML page by nginx, nothing tells when to come back",
        ShouldRetry UNTOLD "429-should-retry" "x-should-retry: true, nothing else",
        ShouldNotRetry TOLD "429-should-not-retry" "x-should-retry: false, with a Retry-After",
    }
}

impl RateLimitFault {
    pub(super) fn reply(self, scene: &Scene<'_>) -> Reply {
        let (form, wait) = (scene.form(), scene.times.wait);
        let seconds = whole_seconds(wait);
        let at = unix_seconds(scene.now + wait);
        let plain = || limited(scene, "").reply(form);
        let retry_after = |value: String| plain().header("retry-after", value);
        let reset = |value: String| {
            plain()
                .header("x-ratelimit-limit", 3)
                .header("x-ratelimit-remaining", 0)
                .header("x-ratelimit-reset", value)
        };
        match self {
            Self::Seconds => retry_after(seconds.to_string()),
            Self::Decimal => retry_after(decimal_seconds(wait)),
            Self::Unit => retry_after(go_duration(wait)),
            Self::Date => retry_after(http_date(at)).header("date", http_date(scene.now.as_secs())),
            Self::DateSkewed => retry_after(http_date(at + SKEW_SECONDS))
                .header("date", http_date(scene.now.as_secs() + SKEW_SECONDS)),
            Self::Epoch => retry_after(at.to_string()),
            Self::Zero => retry_after("0".to_owned()),
            Self::Garbage => retry_after("soon".to_owned()),
            Self::Millis => {
                retry_after((seconds + 1).to_string()).header("retry-after-ms", whole_millis(wait))
            }
            Self::XMillis => plain().header("x-ms-retry-after-ms", whole_millis(wait)),
            Self::ResetDuration => resets(plain(), [0, 39_990], wait, Duration::from_millis(12)),
            Self::ResetTokens => resets(plain(), [1, 0], wait * 10, wait),
            Self::ResetSeconds => reset(seconds.to_string()),
            Self::ResetEpoch => reset(at.to_string()),
            Self::ResetEpochMillis => reset(whole_millis(scene.now + wait).to_string()),
            Self::ResetIso => plain()
                .header("x-rate-limit-remaining", 0)
                .header("x-rate-limit-reset", rfc3339(at)),
            Self::RateLimitHeader => plain()
                .header("ratelimit", format_args!("\"default\";r=0;t={seconds}"))
                .header("ratelimit-policy", "\"default\";q=3;w=60"),
            Self::Anthropic => anthropic(at),
            Self::Google => google(wait),
            Self::Azure => azure(seconds),
            Self::Message => {
                let hint = format!(" Please try again in {}.", go_duration(wait));
                limited(scene, &hint).reply(form)
            }
            Self::Untold => plain(),
            Self::Text => Reply::text(429, "Too Many Requests"),
            Self::Html => Reply::nginx(429),
            Self::ShouldRetry => plain().header("x-should-retry", "true"),
            Self::ShouldNotRetry => {
                retry_after(seconds.to_string()).header("x-should-retry", "false")
            }
        }
    }
}

fn limited(scene: &Scene<'_>, hint: &str) -> ApiError {
    let model = scene.model();
    rate_limited(format!(
        "Rate limit reached for {model} in organization org-testbed on requests per min.{hint}"
    ))
}

/// Sets what remains and when it resets, of requests and tokens.
fn resets(reply: Reply, remaining: [u64; 2], requests: Duration, tokens: Duration) -> Reply {
    reply
        .header("x-ratelimit-limit-requests", 3)
        .header("x-ratelimit-limit-tokens", 40_000)
        .header("x-ratelimit-remaining-requests", remaining[0])
        .header("x-ratelimit-remaining-tokens", remaining[1])
        .header("x-ratelimit-reset-requests", go_duration(requests))
        .header("x-ratelimit-reset-tokens", go_duration(tokens))
}

fn anthropic(at: u64) -> Reply {
    let body = json!({
        "type": "error",
        "error": {
            "type": "rate_limit_error",
            "message": "This request would exceed your organization's rate limit.",
        },
        "request_id": "req_testbed",
    });
    Reply::json(429, &body)
        .header("anthropic-ratelimit-requests-limit", 50)
        .header("anthropic-ratelimit-requests-remaining", 0)
        .header("anthropic-ratelimit-requests-reset", rfc3339(at))
        .header("anthropic-ratelimit-input-tokens-limit", 40_000)
        .header("anthropic-ratelimit-input-tokens-remaining", 39_000)
        .header("anthropic-ratelimit-input-tokens-reset", rfc3339(at + 60))
}

fn google(wait: Duration) -> Reply {
    let delay = decimal_seconds(wait);
    let delay = delay.trim_end_matches('0').trim_end_matches('.');
    let body = json!({
        "error": {
            "code": 429,
            "message": "You exceeded your current rate. Please retry later.",
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [{ "quotaId": "GenerateRequestsPerMinutePerProject" }],
                },
                {
                    "@type": "type.googleapis.com/google.rpc.RetryInfo",
                    "retryDelay": format!("{delay}s"),
                },
            ],
        },
    });
    Reply::json(429, &body)
}

fn azure(seconds: u128) -> Reply {
    let message = format!(
        "Requests to the ChatCompletions_Create Operation have exceeded call rate limit of your \
         current pricing tier. Please retry after {seconds} seconds."
    );
    Reply::json(
        429,
        &json!({ "error": { "code": "429", "message": message } }),
    )
    .header("retry-after", seconds)
    .header("x-ratelimit-remaining-requests", -1)
    .header("x-ratelimit-remaining-tokens", -1)
}

/// Whole seconds, rounded up.
const fn unix_seconds(time: Duration) -> u64 {
    time.as_secs() + (time.subsec_nanos() > 0) as u64
}
