//! Headers that are passed on without a request, for the fuzzer.

use super::headers::{Caller, Peer, client_address, for_backend};
use core::net::IpAddr;
use http::header::HOST;
use http::{HeaderMap, HeaderValue};

/// Returns what a backend gets for these headers from this peer, and the client's address as the gateway sees it.
#[must_use]
pub fn pass_headers_on(headers: &HeaderMap, peer: IpAddr, is_trusted: bool) -> (HeaderMap, IpAddr) {
    let client = client_address(headers, peer, |hop| is_trusted && hop == peer);
    let peer = Peer::new(peer);
    let caller = Caller {
        peer: Some(&peer),
        is_trusted,
        scheme: "http",
        host: headers.get(HOST),
    };
    let id = HeaderValue::from_static("id");
    (for_backend(headers, &caller, &id), client)
}
