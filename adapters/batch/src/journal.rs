//! The journal: how each task ended, on disk while a batch runs, one JSON object per line.
//!
//! Invariant: an answer survives the process once [`Journal::append`] has returned `Ok`, and at most one run has
//! a journal open.

use crate::columns::AnswerName;
use crate::error::BatchError;
use crate::lines::{self, Span};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::env;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct Journal {
    /// The file's path; that of its folder if the file has no name.
    path: PathBuf,
    has_name: bool,
    file: File,
    /// Bytes of complete lines.
    len: u64,
    /// Whether there may be half a line after them.
    is_torn: bool,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JournalEntry {
    /// The item's id, as JSON.
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) name: AnswerName,
    #[serde(flatten)]
    pub(crate) end: TaskEnd,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TaskEnd {
    Answer(Value),
    /// For the output of this run only: the next one tries again.
    Failure(Value),
}

/// An end of a task in the journal of a run that was killed.
#[derive(Clone, Debug)]
pub(crate) struct Replayed {
    pub(crate) id: String,
    pub(crate) name: AnswerName,
    pub(crate) span: Span,
    pub(crate) is_failure: bool,
}

impl Journal {
    /// Opens the journal beside `output`, and returns the ends of tasks of a run that was killed.
    ///
    /// A half-written last line is cut off.
    pub(crate) fn open(output: &Path) -> Result<(Self, Vec<Replayed>), BatchError> {
        let mut path = output.as_os_str().to_owned();
        path.push(".journal");
        let path = PathBuf::from(path);
        let opened = open_locked(&path).and_then(|file| {
            let Some(file) = file else {
                return Ok(None);
            };
            let (answers, len) = replay(&file)?;
            Ok(Some((file, len, answers)))
        });
        match opened {
            Ok(Some((file, len, answers))) => Ok((Self::new(path, true, file, len), answers)),
            Ok(None) => Err(BatchError::Busy { path }),
            Err(source) => Err(BatchError::Write { path, source }),
        }
    }

    /// Creates a journal without a name in the folder of temporary files; it ends with the process.
    pub(crate) fn without_name() -> Result<Self, BatchError> {
        let folder = env::temp_dir();
        match tempfile::tempfile_in(&folder) {
            Ok(file) => Ok(Self::new(folder, false, file, 0)),
            Err(source) => Err(BatchError::Write {
                path: folder,
                source,
            }),
        }
    }

    /// Whether it has no whole line.
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    const fn new(path: PathBuf, has_name: bool, file: File, len: u64) -> Self {
        Self {
            path,
            has_name,
            file,
            len,
            is_torn: false,
        }
    }

    /// Appends an entry; returns its place.
    ///
    /// # Errors
    /// If the journal can't be written; half a line is cut off before the next one.
    pub(crate) fn append(&mut self, entry: &JournalEntry) -> Result<Span, BatchError> {
        self.try_append(entry).map_err(|source| BatchError::Write {
            path: self.path.clone(),
            source,
        })
    }

    fn try_append(&mut self, entry: &JournalEntry) -> io::Result<Span> {
        let mut line = Vec::new();
        lines::write(&mut line, entry)?;
        if self.is_torn {
            self.cut_off()?;
        }
        if let Err(error) = self.file.write_all(&line) {
            self.is_torn = true;
            // Tried again before the next line; the first error is the one to report.
            let _ = self.cut_off();
            return Err(error);
        }
        let span = Span::new(self.len, line.len());
        self.len = self.len.saturating_add(line.len() as u64);
        Ok(span)
    }

    fn cut_off(&mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.is_torn = false;
        Ok(())
    }

    /// Reads an entry again.
    pub(crate) fn read(&self, span: Span) -> Result<JournalEntry, BatchError> {
        let line = span.read(&self.file);
        let entry = line.and_then(|line| Ok(serde_json::from_slice(&line)?));
        entry.map_err(|source| BatchError::Read {
            path: self.path.clone(),
            source,
        })
    }

    /// Lets all that is appended from now on fail.
    #[cfg(test)]
    pub(crate) fn fail_from_now_on(&mut self) {
        self.file = File::open(&self.path).expect("the journal has a name");
    }

    pub(crate) fn remove(self) -> Result<(), BatchError> {
        if !self.has_name {
            return Ok(());
        }
        fs::remove_file(&self.path).map_err(|source| BatchError::Write {
            path: self.path,
            source,
        })
    }
}

/// Opens and locks a journal; `None` if another run holds the lock.
fn open_locked(path: &Path) -> io::Result<Option<File>> {
    loop {
        let mut options = File::options();
        let journal = options.create(true).read(true).append(true).open(path)?;
        match journal.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // A run that ends removes its journal, perhaps between the two calls above.
        if is_still_at(&journal, path)? {
            return Ok(Some(journal));
        }
    }
}

fn is_still_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Cuts off half a line at the end; returns the ends of tasks, and the length of the lines in bytes.
fn replay(journal: &File) -> io::Result<(Vec<Replayed>, u64)> {
    let (mut ends, mut start) = (Vec::new(), 0_u64);
    let (mut reader, mut line) = (BufReader::new(journal), Vec::new());
    loop {
        line.clear();
        let len = reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            break;
        }
        // A line damaged by a crash of the machine is dropped; its task runs again.
        let entry = serde_json::from_slice(&line).ok();
        if let Some(entry) = entry.filter(JournalEntry::is_sound) {
            ends.push(Replayed {
                id: entry.id,
                name: entry.name,
                span: Span::new(start, len),
                is_failure: matches!(entry.end, TaskEnd::Failure(_)),
            });
        }
        start = start.saturating_add(len as u64);
    }
    if !line.is_empty() {
        journal.set_len(start)?;
    }
    Ok((ends, start))
}

impl JournalEntry {
    /// Whether the output that the entry would get into can be read again.
    fn is_sound(&self) -> bool {
        let (TaskEnd::Answer(answer) | TaskEnd::Failure(answer)) = &self.end;
        let Ok(id) = serde_json::from_str::<Value>(&self.id) else {
            return false;
        };
        let written = id.to_string();
        let is_id = match answer.get("custom_id") {
            Some(custom_id) => id.is_string() && *custom_id == id,
            None => id.is_string() || id.is_i64() || id.is_u64(),
        };
        is_id && written == self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(model: &str, answer: &str) -> JournalEntry {
        JournalEntry {
            id: "1".to_owned(),
            name: AnswerName::of_model(model),
            end: TaskEnd::Answer(json!(answer)),
        }
    }

    fn answers(output: &Path) -> Vec<JournalEntry> {
        let (journal, answers) = Journal::open(output).unwrap();
        let answers = answers.into_iter().filter(|it| !it.is_failure);
        let spans = answers.map(|it| it.span);
        spans.map(|span| journal.read(span).unwrap()).collect()
    }

    #[test]
    fn a_half_written_last_line_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let (mut journal, _) = Journal::open(&output).unwrap();
        journal.append(&entry("a", "kept")).unwrap();
        journal.file.write_all(b"{\"id\":\"1\",\"mod").unwrap();
        drop(journal);

        let (mut journal, before) = Journal::open(&output).unwrap();
        assert_eq!(before.len(), 1);
        let span = journal.append(&entry("b", "new")).unwrap();
        assert_eq!(journal.read(span).unwrap(), entry("b", "new"));
        drop(journal);
        assert_eq!(answers(&output), [entry("a", "kept"), entry("b", "new")]);
    }

    #[test]
    fn a_failed_append_does_not_spoil_the_next_line() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let (mut journal, _) = Journal::open(&output).unwrap();
        journal.append(&entry("a", "first")).unwrap();
        let read_only = File::open(&journal.path).unwrap();
        let mut writable = core::mem::replace(&mut journal.file, read_only);
        journal.append(&entry("b", "lost")).unwrap_err();
        // What a full disk leaves, if it can't be cut off at once either.
        writable.write_all(b"{\"id\":\"1\",").unwrap();
        journal.append(&entry("b", "lost")).unwrap_err();
        journal.file = writable;
        let span = journal.append(&entry("c", "third")).unwrap();
        assert_eq!(journal.read(span).unwrap(), entry("c", "third"));
        drop(journal);
        assert_eq!(answers(&output), [entry("a", "first"), entry("c", "third")]);
    }

    #[test]
    fn a_failure_is_not_replayed() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let (mut journal, _) = Journal::open(&output).unwrap();
        let mut failure = entry("a", "kept");
        failure.end = TaskEnd::Failure(json!("no"));
        let span = journal.append(&failure).unwrap();
        assert_eq!(journal.read(span).unwrap(), failure);
        drop(journal);
        assert!(answers(&output).is_empty());
    }

    #[test]
    fn a_journal_removed_before_it_was_locked_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = open_locked(&path).unwrap().unwrap();
        assert!(is_still_at(&journal, &path).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!is_still_at(&journal, &path).unwrap());
    }
}
