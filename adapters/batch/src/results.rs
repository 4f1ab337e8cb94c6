//! The results of a batch: those already in the output, those of this run, and the output that replaces it.
//!
//! Invariant: the output is replaced as a whole or not at all, and the journal is removed only afterwards. Results stay
//! on disk; only the places of their lines are in memory.

use crate::error::BatchError;
use crate::input::{Item, check_model_maps, is_standard, item_id};
use crate::item_results::ItemResults;
use crate::journal::{Journal, JournalEntry, TaskEnd};
use crate::lines::{self, Span};
use crate::objects::{ObjectLines, parse_object};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The results of a batch, by their places on disk.
#[derive(Debug)]
pub(crate) struct Results {
    /// `None` for standard output, which is written at the end and never read.
    output: Option<Output>,
    journal: Journal,
    /// By item id.
    places: HashMap<String, Places>,
}

/// The output as it was before the run.
#[derive(Debug)]
struct Output {
    path: PathBuf,
    /// `None` if there was no such file.
    file: Option<File>,
}

/// The places of an item's results.
#[derive(Debug, Default)]
struct Places {
    /// Its line in the output.
    earlier: Option<Span>,
    /// Its answers and failures, in the order in which they came.
    recorded: Vec<Recorded>,
}

#[derive(Debug)]
enum Recorded {
    InJournal(Span),
    /// The journal could not be written, which ends the run.
    InMemory(Box<JournalEntry>),
}

impl Results {
    /// Finds the results in `output`, and those in the journal of a run that was killed.
    pub(crate) fn open(output: &Path) -> Result<Self, BatchError> {
        if is_standard(output) {
            return Ok(Self {
                output: None,
                journal: Journal::without_name()?,
                places: HashMap::new(),
            });
        }
        // A link is resolved: its target is replaced, and is in use under all its names.
        let path = fs::canonicalize(output).unwrap_or_else(|_| output.to_owned());
        let (journal, replay) = Journal::open(&path)?;
        let is_new = replay.is_empty();
        let mut places = HashMap::<String, Places>::new();
        for (id, span) in replay {
            let recorded = &mut places.entry(id).or_default().recorded;
            recorded.push(Recorded::InJournal(span));
        }
        match find_earlier(&path, &mut places) {
            Ok(file) => Ok(Self {
                output: Some(Output { path, file }),
                journal,
                places,
            }),
            Err(error) => {
                if is_new {
                    // An empty journal would only litter; the first error is the one to report.
                    let _ = journal.remove();
                }
                Err(error)
            }
        }
    }

    /// Reads all results of the item with this id.
    pub(crate) fn of_item(&self, id: &str) -> Result<ItemResults, BatchError> {
        let places = self.places.get(id);
        places.map_or_else(|| Ok(ItemResults::default()), |it| self.read(id, it))
    }

    /// Closes the journal of a run that makes no call; an empty one is removed.
    pub(crate) fn abandon(self) -> Result<(), BatchError> {
        if self.places.values().all(|it| it.recorded.is_empty()) {
            self.journal.remove()
        } else {
            Ok(())
        }
    }

    /// Records how a task ended.
    ///
    /// # Errors
    /// If the journal can't be written; [`finish`](Self::finish) may still write the result to the output.
    pub(crate) fn record(
        &mut self,
        item: &Item,
        model: &str,
        end: TaskEnd,
    ) -> Result<(), BatchError> {
        let entry = JournalEntry {
            id: item.id.clone(),
            model: model.to_owned(),
            end,
        };
        let (recorded, result) = match self.journal.append(&entry) {
            Ok(span) => (Recorded::InJournal(span), Ok(())),
            Err(error) => (Recorded::InMemory(Box::new(entry)), Err(error)),
        };
        let places = self.places.entry(item.id.clone()).or_default();
        places.recorded.push(recorded);
        result
    }

    /// Replaces the output by all results, then removes the journal.
    ///
    /// The order is that of `items`, then that of other items already in the output, then that of the journal. New
    /// answers are added in the order of `models`.
    ///
    /// # Errors
    /// If the output can't be written; the old output and the journal stay as they are.
    pub(crate) fn finish(mut self, items: &[Item], models: &[String]) -> Result<(), BatchError> {
        let Some(output) = self.output.as_ref().map(|output| output.path.clone()) else {
            let name = Path::new("standard output");
            return self.write(io::stdout().lock(), name, items, models);
        };
        let failed = |source| BatchError::Write {
            path: output.clone(),
            source,
        };
        let file = lines::create_beside(&output, permissions(&output)).map_err(failed)?;
        self.write(file.as_file(), &output, items, models)?;
        replace(file, &output).map_err(failed)?;
        self.journal.remove()
    }

    /// Writes all results to a file, which errors call `name`.
    fn write(
        &mut self,
        to: impl Write,
        name: &Path,
        items: &[Item],
        models: &[String],
    ) -> Result<(), BatchError> {
        let failed = |source| BatchError::Write {
            path: name.to_owned(),
            source,
        };
        let mut writer = BufWriter::new(to);
        for item in items {
            let results = self.of_item(&item.id)?;
            self.places.remove(&item.id);
            if let Some(line) = results.line_of_item(item, models) {
                lines::write(&mut writer, &line).map_err(failed)?;
            }
        }
        for (id, places) in self.others() {
            let results = self.read(&id, &places)?;
            if let Some(line) = results.line_of_other(&id, models) {
                lines::write(&mut writer, &line).map_err(failed)?;
            }
        }
        writer.flush().map_err(failed)
    }

    /// Takes the results of items that are not in the input: those in the output, then those of a killed run.
    fn others(&mut self) -> Vec<(String, Places)> {
        let mut others: Vec<_> = self.places.drain().collect();
        others.sort_by_cached_key(|(_, places)| {
            let is_new = places.earlier.is_none();
            let recorded = places.recorded.first().and_then(Recorded::span);
            (is_new, places.earlier.or(recorded).map(|span| span.start))
        });
        others
    }

    fn read(&self, id: &str, places: &Places) -> Result<ItemResults, BatchError> {
        let mut results = ItemResults::default();
        if let (Some(output), Some(span)) = (&self.output, places.earlier) {
            results.earlier = Some(output.read(id, span)?);
        }
        for recorded in &places.recorded {
            let entry = match recorded {
                Recorded::InJournal(span) => self.journal.read(*span)?,
                Recorded::InMemory(entry) => (**entry).clone(),
            };
            results.add(entry);
        }
        Ok(results)
    }
}

impl Recorded {
    const fn span(&self) -> Option<Span> {
        match self {
            Self::InJournal(span) => Some(*span),
            Self::InMemory(_) => None,
        }
    }
}

impl Output {
    /// Reads the line of an item again.
    fn read(&self, id: &str, span: Span) -> Result<Map<String, Value>, BatchError> {
        let file = self.file.as_ref();
        let bytes = file.map_or_else(|| Ok(Vec::new()), |file| span.read(file));
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

/// Opens the results of earlier runs and notes their places; `None` if there is no such file.
fn find_earlier(
    output: &Path,
    places: &mut HashMap<String, Places>,
) -> Result<Option<File>, BatchError> {
    let unreadable = |source| BatchError::Read {
        path: output.to_owned(),
        source,
    };
    match fs::metadata(output) {
        Ok(found) if found.is_file() => {}
        Ok(_) => {
            return Err(BatchError::InvalidFile {
                path: output.to_owned(),
                problem: "not a regular file; choose another output".to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(unreadable(source)),
    }
    let file = File::open(output).map_err(unreadable)?;
    let mut objects = ObjectLines::new(output, file.try_clone().map_err(unreadable)?);
    while let Some(object) = objects.next() {
        let object = object?;
        let id = item_id(&object.fields);
        let id = id.and_then(|id| check_model_maps(&object.fields).map(|()| id));
        let added = id.and_then(|id| {
            let problem = format!("the id {id} is used twice");
            let earlier = &mut places.entry(id).or_default().earlier;
            let is_new = earlier.replace(object.span).is_none();
            is_new.then_some(()).ok_or(problem)
        });
        added.map_err(|problem| {
            let problem = format!("{problem}; this is no file of results, choose another output");
            objects.invalid(object.number, problem)
        })?;
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Content;
    use crate::item_results::Found;
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

    fn found(results: &Results, item: &Item, model: &str, hash: &str) -> Found {
        let results = results.of_item(&item.id).unwrap();
        results.find(item, model, hash)
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
        let items = [
            item(1, json!({"id": 1, "q": "?"})),
            item(2, json!({"id": 2})),
        ];
        let mut results = Results::open(&output).unwrap();
        assert_eq!(found(&results, &items[0], "a", "h"), Found::Answer);
        assert_eq!(found(&results, &items[0], "b", "h"), Found::Nothing);
        results
            .record(&items[0], "b", TaskEnd::Answer(json!(2)))
            .unwrap();
        results
            .record(&items[1], "a", TaskEnd::Failure(json!("no")))
            .unwrap();
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
        results
            .record(&one, "a", TaskEnd::Answer(json!("kept")))
            .unwrap();
        drop(results);

        let mut results = Results::open(&output).unwrap();
        assert_eq!(found(&results, &one, "a", "h"), Found::Answer);
        results
            .record(&one, "b", TaskEnd::Answer(json!("new")))
            .unwrap();
        drop(results);

        let results = Results::open(&output).unwrap();
        let two = item(2, json!({"id": 2}));
        results.finish(core::slice::from_ref(&two), &[]).unwrap();
        let kept = json!({"id": 1, "output_pred": {"a": "kept", "b": "new"}});
        assert_eq!(lines(&output), [json!({"id": 2}), kept]);
    }

    #[test]
    fn what_the_journal_cannot_take_reaches_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let one = item(1, json!({"id": 1}));
        let mut results = Results::open(&output).unwrap();
        let answer = |text: &str| TaskEnd::Answer(json!(text));
        results.record(&one, "a", answer("written")).unwrap();
        results.journal.fail_from_now_on();
        let lost = results.record(&one, "b", answer("not written"));
        assert!(matches!(lost, Err(BatchError::Write { .. })), "{lost:?}");
        results.finish(core::slice::from_ref(&one), &[]).unwrap();
        let answers = json!({"a": "written", "b": "not written"});
        assert_eq!(lines(&output), [json!({"id": 1, "output_pred": answers})]);
    }

    #[test]
    fn items_of_a_killed_run_follow_in_the_order_of_their_answers() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        fs::write(&output, "{\"id\":7}\n{\"id\":5}\n").unwrap();
        let mut results = Results::open(&output).unwrap();
        for id in [9, 3, 5, 8] {
            let item = item(id, json!({"id": id}));
            let answer = TaskEnd::Answer(json!(id));
            results.record(&item, "a", answer).unwrap();
        }
        drop(results);
        let results = Results::open(&output).unwrap();
        results.finish(&[item(1, json!({"id": 1}))], &[]).unwrap();
        let ids: Vec<_> = lines(&output).iter().map(|it| it["id"].as_u64()).collect();
        assert_eq!(ids, [1, 7, 5, 9, 3, 8].map(Some));
    }

    #[test]
    fn an_output_that_changes_during_the_run_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        fs::write(&output, "{\"id\":1,\"note\":\"n\"}\n").unwrap();
        let one = item(1, json!({"id": 1}));
        let mut results = Results::open(&output).unwrap();
        let answer = TaskEnd::Answer(json!("kept"));
        results.record(&one, "a", answer).unwrap();
        fs::write(&output, "{\"id\":2}\n").unwrap();
        let error = results.finish(core::slice::from_ref(&one), &[]);
        let shown = error.unwrap_err().to_string();
        assert!(shown.contains("another program"), "{shown}");
        let results = Results::open(&output).unwrap();
        assert_eq!(found(&results, &one, "a", "h"), Found::Answer);
        results.finish(core::slice::from_ref(&one), &[]).unwrap();
        assert_eq!(lines(&output)[1], json!({"id": 2}));
    }

    #[test]
    fn an_answer_to_another_request_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let one = item(1, json!({"id": 1}));
        let mut results = Results::open(&output).unwrap();
        let answer = json!({"content": "x", "request_hash": "h1"});
        results.record(&one, "a", TaskEnd::Answer(answer)).unwrap();
        drop(results);
        let results = Results::open(&output).unwrap();
        assert_eq!(found(&results, &one, "a", "h1"), Found::Answer);
        assert_eq!(found(&results, &one, "a", "h2"), Found::Changed);
        results.finish(core::slice::from_ref(&one), &[]).unwrap();
        let results = Results::open(&output).unwrap();
        assert_eq!(found(&results, &one, "a", "h2"), Found::Changed);
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
        results
            .record(&items[0], "m", TaskEnd::Answer(line("a", 200)))
            .unwrap();
        results
            .record(&items[1], "m", TaskEnd::Failure(line("b", 400)))
            .unwrap();
        results.finish(&items, &[]).unwrap();
        assert_eq!(lines(&output), [line("a", 200), line("b", 400)]);
        let results = Results::open(&output).unwrap();
        assert_eq!(found(&results, &items[0], "m", "h"), Found::Answer);
        assert_eq!(found(&results, &items[1], "m", "h"), Found::Nothing);
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
