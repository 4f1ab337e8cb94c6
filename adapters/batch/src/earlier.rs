//! Files of earlier results: the output as it was before the run, and files that are joined to it.
//!
//! Invariant: only the places of lines are in memory, and a line that is read again is that of its item.

use crate::batch::Batch;
use crate::error::BatchError;
use crate::input::item_id;
use crate::lines::Span;
use crate::objects::{ObjectLines, parse_object};
use crate::result_head::ResultHead;
use crate::tail::Ending;
use indexmap::IndexMap;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A file of earlier results, as it was before the run.
#[derive(Debug)]
pub(crate) struct Earlier {
    pub(crate) path: PathBuf,
    file: File,
    /// By item: its line.
    pub(crate) lines: Vec<Span>,
    /// Lines of items that are not in the input, by id.
    pub(crate) others: IndexMap<String, Span>,
}

impl Earlier {
    /// Opens the files that are joined to the output.
    pub(crate) fn joined(batch: &Batch) -> Result<Vec<Self>, BatchError> {
        let files = batch
            .join
            .iter()
            .map(|path| match Self::open(path, batch, false)? {
                Some((earlier, _)) => Ok(earlier),
                None => Err(BatchError::Read {
                    path: path.clone(),
                    source: fs::metadata(path)
                        .err()
                        .unwrap_or_else(|| io::ErrorKind::NotFound.into()),
                }),
            });
        files.collect()
    }

    /// Opens a file of results, and notes their places; `None` if there is no such file. Half a line at the end is left
    /// out after a run that `was_killed` while it added lines.
    pub(crate) fn open(
        path: &Path,
        batch: &Batch,
        was_killed: bool,
    ) -> Result<Option<(Self, Ending)>, BatchError> {
        let unreadable = |source| BatchError::Read {
            path: path.to_owned(),
            source,
        };
        // Before it is opened: a pipe would wait for its other end.
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(unreadable(source)),
        };
        if !found.is_file() {
            return Err(BatchError::InvalidFile {
                path: path.to_owned(),
                problem: "not a regular file; choose another output".to_owned(),
            });
        }
        let file = File::open(path).map_err(unreadable)?;
        let mut ending = Ending {
            len: found.len(),
            whole: 0,
            has_break: true,
        };
        let mut objects =
            ObjectLines::<ResultHead>::new(path, file.try_clone().map_err(unreadable)?);
        let mut earlier = Self {
            path: path.to_owned(),
            file,
            lines: vec![Span::default(); batch.items.len()],
            others: IndexMap::new(),
        };
        while let Some(object) = objects.next() {
            let object = match object {
                Err(_) if was_killed && objects.is_torn_object() => break,
                object => object?,
            };
            let id = object.fields.id();
            let added = id.and_then(|id| earlier.add(batch, id, object.span));
            added.map_err(|problem| {
                let problem =
                    format!("{problem}; this is no file of results, choose another output");
                objects.invalid(object.number, problem)
            })?;
            ending.whole = objects.read_so_far();
            ending.has_break = !objects.is_torn();
        }
        Ok(Some((earlier, ending)))
    }

    fn add(&mut self, batch: &Batch, id: String, span: Span) -> Result<(), String> {
        let item = batch.items.index_of(&id);
        let before = match item.and_then(|item| self.lines.get_mut(item)) {
            Some(place) => core::mem::replace(place, span),
            None => self.others.insert(id.clone(), span).unwrap_or_default(),
        };
        match before.is_empty() {
            true => Ok(()),
            false => Err(format!("the id {id} is used twice")),
        }
    }

    pub(crate) fn line(&self, index: usize) -> Span {
        self.lines.get(index).copied().unwrap_or_default()
    }

    pub(crate) fn other(&self, id: &str) -> Span {
        self.others.get(id).copied().unwrap_or_default()
    }

    /// Reads the line of an item again.
    pub(crate) fn read(&self, id: &str, span: Span) -> Result<Map<String, Value>, BatchError> {
        let bytes = span.read(&self.file);
        let text = bytes.map(|bytes| String::from_utf8(bytes).unwrap_or_default());
        let fields = text.map(|text| parse_object(&text).ok().flatten());
        match fields {
            Ok(Some(fields)) if item_id(&fields).as_deref() == Ok(id) => Ok(fields),
            Err(source) if source.kind() != io::ErrorKind::UnexpectedEof => Err(BatchError::Read {
                path: self.path.clone(),
                source,
            }),
            Ok(_) | Err(_) => Err(BatchError::InvalidFile {
                path: self.path.clone(),
                problem: "another program has changed the file during the run; new answers are kept in the journal \
                          beside it, so run the same command again"
                    .to_owned(),
            }),
        }
    }
}
