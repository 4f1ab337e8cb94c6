//! What was odd about an answer that was read all the same.

use core::fmt;
use serde::{Serialize, Serializer};

/// An oddity of an answer; the answer was kept, with the change that the note names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Note {
    /// The bytes are not UTF-8; each bad sequence became U+FFFD.
    BadUtf8,
    /// Half of a surrogate pair became U+FFFD.
    LoneSurrogate,
    /// A control character stood in a string without an escape, or an escape is unknown.
    UnescapedCharacter,
    /// `NaN`, `Infinity` or a number out of range became null.
    NotANumber,
    /// A value nested too deep became null.
    TooDeep,
    /// Text after the JSON was dropped.
    TextAfterJson,
    /// A stream of events came where one JSON body was asked for.
    StreamForJson,
    /// A stream ended without its end mark, but after its answer was finished.
    NoEndMark,
    /// An event of a stream is not JSON; it was skipped.
    UnreadableEvent,
    /// The answer does not have the shape of the call; only `raw` holds it.
    Untyped,
    /// The answer ends early.
    Cut,
    /// The body is not encoded as its header says.
    WrongEncoding,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadUtf8 => "bad UTF-8 was replaced by U+FFFD",
            Self::LoneSurrogate => "half a surrogate pair was replaced by U+FFFD",
            Self::UnescapedCharacter => "a character that JSON must escape was escaped",
            Self::NotANumber => "a number that JSON can't hold was replaced by null",
            Self::TooDeep => "a value nested too deep was replaced by null",
            Self::TextAfterJson => "text after the JSON was dropped",
            Self::StreamForJson => "a stream came where JSON was asked for",
            Self::NoEndMark => "the stream has no end mark",
            Self::UnreadableEvent => "an event that is not JSON was skipped",
            Self::Untyped => "the answer does not have the expected shape",
            Self::Cut => "the answer ends early",
            Self::WrongEncoding => "the body is not encoded as its header says",
        })
    }
}

impl Serialize for Note {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Notes, each once, in the order found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes(pub(crate) Vec<Note>);

impl Notes {
    pub(crate) fn add(&mut self, note: Note) {
        if !self.0.contains(&note) {
            self.0.push(note);
        }
    }

    pub(crate) fn extend(&mut self, notes: &Self) {
        for note in &notes.0 {
            self.add(*note);
        }
    }
}
