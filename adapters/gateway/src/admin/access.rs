//! Access to the admin interface: the requests that may read, and those that may change things.
//!
//! Invariant: without the token, only a program on this machine is answered, and no page of another site that a
//! browser on this machine shows. A page is told by its `Origin`, a name that was rebound to this machine by its
//! `Host`, and a stranger behind a proxy by the fields that proxies add.
//!
//! A proxy on this machine that adds no such field, keeps to HTTP/1.1 and asks for `localhost` can't be told from a
//! program: its strangers may read. They can change nothing unless [`Rules::open_on_loopback`] is set.

use core::net::IpAddr;
use http::header::{AUTHORIZATION, FORWARDED, HOST, HeaderName, ORIGIN, VIA};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Version};
use leasehold_config::Token;
use sha2::{Digest, Sha256};

/// Fields by which proxies tell of their clients, besides `Forwarded`, `Via` and all of `X-Forwarded-*`.
const FORWARDING: [&str; 14] = [
    "cf-connecting-ip",
    "cf-ray",
    "client-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded-for",
    "true-client-ip",
    "x-azure-clientip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-original-forwarded-for",
    "x-original-host",
    "x-real-ip",
];

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: it tells whether the gateway lives.
    Nothing,
    /// To read.
    Read,
    /// To change something.
    Change,
}

/// The rules in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    /// The admin's token.
    pub(crate) token: Option<&'a Token>,
    /// Whether programs on this machine may change things without it.
    pub(crate) open_on_loopback: bool,
}

/// The sender of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    /// Its address; `None` for a Unix socket.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) version: Version,
    pub(crate) headers: &'a HeaderMap,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("a page of another site may not use the admin interface")]
    Origin,
    #[error("the admin token is wrong")]
    WrongToken,
    #[error("the admin interface is not for this address; send the admin token")]
    Stranger,
    #[error("the request came through a proxy; send the admin token")]
    Forwarded,
    #[error("the Host is not this machine's; ask for localhost, or send the admin token")]
    Host,
    #[error("changes need the admin token, as Authorization: Bearer")]
    NoToken,
    #[error("no admin token is set, so that nothing can be changed; set token_file under [admin]")]
    NoTokenSet,
}

/// Decides whether a request may do what its call needs.
pub(crate) fn check(rules: Rules<'_>, sender: Sender<'_>, need: Need) -> Result<(), Denied> {
    if need == Need::Nothing {
        return Ok(());
    }
    let host = sender.headers.get(HOST);
    let mut origins = sender.headers.get_all(ORIGIN).iter();
    if origins.any(|origin| !is_own(origin, host)) {
        return Err(Denied::Origin);
    }
    if let Some(token) = rules.token
        && let Some(given) = given_token(sender.headers)
    {
        return match given.is_ok_and(|given| is_same(token, given)) {
            true => Ok(()),
            false => Err(Denied::WrongToken),
        };
    }
    check_local(sender, host)?;
    match need {
        Need::Change if rules.open_on_loopback => Ok(()),
        Need::Change if rules.token.is_some() => Err(Denied::NoToken),
        Need::Change => Err(Denied::NoTokenSet),
        Need::Read | Need::Nothing => Ok(()),
    }
}

/// Whether the sender is a program on this machine, as far as can be told.
fn check_local(sender: Sender<'_>, host: Option<&HeaderValue>) -> Result<(), Denied> {
    if sender
        .peer
        .is_some_and(|peer| !peer.to_canonical().is_loopback())
    {
        return Err(Denied::Stranger);
    }
    // nginx speaks HTTP/1.0 to its upstreams by default, and adds no field.
    if sender.version == Version::HTTP_10 || sender.headers.keys().any(is_forwarding) {
        return Err(Denied::Forwarded);
    }
    match host.is_some_and(is_loopback) {
        true => Ok(()),
        false => Err(Denied::Host),
    }
}

fn is_forwarding(name: &HeaderName) -> bool {
    *name == FORWARDED
        || *name == VIA
        || name.as_str().starts_with("x-forwarded")
        || FORWARDING.contains(&name.as_str())
}

/// Whether an origin is the host that the request asks for.
fn is_own(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let origin = origin.as_bytes();
    let schemes: [&[u8]; 2] = [b"http://", b"https://"];
    let authority = schemes
        .into_iter()
        .find_map(|scheme| origin.strip_prefix(scheme));
    match (authority, host) {
        (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host.as_bytes()),
        (Some(_) | None, Some(_) | None) => false,
    }
}

fn is_loopback(host: &HeaderValue) -> bool {
    let authority = host.to_str().ok().and_then(|host| host.parse().ok());
    authority.is_some_and(|authority: Authority| {
        let name = authority.host().trim_matches(['[', ']']);
        let address = name.parse::<IpAddr>();
        name.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address| address.to_canonical().is_loopback())
    })
}

/// Returns the token that a request presents; an error if it presents several.
fn given_token(headers: &HeaderMap) -> Option<Result<&[u8], Denied>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (scheme, rest) = values.next()?.as_bytes().split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    Some(match values.next() {
        Some(_) => Err(Denied::WrongToken),
        None => Ok(rest.trim_ascii()),
    })
}

/// Compares digests, so that the time that it takes tells nothing of the token.
pub(crate) fn is_same(token: &Token, given: &[u8]) -> bool {
    Sha256::digest(token.reveal().as_bytes()) == Sha256::digest(given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Need::{Change, Nothing, Read};

    const TOKEN: &str = "a-token-of-some-length";
    const LOCAL: &str = "127.0.0.1";
    const STRANGER: &str = "192.0.2.7";
    const HOST_OK: (&str, &str) = ("host", "localhost:8080");
    const BEARER: (&str, &str) = ("authorization", "Bearer a-token-of-some-length");

    fn judge(
        rules: (Option<&str>, bool),
        peer: &str,
        version: Version,
        headers: &[(&'static str, &str)],
        need: Need,
    ) -> Result<(), Denied> {
        let token = rules.0.map(Token::new);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let rules = Rules {
            token: token.as_ref(),
            open_on_loopback: rules.1,
        };
        let sender = Sender {
            peer: (peer != "unix").then(|| peer.parse().unwrap()),
            version,
            headers: &map,
        };
        check(rules, sender, need)
    }

    #[test]
    fn programs_on_this_machine_read_and_the_token_does_all() {
        let closed = (Some(TOKEN), false);
        let no_token = (None, false);
        let open = (None, true);
        let rows = [
            // peer, rules, need, further fields, expected
            (LOCAL, closed, Read, vec![HOST_OK], Ok(())),
            ("127.8.8.8", closed, Read, vec![HOST_OK], Ok(())),
            ("::1", closed, Read, vec![("host", "[::1]:80")], Ok(())),
            (
                "::ffff:127.0.0.1",
                closed,
                Read,
                vec![("host", "127.0.0.1")],
                Ok(()),
            ),
            ("unix", closed, Read, vec![HOST_OK], Ok(())),
            (LOCAL, closed, Change, vec![HOST_OK], Err(Denied::NoToken)),
            ("unix", closed, Change, vec![HOST_OK], Err(Denied::NoToken)),
            (LOCAL, closed, Change, vec![HOST_OK, BEARER], Ok(())),
            (
                STRANGER,
                closed,
                Change,
                vec![("host", "lb.test"), BEARER],
                Ok(()),
            ),
            (
                STRANGER,
                closed,
                Read,
                vec![("host", "lb.test"), BEARER],
                Ok(()),
            ),
            (STRANGER, closed, Read, vec![HOST_OK], Err(Denied::Stranger)),
            (
                STRANGER,
                closed,
                Change,
                vec![HOST_OK],
                Err(Denied::Stranger),
            ),
            (STRANGER, open, Change, vec![HOST_OK], Err(Denied::Stranger)),
            (
                STRANGER,
                no_token,
                Read,
                vec![HOST_OK, BEARER],
                Err(Denied::Stranger),
            ),
            (STRANGER, closed, Nothing, vec![("host", "lb.test")], Ok(())),
            (
                LOCAL,
                no_token,
                Change,
                vec![HOST_OK],
                Err(Denied::NoTokenSet),
            ),
            (
                LOCAL,
                no_token,
                Change,
                vec![HOST_OK, BEARER],
                Err(Denied::NoTokenSet),
            ),
            (LOCAL, no_token, Read, vec![HOST_OK, BEARER], Ok(())),
            (LOCAL, open, Change, vec![HOST_OK], Ok(())),
            (
                LOCAL,
                open,
                Change,
                vec![("host", "evil.test")],
                Err(Denied::Host),
            ),
            (LOCAL, (Some(TOKEN), true), Change, vec![HOST_OK], Ok(())),
        ];
        for (peer, rules, need, headers, expected) in rows {
            let judged = judge(rules, peer, Version::HTTP_11, &headers, need);
            assert_eq!(judged, expected, "{peer} {rules:?} {need:?} {headers:?}");
        }
    }

    #[test]
    fn a_wrong_token_opens_nothing() {
        let wrong = [
            "Bearer ",
            "Bearer a-token-of-some-lengt",
            "Bearer a-token-of-some-length2",
            "bearer A-token-of-some-length",
        ];
        for value in wrong {
            for need in [Read, Change] {
                let headers = [HOST_OK, ("authorization", value)];
                let judged = judge((Some(TOKEN), true), LOCAL, Version::HTTP_11, &headers, need);
                assert_eq!(judged, Err(Denied::WrongToken), "{value:?}");
            }
        }
        let twice = [HOST_OK, BEARER, BEARER];
        let judged = judge((Some(TOKEN), false), LOCAL, Version::HTTP_11, &twice, Read);
        assert_eq!(judged, Err(Denied::WrongToken));
        // Another scheme is no token.
        let basic = [HOST_OK, ("authorization", "Basic YTpi")];
        let judged = judge((Some(TOKEN), false), LOCAL, Version::HTTP_11, &basic, Read);
        assert_eq!(judged, Ok(()));
    }

    #[test]
    fn a_stranger_behind_a_proxy_on_this_machine_is_told_apart() {
        for name in FORWARDING.into_iter().chain([
            "forwarded",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-forwarded-prefix",
        ]) {
            let headers = [HOST_OK, (name, "192.0.2.7")];
            for peer in [LOCAL, "unix"] {
                let judged = judge((None, true), peer, Version::HTTP_11, &headers, Read);
                assert_eq!(judged, Err(Denied::Forwarded), "{name}");
            }
            let headers = [HOST_OK, (name, "192.0.2.7"), BEARER];
            let judged = judge(
                (Some(TOKEN), false),
                LOCAL,
                Version::HTTP_11,
                &headers,
                Change,
            );
            assert_eq!(judged, Ok(()), "{name}");
        }
        let judged = judge((None, true), LOCAL, Version::HTTP_10, &[HOST_OK], Read);
        assert_eq!(judged, Err(Denied::Forwarded));
    }

    #[test]
    fn a_name_that_was_rebound_to_this_machine_is_refused() {
        for host in [
            "evil.test",
            "localhost.evil.test",
            "192.0.2.7",
            "127.0.0.1.evil.test",
        ] {
            let judged = judge(
                (None, true),
                LOCAL,
                Version::HTTP_11,
                &[("host", host)],
                Read,
            );
            assert_eq!(judged, Err(Denied::Host), "{host}");
        }
        let judged = judge((None, true), LOCAL, Version::HTTP_11, &[], Read);
        assert_eq!(judged, Err(Denied::Host));
    }

    #[test]
    fn a_page_of_another_site_is_refused_with_any_token() {
        let foreign = [
            "null",
            "http://evil.test",
            "http://localhost",
            "http://localhost:80",
            "ftp://localhost:8080",
            "http://localhost:8080/",
        ];
        for origin in foreign {
            for need in [Read, Change] {
                let headers = [HOST_OK, ("origin", origin), BEARER];
                let judged = judge((Some(TOKEN), true), LOCAL, Version::HTTP_11, &headers, need);
                assert_eq!(judged, Err(Denied::Origin), "{origin}");
            }
        }
        for own in ["http://localhost:8080", "https://LOCALHOST:8080"] {
            let headers = [HOST_OK, ("origin", own)];
            let judged = judge((None, true), LOCAL, Version::HTTP_11, &headers, Change);
            assert_eq!(judged, Ok(()), "{own}");
        }
        let both = [
            HOST_OK,
            ("origin", "http://localhost:8080"),
            ("origin", "http://evil.test"),
        ];
        let judged = judge((None, true), LOCAL, Version::HTTP_11, &both, Read);
        assert_eq!(judged, Err(Denied::Origin));
    }
}
