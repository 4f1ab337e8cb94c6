//! Tests of results on disk.

use super::*;
use crate::batch::Upstream;
use crate::columns::AnswerName;
use crate::input::Input;
use crate::item_results::Found;
use crate::items::Items;
use serde_json::{Value, json};

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
    let call = |id: &str| json!({"custom_id": id, "url": "/v1/embeddings", "body": {"model": "m"}});
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
    let failed = json!({"id": "x", "custom_id": "a", "response": null, "error": {"code": "500"}});
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

#[test]
fn half_a_line_of_a_killed_run_does_not_stay() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.jsonl");
    let one = batch(&[json!({"id": 1})]);
    let mut results = open(&output, &one);
    record(&mut results, &one, (0, "a"), answer(json!("x"))).unwrap();
    drop(results);
    fs::write(&output, "{\"id\":1,\"outp").unwrap();
    let other = batch(&[json!({"id": 2})]);
    open(&output, &other).finish(&other).unwrap();
    assert_eq!(lines(&output).len(), 2);
    // Notes of a user are no half line.
    let mut results = open(&output, &one);
    record(&mut results, &one, (0, "a"), answer(json!("x"))).unwrap();
    drop(results);
    fs::write(&output, "my notes").unwrap();
    let refused = Results::open(&output, &one).unwrap_err();
    assert!(
        matches!(refused, BatchError::InvalidLine { .. }),
        "{refused}"
    );
    assert_eq!(fs::read_to_string(&output).unwrap(), "my notes");
}
