//! Refusals of a request: no other key and no waiting helps.

use super::{Properties, Scene};
use crate::openai::error::{ApiError, rate_limited, too_large_message};
use crate::reply::Reply;
use hyper::Method;

const FAILURE: Properties = Properties::FAILURE;

fault_table! {
    /// The request is refused: too large, malformed, wrong model or URL.
    RequestFault {
        TooLargeForLimit FAILURE "too-large" "429: the request is larger than the limit on tokens",
        ContextLength FAILURE "context-length" "400 context_length_exceeded",
        ContentFilter FAILURE "content-filter" "400 content_filter, as Azure has it",
        Bad FAILURE "bad-request" "400 without a code",
        BadParameter FAILURE "bad-parameter" "400 unsupported_parameter: max_tokens",
        BadText FAILURE "bad-request-text" "400 as plain text",
        Unprocessable FAILURE "unprocessable" "422 without a code",
        BodyTooLarge FAILURE "body-too-large" "413, an HTML page by nginx",
        Model FAILURE "model-missing" "404 model_not_found",
        Url FAILURE "url-missing" "404 unknown_url",
        UrlHtml FAILURE "url-missing-html" "404, an HTML page by nginx",
        UrlEmpty FAILURE "url-missing-empty" "404 without a body",
        Method FAILURE "method" "405 with Allow",
        Conflict FAILURE "conflict" "409 without a code",
        Redirect FAILURE "redirect" "308 to the same path with a slash",
        RedirectLogin FAILURE "redirect-login" "302 to a login page, with HTML",
    }
}

impl RequestFault {
    pub(super) fn reply(self, scene: &Scene<'_>) -> Reply {
        let (form, model) = (scene.form(), scene.model());
        let path = "/v1/chat/completions";
        let error = |status, code, message: &str| ApiError::new(status, code, message);
        match self {
            Self::TooLargeForLimit => {
                let message = too_large_message(model, "tokens per min (TPM)", 30_000, 36_055);
                rate_limited(message).kind("tokens").reply(form)
            }
            Self::ContextLength => {
                let message = "This model's maximum context length is 128000 tokens. However, your \
                               messages resulted in 150000 tokens. Please reduce the length of the messages.";
                let error = error(400, Some("context_length_exceeded"), message);
                error.param("messages").reply(form)
            }
            Self::ContentFilter => {
                let message = "The response was filtered due to the prompt triggering Azure OpenAI's \
                               content management policy.";
                error(400, Some("content_filter"), message)
                    .param("prompt")
                    .reply(form)
            }
            Self::Bad => error(400, None, "The request could not be understood.").reply(form),
            Self::BadParameter => ApiError::max_tokens_unsupported().reply(form),
            Self::BadText => Reply::text(400, "Bad Request"),
            Self::Unprocessable => {
                error(422, None, "The request is well formed but wrong.").reply(form)
            }
            Self::BodyTooLarge => Reply::nginx(413),
            Self::Model => ApiError::unknown_model(form.vendor(), model).reply(form),
            Self::Url => ApiError::unknown_url(&Method::POST, path).reply(form),
            Self::UrlHtml => Reply::nginx(404),
            Self::UrlEmpty => Reply::text(404, ""),
            Self::Method => ApiError::wrong_method(&Method::POST, path, "GET")
                .reply(form)
                .header("allow", "GET"),
            Self::Conflict => error(409, None, "The resource is being changed.").reply(form),
            Self::Redirect => Reply::text(308, "").header("location", format_args!("{path}/")),
            Self::RedirectLogin => {
                let page =
                    "<html><body><a href=\"https://login.example.com/\">Log in</a></body></html>";
                Reply::html(302, page).header("location", "https://login.example.com/?next=%2Fv1")
            }
        }
    }
}
