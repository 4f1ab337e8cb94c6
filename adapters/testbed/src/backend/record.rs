//! Records of the requests that arrived, for tests that compare what was sent with what arrived.
//!
//! Invariant: the kept requests are at most as many as configured, and at most [`MAX_BYTES`] in all.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use hyper::body::{Bytes, Frame};
use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use serde::{Serialize, Serializer};

/// Most bytes that are kept, of all requests together.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// About what a header or a request takes beside its text.
const OVERHEAD: usize = 64;

/// A request that arrived, as the server read it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SeenRequest {
    /// Number of the request on this backend, from 1 on, in the order of their heads.
    pub number: u64,
    /// Number of the connection, from 1 on.
    pub connection: u64,
    /// The method.
    pub method: String,
    /// The target as it was sent: path and query, or a whole URI.
    pub target: String,
    /// The version, such as `HTTP/1.1`.
    pub version: String,
    /// Names, in lower case, and values of the headers. Lines of the same name are together, in their order.
    #[serde(serialize_with = "as_texts")]
    pub headers: Vec<(String, Vec<u8>)>,
    /// The beginning of the body, as long as configured.
    #[serde(serialize_with = "as_text")]
    pub body: Vec<u8>,
    /// Length of the body that arrived, in bytes.
    pub body_length: u64,
    /// Names and values of the trailers.
    #[serde(serialize_with = "as_texts")]
    pub trailers: Vec<(String, Vec<u8>)>,
    /// Whether the body was read to its end.
    pub is_complete: bool,
}

impl SeenRequest {
    pub(super) fn new(number: u64, connection: u64, head: &Parts) -> Self {
        Self {
            number,
            connection,
            method: head.method.to_string(),
            target: head.uri.to_string(),
            version: format!("{:?}", head.version),
            headers: lines(&head.headers),
            body: Vec::new(),
            body_length: 0,
            trailers: Vec::new(),
            is_complete: false,
        }
    }

    /// Adds a part of the body, of which at most `most` bytes are kept.
    pub(super) fn note(&mut self, frame: &Frame<Bytes>, most: usize) {
        if let Some(data) = frame.data_ref() {
            self.body_length += data.len() as u64;
            let room = most.saturating_sub(self.body.len()).min(data.len());
            self.body.extend_from_slice(&data[..room]);
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = lines(trailers);
        }
    }

    /// The value of a header; the first, if there are several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.iter();
        let line = lines.find(|(known, _)| known.eq_ignore_ascii_case(name));
        line.and_then(|(_, value)| core::str::from_utf8(value).ok())
    }

    fn size(&self) -> usize {
        let lines = self.headers.iter().chain(&self.trailers);
        let lines = lines.map(|(name, value)| OVERHEAD + name.len() + value.len());
        OVERHEAD + self.target.len() + self.body.capacity() + lines.sum::<usize>()
    }
}

fn lines(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let line = headers.iter();
    line.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

fn as_text<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&String::from_utf8_lossy(bytes))
}

fn as_texts<S: Serializer>(lines: &[(String, Vec<u8>)], to: S) -> Result<S::Ok, S::Error> {
    let line = lines.iter();
    to.collect_seq(line.map(|(name, value)| (name, String::from_utf8_lossy(value))))
}

/// The last requests.
#[derive(Debug)]
pub(super) struct Records {
    most: usize,
    kept: VecDeque<Arc<SeenRequest>>,
    bytes: usize,
}

impl Records {
    pub(super) const fn new(most: usize) -> Self {
        Self {
            most,
            kept: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Adds a request, and forgets the oldest ones if they are too many or too large.
    pub(super) fn push(&mut self, request: SeenRequest) {
        self.bytes += request.size();
        self.kept.push_back(Arc::new(request));
        while self.kept.len() > self.most || self.bytes > MAX_BYTES {
            let Some(oldest) = self.kept.pop_front() else {
                return;
            };
            self.bytes -= oldest.size();
        }
    }

    /// Returns the kept requests in the order of their heads.
    pub(super) fn list(&self) -> Vec<Arc<SeenRequest>> {
        let mut list: Vec<_> = self.kept.iter().cloned().collect();
        list.sort_by_key(|request| request.number);
        list
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u64, body: usize) -> SeenRequest {
        let (head, ()) = hyper::Request::new(()).into_parts();
        let mut request = SeenRequest::new(number, 1, &head);
        request.note(&Frame::data(Bytes::from(vec![0; body])), usize::MAX);
        request
    }

    #[test]
    fn the_oldest_requests_are_forgotten_by_number_and_by_size() {
        let mut records = Records::new(3);
        for number in [2, 1, 4, 3] {
            records.push(request(number, 10));
        }
        let numbers = |records: &Records| {
            let list = records.list();
            list.iter().map(|seen| seen.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&records), [1, 3, 4]);

        let mut records = Records::new(1_000);
        for number in 0..100 {
            records.push(request(number, 1 << 20));
            assert!(records.bytes <= MAX_BYTES);
        }
        assert_eq!(numbers(&records).last(), Some(&99));
        let kept: usize = records.list().iter().map(|seen| seen.body.len()).sum();
        assert_eq!(kept, 63 << 20);
        records.clear();
        assert_eq!((records.bytes, records.list().len()), (0, 0));
    }

    #[test]
    fn a_long_body_is_counted_whole_and_kept_in_part() {
        let mut seen = request(1, 0);
        for _ in 0..3 {
            seen.note(&Frame::data(Bytes::from_static(b"abcd")), 6);
        }
        assert_eq!(
            (seen.body.as_slice(), seen.body_length),
            (&b"abcdab"[..], 12)
        );
    }
}
