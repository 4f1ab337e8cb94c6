//! The results of a batch: those already in the output, those of this run, and the output that replaces it.
//!
//! Invariant: the output is replaced as a whole or not at all, and the journal is removed only afterwards. Results stay
//! on disk; only the places of their lines are in memory.

use crate::batch::Batch;
use crate::bits::Bits;
use crate::earlier::Earlier;
use crate::error::BatchError;
use crate::input::{Item, is_standard};
use crate::item_results::ItemResults;
use crate::journal::{Journal, JournalEntry, Replayed, TaskEnd};
use crate::lines::{self, Span};
use crate::tail::Tail;
use indexmap::IndexSet;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Standard output, as errors name it.
const STANDARD_OUTPUT: &str = "standard output";

/// The results of a batch, by their places on disk.
#[derive(Debug)]
pub(crate) struct Results {
    /// `None` for standard output.
    output: Option<PathBuf>,
    /// Results of earlier runs: those in the output, then those that are joined to them.
    earlier: Vec<Earlier>,
    journal: Journal,
    /// By task: the place of its answer or failure in the journal.
    recorded: Vec<Span>,
    /// By task: what the journal could not take, which ends the run.
    unwritten: HashMap<usize, JournalEntry>,
    /// By item id: places in the journal of answers that belong to no task, and of earlier answers to tasks that failed.
    extra: HashMap<String, Vec<Span>>,
    /// Tasks that have failed in a run that was killed.
    failed: HashSet<usize>,
    /// Tasks that have not ended.
    open: Bits,
    /// Whether the output is as it would be written, since nothing was recorded.
    is_same: bool,
    tail: Tail,
}

impl Results {
    /// Finds the results in `output`, and those in the journal of a run that was killed.
    pub(crate) fn open(output: &Path, batch: &Batch) -> Result<Self, BatchError> {
        let tasks = batch.number_of(batch.items.len(), 0);
        let new = |output, earlier, journal, tail| Self {
            output,
            earlier,
            journal,
            recorded: vec![Span::default(); tasks],
            unwritten: HashMap::new(),
            extra: HashMap::new(),
            failed: HashSet::new(),
            open: Bits::new(tasks),
            is_same: false,
            tail,
        };
        if is_standard(output) {
            let tail = Tail::on_stdout(batch.items.len());
            let earlier = Earlier::joined(batch)?;
            return Ok(new(None, earlier, Journal::without_name()?, tail));
        }
        // A link is resolved: its target is replaced, and is in use under all its names.
        let path = fs::canonicalize(output).unwrap_or_else(|_| output.to_owned());
        let (journal, replay) = Journal::open(&path)?;
        let was_killed = !journal.is_empty();
        let opened = Earlier::open(&path, batch, was_killed);
        match opened.and_then(|found| Ok((found, Earlier::joined(batch)?))) {
            Ok((found, mut earlier)) => {
                let ending = found.as_ref().map(|(_, ending)| *ending);
                let tail = Tail::in_file(batch.items.len(), &path, ending);
                earlier.splice(..0, found.map(|(found, _)| found));
                let mut results = new(Some(path), earlier, journal, tail);
                for replayed in replay {
                    results.add_replayed(batch, replayed);
                }
                Ok(results)
            }
            Err(error) => {
                if !was_killed {
                    // An empty journal would only litter; the first error is the one to report.
                    let _ = journal.remove();
                }
                Err(error)
            }
        }
    }

    fn add_replayed(&mut self, batch: &Batch, replayed: Replayed) {
        let Replayed {
            id,
            name,
            span,
            is_failure,
        } = replayed;
        let item = batch.items.index_of(&id);
        let column = item.and_then(|item| batch.column_of(item, &name));
        let number = item
            .zip(column)
            .map(|(item, column)| batch.number_of(item, column));
        match number.and_then(|number| self.recorded.get_mut(number)) {
            _ if is_failure => self.failed.extend(number),
            Some(place) => *place = span,
            None => self.extra.entry(id).or_default().push(span),
        }
    }

    /// Whether a task has failed in a run that was killed.
    pub(crate) fn had_failed(&self, number: usize) -> bool {
        self.failed.contains(&number)
    }

    /// Whether anything is known of an item before its tasks run.
    pub(crate) fn knows(&self, batch: &Batch, index: usize) -> bool {
        let numbers = batch.number_of(index, 0)..batch.number_of(index.saturating_add(1), 0);
        let recorded = self.recorded.get(numbers).unwrap_or_default();
        recorded.iter().any(|span| !span.is_empty())
            || self.earlier.iter().any(|it| !it.line(index).is_empty())
    }

    /// Reads all results of an item.
    pub(crate) fn of_item(
        &self,
        batch: &Batch,
        index: usize,
        id: &str,
    ) -> Result<ItemResults, BatchError> {
        self.of_item_with(batch, index, id, None)
    }

    /// The same, where an entry of a task is known and need not be read.
    fn of_item_with(
        &self,
        batch: &Batch,
        index: usize,
        id: &str,
        mut known: Option<(usize, JournalEntry)>,
    ) -> Result<ItemResults, BatchError> {
        let mut results = self.read(id, |earlier| earlier.line(index))?;
        for number in batch.number_of(index, 0)..batch.number_of(index.saturating_add(1), 0) {
            let span = self.recorded.get(number).copied().unwrap_or_default();
            if let Some((_, entry)) = known.take_if(|(known, _)| *known == number) {
                results.add(entry);
            } else if !span.is_empty() {
                results.add(self.journal.read(span)?);
            }
            if let Some(entry) = self.unwritten.get(&number) {
                results.add(entry.clone());
            }
        }
        Ok(results)
    }

    /// Reads the results of an id that belong to no task, with its lines in files of earlier results.
    fn read(&self, id: &str, line: impl Fn(&Earlier) -> Span) -> Result<ItemResults, BatchError> {
        let mut results = ItemResults::default();
        for earlier in self.earlier.iter().filter(|it| !line(it).is_empty()) {
            results.join(earlier.read(id, line(earlier))?);
        }
        for span in self.extra.get(id).into_iter().flatten() {
            results.add(self.journal.read(*span)?);
        }
        Ok(results)
    }

    /// Says which tasks have not ended, and whether each line of the output stays the same if none of them does.
    pub(crate) fn set_open(&mut self, open: Bits, is_same: bool) {
        self.open = open;
        self.is_same = is_same && self.tail.began_whole() && self.is_in_order();
    }

    /// Whether the output holds all earlier results, in the order of the items, then others.
    fn is_in_order(&self) -> bool {
        let only = match &*self.earlier {
            [only] if self.earlier_in_output().is_some() && self.extra.is_empty() => only,
            _ => return false,
        };
        let places = only.lines.iter().chain(only.others.values());
        let mut starts = places.map(|span| (!span.is_empty()).then(|| span.start()));
        let mut next = 0;
        starts.all(|start| {
            let is_next = start.is_some_and(|start| start >= next);
            next = start.map_or(next, |start| start.saturating_add(1));
            is_next
        })
    }

    /// Whether a task has not ended.
    pub(crate) fn is_open(&self, number: usize) -> bool {
        self.open.contains(number)
    }

    /// Closes the journal of a run that makes no call; an empty one is removed.
    pub(crate) fn abandon(self) -> Result<(), BatchError> {
        let mut recorded = self.recorded.iter();
        let is_empty = self.extra.is_empty() && self.failed.is_empty();
        if is_empty && recorded.all(|span| span.is_empty()) {
            self.journal.remove()
        } else {
            Ok(())
        }
    }

    /// Records how a task ended. An item whose tasks have all ended gets its line.
    ///
    /// # Errors
    /// If the journal can't be written; [`finish`](Self::finish) may still write the result to the output.
    pub(crate) fn record(
        &mut self,
        batch: &Batch,
        number: usize,
        item: &Item,
        end: TaskEnd,
    ) -> Result<(), BatchError> {
        self.is_same = false;
        let (index, column) = batch.place_of(number);
        let is_failure = matches!(end, TaskEnd::Failure(_));
        let entry = JournalEntry {
            id: item.id.clone(),
            name: batch.name_of(index, column),
            end,
        };
        match self.journal.append(&entry) {
            Ok(span) => {
                let known = self.recorded.get_mut(number);
                let before = known.map(|known| core::mem::replace(known, span));
                if let Some(before) = before.filter(|before| is_failure && !before.is_empty()) {
                    self.extra.entry(entry.id.clone()).or_default().push(before);
                }
            }
            Err(error) => {
                self.unwritten.insert(number, entry);
                return Err(error);
            }
        }
        if self.open.remove(number) && self.tail.is_on() && self.has_ended(batch, index) {
            match batch.keep_order {
                false => self.show_line(batch, index, item, Some((number, entry)))?,
                true => self.show_in_order(batch)?,
            }
        }
        // No more calls are made for a reader that has gone.
        match self.tail.take_error() {
            Some(source) => Err(BatchError::Write {
                path: PathBuf::from(STANDARD_OUTPUT),
                source,
            }),
            None => Ok(()),
        }
    }

    /// Adds the lines of items that have ended, up to the first that has not.
    fn show_in_order(&mut self, batch: &Batch) -> Result<(), BatchError> {
        while self.tail.next() < batch.items.len() && self.has_ended(batch, self.tail.next()) {
            let next = self.tail.next();
            self.show_line(batch, next, &batch.items.item(next)?, None)?;
            self.tail.advance();
        }
        Ok(())
    }

    fn has_ended(&self, batch: &Batch, index: usize) -> bool {
        let end = batch.number_of(index.saturating_add(1), 0);
        let next = self.open.first_from(batch.number_of(index, 0));
        next.is_none_or(|next| next >= end)
    }

    fn show_line(
        &mut self,
        batch: &Batch,
        index: usize,
        item: &Item,
        known: Option<(usize, JournalEntry)>,
    ) -> Result<(), BatchError> {
        if self
            .earlier_in_output()
            .is_some_and(|it| !it.line(index).is_empty())
        {
            // Its line is there, and is replaced at the end.
            return Ok(());
        }
        let results = self.of_item_with(batch, index, &item.id, known)?;
        if let Some(line) = results.line_of_item(item, &batch.names_of(index)) {
            self.tail.write(index, &line);
        }
        Ok(())
    }

    /// Replaces the output by all results, then removes the journal.
    ///
    /// The order is that of the items, then that of other items already in the output, then that of the journal. New
    /// answers are added in the order of the columns.
    ///
    /// # Errors
    /// If the output can't be written; the old output and the journal stay as they are.
    pub(crate) fn finish(self, batch: &Batch) -> Result<(), BatchError> {
        let Some(output) = self.output.clone() else {
            if !self.tail.is_on() {
                // The run has ended for that, with its error.
                return Ok(());
            }
            return self.write(io::stdout().lock(), Path::new(STANDARD_OUTPUT), batch);
        };
        if self.is_same {
            return self.journal.remove();
        }
        let failed = |source| BatchError::Write {
            path: output.clone(),
            source,
        };
        let file = lines::create_beside(&output, permissions(&output)).map_err(failed)?;
        self.write(file.as_file(), &output, batch)?;
        replace(file, &output).map_err(failed)?;
        self.journal.remove()
    }

    /// Writes all results that standard output does not have yet, to a file which errors call `name`.
    fn write(&self, to: impl Write, name: &Path, batch: &Batch) -> Result<(), BatchError> {
        let failed = |source| BatchError::Write {
            path: name.to_owned(),
            source,
        };
        let mut writer = BufWriter::new(to);
        let is_stdout = self.output.is_none();
        let is_whole = self.tail.is_whole();
        for index in 0..batch.items.len() {
            if is_stdout && self.tail.has_printed(index) {
                continue;
            }
            if let Some(line) = self.tail.line(index).filter(|_| is_whole) {
                writer.write_all(&line).map_err(failed)?;
                continue;
            }
            let item = batch.items.item(index)?;
            let results = self.of_item(batch, index, &item.id)?;
            if let Some(line) = results.line_of_item(&item, &batch.names_of(index)) {
                lines::write(&mut writer, &line).map_err(failed)?;
            }
        }
        for id in self.others(batch) {
            let results = self.read(&id, |earlier| earlier.other(&id))?;
            if let Some(line) = results.line_of_other(&id) {
                lines::write(&mut writer, &line).map_err(failed)?;
            }
        }
        writer.flush().map_err(failed)
    }

    /// The ids that are not in the input: those in the output, then those of a killed run.
    fn others(&self, batch: &Batch) -> Vec<String> {
        let mut others: IndexSet<String> = IndexSet::new();
        let earlier = self.earlier_in_output();
        others.extend(earlier.into_iter().flat_map(|it| it.others.keys().cloned()));
        let extra = self.extra.iter();
        let extra = extra.filter(|(id, _)| batch.items.index_of(id).is_none());
        let first = |spans: &[Span]| spans.first().map(|span| span.start());
        let mut extra: Vec<_> = extra
            .map(|(id, spans)| (first(spans), id.clone()))
            .collect();
        extra.sort_unstable();
        others.extend(extra.into_iter().map(|(_, id)| id));
        others.into_iter().collect()
    }

    /// The earlier results that the output holds.
    fn earlier_in_output(&self) -> Option<&Earlier> {
        let first = self.earlier.first()?;
        (self.output.as_ref() == Some(&first.path)).then_some(first)
    }
}

fn replace(file: NamedTempFile, output: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(output)?;
    File::open(lines::folder_of(output))?.sync_all()
}

/// Returns the permissions of the file at `output`, else the default of new files.
fn permissions(output: &Path) -> Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(output).map_or_else(
        |_| Permissions::from_mode(0o666),
        |found| found.permissions(),
    )
}

#[cfg(test)]
mod tests;
