//! Results on disk: the output that is there already, a journal while the batch runs, and the output
//! that replaces it.
//!
//! Invariant: once [`Store::record`] has returned, the answer outlives the process. The output is
//! replaced as a whole or not at all, and the journal goes only after it has been.

use crate::error::BatchError;
use crate::input::{ANSWERS, FAILURES, Item, answers_are_objects, item_id, read_objects};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Values by item, and by model in each.
type ByModel = HashMap<String, Map<String, Value>>;

#[derive(Deserialize)]
struct Entry {
    id: String,
    model: String,
    answer: Value,
}

#[derive(Serialize)]
struct EntryRef<'a> {
    id: &'a str,
    model: &'a str,
    answer: &'a Value,
}

/// The results of a batch. Memory is that of the results.
#[derive(Debug)]
pub(crate) struct Store {
    output: PathBuf,
    journal_path: PathBuf,
    journal: File,
    /// Bytes of whole lines in the journal.
    recorded: u64,
    /// Results that were in the output before, by id and in their order.
    earlier: Map<String, Value>,
    answers: ByModel,
    failures: ByModel,
}

impl Store {
    /// Opens the results at `output`: those of earlier runs, and those of a run that was cut short, of
    /// which a last line that was half written is dropped.
    ///
    /// # Errors
    /// Where the output is there and isn't a file of results, another run has it open, or nothing can
    /// be written beside it.
    pub(crate) fn open(output: &Path) -> Result<Self, BatchError> {
        // Where the output is a link, what it leads to is replaced, and is in use under all its names.
        let output = fs::canonicalize(output).unwrap_or_else(|_| output.to_owned());
        let output = output.as_path();
        let mut journal_path = output.as_os_str().to_owned();
        journal_path.push(".journal");
        let journal_path = PathBuf::from(journal_path);
        let unwritable = |source| BatchError::Write {
            path: journal_path.clone(),
            source,
        };
        let mut journal = match lock_journal(&journal_path) {
            Ok(Some(journal)) => journal,
            Ok(None) => return Err(BatchError::Busy { path: journal_path }),
            Err(source) => return Err(unwritable(source)),
        };
        let (answers, recorded) = replay(&mut journal).map_err(unwritable)?;
        let earlier = match read_results(output) {
            Ok(earlier) => earlier,
            Err(error) => {
                if answers.is_empty() {
                    // Nothing is lost with it; whether it goes doesn't change what is wrong.
                    let _ = fs::remove_file(&journal_path);
                }
                return Err(error);
            }
        };
        Ok(Self {
            output: output.to_owned(),
            journal_path,
            journal,
            recorded,
            earlier,
            answers,
            failures: ByModel::new(),
        })
    }

    /// Whether a model has answered an item already.
    pub(crate) fn has(&self, item: &Item, model: &str) -> bool {
        let answered = |by: Option<&Value>| by.is_some_and(|by| by.get(model).is_some());
        let recorded = self.answers.get(&item.id);
        let earlier = self.earlier.get(&item.id);
        recorded.is_some_and(|by| by.contains_key(model))
            || answered(item.fields.get(ANSWERS))
            || answered(earlier.and_then(|fields| fields.get(ANSWERS)))
    }

    /// Keeps an answer.
    ///
    /// # Errors
    /// Where the journal can't be written; [`finish`](Self::finish) may still save the answer.
    pub(crate) fn record(
        &mut self,
        item: &Item,
        model: &str,
        answer: Value,
    ) -> Result<(), BatchError> {
        let entry = EntryRef {
            id: &item.id,
            model,
            answer: &answer,
        };
        let line = serde_json::to_vec(&entry).map_err(io::Error::from);
        keep(&mut self.answers, &item.id, model, answer);
        let written = line.and_then(|mut line| {
            line.push(b'\n');
            self.journal.write_all(&line).inspect_err(|_| {
                // Half a line would spoil the next; if it can't be cut off either, so be it.
                let _ = self.journal.set_len(self.recorded);
            })?;
            self.recorded = self.recorded.saturating_add(line.len() as u64);
            Ok(())
        });
        written.map_err(|source| BatchError::Write {
            path: self.journal_path.clone(),
            source,
        })
    }

    /// Keeps why a model gave no answer, for the output only: another run tries again.
    pub(crate) fn record_failure(&mut self, item: &Item, model: &str, reason: String) {
        keep(&mut self.failures, &item.id, model, Value::String(reason));
    }

    /// Replaces the output by all results: those of `items` in their order, then those of other items
    /// that there were, each with its answers in the order of `models`. Then the journal is dropped.
    ///
    /// # Errors
    /// Where the output can't be written; the output as it was and the journal are kept.
    pub(crate) fn finish(mut self, items: &[Item], models: &[String]) -> Result<(), BatchError> {
        self.replace_output(items, models)
            .map_err(|source| BatchError::Write {
                path: self.output.clone(),
                source,
            })?;
        fs::remove_file(&self.journal_path).map_err(|source| BatchError::Write {
            path: self.journal_path.clone(),
            source,
        })
    }

    fn replace_output(&mut self, items: &[Item], models: &[String]) -> io::Result<()> {
        let results = self.results(items, models);
        let parent = self.output.parent();
        let folder = parent.filter(|path| !path.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new()
            .prefix(".leasehold-")
            .permissions(permissions(&self.output))
            .tempfile_in(folder)?;
        let mut writer = BufWriter::new(file.as_file_mut());
        for result in results {
            serde_json::to_writer(&mut writer, &result)?;
            writer.write_all(b"\n")?;
        }
        writer.flush()?;
        drop(writer);
        file.as_file().sync_all()?;
        file.persist(&self.output)?;
        File::open(folder)?.sync_all()
    }

    fn results(&mut self, items: &[Item], models: &[String]) -> Vec<Map<String, Value>> {
        let mut results = Vec::new();
        let known: HashSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
        for item in items {
            let mut result = match self.earlier.get(&item.id) {
                Some(Value::Object(earlier)) => earlier.clone(),
                Some(_) | None => Map::new(),
            };
            let answered = result.shift_remove(ANSWERS);
            result.extend(item.fields.clone());
            merge(&mut result, ANSWERS, answered);
            results.push(self.complete(&item.id, result, models));
        }
        let earlier = core::mem::take(&mut self.earlier);
        for (id, result) in earlier {
            if let Value::Object(result) = result
                && !known.contains(id.as_str())
            {
                results.push(self.complete(&id, result, models));
            }
        }
        // Answers of a run that was cut short over another input.
        let orphans: Vec<String> = self.answers.keys().cloned().collect();
        for id in orphans {
            let mut result = Map::new();
            let name = serde_json::from_str(&id).unwrap_or(Value::Null);
            result.insert("id".to_owned(), name);
            results.push(self.complete(&id, result, models));
        }
        results
    }

    /// Puts in what has come for an item.
    fn complete(
        &mut self,
        id: &str,
        mut result: Map<String, Value>,
        models: &[String],
    ) -> Map<String, Value> {
        if let Some(mut answers) = self.answers.remove(id) {
            let answered = result.entry(ANSWERS).or_insert_with(|| Map::new().into());
            if let Value::Object(answered) = answered {
                for model in models {
                    if let Some((model, answer)) = answers.shift_remove_entry(model) {
                        answered.insert(model, answer);
                    }
                }
                answered.extend(answers);
            }
        }
        result.shift_remove(FAILURES);
        if let Some(failures) = self.failures.remove(id) {
            result.insert(FAILURES.to_owned(), failures.into());
        }
        result
    }
}

/// Joins what was there under `name` with what is there; the latter counts where both have a model.
fn merge(result: &mut Map<String, Value>, name: &str, before: Option<Value>) {
    let Some(Value::Object(mut joined)) = before else {
        return;
    };
    if let Some(Value::Object(now)) = result.shift_remove(name) {
        joined.extend(now);
    }
    result.insert(name.to_owned(), joined.into());
}

fn keep(into: &mut ByModel, id: &str, model: &str, value: Value) {
    let models = into.entry(id.to_owned()).or_default();
    models.insert(model.to_owned(), value);
}

/// Opens a journal for this run alone; `None` where another has it.
fn lock_journal(path: &Path) -> io::Result<Option<File>> {
    loop {
        let mut options = File::options();
        let journal = options.create(true).read(true).append(true).open(path)?;
        match journal.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // A run that ends removes its journal, and may have done so before it was locked here.
        if is_still_at(&journal, path)? {
            return Ok(Some(journal));
        }
    }
}

#[cfg(unix)]
fn is_still_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads a journal to its end, and cuts off a last line that was half written. Tells how long it is.
fn replay(journal: &mut File) -> io::Result<(ByModel, u64)> {
    let mut bytes = Vec::new();
    journal.read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n');
    let whole = whole.map_or(0, |last| last.saturating_add(1));
    if whole < bytes.len() {
        journal.set_len(whole as u64)?;
    }
    let mut answers = ByModel::new();
    for line in bytes[..whole].split(|byte| *byte == b'\n') {
        // A line that a crash of the machine has spoiled is asked for again.
        if let Ok(entry) = serde_json::from_slice::<Entry>(line) {
            keep(&mut answers, &entry.id, &entry.model, entry.answer);
        }
    }
    Ok((answers, whole as u64))
}

/// Reads the results of earlier runs; none where there is no such file.
fn read_results(output: &Path) -> Result<Map<String, Value>, BatchError> {
    match fs::metadata(output) {
        Ok(found) if found.is_file() => {}
        Ok(_) => {
            return Err(BatchError::File {
                path: output.to_owned(),
                problem: "not a regular file; choose another output".to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(source) => {
            return Err(BatchError::Read {
                path: output.to_owned(),
                source,
            });
        }
    }
    let mut results = Map::new();
    for (line, fields) in read_objects(output)? {
        let id = item_id(&fields);
        let id = id.and_then(|id| answers_are_objects(&fields).map(|()| id));
        let problem = match id {
            Ok(id) if results.contains_key(&id) => format!("the id {id} is there twice"),
            Ok(id) => {
                results.insert(id, fields.into());
                continue;
            }
            Err(problem) => problem,
        };
        return Err(BatchError::Line {
            path: output.to_owned(),
            line,
            problem: format!("{problem}; results can't be joined to this file"),
        });
    }
    Ok(results)
}

/// Those of the file that is there, else those that files get by default.
#[cfg(unix)]
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
    use serde_json::json;

    fn item(id: u32, fields: Value) -> Item {
        let Value::Object(fields) = fields else {
            panic!("fields are an object");
        };
        Item {
            id: id.to_string(),
            prompt: String::new(),
            fields,
        }
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).expect("the output is there");
        let values = text.lines().map(serde_json::from_str);
        values.map(|value| value.expect("a line is JSON")).collect()
    }

    #[test]
    fn results_are_joined_to_those_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let before = concat!(
            "{\"id\":9,\"x\":1}\n",
            "{\"id\":1,\"note\":\"n\",\"output_pred\":{\"a\":1},\"output_error\":{\"b\":\"e\"}}\n",
        );
        fs::write(&output, before).unwrap();
        let items = [
            item(1, json!({"id": 1, "q": "?"})),
            item(2, json!({"id": 2})),
        ];
        let mut store = Store::open(&output).unwrap();
        assert!(store.has(&items[0], "a") && !store.has(&items[0], "b"));
        store.record(&items[0], "b", json!(2)).unwrap();
        store.record_failure(&items[1], "a", "no".to_owned());
        store.finish(&items, &[]).unwrap();
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
    fn a_run_that_was_cut_short_loses_only_a_line_half_written() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let one = item(1, json!({"id": 1}));
        let mut store = Store::open(&output).unwrap();
        store.record(&one, "a", json!("kept")).unwrap();
        store.journal.write_all(b"{\"id\":\"1\",\"mod").unwrap();
        drop(store);

        let mut store = Store::open(&output).unwrap();
        assert!(store.has(&one, "a"));
        store.record(&one, "b", json!("new")).unwrap();
        drop(store);

        let store = Store::open(&output).unwrap();
        let two = item(2, json!({"id": 2}));
        store.finish(core::slice::from_ref(&two), &[]).unwrap();
        let kept = json!({"id": 1, "output_pred": {"a": "kept", "b": "new"}});
        assert_eq!(lines(&output), [json!({"id": 2}), kept]);
    }

    #[test]
    fn two_runs_do_not_share_an_output() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let _first = Store::open(&output).unwrap();
        assert!(matches!(Store::open(&output), Err(BatchError::Busy { .. })));
    }

    #[test]
    fn a_line_half_written_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let one = item(1, json!({"id": 1}));
        let mut store = Store::open(&output).unwrap();
        store.record(&one, "a", json!("kept")).unwrap();
        let journal = File::open(&store.journal_path).unwrap();
        let good = core::mem::replace(&mut store.journal, journal);
        store.record(&one, "b", json!("lost")).unwrap_err();
        store.journal = good;
        store.record(&one, "c", json!("kept")).unwrap();
        drop(store);
        let store = Store::open(&output).unwrap();
        assert!(store.has(&one, "a") && !store.has(&one, "b") && store.has(&one, "c"));
    }

    #[test]
    fn a_journal_that_was_removed_before_it_was_locked_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = lock_journal(&path).unwrap().unwrap();
        assert!(is_still_at(&journal, &path).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!is_still_at(&journal, &path).unwrap());
    }

    #[test]
    fn an_output_that_holds_no_results_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        fs::write(&output, "my notes\n").unwrap();
        let error = Store::open(&output).unwrap_err();
        assert!(matches!(error, BatchError::Line { line: 1, .. }), "{error}");
        assert!(matches!(
            Store::open(folder.path()),
            Err(BatchError::File { .. })
        ));
        assert_eq!(fs::read_to_string(&output).unwrap(), "my notes\n");
    }
}
