//! The results of a batch: those already in the output, those of this run, and the output that replaces it.
//!
//! Invariant: the output is replaced as a whole or not at all, and the journal is removed only afterwards. Results stay
//! on disk; only the places of their lines are in memory.

use crate::batch::Batch;
use crate::bits::Bits;
use crate::error::BatchError;
use crate::input::{Item, is_standard, item_id};
use crate::item_results::ItemResults;
use crate::journal::{Journal, JournalEntry, Replayed, TaskEnd};
use crate::lines::{self, Span};
use crate::objects::{ObjectLines, parse_object};
use crate::result_head::ResultHead;
use crate::tail::{Ending, Tail};
use indexmap::{IndexMap, IndexSet};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

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

/// A file of earlier results, as it was before the run.
#[derive(Debug)]
struct Earlier {
    path: PathBuf,
    file: File,
    /// By item: its line.
    lines: Vec<Span>,
    /// Lines of items that are not in the input, by id.
    others: IndexMap<String, Span>,
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
        self.is_same = is_same && self.failed.is_empty() && self.is_in_order();
    }

    /// Whether the output holds all earlier results, in the order of the items and with nothing before them.
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
        Ok(())
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
    pub(crate) fn finish(mut self, batch: &Batch) -> Result<(), BatchError> {
        let Some(output) = self.output.clone() else {
            let path = PathBuf::from("standard output");
            if let Some(source) = self.tail.take_error() {
                return Err(BatchError::Write { path, source });
            }
            return self.write(io::stdout().lock(), &path, batch);
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

impl Earlier {
    /// Opens the files that are joined to the output.
    fn joined(batch: &Batch) -> Result<Vec<Self>, BatchError> {
        let files = batch
            .join
            .iter()
            .map(|path| match Self::open(path, batch, false)? {
                Some((earlier, _)) => Ok(earlier),
                None => Err(BatchError::Read {
                    path: path.clone(),
                    source: io::ErrorKind::NotFound.into(),
                }),
            });
        files.collect()
    }

    /// Opens a file of results, and notes their places; `None` if there is no such file. Half a line at the end is left
    /// out after a run that `was_killed` while it added lines.
    fn open(
        path: &Path,
        batch: &Batch,
        was_killed: bool,
    ) -> Result<Option<(Self, Ending)>, BatchError> {
        let unreadable = |source| BatchError::Read {
            path: path.to_owned(),
            source,
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(unreadable(source)),
        };
        let found = file.metadata().map_err(unreadable)?;
        if !found.is_file() {
            return Err(BatchError::InvalidFile {
                path: path.to_owned(),
                problem: "not a regular file; choose another output".to_owned(),
            });
        }
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
                Err(_) if was_killed && objects.is_torn() => break,
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

    fn line(&self, index: usize) -> Span {
        self.lines.get(index).copied().unwrap_or_default()
    }

    fn other(&self, id: &str) -> Span {
        self.others.get(id).copied().unwrap_or_default()
    }

    /// Reads the line of an item again.
    fn read(&self, id: &str, span: Span) -> Result<Map<String, Value>, BatchError> {
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
mod tests {
    use super::*;
    use crate::batch::Upstream;
    use crate::columns::AnswerName;
    use crate::input::Input;
    use crate::item_results::Found;
    use crate::items::Items;
    use serde_json::json;

    /// A batch of items to models `a` and `b`, or of calls.
    fn batch(items: &[Value]) -> Batch {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("items.jsonl");
        let lines: Vec<_> = items.iter().map(Value::to_string).collect();
        fs::write(&path, lines.join("\n")).expect("a file");
        let mut input = Input::new(path);
        input.prompt_optional = true;
        let items = Items::read(input).unwrap_or_else(|error| panic!("{error}"));
        let models = match items.are_calls() {
            true => Vec::new(),
            false => vec!["a".to_owned(), "b".to_owned()],
        };
        Batch::new(items, models, Vec::<Upstream>::new())
    }

    fn open(output: &Path, batch: &Batch) -> Results {
        let mut results = Results::open(output, batch).unwrap();
        let mut open = Bits::default();
        let tasks = results.recorded.iter().enumerate();
        let new = tasks.filter(|(_, span)| span.is_empty());
        new.for_each(|(number, _)| open.insert(number));
        results.set_open(open, false);
        results
    }

    fn found(results: &Results, batch: &Batch, index: usize, model: &str, hash: &str) -> Found {
        let item = batch.items.item(index).unwrap();
        let results = results.of_item(batch, index, &item.id).unwrap();
        results.find(&item, &AnswerName::of_model(model), hash)
    }

    fn record(
        results: &mut Results,
        batch: &Batch,
        (index, model): (usize, &str),
        end: TaskEnd,
    ) -> Result<(), BatchError> {
        let item = batch.items.item(index).unwrap();
        let column = batch.column_of(index, &AnswerName::of_model(model));
        let number = batch.number_of(index, column.expect("a model of the batch"));
        results.record(batch, number, &item, end)
    }

    fn answer(value: Value) -> TaskEnd {
        TaskEnd::Answer(value)
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).expect("the output exists");
        let values = text.lines().map(serde_json::from_str);
        values.map(|value| value.expect("a line is JSON")).collect()
    }

    #[test]
    fn results_are_added_to_those_in_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let before = concat!(
            "{\"id\":9,\"x\":1}\n",
            "{\"id\":1,\"note\":\"n\",\"output_pred\":{\"a\":1},\"output_error\":{\"b\":\"e\"}}\n",
        );
        fs::write(&output, before).unwrap();
        // What a run leaves that was killed while it wrote its output.
        fs::write(folder.path().join(".out.jsonl.part"), "half").unwrap();
        let batch = batch(&[json!({"id": 1, "q": "?"}), json!({"id": 2})]);
        let mut results = open(&output, &batch);
        assert_eq!(found(&results, &batch, 0, "a", "h"), Found::Answer);
        assert_eq!(found(&results, &batch, 0, "b", "h"), Found::Nothing);
        record(&mut results, &batch, (0, "b"), answer(json!(2))).unwrap();
        let failure = TaskEnd::Failure(json!("no"));
        record(&mut results, &batch, (1, "a"), failure).unwrap();
        results.finish(&batch).unwrap();
        assert_eq!(
            lines(&output),
            [
                json!({"id": 1, "note": "n", "q": "?", "output_pred": {"a": 1, "b": 2}}),
                json!({"id": 2, "output_error": {"a": "no"}}),
                json!({"id": 9, "x": 1}),
            ]
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn answers_of_a_killed_run_reach_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let one = batch(&[json!({"id": 1})]);
        let mut results = open(&output, &one);
        record(&mut results, &one, (0, "a"), answer(json!("kept"))).unwrap();
        drop(results);

        let mut results = open(&output, &one);
        assert_eq!(found(&results, &one, 0, "a", "h"), Found::Answer);
        record(&mut results, &one, (0, "b"), answer(json!("new"))).unwrap();
        drop(results);

        let two = batch(&[json!({"id": 2})]);
        open(&output, &two).finish(&two).unwrap();
        let kept = json!({"id": 1, "output_pred": {"a": "kept", "b": "new"}});
        assert_eq!(lines(&output), [json!({"id": 2}), kept]);
    }

    #[test]
    fn what_the_journal_cannot_take_reaches_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let one = batch(&[json!({"id": 1})]);
        let mut results = open(&output, &one);
        record(&mut results, &one, (0, "a"), answer(json!("written"))).unwrap();
        results.journal.fail_from_now_on();
        let lost = record(&mut results, &one, (0, "b"), answer(json!("not written")));
        assert!(matches!(lost, Err(BatchError::Write { .. })), "{lost:?}");
        results.finish(&one).unwrap();
        let answers = json!({"a": "written", "b": "not written"});
        assert_eq!(lines(&output), [json!({"id": 1, "output_pred": answers})]);
    }

    #[test]
    fn items_of_a_killed_run_follow_in_the_order_of_their_answers() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        fs::write(&output, "{\"id\":7}\n{\"id\":5}\n").unwrap();
        let killed = batch(&[9, 3, 5, 8].map(|id| json!({"id": id})));
        let mut results = open(&output, &killed);
        for index in 0..4 {
            record(&mut results, &killed, (index, "a"), answer(json!(index))).unwrap();
        }
        drop(results);
        let one = batch(&[json!({"id": 1})]);
        open(&output, &one).finish(&one).unwrap();
        let ids: Vec<_> = lines(&output).iter().map(|it| it["id"].as_u64()).collect();
        assert_eq!(ids, [1, 7, 5, 9, 3, 8].map(Some));
    }

    #[test]
    fn an_output_that_changes_during_the_run_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        fs::write(&output, "{\"id\":1,\"note\":\"n\"}\n").unwrap();
        let one = batch(&[json!({"id": 1})]);
        let mut results = open(&output, &one);
        record(&mut results, &one, (0, "a"), answer(json!("kept"))).unwrap();
        fs::write(&output, "{\"id\":2}\n").unwrap();
        let error = results.finish(&one);
        let shown = error.unwrap_err().to_string();
        assert!(shown.contains("another program"), "{shown}");
        let results = open(&output, &one);
        assert_eq!(found(&results, &one, 0, "a", "h"), Found::Answer);
        results.finish(&one).unwrap();
        assert_eq!(lines(&output)[1], json!({"id": 2}));
    }

    #[test]
    fn an_answer_to_another_request_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let one = batch(&[json!({"id": 1})]);
        let mut results = open(&output, &one);
        let known = json!({"content": "x", "request_hash": "h1"});
        record(&mut results, &one, (0, "a"), answer(known)).unwrap();
        drop(results);
        let results = open(&output, &one);
        assert_eq!(found(&results, &one, 0, "a", "h1"), Found::Answer);
        assert_eq!(found(&results, &one, 0, "a", "h2"), Found::Changed);
        results.finish(&one).unwrap();
        let results = open(&output, &one);
        assert_eq!(found(&results, &one, 0, "a", "h2"), Found::Changed);
    }

    #[test]
    fn lines_of_openai_batch_stay_whole_and_only_answered_ones_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let call =
            |id: &str| json!({"custom_id": id, "url": "/v1/embeddings", "body": {"model": "m"}});
        let line = |id: &str, status: u16| {
            let response = json!({"status_code": status, "body": {}});
            json!({"id": "x", "custom_id": id, "response": response, "error": null})
        };
        let calls = batch(&[call("a"), call("b"), call("c")]);
        let mut results = open(&output, &calls);
        record(&mut results, &calls, (0, "m"), answer(line("a", 200))).unwrap();
        let failure = TaskEnd::Failure(line("b", 400));
        record(&mut results, &calls, (1, "m"), failure).unwrap();
        results.finish(&calls).unwrap();
        assert_eq!(lines(&output), [line("a", 200), line("b", 400)]);
        let results = open(&output, &calls);
        assert_eq!(found(&results, &calls, 0, "m", "h"), Found::Answer);
        assert_eq!(found(&results, &calls, 1, "m", "h"), Found::Nothing);
        results.finish(&calls).unwrap();
        assert_eq!(lines(&output), [line("a", 200), line("b", 400)]);
    }

    #[test]
    fn two_runs_do_not_share_an_output() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let one = batch(&[json!({"id": 1})]);
        let _first = open(&output, &one);
        let second = Results::open(&output, &one);
        assert!(matches!(second, Err(BatchError::Busy { .. })));
    }

    #[test]
    fn an_output_that_holds_no_results_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        fs::write(&output, "my notes\n").unwrap();
        let one = batch(&[json!({"id": 1})]);
        let error = Results::open(&output, &one).unwrap_err();
        assert!(
            matches!(error, BatchError::InvalidLine { line: 1, .. }),
            "{error}"
        );
        assert!(matches!(
            Results::open(folder.path(), &one),
            Err(BatchError::InvalidFile { .. })
        ));
        assert_eq!(fs::read_to_string(&output).unwrap(), "my notes\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_line_of_an_item_is_added_once_all_its_tasks_have_ended() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let items = [1, 2, 3].map(|id| json!({"id": id}));
        let batch = batch(&items);
        let mut results = open(&output, &batch);
        let mut ends = |task: (usize, &str)| {
            record(&mut results, &batch, task, answer(json!("x"))).unwrap();
        };
        [(2, "a"), (0, "a")].into_iter().for_each(&mut ends);
        assert!(!output.exists());
        [(2, "b"), (1, "a"), (1, "b")]
            .into_iter()
            .for_each(&mut ends);
        let ids = |path: &Path| -> Vec<u64> {
            let lines = lines(path).into_iter();
            lines.map(|line| line["id"].as_u64().unwrap()).collect()
        };
        assert_eq!(ids(&output), [3, 2]);
        drop(results);
        // What a kill leaves of a line.
        let mut file = File::options().append(true).open(&output).unwrap();
        file.write_all(b"{\"id\":1,\"outp").unwrap();
        let mut results = open(&output, &batch);
        record(&mut results, &batch, (0, "b"), answer(json!("x"))).unwrap();
        assert_eq!(ids(&output), [3, 2, 1]);
        results.finish(&batch).unwrap();
        assert_eq!(ids(&output), [1, 2, 3]);
    }

    #[test]
    fn a_failure_drops_no_earlier_answer() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let one = batch(&[json!({"id": 1})]);
        let mut results = open(&output, &one);
        record(&mut results, &one, (0, "a"), answer(json!("old"))).unwrap();
        drop(results);
        let mut results = open(&output, &one);
        record(&mut results, &one, (0, "a"), TaskEnd::Failure(json!("no"))).unwrap();
        results.finish(&one).unwrap();
        let line = json!({"id": 1, "output_pred": {"a": "old"}, "output_error": {"a": "no"}});
        assert_eq!(lines(&output), [line]);
    }

    #[test]
    fn a_failure_stays_until_its_task_has_an_answer() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        fs::write(
            &output,
            "{\"id\":1,\"output_error\":{\"a\":\"x\",\"b\":\"y\"}}\n",
        )
        .unwrap();
        let one = batch(&[json!({"id": 1})]);
        let mut results = open(&output, &one);
        record(&mut results, &one, (0, "b"), answer(json!("new"))).unwrap();
        results.finish(&one).unwrap();
        let line = json!({"id": 1, "output_pred": {"b": "new"}, "output_error": {"a": "x"}});
        assert_eq!(lines(&output), [line]);
    }

    #[test]
    fn joined_results_fill_in_and_add_no_item() {
        let folder = tempfile::tempdir().unwrap();
        let (output, old) = (
            folder.path().join("out.jsonl"),
            folder.path().join("old.jsonl"),
        );
        fs::write(&output, "{\"id\":1,\"output_pred\":{\"a\":\"mine\"}}\n").unwrap();
        fs::write(
            &old,
            concat!(
                "{\"id\":1,\"n\":2,\"output_pred\":{\"a\":\"old\",\"b\":\"old\"}}\n",
                "{\"id\":2,\"output_pred\":{\"a\":\"other\"}}\n",
            ),
        )
        .unwrap();
        let mut one = batch(&[json!({"id": 1})]);
        one.join = vec![old];
        let results = open(&output, &one);
        assert_eq!(found(&results, &one, 0, "b", "h"), Found::Answer);
        results.finish(&one).unwrap();
        let answers = json!({"a": "mine", "b": "old"});
        assert_eq!(
            lines(&output),
            [json!({"id": 1, "n": 2, "output_pred": answers})]
        );
    }

    #[test]
    fn a_joined_line_of_openai_batch_is_taken_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (output, old) = (
            folder.path().join("out.jsonl"),
            folder.path().join("old.jsonl"),
        );
        let failed =
            json!({"id": "x", "custom_id": "a", "response": null, "error": {"code": "500"}});
        let response = json!({"status_code": 200, "body": {}});
        let answered = json!({"id": "y", "custom_id": "a", "response": response, "error": null});
        fs::write(&output, format!("{failed}\n")).unwrap();
        fs::write(&old, format!("{answered}\n")).unwrap();
        let call = json!({"custom_id": "a", "url": "/v1/embeddings", "body": {"model": "m"}});
        let mut calls = batch(&[call]);
        calls.join = vec![old];
        let results = open(&output, &calls);
        assert_eq!(found(&results, &calls, 0, "m", "h"), Found::Answer);
        results.finish(&calls).unwrap();
        assert_eq!(lines(&output), [answered]);
    }

    #[test]
    fn an_answer_in_the_output_is_newer_than_that_of_the_input() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let known = |text: &str, hash: &str| json!({"content": text, "request_hash": hash});
        let one = batch(&[json!({"id": 1, "output_pred": {"a": known("old", "h1")}})]);
        let mut results = open(&output, &one);
        assert_eq!(found(&results, &one, 0, "a", "h2"), Found::Changed);
        record(&mut results, &one, (0, "a"), answer(known("new", "h2"))).unwrap();
        results.finish(&one).unwrap();
        let results = open(&output, &one);
        assert_eq!(found(&results, &one, 0, "a", "h2"), Found::Answer);
        results.finish(&one).unwrap();
        assert_eq!(lines(&output)[0]["output_pred"]["a"]["content"], "new");
    }

    #[test]
    fn a_torn_line_after_failures_alone_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let one = batch(&[json!({"id": 1}), json!({"id": 2})]);
        let mut results = open(&output, &one);
        for model in ["a", "b"] {
            record(
                &mut results,
                &one,
                (0, model),
                TaskEnd::Failure(json!("no")),
            )
            .unwrap();
        }
        drop(results);
        let mut file = File::options().append(true).open(&output).unwrap();
        file.write_all(b"{\"id\":2,").unwrap();
        let results = open(&output, &one);
        assert!(results.had_failed(0) && results.had_failed(1) && !results.had_failed(2));
        results.finish(&one).unwrap();
        assert_eq!(lines(&output).len(), 2);
    }
}
