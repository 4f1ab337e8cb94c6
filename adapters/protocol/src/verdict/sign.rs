//! What a body says, as far as a verdict depends on it.
//!
//! Invariant: a phrase decides only where a service puts it, at the start of its message, so that a prompt that is
//! echoed in an error can't have a key rejected. Names of errors are compared whole.

use crate::error_body::ErrorBody;
use crate::wait;
use core::fmt;

/// What a body says. The first sign that fits is the body's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sign {
    /// An answer.
    Answer,
    /// An answer without content.
    Empty,
    /// A body that ends early.
    Cut,
    /// A body of another shape.
    Untyped,
    /// A page.
    Page,
    /// A quota or a credit is used up.
    Quota,
    /// The key is wrong.
    Key,
    /// The request is larger than the limit.
    TooLarge,
    /// The service is overloaded.
    Overload,
    /// A rate limit.
    Rate,
    /// The model is unknown.
    Model,
    /// The prompt is too long for the model.
    Context,
    /// The content is against the rules.
    Policy,
    /// Nothing known.
    Other,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answer => "an answer",
            Self::Empty => "nothing, or no choices",
            Self::Cut => "JSON or a stream that ends early",
            Self::Untyped => "JSON or text of another shape",
            Self::Page => "a page of a proxy",
            Self::Quota => "quota or credit used up",
            Self::Key => "key invalid",
            Self::TooLarge => "larger than the limit",
            Self::Overload => "overloaded",
            Self::Rate => "rate limited",
            Self::Model => "model unknown",
            Self::Context => "prompt too long",
            Self::Policy => "content refused",
            Self::Other => "anything",
        })
    }
}

const QUOTA: [&str; 15] = [
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "billing_error",
    "insufficient_balance",
    "insufficient_credits",
    "insufficient_funds",
    "exceeded_current_quota_error",
    "credits_exhausted",
    "out_of_credits",
    "payment_required",
    "arrearage",
    "accountoverdue",
    "access_terminated",
    "account_deactivated",
];
const QUOTA_PHRASES: [&str; 7] = [
    "billing hard limit",
    "your credit balance is too low",
    "insufficient balance",
    "insufficient credits",
    "insufficient_quota",
    "you have run out of credits",
    "this organization has been disabled",
];
const KEY: [&str; 10] = [
    "invalid_api_key",
    "api_key_invalid",
    "api_key_expired",
    "incorrect_api_key",
    "invalid_authentication",
    "invalid_authentication_error",
    "authentication_error",
    "key_revoked",
    "unauthenticated",
    "invalid_iam_token",
];
const KEY_PHRASES: [&str; 5] = [
    "invalid api key",
    "incorrect api key",
    "api key not valid",
    "api key expired",
    "invalid x-api-key",
];
const RATE: [&str; 12] = [
    "rate_limit_exceeded",
    "rate_limit_error",
    "rate_limit_reached",
    "rate_limit_reached_error",
    "rate_limited",
    "ratelimitreached",
    "ratelimited",
    "too_many_requests",
    "toomanyrequests",
    "throttlingexception",
    "throttling",
    "resource_exhausted",
];
const OVERLOAD: [&str; 13] = [
    "overloaded_error",
    "overloaded",
    "server_overloaded",
    "engine_overloaded",
    "engine_overloaded_error",
    "model_overloaded",
    "service_unavailable",
    "service_unavailable_error",
    "serviceunavailableexception",
    "modelnotreadyexception",
    "unavailable",
    "capacity_exceeded",
    "slow_down",
];
const OVERLOAD_PHRASES: [&str; 6] = [
    "overloaded",
    "the server is overloaded",
    "the engine is currently overloaded",
    "that model is currently overloaded",
    "no healthy upstream",
    "upstream connect error",
];
const MODEL: [&str; 8] = [
    "model_not_found",
    "model_not_available",
    "model_not_supported",
    "invalid_model",
    "unknown_model",
    "modelnotfound",
    "model_not_exist",
    "deploymentnotfound",
];
const CONTEXT: [&str; 3] = [
    "context_length_exceeded",
    "string_above_max_length",
    "context_window_exceeded",
];
const CONTEXT_PHRASES: [&str; 3] = [
    "this model's maximum context length",
    "prompt is too long",
    "input is too long",
];
const POLICY: [&str; 6] = [
    "content_filter",
    "content_policy_violation",
    "moderation_blocked",
    "responsibleaipolicyviolation",
    "data_inspection_failed",
    "prompt_blocked",
];

impl Sign {
    /// Reads the sign of an error.
    pub(super) fn of_error(error: &ErrorBody) -> Self {
        let message = error.message.trim_start().to_ascii_lowercase();
        let message = message.strip_prefix("error: ").unwrap_or(&message);
        let names: Vec<String> = error.names().collect();
        let named = |list: &[&str]| names.iter().any(|name| list.contains(&&**name));
        let starts = |list: &[&str]| list.iter().any(|phrase| message.starts_with(phrase));
        // Google says "exceeded your current quota" of a limit that opens again, and says when.
        let opens_again = error.retry_delay.is_some()
            || named(&["resource_exhausted"])
            || wait::wait_in_message(message).is_some();
        let quota_or_rate = message.starts_with("you exceeded your current quota") && !opens_again;
        if named(&QUOTA) || starts(&QUOTA_PHRASES) || quota_or_rate {
            Self::Quota
        } else if named(&KEY) || starts(&KEY_PHRASES) {
            Self::Key
        } else if named(&["tokens_limit_reached"])
            || message.starts_with("request too large for")
            || too_large(message).is_some()
        {
            Self::TooLarge
        } else if named(&OVERLOAD) || starts(&OVERLOAD_PHRASES) {
            Self::Overload
        } else if named(&RATE) {
            Self::Rate
        } else if named(&MODEL) || names_model(message) {
            Self::Model
        } else if named(&CONTEXT) || starts(&CONTEXT_PHRASES) {
            Self::Context
        } else if named(&POLICY) {
            Self::Policy
        } else {
            Self::Other
        }
    }
}

/// Whether a message in lower case says that a model is unknown.
fn names_model(message: &str) -> bool {
    let about_model = [
        "the model",
        "model `",
        "model '",
        "model \"",
        "model:",
        "model not",
        "no such model",
        "invalid model",
        "unknown model",
    ];
    let unknown = [
        "does not exist",
        "doesn't exist",
        "not found",
        "no such model",
        "invalid model",
        "unknown model",
    ];
    let is_id_alone = message
        .strip_prefix("model: ")
        .is_some_and(|id| !id.contains(' '));
    is_id_alone
        || (about_model.iter().any(|phrase| message.starts_with(phrase))
            && unknown.iter().any(|phrase| message.contains(phrase)))
        || message.ends_with("is not a valid model id")
}

/// Returns the limit and the request of a message that says both, if the request is larger.
///
/// `Limit 30000, Requested 36055` is such a message; with `Used 29000` between, the limit may still open.
pub(super) fn too_large(message: &str) -> Option<(u64, u64)> {
    let lower = message.to_ascii_lowercase();
    let number_after = |word: &str| {
        // The last one: the words before it may be those of a sentence.
        let (_, after) = lower.rsplit_once(word)?;
        let after = after.trim_start_matches([' ', ':', '=']);
        let end = after
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(after.len());
        after[..end].parse::<u64>().ok()
    };
    let (limit, requested) = (number_after("limit")?, number_after("requested")?);
    (requested > limit).then_some((limit, requested))
}

/// Statuses of the types that an error without a status may have, as the services document them.
const STATUSES: [(&str, u16); 20] = [
    ("invalid_request_error", 400),
    ("bad_request", 400),
    ("authentication_error", 401),
    ("invalid_api_key", 401),
    ("billing_error", 402),
    ("permission_error", 403),
    ("permission_denied", 403),
    ("not_found_error", 404),
    ("model_not_found", 404),
    ("request_too_large", 413),
    ("rate_limit_error", 429),
    ("rate_limit_exceeded", 429),
    ("insufficient_quota", 429),
    ("resource_exhausted", 429),
    ("server_error", 500),
    ("api_error", 500),
    ("internal_server_error", 500),
    ("service_unavailable", 503),
    ("timeout_error", 504),
    ("overloaded_error", 529),
];

/// Returns the status of an error that came with status success; 500 if it names none.
pub(super) fn status_of(error: &ErrorBody) -> u16 {
    let named = || {
        error.names().find_map(|name| {
            let known = STATUSES.iter().find(|(known, _)| *known == name);
            known.map(|(_, status)| *status)
        })
    };
    error.status.or_else(named).unwrap_or(500)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn sign(body: &str) -> Sign {
        Sign::of_error(&ErrorBody::read(&HeaderMap::new(), body.as_bytes()))
    }

    const SIGNS: &[(&str, Sign)] = &[
        (r#"{"error": {"code": "insufficient_quota"}}"#, Sign::Quota),
        (r#"{"error": {"type": "billing_error"}}"#, Sign::Quota),
        (r#"{"error": {"code": "Arrearage"}}"#, Sign::Quota),
        (
            r#"{"error": {"message": "Your credit balance is too low to access the Anthropic API."}}"#,
            Sign::Quota,
        ),
        (
            r#"{"error": {"message": "Error: Insufficient Balance"}}"#,
            Sign::Quota,
        ),
        (
            r#"{"error": {"message": "You exceeded your current quota, please check your plan"}}"#,
            Sign::Quota,
        ),
        (
            r#"{"error": {"message": "You exceeded your current quota. Please retry in 3s."}}"#,
            Sign::Other,
        ),
        (
            r#"{"error": {"status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota"}}"#,
            Sign::Rate,
        ),
        (r#"{"error": {"code": "invalid_api_key"}}"#, Sign::Key),
        (
            r#"{"error": {"code": 400, "details": [{"reason": "API_KEY_INVALID"}]}}"#,
            Sign::Key,
        ),
        (
            r#"{"error": {"message": "Request too large for m on tokens per min (TPM): Limit 30000, Requested 36055."}}"#,
            Sign::TooLarge,
        ),
        (
            r#"{"error": {"message": "Rate limit reached: Limit 10, Requested 11"}}"#,
            Sign::TooLarge,
        ),
        (
            r#"{"error": {"message": "Limit 30000, Used 29000, Requested 2000", "code": "rate_limit_exceeded"}}"#,
            Sign::Rate,
        ),
        (
            r#"{"error": {"code": "tokens_limit_reached"}}"#,
            Sign::TooLarge,
        ),
        (r#"{"error": {"type": "overloaded_error"}}"#, Sign::Overload),
        (
            r#"{"error": {"type": "engine_overloaded_error"}}"#,
            Sign::Overload,
        ),
        (
            r#"{"__type": "com.amazon#ThrottlingException"}"#,
            Sign::Rate,
        ),
        (r#"{"error": {"code": "model_not_found"}}"#, Sign::Model),
        (
            r#"{"error": {"message": "The model `x` does not exist"}}"#,
            Sign::Model,
        ),
        (
            r#"{"error": {"type": "not_found_error", "message": "model: claude-x"}}"#,
            Sign::Model,
        ),
        (
            r#"{"error": {"message": "x/y is not a valid model ID"}}"#,
            Sign::Model,
        ),
        (
            r#"{"error": {"message": "model: field required in body"}}"#,
            Sign::Other,
        ),
        (
            r#"{"error": {"code": "context_length_exceeded"}}"#,
            Sign::Context,
        ),
        (
            r#"{"error": {"innererror": {"code": "ResponsibleAIPolicyViolation"}}}"#,
            Sign::Policy,
        ),
        (r#"{"error": {"message": "oops"}}"#, Sign::Other),
        ("no healthy upstream", Sign::Overload),
        ("", Sign::Other),
    ];

    #[test]
    fn a_body_says_what_it_is_by_names_and_by_phrases() {
        for (body, expected) in SIGNS {
            assert_eq!(sign(body), *expected, "{body}");
        }
    }

    #[test]
    fn an_echoed_prompt_rejects_no_key() {
        for text in [
            "insufficient balance",
            "invalid api key",
            "billing hard limit",
            "insufficient_quota",
        ] {
            let body = format!(
                r#"{{"error": {{"message": "Invalid value: '{text}'", "code": "invalid_value"}}}}"#
            );
            assert_eq!(sign(&body), Sign::Other, "{body}");
        }
    }

    #[test]
    fn an_error_in_a_success_has_a_status() {
        for (body, status) in [
            (r#"{"error": {"code": 502}}"#, 502),
            (
                r#"{"error": {"code": "context_length_exceeded", "type": "invalid_request_error"}}"#,
                400,
            ),
            (
                r#"{"type": "error", "error": {"type": "overloaded_error"}}"#,
                529,
            ),
            (r#"{"error": {"code": "rate_limit_exceeded"}}"#, 429),
            (r#"{"error": "model is loading"}"#, 500),
        ] {
            let error = ErrorBody::read(&HeaderMap::new(), body.as_bytes());
            assert_eq!(status_of(&error), status, "{body}");
        }
    }
}
