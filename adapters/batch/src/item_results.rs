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
    /// Adds a line of an earlier run; what lines before it have of the item stays.
    pub(crate) fn join(&mut self, mut line: Map<String, Value>) {
        let Some(first) = self.earlier.take() else {
            self.earlier = Some(line);
            return;
        };
        let is_call = first.contains_key("custom_id") || line.contains_key("custom_id");
        if is_call {
            // Its parts belong together.
            let takes_other = !is_answered(&first) && is_answered(&line);
            self.earlier = Some(if takes_other { line } else { first });
            return;
        }
        let answers = take_answers(&mut line);
        line.extend(first);
        fill_in(&mut line, answers);
        self.earlier = Some(line);
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
        self.recorded(name).or_else(earlier).or(own)
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
        fields.all(|(name, value)| {
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
        let mut line = self.earlier.take().unwrap_or_default();
        let mut fields = item.fields.clone();
        let answers = take_answers(&mut fields);
        line.extend(fields);
        fill_in(&mut line, answers);
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

    /// Adds the item's new answers and failures to its line. A failure stays until the task has an answer.
    fn complete(
        mut self,
        mut line: Map<String, Value>,
        names: &[AnswerName],
    ) -> Map<String, Value> {
        let place = |name: &AnswerName| names.iter().position(|known| known == name);
        self.answers
            .sort_by_key(|(name, _)| place(name).unwrap_or(usize::MAX));
        let mut failures = match line.shift_remove(FAILURES) {
            Some(Value::Object(failures)) => failures,
            Some(_) | None => Map::new(),
        };
        for (name, answer) in self.answers {
            failures.shift_remove(&name.to_string());
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
        failures.extend(self.failures);
        if !failures.is_empty() {
            line.insert(FAILURES.to_owned(), failures.into());
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
    let value = fields.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = Map::new().into();
    }
    value.as_object_mut()
}

/// Whether a line of OpenAI's Batch API holds an answer.
fn is_answered(line: &Map<String, Value>) -> bool {
    let status = line.get("response").and_then(|it| it.get("status_code"));
    let status = status.and_then(Value::as_u64);
    line.get("error").is_none_or(Value::is_null)
        && status.is_some_and(|status| (200..300).contains(&status))
}

/// Takes the answers and the reviews out of a line.
fn take_answers(line: &mut Map<String, Value>) -> [(&'static str, Option<Value>); 2] {
    [ANSWERS, REVIEWS].map(|field| (field, line.shift_remove(field)))
}

/// Adds the answers that a line does not have.
fn fill_in(line: &mut Map<String, Value>, answers: [(&'static str, Option<Value>); 2]) {
    for (field, answers) in answers {
        let Some(Value::Object(answers)) = answers else {
            continue;
        };
        let Some(known) = object_in(line, field) else {
            continue;
        };
        for (model, answer) in answers {
            match (known.get_mut(&model), answer) {
                // Reviews are by the model that they review.
                (Some(Value::Object(known)), Value::Object(more)) if field == REVIEWS => {
                    for (reviewer, review) in more {
                        known.entry(reviewer).or_insert(review);
                    }
                }
                (Some(_), _) => {}
                (None, answer) => {
                    known.insert(model, answer);
                }
            }
        }
    }
}
