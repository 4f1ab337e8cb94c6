//! The output while a batch runs: the line of each item as soon as it has ended.
//!
//! Invariant: lines are only added. The results are safe without them, so one that can't be added ends this and no more.

use crate::bits::Bits;
use crate::lines::{self, Span};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where lines are added.
#[derive(Debug)]
pub(crate) struct Tail {
    to: To,
    /// Items whose lines are on standard output.
    printed: Bits,
    /// By item: its line in the file.
    lines: Vec<Span>,
    /// The length of the file.
    len: u64,
    /// Why standard output takes no more; half a line may be there.
    error: Option<io::Error>,
    /// In the order of the input: the next item.
    next: usize,
}

#[derive(Debug)]
enum To {
    Stdout,
    /// A file that is opened at the first line.
    Closed(PathBuf, Option<Ending>),
    File(File),
    Nowhere,
}

/// The end of a file that lines are added to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// Its length in bytes.
    pub(crate) len: u64,
    /// The length up to the end of the last whole line.
    pub(crate) whole: u64,
    /// Whether that line has a line break.
    pub(crate) has_break: bool,
}

impl Tail {
    pub(crate) fn on_stdout(items: usize) -> Self {
        Self {
            to: To::Stdout,
            printed: Bits::new(items),
            lines: Vec::new(),
            len: 0,
            error: None,
            next: 0,
        }
    }

    /// Adds lines to a file that ends so, or to a new one.
    pub(crate) fn in_file(items: usize, path: &Path, ending: Option<Ending>) -> Self {
        Self {
            to: To::Closed(path.to_owned(), ending),
            printed: Bits::default(),
            lines: vec![Span::default(); items],
            len: 0,
            error: None,
            next: 0,
        }
    }

    /// Whether lines are added.
    pub(crate) const fn is_on(&self) -> bool {
        !matches!(self.to, To::Nowhere)
    }

    /// In the order of the input: the next item.
    pub(crate) const fn next(&self) -> usize {
        self.next
    }

    pub(crate) fn advance(&mut self) {
        self.next = self.next.saturating_add(1);
    }

    /// Whether the line of an item is on standard output.
    pub(crate) fn has_printed(&self, item: usize) -> bool {
        self.printed.contains(item)
    }

    /// Why standard output takes no more, if it doesn't.
    pub(crate) const fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// Whether the file was there and had whole lines alone, before any was added.
    pub(crate) fn began_whole(&self) -> bool {
        match &self.to {
            To::Closed(_, Some(ending)) => ending.whole == ending.len,
            To::Closed(_, None) | To::File(_) | To::Stdout | To::Nowhere => false,
        }
    }

    /// Whether the file is as this has left it.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.to {
            To::File(file) => file.metadata().is_ok_and(|found| found.len() == self.len),
            To::Stdout | To::Closed(..) | To::Nowhere => false,
        }
    }

    /// Reads the line of an item again, with its end; `None` if it is not in the file, or not any more.
    pub(crate) fn line(&self, item: usize) -> Option<Vec<u8>> {
        let To::File(file) = &self.to else {
            return None;
        };
        let span = self.lines.get(item).filter(|span| !span.is_empty())?;
        let line = span.read(file).ok()?;
        line.ends_with(b"\n").then_some(line)
    }

    /// Adds the line of an item.
    pub(crate) fn write(&mut self, item: usize, line: &Map<String, Value>) {
        let mut bytes = Vec::new();
        let added = lines::write(&mut bytes, line).and_then(|()| self.add(&bytes));
        match added {
            Ok(start) => match self.lines.get_mut(item) {
                Some(place) => *place = Span::new(start, bytes.len()),
                None => self.printed.insert(item),
            },
            // A file is written anew at the end, and its error reported then.
            Err(error) => {
                self.error = matches!(self.to, To::Stdout).then_some(error);
                self.to = To::Nowhere;
            }
        }
    }

    /// Adds a line; returns where it begins in the file.
    fn add(&mut self, line: &[u8]) -> io::Result<u64> {
        if let To::Closed(path, ending) = &self.to {
            let file = open(path, *ending)?;
            self.len = file.metadata()?.len();
            self.to = To::File(file);
        }
        let start = self.len;
        match &mut self.to {
            To::File(file) => file.write_all(line)?,
            To::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line)?;
                stdout.flush()?;
            }
            To::Closed(..) | To::Nowhere => {}
        }
        self.len = start.saturating_add(line.len() as u64);
        Ok(start)
    }
}

/// Opens a file for lines after its last whole one. One that another program has changed is left alone.
fn open(path: &Path, ending: Option<Ending>) -> io::Result<File> {
    let Some(ending) = ending else {
        return File::options()
            .create_new(true)
            .read(true)
            .append(true)
            .open(path);
    };
    let mut file = File::options().read(true).append(true).open(path)?;
    if file.metadata()?.len() != ending.len {
        return Err(io::ErrorKind::InvalidData.into());
    }
    file.set_len(ending.whole)?;
    if !ending.has_break {
        file.write_all(b"\n")?;
    }
    Ok(file)
}
