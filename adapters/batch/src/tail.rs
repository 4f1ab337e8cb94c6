//! The output while a batch runs: the line of each item as soon as it has ended.
//!
//! Invariant: lines are only added. The results are safe without them, so one that can't be added ends this and no more.

use crate::bits::Bits;
use crate::lines;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where lines are added.
#[derive(Debug)]
pub(crate) struct Tail {
    to: To,
    /// Items whose lines are on standard output.
    written: Bits,
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

/// How a file ends that lines are added to.
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
            written: Bits::new(items),
            next: 0,
        }
    }

    /// Adds lines to a file that ends so, or to a new one.
    pub(crate) fn in_file(path: &Path, ending: Option<Ending>) -> Self {
        Self {
            to: To::Closed(path.to_owned(), ending),
            written: Bits::default(),
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
    pub(crate) fn has_written(&self, item: usize) -> bool {
        self.written.contains(item)
    }

    /// Adds the line of an item.
    pub(crate) fn write(&mut self, item: usize, line: &Map<String, Value>) {
        let mut bytes = Vec::new();
        let written = lines::write(&mut bytes, line).and_then(|()| self.add(&bytes));
        match written {
            Ok(()) => self.written.insert(item),
            // At the end, the output is written anew and its error reported.
            Err(_) => self.to = To::Nowhere,
        }
    }

    fn add(&mut self, line: &[u8]) -> io::Result<()> {
        if let To::Closed(path, ending) = &self.to {
            self.to = To::File(open(path, *ending)?);
        }
        match &mut self.to {
            To::File(file) => file.write_all(line),
            To::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line)?;
                stdout.flush()
            }
            To::Closed(..) | To::Nowhere => Ok(()),
        }
    }
}

/// Opens a file for lines after its last whole one. One that another program has changed is left alone.
fn open(path: &Path, ending: Option<Ending>) -> io::Result<File> {
    let Some(ending) = ending else {
        return File::options().create_new(true).append(true).open(path);
    };
    let mut file = File::options().append(true).open(path)?;
    if file.metadata()?.len() != ending.len {
        return Err(io::ErrorKind::InvalidData.into());
    }
    file.set_len(ending.whole)?;
    if !ending.has_break {
        file.write_all(b"\n")?;
    }
    Ok(file)
}
