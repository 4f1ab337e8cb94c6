//! Errors with the texts and codes of the real services.

use super::anthropic;
use super::request::{Api, Vendor};
use crate::judge::Refusal;
use crate::limit::{Limit, LimitUnit};
use crate::reply::Reply;
use crate::report::masked;
use crate::server::BodyError;
use crate::text::{go_duration, whole_millis, whole_seconds};
use core::time::Duration;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

/// The form of an error's body: that of an API, with the id of the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorForm<'a> {
    pub(super) api: Api,
    pub(super) id: &'a str,
}

impl ErrorForm<'_> {
    pub(super) const fn vendor(self) -> Vendor {
        self.api.vendor()
    }
}

/// An error as the real service writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: u16,
    pub(super) message: String,
    pub(super) kind: &'static str,
    pub(super) param: Option<&'static str>,
    pub(super) code: Option<&'static str>,
}

impl ApiError {
    pub(super) fn new(status: u16, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            kind: "invalid_request_error",
            param: None,
            code,
        }
    }

    pub(super) const fn kind(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }

    pub(super) const fn param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, None, message)
    }

    /// 401, for a missing or unknown key.
    pub(super) fn unauthorized(vendor: Vendor, key: Option<&str>) -> Self {
        match vendor {
            Vendor::OpenAi => Self::unauthorized_by_openai(key),
            Vendor::Anthropic if key.is_none() => {
                Self::new(401, None, "x-api-key header is required")
            }
            Vendor::Anthropic => Self::new(401, None, "invalid x-api-key"),
        }
    }

    fn unauthorized_by_openai(key: Option<&str>) -> Self {
        let message = key.map_or_else(
            || {
                "You didn't provide an API key. You need to provide your API key in an Authorization \
                 header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
                    .to_owned()
            },
            |key| {
                format!(
                    "Incorrect API key provided: {}. You can find your API key at \
                     https://platform.openai.com/account/api-keys.",
                    masked(key)
                )
            },
        );
        Self::new(401, Some("invalid_api_key"), message)
    }

    /// 404, for an unknown path.
    pub(super) fn unknown_url(method: &Method, path: &str) -> Self {
        let message =
            format!("Unknown request URL: {method} {path}. Please check the URL for typos.");
        Self::new(404, Some("unknown_url"), message)
    }

    /// 404, for an unknown model.
    pub(super) fn unknown_model(vendor: Vendor, model: &str) -> Self {
        let message = match vendor {
            Vendor::OpenAi => {
                format!("The model `{model}` does not exist or you do not have access to it.")
            }
            Vendor::Anthropic => format!("model: {model}"),
        };
        Self::new(404, Some("model_not_found"), message)
    }

    /// 405, for a wrong method on a known path.
    pub(super) fn wrong_method(method: &Method, path: &str, allowed: &str) -> Self {
        let message = format!("Not allowed to {method} on {path}; {allowed} is.");
        Self::new(405, Some("method_not_supported"), message)
    }

    /// 400, for a parameter that reasoning models refuse.
    pub(super) fn max_tokens_unsupported() -> Self {
        let message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use \
                       'max_completion_tokens' instead.";
        Self::new(400, Some("unsupported_parameter"), message).param("max_tokens")
    }

    /// 400, for more completion tokens than the model can write.
    pub(super) fn too_many_tokens(param: &'static str, asked: u64, most: u64) -> Self {
        let message = format!(
            "{param} is too large: {asked}. This model supports at most {most} completion tokens, \
             whereas you provided {asked}."
        );
        Self::new(400, Some("invalid_value"), message).param(param)
    }

    /// 503, or 529 of Anthropic, for a call over the concurrency.
    pub(super) fn busy(vendor: Vendor) -> Self {
        match vendor {
            Vendor::OpenAi => Self::overloaded(),
            Vendor::Anthropic => Self::new(529, None, "Overloaded"),
        }
    }

    /// 503, for an overload.
    pub(super) fn overloaded() -> Self {
        let message = "The engine is currently overloaded, please try again later.";
        Self::new(503, None, message).kind("server_error")
    }

    /// A failure on purpose, with a status from 400 to 599.
    pub(super) fn fault(status: u16) -> Self {
        match status {
            429 => rate_limited("Rate limit reached. Please try again later."),
            500..=599 => {
                let message =
                    "The server had an error while processing your request. Sorry about that!";
                Self::new(status, None, message).kind("server_error")
            }
            _ => Self::new(status, None, "The request failed on purpose."),
        }
    }

    fn body(&self, form: ErrorForm<'_>) -> Value {
        match form.vendor() {
            Vendor::OpenAi => self.openai_body(),
            Vendor::Anthropic => anthropic::error_body(self.status, &self.message, form.id),
        }
    }

    fn openai_body(&self) -> Value {
        json!({
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            },
        })
    }

    pub(super) fn reply(&self, form: ErrorForm<'_>) -> Reply {
        Reply::json(self.status, &self.body(form))
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let (status, message) = match error {
            BodyError::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "The request body is too large.",
            ),
            BodyError::Slow => (
                StatusCode::REQUEST_TIMEOUT,
                "The request body took too long to arrive.",
            ),
            BodyError::Broken => (
                StatusCode::BAD_REQUEST,
                "The request body could not be read.",
            ),
        };
        Self::new(status.as_u16(), None, message)
    }
}

/// 429 with the service's code, and this message.
pub(super) fn rate_limited(message: impl Into<String>) -> ApiError {
    ApiError::new(429, Some("rate_limit_exceeded"), message).kind("requests")
}

/// 429 for a call over a limit, with the text and headers of the real service.
pub(super) fn over_limit(form: ErrorForm<'_>, model: Option<&str>, refusal: &Refusal) -> Reply {
    if form.vendor() == Vendor::Anthropic {
        let reply = rate_limited(anthropic::over_limit_message(refusal)).reply(form);
        return match refusal.wait {
            Some(wait) => reply.header("retry-after", whole_seconds(wait)),
            None => reply,
        };
    }
    let model = model.unwrap_or("the model");
    let unit = limit_name(&refusal.limit);
    let kind = refusal.limit.unit.name();
    let Some(wait) = refusal.wait else {
        let message = too_large_message(model, &unit, refusal.limit.amount.get(), refusal.cost);
        return rate_limited(message).kind(kind).reply(form);
    };
    let message = format!(
        "Rate limit reached for {model} in organization org-testbed on {unit}: Limit {}, Used {}, \
         Requested {}. Please try again in {}. Visit \
         https://platform.openai.com/account/rate-limits to learn more.",
        refusal.limit.amount,
        refusal.used,
        refusal.cost,
        go_duration(wait)
    );
    rate_limited(message)
        .kind(kind)
        .reply(form)
        .header("retry-after-ms", whole_millis(wait))
        .header("retry-after", whole_seconds(wait))
}

/// The message of a request that no waiting helps.
pub(super) fn too_large_message(model: &str, unit: &str, limit: u64, asked: u64) -> String {
    format!(
        "Request too large for {model} in organization org-testbed on {unit}: Limit {limit}, \
         Requested {asked}. The input or output tokens must be reduced in order to run \
         successfully. Visit https://platform.openai.com/account/rate-limits to learn more."
    )
}

/// Names a limit as the real service does: `requests per min (RPM)`.
fn limit_name(limit: &Limit) -> String {
    let (unit, letter) = match limit.unit {
        LimitUnit::Requests => ("requests", 'R'),
        LimitUnit::Tokens => ("tokens", 'T'),
    };
    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(86_400);
    match limit.window {
        MINUTE => format!("{unit} per min ({letter}PM)"),
        DAY => format!("{unit} per day ({letter}PD)"),
        window => format!("{unit} per {}", go_duration(window)),
    }
}
