//! The URL and key of a service.
//!
//! Invariant: an [`Endpoint`] is an absolute HTTP(S) URL with a host, and its key is its only secret.

use crate::call::Call;
use crate::secret::ApiKey;
use core::net::IpAddr;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

/// The header in which a service expects its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Auth {
    /// `authorization: Bearer KEY`.
    Bearer,
    /// `api-key: KEY`, as Azure has it.
    ApiKey,
    /// `x-api-key: KEY` and `anthropic-version`, as Anthropic has them.
    XApiKey,
}

/// A service's URL and a key for it.
///
/// Each endpoint has a connection pool of its own. The same service with two keys, or with its URL written in
/// two ways, is two endpoints.
///
/// ```
/// use leasehold_protocol::{ApiKey, Endpoint};
///
/// let endpoint = Endpoint::new("https://api.openai.com/v1", ApiKey::new("sk-secret-12345678")?)?;
/// assert_eq!(endpoint.url_of("/v1/embeddings", "m"), "https://api.openai.com/v1/embeddings");
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    url: String,
    root: String,
    api_version: Option<String>,
    auth: Auth,
    loopback: bool,
    key: ApiKey,
}

impl Endpoint {
    /// Parses a base URL, as an SDK takes it: it stands for `https://api.openai.com/v1`.
    ///
    /// A URL without a path gets `/v1`. One that ends in the path of a call, such as `/chat/completions`, is taken
    /// without it. An Azure URL may have `?api-version=`, and its key goes into the header `api-key`; without
    /// `/deployments/NAME`, the model's name is that of the deployment.
    ///
    /// # Errors
    /// If `url` isn't an absolute HTTP(S) URL, or has a user name, another query or a fragment.
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
        let api_version = uri.query().map(api_version).transpose()?;
        let host = authority.host().to_ascii_lowercase();
        let is_azure = api_version.is_some() || AZURE.iter().any(|domain| host.ends_with(domain));
        let path = root_path(uri.path(), api_version.is_some());
        let shown = url.split('?').next().unwrap_or_default();
        Ok(Self {
            root: normalized(&uri, authority, &path),
            api_version,
            auth: if is_azure { Auth::ApiKey } else { Auth::Bearer },
            loopback: is_loopback(&host),
            url: shown.trim_end_matches('/').to_owned(),
            key,
        })
    }

    /// Sets the header in which the key is sent.
    #[must_use]
    pub const fn with_auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// The base URL as given, without trailing slashes and query.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The API key.
    #[must_use]
    pub const fn key(&self) -> &ApiKey {
        &self.key
    }

    /// The base URL of all calls, normalized: two endpoints with the same root and key share their limits.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Returns the URL of a path, such as `/chat/completions` or `/v1/embeddings`; the root stands for `/v1`.
    ///
    /// `model` is used only where it is part of the URL.
    #[must_use]
    pub fn url_of(&self, path: &str, model: &str) -> String {
        let path = path.trim_start_matches('/');
        let path = path.strip_prefix("v1/").unwrap_or(path);
        let root = &self.root;
        let Some(version) = &self.api_version else {
            return format!("{root}/{path}");
        };
        let separator = if path.contains('?') { '&' } else { '?' };
        let is_model_call = !matches!(
            Call::of_path(&format!("/{path}")),
            Call::Responses | Call::Other
        );
        let names_model = root.contains("/deployments/") || root.ends_with("/v1");
        if is_model_call && !names_model {
            let model = escaped(model);
            return format!("{root}/deployments/{model}/{path}{separator}api-version={version}");
        }
        format!("{root}/{path}{separator}api-version={version}")
    }

    /// Returns how the key is sent to a path: to one of Anthropic's as Anthropic has it, unless another way was set.
    #[must_use]
    pub fn auth(&self, path: &str) -> Auth {
        match self.auth {
            Auth::Bearer if Call::of_path(path) == Call::Messages => Auth::XApiKey,
            Auth::Bearer | Auth::ApiKey | Auth::XApiKey => self.auth,
        }
    }

    /// Returns the headers that carry the key to a path. Their values are marked as sensitive.
    #[must_use]
    pub fn auth_headers(&self, path: &str) -> HeaderMap {
        let auth = self.auth(path);
        let key = self.key.expose();
        let (name, value) = match auth {
            Auth::Bearer => (http::header::AUTHORIZATION, format!("Bearer {key}")),
            Auth::ApiKey => (HeaderName::from_static("api-key"), key.to_owned()),
            Auth::XApiKey => (HeaderName::from_static("x-api-key"), key.to_owned()),
        };
        let mut headers = HeaderMap::new();
        // A key is visible ASCII, so it always fits into a header.
        if let Ok(mut value) = HeaderValue::try_from(value) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        if auth == Auth::XApiKey {
            headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
        }
        headers
    }

    /// Whether the host name or address is a loopback one.
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        self.loopback
    }
}

/// Domains of Azure's services.
const AZURE: [&str; 3] = [
    ".openai.azure.com",
    ".cognitiveservices.azure.com",
    ".services.ai.azure.com",
];

/// Reads the only query that a base URL may have.
fn api_version(query: &str) -> Result<String, EndpointError> {
    let value = query
        .strip_prefix("api-version=")
        .ok_or(EndpointError::QueryOrFragment)?;
    let is_version = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    if value.is_empty() || value.len() > 40 || !value.bytes().all(is_version) {
        return Err(EndpointError::QueryOrFragment);
    }
    Ok(value.to_owned())
}

/// Returns the path under which the calls are: without that of a call, and never empty.
fn root_path(path: &str, is_azure: bool) -> String {
    let path = path.trim_end_matches('/');
    let calls = [
        Call::Chat,
        Call::Completions,
        Call::Responses,
        Call::Embeddings,
        Call::Messages,
    ];
    let base = calls.iter().find_map(|call| path.strip_suffix(call.path()));
    match base.unwrap_or(path).trim_end_matches('/') {
        "" if base.is_some() => String::new(),
        "" if is_azure => "/openai".to_owned(),
        "" => "/v1".to_owned(),
        path => path.to_owned(),
    }
}

/// Escapes a name for use as one segment of a path.
fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
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

fn is_loopback(host: &str) -> bool {
    literal(host).map_or_else(
        || host == "localhost" || host.ends_with(".localhost"),
        |ip| ip.is_loopback(),
    )
}

/// Parses a host that is an IP address; IPv6 in brackets.
fn literal(host: &str) -> Option<IpAddr> {
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
    /// The URL has a fragment, or a query other than `api-version`; it might hold a secret.
    #[error("the URL must not have a fragment (#), or a query (?) other than api-version")]
    QueryOrFragment,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::new(url, ApiKey::new("sk-secret-12345678").unwrap())
    }

    #[test]
    fn every_form_of_a_base_url_gives_the_url_of_a_call() {
        for (base, chat) in [
            ("http://h:1", "http://h:1/v1/chat/completions"),
            (" https://h/ ", "https://h/v1/chat/completions"),
            ("http://h:1/v1", "http://h:1/v1/chat/completions"),
            ("http://H:80/v1", "http://h/v1/chat/completions"),
            ("https://h:443/V/v1", "https://h/V/v1/chat/completions"),
            ("http://h:1/v1//", "http://h:1/v1/chat/completions"),
            (
                "http://[::1]:1/api/v1",
                "http://[::1]:1/api/v1/chat/completions",
            ),
            ("https://h/paas/v4", "https://h/paas/v4/chat/completions"),
            (
                "https://h/v1beta/openai/",
                "https://h/v1beta/openai/chat/completions",
            ),
            (
                "https://h/inference",
                "https://h/inference/chat/completions",
            ),
            (
                "https://h/o/chat/completions",
                "https://h/o/chat/completions",
            ),
            ("https://h/v1/responses", "https://h/v1/chat/completions"),
            ("https://h/chat/completions", "https://h/chat/completions"),
        ] {
            let endpoint = endpoint(base).unwrap();
            assert_eq!(endpoint.url_of("/chat/completions", "m"), chat);
            assert_eq!(endpoint.url_of("/v1/chat/completions", "m"), chat);
        }
        let endpoint = endpoint("https://h/v1").unwrap();
        assert_eq!(
            endpoint.url_of("/v1/responses", "m"),
            "https://h/v1/responses"
        );
        assert_eq!(
            endpoint.url_of("models?limit=2", "m"),
            "https://h/v1/models?limit=2"
        );
        assert_eq!(endpoint.root(), "https://h/v1");
    }

    #[test]
    fn an_azure_url_has_its_version_and_deployment() {
        let host = "https://r.openai.azure.com";
        let version = "?api-version=2024-10-21";
        for (base, path, expected) in [
            (
                "/openai/deployments/d?api-version=2024-10-21",
                "/chat/completions",
                "/openai/deployments/d/chat/completions?api-version=2024-10-21",
            ),
            (
                "/openai/deployments/d/chat/completions?api-version=2024-10-21",
                "/embeddings",
                "/openai/deployments/d/embeddings?api-version=2024-10-21",
            ),
            (
                version,
                "/chat/completions",
                "/openai/deployments/gpt%2F4o/chat/completions?api-version=2024-10-21",
            ),
            (
                "/openai?api-version=2024-10-21",
                "/v1/models?a=b",
                "/openai/models?a=b&api-version=2024-10-21",
            ),
            (
                "/openai/v1",
                "/chat/completions",
                "/openai/v1/chat/completions",
            ),
            (
                "/openai/v1?api-version=preview",
                "/chat/completions",
                "/openai/v1/chat/completions?api-version=preview",
            ),
        ] {
            let endpoint = endpoint(&format!("{host}{base}")).unwrap();
            assert_eq!(
                endpoint.url_of(path, "gpt/4o"),
                format!("{host}{expected}"),
                "{base}"
            );
            assert_eq!(endpoint.auth_headers(path)["api-key"], "sk-secret-12345678");
            assert!(!endpoint.url().contains('?'));
        }
    }

    #[test]
    fn a_key_is_sent_as_the_service_expects_it() {
        let bearer = endpoint("https://h").unwrap();
        let headers = bearer.auth_headers("/chat/completions");
        assert_eq!(headers["authorization"], "Bearer sk-secret-12345678");
        assert!(!format!("{headers:?}").contains("secret"));
        let messages = bearer.auth_headers("/v1/messages");
        assert_eq!(
            (
                &messages["x-api-key"],
                messages.contains_key("authorization")
            ),
            (&HeaderValue::from_static("sk-secret-12345678"), false)
        );
        assert_eq!(messages["anthropic-version"], "2023-06-01");
        let set = bearer.with_auth(Auth::ApiKey);
        assert_eq!(
            set.auth_headers("/messages")["api-key"],
            "sk-secret-12345678"
        );
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
            ("http://h/v1?api-version=", EndpointError::QueryOrFragment),
            (
                "http://h/v1?api-version=1&key=secret",
                EndpointError::QueryOrFragment,
            ),
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
