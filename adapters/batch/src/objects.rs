//! Files with a JSON object on each line, read one by one.
//!
//! Invariant: at most one line is in memory at a time, and an error names its file and line.

use crate::error::BatchError;
use crate::lines::Span;
use core::marker::PhantomData;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// A line with a JSON object.
#[derive(Debug)]
pub(crate) struct ObjectLine<T = Map<String, Value>> {
    /// Number of the line, from 1.
    pub(crate) number: usize,
    pub(crate) span: Span,
    /// Its fields, or what is wanted of them.
    pub(crate) fields: T,
}

/// Reads the objects of a file; blank lines and a byte order mark are skipped.
pub(crate) struct ObjectLines<T = Map<String, Value>> {
    /// The file, as errors name it.
    path: PathBuf,
    reader: Box<dyn BufRead>,
    number: usize,
    start: u64,
    bytes: Vec<u8>,
    fields: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> ObjectLines<T> {
    /// Reads a file, which errors name so.
    pub(crate) fn new(path: &Path, from: impl Read + 'static) -> Self {
        Self {
            path: path.to_owned(),
            reader: Box::new(BufReader::new(from)),
            number: 0,
            start: 0,
            bytes: Vec::new(),
            fields: PhantomData,
        }
    }

    /// Returns an error of a line.
    pub(crate) fn invalid(&self, line: usize, problem: String) -> BatchError {
        BatchError::InvalidLine {
            path: self.path.clone(),
            line,
            problem,
        }
    }

    /// Returns an error of the file as a whole.
    pub(crate) fn invalid_file(&self, problem: &str) -> BatchError {
        BatchError::InvalidFile {
            path: self.path.clone(),
            problem: problem.to_owned(),
        }
    }

    /// Whether the line that was read last has no end.
    pub(crate) fn is_torn(&self) -> bool {
        !self.bytes.is_empty() && !self.bytes.ends_with(b"\n")
    }

    /// Whether the line that was read last may be the first half of an object.
    pub(crate) fn is_torn_object(&self) -> bool {
        self.is_torn() && self.bytes.starts_with(b"{")
    }

    /// The offset after the line that was read last.
    pub(crate) const fn read_so_far(&self) -> u64 {
        self.start
    }

    /// Reads a line; `None` at the end of the file.
    fn read_line(&mut self) -> Result<Option<Span>, BatchError> {
        self.bytes.clear();
        let read = self.reader.read_until(b'\n', &mut self.bytes);
        let len = read.map_err(|source| BatchError::Read {
            path: self.path.clone(),
            source,
        })?;
        let start = self.start;
        self.start = start.saturating_add(len as u64);
        self.number = self.number.saturating_add(1);
        Ok((len > 0).then(|| Span::new(start, len)))
    }

    /// Returns the object of the line that was read; `None` if the line is blank.
    fn object(&self) -> Result<Option<T>, String> {
        let text = str::from_utf8(&self.bytes).map_err(|_| "not UTF-8".to_owned())?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        parse_object(text)
    }
}

impl<T: DeserializeOwned> Iterator for ObjectLines<T> {
    type Item = Result<ObjectLine<T>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let span = match self.read_line() {
                Ok(Some(span)) => span,
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            };
            let number = self.number;
            match self.object() {
                Ok(None) => {}
                Ok(Some(fields)) => {
                    return Some(Ok(ObjectLine {
                        number,
                        span,
                        fields,
                    }));
                }
                Err(problem) => return Some(Err(self.invalid(number, problem))),
            }
        }
    }
}

/// Reads the object on a line, or what is wanted of it; `None` if the line is blank.
pub(crate) fn parse_object<T: DeserializeOwned>(text: &str) -> Result<Option<T>, String> {
    let text = text.trim_start_matches('\u{feff}');
    let content = text.trim_start();
    if content.is_empty() {
        return Ok(None);
    }
    let parsed = serde_json::from_str(text);
    let is_object = content.starts_with('{');
    parsed
        .map(Some)
        .map_err(|error| {
            // What is no object is JSON at least, or the error is another.
            if !is_object && serde_json::from_str::<IgnoredAny>(text).is_ok() {
                return "not a JSON object".to_owned();
            }
            // The parser saw one line only, so its line number is always 1.
            let message = error.to_string();
            let reason = message
                .rsplit_once(" at line ")
                .map_or(&*message, |(reason, _)| reason);
            format!("not JSON at column {}: {reason}", error.column())
        })
        .and_then(|parsed| match is_object {
            true => Ok(parsed),
            false => Err("not a JSON object".to_owned()),
        })
}
