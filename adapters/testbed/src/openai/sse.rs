//! Server-sent events: how an answer is cut into pieces, framed as lines, and timed.

use crate::reply::Reply;
use crate::server::Step;
use core::num::NonZeroU32;
use core::ops::RangeInclusive;
use core::time::Duration;
use hyper::body::Bytes;
use serde_json::Value;

/// Most pieces of an answer's texts: each is an event, and all are in memory before the first is sent.
pub(super) const MAX_PIECES: usize = 20_000;

/// Number and timing of the pieces of one answer.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Number of pieces of the text; one for each word if `None`, up to [`MAX_PIECES`] of all choices.
    pub(super) chunks: Option<NonZeroU32>,
    /// Range of the pause before each event but the first, in nanoseconds.
    pub(super) delay: RangeInclusive<u64>,
    pub(super) seed: u64,
}

impl Pace {
    /// Cuts a text at word ends, or into as many equal pieces as are wanted; surplus pieces are empty.
    pub(super) fn pieces<'a>(&self, text: &'a str, choices: u64) -> Vec<&'a str> {
        let choices = usize::try_from(choices).unwrap_or(usize::MAX);
        let most = MAX_PIECES.checked_div(choices).unwrap_or(0).max(1);
        let chunks = match self.chunks {
            Some(chunks) => (chunks.get() as usize).min(most),
            None if text.split_inclusive(' ').nth(most).is_some() => most,
            None => return text.split_inclusive(' ').collect(),
        };
        let ends: Vec<_> = text
            .char_indices()
            .map(|(at, _)| at)
            .chain([text.len()])
            .collect();
        let chars = ends.len() - 1;
        let end = |piece: usize| ends[chars * piece / chunks];
        (0..chunks)
            .map(|piece| &text[end(piece)..end(piece + 1)])
            .collect()
    }
}

/// The data of an event.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Json(Value),
    Text(String),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    pub(super) name: Option<String>,
    pub(super) data: Data,
}

impl Event {
    pub(super) const fn json(data: Value) -> Self {
        Self {
            name: None,
            data: Data::Json(data),
        }
    }

    pub(super) fn named(name: &str, data: Value) -> Self {
        Self {
            name: Some(name.to_owned()),
            data: Data::Json(data),
        }
    }

    pub(super) fn text(data: &str) -> Self {
        Self {
            name: None,
            data: Data::Text(data.to_owned()),
        }
    }

    pub(super) fn done() -> Self {
        Self::text("[DONE]")
    }

    pub(super) fn is_done(&self) -> bool {
        self.data == Data::Text("[DONE]".to_owned())
    }

    pub(super) const fn as_json(&mut self) -> Option<&mut Value> {
        match &mut self.data {
            Data::Json(value) => Some(value),
            Data::Text(_) => None,
        }
    }
}

/// The places at which an event's bytes are cut into writes of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Cut {
    #[default]
    Events,
    Bytes,
    /// Before each byte that continues a UTF-8 sequence.
    InsideCharacters,
    /// After each CR.
    AfterCr,
    /// All events in one write, without pauses.
    Nowhere,
}

/// How events are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Framing {
    pub(super) line_end: &'static str,
    /// Written between `data:` and the data.
    pub(super) space: &'static str,
    pub(super) cut: Cut,
    /// Lines before each event.
    pub(super) before: &'static [&'static str],
    /// Whether JSON is written over several lines.
    pub(super) pretty: bool,
    pub(super) bom: bool,
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            line_end: "\n",
            space: " ",
            cut: Cut::default(),
            before: &[],
            pretty: false,
            bom: false,
        }
    }
}

/// How a stream ends after its events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Ending {
    #[default]
    Whole,
    /// Without the last chunk of HTTP.
    BrokenOff,
    /// Silence for this time, then broken off.
    Stalled(Duration),
}

/// The events of an answer, and how they are sent.
#[derive(Clone, Debug, Default)]
pub(super) struct EventStream {
    pub(super) events: Vec<Event>,
    pub(super) framing: Framing,
    pub(super) ending: Ending,
    /// Pause before the first event.
    pub(super) first_pause: Duration,
    /// Bytes after the last event.
    pub(super) tail: Vec<u8>,
}

impl EventStream {
    pub(super) fn new(events: Vec<Event>) -> Self {
        Self {
            events,
            ..Self::default()
        }
    }

    /// Keeps the first half of the events, at least one.
    pub(super) fn halve(&mut self) {
        self.events.truncate(self.events.len().div_ceil(2));
    }

    pub(super) fn reply(&self, pace: &Pace) -> Reply {
        let mut rng = fastrand::Rng::with_seed(pace.seed);
        let mut steps = vec![Step::Flush];
        if !self.first_pause.is_zero() {
            steps.push(Step::Wait(self.first_pause));
        }
        if self.framing.bom {
            steps.push(Step::Bytes(Bytes::from_static(b"\xef\xbb\xbf")));
        }
        if self.framing.cut == Cut::Nowhere {
            let events = self.events.iter().map(|event| self.framing.write(event));
            steps.push(Step::Bytes(events.collect::<String>().into()));
            return Reply::events(steps);
        }
        for (index, event) in self.events.iter().enumerate() {
            let delay = Duration::from_nanos(rng.u64(pace.delay.clone()));
            if index > 0 && !delay.is_zero() {
                steps.push(Step::Wait(delay));
            }
            self.push_event(event, &mut steps);
        }
        if !self.tail.is_empty() {
            steps.extend([Step::Bytes(self.tail.clone().into()), Step::Flush]);
        }
        match self.ending {
            Ending::Whole => {}
            Ending::BrokenOff => steps.extend([Step::Flush, Step::Fail]),
            Ending::Stalled(span) => steps.extend([Step::Wait(span), Step::Fail]),
        }
        // The end of the body goes out with the last bytes.
        while steps.last() == Some(&Step::Flush) {
            steps.pop();
        }
        Reply::events(steps).header("cache-control", "no-cache")
    }

    fn push_event(&self, event: &Event, steps: &mut Vec<Step>) {
        let bytes = self.framing.write(event).into_bytes();
        let mut start = 0;
        for at in 1..bytes.len() {
            let is_cut = match self.framing.cut {
                Cut::Events | Cut::Nowhere => false,
                Cut::Bytes => true,
                Cut::InsideCharacters => bytes[at] & 0xc0 == 0x80,
                Cut::AfterCr => bytes[at - 1] == b'\r',
            };
            if is_cut {
                let piece = Bytes::copy_from_slice(&bytes[start..at]);
                steps.extend([Step::Bytes(piece), Step::Flush]);
                start = at;
            }
        }
        let rest = Bytes::copy_from_slice(&bytes[start..]);
        steps.extend([Step::Bytes(rest), Step::Flush]);
    }
}

impl Framing {
    fn write(&self, event: &Event) -> String {
        let data = match &event.data {
            Data::Text(text) => text.clone(),
            Data::Json(value) if self.pretty => format!("{value:#}"),
            Data::Json(value) => value.to_string(),
        };
        let mut lines: Vec<String> = self.before.iter().map(|line| (*line).to_owned()).collect();
        lines.extend(
            event
                .name
                .iter()
                .map(|name| format!("event:{}{name}", self.space)),
        );
        lines.extend(
            data.lines()
                .map(|line| format!("data:{}{line}", self.space)),
        );
        lines.push(String::new());
        lines
            .iter()
            .fold(String::new(), |text, line| text + line + self.line_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pace(chunks: u32) -> Pace {
        Pace {
            chunks: NonZeroU32::new(chunks),
            delay: 0..=0,
            seed: 0,
        }
    }

    #[test]
    fn a_text_is_cut_into_as_many_pieces_as_wanted() {
        assert_eq!(pace(0).pieces("one two  é", 1), ["one ", "two ", " ", "é"]);
        assert_eq!(pace(2).pieces("aé😀b", 1), ["aé", "😀b"]);
        assert_eq!(pace(4).pieces("ab", 1), ["", "a", "", "b"]);
        assert_eq!(pace(1).pieces("", 1), [""]);
        for chunks in 1..9 {
            assert_eq!(
                pace(chunks).pieces("häßliche Wörter", 1).concat(),
                "häßliche Wörter"
            );
        }
    }

    #[test]
    fn the_pieces_of_all_choices_are_bounded() {
        let text = "a ".repeat(MAX_PIECES + 1);
        for choices in [1, 3, 128] {
            let pieces = pace(0).pieces(&text, choices);
            assert_eq!(pieces.len(), MAX_PIECES / choices as usize);
            assert_eq!(pieces.concat(), text);
            let few = pace(5_000).pieces("a b", choices);
            assert_eq!(few.len(), 5_000.min(MAX_PIECES / choices as usize));
        }
        let whole = &text[2..];
        assert_eq!(pace(0).pieces(whole, 1).len(), MAX_PIECES);
    }

    #[test]
    fn an_event_is_written_with_every_kind_of_framing() {
        let event = Event::named("x", json!({ "a": 1 }));
        let framing = Framing::default();
        assert_eq!(framing.write(&event), "event: x\ndata: {\"a\":1}\n\n");
        let framing = Framing {
            line_end: "\r\n",
            space: "",
            before: &[": hello", "id: 7"],
            pretty: true,
            ..Framing::default()
        };
        assert_eq!(
            framing.write(&event),
            ": hello\r\nid: 7\r\nevent:x\r\ndata:{\r\ndata:  \"a\": 1\r\ndata:}\r\n\r\n"
        );
    }

    #[test]
    fn the_seed_determines_the_pauses() {
        let pauses = |seed| {
            let stream = EventStream::new(vec![Event::done(); 4]);
            let pace = Pace {
                chunks: None,
                delay: 1..=1_000_000,
                seed,
            };
            let waits = |step: &Step| matches!(step, Step::Wait(_));
            let steps = stream.reply(&pace).steps;
            steps.into_iter().filter(waits).collect::<Vec<_>>()
        };
        assert_eq!(pauses(1).len(), 3);
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
    }
}
