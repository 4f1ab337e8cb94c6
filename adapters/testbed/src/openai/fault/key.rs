//! Refusals of a key: no waiting helps.

use super::{Properties, Scene};
use crate::openai::error::{ApiError, ErrorForm};
use crate::reply::Reply;
use serde_json::json;

const FAILURE: Properties = Properties::FAILURE;

fault_table! {
    /// The key is refused: quota, billing, permission.
    KeyFault {
        Quota FAILURE "quota" "429 insufficient_quota",
        QuotaForbidden FAILURE "quota-403" "403 insufficient_quota",
        QuotaPayment FAILURE "quota-402" "402 Insufficient credits, as OpenRouter has it",
        Billing FAILURE "billing" "429 billing_hard_limit_reached",
        BillingBadRequest FAILURE "billing-400" "400 billing_hard_limit_reached",
        BillingInactive FAILURE "billing-inactive" "429 billing_not_active",
        BillingAnthropic FAILURE "billing-anthropic" "400: your credit balance is too low, as Anthropic has it",
        Invalid FAILURE "key-invalid" "401 invalid_api_key",
        Deactivated FAILURE "key-deactivated" "401 account_deactivated",
        InvalidAzure FAILURE "key-azure" "401 in Azure's body",
        Forbidden FAILURE "forbidden" "403 without a code",
        Country FAILURE "forbidden-country" "403 unsupported_country_region_territory",
        Challenge FAILURE "forbidden-html" "403, an HTML challenge by Cloudflare",
    }
}

impl KeyFault {
    pub(super) fn reply(self, scene: &Scene<'_>) -> Reply {
        let form = scene.form();
        let quota = "You exceeded your current quota, please check your plan and billing details.";
        let billing = "Billing hard limit has been reached";
        let error = |status, code, message: &str| ApiError::new(status, Some(code), message);
        match self {
            Self::Quota => quota_error(form, 429, quota),
            Self::QuotaForbidden => quota_error(form, 403, quota),
            Self::QuotaPayment => {
                let message = "Insufficient credits. Add more to continue.";
                Reply::json(
                    402,
                    &json!({ "error": { "message": message, "code": 402 } }),
                )
            }
            Self::Billing => error(429, "billing_hard_limit_reached", billing).reply(form),
            Self::BillingBadRequest => {
                error(400, "billing_hard_limit_reached", billing).reply(form)
            }
            Self::BillingInactive => {
                let message = "Your account is not active, please check your billing details.";
                error(429, "billing_not_active", message)
                    .kind("billing_not_active")
                    .reply(form)
            }
            Self::BillingAnthropic => {
                let message = "Your credit balance is too low to access the API.";
                let error = json!({ "type": "invalid_request_error", "message": message });
                Reply::json(400, &json!({ "type": "error", "error": error }))
            }
            Self::Invalid => ApiError::unauthorized(form.vendor(), Some("sk-0000")).reply(form),
            Self::Deactivated => {
                let message =
                    "The OpenAI account associated with this API key has been deactivated.";
                error(401, "account_deactivated", message).reply(form)
            }
            Self::InvalidAzure => {
                let message =
                    "Access denied due to invalid subscription key or wrong API endpoint.";
                Reply::json(
                    401,
                    &json!({ "error": { "code": "401", "message": message } }),
                )
            }
            Self::Forbidden => {
                ApiError::new(403, None, "You are not allowed to use this model.").reply(form)
            }
            Self::Country => {
                let message = "Country, region, or territory not supported";
                error(403, "unsupported_country_region_territory", message)
                    .kind("request_forbidden")
                    .reply(form)
            }
            Self::Challenge => challenge(),
        }
    }
}

fn quota_error(form: ErrorForm<'_>, status: u16, message: &str) -> Reply {
    ApiError::new(status, Some("insufficient_quota"), message)
        .kind("insufficient_quota")
        .reply(form)
}

fn challenge() -> Reply {
    let page = "<!DOCTYPE html><html lang=\"en-US\"><head><title>Just a moment...</title></head>\
                <body><noscript>Enable JavaScript and cookies to continue</noscript></body></html>";
    Reply::html(403, page)
        .by_proxy("cloudflare")
        .header("cf-mitigated", "challenge")
        .header("cf-ray", "8f2a7c1d9e0b3a54-FRA")
}
