//! The end of each task: its answer or failure, on the way to the output.
//!
//! Invariant: a task is counted once its answer is in the journal, and the first error of a file ends the run.

use crate::answer::{Attempt, failure};
use crate::batch::Batch;
use crate::error::BatchError;
use crate::figures::Figures;
use crate::input::Item;
use crate::journal::TaskEnd;
use crate::load::Load;
use crate::lock;
use crate::progress::Counter;
use crate::queue::Task;
use crate::report::FailedTask;
use crate::request::TaskRequest;
use crate::results::Results;
use leasehold_protocol::verdict::Kind;
use serde_json::Value;
use std::sync::{Mutex, OnceLock, PoisonError};

pub(crate) struct Recorder<'a> {
    batch: &'a Batch,
    counter: &'a Counter,
    load: &'a Load,
    figures: &'a Figures,
    results: Mutex<Results>,
    /// Why the run was halted.
    halted: OnceLock<String>,
    /// The first error of journal or charges.
    write_error: Mutex<Option<BatchError>>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(
        batch: &'a Batch,
        counter: &'a Counter,
        load: &'a Load,
        figures: &'a Figures,
        results: Results,
    ) -> Self {
        Self {
            batch,
            counter,
            load,
            figures,
            results: Mutex::new(results),
            halted: OnceLock::new(),
            write_error: Mutex::new(None),
        }
    }

    /// Records the answer of a task.
    pub(crate) fn answer(&self, task: &Task, item: &Item, attempt: Attempt, hash: &str) {
        let answer = attempt.into_answer(item, hash, self.batch.keep_full);
        if self.record(task.number, item, TaskEnd::Answer(answer)) {
            self.counter.add_ok();
            self.count_end(task.number);
        }
    }

    fn count_end(&self, number: usize) {
        let (item, column) = self.batch.place_of(number);
        self.load.end(self.batch.model_of(item, column));
    }

    /// Whether the run is halted, because enough tasks have ended and others are left.
    pub(crate) fn is_halted(&self) -> bool {
        let (tasks, ok, failed) = (
            self.counter.tasks(),
            self.counter.ok(),
            self.counter.failed(),
        );
        let halt = self
            .batch
            .halt
            .filter(|_| ok.saturating_add(failed) < tasks);
        if let Some(reason) = halt.and_then(|halt| halt.reason(tasks, ok, failed)) {
            let _ = self.halted.set(reason);
        }
        self.halted.get().is_some()
    }

    /// Records that a task failed for good: with the kind of its last answer, if there was one, and its last attempt, if
    /// that ends it.
    pub(crate) fn failure(
        &self,
        number: usize,
        item: &Item,
        reason: &str,
        kind: Option<Kind>,
        attempt: Option<Attempt>,
    ) {
        let (index, column) = self.batch.place_of(number);
        let task = FailedTask {
            item: item.id.clone(),
            model: self.batch.name_of(index, column).to_string(),
            reason: reason.to_owned(),
        };
        self.figures.failed(task, kind);
        let status = attempt.as_ref().and_then(|attempt| attempt.verdict.status);
        let status = status.map(|status| status.as_u16());
        let remains = attempt.and_then(Attempt::into_remains);
        let failure = failure(item, reason, status, remains);
        self.record(number, item, TaskEnd::Failure(failure));
        self.counter.add_failed();
        self.count_end(number);
        let reason = "not reviewed, because the answer to review is not there";
        for review in self.reviews_of(number) {
            self.failure(review, item, reason, None, None);
        }
    }

    fn record(&self, number: usize, item: &Item, end: TaskEnd) -> bool {
        let recorded = lock(&self.results).record(self.batch, number, item, end);
        recorded.map_err(|error| self.keep_error(error)).is_ok()
    }

    /// The tasks that review the answer of a task, and have not ended.
    pub(crate) fn reviews_of(&self, number: usize) -> Vec<usize> {
        let (item, column) = self.batch.place_of(number);
        let reviews = self.batch.reviews_of(column);
        let mut reviews: Vec<_> = reviews
            .map(|column| self.batch.number_of(item, column))
            .collect();
        if !reviews.is_empty() {
            let results = lock(&self.results);
            reviews.retain(|number| results.is_open(*number));
        }
        reviews
    }

    /// Builds the request of a task; says why the templates don't fit, if they don't.
    ///
    /// # Errors
    /// A file of results can't be read.
    pub(crate) fn request(
        &self,
        number: usize,
        item: &Item,
    ) -> Result<Result<TaskRequest, BatchError>, BatchError> {
        let (index, column) = self.batch.place_of(number);
        let name = self.batch.name_of(index, column);
        let Some((reviews, reviewed)) = self.batch.reviewed_by(index, column) else {
            return Ok(self.batch.request.request(item, &name.model));
        };
        let known = lock(&self.results).of_item(self.batch, index, &item.id)?;
        let answer = known.answer(item, &reviewed);
        let answer = answer.unwrap_or(&Value::Null);
        Ok(self.batch.request.review(reviews, item, answer, &name))
    }

    /// Whether a file could not be written.
    pub(crate) fn has_failed(&self) -> bool {
        lock(&self.write_error).is_some()
    }

    /// Keeps an error of a file for the end, unless there is one.
    pub(crate) fn keep_error(&self, error: BatchError) {
        lock(&self.write_error).get_or_insert(error);
    }

    /// Writes the output; returns why the run was halted, if it was.
    ///
    /// # Errors
    /// The first error of a file.
    pub(crate) fn finish(self) -> Result<Option<String>, BatchError> {
        let results = self.results.into_inner();
        let results = results.unwrap_or_else(PoisonError::into_inner);
        let written = results.finish(self.batch);
        let write_error = self.write_error.into_inner();
        match write_error.unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => written.map(|()| self.halted.into_inner()),
        }
    }
}
