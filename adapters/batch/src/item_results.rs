//! All results of one item: which tasks they answer, and the item's line in the output.
//!
//! Invariant: an answer is dropped only for a newer one to the same task.

use crate::input::{ANSWERS, FAILURES, Item};
use crate::journal::{JournalEntry, TaskEnd};
use serde_json::{Map, Value};

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

/// All results of one item.
#[derive(Debug, Default)]
pub(crate) struct ItemResults {
    /// Its line in the output.
    pub(crate) earlier: Option<Map<String, Value>>,
    /// Recorded answers, by model.
    answers: Map<String, Value>,
    /// Recorded failures, by model.
    failures: Map<String, Value>,
}

impl ItemResults {
    /// Adds how a task ended; a later answer replaces an earlier one.
    pub(crate) fn add(&mut self, entry: JournalEntry) {
        let (ends, value) = match entry.end {
            TaskEnd::Answer(answer) => (&mut self.answers, answer),
            TaskEnd::Failure(failure) => (&mut self.failures, failure),
        };
        ends.insert(entry.model, value);
    }

    /// Looks for an answer to a task of this item whose request has the fingerprint `hash`.
    pub(crate) fn find(&self, item: &Item, model: &str, hash: &str) -> Found {
        let recorded = self.answers.get(model);
        let earlier = self.earlier.as_ref();
        let request_hash = |answer: &Value| answer.get(REQUEST_HASH).cloned();
        let known = if item.is_call() {
            let earlier = earlier.filter(|line| is_answered(line));
            let earlier = earlier.map(|line| line.get(REQUEST_HASH).cloned());
            recorded.map(request_hash).or(earlier)
        } else {
            let earlier = earlier.and_then(|line| line.get(ANSWERS)?.get(model));
            let own = item.fields.get(ANSWERS).and_then(|it| it.get(model));
            recorded.or(own).or(earlier).map(request_hash)
        };
        match known {
            None => Found::Nothing,
            Some(Some(Value::String(known))) if known != hash => Found::Changed,
            Some(Some(_) | None) => Found::Answer,
        }
    }

    /// Returns the line of an item of the input.
    pub(crate) fn line_of_item(
        mut self,
        item: &Item,
        models: &[String],
    ) -> Option<Map<String, Value>> {
        if item.is_call() {
            return self.line_of_call();
        }
        let mut line = self.earlier.take().unwrap_or_default();
        let answers = line.shift_remove(ANSWERS);
        line.extend(item.fields.clone());
        merge_answers(&mut line, answers);
        Some(self.complete(line, models))
    }

    /// Returns the line of an item that is not in the input.
    pub(crate) fn line_of_other(
        mut self,
        id: &str,
        models: &[String],
    ) -> Option<Map<String, Value>> {
        let mut answers = self.answers.values();
        let is_call = match &self.earlier {
            Some(line) => line.contains_key("custom_id"),
            None => answers.any(|answer| answer.get("custom_id").is_some()),
        };
        if is_call {
            return self.line_of_call();
        }
        let line = self.earlier.take().unwrap_or_else(|| {
            let id = serde_json::from_str(id).unwrap_or(Value::Null);
            Map::from_iter([("id".to_owned(), id)])
        });
        Some(self.complete(line, models))
    }

    /// Returns the line of an item of OpenAI's Batch API: its answer, else its failure, else what was there.
    fn line_of_call(self) -> Option<Map<String, Value>> {
        let ends = [self.answers, self.failures].into_iter().flatten();
        match ends.map(|(_, line)| line).next() {
            Some(Value::Object(line)) => Some(line),
            Some(_) => None,
            None => self.earlier,
        }
    }

    /// Adds the item's new answers to its line, and replaces its failures.
    fn complete(mut self, mut line: Map<String, Value>, models: &[String]) -> Map<String, Value> {
        if !self.answers.is_empty() {
            let answers = line.entry(ANSWERS).or_insert_with(|| Map::new().into());
            if let Value::Object(answers) = answers {
                for model in models {
                    if let Some((model, answer)) = self.answers.shift_remove_entry(model) {
                        answers.insert(model, answer);
                    }
                }
                answers.extend(self.answers);
            }
        }
        line.shift_remove(FAILURES);
        if !self.failures.is_empty() {
            line.insert(FAILURES.to_owned(), self.failures.into());
        }
        line
    }
}

/// Whether a line of OpenAI's Batch API holds an answer.
fn is_answered(line: &Map<String, Value>) -> bool {
    let status = line.get("response").and_then(|it| it.get("status_code"));
    let status = status.and_then(Value::as_u64);
    line.get("error").is_none_or(Value::is_null)
        && status.is_some_and(|status| (200..300).contains(&status))
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
