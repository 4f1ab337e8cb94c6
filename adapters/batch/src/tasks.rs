//! The tasks that are to be run: those without an answer to their request.
//!
//! Invariant: a review is ready only once the answer that it reviews is there.

use crate::batch::{Batch, OnChange};
use crate::bits::Bits;
use crate::error::BatchError;
use crate::input::Item;
use crate::item_results::{Found, ItemResults};
use crate::request::check_review;
use crate::results::Results;
use std::path::Path;

/// The tasks of a run.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// All that are to be run, and those of them that wait for no other answer.
    pub(crate) open: Bits,
    pub(crate) ready: Bits,
    /// Tasks that were answered before.
    pub(crate) earlier: usize,
    /// Reviews of answers that are not there.
    pub(crate) missing: usize,
    /// Answers of earlier runs, those of them to another request, and one of these.
    pub(crate) answers: usize,
    pub(crate) changed: usize,
    pub(crate) example: Option<String>,
    /// Items whose line in the output would be another one, or is not there.
    pub(crate) other_lines: usize,
}

impl Tasks {
    fn open(&mut self, number: usize, is_ready: bool) {
        self.open.insert(number);
        if is_ready {
            self.ready.insert(number);
        }
    }
}

impl Batch {
    /// Finds the tasks that are to be run. Requests that a template may not fit, or that were answered, are built once.
    pub(crate) fn open_tasks(&self, results: &Results, output: &Path) -> Result<Tasks, BatchError> {
        let count = self.number_of(self.items.len(), 0);
        let mut tasks = Tasks {
            open: Bits::new(count),
            ready: Bits::new(count),
            ..Tasks::default()
        };
        if let Some(reviews) = self.reviews.as_ref().filter(|_| !self.items.is_empty()) {
            check_review(reviews, &self.items.item(0)?)?;
        }
        for index in 0..self.items.len() {
            let is_known = self.items.has_answers(index) || results.knows(self, index);
            if !is_known && self.request.body.is_none() && !self.retry_failed {
                self.open_new(index, &mut tasks);
                continue;
            }
            let item = self.items.item(index)?;
            let known = results.of_item(self, index, &item.id)?;
            tasks.other_lines = tasks
                .other_lines
                .saturating_add(usize::from(!known.is_line_of(&item)));
            let had_failed = |number| results.had_failed(number);
            self.open_known(index, &item, &known, had_failed, &mut tasks)?;
        }
        match tasks.example.take() {
            Some(example) if self.on_change == OnChange::Fail => Err(BatchError::Changed {
                path: output.to_owned(),
                changed: tasks.changed,
                answers: tasks.answers,
                example,
            }),
            Some(_) | None => Ok(tasks),
        }
    }

    /// Opens the tasks of an item of which nothing is known.
    fn open_new(&self, index: usize, tasks: &mut Tasks) {
        tasks.other_lines = tasks.other_lines.saturating_add(1);
        for (number, column) in (self.number_of(index, 0)..).zip(&self.columns) {
            let reviewed = column
                .reviewed
                .and_then(|reviewed| self.columns.get(reviewed));
            match (column.is_asked, reviewed) {
                (false, _) => {}
                (true, None) => tasks.open(number, true),
                (true, Some(reviewed)) if reviewed.is_asked => tasks.open(number, false),
                (true, Some(_)) => tasks.missing = tasks.missing.saturating_add(1),
            }
        }
    }

    /// Opens the tasks of an item that have no answer to their request.
    fn open_known(
        &self,
        index: usize,
        item: &Item,
        known: &ItemResults,
        had_failed: impl Fn(usize) -> bool,
        tasks: &mut Tasks,
    ) -> Result<(), BatchError> {
        for (at, column) in self
            .columns
            .iter()
            .enumerate()
            .filter(|(_, it)| it.is_asked)
        {
            let (number, name) = (self.number_of(index, at), self.name_of(index, at));
            let request = match column.reviewed.zip(self.reviewed_by(index, at)) {
                None => self.request.request(item, &name.model)?,
                Some((reviewed, _)) if tasks.open.contains(self.number_of(index, reviewed)) => {
                    tasks.open(number, false);
                    continue;
                }
                Some((_, (reviews, reviewed))) => match known.answer(item, &reviewed) {
                    Some(answer) => match self.request.review(reviews, item, answer, &name) {
                        Ok(request) => request,
                        // The template does not fit this answer, which fails the task and no other.
                        Err(_) if known.answer(item, &name).is_none() => {
                            tasks.open(number, true);
                            continue;
                        }
                        Err(_) => {
                            tasks.earlier = tasks.earlier.saturating_add(1);
                            continue;
                        }
                    },
                    None => {
                        tasks.missing = tasks.missing.saturating_add(1);
                        continue;
                    }
                },
            };
            let found = known.find(item, &name, &request.fingerprint());
            tasks.answers = tasks
                .answers
                .saturating_add(usize::from(found != Found::Nothing));
            let is_wanted =
                !self.retry_failed || known.has_failed(item, &name) || had_failed(number);
            let is_open = match found {
                Found::Nothing => is_wanted,
                Found::Answer => false,
                Found::Changed => {
                    tasks.changed = tasks.changed.saturating_add(1);
                    let example = || format!("item {}, model {name}", item.id);
                    tasks.example.get_or_insert_with(example);
                    self.on_change == OnChange::Redo && is_wanted
                }
            };
            if is_open {
                tasks.open(number, true);
            } else if found != Found::Nothing {
                tasks.earlier = tasks.earlier.saturating_add(1);
            }
        }
        Ok(())
    }
}
