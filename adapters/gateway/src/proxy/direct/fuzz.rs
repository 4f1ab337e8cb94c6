//! Heads and bodies that are read without their connections, for the fuzzer.

use super::answer::{Added, parse};
use super::request::{self, Parsed};
use crate::proxy::framing::Framing;
use http::{HeaderMap, HeaderValue, Method};

/// Bytes of a line at most.
const MAX_LINE: usize = 64 * 1_024;
/// Fields of a head at most.
const MAX_FIELDS: usize = 100;

/// An answer as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectAnswer {
    /// The bytes of its head.
    pub head: usize,
    /// The head as the caller gets it.
    pub text: Vec<u8>,
    /// The bytes after the head that belong to the body.
    pub read: usize,
    /// Those of them that are content.
    pub content: u64,
    /// Whether the body's end was among them.
    pub has_ended: bool,
}

/// Returns the bytes of a request's head and of its body, if it is passed on without hyper.
#[must_use]
pub fn plain_request(bytes: &[u8]) -> Option<(usize, u64)> {
    let Parsed::Plain(plain) = request::parse(bytes, 0, MAX_FIELDS) else {
        return None;
    };
    // A connection's bytes are judged before they are parsed.
    let head = bytes.get(..plain.head)?;
    Framing::new(MAX_LINE).read(head).ok()?;
    Some((plain.head, plain.body))
}

/// Reads an answer of which `part` bytes come at a time; `None` if its head is none or its body has two meanings.
#[must_use]
pub fn read_answer(bytes: &[u8], part: usize, is_head: bool) -> Option<DirectAnswer> {
    let method = if is_head { Method::HEAD } else { Method::GET };
    let mut head = parse(bytes, &method, Vec::new).ok()??;
    let mut answer = DirectAnswer {
        head: head.length,
        text: head.text.with(&Added {
            request_id: &HeaderValue::from_static("id"),
            fields: HeaderMap::new(),
            closes: false,
        }),
        read: 0,
        content: 0,
        has_ended: false,
    };
    for part in bytes.get(head.length..)?.chunks(part.max(1)) {
        if head.body.has_come() {
            break;
        }
        let body = head.body.read(part).ok()?;
        answer.read = answer.read.saturating_add(body.read);
        answer.content = answer.content.saturating_add(body.content);
    }
    answer.has_ended = head.body.has_come();
    Some(answer)
}
