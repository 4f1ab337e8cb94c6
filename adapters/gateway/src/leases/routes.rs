//! The calls of the lease service.

use http::{Method, StatusCode};
use leasehold_protocol::Refusal;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Acquire,
    Batch,
    Renew(String),
    Release(String),
    Arrived(String),
    Pools,
    Pool(String),
    OpenApi,
}

/// What a method and a path are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Call(Call),
    /// The path has other methods.
    OtherMethods(&'static str),
    Nothing,
}

impl Found {
    /// Refuses what is no call.
    pub(super) fn refusal(&self) -> Refusal {
        match self {
            Self::OtherMethods(allowed) => {
                let text = format!("the method must be {allowed}");
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", text)
            }
            Self::Call(_) | Self::Nothing => {
                let text = "there is no such call; GET /v1/openapi.json describes all";
                Refusal::new(StatusCode::NOT_FOUND, "no_such_call", text)
            }
        }
    }
}

/// Finds the call of a method and a path.
pub(super) fn find(method: &Method, path: &str) -> Found {
    let Some(path) = path.strip_prefix("/v1/") else {
        return Found::Nothing;
    };
    let mut parts = path.split('/');
    let (first, second, third, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
    let (verb, call) = match (first.unwrap_or_default(), second, third) {
        ("leases", None, _) => ("POST", Call::Acquire),
        ("batch", None, _) => ("POST", Call::Batch),
        ("leases", Some(id), Some("renew")) => ("POST", Call::Renew(id.to_owned())),
        ("leases", Some(id), Some("release")) => ("POST", Call::Release(id.to_owned())),
        ("leases", Some(id), Some("arrived")) => ("POST", Call::Arrived(id.to_owned())),
        ("pools", None, _) => ("GET, HEAD", Call::Pools),
        ("pools", Some(name), None) => ("GET, HEAD", Call::Pool(name.to_owned())),
        ("openapi.json", None, _) => ("GET, HEAD", Call::OpenApi),
        _ => return Found::Nothing,
    };
    match *method {
        _ if rest.is_some() => Found::Nothing,
        Method::POST if verb == "POST" => Found::Call(call),
        Method::GET | Method::HEAD if verb != "POST" => Found::Call(call),
        _ => Found::OtherMethods(verb),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_a_method_and_a_path() {
        let id = || "keys-1".to_owned();
        for (method, path, found) in [
            (Method::POST, "/v1/leases", Found::Call(Call::Acquire)),
            (Method::GET, "/v1/leases", Found::OtherMethods("POST")),
            (
                Method::POST,
                "/v1/leases/keys-1/renew",
                Found::Call(Call::Renew(id())),
            ),
            (Method::POST, "/v1/leases/keys-1/renew/x", Found::Nothing),
            (Method::POST, "/v1/leases/keys-1", Found::Nothing),
            (
                Method::HEAD,
                "/v1/pools/keys-1",
                Found::Call(Call::Pool(id())),
            ),
            (
                Method::DELETE,
                "/v1/pools",
                Found::OtherMethods("GET, HEAD"),
            ),
            (Method::POST, "/v2/leases", Found::Nothing),
        ] {
            assert_eq!(find(&method, path), found, "{method} {path}");
        }
    }
}
