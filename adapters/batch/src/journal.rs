//! The journal: answers on disk while a batch runs, one JSON object per line.
//!
//! Invariant: an answer survives the process once [`Journal::append`] has returned `Ok`, and at most one run has
//! a journal open.

use crate::error::BatchError;
use crate::lines;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of complete lines.
    len: u64,
}

#[derive(Deserialize)]
pub(crate) struct JournalEntry {
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) answer: Value,
}

#[derive(Serialize)]
struct JournalEntryRef<'a> {
    id: &'a str,
    model: &'a str,
    answer: &'a Value,
}

impl Journal {
    /// Opens the journal beside `output`, and returns the answers of a run that was killed.
    ///
    /// A half-written last line is cut off.
    pub(crate) fn open(output: &Path) -> Result<(Self, Vec<JournalEntry>), BatchError> {
        let mut path = output.as_os_str().to_owned();
        path.push(".journal");
        let path = PathBuf::from(path);
        let opened = open_locked(&path).and_then(|file| {
            let Some(mut file) = file else {
                return Ok(None);
            };
            let (entries, len) = replay(&mut file)?;
            Ok(Some((file, len, entries)))
        });
        match opened {
            Ok(Some((file, len, entries))) => Ok((Self { path, file, len }, entries)),
            Ok(None) => Err(BatchError::Busy { path }),
            Err(source) => Err(BatchError::Write { path, source }),
        }
    }

    /// Appends an answer.
    ///
    /// # Errors
    /// If the journal can't be written; it then still ends with a complete line, unless the system can't cut it
    /// off either.
    pub(crate) fn append(
        &mut self,
        id: &str,
        model: &str,
        answer: &Value,
    ) -> Result<(), BatchError> {
        let entry = JournalEntryRef { id, model, answer };
        let line = serde_json::to_vec(&entry).map_err(io::Error::from);
        let written = line.and_then(|mut line| {
            line.push(b'\n');
            self.file.write_all(&line).inspect_err(|_| {
                // Half a line would spoil the next one.
                let _ = self.file.set_len(self.len);
            })?;
            self.len = self.len.saturating_add(line.len() as u64);
            Ok(())
        });
        written.map_err(|source| BatchError::Write {
            path: self.path.clone(),
            source,
        })
    }

    pub(crate) fn remove(self) -> Result<(), BatchError> {
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

/// Reads all complete lines and cuts off the rest; returns the entries and the length of the lines in bytes.
fn replay(journal: &mut File) -> io::Result<(Vec<JournalEntry>, u64)> {
    let mut bytes = Vec::new();
    journal.read_to_end(&mut bytes)?;
    let last_newline = bytes.iter().rposition(|byte| *byte == b'\n');
    let complete = last_newline.map_or(0, |last| last.saturating_add(1));
    if complete < bytes.len() {
        journal.set_len(complete as u64)?;
    }
    // A line damaged by a crash of the machine is dropped; its task runs again.
    let entries = lines::parse(&bytes[..complete]).filter(JournalEntry::is_sound);
    Ok((entries.collect(), complete as u64))
}

impl JournalEntry {
    /// Whether the output that the entry would get into can be read again.
    fn is_sound(&self) -> bool {
        let Ok(id) = serde_json::from_str::<Value>(&self.id) else {
            return false;
        };
        let written = id.to_string();
        let is_id = match self.answer.get("custom_id") {
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

    fn answers(output: &Path) -> Vec<Value> {
        let (_, entries) = Journal::open(output).unwrap();
        entries.into_iter().map(|entry| entry.answer).collect()
    }

    #[test]
    fn a_half_written_last_line_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let (mut journal, _) = Journal::open(&output).unwrap();
        journal.append("1", "a", &json!("kept")).unwrap();
        journal.file.write_all(b"{\"id\":\"1\",\"mod").unwrap();
        drop(journal);

        let (mut journal, entries) = Journal::open(&output).unwrap();
        assert_eq!(entries.len(), 1);
        journal.append("1", "b", &json!("new")).unwrap();
        drop(journal);
        assert_eq!(answers(&output), ["kept", "new"]);
    }

    #[test]
    fn a_failed_append_does_not_spoil_the_next_line() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let (mut journal, _) = Journal::open(&output).unwrap();
        journal.append("1", "a", &json!("first")).unwrap();
        let read_only = File::open(&journal.path).unwrap();
        let writable = core::mem::replace(&mut journal.file, read_only);
        journal.append("1", "b", &json!("lost")).unwrap_err();
        journal.file = writable;
        journal.append("1", "c", &json!("third")).unwrap();
        drop(journal);
        assert_eq!(answers(&output), ["first", "third"]);
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
