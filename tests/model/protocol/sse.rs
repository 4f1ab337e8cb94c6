//! Streams of events: split anywhere they give the same events, those of a plain reader.

use arbitrary::Arbitrary;
use leasehold_protocol::{AnswerStream, Call, Chunk, JoinedStream, SseEvent, SseParser};

/// Bytes of a stream, and where they are split.
#[derive(Clone, Debug, Arbitrary)]
pub struct Case {
    /// Lengths of the parts but the last.
    pub parts: Vec<u8>,
    /// Maximum length of an event; small ones are reached.
    pub max_event: u16,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Reads a stream whole and in parts.
///
/// # Panics
/// If the parts give other events than the whole, or the whole others than the plain reader.
pub fn run(case: &Case) {
    let whole = [&case.bytes[..]];
    let parts = case.parts();
    let expected = plain_events(&case.bytes);
    assert_eq!(events(&whole, usize::MAX), (expected.clone(), true));
    assert_eq!(events(&parts, usize::MAX), (expected.clone(), true));
    let limit = usize::from(case.max_event);
    let bounded = events(&whole, limit);
    assert_eq!(events(&parts, limit), bounded);
    let (events, is_whole) = bounded;
    if is_whole {
        assert_eq!(events, expected);
    } else {
        assert!(expected.starts_with(&events), "{events:?} of {expected:?}");
    }
    for event in events {
        assert!(event.data.chars().count() <= limit);
    }
    for call in [Call::Chat, Call::Responses, Call::Messages, Call::Other] {
        assert_eq!(join(call, &whole), join(call, &parts));
    }
}

impl Case {
    fn parts(&self) -> Vec<&[u8]> {
        let (mut parts, mut rest) = (Vec::new(), &self.bytes[..]);
        for length in &self.parts {
            let (part, after) = rest.split_at(rest.len().min(usize::from(*length)));
            parts.push(part);
            rest = after;
        }
        parts.push(rest);
        parts
    }
}

/// Feeds parts; returns all events, and whether none was too long.
///
/// The last event is included, also if no blank line ended it.
fn events(parts: &[&[u8]], max_event: usize) -> (Vec<SseEvent>, bool) {
    let mut parser = SseParser::with_max_event(max_event);
    let mut events = Vec::new();
    let mut is_whole = true;
    for part in parts {
        is_whole = parser.feed(part).is_ok();
        events.extend(core::iter::from_fn(|| parser.next_event()));
    }
    events.extend(parser.finish());
    (events, is_whole)
}

/// Feeds parts to the reader of an answer.
fn join(call: Call, parts: &[&[u8]]) -> (Vec<Chunk>, JoinedStream) {
    let mut stream = AnswerStream::new(call);
    let mut chunks = Vec::new();
    for part in parts {
        stream
            .feed(part)
            .expect("no event is longer than the input");
        chunks.extend(core::iter::from_fn(|| stream.next_chunk()));
    }
    (chunks, stream.finish())
}

/// Reads a whole stream line by line, as the standard describes it.
fn plain_events(bytes: &[u8]) -> Vec<SseEvent> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut lines = vec![Vec::new()];
    let mut rest = bytes;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\r' => {
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
                lines.push(Vec::new());
            }
            b'\n' => lines.push(Vec::new()),
            byte => lines.last_mut().expect("never empty").push(*byte),
        }
    }
    // The end of the stream ends the last event too.
    lines.push(Vec::new());
    let (mut events, mut event, mut data) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        if line.is_empty() {
            if !data.is_empty() {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let data = text(&data.join(&b'\n'));
                events.push(SseEvent {
                    event: text(&event),
                    data,
                });
            }
            (event, data) = (Vec::new(), Vec::new());
            continue;
        }
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value).to_vec();
        match &line[..colon] {
            b"data" => data.push(value),
            b"event" => event = value,
            _ => {}
        }
    }
    events
}
