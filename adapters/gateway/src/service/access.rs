//! Access to a listener of services or leases: callers by their keys or its token, or programs on this machine where it has neither.
//!
//! Invariant: no page of another site, and no stranger behind a proxy, makes calls with the keys.

use super::Asked;
use crate::account::Account;
use crate::admin::{self, Need, Rules, Sender};
use crate::callers::Caller;
use core::net::IpAddr;
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use leasehold_config::Address;
use leasehold_core::balance::stable_hash;
use leasehold_protocol::Refusal;
use std::sync::Arc;

/// Which caller makes a call.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// `None` without a key of its own.
    pub(crate) caller: Option<Arc<Caller>>,
    /// Where its use is counted.
    pub(crate) account: Arc<Account>,
    /// What tells it from others, among which the keys are shared evenly.
    pub(crate) flow: u64,
    /// Whether it came with a credential, or by a socket that is its owner's alone.
    pub(crate) is_proven: bool,
}

/// Checks a caller's credential, which the services never see.
pub(crate) fn check(asked: &Asked<'_>) -> Result<Identity, Refusal> {
    let headers = &asked.parts.headers;
    let (callers, given) = (asked.table.callers(), given(headers));
    if let Some(caller) = given.and_then(|key| callers.find(key)) {
        return Ok(Identity {
            account: Arc::clone(&caller.account),
            flow: caller.flow,
            caller: Some(Arc::clone(caller)),
            is_proven: true,
        });
    }
    let wrong = |text: &str| Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", text);
    let is_proven = match (&asked.listener.settings().token, given) {
        (None, _) if callers.is_empty() => {
            check_sender(asked)?;
            matches!(asked.listener.settings().address, Address::Unix(_))
        }
        (Some(token), Some(given)) if admin::is_same(token, given) => true,
        (_, Some(_)) => return Err(wrong("the gateway does not know this key")),
        (_, None) => return Err(wrong("send a key of the gateway as the API key")),
    };
    Ok(Identity {
        caller: None,
        account: asked.connection.worker.shared().accounts().of(None),
        flow: flow(asked, given),
        is_proven,
    })
}

/// Lets programs on this machine in.
fn check_sender(asked: &Asked<'_>) -> Result<(), Refusal> {
    let rules = Rules {
        token: None,
        open_on_loopback: true,
    };
    let sender = Sender {
        peer: asked.connection.peer.as_ref().map(|peer| peer.address),
        version: asked.parts.version,
        headers: &asked.parts.headers,
    };
    admin::check(rules, sender, Need::Change).map_err(|_| {
        let text = "without a token_file and callers, this listener serves programs on this machine alone, which ask for \
                    localhost and come through no proxy";
        Refusal::new(StatusCode::FORBIDDEN, "forbidden", text)
    })
}

/// Tells callers without keys of their own apart: by the credential that they send, and by their address.
fn flow(asked: &Asked<'_>, given: Option<&[u8]>) -> u64 {
    let client = match asked.client {
        Some(IpAddr::V4(address)) => address.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(address)) => address.octets(),
        None => [0; 16],
    };
    stable_hash(&[given.unwrap_or_default(), &client].concat())
}

/// Returns the credential of a caller, wherever its SDK puts it.
pub(crate) fn given(headers: &HeaderMap) -> Option<&[u8]> {
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
