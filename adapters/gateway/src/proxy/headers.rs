//! The headers of a request and an answer as they are passed on.
//!
//! Invariant: no field that is meant for one connection is passed on (RFC 9110, section 7.6.1), and no caller can
//! have a field taken away that the gateway adds.

use bytes::{Bytes, BytesMut};
use core::cell::RefCell;
use core::net::IpAddr;
use http::header::{
    CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderValue};

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a new request id.
const ID: usize = 32;
/// Bytes in which a thread keeps its latest ids. One that lives long keeps as much memory.
const IDS_MEMORY: usize = 1_024;
/// Fields that the gateway adds to nearly all requests.
const ADDED: usize = 5;

thread_local! {
    /// Room for the thread's next request ids.
    static IDS: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(IDS_MEMORY));
}

/// Removes the fields that are for one connection, those that `connection` names among them.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    // Most heads have one such field or none, so that looking for it in a walk is cheaper than by each name.
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name.as_str())) {
        let name = name.clone();
        if name == TRANSFER_ENCODING {
            // Beside chunks, a length has no meaning (RFC 9112, section 6.3).
            headers.remove(CONTENT_LENGTH);
        }
        headers.remove(name);
    }
}

/// Returns a copy without the fields that are for one connection, and without others that are not wanted; it has room for
/// those that the gateway adds.
pub(crate) fn copied(headers: &HeaderMap, unwanted: impl Fn(&str) -> bool) -> HeaderMap {
    let named = named_by_connection(headers);
    let mut copied = HeaderMap::with_capacity(headers.len().saturating_add(ADDED));
    for (name, value) in headers {
        let text = name.as_str();
        if !is_hop_by_hop(text) && !unwanted(text) && !named.contains(name) {
            copied.append(name, value.clone());
        }
    }
    copied
}

/// Fields that are for one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 6] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Whether a field is for one connection.
pub(super) fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|one| one.eq_ignore_ascii_case(name))
}

/// Returns the fields that `connection` names and that are the other side's to take away.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    // Nearly all say one of these two words, which name no field.
    let values = headers.get_all(CONNECTION).iter();
    let lists = values.filter(|value| !matches!(value.as_bytes(), b"keep-alive" | b"close"));
    let tokens = lists
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !["keep-alive", "close"].contains(token));
    tokens
        .filter_map(|token| token.parse().ok())
        // A body's length, a host and what the gateway tells are not.
        .filter(|name: &HeaderName| !is_kept(name.as_str()))
        .collect()
}

/// Whether a field is passed on although `connection` names it.
pub(super) fn is_kept(name: &str) -> bool {
    let kept = [
        HOST,
        CONTENT_LENGTH,
        FORWARDED,
        TRAILER,
        X_FORWARDED_FOR,
        X_FORWARDED_HOST,
        X_FORWARDED_PROTO,
        X_REQUEST_ID,
    ];
    kept.iter()
        .any(|one| one.as_str().eq_ignore_ascii_case(name))
}

/// Returns a copy in memory of its own, because a value that was parsed holds the whole head that it came in.
pub(super) fn own(value: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

/// The other end of a connection, as backends are told of it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// The address as text.
    pub(crate) text: HeaderValue,
    /// The host that was asked for last, and the field `forwarded` for it: few connections ask for another.
    told: RefCell<Option<(HeaderValue, HeaderValue)>>,
}

impl Peer {
    /// Takes an address; one of IPv4 that is written as IPv6 is IPv4.
    pub(crate) fn new(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let text = HeaderValue::from_str(&address.to_string());
        Self {
            address,
            // Addresses are plain text.
            text: text.unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            told: RefCell::new(None),
        }
    }

    fn forwarded(&self, caller: &Caller<'_>) -> Option<HeaderValue> {
        if let (Some((host, told)), Some(asked)) = (&*self.told.borrow(), caller.host)
            && host == asked
        {
            return Some(told.clone());
        }
        let made = HeaderValue::from_str(&forwarded(caller, None)).ok()?;
        let host = caller.host.and_then(own);
        *self.told.borrow_mut() = host.map(|host| (host, made.clone()));
        Some(made)
    }
}

/// What a backend is told of the caller.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    /// The other end of the connection; `None` for a Unix socket.
    pub(crate) peer: Option<&'a Peer>,
    /// Whether that peer's word on its clients is passed on.
    pub(crate) is_trusted: bool,
    /// The scheme that the peer used.
    pub(crate) scheme: &'static str,
    /// The host that was asked for.
    pub(crate) host: Option<&'a HeaderValue>,
}

/// Makes the headers of a request that is passed on.
pub(crate) fn for_backend(
    headers: &HeaderMap,
    caller: &Caller<'_>,
    request_id: &HeaderValue,
) -> HeaderMap {
    let mut passed = HeaderMap::with_capacity(headers.len().saturating_add(ADDED));
    write_for_backend(headers, caller, request_id, |name, value| {
        passed.append(name.clone(), value.clone());
    });
    passed
}

/// Writes the headers of a request that is passed on. O(fields).
pub(super) fn write_for_backend(
    headers: &HeaderMap,
    caller: &Caller<'_>,
    request_id: &HeaderValue,
    mut write: impl FnMut(&HeaderName, &HeaderValue),
) {
    let named = named_by_connection(headers);
    let mut takes_trailers = false;
    for (name, value) in headers {
        match name.as_str() {
            "te" => takes_trailers |= has_token(headers, &TE, "trailers"),
            // What the gateway answers or tells itself.
            "expect"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "forwarded"
            | "x-forwarded-for"
            | "x-request-id" => {}
            "x-forwarded-proto" | "x-forwarded-host" if !caller.is_trusted => {}
            text if is_hop_by_hop(text) || named.contains(name) => {}
            _ => write(name, value),
        }
    }
    if takes_trailers {
        write(&TE, &HeaderValue::from_static("trailers"));
    }
    forward(headers, caller, &mut write);
    write(&X_REQUEST_ID, request_id);
}

/// Tells the caller's address, scheme and host, after what a trusted peer says of them.
fn forward(
    headers: &HeaderMap,
    caller: &Caller<'_>,
    write: &mut impl FnMut(&HeaderName, &HeaderValue),
) {
    let earlier = |name: HeaderName| {
        let told = caller.is_trusted.then(|| joined(headers, &name));
        told.flatten()
    };
    let path = match (earlier(X_FORWARDED_FOR), caller.peer) {
        (None, peer) => peer.map(|peer| peer.text.clone()),
        (Some(path), None) => HeaderValue::from_str(&path).ok(),
        (Some(path), Some(peer)) => {
            HeaderValue::from_str(&format!("{path}, {}", peer.address)).ok()
        }
    };
    let told = match (earlier(FORWARDED), caller.peer) {
        (None, Some(peer)) => peer.forwarded(caller),
        (earlier, _) => HeaderValue::from_str(&forwarded(caller, earlier)).ok(),
    };
    // A trusted peer's own words on these were passed on.
    let is_told = |name: &HeaderName| caller.is_trusted && headers.contains_key(name);
    let scheme = HeaderValue::from_static(caller.scheme);
    let scheme = Some(scheme).filter(|_| !is_told(&X_FORWARDED_PROTO));
    let host = caller.host.filter(|_| !is_told(&X_FORWARDED_HOST));
    for (name, value) in [
        (X_FORWARDED_FOR, path.as_ref()),
        (FORWARDED, told.as_ref()),
        (X_FORWARDED_PROTO, scheme.as_ref()),
        (X_FORWARDED_HOST, host),
    ] {
        if let Some(value) = value {
            write(&name, value);
        }
    }
}

/// One element of RFC 7239, after earlier ones.
fn forwarded(caller: &Caller<'_>, earlier: Option<String>) -> String {
    let node = match caller.peer.map(|peer| peer.address) {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
        None => "unknown".to_owned(),
    };
    let mut text = earlier.map(|earlier| earlier + ", ").unwrap_or_default();
    text.push_str("for=");
    text.push_str(&node);
    text.push_str(";proto=");
    text.push_str(caller.scheme);
    let host = caller.host.and_then(|host| host.to_str().ok());
    if let Some(host) = host.filter(|host| !host.contains(['"', '\\'])) {
        text.push_str(";host=\"");
        text.push_str(host);
        text.push('"');
    }
    text
}

/// Returns the values of a field that is a list, as one.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?;
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let text = values.collect::<Vec<_>>().join(", ");
    (!text.is_empty()).then_some(text)
}

/// Whether a field that is a list has a token.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| one.trim().eq_ignore_ascii_case(token))
}

/// Returns a new request id.
pub(crate) fn new_request_id() -> HeaderValue {
    let id = HeaderValue::from_maybe_shared(new_id());
    id.unwrap_or_else(|_| HeaderValue::from_static("none"))
}

/// Draws an id of 32 digits. The thread's latest ids are in one piece of memory, so that few of them allocate.
fn new_id() -> Bytes {
    let random = fastrand::u128(..).to_be_bytes();
    let digit = |half: u8| match half {
        0..=9 => half.saturating_add(b'0'),
        _ => half.saturating_add(b'a' - 10),
    };
    let mut id = [0; ID];
    for (pair, byte) in id.as_chunks_mut().0.iter_mut().zip(random) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    IDS.with_borrow_mut(|ids| {
        ids.extend_from_slice(&id);
        ids.split().freeze()
    })
}

/// Returns the address of the client: the last one in the chain of forwarders that is not trusted itself.
///
/// Without a trusted peer, that is the peer. O(forwarders).
pub(crate) fn client_address(
    headers: &HeaderMap,
    peer: IpAddr,
    trusts: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusts(client) {
        return client;
    }
    let Some(path) = joined(headers, &X_FORWARDED_FOR) else {
        return client;
    };
    for hop in path.rsplit(',') {
        let Some(address) = address_of(hop.trim()) else {
            break;
        };
        client = address;
        if !trusts(client) {
            break;
        }
    }
    client
}

/// Reads an address with or without a port.
fn address_of(text: &str) -> Option<IpAddr> {
    let plain = text.trim_matches(['[', ']']).parse::<IpAddr>();
    let address = plain.or_else(|_| text.parse::<core::net::SocketAddr>().map(|both| both.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::super::fields::Fields;
    use super::*;

    fn request_id(headers: &HeaderMap) -> HeaderValue {
        Fields::of(headers).request_id()
    }

    fn headers(rows: &[(&'static str, &'static str)]) -> HeaderMap {
        let rows = rows.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            headers.append(name, value);
        }
        headers
    }

    fn passed(rows: &[(&'static str, &'static str)], is_trusted: bool) -> HeaderMap {
        let host = HeaderValue::from_static("a.test");
        let peer = Peer::new("192.0.2.7".parse().unwrap());
        let caller = Caller {
            peer: Some(&peer),
            is_trusted,
            scheme: "http",
            host: Some(&host),
        };
        for_backend(&headers(rows), &caller, &HeaderValue::from_static("id"))
    }

    #[test]
    fn fields_of_one_connection_are_not_passed_on() {
        let passed = passed(
            &[
                ("connection", "keep-alive, x-secret, Content-Length, host"),
                ("keep-alive", "timeout=5"),
                ("x-secret", "1"),
                ("content-length", "0"),
                ("host", "a.test"),
                ("te", "gzip, trailers"),
                ("upgrade", "h2c"),
                ("proxy-authorization", "Basic x"),
                ("expect", "100-continue"),
                ("accept", "*/*"),
            ],
            false,
        );
        let mut names: Vec<_> = passed.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let forwarded = [
            "forwarded",
            "host",
            "te",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
        ];
        assert_eq!(
            names,
            [
                &["accept", "content-length"],
                &forwarded[..],
                &["x-request-id"]
            ]
            .concat()
        );
        assert_eq!(passed[TE], "trailers");
    }

    #[test]
    fn an_untrusted_peer_cannot_speak_for_others() {
        let lies = [
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.test"),
        ];
        let told = passed(&lies, false);
        assert_eq!(told[X_FORWARDED_FOR], "192.0.2.7");
        assert_eq!(told[FORWARDED], "for=192.0.2.7;proto=http;host=\"a.test\"");
        assert_eq!(told[X_FORWARDED_PROTO], "http");
        assert_eq!(told[X_FORWARDED_HOST], "a.test");
        let trusted = passed(&lies, true);
        assert_eq!(trusted[X_FORWARDED_FOR], "1.2.3.4, 192.0.2.7");
        assert_eq!(
            trusted[FORWARDED],
            "for=1.2.3.4, for=192.0.2.7;proto=http;host=\"a.test\""
        );
        assert_eq!(trusted[X_FORWARDED_PROTO], "https");
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_a_proxy() {
        let trusts = |address: IpAddr| address.to_string().starts_with("10.");
        for (peer, path, client) in [
            ("192.0.2.7", "1.1.1.1", "192.0.2.7"),
            ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
            ("10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
            ("10.0.0.1", "unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "[2001:db8::1]:80", "2001:db8::1"),
            ("10.0.0.1", "::ffff:1.1.1.1", "1.1.1.1"),
            ("::ffff:10.0.0.1", "1.1.1.1:443", "1.1.1.1"),
        ] {
            let headers = headers(&[("x-forwarded-for", path)]);
            let found = client_address(&headers, peer.parse().unwrap(), trusts);
            assert_eq!(found.to_string(), client, "{path}");
        }
    }

    #[test]
    fn only_a_plain_id_is_taken_from_a_caller() {
        assert_eq!(request_id(&headers(&[("x-request-id", "abc-1")])), "abc-1");
        for bad in ["", "a b", "\t"] {
            assert_eq!(
                request_id(&headers(&[("x-request-id", bad)])).len(),
                32,
                "{bad:?}"
            );
        }
    }
}
