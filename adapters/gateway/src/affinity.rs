//! Which session a request belongs to.
//!
//! Invariant: a cookie that names no session begins a new one, and never breaks a request.

use core::net::IpAddr;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use leasehold_config::{Affinity, AffinityKey};
use leasehold_core::balance::stable_hash;

/// The session of a request.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// The number under which the pool knows it; `None` where requests have no sessions.
    pub(crate) number: Option<u64>,
    /// The cookie that begins it.
    pub(crate) cookie: Option<HeaderValue>,
}

impl Session {
    /// Finds the session of a request, or begins one.
    pub(crate) fn of(
        affinity: Option<&Affinity>,
        headers: &HeaderMap,
        client: Option<IpAddr>,
    ) -> Self {
        let Some(affinity) = affinity else {
            return Self::default();
        };
        match &affinity.by {
            AffinityKey::Address => Self {
                number: client.map(|client| stable_hash(client.to_string().as_bytes())),
                cookie: None,
            },
            AffinityKey::Cookie(name) => {
                match cookie(headers, name).and_then(|text| u64::from_str_radix(text, 16).ok()) {
                    Some(number) => Self {
                        number: Some(number),
                        cookie: None,
                    },
                    None => begin(name, affinity),
                }
            }
        }
    }
}

fn begin(name: &str, affinity: &Affinity) -> Session {
    let number = fastrand::u64(..);
    let seconds = affinity.ttl.as_secs();
    let cookie = format!("{name}={number:016x}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Lax");
    Session {
        number: Some(number),
        cookie: HeaderValue::from_str(&cookie).ok(),
    }
}

pub(crate) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut pairs = lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroU32;
    use core::time::Duration;

    #[test]
    fn a_session_lasts_as_long_as_its_cookie_is_sent() {
        let affinity = Affinity {
            by: AffinityKey::Cookie("lb".to_owned()),
            ttl: Duration::from_secs(3_600),
            capacity: NonZeroU32::MIN,
        };
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_static("lb=nonsense; a=b"));
        let begun = Session::of(Some(&affinity), &headers, None);
        let cookie = begun.cookie.unwrap();
        let text = cookie.to_str().unwrap();
        assert!(
            text.ends_with("; Max-Age=3600; Path=/; HttpOnly; SameSite=Lax"),
            "{text}"
        );
        let pair = text.split(';').next().unwrap();
        headers.insert(
            COOKIE,
            HeaderValue::from_str(&format!("a=b; {pair}")).unwrap(),
        );
        let again = Session::of(Some(&affinity), &headers, None);
        assert_eq!((again.number, again.cookie), (begun.number, None));
    }
}
