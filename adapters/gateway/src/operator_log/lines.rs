//! A line of the log for the operator: a sentence, or an object.
//!
//! Invariant: an event is one line of JSON, or a sentence whose further lines are indented, so that no text of others can
//! pose as a line of its own.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{self, Format, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes events in the form that is in force.
pub(super) struct Lines {
    is_json: Arc<AtomicBool>,
    json: Format<Json>,
}

impl Lines {
    pub(super) fn new(is_json: Arc<AtomicBool>) -> Self {
        Self {
            is_json,
            json: format::format().json().flatten_event(true),
        }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.is_json.load(Ordering::Relaxed) {
            return self.json.format_event(context, writer, event);
        }
        let mut sentence = Sentence::default();
        event.record(&mut sentence);
        let metadata = event.metadata();
        let (level, target) = (*metadata.level(), metadata.target());
        // What an operator has always read has neither.
        if level > Level::INFO || !target.starts_with(super::OWN) {
            write!(writer, "{level} {target}: ")?;
        }
        writeln!(writer, "{sentence}")
    }
}

/// The fields of an event: pool and member come first, those without a place of their own last.
#[derive(Default)]
struct Sentence {
    pool: String,
    member: String,
    message: String,
    others: String,
}

impl Visit for Sentence {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let (place, name) = match field.name() {
            "pool" => (&mut self.pool, None),
            "member" => (&mut self.member, None),
            "message" => (&mut self.message, None),
            name => (&mut self.others, Some(name)),
        };
        // A string takes all of it.
        let _ = match name {
            None => write!(OneLine(place), "{value:?}"),
            Some(name) => write!(OneLine(place), " {name}={value:?}"),
        };
    }
}

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.pool.is_empty() {
            write!(f, "pool {}: ", self.pool)?;
        }
        if !self.member.is_empty() {
            write!(f, "{}: ", self.member)?;
        }
        f.write_str(&self.message)?;
        match self.others.is_empty() {
            true => Ok(()),
            false => write!(f, ":{}", self.others),
        }
    }
}

/// A text that takes no control characters, and further lines only indented.
struct OneLine<'a>(&'a mut String);

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '\n' => self.0.push_str("\n    "),
                other if other.is_control() => self.0.extend(other.escape_default()),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}
