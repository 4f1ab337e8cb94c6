//! Where a request ends, by the strictest reading of RFC 9112.
//!
//! Invariant: bytes that two servers could read in two ways are refused, whatever each of them would do.

use alloc::borrow::Cow;

/// A request in the bytes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawRequest {
    /// The method.
    pub method: String,
    /// The target.
    pub target: String,
    /// Whether the version is HTTP/1.1, not HTTP/1.0.
    pub is_http_11: bool,
    /// Names and values of the headers as they were written, without the spaces around the values.
    pub headers: Vec<(String, String)>,
    /// The body, without the framing of its chunks.
    pub body: Vec<u8>,
    /// Names and values of the trailers.
    pub trailers: Vec<(String, String)>,
    /// Length in bytes, from the request line to the end of the body.
    pub length: usize,
}

impl RawRequest {
    /// The value of a header; the first, if there are several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.iter();
        let line = lines.find(|(known, _)| known.eq_ignore_ascii_case(name));
        line.map(|(_, value)| value.as_str())
    }

    /// Whether a header that is a list has this member.
    pub(super) fn lists(&self, name: &str, member: &str) -> bool {
        let lines = self.headers.iter();
        let mut members = lines
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .flat_map(|(_, value)| value.split(','));
        members.any(|known| known.trim().eq_ignore_ascii_case(member))
    }
}

/// The reason that a request can't be delimited without doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RawRefusal {
    /// A line ends with a bare LF, or holds a bare CR or another control character.
    #[error("a line holds a bare CR or LF, or a control character")]
    ControlCharacter,
    /// The request line is not `METHOD TARGET HTTP/1.x`, with one space between each.
    #[error("the request line is malformed")]
    RequestLine,
    /// A header has no name, a space in or after its name, or is folded.
    #[error("a header is malformed")]
    Header,
    /// A request of HTTP/1.1 has no Host, or a request has several.
    #[error("there is not one Host")]
    Host,
    /// There are several Content-Length headers, or one that is not digits alone.
    #[error("the Content-Length is not one number")]
    ContentLength,
    /// The Transfer-Encoding is not `chunked` alone, or comes with HTTP/1.0.
    #[error("the Transfer-Encoding is not chunked")]
    TransferEncoding,
    /// There are both a Content-Length and a Transfer-Encoding.
    #[error("there are both a Content-Length and a Transfer-Encoding")]
    BothLengths,
    /// A chunk has a size that is not hexadecimal digits alone, an extension, or no line end after its data.
    #[error("a chunk is malformed")]
    Chunk,
    /// The request is longer than is kept of it.
    #[error("the request is too long")]
    TooLong,
}

/// What is known of the first request in some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Delimited {
    Whole(RawRequest),
    /// More bytes are needed. Whether the head is whole, and its sender waits for 100 before the body.
    Partial {
        expects_continue: bool,
    },
}

/// Delimits the first request in `bytes`.
pub(super) fn delimit(bytes: &[u8]) -> Result<Delimited, RawRefusal> {
    let mut rest = Lines(bytes);
    let partial = Delimited::Partial {
        expects_continue: false,
    };
    let Some(line) = rest.next()? else {
        return Ok(partial);
    };
    let mut request = request_line(&line)?;
    match fields(&mut rest)? {
        Some(headers) => request.headers = headers,
        None => return Ok(partial),
    }
    let body = match framing(&request)? {
        Framing::Length(length) => rest.take(length).map(<[u8]>::to_vec),
        Framing::Chunked => chunks(&mut rest, &mut request.trailers)?,
    };
    let Some(body) = body else {
        return Ok(Delimited::Partial {
            expects_continue: request.lists("expect", "100-continue"),
        });
    };
    request.body = body;
    request.length = bytes.len() - rest.0.len();
    Ok(Delimited::Whole(request))
}

fn request_line(line: &str) -> Result<RawRequest, RawRefusal> {
    let mut parts = line.split(' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, parts.next())
    else {
        return Err(RawRefusal::RequestLine);
    };
    let is_http_11 = version == "HTTP/1.1";
    let is_known = is_http_11 || version == "HTTP/1.0";
    if !is_token(method) || target.is_empty() || target.contains('\t') || !is_known {
        return Err(RawRefusal::RequestLine);
    }
    Ok(RawRequest {
        method: method.to_owned(),
        target: target.to_owned(),
        is_http_11,
        headers: Vec::new(),
        body: Vec::new(),
        trailers: Vec::new(),
        length: 0,
    })
}

/// Reads headers or trailers to the empty line after them; `None` if it is not there yet.
fn fields(rest: &mut Lines<'_>) -> Result<Option<Vec<(String, String)>>, RawRefusal> {
    let mut fields = Vec::new();
    while let Some(line) = rest.next()? {
        if line.is_empty() {
            return Ok(Some(fields));
        }
        let (name, value) = line.split_once(':').ok_or(RawRefusal::Header)?;
        if !is_token(name) {
            return Err(RawRefusal::Header);
        }
        let value = value.trim_matches([' ', '\t']);
        fields.push((name.to_owned(), value.to_owned()));
    }
    Ok(None)
}

enum Framing {
    Length(usize),
    Chunked,
}

fn framing(request: &RawRequest) -> Result<Framing, RawRefusal> {
    let values = |name: &str| {
        let lines = request.headers.iter();
        let lines = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        lines.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    let hosts = values("host").len();
    if hosts > 1 || (hosts == 0 && request.is_http_11) {
        return Err(RawRefusal::Host);
    }
    match (
        values("content-length").as_slice(),
        values("transfer-encoding").as_slice(),
    ) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) => {
            let length = number(length, 10).ok_or(RawRefusal::ContentLength)?;
            Ok(Framing::Length(length))
        }
        ([], [coding]) if request.is_http_11 && coding.eq_ignore_ascii_case("chunked") => {
            Ok(Framing::Chunked)
        }
        ([], _) => Err(RawRefusal::TransferEncoding),
        (_, []) => Err(RawRefusal::ContentLength),
        _ => Err(RawRefusal::BothLengths),
    }
}

/// Reads chunks to their end, and the trailers; `None` if the end is not there yet.
fn chunks(
    rest: &mut Lines<'_>,
    trailers: &mut Vec<(String, String)>,
) -> Result<Option<Vec<u8>>, RawRefusal> {
    let mut body = Vec::new();
    while let Some(line) = rest.next()? {
        let size = number(&line, 16).ok_or(RawRefusal::Chunk)?;
        if size == 0 {
            let Some(fields) = fields(rest)? else {
                return Ok(None);
            };
            *trailers = fields;
            return Ok(Some(body));
        }
        let Some(data) = rest.take(size) else {
            return Ok(None);
        };
        body.extend_from_slice(data);
        match rest.next()? {
            Some(end) if end.is_empty() => {}
            Some(_) => return Err(RawRefusal::Chunk),
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// Parses digits alone: no sign, no space.
fn number(text: &str, radix: u32) -> Option<usize> {
    let is_digits = !text.is_empty() && text.chars().all(|digit| digit.is_digit(radix));
    is_digits
        .then(|| usize::from_str_radix(text, radix).ok())
        .flatten()
}

/// Whether a text is a token of RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_symbol = |byte: u8| b"!#$%&'*+-.^_`|~".contains(&byte);
    let mut bytes = text.bytes();
    !text.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || is_symbol(byte))
}

/// The bytes that are left.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    /// The next line, without its CRLF; `None` if its end is not there yet.
    fn next(&mut self) -> Result<Option<Cow<'a, str>>, RawRefusal> {
        let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        let Some(at) = self.0.iter().position(is_control) else {
            return Ok(None);
        };
        let (line, end) = self.0.split_at(at);
        match end {
            [b'\r'] => Ok(None),
            [b'\r', b'\n', rest @ ..] => {
                self.0 = rest;
                Ok(Some(String::from_utf8_lossy(line)))
            }
            _ => Err(RawRefusal::ControlCharacter),
        }
    }

    /// The next bytes, this many; `None` if they are not there yet.
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> RawRequest {
        match delimit(text.as_bytes()) {
            Ok(Delimited::Whole(request)) => request,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn a_request_ends_with_its_body() {
        let request = whole("GET /a?b HTTP/1.1\r\nHost: x\r\nX-A:\t1 \r\n\r\nGET");
        assert_eq!(
            (request.method.as_str(), request.target.as_str()),
            ("GET", "/a?b")
        );
        assert_eq!(request.headers[1], ("X-A".to_owned(), "1".to_owned()));
        assert_eq!((request.body.len(), request.length), (0, 39));

        let request = whole("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabcdef");
        assert_eq!(request.body, b"abc");
        let text = "POST / HTTP/1.1\r\nhost: x\r\nTransfer-Encoding: Chunked\r\n\r\n\
                    a\r\n0123456789\r\n001\r\n\n\r\n0\r\nX-T: 1\r\n\r\n";
        let request = whole(&format!("{text}rest"));
        assert_eq!(
            (request.body.as_slice(), request.length),
            (&b"0123456789\n"[..], text.len())
        );
        assert_eq!(request.trailers, [("X-T".to_owned(), "1".to_owned())]);
        assert!(!whole("GET / HTTP/1.0\r\n\r\n").is_http_11);
    }

    #[test]
    fn every_beginning_of_a_request_is_partial() {
        let text = "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\
                    transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: 1\r\n\r\n";
        let head = text.find("\r\n\r\n").map(|at| at + 4);
        for length in 0..text.len() {
            let expects_continue = Some(length) >= head;
            let partial = Ok(Delimited::Partial { expects_continue });
            assert_eq!(delimit(&text.as_bytes()[..length]), partial, "{length}");
        }
        assert_eq!(whole(text).body, b"abc");
    }

    #[test]
    fn a_head_that_can_be_read_in_two_ways_is_refused() {
        use RawRefusal as R;
        for (text, refusal) in [
            ("GET / HTTP/1.1\nhost: x\r\n\r\n", R::ControlCharacter),
            ("GET / HTTP/1.1\r\nhost: x\n\r\n", R::ControlCharacter),
            (
                "GET / HTTP/1.1\r\nhost: x\r\na: b\rc\r\n\r\n",
                R::ControlCharacter,
            ),
            ("GET / HTTP/1.1\r\nhost: x\0\r\n\r\n", R::ControlCharacter),
            ("\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n", R::RequestLine),
            ("GET  / HTTP/1.1\r\nhost: x\r\n\r\n", R::RequestLine),
            ("GET / HTTP/1.1 \r\nhost: x\r\n\r\n", R::RequestLine),
            ("GET / HTTP/2.0\r\nhost: x\r\n\r\n", R::RequestLine),
            ("GET / http/1.1\r\nhost: x\r\n\r\n", R::RequestLine),
            ("G(T / HTTP/1.1\r\nhost: x\r\n\r\n", R::RequestLine),
            ("GET /\r\nhost: x\r\n\r\n", R::RequestLine),
            ("GET / HTTP/1.1\r\nhost : x\r\n\r\n", R::Header),
            ("GET / HTTP/1.1\r\nhost: x\r\n folded\r\n\r\n", R::Header),
            ("GET / HTTP/1.1\r\n: x\r\n\r\n", R::Header),
            ("GET / HTTP/1.1\r\nhost\r\n\r\n", R::Header),
            ("GET / HTTP/1.1\r\n\r\n", R::Host),
            ("GET / HTTP/1.1\r\nhost: x\r\nHost: x\r\n\r\n", R::Host),
        ] {
            assert_eq!(delimit(text.as_bytes()), Err(refusal), "{text:?}");
        }
    }

    #[test]
    fn a_body_that_can_end_in_two_places_is_refused() {
        use RawRefusal as R;
        for (lines, refusal) in [
            ("content-length: +1\r\n\r\nx", R::ContentLength),
            ("content-length: 1, 1\r\n\r\nx", R::ContentLength),
            (
                "content-length: 1\r\ncontent-length: 1\r\n\r\nx",
                R::ContentLength,
            ),
            ("content-length:\r\n\r\nx", R::ContentLength),
            (
                "content-length: 99999999999999999999\r\n\r\n",
                R::ContentLength,
            ),
            (
                "transfer-encoding: gzip, chunked\r\n\r\n",
                R::TransferEncoding,
            ),
            ("transfer-encoding: xchunked\r\n\r\n", R::TransferEncoding),
            (
                "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
                R::TransferEncoding,
            ),
            (
                "content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
                R::BothLengths,
            ),
            ("transfer-encoding: chunked\r\n\r\n1;a=b\r\nx\r\n", R::Chunk),
            ("transfer-encoding: chunked\r\n\r\n0x1\r\nx\r\n", R::Chunk),
            ("transfer-encoding: chunked\r\n\r\n 1\r\nx\r\n", R::Chunk),
            ("transfer-encoding: chunked\r\n\r\n\r\n", R::Chunk),
            ("transfer-encoding: chunked\r\n\r\n1\r\nxy\r\n", R::Chunk),
            (
                "transfer-encoding: chunked\r\n\r\n1\nx\r\n",
                R::ControlCharacter,
            ),
            (
                "transfer-encoding: chunked\r\n\r\n0\r\nx : 1\r\n\r\n",
                R::Header,
            ),
        ] {
            let text = format!("POST / HTTP/1.1\r\nhost: x\r\n{lines}");
            assert_eq!(delimit(text.as_bytes()), Err(refusal), "{text:?}");
        }
        let old = b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(delimit(old), Err(R::TransferEncoding));
    }
}
