//! The results of a batch: those already in the output, those of this run, and the output that replaces it.
//!
//! Invariant: the output is replaced as a whole or not at all, and the journal is removed only afterwards.

use crate::error::BatchError;
use crate::input::{ANSWERS, FAILURES, Item, check_model_maps, is_standard, item_id, read_objects};
use crate::journal::Journal;
use crate::lines;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Permissions};
use std::io;
use std::path::{Path, PathBuf};

/// Values by item id, and by model within an item.
type ByItem = HashMap<String, Map<String, Value>>;

/// Field of an answer with the fingerprint of its request.
pub(crate) const REQUEST_HASH: &str = "request_hash";

/// What is known of a task's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is none.
    Nothing,
    /// It answers the same request, or it is not known which.
    Answer,
    /// It answers another request.
    Changed,
}

/// The results of a batch, all in memory.
#[derive(Debug)]
pub(crate) struct Results {
    /// `None` for standard output, which is written at the end and never read.
    file: Option<(PathBuf, Journal)>,
    /// Results already in the output by item id, in the order of the file.
    earlier: Map<String, Value>,
    answers: ByItem,
    failures: ByItem,
}

impl Results {
    /// Reads the results at `output`, and those in the journal of a run that was killed.
    pub(crate) fn open(output: &Path) -> Result<Self, BatchError> {
        if is_standard(output) {
            return Ok(Self {
                file: None,
                earlier: Map::new(),
                answers: ByItem::new(),
                failures: ByItem::new(),
            });
        }
        // A link is resolved: its target is replaced, and is in use under all its names.
        let output = fs::canonicalize(output).unwrap_or_else(|_| output.to_owned());
        let (journal, entries) = Journal::open(&output)?;
        let mut answers = ByItem::new();
        for entry in entries {
            insert(&mut answers, &entry.id, &entry.model, entry.answer);
        }
        let earlier = match read_output(&output) {
            Ok(earlier) => earlier,
            Err(error) => {
                if answers.is_empty() {
                    // An empty journal would only litter; the first error is the one to report.
                    let _ = journal.remove();
                }
                return Err(error);
            }
        };
        Ok(Self {
            file: Some((output, journal)),
            earlier,
            answers,
            failures: ByItem::new(),
        })
    }

    /// Looks for an answer to a task whose request has the fingerprint `hash`.
    pub(crate) fn find(&self, item: &Item, model: &str, hash: &str) -> Found {
        let recorded = self.answers.get(&item.id).and_then(|it| it.get(model));
        let earlier = self.earlier.get(&item.id);
        let answer = if item.is_call() {
            recorded.or(earlier.filter(|line| is_answered(line)))
        } else {
            let earlier = earlier.and_then(|line| line.get(ANSWERS)?.get(model));
            let own = item.fields.get(ANSWERS).and_then(|it| it.get(model));
            recorded.or(own).or(earlier)
        };
        match answer.map(|answer| answer.get(REQUEST_HASH).and_then(Value::as_str)) {
            None => Found::Nothing,
            Some(Some(known)) if known != hash => Found::Changed,
            Some(Some(_) | None) => Found::Answer,
        }
    }

    /// Closes the journal of a run that makes no call; an empty one is removed.
    pub(crate) fn abandon(self) -> Result<(), BatchError> {
        match self.file {
            Some((_, journal)) if self.answers.is_empty() => journal.remove(),
            Some(_) | None => Ok(()),
        }
    }

    /// Records an answer.
    ///
    /// # Errors
    /// If the journal can't be written; [`finish`](Self::finish) may still write the answer to the output.
    pub(crate) fn record(
        &mut self,
        item: &Item,
        model: &str,
        answer: Value,
    ) -> Result<(), BatchError> {
        let appended = match &mut self.file {
            Some((_, journal)) => journal.append(&item.id, model, &answer),
            None => Ok(()),
        };
        insert(&mut self.answers, &item.id, model, answer);
        appended
    }

    /// Records a failure, for the output only: the next run tries again.
    pub(crate) fn record_failure(&mut self, item: &Item, model: &str, failure: Value) {
        insert(&mut self.failures, &item.id, model, failure);
    }

    /// Replaces the output by all results, then removes the journal.
    ///
    /// The order is that of `items`, then that of other items already in the output. New answers are added in the
    /// order of `models`.
    ///
    /// # Errors
    /// If the output can't be written; the old output and the journal stay as they are.
    pub(crate) fn finish(mut self, items: &[Item], models: &[String]) -> Result<(), BatchError> {
        let results = self.lines(items, models);
        let Some((output, journal)) = self.file else {
            return lines::write(io::stdout().lock(), &results).map_err(|source| {
                BatchError::Write {
                    path: PathBuf::from("standard output"),
                    source,
                }
            });
        };
        replace(&output, &results).map_err(|source| BatchError::Write {
            path: output,
            source,
        })?;
        journal.remove()
    }

    fn lines(&mut self, items: &[Item], models: &[String]) -> Vec<Map<String, Value>> {
        let mut lines = Vec::new();
        let known: HashSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
        for item in items {
            if item.is_call() {
                lines.extend(self.line_of_call(&item.id));
                continue;
            }
            let mut line = match self.earlier.get(&item.id) {
                Some(Value::Object(earlier)) => earlier.clone(),
                Some(_) | None => Map::new(),
            };
            let answers = line.shift_remove(ANSWERS);
            line.extend(item.fields.clone());
            merge_answers(&mut line, answers);
            lines.push(self.complete(&item.id, line, models));
        }
        let earlier = core::mem::take(&mut self.earlier);
        for (id, line) in earlier {
            if let Value::Object(line) = line
                && !known.contains(id.as_str())
            {
                let is_call = line.contains_key("custom_id");
                let line = match is_call.then(|| self.line_of_call(&id)).flatten() {
                    Some(newer) => newer,
                    None if is_call => line,
                    None => self.complete(&id, line, models),
                };
                lines.push(line);
            }
        }
        // The journal of a killed run may hold items of another input.
        let others: Vec<String> = self.answers.keys().cloned().collect();
        for id in others {
            let is_call = |line: &Value| line.get("custom_id").is_some();
            let recorded = self.answers.get(&id);
            if recorded.is_some_and(|it| it.values().any(is_call)) {
                lines.extend(self.line_of_call(&id));
                continue;
            }
            let mut line = Map::new();
            let id_value = serde_json::from_str(&id).unwrap_or(Value::Null);
            line.insert("id".to_owned(), id_value);
            lines.push(self.complete(&id, line, models));
        }
        lines
    }

    /// Returns the line of an item of OpenAI's Batch API: its answer, else its failure, else what was there.
    fn line_of_call(&mut self, id: &str) -> Option<Map<String, Value>> {
        let answer = self.answers.remove(id);
        let failure = self.failures.remove(id);
        let new = answer.or(failure).into_iter().flatten().next();
        let line = new.map(|(_, line)| line);
        match line.or_else(|| self.earlier.get(id).cloned())? {
            Value::Object(line) => Some(line),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => None,
        }
    }

    /// Adds an item's new answers to its line, and replaces its failures.
    fn complete(
        &mut self,
        id: &str,
        mut line: Map<String, Value>,
        models: &[String],
    ) -> Map<String, Value> {
        if let Some(mut new) = self.answers.remove(id) {
            let answers = line.entry(ANSWERS).or_insert_with(|| Map::new().into());
            if let Value::Object(answers) = answers {
                for model in models {
                    if let Some((model, answer)) = new.shift_remove_entry(model) {
                        answers.insert(model, answer);
                    }
                }
                answers.extend(new);
            }
        }
        line.shift_remove(FAILURES);
        if let Some(failures) = self.failures.remove(id) {
            line.insert(FAILURES.to_owned(), failures.into());
        }
        line
    }
}

/// Whether a line of OpenAI's Batch API holds an answer.
fn is_answered(line: &Value) -> bool {
    let status = line
        .pointer("/response/status_code")
        .and_then(Value::as_u64);
    line["error"].is_null() && status.is_some_and(|status| (200..300).contains(&status))
}

/// Puts `earlier` answers before those in `line`; `line` wins if both have the model.
fn merge_answers(line: &mut Map<String, Value>, earlier: Option<Value>) {
    let Some(Value::Object(mut merged)) = earlier else {
        return;
    };
    if let Some(Value::Object(answers)) = line.shift_remove(ANSWERS) {
        merged.extend(answers);
    }
    line.insert(ANSWERS.to_owned(), merged.into());
}

fn insert(into: &mut ByItem, id: &str, model: &str, value: Value) {
    let models = into.entry(id.to_owned()).or_default();
    models.insert(model.to_owned(), value);
}

fn replace(output: &Path, values: &[Map<String, Value>]) -> io::Result<()> {
    let file = lines::write_beside(output, permissions(output), values)?;
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

/// Reads the results of earlier runs; empty if there is no such file.
fn read_output(output: &Path) -> Result<Map<String, Value>, BatchError> {
    match fs::metadata(output) {
        Ok(found) if found.is_file() => {}
        Ok(_) => {
            return Err(BatchError::InvalidFile {
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
        let id = id.and_then(|id| check_model_maps(&fields).map(|()| id));
        let problem = match id {
            Ok(id) if results.contains_key(&id) => format!("the id {id} is used twice"),
            Ok(id) => {
                results.insert(id, fields.into());
                continue;
            }
            Err(problem) => problem,
        };
        return Err(BatchError::InvalidLine {
            path: output.to_owned(),
            line,
            problem: format!("{problem}; this is no file of results, choose another output"),
        });
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Content;
    use serde_json::json;

    fn item(id: u32, fields: Value) -> Item {
        let Value::Object(fields) = fields else {
            panic!("fields are an object");
        };
        Item {
            id: id.to_string(),
            content: Content::Fields,
            fields,
        }
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
        let items = [
            item(1, json!({"id": 1, "q": "?"})),
            item(2, json!({"id": 2})),
        ];
        let mut results = Results::open(&output).unwrap();
        assert_eq!(results.find(&items[0], "a", "h"), Found::Answer);
        assert_eq!(results.find(&items[0], "b", "h"), Found::Nothing);
        results.record(&items[0], "b", json!(2)).unwrap();
        results.record_failure(&items[1], "a", json!("no"));
        results.finish(&items, &[]).unwrap();
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
        let one = item(1, json!({"id": 1}));
        let mut results = Results::open(&output).unwrap();
        results.record(&one, "a", json!("kept")).unwrap();
        drop(results);

        let mut results = Results::open(&output).unwrap();
        assert_eq!(results.find(&one, "a", "h"), Found::Answer);
        results.record(&one, "b", json!("new")).unwrap();
        drop(results);

        let results = Results::open(&output).unwrap();
        let two = item(2, json!({"id": 2}));
        results.finish(core::slice::from_ref(&two), &[]).unwrap();
        let kept = json!({"id": 1, "output_pred": {"a": "kept", "b": "new"}});
        assert_eq!(lines(&output), [json!({"id": 2}), kept]);
    }

    #[test]
    fn an_answer_to_another_request_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let one = item(1, json!({"id": 1}));
        let mut results = Results::open(&output).unwrap();
        let answer = json!({"content": "x", "request_hash": "h1"});
        results.record(&one, "a", answer).unwrap();
        drop(results);
        let results = Results::open(&output).unwrap();
        assert_eq!(results.find(&one, "a", "h1"), Found::Answer);
        assert_eq!(results.find(&one, "a", "h2"), Found::Changed);
        results.finish(core::slice::from_ref(&one), &[]).unwrap();
        let results = Results::open(&output).unwrap();
        assert_eq!(results.find(&one, "a", "h2"), Found::Changed);
    }

    #[test]
    fn lines_of_openai_batch_stay_whole_and_only_answered_ones_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let call = |id: &str| Item {
            id: json!(id).to_string(),
            content: Content::Call {
                path: "/v1/embeddings".to_owned(),
                body: Map::new(),
            },
            fields: Map::new(),
        };
        let line = |id: &str, status: u16| {
            let response = json!({"status_code": status, "body": {}});
            json!({"id": "x", "custom_id": id, "response": response, "error": null})
        };
        let items = [call("a"), call("b"), call("c")];
        let mut results = Results::open(&output).unwrap();
        results.record(&items[0], "m", line("a", 200)).unwrap();
        results.record_failure(&items[1], "m", line("b", 400));
        results.finish(&items, &[]).unwrap();
        assert_eq!(lines(&output), [line("a", 200), line("b", 400)]);
        let results = Results::open(&output).unwrap();
        assert_eq!(results.find(&items[0], "m", "h"), Found::Answer);
        assert_eq!(results.find(&items[1], "m", "h"), Found::Nothing);
        results.finish(&items, &[]).unwrap();
        assert_eq!(lines(&output), [line("a", 200), line("b", 400)]);
    }

    #[test]
    fn two_runs_do_not_share_an_output() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let _first = Results::open(&output).unwrap();
        let second = Results::open(&output);
        assert!(matches!(second, Err(BatchError::Busy { .. })));
    }

    #[test]
    fn an_output_that_holds_no_results_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        fs::write(&output, "my notes\n").unwrap();
        let error = Results::open(&output).unwrap_err();
        assert!(
            matches!(error, BatchError::InvalidLine { line: 1, .. }),
            "{error}"
        );
        assert!(matches!(
            Results::open(folder.path()),
            Err(BatchError::InvalidFile { .. })
        ));
        assert_eq!(fs::read_to_string(&output).unwrap(), "my notes\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
