//! The answer to a call: texts, tokens, and how it is written for each API.

use super::request::{Api, ApiRequest, words};
use super::sse::{EventStream, Pace};
use super::{chat, embeddings, messages, responses};
use crate::reply::Reply;
use serde_json::{Value, json};

/// A word that lengthens an answer.
const FILLER: &str = "lorem ";

/// The reason that an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    Stop,
    Length,
    ToolCalls,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) request: ApiRequest,
    /// Unique part of the answer's id.
    pub(super) id: String,
    pub(super) created: u64,
    /// Text of each choice.
    pub(super) text: String,
    pub(super) finish: Finish,
    /// Tokens of all choices.
    pub(super) completion_tokens: u64,
}

impl Answer {
    /// Answers with an echo that begins with `prefix` and has `length` words, if that is more than the echo has.
    pub(super) fn new(
        request: ApiRequest,
        id: &str,
        created: u64,
        prefix: &str,
        length: Option<u64>,
    ) -> Self {
        let intro = format!("{prefix}echo from {}: ", request.model);
        let filler = length
            .unwrap_or(0)
            .saturating_sub(words(&intro) + words(&request.prompt));
        let filler = FILLER.repeat(usize::try_from(filler).unwrap_or(usize::MAX));
        let full = format!("{intro}{filler}{}", request.prompt);
        let most = request.max_output.map_or(u64::MAX, |(_, most)| most);
        let (text, finish) = if request.tool.is_some() {
            (String::new(), Finish::ToolCalls)
        } else if words(&full) > most {
            (first_words(&full, most), Finish::Length)
        } else {
            (full, Finish::Stop)
        };
        let tokens = if request.api == Api::Embeddings {
            0
        } else if request.tool.is_some() {
            1 + words(&request.prompt)
        } else {
            words(&text)
        };
        Self {
            completion_tokens: tokens * request.choices,
            id: id.to_owned(),
            created,
            text,
            finish,
            request,
        }
    }

    pub(super) const fn total_tokens(&self) -> u64 {
        self.request.prompt_tokens + self.completion_tokens
    }

    /// The answer as one JSON object.
    pub(super) fn whole(&self) -> Value {
        match self.request.api {
            Api::Chat => chat::whole(self),
            Api::Responses => responses::whole(self),
            Api::Embeddings => embeddings::whole(self),
            Api::Messages => messages::whole(self),
        }
    }

    /// The answer as events, if the API has any.
    pub(super) fn events(&self, pace: &Pace) -> EventStream {
        match self.request.api {
            Api::Chat => chat::events(self, pace),
            Api::Responses => responses::events(self, pace),
            Api::Embeddings => EventStream::default(),
            Api::Messages => messages::events(self, pace),
        }
    }

    /// The answer as the caller asked for it.
    pub(super) fn reply(&self, pace: &Pace) -> Reply {
        if self.is_streamed() {
            self.events(pace).reply(pace)
        } else {
            Reply::json(200, &self.whole())
        }
    }

    pub(super) const fn is_streamed(&self) -> bool {
        self.request.stream.is_some()
    }

    /// Arguments of a call to the forced function.
    pub(super) fn arguments(&self) -> String {
        json!({ "input": self.request.prompt }).to_string()
    }
}

/// Cuts a text in the middle, as arguments are streamed.
pub(super) fn halves(text: &str) -> [&str; 2] {
    let middle = (0..=text.len() / 2)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    let (start, rest) = text.split_at(middle);
    [start, rest]
}

fn first_words(text: &str, count: u64) -> String {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let words: Vec<_> = text.split_whitespace().take(count).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str, length: Option<u64>) -> Answer {
        let request = ApiRequest::parse(Api::Chat, None, body.as_bytes()).unwrap();
        Answer::new(request, "1", 0, "", length)
    }

    #[test]
    fn an_answer_is_lengthened_before_the_echo_and_cut_at_the_maximum() {
        let call = r#"{"model":"m","messages":[{"role":"user","content":"hello there"}]}"#;
        let long = answer(call, Some(8));
        assert_eq!(long.text, "echo from m: lorem lorem lorem hello there");
        assert_eq!((long.completion_tokens, long.finish), (8, Finish::Stop));
        assert_eq!(answer(call, Some(2)).text, "echo from m: hello there");
        let call =
            r#"{"model":"m","messages":[{"role":"user","content":"a b"}],"max_tokens":4,"n":3}"#;
        let cut = answer(call, None);
        assert_eq!(
            (cut.text.as_str(), cut.finish),
            ("echo from m: a", Finish::Length)
        );
        assert_eq!((cut.completion_tokens, cut.total_tokens()), (12, 14));
    }
}
