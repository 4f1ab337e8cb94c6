//! Where a pool of a gateway is, and how its calls are worded for any HTTP client.

use super::{LeaseError, LeaseFailure, LeaseRequest};
use crate::secret::{ApiKey, sanitize};
use core::fmt;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, StatusCode, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The address of a pool: `http://HOST:PORT`, or with `/v1/pools/NAME` where the gateway has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    scheme: Scheme,
    authority: Authority,
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
    /// use leasehold_protocol::lease::Place;
    ///
    /// let place = Place::new("http://127.0.0.1:8090/v1/pools/keys", None)?;
    /// assert_eq!(place.pool(), Some("keys"));
    /// assert!(Place::new("127.0.0.1:8090", None).is_err());
    /// # Ok::<(), leasehold_protocol::lease::PlaceError>(())
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
        let scheme = url.scheme();
        let scheme = scheme.filter(|it| [&Scheme::HTTP, &Scheme::HTTPS].contains(it));
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
            scheme: scheme.clone(),
            authority: authority.clone(),
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
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// Returns `HOST:PORT`, for a client without TLS.
    ///
    /// # Errors
    /// The address begins with `https://`.
    ///
    /// ```
    /// use leasehold_protocol::lease::Place;
    ///
    /// assert_eq!(Place::new("http://gateway.test", None)?.plain_address()?, "gateway.test:80");
    /// assert!(Place::new("https://gateway.test", None)?.plain_address().is_err());
    /// # Ok::<(), leasehold_protocol::lease::PlaceError>(())
    /// ```
    pub fn plain_address(&self) -> Result<String, PlaceError> {
        if self.scheme != Scheme::HTTP {
            return Err(PlaceError {
                text: self.url(),
                problem: "this client has no TLS",
            });
        }
        let port = self.authority.port_u16().unwrap_or(80);
        Ok(format!("{}:{port}", self.authority.host()))
    }

    /// Returns a request for one lease of this pool, or of the pool that it names itself.
    #[must_use]
    pub fn one_of(&self, request: LeaseRequest) -> LeaseRequest {
        LeaseRequest {
            pool: request.pool.or_else(|| self.pool.clone()),
            count: None,
            ..request
        }
    }

    /// Words a call, such as `leases` or `batch`, with this body.
    ///
    /// # Errors
    /// The token is none that a header can have.
    pub fn request(
        &self,
        call: &str,
        body: &impl Serialize,
    ) -> Result<Request<Vec<u8>>, LeaseFailure> {
        let body = serde_json::to_vec(body).map_err(|error| self.unreachable(error))?;
        let json = HeaderValue::from_static("application/json");
        let mut request = Request::post(self.url_of(call)).header(CONTENT_TYPE, json);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        request.body(body).map_err(|error| self.unreachable(error))
    }

    /// Reads the answer to a call.
    ///
    /// # Errors
    /// The gateway has refused it, or the answer is not one of a gateway.
    pub fn read<T: DeserializeOwned>(
        &self,
        status: StatusCode,
        body: &[u8],
    ) -> Result<T, LeaseFailure> {
        if status == StatusCode::OK {
            let read = serde_json::from_slice(body);
            return read.map_err(|error| self.unreachable(format_args!("its answer: {error}")));
        }
        Err(match serde_json::from_slice::<LeaseError>(body) {
            Ok(refused) => LeaseFailure::Refused(refused.error),
            Err(_) => self.unreachable(format_args!("it answered with status {status}")),
        })
    }

    /// Words the reason for which the gateway could not be asked, without the token.
    pub fn unreachable(&self, reason: impl fmt::Display) -> LeaseFailure {
        LeaseFailure::Unreachable(sanitize(&reason.to_string(), self.token.as_ref()))
    }

    fn url_of(&self, call: &str) -> String {
        format!("{}://{}/v1/{call}", self.scheme, self.authority)
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

    #[test]
    fn an_answer_is_what_was_asked_for_or_a_reason_without_the_token() {
        let token = ApiKey::new("sk-secret-12345678").unwrap();
        let place = Place::new("http://a:1", Some(token)).unwrap();
        let problem = r#"{"error": {"code": "no", "status": 401, "message": "no"}}"#;
        for (status, body, read) in [
            (200, "7", Ok(7)),
            (200, "<html>", Err("its answer")),
            (401, problem, Err("no")),
            (502, "7", Err("it answered with status 502")),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = place.read::<u32>(status, body.as_bytes());
            match read {
                Ok(value) => assert_eq!(answer, Ok(value)),
                Err(words) => assert!(answer.unwrap_err().to_string().contains(words)),
            }
        }
        let failure = place
            .unreachable("no way for sk-secret-12345678")
            .to_string();
        assert!(!failure.contains("secret"), "{failure}");
        let request = place.request("batch", &[1]).unwrap();
        assert_eq!(request.uri(), "http://a:1/v1/batch");
        assert_eq!(
            request.headers()[AUTHORIZATION],
            "Bearer sk-secret-12345678"
        );
        assert_eq!(request.body(), b"[1]");
    }
}
