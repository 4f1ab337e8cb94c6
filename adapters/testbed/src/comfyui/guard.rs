//! The guard against pages of other sites.
//!
//! Invariant: a request that it refuses reaches no route and changes nothing.

use super::config::{ComfyAge, ComfyGuard};
use crate::reply::Reply;
use core::net::IpAddr;
use hyper::header::{HOST, HeaderMap, ORIGIN};
use hyper::{Method, Uri};

/// Answers a request in place of its route, or returns `None` to let it pass.
pub(super) fn check(
    guard: &ComfyGuard,
    age: ComfyAge,
    method: &Method,
    headers: &HeaderMap,
) -> Option<Reply> {
    if *guard == ComfyGuard::Origin {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let is_cross_site = text("sec-fetch-site") == Some("cross-site");
        let is_foreign = match (text(HOST.as_str()), text(ORIGIN.as_str())) {
            (Some(host), Some(origin)) => is_foreign(host, origin),
            _ => false,
        };
        if (age.is_2026() && is_cross_site) || is_foreign {
            return Some(bare(403));
        }
    }
    (*method == Method::OPTIONS).then(|| bare(200))
}

/// Adds the headers that a guard sets on every answer.
pub(super) fn mark(guard: &ComfyGuard, age: ComfyAge, reply: Reply) -> Reply {
    let ComfyGuard::Cors(origin) = guard else {
        return reply;
    };
    let methods = if age.is_2026() {
        "POST, GET, DELETE, PUT, OPTIONS, PATCH"
    } else {
        "POST, GET, DELETE, PUT, OPTIONS"
    };
    reply
        .header("access-control-allow-origin", origin)
        .header("access-control-allow-methods", methods)
        .header(
            "access-control-allow-headers",
            "Content-Type, Authorization",
        )
        .header("access-control-allow-credentials", "true")
}

fn bare(status: u16) -> Reply {
    Reply::new(status, "application/octet-stream", "")
}

/// Whether the host is a loopback address, and the origin another one.
fn is_foreign(host: &str, origin: &str) -> bool {
    let (host_name, host_port) = split(&host.to_ascii_lowercase());
    let origin = origin.to_ascii_lowercase();
    let uri: Option<Uri> = origin.parse().ok();
    // An origin such as `null` names no host, which never differs.
    let uri = uri.filter(|uri| uri.scheme().is_some());
    let Some(authority) = uri.as_ref().and_then(Uri::authority) else {
        return false;
    };
    let (origin_name, origin_port) = split(authority.as_str());
    if host_name.is_empty() || origin_name.is_empty() || !is_loopback(&host_name) {
        return false;
    }
    let ports_differ = host_port.is_some() && origin_port.is_some() && host_port != origin_port;
    host_name != origin_name || ports_differ
}

/// A host's name and port; an address of IPv6 is without its brackets.
fn split(host: &str) -> (String, Option<String>) {
    if let Some((name, rest)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        return (name.to_owned(), rest.strip_prefix(':').map(str::to_owned));
    }
    match host.split_once(':') {
        Some((name, port)) => (name.to_owned(), Some(port.to_owned())),
        None => (host.to_owned(), None),
    }
}

/// Whether a name resolves to loopback addresses only. No name is looked up but `localhost`.
fn is_loopback(name: &str) -> bool {
    let address: Option<IpAddr> = name.parse().ok();
    name == "localhost" || address.is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_foreign_if_its_host_differs_from_a_loopback_host() {
        for (host, origin, expected) in [
            ("127.0.0.1:8188", "http://127.0.0.1:8188", false),
            ("127.0.0.1:8188", "http://evil.example", true),
            ("127.0.0.1:8188", "http://127.0.0.1:8080", true),
            ("127.0.0.1:8188", "http://127.0.0.1", false),
            ("127.0.0.1", "http://127.0.0.1:8080", false),
            ("127.0.0.1:8188", "http://localhost:8188", true),
            ("LOCALHOST:8188", "http://localhost:8188", false),
            ("[::1]:8188", "http://[::1]:8188", false),
            ("[::1]:8188", "http://x", true),
            ("comfy.lan:8188", "http://evil.example", false),
            ("192.168.1.2:8188", "http://evil.example", false),
            ("127.0.0.1:8188", "null", false),
        ] {
            assert_eq!(is_foreign(host, origin), expected, "{host} {origin}");
        }
    }
}
