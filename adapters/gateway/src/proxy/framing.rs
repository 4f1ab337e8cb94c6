//! The borders between requests on a connection, judged on its bytes before a parser sees them.
//!
//! Invariant: bytes that are passed on can be delimited in one way only, by RFC 9112, sections 2.2, 5, 6 and 7.1.
//! What else may be wrong with a request is left to the parser.

use core::mem;
use memchr::{memchr, memchr2};

/// The part of a request that comes next on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A new request.
    Start,
    /// More of a head.
    Head,
    /// More of a body.
    Body,
    /// Bytes of another protocol.
    Opaque,
}

/// The state of a connection's bytes.
#[derive(Clone, Debug)]
pub(crate) struct Framing {
    state: State,
    /// The start of a line whose end has not come.
    line: Vec<u8>,
    max_line: usize,
    /// Whether the bytes that are refused are of a head.
    refuses_head: bool,
}

#[derive(Clone, Debug)]
enum State {
    Head(Head),
    /// The bytes that are left of a body of known length.
    Sized(u64),
    ChunkSize,
    /// The bytes that are left of a chunk.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Opaque,
    Refused,
}

/// What a head has said so far.
#[derive(Clone, Debug, Default)]
struct Head {
    has_begun: bool,
    length: Option<u64>,
    is_chunked: bool,
    is_upgrade: bool,
}

/// The number of bytes that may be passed on, before one whose meaning is ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SoundBytes(pub(crate) usize);

/// The bytes of a body among those that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BodyBytes {
    /// The bytes up to the body's end, or all of them.
    pub(crate) read: usize,
    /// Those of them that are content: no sizes of chunks, no trailers.
    pub(crate) content: u64,
}

impl Framing {
    /// Begins a connection; a line of a head or a chunk's size has at most `max_line` bytes.
    pub(crate) fn new(max_line: usize) -> Self {
        Self {
            state: State::Head(Head::default()),
            line: Vec::new(),
            max_line,
            refuses_head: false,
        }
    }

    /// Begins in the chunks of a body, in whose lines at most `max_line` bytes are.
    pub(crate) fn of_chunks(max_line: usize) -> Self {
        Self {
            state: State::ChunkSize,
            ..Self::new(max_line)
        }
    }

    /// Reads the next bytes of a body, up to its end; the place after that is [`Place::Start`]. O(bytes).
    ///
    /// # Errors
    /// The body could be read in two ways.
    pub(crate) fn read_body(&mut self, bytes: &[u8]) -> Result<BodyBytes, SoundBytes> {
        let (mut rest, mut content) = (bytes, 0_u64);
        let read = |rest: &[u8]| bytes.len().saturating_sub(rest.len());
        while !rest.is_empty() && self.place() == Place::Body {
            let is_content = matches!(self.state, State::Sized(_) | State::Chunk(_));
            let Some(after) = self.read_part(rest) else {
                self.state = State::Refused;
                return Err(SoundBytes(read(rest)));
            };
            if is_content {
                content = content.saturating_add(rest.len().saturating_sub(after.len()) as u64);
            }
            rest = after;
        }
        Ok(BodyBytes {
            read: read(rest),
            content,
        })
    }

    /// Returns the place after the bytes so far.
    pub(crate) fn place(&self) -> Place {
        match &self.state {
            State::Head(head) if !head.has_begun && self.line.is_empty() => Place::Start,
            State::Head(_) => Place::Head,
            State::Sized(_)
            | State::ChunkSize
            | State::Chunk(_)
            | State::ChunkEnd
            | State::Trailers => Place::Body,
            State::Opaque | State::Refused => Place::Opaque,
        }
    }

    /// Whether the bytes that were refused are of a head, and not of a body.
    pub(crate) fn refuses_head(&self) -> bool {
        self.refuses_head
    }

    /// Reads the next bytes; returns whether a request has ended in them. O(bytes).
    ///
    /// # Errors
    /// A border between requests could be read in two ways. All later bytes are refused too.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<bool, SoundBytes> {
        let (mut rest, mut has_ended) = (bytes, false);
        while !rest.is_empty() {
            let was_in_head = matches!(self.state, State::Head(_));
            let was_between = self.is_between_requests();
            let Some(after) = self.read_part(rest) else {
                self.state = State::Refused;
                self.refuses_head = was_in_head;
                return Err(SoundBytes(bytes.len().saturating_sub(rest.len())));
            };
            has_ended |= !was_between && self.is_between_requests();
            rest = after;
        }
        Ok(has_ended)
    }

    /// Whether no request has begun; empty lines before one are none.
    fn is_between_requests(&self) -> bool {
        matches!(&self.state, State::Head(head) if !head.has_begun)
    }

    /// Reads a line or a part of a body; returns the bytes after it, or `None` if it is ambiguous.
    fn read_part<'b>(&mut self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let (left, next) = match &mut self.state {
            State::Opaque => return Some(&[]),
            State::Refused => return None,
            State::Sized(left) => (left, State::Head(Head::default())),
            State::Chunk(left) => (left, State::ChunkEnd),
            State::Head(_) | State::ChunkSize | State::ChunkEnd | State::Trailers => {
                return self.read_line(bytes);
            }
        };
        let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
        *left = left.saturating_sub(taken as u64);
        if *left == 0 {
            self.state = next;
        }
        bytes.get(taken..)
    }

    fn read_line<'b>(&mut self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        if self.line.is_empty()
            && let Some((text, after)) = whole_line(bytes)
            && text.len().saturating_add(2) <= self.max_line
        {
            self.state = self.after_text(text)?;
            return Some(after);
        }
        let end = memchr(b'\n', bytes);
        let (part, after) = bytes.split_at(end.map_or(bytes.len(), |end| end.saturating_add(1)));
        if self.line.len().saturating_add(part.len()) > self.max_line {
            return None;
        }
        if end.is_some() && self.line.is_empty() {
            self.state = self.after_line(part)?;
            return Some(after);
        }
        self.line.extend_from_slice(part);
        if end.is_some() {
            let mut line = mem::take(&mut self.line);
            self.state = self.after_line(&line)?;
            line.clear();
            self.line = line;
        }
        Some(after)
    }

    /// Returns the state after a line; `None` if the line is ambiguous.
    fn after_line(&mut self, line: &[u8]) -> Option<State> {
        let text = line.strip_suffix(b"\r\n")?;
        if memchr(b'\r', text).is_some() {
            return None;
        }
        self.after_text(text)
    }

    /// Returns the state after the text of a line, without its end.
    fn after_text(&mut self, text: &[u8]) -> Option<State> {
        match mem::replace(&mut self.state, State::Refused) {
            State::Head(head) => head.after_line(text),
            State::ChunkSize => chunk_size(text).map(|size| match size {
                0 => State::Trailers,
                size => State::Chunk(size),
            }),
            State::ChunkEnd => text.is_empty().then_some(State::ChunkSize),
            State::Trailers if text.is_empty() => Some(State::Head(Head::default())),
            State::Trailers => field(text).map(|_| State::Trailers),
            State::Sized(_) | State::Chunk(_) | State::Opaque | State::Refused => None,
        }
    }
}

impl Head {
    fn after_line(mut self, text: &[u8]) -> Option<State> {
        if !self.has_begun {
            // RFC 9112, section 2.2: an empty line before a request line is ignored.
            self.has_begun = !text.is_empty();
            self.is_upgrade = text.starts_with(b"CONNECT ");
            return Some(State::Head(self));
        }
        if text.is_empty() {
            return Some(self.body());
        }
        let (name, value) = field(text)?;
        let has_length = self.is_chunked || self.length.is_some();
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = Some(number(value, 10).filter(|_| !has_length)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.is_chunked = true;
            if has_length || !value.eq_ignore_ascii_case(b"chunked") {
                return None;
            }
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.is_upgrade = true;
        }
        Some(State::Head(self))
    }

    fn body(&self) -> State {
        match self.length {
            _ if self.is_chunked => State::ChunkSize,
            Some(length) if length > 0 => State::Sized(length),
            // An upgrade with a body is answered as if it asked for none.
            _ if self.is_upgrade => State::Opaque,
            _ => State::Head(Self::default()),
        }
    }
}

/// Splits off a sound line that is there as a whole, in one search; other lines need a closer look.
fn whole_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (text, end) = bytes.split_at_checked(memchr2(b'\r', b'\n', bytes)?)?;
    Some((text, end.strip_prefix(b"\r\n")?))
}

/// Splits a field into name and value; `None` if it is no field, or a line that continues one.
fn field(text: &[u8]) -> Option<(&[u8], &[u8])> {
    // Names are short, so that a loop finds their end sooner than a search does that is made for long texts.
    let end = text
        .iter()
        .position(|byte| matches!(byte, b':' | b' ' | b'\t'));
    let (name, value) = text.split_at_checked(end?)?;
    if name.is_empty() || !value.starts_with(b":") {
        return None;
    }
    Some((name, value.get(1..)?.trim_ascii()))
}

/// Reads the size of a chunk; its extensions are left to the parser.
fn chunk_size(text: &[u8]) -> Option<u64> {
    let digits = text.split(|byte| *byte == b';').next()?;
    number(digits.trim_ascii_end(), 16)
}

/// Reads a number of digits alone.
pub(super) fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let digits = str::from_utf8(digits).ok()?;
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, radix).ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> (Result<(), SoundBytes>, Place) {
        let mut framing = Framing::new(1_024);
        (framing.read(bytes).map(drop), framing.place())
    }

    #[test]
    fn requests_with_one_meaning_are_passed_on() {
        for (bytes, place) in [
            ("GET / HTTP/1.1\r\nhost: h\r\n\r\n", Place::Start),
            ("\r\nGET / HTTP/1.1\r\nhost: h\r\n\r\nGET", Place::Head),
            (
                "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\na\rb",
                Place::Start,
            ),
            (
                "POST / HTTP/1.1\r\ncontent-length:4\t \r\n\r\na\nb",
                Place::Body,
            ),
            (
                "PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=b\r\na\nb\r\n0\r\nx: y\r\n\r\n",
                Place::Start,
            ),
            (
                "GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n\n\n\n",
                Place::Opaque,
            ),
            (
                "GET / HTTP/1.1\r\nupgrade: h2c\r\ncontent-length: 1\r\n\r\na",
                Place::Start,
            ),
        ] {
            assert_eq!(read(bytes.as_bytes()), (Ok(()), place), "{bytes:?}");
        }
    }

    #[test]
    fn requests_with_two_meanings_are_refused() {
        let head = "POST / HTTP/1.1\r\nhost: h\r\n";
        for tail in [
            "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
            "content-length: 3\r\ncontent-length: 4\r\n\r\n",
            "content-length: 3, 3\r\n\r\n",
            "content-length: +3\r\n\r\n",
            "content-length: \r\n\r\n",
            "content-length: 99999999999999999999\r\n\r\n",
            "transfer-encoding: gzip, chunked\r\n\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n",
            "transfer-encoding : chunked\r\n\r\n",
            " folded: yes\r\n\r\n",
            "x: y\n\r\n",
            "x: y\r\n\n",
            "x: y\rz: a\r\n\r\n",
            "no colon\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n11111111111111111\r\n",
            "transfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n0\r\n folded\r\n\r\n",
        ] {
            let (result, _) = read(format!("{head}{tail}").as_bytes());
            assert!(result.is_err(), "{tail:?}");
        }
    }

    #[test]
    fn a_request_before_an_ambiguous_one_is_passed_on() {
        let sound = "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\na";
        let both = format!("{sound}GET / HTTP/1.1\nx: y\r\n\r\n");
        assert_eq!(read(both.as_bytes()).0, Err(SoundBytes(sound.len())));
    }

    /// Pieces of requests, of which most are sound.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => Just("GET / HTTP/1.1\r\nhost: h\r\n\r\n"),
            2 => Just("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc"),
            2 => Just("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n"),
            1 => Just("GET / HTTP/1.1\r\n"),
            1 => Just("content-length: 2\r\n"),
            1 => Just("\r\n"),
            1 => Just("\n"),
        ];
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn where_reads_end_makes_no_difference(bytes in pieces(), cuts in prop::collection::vec(0_usize..200, 0..8)) {
            let mut whole = Framing::new(1_024);
            let expected = whole.read(&bytes).map_err(|SoundBytes(count)| count);
            let mut cut = Framing::new(1_024);
            let mut cuts = cuts;
            cuts.sort_unstable();
            let (mut begin, mut result) = (0, Ok(false));
            for end in cuts.into_iter().chain([bytes.len()]) {
                let end = end.clamp(begin, bytes.len());
                match cut.read(&bytes[begin..end]) {
                    Ok(ended) => result = result.map(|before| before || ended),
                    Err(SoundBytes(count)) => {
                        result = Err(begin + count);
                        break;
                    }
                }
                begin = end;
            }
            // A line that is cut is passed on in parts; only its last part is held back.
            prop_assert_eq!(result.is_err(), expected.is_err());
            match (result, expected) {
                (Err(cut), Err(whole)) => prop_assert!(cut >= whole),
                (cut, whole) => prop_assert_eq!(cut, whole),
            }
            prop_assert!(result.is_err() || whole.place() == cut.place());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = read(&bytes);
        }
    }
}
