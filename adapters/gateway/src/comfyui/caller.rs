//! Which caller makes a request: its credential, else the gateway's cookie, else its address.
//!
//! Invariant: a page of another site acts for no caller, and a caller's jobs stay its own whatever others know of them.

use crate::affinity::cookie;
use crate::proxy::Target;
use crate::service::{Asked, given};
use core::net::IpAddr;
use http::header::{ACCEPT, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use leasehold_protocol::Refusal;
use sha2::{Digest, Sha256};

/// The cookie that tells browsers behind one address apart.
const COOKIE: &str = "leasehold-caller";
/// The cookie's age in seconds: a year.
const COOKIE_AGE: u32 = 31_536_000;
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A caller.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// What tells it from others.
    pub(super) key: u64,
    /// The cookie by which it is known from now on.
    pub(super) cookie: Option<HeaderValue>,
}

impl Caller {
    pub(super) fn of(asked: &Asked<'_>) -> Self {
        let headers = &asked.parts.headers;
        if let Some(credential) = given(headers) {
            return Self::known(b"credential", credential);
        }
        if let Some(cookie) = cookie(headers, COOKIE) {
            return Self::known(b"cookie", cookie.as_bytes());
        }
        if is_page(asked) {
            let made = uuid::Uuid::new_v4().simple().to_string();
            let text =
                format!("{COOKIE}={made}; Max-Age={COOKIE_AGE}; Path=/; HttpOnly; SameSite=Lax");
            return Self {
                cookie: HeaderValue::from_str(&text).ok(),
                ..Self::known(b"cookie", made.as_bytes())
            };
        }
        let address = match asked.client {
            Some(IpAddr::V4(address)) => address.to_ipv6_mapped().octets(),
            Some(IpAddr::V6(address)) => address.octets(),
            None => [0; 16],
        };
        Self::known(b"address", &address)
    }

    fn known(kind: &[u8], text: &[u8]) -> Self {
        Self {
            key: hashed(&[kind, b" ", text].concat()),
            cookie: None,
        }
    }
}

/// Returns a number that no other text can be made for.
fn hashed(text: &[u8]) -> u64 {
    let hash = Sha256::digest(text);
    let first = hash.first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(first)
}

/// Whether a browser opens a page, with which it can take a cookie.
fn is_page(asked: &Asked<'_>) -> bool {
    let accept = asked.parts.headers.get(ACCEPT);
    let accept = accept.map(HeaderValue::as_bytes).unwrap_or_default();
    asked.parts.method == Method::GET && memchr::memmem::find(accept, b"text/html").is_some()
}

/// Refuses requests that a page of another site makes in a browser.
pub(super) fn check_site(headers: &HeaderMap, target: Target<'_>) -> Result<(), Refusal> {
    let refused = |text: &str| Refusal::new(StatusCode::FORBIDDEN, "cross_site", text);
    let site = headers.get(SEC_FETCH_SITE);
    if site.is_some_and(|site| site == "cross-site") {
        return Err(refused("a page of another site may not ask this server"));
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or_default();
    let host = target.host.or_else(|| headers.get(HOST));
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    match authority.is_some_and(|authority| is_same_host(authority, host)) {
        true => Ok(()),
        false => Err(refused(
            "the Origin is of another host; a proxy before the gateway has to pass the Host header on",
        )),
    }
}

/// Whether two authorities name one host; ports count where both have one.
fn is_same_host(one: &str, other: &str) -> bool {
    let parts = |text: &str| {
        let authority: http::uri::Authority = text.parse().ok()?;
        Some((authority.host().to_ascii_lowercase(), authority.port_u16()))
    };
    match (parts(one), parts(other)) {
        (Some((one, one_port)), Some((other, other_port))) => {
            let has_both = one_port.is_some() && other_port.is_some();
            one == other && (!has_both || one_port == other_port)
        }
        (Some(_) | None, Some(_) | None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_the_same_in_any_case_and_without_a_port() {
        for (one, other, is_same) in [
            ("localhost:8188", "localhost:8188", true),
            ("Example.com", "example.COM:8188", true),
            ("[::1]:8188", "[::1]:8188", true),
            ("localhost:8188", "localhost:8189", false),
            ("evil.test", "localhost:8188", false),
            ("", "", false),
        ] {
            assert_eq!(is_same_host(one, other), is_same, "{one} {other}");
        }
    }
}
