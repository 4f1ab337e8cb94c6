//! Settings of a client.
//!
//! Invariant: no header set here can change where a request goes, how long it is, or which key it carries.

use crate::tls::CaBundle;
use core::time::Duration;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Settings of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Maximum number of endpoints with open connections: 50 by default. Zero is taken as one.
    pub max_agents: usize,
    /// Timeout of a call: 600 s by default, at most 365 days.
    ///
    /// It runs from the name lookup to the response's last byte.
    pub timeout: Duration,
    /// Timeout of the name lookup, and again of connecting with the TLS handshake: 10 s by default.
    pub connect_timeout: Duration,
    /// Timeout from the request's last byte to the head of the answer; none of its own by default.
    pub first_byte_timeout: Option<Duration>,
    /// Maximum number of idle connections to one endpoint: 64 by default.
    pub max_idle_per_agent: usize,
    /// Time that a connection stays idle before it is closed: 60 s by default.
    ///
    /// Keep it below the service's own idle timeout, so that the client closes first.
    pub max_idle_age: Duration,
    /// Maximum length of a response, decompressed: 64 MiB by default.
    pub max_response_bytes: u64,
    /// Value of the `user-agent` header: `leasehold/<version>` by default.
    ///
    /// Characters other than printable ASCII are left out; an empty value omits the header.
    pub user_agent: String,
    /// Name of the header with the trace id of each call: `x-trace-id` by default.
    pub trace_header: HeaderName,
    /// Certificate authorities to trust in place of Mozilla's; none by default.
    pub ca: Option<CaBundle>,
    /// Whether any certificate is accepted, which lets anyone in between read the key: false by default.
    pub insecure_skip_verify: bool,
    /// Headers of every call.
    pub(crate) headers: HeaderMap,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            max_agents: 50,
            timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: None,
            max_idle_per_agent: 64,
            max_idle_age: Duration::from_secs(60),
            max_response_bytes: 64 * 1024 * 1024,
            user_agent: concat!("leasehold/", env!("CARGO_PKG_VERSION")).to_owned(),
            trace_header: HeaderName::from_static("x-trace-id"),
            ca: None,
            insecure_skip_verify: false,
            headers: HeaderMap::new(),
        }
    }
}

impl ClientConfig {
    /// Adds a header to every call. Its value is taken as a secret and never shown.
    ///
    /// # Errors
    /// If the name or the value can't be in a header, or the header is set by the client.
    ///
    /// ```
    /// use leasehold_http::ClientConfig;
    ///
    /// let config = ClientConfig::default().with_header("openai-organization", "org-1")?;
    /// # Ok::<(), leasehold_http::HeaderError>(())
    /// ```
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, HeaderError> {
        let shown = || name.chars().take(100).collect::<String>();
        let parsed = HeaderName::try_from(name);
        let header = parsed.map_err(|_| HeaderError::BadName { name: shown() })?;
        let own = [
            AUTHORIZATION,
            CONNECTION,
            CONTENT_LENGTH,
            HOST,
            TRANSFER_ENCODING,
        ];
        if own.contains(&header) {
            return Err(HeaderError::Reserved { name: shown() });
        }
        let value = HeaderValue::from_str(value.trim());
        let mut value = value.map_err(|_| HeaderError::BadValue { name: shown() })?;
        value.set_sensitive(true);
        self.headers.append(header, value);
        Ok(self)
    }
}

/// The reason that a header can't be added. It never repeats the value, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The name can't be that of a header.
    #[error("{name:?} is not the name of a header")]
    BadName {
        /// The name.
        name: String,
    },
    /// The value can't be in a header.
    #[error("the value of the header {name} has a character that can't be in a header")]
    BadValue {
        /// The name.
        name: String,
    },
    /// The client sets the header itself.
    #[error(
        "the header {name} is set by the client; give the key as a key, and leave out the rest"
    )]
    Reserved {
        /// The name.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_the_client_sets_is_refused() {
        let add =
            |name: &str, value: &str| ClientConfig::default().with_header(name, value).map(|_| ());
        let name = |name: &str| name.to_owned();
        assert_eq!(
            add("Authorization", "x"),
            Err(HeaderError::Reserved {
                name: name("Authorization")
            })
        );
        assert_eq!(
            add("a b", "x"),
            Err(HeaderError::BadName { name: name("a b") })
        );
        assert_eq!(
            add("x", "a\r\nb"),
            Err(HeaderError::BadValue { name: name("x") })
        );
        assert_eq!(add("openai-project", " p "), Ok(()));
    }

    #[test]
    fn the_value_of_a_header_is_not_shown() {
        let config = ClientConfig::default()
            .with_header("cookie", "secret")
            .unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }
}
