//! Where a pool of a gateway is, and by what it is reached.

use leasehold_protocol::ApiKey;
use ureq::http::Uri;

/// The address of a pool: `http://HOST:PORT`, or with `/v1/pools/NAME` where the gateway has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    base: String,
    pool: Option<String>,
    token: Option<ApiKey>,
}

/// A text that is no address of a pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no address of a pool: {problem}; write http://HOST:PORT or http://HOST:PORT/v1/pools/NAME"
)]
pub struct PlaceError {
    text: String,
    problem: &'static str,
}

impl Place {
    /// Reads an address; `token` is the gateway's token, or the key of a caller.
    ///
    /// ```
    /// use leasehold_http::Place;
    ///
    /// let place = Place::new("http://127.0.0.1:8090/v1/pools/keys", None)?;
    /// assert_eq!(place.pool(), Some("keys"));
    /// assert!(Place::new("127.0.0.1:8090", None).is_err());
    /// # Ok::<(), leasehold_http::PlaceError>(())
    /// ```
    ///
    /// # Errors
    /// It is none.
    pub fn new(text: &str, token: Option<ApiKey>) -> Result<Self, PlaceError> {
        let wrong = |problem| PlaceError {
            // What stands before an @ may be a password.
            text: text.rsplit('@').next().unwrap_or_default().to_owned(),
            problem,
        };
        let url: Uri = text.parse().map_err(|_| wrong("it is no URL"))?;
        let scheme = url.scheme_str().filter(|it| ["http", "https"].contains(it));
        let scheme = scheme.ok_or_else(|| wrong("it begins with neither http:// nor https://"))?;
        let authority = url.authority().ok_or_else(|| wrong("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it has a user; give a token instead"));
        }
        let path = url.path().trim_end_matches('/');
        let pool = match path.strip_prefix("/v1/pools/") {
            Some(pool) if !pool.is_empty() && !pool.contains('/') => Some(pool.to_owned()),
            None if path.is_empty() || path == "/v1" => None,
            Some(_) | None => return Err(wrong("its path is another")),
        };
        Ok(Self {
            base: format!("{scheme}://{authority}/v1"),
            pool,
            token,
        })
    }

    /// The pool's name, if the address has one.
    #[must_use]
    pub fn pool(&self) -> Option<&str> {
        self.pool.as_deref()
    }

    /// The gateway's address, without the pool and the token.
    #[must_use]
    pub fn url(&self) -> &str {
        self.base.trim_end_matches("/v1")
    }

    /// Returns the URL of a call.
    pub(super) fn url_of(&self, call: &str) -> String {
        format!("{}/{call}", self.base)
    }

    pub(super) fn token(&self) -> Option<&ApiKey> {
        self.token.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_gateway_and_perhaps_a_pool() {
        for (text, url, pool) in [
            ("http://a:1", Some("http://a:1/v1/leases"), None),
            ("https://a/v1/", Some("https://a/v1/leases"), None),
            (
                "http://a:1/v1/pools/k-1",
                Some("http://a:1/v1/leases"),
                Some("k-1"),
            ),
            ("http://a:1/v1/pools/", None, None),
            ("http://a:1/keys", None, None),
            ("ftp://a", None, None),
            ("http://me:secret@a:1", None, None),
            ("a:1", None, None),
            ("", None, None),
        ] {
            let place = Place::new(text, None);
            let found = place.as_ref().ok().map(|place| place.url_of("leases"));
            assert_eq!(found.as_deref(), url, "{text}");
            assert_eq!(place.as_ref().ok().and_then(Place::pool), pool, "{text}");
            if let Err(error) = place {
                assert!(!error.to_string().contains("secret"), "{error}");
            }
        }
    }
}
