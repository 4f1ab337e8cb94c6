//! A streamed answer on its way from a service to a caller.
//!
//! Invariant: the caller gets the service's events as they are, less the usage that it did not ask for; and a stream
//! that ends early ends with an error event, never silently.

use crate::call::Call;
use crate::error_body::ErrorBody;
use crate::refusal::Refusal;
use crate::resource::made_ids;
use crate::sse::{EventTooLong, SseEvent, SseParser};
use crate::stream::{AnswerStream, JoinedStream};
use serde_json::Value;

/// A stream that is passed on and read on the way.
///
/// ```
/// use leasehold_protocol::{Call, StreamRelay};
///
/// let mut relay = StreamRelay::new(Call::Chat, false);
/// let event = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n";
/// assert_eq!(relay.feed(event)?, b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n");
/// let usage = b"data: {\"choices\":[],\"usage\":{\"total_tokens\":7}}\n\n";
/// assert_eq!(relay.feed(usage)?, b"");
/// # Ok::<(), leasehold_protocol::EventTooLong>(())
/// ```
#[derive(Clone, Debug)]
pub struct StreamRelay {
    call: Call,
    answer: AnswerStream,
    /// Splits the stream into events, where some of them are changed.
    events: Option<SseParser>,
    has_begun: bool,
    made: Vec<String>,
    /// The last bytes that were passed on, up to four.
    last: Vec<u8>,
}

impl StreamRelay {
    /// Begins to pass the answer to a call on; `shows_usage` tells whether its usage is for the caller.
    #[must_use]
    pub fn new(call: Call, shows_usage: bool) -> Self {
        Self {
            call,
            answer: AnswerStream::new(call),
            events: (!shows_usage).then(SseParser::new),
            has_begun: false,
            made: Vec::new(),
            last: Vec::new(),
        }
    }

    /// Takes bytes as they arrive, and returns those for the caller.
    ///
    /// # Errors
    /// If an event is too long; the stream can't be read any further.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<u8>, EventTooLong> {
        self.answer.feed(bytes)?;
        while let Some(chunk) = self.answer.next_chunk() {
            if !self.has_begun {
                let raw = &chunk.raw;
                self.made = made_ids(raw.get("response").unwrap_or(raw));
            }
            self.has_begun = true;
        }
        let passed = match &mut self.events {
            None => bytes.to_vec(),
            Some(events) => {
                events.feed(bytes)?;
                let mut passed = Vec::new();
                while let Some(event) = events.next_event() {
                    write(&mut passed, event);
                }
                passed
            }
        };
        self.remember(&passed);
        Ok(passed)
    }

    /// Whether an event of the answer has come; comments are none.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// The ids of what the service makes, as the first event tells them; see [`made_ids`].
    #[must_use]
    pub fn made_ids(&self) -> &[String] {
        &self.made
    }

    /// The error that the service reported in the stream, if it did.
    #[must_use]
    pub fn error(&self) -> Option<&ErrorBody> {
        self.answer.error()
    }

    /// Ends the stream: returns what is left of it for the caller, and the answer.
    #[must_use]
    pub fn finish(mut self) -> (Vec<u8>, JoinedStream) {
        let mut rest = Vec::new();
        if let Some(event) = self.events.as_mut().and_then(SseParser::finish) {
            // One that was cut is no JSON, and no use to the caller.
            let is_whole = serde_json::from_str::<Value>(&event.data).is_ok();
            if is_whole || event.data.trim_start().starts_with("[DONE]") {
                write(&mut rest, event);
            }
        }
        (rest, self.answer.finish())
    }

    /// Returns the event that tells the caller that the stream broke, and the end of the one that it broke in.
    #[must_use]
    pub fn end_with(&self, refusal: &Refusal) -> Vec<u8> {
        let is_between = self.last.is_empty()
            || [&b"\n\n"[..], b"\r\r", b"\n\r\n"]
                .iter()
                .any(|end| self.last.ends_with(end));
        // A comment takes the rest of a line that was cut, and the blank line ends its event.
        let mut end = if is_between {
            Vec::new()
        } else {
            b"\n\n".to_vec()
        };
        end.extend(refusal.event(self.call));
        end
    }

    fn remember(&mut self, passed: &[u8]) {
        self.last
            .extend_from_slice(&passed[passed.len().saturating_sub(4)..]);
        let surplus = self.last.len().saturating_sub(4);
        self.last.drain(..surplus);
    }
}

/// Writes an event without the usage that its caller did not ask for.
fn write(out: &mut Vec<u8>, event: SseEvent) {
    let mut data = event.data;
    if let Ok(Value::Object(mut fields)) = serde_json::from_str::<Value>(&data) {
        match fields.get("usage") {
            Some(Value::Null) => {
                fields.shift_remove("usage");
                data = Value::Object(fields).to_string();
            }
            Some(Value::Object(_)) if fields.get("choices").is_some_and(is_empty) => return,
            Some(_) | None => {}
        }
    }
    if !event.event.is_empty() {
        out.extend_from_slice(format!("event: {}\n", event.event).as_bytes());
    }
    for line in data.split('\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

fn is_empty(choices: &Value) -> bool {
    choices.as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use proptest::prelude::*;
    use serde_json::json;

    fn events(bytes: &[u8]) -> Vec<SseEvent> {
        let mut parser = SseParser::new();
        parser.feed(bytes).unwrap();
        core::iter::from_fn(|| parser.next_event()).collect()
    }

    fn relayed(parts: &[&[u8]], shows_usage: bool) -> (Vec<u8>, JoinedStream) {
        let mut relay = StreamRelay::new(Call::Chat, shows_usage);
        let mut passed: Vec<u8> = parts
            .iter()
            .flat_map(|part| relay.feed(part).unwrap())
            .collect();
        let (rest, joined) = relay.finish();
        passed.extend(rest);
        (passed, joined)
    }

    fn stream() -> Vec<u8> {
        let chunk =
            |choices: Value, usage: Value| json!({"id": "c", "choices": choices, "usage": usage});
        let delta = |text: &str, end: Value| json!([{"index": 0, "delta": {"content": text}, "finish_reason": end}]);
        let usage = json!({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7});
        let mut text = String::new();
        for chunk in [
            chunk(delta("wör", json!(null)), json!(null)),
            chunk(delta("ds", json!("stop")), json!(null)),
            chunk(json!([]), usage),
        ] {
            text += &format!("data: {chunk}\r\n\r\n");
        }
        (text + "data: [DONE]\r\n\r\n").into_bytes()
    }

    #[test]
    fn a_stream_that_breaks_in_an_event_ends_with_an_error_event() {
        let refusal = Refusal::new(StatusCode::BAD_GATEWAY, "cut", "the service hung up");
        for cut in [
            "data: {\"choices\":[{\"ind",
            "data: {}\n",
            "data: {}\n\n",
            "",
        ] {
            let mut relay = StreamRelay::new(Call::Chat, true);
            let mut passed = relay.feed(cut.as_bytes()).unwrap();
            passed.extend(relay.end_with(&refusal));
            let last = events(&passed).pop().unwrap();
            let data: Value = serde_json::from_str(&last.data).unwrap();
            assert_eq!(data["error"]["message"], "the service hung up", "{cut:?}");
        }
    }

    #[test]
    fn comments_do_not_begin_an_answer() {
        let mut relay = StreamRelay::new(Call::Chat, true);
        relay.feed(b": processing\n\n").unwrap();
        assert!(!relay.has_begun());
        relay
            .feed(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n")
            .unwrap();
        assert!(relay.has_begun() && relay.error().is_none());
        let mut relay = StreamRelay::new(Call::Chat, true);
        relay
            .feed(b"data: {\"error\":{\"message\":\"no\"}}\n\n")
            .unwrap();
        assert!(relay.error().is_some());
    }

    proptest! {
        #[test]
        fn events_pass_unchanged_wherever_they_are_cut(cuts in prop::collection::vec(0_usize..400, 0..6)) {
            let stream = stream();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.sort_unstable();
            let mut parts = Vec::new();
            let mut start = 0;
            for cut in cuts.into_iter().chain([stream.len()]) {
                parts.push(&stream[start..cut]);
                start = cut;
            }
            let (shown, joined) = relayed(&parts, true);
            prop_assert_eq!(&shown, &stream);
            prop_assert!(joined.is_complete());
            prop_assert_eq!(joined.completion().usage.and_then(|usage| usage.total_tokens), Some(7));
            let (hidden, joined) = relayed(&parts, false);
            prop_assert_eq!(joined.completion().usage.and_then(|usage| usage.total_tokens), Some(7));
            let values = |bytes: &[u8]| -> Vec<Value> {
                events(bytes).iter().filter_map(|event| serde_json::from_str(&event.data).ok()).collect()
            };
            let expected: Vec<Value> = values(&stream).into_iter().filter_map(|mut value| {
                let usage = value.as_object_mut()?.shift_remove("usage")?;
                usage.is_null().then_some(value)
            }).collect();
            prop_assert_eq!(values(&hidden), expected);
            prop_assert_eq!(&events(&hidden).pop().unwrap().data, "[DONE]");
        }

        #[test]
        fn any_bytes_are_passed_on(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (passed, _) = relayed(&[&bytes], true);
            prop_assert_eq!(passed, bytes.clone());
            let _ = relayed(&[&bytes], false);
        }
    }
}
