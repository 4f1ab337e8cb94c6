//! Streamed answers: bytes in, typed chunks out, and at the end the joined answer.
//!
//! Invariant: the joined answer is the concatenation of the chunks, and what came before an error or a cut is kept.

use crate::anthropic::messages_stream::MessagesJoiner;
use crate::call::Call;
use crate::completion::{Completion, Reading, Shape, error_in};
use crate::error_body::ErrorBody;
use crate::json::{self, Json};
use crate::note::{Note, Notes};
use crate::openai::chat_stream::ChatJoiner;
use crate::openai::responses_stream::ResponsesJoiner;
use crate::sse::{EventTooLong, SseEvent, SseParser};
use crate::usage::Usage;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};

/// One event of a streamed answer.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Chunk {
    /// What the event adds to each choice; empty for an event that adds nothing.
    pub deltas: Vec<Delta>,
    /// The usage, in the event that reports it.
    pub usage: Option<Usage>,
    /// The event's type; empty if it has none.
    pub event: String,
    /// The event as the service sent it.
    pub raw: Value,
}

impl Chunk {
    /// Returns the text that the event adds to the first choice.
    #[must_use]
    pub fn text(&self) -> &str {
        let mut first = self.deltas.iter().filter(|delta| delta.choice == 0);
        first
            .find_map(|delta| delta.content.as_deref())
            .unwrap_or_default()
    }
}

/// What an event adds to one choice.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Delta {
    /// Index of the choice.
    pub choice: u64,
    /// Text.
    pub content: Option<String>,
    /// Text of the model's reasoning.
    pub reasoning: Option<String>,
    /// Text of a refusal.
    pub refusal: Option<String>,
    /// Parts of tool calls, as the service words them.
    pub tool_calls: Vec<Value>,
    /// Reason that the choice ends, in its last delta.
    pub finish_reason: Option<String>,
}

impl Delta {
    pub(crate) fn is_empty(&self) -> bool {
        *self
            == Self {
                choice: self.choice,
                ..Self::default()
            }
    }
}

/// Parts joined by their index: choices, items, blocks, calls of tools; what comes beyond is joined to the last.
pub(crate) const MAX_INDEXED: usize = 1_024;

/// Returns the part with an index. Beyond the bound, all share the last one.
pub(crate) fn indexed<T: Default>(parts: &mut BTreeMap<u64, T>, index: u64) -> &mut T {
    let is_new = parts.len() >= MAX_INDEXED && !parts.contains_key(&index);
    let last = parts.keys().next_back().copied().filter(|_| is_new);
    parts.entry(last.unwrap_or(index)).or_default()
}

/// Joins the events of one kind of stream.
#[derive(Clone, Debug)]
enum Joiner {
    Chat(ChatJoiner),
    Responses(ResponsesJoiner),
    Messages(MessagesJoiner),
    /// Events without a shape; the last one is kept.
    Other {
        last: Value,
    },
}

/// A streamed answer that is being read.
///
/// ```
/// use leasehold_protocol::{AnswerStream, Call};
///
/// let mut stream = AnswerStream::new(Call::Chat);
/// stream.feed(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"he\"}}]}\n\n")?;
/// assert_eq!(stream.next_chunk().unwrap().text(), "he");
/// stream.feed(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"llo\"},\"finish_reason\":\"stop\"}]}\n\n")?;
/// stream.feed(b"data: [DONE]\n\n")?;
/// let joined = stream.finish();
/// assert!(joined.is_complete());
/// assert_eq!(joined.completion().choice.content, "hello");
/// # Ok::<(), leasehold_protocol::EventTooLong>(())
/// ```
#[derive(Clone, Debug)]
pub struct AnswerStream {
    parser: SseParser,
    joiner: Joiner,
    chunks: VecDeque<Chunk>,
    notes: Notes,
    error: Option<Box<ErrorBody>>,
    has_end_mark: bool,
    /// The first bytes, as long as they look like one JSON body.
    body: Option<Vec<u8>>,
}

/// Bytes kept of a stream that looks like one JSON body.
const MAX_BODY: usize = 1024 * 1024;

impl AnswerStream {
    /// Creates the reader of a stream that answers a call.
    #[must_use]
    pub fn new(call: Call) -> Self {
        Self::with_parser(call, SseParser::new())
    }

    /// Creates the reader of a stream with events up to a length in bytes.
    #[must_use]
    pub fn with_max_event(call: Call, max_event: usize) -> Self {
        Self::with_parser(call, SseParser::with_max_event(max_event))
    }

    fn with_parser(call: Call, parser: SseParser) -> Self {
        let joiner = match call {
            Call::Chat | Call::Completions => Joiner::Chat(ChatJoiner::default()),
            Call::Responses => Joiner::Responses(ResponsesJoiner::default()),
            Call::Messages => Joiner::Messages(MessagesJoiner::default()),
            Call::Embeddings | Call::Other => Joiner::Other { last: Value::Null },
        };
        Self {
            parser,
            joiner,
            chunks: VecDeque::new(),
            notes: Notes::default(),
            error: None,
            has_end_mark: false,
            body: Some(Vec::new()),
        }
    }

    /// Reads bytes as they arrive.
    ///
    /// # Errors
    /// If an event is too long. What came before it is kept.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), EventTooLong> {
        self.keep_body(bytes);
        let fed = self.parser.feed(bytes);
        while let Some(event) = self.parser.next_event() {
            if !self.add(event) {
                self.notes.add(Note::UnreadableEvent);
            }
        }
        fed
    }

    /// Takes the next chunk. The end mark and error events are none.
    pub fn next_chunk(&mut self) -> Option<Chunk> {
        self.chunks.pop_front()
    }

    /// The error that the stream reported, if it did.
    #[must_use]
    pub fn error(&self) -> Option<&ErrorBody> {
        self.error.as_deref()
    }

    /// Ends the stream and joins its answer.
    ///
    /// A body that is JSON, and no stream at all, is read as such.
    #[must_use]
    pub fn finish(mut self) -> JoinedStream {
        let is_typed = !matches!(self.joiner, Joiner::Other { .. });
        let body = self.body.take().unwrap_or_default();
        if let Json::Value(body) = json::read(&body, &mut self.notes) {
            return JoinedStream(Reading::of_json(body, is_typed, self.notes));
        }
        // The last event may lack its blank line; one that was cut is no JSON.
        let is_cut = match self.parser.finish() {
            Some(event) => !self.add(event),
            None => false,
        };
        if !self.parser.is_utf8() {
            self.notes.add(Note::BadUtf8);
        }
        let is_finished = match &self.joiner {
            Joiner::Chat(joiner) => joiner.is_finished(),
            Joiner::Responses(joiner) => joiner.is_finished(),
            Joiner::Messages(joiner) => joiner.is_finished(),
            Joiner::Other { .. } => !is_cut,
        };
        let needs_mark = matches!(self.joiner, Joiner::Chat(_));
        if is_finished && needs_mark && !self.has_end_mark {
            self.notes.add(Note::NoEndMark);
        }
        let body = match self.joiner {
            Joiner::Chat(joiner) => joiner.into_body(),
            Joiner::Responses(joiner) => joiner.into_body(),
            Joiner::Messages(joiner) => joiner.into_body(),
            Joiner::Other { last } => last,
        };
        let is_complete = is_finished || self.has_end_mark;
        let mut reading = Reading::of_json(body, false, self.notes);
        // An answer that has ended was paid for, whatever comes behind it.
        let is_paid = is_finished && is_typed;
        if let Some(error) = self.error.filter(|_| !is_paid) {
            reading.shape = Shape::Error(error);
        } else if !is_complete && !matches!(reading.shape, Shape::Error(_)) {
            reading.shape = Shape::Cut;
            reading.completion.notes.push(Note::Cut);
        }
        JoinedStream(reading)
    }

    /// Keeps the bytes of a body that looks like JSON.
    fn keep_body(&mut self, bytes: &[u8]) {
        let Some(body) = &mut self.body else {
            return;
        };
        // Padding is not kept, so that it is not searched again with each part.
        let bytes = if body.is_empty() {
            bytes.trim_ascii_start()
        } else {
            bytes
        };
        body.extend_from_slice(bytes);
        let start = body.first();
        if body.len() > MAX_BODY || start.is_some_and(|byte| !matches!(byte, b'{' | b'[')) {
            self.body = None;
        }
    }

    /// Adds an event; false if it is not JSON.
    fn add(&mut self, event: SseEvent) -> bool {
        if event.data.trim_start().starts_with("[DONE]") {
            self.has_end_mark = true;
            return true;
        }
        let Json::Value(raw) = json::read(event.data.as_bytes(), &mut self.notes) else {
            // Some services send empty events to keep the connection.
            return event.data.trim().is_empty();
        };
        let is_error = event.event == "error" || raw["type"] == "error";
        let error = if is_error {
            Some(ErrorBody::from_value(&raw))
        } else {
            error_in(&raw)
        };
        if let Some(error) = error {
            self.error.get_or_insert(Box::new(error));
            return true;
        }
        let (deltas, usage) = match &mut self.joiner {
            Joiner::Chat(joiner) => joiner.add(&raw),
            Joiner::Responses(joiner) => joiner.add(&raw),
            Joiner::Messages(joiner) => joiner.add(&raw),
            Joiner::Other { last } => {
                last.clone_from(&raw);
                (Vec::new(), Usage::read(&raw["usage"]))
            }
        };
        let event = event.event;
        self.chunks.push_back(Chunk {
            deltas,
            usage,
            event,
            raw,
        });
        true
    }
}

/// A streamed answer that has ended, whole or not.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinedStream(pub(crate) Reading);

impl JoinedStream {
    /// Whether the stream came to its end without an error.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        match self.0.shape {
            Shape::Answer | Shape::Empty | Shape::Untyped => true,
            Shape::Cut | Shape::Error(_) => false,
        }
    }

    /// The joined answer; of a stream that was cut, what came so far.
    #[must_use]
    pub const fn completion(&self) -> &Completion {
        &self.0.completion
    }

    /// Returns the joined answer.
    #[must_use]
    pub fn into_completion(self) -> Completion {
        self.0.completion
    }
}

/// Joins a whole body of events, such as one that came where JSON was asked for.
pub(crate) fn join(call: Call, body: &[u8]) -> Reading {
    let mut stream = AnswerStream::with_max_event(call, usize::MAX);
    // The body is already in memory, so no event is too long.
    let _ = stream.feed(body);
    stream.chunks.clear();
    let JoinedStream(mut reading) = stream.finish();
    reading.completion.notes.insert(0, Note::StreamForJson);
    reading
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(call: Call, text: &str) -> (Vec<Chunk>, JoinedStream) {
        let mut stream = AnswerStream::new(call);
        stream.feed(text.as_bytes()).unwrap();
        let chunks = core::iter::from_fn(|| stream.next_chunk()).collect();
        (chunks, stream.finish())
    }

    const HE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"he\"}}]}\n\n";
    const LLO: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"llo\"},\"finish_reason\":\"stop\"}]}\n\n";

    #[test]
    fn a_stream_is_complete_with_its_end_mark_or_its_finish_reason() {
        for (text, complete, notes) in [
            (format!("{HE}{LLO}data: [DONE]\n\n"), true, vec![]),
            (format!("{HE}{LLO}data: [DONE]"), true, vec![]),
            (format!("{HE}data: [DONE]\n\n"), true, vec![]),
            (format!("{HE}{LLO}"), true, vec![Note::NoEndMark]),
            (
                format!("{HE}{}", LLO.trim_end()),
                true,
                vec![Note::NoEndMark],
            ),
            (HE.to_owned(), false, vec![Note::Cut]),
            (format!("{HE}{}", &LLO[..30]), false, vec![Note::Cut]),
            (
                format!("{HE}data: oops\n\n{LLO}data: [DONE]\n\n"),
                true,
                vec![Note::UnreadableEvent],
            ),
            (
                format!("{HE}data: \n\n: comment\n\n{LLO}data: [DONE]\n\n"),
                true,
                vec![],
            ),
            (String::new(), false, vec![Note::Cut]),
        ] {
            let (_, joined) = read(Call::Chat, &text);
            assert_eq!(joined.is_complete(), complete, "{text}");
            assert_eq!(joined.completion().notes, notes, "{text}");
        }
    }

    #[test]
    fn what_came_before_an_error_or_a_cut_is_kept() {
        let error = "data: {\"error\":{\"message\":\"overloaded\",\"code\":503}}\n\n";
        let (chunks, joined) = read(Call::Chat, &format!("{HE}{error}data: [DONE]\n\n"));
        assert_eq!(chunks.len(), 1);
        assert!(!joined.is_complete());
        assert_eq!(joined.completion().choice.content, "he");
        let Shape::Error(error) = joined.0.shape else {
            panic!("an error");
        };
        assert_eq!((error.status, &*error.message), (Some(503), "overloaded"));
        let named = read(Call::Chat, "event: error\ndata: {\"message\": \"m\"}\n\n").1;
        assert!(matches!(named.0.shape, Shape::Error(error) if error.message == "m"));
        let cut = read(Call::Chat, HE).1;
        assert_eq!(cut.completion().choice.content, "he");
    }

    #[test]
    fn an_error_behind_a_finished_answer_takes_nothing_from_it() {
        let error = "data: {\"error\":{\"message\":\"no usage\",\"code\":502}}\n\n";
        let (_, joined) = read(Call::Chat, &format!("{HE}{LLO}{error}"));
        assert_eq!(joined.completion().choice.content, "hello");
        assert_eq!(joined.completion().notes, [Note::NoEndMark]);
        assert!(joined.is_complete());
        assert!(!read(Call::Other, &format!("{HE}{error}")).1.is_complete());
    }

    #[test]
    fn a_stream_of_another_call_is_complete_at_its_end() {
        let (chunks, joined) = read(
            Call::Other,
            "event: a\ndata: {\"usage\": {\"total_tokens\": 5}}\n\n",
        );
        assert_eq!((chunks.len(), &*chunks[0].event), (1, "a"));
        assert!(joined.is_complete());
        assert_eq!(
            joined
                .completion()
                .usage
                .and_then(|usage| usage.total_tokens),
            Some(5)
        );
        assert!(
            !read(Call::Other, "data: {\"a\": 1}\n\ndata: {\"b\"")
                .1
                .is_complete()
        );
    }

    #[test]
    fn a_body_that_is_no_stream_at_all_is_read_as_json() {
        let joined = read(
            Call::Chat,
            " {\"choices\": [{\"message\": {\"content\": \"hi\"}}]}\n",
        )
        .1;
        assert!(joined.is_complete());
        assert_eq!(joined.completion().choice.content, "hi");
        let failed = read(Call::Chat, "{\"error\": {\"message\": \"m\"}}").1;
        assert!(matches!(failed.0.shape, Shape::Error(error) if error.message == "m"));
        assert!(!read(Call::Chat, "{\"choices\": [").1.is_complete());
    }

    #[test]
    fn a_body_of_events_is_joined() {
        let reading = join(Call::Chat, format!("{HE}{LLO}data: [DONE]\n\n").as_bytes());
        assert_eq!(
            (&reading.shape, &*reading.completion.choice.content),
            (&Shape::Answer, "hello")
        );
        assert_eq!(reading.completion.notes, [Note::StreamForJson]);
    }

    #[test]
    fn the_number_of_indexed_parts_is_bounded() {
        let mut parts: BTreeMap<u64, u64> = BTreeMap::new();
        for index in 0..3_000 {
            *indexed(&mut parts, index) += 1;
        }
        *indexed(&mut parts, 7) += 1;
        assert_eq!(parts.len(), MAX_INDEXED);
        assert_eq!((parts[&7], parts[&1_023]), (2, 3_000 - 1_023));
    }

    #[test]
    fn the_first_text_of_a_chunk_is_that_of_the_first_choice() {
        let text = "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"b\"}},{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
        let (chunks, _) = read(Call::Chat, text);
        assert_eq!((chunks[0].text(), chunks[0].deltas.len()), ("a", 2));
    }
}
