//! A backend's answer: its head, and where its body ends.
//!
//! Invariant: an answer that is passed on ends in one way only (RFC 9112, section 6.3), and no field of its head that is
//! meant for one connection reaches the caller.

use super::text::{write_date, write_field, write_fields, write_status};
use crate::proxy::framing::{BodyBytes, Framing, Place, SoundBytes, number};
use crate::proxy::headers::{X_REQUEST_ID, is_hop_by_hop, is_kept};
use core::mem::MaybeUninit;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use httparse::{Header, Status};

/// Fields of an answer.
const MAX_FIELDS: usize = 128;
/// Bytes that the gateway adds to most heads.
const ADDED: usize = 128;
/// Bytes of a chunk's size with its extensions, and of a trailer.
const MAX_LINE: usize = 16 * 1_024;

/// Why an answer is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadAnswer {
    #[error("the backend did not answer in HTTP/1: {0}")]
    NotHttp(#[from] httparse::Error),
    #[error("the end of the backend's answer could be read in two ways")]
    Ambiguous,
    #[error("the head of the backend's answer is too long")]
    TooLong,
    #[error("the backend switched to a protocol that was not asked for")]
    Switched,
}

/// An answer's head.
#[derive(Debug)]
pub(super) struct AnswerHead {
    pub(super) status: StatusCode,
    /// The bytes of the head.
    pub(super) length: usize,
    pub(super) body: AnswerEnd,
    /// Whether the backend takes another request on the connection.
    pub(super) is_kept: bool,
    pub(super) text: HeadText,
}

/// A head as the caller gets it, without what the gateway adds.
#[derive(Debug)]
pub(super) struct HeadText {
    bytes: Vec<u8>,
    has_date: bool,
}

/// The end of an answer's body.
#[derive(Debug)]
pub(super) enum AnswerEnd {
    /// After these bytes.
    Sized(u64),
    /// As its chunks say.
    Chunked(Box<Framing>),
    /// With the connection.
    UntilClose,
}

impl AnswerEnd {
    /// Whether the body has ended.
    pub(super) fn has_come(&self) -> bool {
        match self {
            Self::Sized(left) => *left == 0,
            Self::Chunked(framing) => framing.place() != Place::Body,
            Self::UntilClose => false,
        }
    }

    /// Reads the next bytes, up to the end. O(bytes).
    ///
    /// # Errors
    /// What follows the sound bytes could be read in two ways.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<BodyBytes, SoundBytes> {
        let read = match self {
            Self::Sized(left) => {
                let all = usize::try_from(*left).unwrap_or(usize::MAX);
                let read = bytes.len().min(all);
                *left = left.saturating_sub(read as u64);
                read
            }
            Self::Chunked(framing) => return framing.read_body(bytes),
            Self::UntilClose => bytes.len(),
        };
        let content = read as u64;
        Ok(BodyBytes { read, content })
    }
}

/// Reads a head to a request of this method, and writes the caller's version of it into an empty `text`. `None` if its end
/// has not come. O(bytes).
pub(super) fn parse(
    bytes: &[u8],
    method: &Method,
    text: impl FnOnce() -> Vec<u8>,
) -> Result<Option<AnswerHead>, BadAnswer> {
    with_head(bytes, |head, length| {
        let status = head.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(httparse::Error::Status)?;
        let is_newest = head.version == Some(1);
        let framing = Fields::of(head.headers, is_newest)?;
        let body = match framing.size {
            _ if has_no_body(status, method) => AnswerEnd::Sized(0),
            _ if framing.is_chunked => AnswerEnd::Chunked(Box::new(Framing::of_chunks(MAX_LINE))),
            Some(size) => AnswerEnd::Sized(size),
            None => AnswerEnd::UntilClose,
        };
        let mut text = text();
        text.reserve(length.saturating_add(ADDED));
        write_status(&mut text, status, head.reason.unwrap_or_default());
        framing.write(&mut text, head.headers, status);
        if matches!(body, AnswerEnd::UntilClose) {
            write_field(&mut text, b"transfer-encoding", b"chunked");
        }
        Ok(AnswerHead {
            status,
            length,
            is_kept: is_newest && !framing.closes && !matches!(body, AnswerEnd::UntilClose),
            body,
            text: HeadText {
                bytes: text,
                has_date: framing.has_date,
            },
        })
    })
}

/// The end of an answer and the fate of its connection, as its fields declare them.
#[derive(Default)]
struct Fields<'h> {
    size: Option<u64>,
    is_chunked: bool,
    closes: bool,
    has_date: bool,
    /// The fields that are for one connection by the backend's word.
    named: Vec<&'h str>,
}

impl<'h> Fields<'h> {
    fn of(fields: &[Header<'h>], is_newest: bool) -> Result<Self, BadAnswer> {
        let mut said = Self::default();
        for field in fields {
            match field.name.len() {
                4 => said.has_date |= field.name.eq_ignore_ascii_case("date"),
                10 if field.name.eq_ignore_ascii_case("connection") => {
                    said.read_connection(field.value);
                }
                14 if field.name.eq_ignore_ascii_case("content-length") => {
                    let size = number(field.value, 10).ok_or(BadAnswer::Ambiguous)?;
                    if said.size.is_some_and(|said| said != size) {
                        return Err(BadAnswer::Ambiguous);
                    }
                    said.size = Some(size);
                }
                17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                    let is_second = core::mem::replace(&mut said.is_chunked, true);
                    if is_second || !is_newest || !field.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(BadAnswer::Ambiguous);
                    }
                }
                _ => {}
            }
        }
        Ok(said)
    }

    fn read_connection(&mut self, value: &'h [u8]) {
        if value.eq_ignore_ascii_case(b"keep-alive") {
            return;
        }
        let tokens = str::from_utf8(value).unwrap_or_default().split(',');
        for token in tokens.map(str::trim) {
            if token.eq_ignore_ascii_case("close") {
                self.closes = true;
            } else if !token.eq_ignore_ascii_case("keep-alive") && !is_kept(token) {
                self.named.push(token);
            }
        }
    }

    /// Writes the fields that the caller gets.
    fn write(&self, out: &mut Vec<u8>, fields: &[Header<'_>], status: StatusCode) {
        let is_empty = status == StatusCode::NO_CONTENT;
        // A length has no meaning beside chunks, and neither may be in an answer that is always empty.
        let mut has_size = self.is_chunked || is_empty;
        for field in fields {
            let name = field.name;
            let is_left_out = match name.len() {
                12 if name.eq_ignore_ascii_case(X_REQUEST_ID.as_str()) => true,
                14 if name.eq_ignore_ascii_case("content-length") => {
                    core::mem::replace(&mut has_size, true)
                }
                _ => {
                    is_hop_by_hop(name)
                        || self.named.iter().any(|one| one.eq_ignore_ascii_case(name))
                }
            };
            if !is_left_out {
                write_field(out, name.as_bytes(), field.value);
            }
        }
        if self.is_chunked && !is_empty {
            write_field(out, b"transfer-encoding", b"chunked");
        }
    }
}

/// Fields that the gateway adds to an answer.
#[derive(Debug)]
pub(super) struct Added<'a> {
    pub(super) request_id: &'a HeaderValue,
    pub(super) fields: HeaderMap,
    /// Whether the caller is told that the connection closes.
    pub(super) closes: bool,
}

impl HeadText {
    /// Completes it.
    pub(super) fn with(self, added: &Added<'_>) -> Vec<u8> {
        let mut text = self.bytes;
        let id = added.request_id.as_bytes();
        write_field(&mut text, X_REQUEST_ID.as_str().as_bytes(), id);
        write_fields(&mut text, &added.fields);
        if !self.has_date {
            write_date(&mut text);
        }
        if added.closes {
            write_field(&mut text, b"connection", b"close");
        }
        text.extend_from_slice(b"\r\n");
        text
    }
}

/// Reads an interim answer's fields.
pub(super) fn interim_fields(bytes: &[u8]) -> HeaderMap {
    let read = with_head(bytes, |head, _| {
        let fields = head.headers.iter().filter_map(|field| {
            let name = field.name.parse().ok()?;
            Some((name, HeaderValue::from_bytes(field.value).ok()?))
        });
        Ok(fields.collect())
    });
    read.ok().flatten().unwrap_or_default()
}

/// Parses a head and shows it with its length; `None` if its end has not come.
fn with_head<R>(
    bytes: &[u8],
    see: impl FnOnce(&httparse::Response<'_, '_>, usize) -> Result<R, BadAnswer>,
) -> Result<Option<R>, BadAnswer> {
    let mut fields: [MaybeUninit<Header<'_>>; MAX_FIELDS] = [const { MaybeUninit::uninit() }; _];
    let mut head = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut head, bytes, &mut fields)? {
        Status::Complete(length) => see(&head, length).map(Some),
        Status::Partial => Ok(None),
    }
}

fn has_no_body(status: StatusCode, method: &Method) -> bool {
    status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || *method == Method::HEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text_of(answer: &str) -> String {
        let head = parse(answer.as_bytes(), &Method::GET, Vec::new)
            .unwrap()
            .unwrap();
        let text = head.text.with(&Added {
            request_id: &HeaderValue::from_static("id"),
            fields: HeaderMap::new(),
            closes: false,
        });
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_head_is_passed_on_without_what_is_for_one_connection() {
        let text = text_of(
            "HTTP/1.1 200 Fine\r\nServer: a\r\nConnection: keep-alive, X-Hop, content-length\r\nKeep-Alive: 5\r\n\
             X-Hop: 1\r\nX-Request-Id: theirs\r\nDate: today\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nok",
        );
        let expected = "HTTP/1.1 200 Fine\r\nServer: a\r\nDate: today\r\nContent-Length: 2\r\nx-request-id: id\r\n\r\n";
        assert_eq!(text, expected);
        let text = text_of(
            "HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\nTransfer-Encoding: Chunked\r\n\r\n",
        );
        let expected = "HTTP/1.1 200 OK\r\ndate: today\r\ntransfer-encoding: chunked\r\nx-request-id: id\r\n\r\n";
        assert_eq!(text, expected);
        let empty = "HTTP/1.1 204 X\r\ndate: today\r\n";
        for field in ["content-length: 3\r\n", "transfer-encoding: chunked\r\n"] {
            let text = text_of(&format!("{empty}{field}\r\n"));
            assert_eq!(text, format!("{empty}x-request-id: id\r\n\r\n"));
        }
    }

    #[test]
    fn an_answer_ends_as_its_head_says() {
        let end = |fields: &str, status: u16, method: &Method| {
            let head = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
            parse(head.as_bytes(), method, Vec::new)
                .map(|head| head.map(|head| (head.body, head.is_kept)))
        };
        for (fields, status, method, is_kept) in [
            ("content-length: 0\r\n", 200, Method::GET, true),
            (
                "content-length: 7\r\nconnection: close\r\n",
                304,
                Method::GET,
                false,
            ),
            ("transfer-encoding: chunked\r\n", 204, Method::GET, true),
            ("content-length: 7\r\n", 200, Method::HEAD, true),
        ] {
            let (body, kept) = end(fields, status, &method).unwrap().unwrap();
            assert!(body.has_come(), "{fields:?}");
            assert_eq!(kept, is_kept, "{fields:?}");
        }
        let (body, is_kept) = end("", 200, &Method::GET).unwrap().unwrap();
        assert!(matches!(body, AnswerEnd::UntilClose));
        assert!(!is_kept);
        for ambiguous in [
            "content-length: 2\r\ncontent-length: 3\r\n",
            "content-length: 2, 2\r\n",
            "content-length: \r\n",
            "content-length: 99999999999999999999\r\n",
            "transfer-encoding: gzip\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        ] {
            let ended = end(ambiguous, 200, &Method::GET);
            assert!(matches!(ended, Err(BadAnswer::Ambiguous)), "{ambiguous:?}");
        }
    }

    /// Bytes of an answer, of which most are lines of a head.
    fn answers() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            2 => Just("content-length: 2\r\n"),
            2 => Just("Transfer-Encoding: chunked\r\n"),
            1 => Just("content-length: 3\r\n"),
            2 => Just("connection: close, x-hop\r\n"),
            1 => Just("x-hop: 1\r\n"),
            1 => Just("keep-alive: 5\r\n"),
            1 => Just("upgrade: h2c\r\n"),
            1 => Just("x: y\n"),
            1 => Just("x: \t y \r\n"),
            1 => Just(" folded\r\n"),
            1 => Just("x : y\r\n"),
            1 => Just("\r\n"),
        ];
        let lines = prop::collection::vec(line, 0..6);
        lines.prop_map(|lines| format!("HTTP/1.1 200 OK\r\n{}\r\nok", lines.concat()).into_bytes())
    }

    proptest! {
        #[test]
        fn a_head_that_is_passed_on_can_be_read_in_one_way(bytes in answers()) {
            if let Ok(Some(head)) = parse(&bytes, &Method::GET, Vec::new) {
                let text = head.text.with(&Added {
                    request_id: &HeaderValue::from_static("id"),
                    fields: HeaderMap::new(),
                    closes: false,
                });
                let text = String::from_utf8(text).unwrap();
                let lines: Vec<&str> = text.strip_suffix("\r\n\r\n").unwrap().split("\r\n").collect();
                let count = |name: &str| lines.iter().filter(|line| line.to_lowercase().starts_with(name)).count();
                prop_assert!(count("content-length: ") + count("transfer-encoding: chunked") == 1);
                let names_hop = String::from_utf8_lossy(&bytes[..head.length]).contains("x-hop\r\n");
                for hop in ["connection", "keep-alive", "upgrade", " "] {
                    prop_assert_eq!(count(hop), 0, "{}: {}", hop, text);
                }
                prop_assert!(!names_hop || count("x-hop") == 0, "{}", text);
                prop_assert!(!lines.iter().any(|line| line.contains(['\r', '\n'])), "{}", text);
            }
        }

        #[test]
        fn a_body_is_read_to_its_end_and_no_further(
            chunks in prop::collection::vec(1..40_usize, 0..5),
            cut in 1..30_usize,
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend(format!("{chunk:x}\r\n{}\r\n", "a".repeat(*chunk)).into_bytes());
            }
            bytes.extend_from_slice(b"0\r\nx-sum: 7\r\n\r\n");
            let length = bytes.len();
            bytes.extend_from_slice(b"HTTP/1.1 200");
            let mut end = AnswerEnd::Chunked(Box::new(Framing::of_chunks(MAX_LINE)));
            let (mut read, mut content) = (0, 0);
            for part in bytes.chunks(cut) {
                if !end.has_come() {
                    let part = end.read(part).unwrap();
                    (read, content) = (read + part.read, content + part.content);
                }
            }
            prop_assert!(end.has_come());
            prop_assert_eq!(read, length);
            prop_assert_eq!(content, chunks.iter().sum::<usize>() as u64);
        }
    }
}
