//! The URL and key of a service.
//!
//! Invariant: an [`Endpoint`] is an absolute HTTP(S) URL with a host, and its key is its only secret.

use crate::secret::ApiKey;
use core::net::IpAddr;
use ureq::http::Uri;
use ureq::http::uri::Authority;

/// A service's URL and a key for it.
///
/// Each endpoint has a connection pool of its own. The same service with two keys, or with its URL written in
/// two ways, is two endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    url: String,
    chat_url: String,
    loopback: bool,
    key: ApiKey,
}

impl Endpoint {
    /// Parses a base URL.
    ///
    /// `http://host:port` and `http://host:port/v1` both call `http://host:port/v1/chat/completions`. A path that
    /// ends in another version (`/v4`) or in `/chat/completions` is kept.
    ///
    /// # Errors
    /// If `url` isn't an absolute HTTP(S) URL, or has a user name, a query or a fragment.
    pub fn new(url: &str, key: ApiKey) -> Result<Self, EndpointError> {
        let url = url.trim();
        // `Uri` drops a fragment silently.
        if url.contains('#') {
            return Err(EndpointError::QueryOrFragment);
        }
        let uri: Uri = url.parse().map_err(|_| EndpointError::NotAUrl)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(EndpointError::NotHttp);
        }
        let authority = uri.authority().ok_or(EndpointError::NoHost)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::UserInfo);
        }
        if authority.host().is_empty() {
            return Err(EndpointError::NoHost);
        }
        let port = authority.as_str().strip_prefix(authority.host());
        if port.is_some_and(|port| !port.is_empty()) && authority.port_u16().is_none() {
            return Err(EndpointError::NotAUrl);
        }
        if uri.query().is_some() {
            return Err(EndpointError::QueryOrFragment);
        }
        let (url, path) = (url.trim_end_matches('/'), uri.path().trim_end_matches('/'));
        Ok(Self {
            chat_url: chat_url(&normalized(&uri, authority, path)),
            loopback: is_loopback(authority.host()),
            url: url.to_owned(),
            key,
        })
    }

    /// The base URL as given, without trailing slashes.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The API key.
    #[must_use]
    pub const fn key(&self) -> &ApiKey {
        &self.key
    }

    /// The URL of chat completion calls.
    #[must_use]
    pub fn chat_url(&self) -> &str {
        &self.chat_url
    }

    /// Whether the host name or address is a loopback one.
    pub(crate) const fn is_loopback(&self) -> bool {
        self.loopback
    }
}

/// Normalizes a base URL: scheme and host in lower case, the scheme's default port left out.
fn normalized(uri: &Uri, authority: &Authority, path: &str) -> String {
    let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
    let host = authority.host().to_ascii_lowercase();
    let default_port = if scheme == "https" { 443 } else { 80 };
    match authority.port_u16().filter(|port| *port != default_port) {
        Some(port) => format!("{scheme}://{host}:{port}{path}"),
        None => format!("{scheme}://{host}{path}"),
    }
}

fn chat_url(base: &str) -> String {
    let last = base.rsplit('/').next().unwrap_or_default();
    let versioned = last.strip_prefix('v').is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    if base.ends_with("/chat/completions") {
        base.to_owned()
    } else if versioned {
        format!("{base}/chat/completions")
    } else {
        format!("{base}/v1/chat/completions")
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    literal(&host).map_or_else(
        || host == "localhost" || host.ends_with(".localhost"),
        |ip| ip.is_loopback(),
    )
}

/// Parses a host that is an IP address; IPv6 in brackets.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

/// The reason that a text is not the URL of an [`Endpoint`].
///
/// It never repeats the text, which may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The text can't be parsed as a URL.
    #[error("not a URL")]
    NotAUrl,
    /// The scheme is neither `http` nor `https`.
    #[error("the URL must start with http:// or https://")]
    NotHttp,
    /// The URL has no host.
    #[error("the URL has no host")]
    NoHost,
    /// The URL has a user name or a password, which would end up in logs.
    #[error("the URL must not have a user name or a password")]
    UserInfo,
    /// The URL has a query or a fragment, which a base URL can't have.
    #[error("the URL must not have a query (?) or a fragment (#)")]
    QueryOrFragment,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::new(url, ApiKey::new("sk-secret-12345678").unwrap())
    }

    #[test]
    fn every_form_of_a_base_url_gives_the_url_of_chat_completions() {
        for (base, chat) in [
            ("http://h:1", "http://h:1/v1/chat/completions"),
            (" https://h/ ", "https://h/v1/chat/completions"),
            ("http://h:1/v1", "http://h:1/v1/chat/completions"),
            ("http://H:80/v1", "http://h/v1/chat/completions"),
            ("https://h:443/V", "https://h/V/v1/chat/completions"),
            ("http://h:1/v1//", "http://h:1/v1/chat/completions"),
            (
                "http://[::1]:1/api",
                "http://[::1]:1/api/v1/chat/completions",
            ),
            ("https://h/paas/v4", "https://h/paas/v4/chat/completions"),
            ("https://h/vx", "https://h/vx/v1/chat/completions"),
            (
                "https://h/o/chat/completions",
                "https://h/o/chat/completions",
            ),
        ] {
            assert_eq!(endpoint(base).unwrap().chat_url(), chat);
        }
    }

    #[test]
    fn a_text_that_is_not_a_base_url_is_an_error() {
        for (url, error) in [
            ("", EndpointError::NotAUrl),
            ("http://", EndpointError::NotAUrl),
            ("http://h:99999", EndpointError::NotAUrl),
            ("h:80", EndpointError::NotHttp),
            ("/v1", EndpointError::NotHttp),
            ("ftp://h", EndpointError::NotHttp),
            ("http://:80", EndpointError::NoHost),
            ("http://user:password@h", EndpointError::UserInfo),
            ("http://h/v1?key=secret", EndpointError::QueryOrFragment),
            ("http://h/v1#part", EndpointError::QueryOrFragment),
        ] {
            assert_eq!(endpoint(url), Err(error), "{url}");
        }
    }

    #[test]
    fn loopback_hosts_are_recognized() {
        for (url, loopback) in [
            ("http://localhost:1", true),
            ("http://LOCALHOST", true),
            ("http://a.localhost", true),
            ("http://127.3.2.1", true),
            ("http://[::1]:80", true),
            ("http://10.0.0.1", false),
            ("http://notlocalhost", false),
        ] {
            assert_eq!(endpoint(url).unwrap().is_loopback(), loopback, "{url}");
        }
    }

    #[test]
    fn an_endpoint_shows_its_key_masked() {
        let shown = format!("{:?}", endpoint("http://h").unwrap());
        assert!(
            shown.contains("…5678") && !shown.contains("1234"),
            "{shown}"
        );
    }
}
