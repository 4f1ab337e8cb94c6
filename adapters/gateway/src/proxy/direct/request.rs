//! A request's head, and whether the request is plain.
//!
//! Invariant: a plain request's end is known from its head, and a field that a proxy acts upon is read here or makes the
//! request one that is not plain.

use bytes::Bytes;
use core::mem::MaybeUninit;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use httparse::Status;

/// Fields of a head that is read here; one with more is left to hyper.
const MAX_FIELDS: usize = 64;

/// A request of HTTP/1.1 without a body or with one of known length, for no other protocol.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) parts: Parts,
    /// The bytes of the head.
    pub(super) head: usize,
    /// The bytes of the body.
    pub(super) body: u64,
    /// Whether the caller wants no other answer on this connection.
    pub(super) closes: bool,
}

/// The meaning of the first bytes of a connection.
pub(super) enum Parsed {
    Plain(Box<Plain>),
    /// A part of a head.
    Partial,
    /// A request that is not plain, or none at all.
    Other,
}

/// Reads the head at the start of some bytes, in whose first `searched` is no end of one. O(bytes).
pub(super) fn parse(bytes: &[u8], searched: usize, max_fields: usize) -> Parsed {
    let Some(end) = end_of_head(bytes, searched) else {
        return Parsed::Partial;
    };
    let head = Bytes::copy_from_slice(bytes.get(..end).unwrap_or(bytes));
    match plain(&head, max_fields.min(MAX_FIELDS)) {
        Some(plain) => Parsed::Plain(plain),
        None => Parsed::Other,
    }
}

/// Returns the length of a head, in whose first `searched` bytes is no end.
fn end_of_head(bytes: &[u8], searched: usize) -> Option<usize> {
    let unsearched = bytes.get(searched..)?;
    let mut ends = memchr::memchr_iter(b'\n', unsearched).map(|end| searched.saturating_add(end));
    let end = ends.find(|end| {
        bytes
            .get(..=*end)
            .is_some_and(|head| head.ends_with(b"\r\n\r\n"))
    });
    end.map(|end| end.saturating_add(1))
}

fn plain(head: &Bytes, max_fields: usize) -> Option<Box<Plain>> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed.parse_with_uninit_headers(head, &mut fields).ok()?;
    if status != Status::Complete(head.len())
        || parsed.version != Some(1)
        || parsed.headers.len() > max_fields
    {
        return None;
    }
    let path = parsed.path?;
    let mut plain = Box::new(Plain {
        parts: Request::new(()).into_parts().0,
        head: head.len(),
        body: 0,
        closes: false,
    });
    plain.parts.method = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    plain.parts.uri = Uri::from_maybe_shared(head.slice_ref(path.as_bytes())).ok()?;
    plain.parts.version = Version::HTTP_11;
    if !path.starts_with('/') || plain.parts.method == Method::CONNECT {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for field in &*parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        match name {
            TRANSFER_ENCODING | UPGRADE | EXPECT => return None,
            CONNECTION if field.value.eq_ignore_ascii_case(b"close") => plain.closes = true,
            CONNECTION if !field.value.eq_ignore_ascii_case(b"keep-alive") => return None,
            CONTENT_LENGTH => plain.body = str::from_utf8(field.value).ok()?.parse().ok()?,
            _ => {}
        }
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).ok()?;
        headers.append(name, value);
    }
    plain.parts.headers = headers;
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::framing::{Framing, Place};
    use proptest::prelude::*;

    fn is_plain(request: &str) -> bool {
        matches!(parse(request.as_bytes(), 0, 100), Parsed::Plain(_))
    }

    #[test]
    fn what_a_proxy_acts_upon_is_left_to_hyper() {
        for fields in [
            "",
            "connection: Keep-Alive\r\n",
            "connection: close\r\n",
            "content-length: 3\r\n",
            "te: trailers\r\n",
            "cookie: a=b\r\nx-request-id: 1\r\n",
        ] {
            assert!(
                is_plain(&format!("GET /a?b HTTP/1.1\r\nhost: h\r\n{fields}\r\n")),
                "{fields:?}"
            );
        }
        for fields in [
            "transfer-encoding: chunked\r\n",
            "upgrade: websocket\r\nconnection: upgrade\r\n",
            "upgrade: h2c\r\n",
            "expect: 100-continue\r\n",
            "connection: x-hop\r\n",
            "connection: keep-alive, te\r\n",
            "content-length: x\r\n",
            "a b: c\r\n",
        ] {
            assert!(
                !is_plain(&format!("GET /a?b HTTP/1.1\r\nhost: h\r\n{fields}\r\n")),
                "{fields:?}"
            );
        }
        for line in [
            "GET /a HTTP/1.0",
            "GET http://h/a HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "CONNECT h:80 HTTP/1.1",
            "CONNECT /a HTTP/1.1",
            "GET  /a HTTP/1.1",
            "GET /a",
        ] {
            assert!(!is_plain(&format!("{line}\r\nhost: h\r\n\r\n")), "{line:?}");
        }
        let many = "x: y\r\n".repeat(MAX_FIELDS + 1);
        assert!(!is_plain(&format!("GET /a HTTP/1.1\r\n{many}\r\n")));
    }

    /// Bytes of a connection, of which most are heads of requests.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => Just("GET / HTTP/1.1\r\n"),
            2 => Just("POST /a HTTP/1.1\r\n"),
            3 => Just("host: h\r\n"),
            2 => Just("content-length: 3\r\n"),
            1 => Just("content-length: 0\r\n"),
            1 => Just("transfer-encoding: chunked\r\n"),
            1 => Just("upgrade: h2c\r\n"),
            1 => Just("x: y\n"),
            6 => Just("\r\n"),
            1 => Just("abc"),
            1 => Just("\n"),
            1 => Just("\r"),
            1 => Just(":"),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn a_plain_request_ends_where_its_framing_says(bytes in pieces()) {
            let mut framing = Framing::new(1_024);
            if framing.read(&bytes).is_ok() && let Parsed::Plain(plain) = parse(&bytes, 0, 100) {
                let mut request = bytes[..plain.head].to_vec();
                for has_come in 0..=plain.body {
                    let mut framing = Framing::new(1_024);
                    prop_assert!(framing.read(&request).is_ok());
                    let place = if has_come == plain.body { Place::Start } else { Place::Body };
                    prop_assert_eq!(framing.place(), place);
                    request.push(b'a');
                }
            }
        }

        #[test]
        fn where_reads_end_makes_no_difference(bytes in pieces(), searched in 0..40_usize) {
            let searched = searched.min(bytes.len());
            prop_assume!(end_of_head(&bytes[..searched], 0).is_none());
            prop_assert_eq!(end_of_head(&bytes, searched), end_of_head(&bytes, 0));
        }
    }
}
