//! Access to a listener of services: callers with its token, or programs on this machine where it has none.
//!
//! Invariant: no page of another site, and no stranger behind a proxy, makes calls with the keys.

use crate::admin::{self, Need, Rules, Sender};
use crate::listener::Listener;
use crate::proxy::Connection;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use leasehold_protocol::Refusal;

/// Checks a caller's credential, which the services never see.
pub(super) fn check(
    listener: &Listener,
    connection: &Connection,
    parts: &Parts,
) -> Result<(), Refusal> {
    let Some(token) = &listener.settings().token else {
        let rules = Rules {
            token: None,
            open_on_loopback: true,
        };
        let sender = Sender {
            peer: connection.peer.as_ref().map(|peer| peer.address),
            version: parts.version,
            headers: &parts.headers,
        };
        return admin::check(rules, sender, Need::Change).map_err(|_| {
            let text = "without a token_file, this listener serves programs on this machine alone, which ask for localhost \
                        and come through no proxy";
            Refusal::new(StatusCode::FORBIDDEN, "forbidden", text)
        });
    };
    let wrong = |text: &str| Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", text);
    match given(&parts.headers) {
        Some(given) if admin::is_same(token, given) => Ok(()),
        Some(_) => Err(wrong("the gateway does not know this key")),
        None => Err(wrong("send the gateway's token as the API key")),
    }
}

/// Returns the credential of a caller, wherever its SDK puts it.
pub(super) fn given(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, rest) = value.as_bytes().split_at_checked(7)?;
        scheme
            .eq_ignore_ascii_case(b"bearer ")
            .then(|| rest.trim_ascii())
    });
    let keys = ["x-api-key", "api-key"];
    let keys = keys.iter().filter_map(|name| headers.get(*name));
    bearer.or_else(|| keys.map(http::HeaderValue::as_bytes).next())
}
