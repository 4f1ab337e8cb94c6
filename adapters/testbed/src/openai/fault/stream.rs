//! Streams that end too soon, or with an error.

use super::{Properties, Scene};
use crate::openai::anthropic::error_body;
use crate::openai::error::ErrorForm;
use crate::openai::request::Api;
use crate::openai::responses;
use crate::openai::sse::{Ending, Event, EventStream};
use crate::reply::Reply;
use crate::text::go_duration;
use serde_json::{Value, json};

const EVERY_API: Properties = Properties::FAILURE.streamed();
const TOLD: Properties = EVERY_API.telling_wait();
const CHAT: Properties = EVERY_API.of(&[Api::Chat]);
const RESPONSES: Properties = EVERY_API.of(&[Api::Responses]);

fault_table! {
    /// A stream that ends too soon, or with an error.
    StreamFault {
        Error EVERY_API "stream-error" "an error event in the middle, then the end",
        ErrorFirst EVERY_API "stream-error-first" "an error event is all",
        ErrorRate TOLD "stream-error-rate" "an error event in the middle: 429, try again in --fault-wait",
        ErrorChoice CHAT "stream-error-choice" "a chunk with an error and finish_reason error",
        Failed RESPONSES "stream-failed" "response.failed in the middle",
        Cut EVERY_API "stream-cut" "the end comes in the middle, without DONE",
        CutLine EVERY_API "stream-cut-line" "the end comes inside a line",
        Empty EVERY_API "stream-empty" "no event at all",
        OnlyDone CHAT "stream-only-done" "DONE is all",
        BadJson EVERY_API "stream-bad-json" "an event in the middle is not JSON, then the end",
        BadUtf8 EVERY_API "stream-bad-utf8" "an event in the middle is not UTF-8, then the end",
        Abort EVERY_API "stream-abort" "the connection closes in the middle",
        Reset EVERY_API "stream-reset" "the connection is reset in the middle",
        Stall EVERY_API "stream-stall" "silence in the middle, for --stall, then the connection closes",
        StallFirst EVERY_API "stream-stall-first" "headers, then silence for --stall",
    }
}

impl StreamFault {
    pub(super) fn reply(self, scene: &Scene<'_>) -> Reply {
        let mut stream = scene.answer.events(scene.pace);
        match self {
            Self::ErrorFirst | Self::Empty | Self::StallFirst => stream.events.clear(),
            Self::OnlyDone => stream.events = vec![Event::done()],
            Self::Error
            | Self::ErrorRate
            | Self::ErrorChoice
            | Self::Failed
            | Self::Cut
            | Self::CutLine
            | Self::BadJson
            | Self::BadUtf8
            | Self::Abort
            | Self::Reset
            | Self::Stall => stream.halve(),
        }
        self.finish(&mut stream, scene);
        stream.reply(scene.pace)
    }

    /// Adds the end: an event, bytes, or a break.
    fn finish(self, stream: &mut EventStream, scene: &Scene<'_>) {
        let form = scene.form();
        let number = stream.events.len();
        match self {
            Self::Error | Self::ErrorFirst => {
                let message = "The server had an error while processing your request.";
                stream
                    .events
                    .push(error(form, "server_error", 502, message, number));
            }
            Self::ErrorRate => {
                let wait = go_duration(scene.times.wait);
                let message = format!("Rate limit reached. Please try again in {wait}.");
                stream
                    .events
                    .push(error(form, "rate_limit_exceeded", 429, &message, number));
            }
            Self::ErrorChoice => {
                let mut chunk = stream.events.first().cloned();
                if let Some(chunk) = chunk.as_mut().and_then(Event::as_json) {
                    chunk["error"] = json!({ "code": 502, "message": "Provider disconnected" });
                    chunk["choices"][0]["delta"] = json!({ "content": "" });
                    chunk["choices"][0]["finish_reason"] = json!("error");
                }
                stream.events.extend(chunk);
            }
            Self::Failed => {
                let data = json!({
                    "response": responses::failed(scene.answer),
                    "type": "response.failed",
                    "sequence_number": number,
                });
                stream.events.push(Event::named("response.failed", data));
            }
            Self::CutLine => stream.tail = b"data: {\"id\":\"chatcm".to_vec(),
            Self::BadJson => stream.events.push(Event::text("{\"choices\":[{\"delta\":")),
            Self::BadUtf8 => {
                stream.tail =
                    b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xff\xfe\"}}]}\n\n"
                        .to_vec();
            }
            Self::Abort => stream.ending = Ending::BrokenOff,
            Self::Reset => {
                scene.orders.reset();
                stream.ending = Ending::BrokenOff;
            }
            Self::Stall | Self::StallFirst => stream.ending = Ending::Stalled(scene.times.stall),
            Self::Cut | Self::Empty | Self::OnlyDone => {}
        }
    }
}

/// An error event as the API has it.
fn error(form: ErrorForm<'_>, kind: &str, status: u16, message: &str, number: usize) -> Event {
    match form.api {
        Api::Messages => Event::named("error", error_body(status, message, form.id)),
        Api::Responses => {
            let data = json!({
                "type": "error",
                "code": kind,
                "message": message,
                "param": null,
                "sequence_number": number,
            });
            Event::named("error", data)
        }
        Api::Chat | Api::Embeddings => Event::json(json!({
            "error": { "message": message, "type": kind, "param": Value::Null, "code": status },
        })),
    }
}
