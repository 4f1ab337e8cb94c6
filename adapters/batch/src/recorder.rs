//! The end of each task: its answer or failure, on the way to the output.
//!
//! Invariant: a task is counted once its answer is in the journal, and the first error of a file ends the run.

use crate::answer::{Attempt, failure};
use crate::batch::Batch;
use crate::error::BatchError;
use crate::input::Item;
use crate::journal::TaskEnd;
use crate::lock;
use crate::progress::Counter;
use crate::queue::Task;
use crate::report::FailedTask;
use crate::results::Results;
use serde_json::Value;
use std::sync::{Mutex, PoisonError};

pub(crate) struct Recorder<'a> {
    batch: &'a Batch,
    counter: &'a Counter,
    results: Mutex<Results>,
    first_failure: Mutex<Option<FailedTask>>,
    /// The first error of journal or charges.
    write_error: Mutex<Option<BatchError>>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(batch: &'a Batch, counter: &'a Counter, results: Results) -> Self {
        Self {
            batch,
            counter,
            results: Mutex::new(results),
            first_failure: Mutex::new(None),
            write_error: Mutex::new(None),
        }
    }

    /// Records the answer of a task.
    pub(crate) fn answer(&self, task: &Task, attempt: Attempt, hash: &str) {
        let (item, model) = task.names(self.batch);
        let answer = attempt.into_answer(item, hash, self.batch.keep_full);
        if self.record(item, model, TaskEnd::Answer(answer)) {
            self.counter.add_ok();
        }
    }

    /// Records that a task failed for good. `remains` is what came from the service.
    pub(crate) fn failure(
        &self,
        task: &Task,
        reason: &str,
        status: Option<u16>,
        remains: Option<Value>,
    ) {
        let (item, model) = task.names(self.batch);
        lock(&self.first_failure).get_or_insert_with(|| FailedTask {
            item: item.id.clone(),
            model: model.to_owned(),
            reason: reason.to_owned(),
        });
        let failure = failure(item, reason, status, remains);
        self.record(item, model, TaskEnd::Failure(failure));
        self.counter.add_failed();
    }

    fn record(&self, item: &Item, model: &str, end: TaskEnd) -> bool {
        let recorded = lock(&self.results).record(item, model, end);
        recorded.map_err(|error| self.keep_error(error)).is_ok()
    }

    /// Whether a file could not be written.
    pub(crate) fn has_failed(&self) -> bool {
        lock(&self.write_error).is_some()
    }

    /// Keeps an error of a file for the end, unless there is one.
    pub(crate) fn keep_error(&self, error: BatchError) {
        lock(&self.write_error).get_or_insert(error);
    }

    /// Writes the output; returns the first failure of a task, or the first error of a file.
    pub(crate) fn finish(self) -> Result<Option<FailedTask>, BatchError> {
        let results = self.results.into_inner();
        let results = results.unwrap_or_else(PoisonError::into_inner);
        let written = results.finish(&self.batch.items, &self.batch.models);
        let write_error = self.write_error.into_inner();
        match write_error.unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => written.map(|()| {
                let first = self.first_failure.into_inner();
                first.unwrap_or_else(PoisonError::into_inner)
            }),
        }
    }
}
