//! Where a call goes and with which key.
//!
//! Invariant: an [`Endpoint`] is an absolute HTTP(S) URL with a host, and holds no secret but its key.

use crate::secret::ApiKey;
use core::net::IpAddr;
use ureq::http::Uri;
use ureq::http::uri::Authority;

/// A service and the key to call it with. It is also what a connection pool belongs to: the same service
/// under two keys, or spelled in two ways, is two endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    url: String,
    chat_url: String,
    loopback: bool,
    key: ApiKey,
}

impl Endpoint {
    /// The service at a base URL. `http://host:port` and `http://host:port/v1` both lead to
    /// `http://host:port/v1/chat/completions`; a path that ends in another version (`/v4`) is kept, and
    /// so is one that ends in `/chat/completions`.
    ///
    /// # Errors
    /// Where `url` isn't such a URL, or has a user name, a query or a fragment.
    pub fn new(url: &str, key: ApiKey) -> Result<Self, EndpointError> {
        let url = url.trim();
        // The parser drops a fragment without a word.
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
            chat_url: chat_url(&base(&uri, authority, path)),
            loopback: is_loopback(authority.host()),
            url: url.to_owned(),
            key,
        })
    }

    /// The base URL as it was given, without slashes at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &ApiKey {
        &self.key
    }

    /// Where chat completions are posted to.
    #[must_use]
    pub fn chat_url(&self) -> &str {
        &self.chat_url
    }

    /// Whether the service runs on this machine, judged by its name alone.
    pub(crate) const fn is_loopback(&self) -> bool {
        self.loopback
    }
}

/// The URL as every spelling of it is called: the scheme and host in small letters, the usual port left
/// out.
fn base(uri: &Uri, authority: &Authority, path: &str) -> String {
    let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
    let host = authority.host().to_ascii_lowercase();
    let usual = if scheme == "https" { 443 } else { 80 };
    match authority.port_u16().filter(|port| *port != usual) {
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

/// The address that a host spells out, in brackets for version 6.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

/// Why a text is no [`Endpoint`]. It never repeats the text, which may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It doesn't parse.
    #[error("the endpoint isn't a URL")]
    NotAUrl,
    /// Neither `http://` nor `https://`.
    #[error("the endpoint's URL must begin with http:// or https://")]
    NotHttp,
    /// No host.
    #[error("the endpoint's URL has no host")]
    NoHost,
    /// A user name or a password, which would end up in logs.
    #[error("the endpoint's URL must not hold a user name or a password")]
    UserInfo,
    /// A query or a fragment, which have no place in a base URL.
    #[error("the endpoint's URL must have neither query nor fragment")]
    QueryOrFragment,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::new(url, ApiKey::new("sk-secret-12345678").unwrap())
    }

    #[test]
    fn every_spelling_of_a_base_leads_to_chat_completions() {
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
    fn what_is_no_base_url_is_refused() {
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
    fn this_machine_is_told_by_its_names() {
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
