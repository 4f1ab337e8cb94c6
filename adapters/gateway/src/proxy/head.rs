//! A request's head: what the parser lets through and a proxy must not.
//!
//! Invariant: a request that is passed on names one host and a path, in a way that no backend reads differently
//! (RFC 9112, section 3.2).

use super::refusal::Refusal;
use http::header::CONNECTION;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, StatusCode, Version};

use super::fields::Fields;
use super::headers::has_token;

/// What a head asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// The host that is asked for, as it was written; `None` from HTTP/1.0 alone.
    pub(crate) host: Option<&'a HeaderValue>,
    /// The path and query.
    pub(crate) path: &'a PathAndQuery,
    /// The protocol that is asked for.
    pub(crate) upgrade: Option<&'a HeaderValue>,
}

impl<'a> Target<'a> {
    /// Checks a head; `has_body` tells whether a body follows, `known` is a `Host` header that was found right.
    pub(crate) fn new(
        parts: &'a Parts,
        fields: &Fields<'a>,
        has_body: bool,
        known: Option<&HeaderValue>,
    ) -> Result<Self, Refusal> {
        if parts.method == Method::CONNECT {
            let text = "this is a reverse proxy; it opens no tunnels";
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "no_tunnel", text).closing());
        }
        let host = fields.host;
        if fields.has_two_hosts {
            return Err(Refusal::bad_request("the request has two Host headers"));
        }
        if host.is_none() && parts.version != Version::HTTP_10 {
            return Err(Refusal::bad_request("the request has no Host header"));
        }
        if host.is_some_and(|host| known != Some(host) && authority_of(host).is_none()) {
            return Err(Refusal::bad_request("the Host header is no host"));
        }
        if let (Some(authority), Some(host)) = (parts.uri.authority(), host) {
            let is_same = host
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes());
            if !is_same {
                return Err(Refusal::bad_request("the Host header differs from the URL"));
            }
        }
        let is_path = |path: &&PathAndQuery| path.as_str().starts_with('/') || *path == "*";
        let path = parts.uri.path_and_query().filter(is_path);
        let path = path.ok_or_else(|| Refusal::bad_request("the URL has no path"))?;
        let may_upgrade = parts.version == Version::HTTP_11 && !has_body && fields.has_connection;
        let upgrade = fields
            .upgrade
            .filter(|_| may_upgrade && has_token(&parts.headers, &CONNECTION, "upgrade"));
        Ok(Self {
            host,
            path,
            upgrade,
        })
    }

    /// Returns the host without its port.
    pub(crate) fn host_name(&self) -> Option<String> {
        let authority = authority_of(self.host?)?;
        Some(authority.host().to_ascii_lowercase())
    }
}

/// Reads the value of a `Host` header; one with a user name is none.
fn authority_of(host: &HeaderValue) -> Option<Authority> {
    let authority: Authority = host.to_str().ok()?.parse().ok()?;
    (!authority.as_str().contains('@')).then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use http::header::HOST;

    fn parts(uri: &str, hosts: &[&str]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn target(parts: &Parts) -> Result<Target<'_>, Refusal> {
        Target::new(parts, &Fields::of(&parts.headers), false, None)
    }

    #[test]
    fn a_request_names_one_host() {
        for (uri, host) in [
            ("/", "a.test:80"),
            ("http://a.test/x", "A.test"),
            ("*", "a.test"),
        ] {
            assert!(target(&parts(uri, &[host])).is_ok(), "{uri} {host}");
        }
        for (uri, hosts) in [
            ("/", &[][..]),
            ("/", &["a.test", "a.test"]),
            ("/", &["a.test", "b.test"]),
            ("/", &["a.test/x"]),
            ("/", &["me@a.test"]),
            ("/", &[""]),
            ("http://a.test/", &["b.test"]),
            ("http://a.test:81/", &["a.test"]),
        ] {
            let refused = target(&parts(uri, hosts)).unwrap_err();
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{uri} {hosts:?}");
            assert!(refused.closes);
        }
    }

    #[test]
    fn the_name_of_a_host_has_no_port() {
        for (host, name) in [
            ("A.test:80", "a.test"),
            ("[::1]:80", "[::1]"),
            ("a.test", "a.test"),
        ] {
            let parts = parts("/", &[host]);
            assert_eq!(target(&parts).unwrap().host_name().as_deref(), Some(name));
        }
    }
}
