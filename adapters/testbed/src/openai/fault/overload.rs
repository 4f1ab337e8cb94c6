//! Overload and failures of the service, and of proxies before it.

use super::{Properties, Scene};
use crate::openai::error::ApiError;
use crate::reply::Reply;
use crate::text::whole_seconds;
use serde_json::json;

const UNTOLD: Properties = Properties::FAILURE;
const TOLD: Properties = UNTOLD.telling_wait();

fault_table! {
    /// The service, or a proxy before it, can't answer now.
    OverloadFault {
        RequestTimeout UNTOLD "408-error" "408 with an error body",
        ServerError UNTOLD "500-error" "500 server_error",
        BadGateway UNTOLD "502-nginx" "502, an HTML page by nginx",
        Unavailable UNTOLD "503-error" "503: the engine is currently overloaded",
        UnavailableRetryAfter TOLD "503-retry-after" "503 with Retry-After in seconds",
        UnavailableNginx UNTOLD "503-nginx" "503, an HTML page by nginx",
        UnavailableText UNTOLD "503-text" "503 as plain text, as Envoy has it",
        UnavailableEmpty UNTOLD "503-empty" "503 without a body",
        GatewayTimeout UNTOLD "504-nginx" "504, an HTML page by nginx",
        Overloaded UNTOLD "529-error" "529 overloaded_error, as Anthropic has it",
        Unknown UNTOLD "520-cloudflare" "520, an HTML page by Cloudflare",
        Down UNTOLD "521-cloudflare" "521, an HTML page by Cloudflare",
        ConnectTimeout UNTOLD "522-cloudflare" "522, an HTML page by Cloudflare",
        Unreachable UNTOLD "523-cloudflare" "523, an HTML page by Cloudflare",
        Timeout UNTOLD "524-cloudflare" "524, an HTML page by Cloudflare",
        UnknownText UNTOLD "520-text" "520 as plain text by Cloudflare",
    }
}

impl OverloadFault {
    pub(super) fn reply(self, scene: &Scene<'_>) -> Reply {
        let form = scene.form();
        match self {
            Self::RequestTimeout => {
                ApiError::new(408, None, "The request took too long to arrive.").reply(form)
            }
            Self::ServerError => ApiError::fault(500).reply(form),
            Self::BadGateway => Reply::nginx(502),
            Self::Unavailable => ApiError::overloaded().reply(form),
            Self::UnavailableRetryAfter => ApiError::overloaded()
                .reply(form)
                .header("retry-after", whole_seconds(scene.times.wait)),
            Self::UnavailableNginx => Reply::nginx(503),
            Self::UnavailableText => {
                let text = "upstream connect error or disconnect/reset before headers. reset reason: \
                            connection timeout";
                Reply::text(503, text).by_proxy("envoy")
            }
            Self::UnavailableEmpty => Reply::text(503, ""),
            Self::GatewayTimeout => Reply::nginx(504),
            Self::Overloaded => {
                let error = json!({ "type": "overloaded_error", "message": "Overloaded" });
                Reply::json(529, &json!({ "type": "error", "error": error }))
            }
            Self::Unknown => cloudflare(520, "Web server is returning an unknown error"),
            Self::Down => cloudflare(521, "Web server is down"),
            Self::ConnectTimeout => cloudflare(522, "Connection timed out"),
            Self::Unreachable => cloudflare(523, "Origin is unreachable"),
            Self::Timeout => cloudflare(524, "A timeout occurred"),
            Self::UnknownText => Reply::text(520, "error code: 520").by_proxy("cloudflare"),
        }
    }
}

fn cloudflare(status: u16, title: &str) -> Reply {
    let page = format!(
        "<!DOCTYPE html>\n<html lang=\"en-US\">\n<head><title>api.example.com | {status}: {title}</title></head>\n\
         <body><h1>{title} <span>Error code {status}</span></h1>\n\
         <p>Browser: Working. Frankfurt, Cloudflare: Working. api.example.com, Host: Error.</p>\n\
         <p>Cloudflare Ray ID: 8f2a7c1d9e0b3a54</p></body>\n</html>\n"
    );
    Reply::html(status, page)
        .by_proxy("cloudflare")
        .header("cf-ray", "8f2a7c1d9e0b3a54-FRA")
}
