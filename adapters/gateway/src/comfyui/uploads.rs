//! Files that callers have uploaded: kept here, and brought to each server that needs them.
//!
//! Invariant: a caller's name stands for one content, as on a server of its own; another content under a name that is taken gets
//! another name, unless its caller overwrites. The least recently used files go beyond the bound.

use super::journal::{JournalError, make_directory};
use super::made::join;
use crate::lock;
use bytes::Bytes;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A file that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Upload {
    /// The caller that has uploaded it.
    owner: u64,
    /// `input`, `temp` or `output`.
    pub(super) kind: String,
    pub(super) folder: String,
    pub(super) name: String,
    /// The hash of its content, which names the file on disk.
    pub(super) hash: String,
    pub(super) length: u64,
}

/// Where a caller puts a file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) owner: u64,
    pub(super) kind: String,
    pub(super) folder: String,
    pub(super) name: String,
}

/// All uploaded files of a pool.
#[derive(Debug)]
pub(super) struct Uploads {
    directory: PathBuf,
    /// Removed with the process, where nothing is to be kept.
    _temporary: Option<tempfile::TempDir>,
    max: u64,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    /// By `owner/kind/folder/name`, the latest used last.
    by_key: IndexMap<String, Arc<Upload>>,
    bytes: u64,
}

impl Upload {
    /// What a graph calls it: its folder and name.
    pub(super) fn reference(&self) -> String {
        join(&self.folder, &self.name)
    }

    /// What tells it from all other contents and names.
    pub(super) fn identity(&self) -> String {
        format!("{}/{} {}", self.kind, self.reference(), self.hash)
    }
}

impl Uploads {
    pub(super) fn open(
        directory: Option<&Path>,
        pool: &str,
        max: u64,
    ) -> Result<Self, JournalError> {
        let (directory, temporary) = match directory {
            Some(directory) => (directory.join(format!("{pool}.uploads")), None),
            None => {
                let made = tempfile::tempdir();
                let made = made.map_err(|error| JournalError::new(&std::env::temp_dir(), error))?;
                (made.path().to_owned(), Some(made))
            }
        };
        let error = |source| JournalError::new(&directory, source);
        make_directory(&directory).map_err(error)?;
        let files = read_index(&directory.join("index")).map_err(error)?;
        Ok(Self {
            _temporary: temporary,
            max,
            files: Mutex::new(files),
            directory,
        })
    }

    /// Keeps a file under its name, or under another if that is taken by another content.
    pub(super) fn keep(
        &self,
        place: Place,
        content: &Bytes,
        overwrites: bool,
    ) -> Result<Arc<Upload>, JournalError> {
        let hash = hex(&Sha256::digest(content));
        let path = self.directory.join(&hash);
        let error = |source| JournalError::new(&path, source);
        if !path.exists() {
            let file = tempfile::NamedTempFile::new_in(&self.directory).map_err(error)?;
            fs::write(file.path(), content).map_err(error)?;
            file.persist(&path).map_err(|failed| error(failed.error))?;
        }
        let mut files = lock(&self.files);
        let mut upload = Upload {
            owner: place.owner,
            kind: place.kind,
            folder: place.folder,
            name: place.name.clone(),
            hash,
            length: content.len() as u64,
        };
        let mut number = 0_u32;
        while let Some(other) = files.by_key.get(&key(&upload)) {
            if overwrites || other.hash == upload.hash {
                break;
            }
            number = number.saturating_add(1);
            upload.name = numbered(&place.name, number);
        }
        let upload = Arc::new(upload);
        files.insert(Arc::clone(&upload));
        self.shrink(&mut files);
        self.write_index(&files).map_err(error)?;
        Ok(upload)
    }

    /// Returns the file that a graph's text stands for, if it was uploaded here.
    pub(super) fn referred(&self, owner: u64, text: &str) -> Option<Arc<Upload>> {
        let (name, kind) = split_kind(text);
        self.find(owner, kind, name)
    }

    /// Returns a file by its kind, and its folder and name.
    pub(super) fn find(&self, owner: u64, kind: &str, reference: &str) -> Option<Arc<Upload>> {
        let mut files = lock(&self.files);
        let found = files
            .by_key
            .shift_remove(&format!("{owner:x}/{kind}/{reference}"))?;
        // It is the latest used one from now on.
        files.by_key.insert(key(&found), Arc::clone(&found));
        Some(found)
    }

    /// Whether a caller has uploaded a content under a name, by its identity.
    pub(super) fn has(&self, owner: u64, identity: &str) -> bool {
        let files = lock(&self.files);
        let mut uploads = files.by_key.values();
        uploads.any(|upload| upload.owner == owner && upload.identity() == identity)
    }

    /// Reads a file.
    pub(super) fn content(&self, upload: &Upload) -> io::Result<Bytes> {
        fs::read(self.directory.join(&upload.hash)).map(Bytes::from)
    }

    fn shrink(&self, files: &mut Files) {
        while files.bytes > self.max && files.by_key.len() > 1 {
            let Some((_, oldest)) = files.by_key.shift_remove_index(0) else {
                return;
            };
            files.bytes = files.bytes.saturating_sub(oldest.length);
            if !files.by_key.values().any(|other| other.hash == oldest.hash) {
                // One that is gone already needs no removal.
                let _ = fs::remove_file(self.directory.join(&oldest.hash));
            }
        }
    }

    fn write_index(&self, files: &Files) -> io::Result<()> {
        let file = tempfile::NamedTempFile::new_in(&self.directory)?;
        let all: Vec<&Upload> = files.by_key.values().map(|upload| &**upload).collect();
        serde_json::to_writer(file.as_file(), &all)?;
        file.persist(self.directory.join("index"))
            .map_err(|failed| failed.error)?;
        Ok(())
    }
}

impl Files {
    fn insert(&mut self, upload: Arc<Upload>) {
        self.bytes = self.bytes.saturating_add(upload.length);
        let key = key(&upload);
        if let Some(before) = self.by_key.shift_remove(&key) {
            self.bytes = self.bytes.saturating_sub(before.length);
        }
        self.by_key.insert(key, upload);
    }
}

/// Splits a graph's text for a file, as in `a.png [output]`: its folder and name, and its kind.
fn split_kind(text: &str) -> (&str, &str) {
    let named = text
        .strip_suffix(']')
        .and_then(|text| text.rsplit_once(" ["));
    named.unwrap_or((text, "input"))
}

fn read_index(path: &Path) -> io::Result<Files> {
    let mut files = Files::default();
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(error),
    };
    let uploads: Vec<Upload> = serde_json::from_slice(&text)?;
    uploads
        .into_iter()
        .for_each(|upload| files.insert(Arc::new(upload)));
    Ok(files)
}

fn key(upload: &Upload) -> String {
    format!("{:x}/{}/{}", upload.owner, upload.kind, upload.reference())
}

/// Returns a name with a number before its ending, as ComfyUI makes it: `cat (1).png`.
fn numbered(name: &str, number: u32) -> String {
    match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => format!("{stem} ({number}).{ending}"),
        Some(_) | None => format!("{name} ({number})"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(uploads: &Uploads, name: &str, content: &'static str, overwrites: bool) -> String {
        let content = Bytes::from_static(content.as_bytes());
        let place = Place {
            owner: 7,
            kind: "input".to_owned(),
            folder: String::new(),
            name: name.to_owned(),
        };
        let kept = uploads.keep(place, &content, overwrites);
        kept.unwrap().name.clone()
    }

    #[test]
    fn another_content_under_a_taken_name_gets_another_name() {
        let directory = tempfile::tempdir().unwrap();
        let uploads = Uploads::open(Some(directory.path()), "images", 1_000).unwrap();
        assert_eq!(keep(&uploads, "cat.png", "one", false), "cat.png");
        assert_eq!(keep(&uploads, "cat.png", "one", false), "cat.png");
        assert_eq!(keep(&uploads, "cat.png", "two", false), "cat (1).png");
        assert_eq!(keep(&uploads, "cat.png", "two", true), "cat.png");
        drop(uploads);
        let again = Uploads::open(Some(directory.path()), "images", 1_000).unwrap();
        let found = again.referred(7, "cat.png [input]").unwrap();
        assert_eq!(again.content(&found).unwrap(), "two");
        assert!(again.referred(7, "dog.png").is_none() && again.referred(8, "cat.png").is_none());
    }

    #[test]
    fn beyond_the_bound_the_least_recently_used_go() {
        let uploads = Uploads::open(None, "images", 8).unwrap();
        for (name, content) in [("a", "aaaa"), ("b", "bbbb")] {
            keep(&uploads, name, content, false);
        }
        uploads.referred(7, "a").unwrap();
        keep(&uploads, "c", "cccc", false);
        assert!(uploads.referred(7, "b").is_none() && uploads.referred(7, "a").is_some());
        let left = fs::read_dir(&uploads.directory).unwrap().count();
        assert_eq!(left, 3, "two files and the index");
    }
}
