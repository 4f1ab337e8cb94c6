//! Headers that the gateway passes on, beside what each of them may become.

use arbitrary::Arbitrary;
use core::net::{IpAddr, Ipv4Addr};
use http::{HeaderMap, HeaderName, HeaderValue};
use leasehold_gateway::pass_headers_on;

/// A request's headers, and the peer that sent them.
#[derive(Clone, Debug, Arbitrary)]
pub struct Case {
    /// Names, known or any text, with values.
    pub fields: Vec<(Result<u8, String>, Vec<u8>)>,
    /// The last number of the peer's address.
    pub peer: u8,
    /// Whether the peer's word on its clients is passed on.
    pub is_trusted: bool,
}

const NAMES: [&str; 18] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "expect",
    "proxy-authorization",
    "content-length",
    "trailer",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "forwarded",
    "x-request-id",
    "accept",
    "x-own",
];
/// Fields that end with the connection, or that the gateway answers itself.
const NEVER: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "expect",
    "proxy-authorization",
    "proxy-authenticate",
];
/// Fields that the gateway writes, and that no caller takes away.
const TOLD: [&str; 6] = [
    "te",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "forwarded",
    "x-request-id",
];
const KEPT: [&str; 3] = ["host", "content-length", "trailer"];

/// Passes the headers on.
///
/// # Panics
/// If a field of one connection is passed on, another is lost or changed, or an untrusted peer speaks for others.
pub fn run(case: &Case) {
    let headers = headers(case);
    let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, case.peer));
    let (passed, client) = pass_headers_on(&headers, peer, case.is_trusted);
    let named: Vec<String> = texts(&headers, "connection")
        .flat_map(|value| {
            value
                .split(',')
                .map(|name| name.trim().to_ascii_lowercase())
                .collect::<Vec<_>>()
        })
        .collect();
    for name in NEVER {
        assert!(!passed.contains_key(name), "{name} was passed on");
    }
    assert!(texts(&passed, "te").all(|value| value == "trailers"));
    for name in headers.keys() {
        let text = name.as_str();
        if NEVER.contains(&text) || TOLD.contains(&text) {
            continue;
        }
        let is_taken_away = named.iter().any(|one| one == text) && !KEPT.contains(&text);
        let (got, sent) = (values(&passed, text), values(&headers, text));
        assert_eq!(got, if is_taken_away { Vec::new() } else { sent }, "{text}");
    }
    for name in passed.keys() {
        let is_told = TOLD.contains(&name.as_str());
        assert!(is_told || headers.contains_key(name), "{name} was made up");
    }
    let path: Vec<_> = texts(&passed, "x-forwarded-for").collect();
    assert_eq!(path.len(), 1);
    let hops: Vec<_> = path[0].split(',').map(str::trim).collect();
    assert_eq!(hops.last().copied(), Some(peer.to_string().as_str()));
    assert_eq!(values(&passed, "x-request-id"), [b"id"]);
    if !case.is_trusted {
        assert_eq!(hops.len(), 1);
        assert_eq!(client, peer);
        assert_eq!(values(&passed, "x-forwarded-proto"), [b"http"]);
        assert_eq!(texts(&passed, "forwarded").count(), 1);
        let host: Vec<_> = headers
            .get("host")
            .map(HeaderValue::as_bytes)
            .into_iter()
            .collect();
        assert_eq!(values(&passed, "x-forwarded-host"), host);
    }
}

fn headers(case: &Case) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in case.fields.iter().take(100) {
        let name = match name {
            Ok(number) => NAMES[usize::from(*number) % NAMES.len()],
            Err(text) => text.as_str(),
        };
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    headers
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a [u8]> {
    let all = headers.get_all(name).into_iter();
    all.map(HeaderValue::as_bytes).collect()
}

fn texts<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let all = headers.get_all(name).into_iter();
    all.filter_map(|value| value.to_str().ok())
}
