//! A push parser of server-sent events.
//!
//! Written here because no crate held the list: the established one needs a `Stream` and bounds nothing, and those
//! that parse pushed bytes are months old or bring a runtime's types. It is checked against a plain oracle.
//!
//! Invariant: bytes give the same events however they are split, and at most `max_event` bytes of an event are kept.
//!
//! Source: WHATWG HTML, "Server-sent events", section "Parsing an event stream".

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use std::collections::VecDeque;

/// Whether the headers of an answer announce a stream of events.
///
/// ```
/// use http::HeaderMap;
/// use leasehold_protocol::is_event_stream;
///
/// let mut headers = HeaderMap::new();
/// assert!(!is_event_stream(&headers));
/// headers.insert("content-type", "text/event-stream; charset=utf-8".parse()?);
/// assert!(is_event_stream(&headers));
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[must_use]
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    kind.is_some_and(|kind| kind.to_ascii_lowercase().contains("event-stream"))
}

/// An event: the type, and the data lines joined by line feeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The event's type; empty if none was named, which means `message`.
    pub event: String,
    /// The data.
    pub data: String,
}

/// Error of an event that is longer than the parser accepts; the stream can't be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {limit} bytes")]
pub struct EventTooLong {
    /// The limit, in bytes.
    pub limit: usize,
}

/// A push parser: feed it bytes as they arrive, and take the events that are complete.
///
/// Lines end with CR, LF or CRLF; a byte order mark at the start, comments and fields other than `data` and `event`
/// are skipped. Bytes that are not UTF-8 become U+FFFD.
///
/// ```
/// use leasehold_protocol::SseParser;
///
/// let mut parser = SseParser::new();
/// parser.feed(b": keep-alive\n\nevent: add\ndata: fir")?;
/// assert_eq!(parser.next_event(), None);
/// parser.feed(b"st\r\ndata: second\r\n\r\n")?;
/// let event = parser.next_event().unwrap();
/// assert_eq!((&*event.event, &*event.data), ("add", "first\nsecond"));
/// assert_eq!(parser.finish(), None);
/// # Ok::<(), leasehold_protocol::EventTooLong>(())
/// ```
#[derive(Clone, Debug)]
pub struct SseParser {
    /// The line so far.
    line: Vec<u8>,
    event: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// Whether the last byte was a CR, so that an LF belongs to it.
    after_cr: bool,
    is_first_line: bool,
    is_utf8: bool,
    max_event: usize,
    failed: bool,
    events: VecDeque<SseEvent>,
}

impl Default for SseParser {
    fn default() -> Self {
        Self::new()
    }
}

impl SseParser {
    /// Bytes of an event that are accepted by default: 16 MiB.
    pub const MAX_EVENT: usize = 16 * 1024 * 1024;

    /// Creates a parser that accepts events up to [`SseParser::MAX_EVENT`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_event(Self::MAX_EVENT)
    }

    /// Creates a parser that accepts events up to a length in bytes, names of fields included.
    #[must_use]
    pub fn with_max_event(max_event: usize) -> Self {
        Self {
            line: Vec::new(),
            event: Vec::new(),
            data: Vec::new(),
            has_data: false,
            after_cr: false,
            is_first_line: true,
            is_utf8: true,
            max_event,
            failed: false,
            events: VecDeque::new(),
        }
    }

    /// Reads bytes; complete events are taken with [`next_event`](Self::next_event).
    ///
    /// # Errors
    /// If an event is too long, now or in an earlier call. The events before it can still be taken.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), EventTooLong> {
        while !self.failed && !bytes.is_empty() {
            if core::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            let kept = self
                .line
                .len()
                .saturating_add(self.data.len())
                .saturating_add(self.event.len());
            if kept.saturating_add(part.len()) > self.max_event {
                self.fail();
                break;
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else {
                break;
            };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line();
        }
        if self.failed {
            let limit = self.max_event;
            return Err(EventTooLong { limit });
        }
        Ok(())
    }

    /// Takes the next complete event.
    pub fn next_event(&mut self) -> Option<SseEvent> {
        self.events.pop_front()
    }

    /// Whether all bytes so far were UTF-8.
    #[must_use]
    pub const fn is_utf8(&self) -> bool {
        self.is_utf8
    }

    /// Ends the stream, and returns the event that no blank line ended; its data may be cut.
    ///
    /// The standard drops such an event. Services leave the last blank line out, so the caller decides.
    pub fn finish(&mut self) -> Option<SseEvent> {
        if !self.line.is_empty() {
            self.end_line();
        }
        let complete = self.events.len();
        self.end_event();
        if self.events.len() > complete {
            return self.events.pop_back();
        }
        None
    }

    fn fail(&mut self) {
        self.failed = true;
        (self.line, self.data, self.event) = (Vec::new(), Vec::new(), Vec::new());
        self.has_data = false;
    }

    fn end_line(&mut self) {
        let line = core::mem::take(&mut self.line);
        let bom = b"\xef\xbb\xbf";
        let is_first = core::mem::take(&mut self.is_first_line);
        let content = line.strip_prefix(bom).filter(|_| is_first).unwrap_or(&line);
        if content.is_empty() {
            self.end_event();
        } else {
            self.field(content);
        }
        // Keeps the allocation.
        self.line = line;
        self.line.clear();
    }

    fn field(&mut self, line: &[u8]) {
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.has_data = true;
            }
            b"event" => value.clone_into(&mut self.event),
            _ => {}
        }
    }

    fn end_event(&mut self) {
        let event = core::mem::take(&mut self.event);
        let data = core::mem::take(&mut self.data);
        if core::mem::take(&mut self.has_data) {
            let event = self.decode(event);
            let data = self.decode(data);
            self.events.push_back(SseEvent { event, data });
        }
    }

    fn decode(&mut self, bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap_or_else(|error| {
            self.is_utf8 = false;
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(bytes: &[u8]) -> Vec<(String, String)> {
        let mut parser = SseParser::new();
        parser.feed(bytes).unwrap();
        core::iter::from_fn(|| parser.next_event())
            .map(|it| (it.event, it.data))
            .collect()
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        for (bytes, expected) in [
            (&b"data: a\n\n"[..], &[("", "a")][..]),
            (b"data: a\r\rdata: b\r\r", &[("", "a"), ("", "b")]),
            (b"data: a\r\n\r\ndata: b\r\n\r\n", &[("", "a"), ("", "b")]),
            (b"\xef\xbb\xbfdata: a\n\n", &[("", "a")]),
            (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", &[("", "a")]),
            (b"data: a\ndata:b\ndata:  c\n\n", &[("", "a\nb\n c")]),
            (b"data\n\n", &[("", "")]),
            (b"data\ndata\n\n", &[("", "\n")]),
            (b": comment\n:\n\ndata: a\n: more\n\n", &[("", "a")]),
            (
                b"event: add\ndata: a\n\ndata: b\n\n",
                &[("add", "a"), ("", "b")],
            ),
            (b"event: only\n\ndata: a\n\n", &[("", "a")]),
            (
                b"id: 7\nretry: 9\nother\n data: x\ndata: a\n\n",
                &[("", "a")],
            ),
            (b"data: a", &[]),
            (b"data: a\n", &[]),
            (b"\n\n\n", &[]),
            (b"data: \xff\n\n", &[("", "\u{fffd}")]),
        ] {
            let expected: Vec<_> = expected
                .iter()
                .map(|(event, data)| ((*event).to_owned(), (*data).to_owned()))
                .collect();
            assert_eq!(events(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn bytes_split_anywhere_give_the_same_events() {
        let bytes =
            "\u{feff}data: h\u{e9}\r\ndata: \u{1f600}\r\n\r\nevent: e\rdata: x\r\rdata: [DONE]\n\n"
                .as_bytes();
        let whole = events(bytes);
        assert_eq!(whole.len(), 3);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut parser = SseParser::new();
                for part in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    parser.feed(part).unwrap();
                }
                let split: Vec<_> = core::iter::from_fn(|| parser.next_event())
                    .map(|it| (it.event, it.data))
                    .collect();
                assert_eq!(split, whole);
                assert!(parser.is_utf8());
            }
        }
    }

    #[test]
    fn an_event_that_no_blank_line_ended_is_returned_at_the_end() {
        for bytes in [
            &b"data: a\n\ndata: b"[..],
            b"data: a\n\ndata: b\n",
            b"data: a\n\ndata: b\r",
        ] {
            let mut parser = SseParser::new();
            parser.feed(bytes).unwrap();
            assert_eq!(parser.next_event().unwrap().data, "a");
            assert_eq!(parser.finish().unwrap().data, "b");
            assert_eq!(parser.finish(), None);
        }
        let mut parser = SseParser::new();
        parser.feed(b"data: a\n\n: bye").unwrap();
        assert_eq!(parser.finish(), None);
        assert_eq!(parser.next_event().unwrap().data, "a");
    }

    #[test]
    fn an_event_that_is_too_long_ends_the_stream() {
        let error = Err(EventTooLong { limit: 20 });
        for long in [
            &b"data: 123456789012345"[..],
            b"data: 1234567\ndata: 12345678\ndata: 1",
            b":23456789012345678901",
        ] {
            let mut parser = SseParser::with_max_event(20);
            parser.feed(b"data: a\n\ndata: 12345678901234\n\n").unwrap();
            assert_eq!(parser.feed(long), error);
            assert_eq!(parser.feed(b"\n\ndata: b\n\n"), error);
            assert_eq!(parser.next_event().unwrap().data, "a");
            assert_eq!(parser.next_event().unwrap().data.len(), 14);
            assert_eq!((parser.next_event(), parser.finish()), (None, None));
        }
    }

    #[test]
    fn a_stream_that_is_not_utf8_is_noted() {
        let mut parser = SseParser::new();
        parser.feed(b"data: \xc3\n\n").unwrap();
        assert!(!parser.is_utf8());
    }
}
