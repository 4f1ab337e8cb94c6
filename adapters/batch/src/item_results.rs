//! All results of one item: which tasks they answer, and the item's line in the output.
//!
//! Invariant: an answer is dropped only for a newer one to the same task.

use crate::columns::AnswerName;
use crate::input::{ANSWERS, FAILURES, Item, REVIEWS};
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
    /// Recorded answers, in the order in which they came.
    answers: Vec<(AnswerName, Value)>,
    /// Recorded failures, by the name of the answer.
    failures: Map<String, Value>,
}

impl ItemResults {
    /// Adds a line of an earlier run; what earlier lines have of it goes before.
    pub(crate) fn join(&mut self, line: Map<String, Value>) {
        self.earlier = Some(match self.earlier.take() {
            Some(first) => merge_lines(line, first),
            None => line,
        });
    }

    /// Adds how a task ended; a later answer replaces an earlier one.
    pub(crate) fn add(&mut self, entry: JournalEntry) {
        match entry.end {
            TaskEnd::Answer(answer) => {
                self.answers.retain(|(name, _)| *name != entry.name);
                self.answers.push((entry.name, answer));
            }
            TaskEnd::Failure(failure) => {
                self.failures.insert(entry.name.to_string(), failure);
            }
        }
    }

    fn recorded(&self, name: &AnswerName) -> Option<&Value> {
        let mut answers = self.answers.iter();
        let found = answers.find(|(known, _)| known == name);
        found.map(|(_, answer)| answer)
    }

    /// Returns an answer of an item that is no line of OpenAI's Batch API.
    pub(crate) fn answer<'a>(&'a self, item: &'a Item, name: &AnswerName) -> Option<&'a Value> {
        let earlier = self.earlier.as_ref();
        let own = answer_in(&item.fields, name);
        let earlier = || answer_in(earlier?, name);
        self.recorded(name).or(own).or_else(earlier)
    }

    /// Looks for an answer to a task of this item whose request has the fingerprint `hash`.
    pub(crate) fn find(&self, item: &Item, name: &AnswerName, hash: &str) -> Found {
        let request_hash = |answer: &Value| answer.get(REQUEST_HASH).cloned();
        let known = if item.is_call() {
            let earlier = self.earlier.as_ref().filter(|line| is_answered(line));
            let earlier = earlier.map(|line| line.get(REQUEST_HASH).cloned());
            self.recorded(name).map(request_hash).or(earlier)
        } else {
            self.answer(item, name).map(request_hash)
        };
        match known {
            None => Found::Nothing,
            Some(Some(Value::String(known))) if known != hash => Found::Changed,
            Some(Some(_) | None) => Found::Answer,
        }
    }

    /// Whether the item's line in the output would be the one that is there, if no task runs.
    pub(crate) fn is_line_of(&self, item: &Item) -> bool {
        let Some(line) = self.earlier.as_ref().filter(|_| self.answers.is_empty()) else {
            return false;
        };
        let mut fields = item.fields.iter();
        !line.contains_key(FAILURES)
            && fields.all(|(name, value)| {
                !(name == ANSWERS || name == REVIEWS) && line.get(name) == Some(value)
            })
    }

    /// Whether a task of this item has failed in an earlier run.
    pub(crate) fn has_failed(&self, item: &Item, name: &AnswerName) -> bool {
        let earlier = self.earlier.as_ref();
        if item.is_call() {
            return earlier.is_some_and(|line| !is_answered(line));
        }
        let failures = earlier.and_then(|line| line.get(FAILURES));
        failures.is_some_and(|failures| failures.get(name.to_string()).is_some())
    }

    /// Returns the line of an item of the input; new answers are in the order of `names`.
    pub(crate) fn line_of_item(
        mut self,
        item: &Item,
        names: &[AnswerName],
    ) -> Option<Map<String, Value>> {
        if item.is_call() {
            return self.line_of_call();
        }
        let line = self.earlier.take().unwrap_or_default();
        let line = merge_lines(line, item.fields.clone());
        Some(self.complete(line, names))
    }

    /// Returns the line of an item that is not in the input.
    pub(crate) fn line_of_other(mut self, id: &str) -> Option<Map<String, Value>> {
        let mut answers = self.answers.iter();
        let is_call = match &self.earlier {
            Some(line) => line.contains_key("custom_id"),
            None => answers.any(|(_, answer)| answer.get("custom_id").is_some()),
        };
        if is_call {
            return self.line_of_call();
        }
        let line = self.earlier.take().unwrap_or_else(|| {
            let id = serde_json::from_str(id).unwrap_or(Value::Null);
            Map::from_iter([("id".to_owned(), id)])
        });
        Some(self.complete(line, &[]))
    }

    /// Returns the line of an item of OpenAI's Batch API: its answer, else its failure, else what was there.
    fn line_of_call(self) -> Option<Map<String, Value>> {
        let answers = self.answers.into_iter().map(|(_, line)| line);
        let failures = self.failures.into_iter().map(|(_, line)| line);
        match answers.chain(failures).next() {
            Some(Value::Object(line)) => Some(line),
            Some(_) => None,
            None => self.earlier,
        }
    }

    /// Adds the item's new answers to its line, and replaces its failures.
    fn complete(
        mut self,
        mut line: Map<String, Value>,
        names: &[AnswerName],
    ) -> Map<String, Value> {
        let place = |name: &AnswerName| names.iter().position(|known| known == name);
        self.answers
            .sort_by_key(|(name, _)| place(name).unwrap_or(usize::MAX));
        for (name, answer) in self.answers {
            let answers = match name.reviewed {
                None => object_in(&mut line, ANSWERS),
                Some(reviewed) => {
                    object_in(&mut line, REVIEWS).and_then(|reviews| object_in(reviews, &reviewed))
                }
            };
            if let Some(answers) = answers {
                answers.insert(name.model, answer);
            }
        }
        line.shift_remove(FAILURES);
        if !self.failures.is_empty() {
            line.insert(FAILURES.to_owned(), self.failures.into());
        }
        line
    }
}

/// Finds an answer among the fields of an item or a result.
fn answer_in<'a>(fields: &'a Map<String, Value>, name: &AnswerName) -> Option<&'a Value> {
    match &name.reviewed {
        None => fields.get(ANSWERS)?.get(&name.model),
        Some(reviewed) => fields.get(REVIEWS)?.get(reviewed)?.get(&name.model),
    }
}

/// The object in a field, which is made if it is not there; `None` if something else is.
fn object_in<'a>(
    fields: &'a mut Map<String, Value>,
    name: &str,
) -> Option<&'a mut Map<String, Value>> {
    let value = fields.entry(name).or_insert_with(|| Map::new().into());
    value.as_object_mut()
}

/// Whether a line of OpenAI's Batch API holds an answer.
fn is_answered(line: &Map<String, Value>) -> bool {
    let status = line.get("response").and_then(|it| it.get("status_code"));
    let status = status.and_then(Value::as_u64);
    line.get("error").is_none_or(Value::is_null)
        && status.is_some_and(|status| (200..300).contains(&status))
}

/// Joins two lines of an item; `line` wins if both have a field or an answer.
fn merge_lines(mut earlier: Map<String, Value>, line: Map<String, Value>) -> Map<String, Value> {
    let answers = [ANSWERS, REVIEWS].map(|field| (field, earlier.shift_remove(field)));
    earlier.extend(line);
    for (field, answers) in answers {
        merge_answers(&mut earlier, field, answers);
    }
    earlier
}

/// Puts `earlier` answers before those in a field of `line`; `line` wins if both have the model.
fn merge_answers(line: &mut Map<String, Value>, field: &str, earlier: Option<Value>) {
    let Some(Value::Object(mut merged)) = earlier else {
        return;
    };
    if let Some(Value::Object(answers)) = line.shift_remove(field) {
        for (model, answer) in answers {
            match (merged.get_mut(&model), answer) {
                // Reviews are by the model that they review.
                (Some(Value::Object(known)), Value::Object(reviews)) if field == REVIEWS => {
                    known.extend(reviews);
                }
                (_, answer) => {
                    merged.insert(model, answer);
                }
            }
        }
    }
    line.insert(field.to_owned(), merged.into());
}
