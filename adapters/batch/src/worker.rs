//! The worker loop: take a task, lease a key, write the charge, call, release, then record the answer or retry.
//!
//! Invariant: each attempt has a lease of its own, released with what the service saw of it, so that retries stay
//! within the limits too. What an answer means is decided by `leasehold-protocol`.

use crate::account::{KeyPool, Slot};
use crate::answer::{Attempt, failure};
use crate::batch::Batch;
use crate::charges::Charges;
use crate::error::BatchError;
use crate::input::Item;
use crate::lock;
use crate::members::{Called, Members, Step, outcome_of};
use crate::progress::Counter;
use crate::queue::{Queue, Task};
use crate::report::{FailedTask, KeySummary, Summary};
use crate::request::TaskRequest;
use crate::results::Results;
use crate::warmup::Warmup;
use crate::watch::watch;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;
use http::HeaderMap;
use leasehold_core::limit::Cost;
use leasehold_core::pool::{Charge, Outcome, Release, Request};
use leasehold_http::{CallEvent, Client};
use leasehold_protocol::estimate_most;
use leasehold_protocol::verdict::{Fate, Next, Outcome as Judged, Tally};
use leasehold_sync::{AcquireError, Lease, PendingLease};
use serde_json::Value;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Tokens reserved for an answer without a limit, before any has told its size.
const FIRST_OUTPUT: u32 = 1_024;

pub(crate) struct Run<'a> {
    batch: &'a Batch,
    client: &'a Client,
    keys: &'a KeyPool,
    queue: &'a Queue,
    members: &'a Members<'a>,
    counter: &'a Counter,
    warmup: &'a Warmup,
    charges: Option<Mutex<Charges>>,
    results: Mutex<Results>,
    /// By model: the most tokens of an answer so far.
    outputs: Vec<AtomicU32>,
    in_flight: AtomicUsize,
    /// Tasks of models that no service has.
    skipped: Mutex<Vec<Task>>,
    first_failure: Mutex<Option<FailedTask>>,
    write_error: Mutex<Option<BatchError>>,
}

/// The parts of a run that outlive its threads.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) batch: &'a Batch,
    pub(crate) client: &'a Client,
    pub(crate) keys: &'a KeyPool,
    pub(crate) queue: &'a Queue,
    pub(crate) members: &'a Members<'a>,
    pub(crate) counter: &'a Counter,
    pub(crate) warmup: &'a Warmup,
}

impl<'a> Run<'a> {
    pub(crate) fn new(parts: Parts<'a>, results: Results, charges: Option<Charges>) -> Self {
        let Parts {
            batch,
            client,
            keys,
            queue,
            members,
            counter,
            warmup,
        } = parts;
        Self {
            batch,
            client,
            keys,
            queue,
            members,
            counter,
            warmup,
            charges: charges.map(Mutex::new),
            results: Mutex::new(results),
            outputs: batch.models.iter().map(|_| AtomicU32::new(0)).collect(),
            in_flight: AtomicUsize::new(0),
            skipped: Mutex::default(),
            first_failure: Mutex::new(None),
            write_error: Mutex::new(None),
        }
    }

    /// Works with `count` threads, or as many as the system allows, until no task is left or the queue is closed.
    pub(crate) fn run_workers(&self, count: usize) {
        thread::scope(|scope| {
            let stop_lines = self.counter.write_lines(scope);
            let pool = &self.keys.pool;
            let stop_watch = watch(scope, self.members, self.counter, pool, &self.in_flight);
            let workers = (0..count).map_while(|_| {
                thread::Builder::new()
                    .spawn_scoped(scope, || self.work())
                    .ok()
            });
            let workers: Vec<_> = workers.collect();
            if workers.is_empty() {
                self.work();
            }
            for worker in workers {
                if let Err(panic) = worker.join() {
                    std::panic::resume_unwind(panic);
                }
            }
            drop((stop_lines, stop_watch));
        });
    }

    /// Writes the output and sums up. `earlier` is the number of tasks answered by an earlier run.
    pub(crate) fn finish(self, earlier: usize, elapsed: Duration) -> Result<Summary, BatchError> {
        self.fail_the_rest();
        if let Err(error) = self.write_charges() {
            lock(&self.write_error).get_or_insert(error);
        }
        self.counter.clear();
        let batch = self.batch;
        let results = self.results.into_inner();
        let written = results
            .unwrap_or_else(PoisonError::into_inner)
            .finish(&batch.items, &batch.models);
        let write_error = self.write_error.into_inner();
        if let Some(error) = write_error.unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        written?;
        let (ok, failed) = (self.counter.ok(), self.counter.failed());
        let tasks = batch.pairs().count();
        let done = earlier.saturating_add(ok).saturating_add(failed);
        let keys = batch.upstreams.iter().enumerate();
        let keys = keys.map(|(index, upstream)| KeySummary {
            key: upstream.endpoint.key().to_string(),
            calls: self.members.calls(index),
            rejected: self.members.is_rejected(index),
        });
        let first_failure = self.first_failure.into_inner();
        Ok(Summary {
            tasks,
            earlier,
            ok,
            failed,
            unfinished: tasks.saturating_sub(done),
            elapsed,
            stopped: self.members.stopped(),
            first_failure: first_failure.unwrap_or_else(PoisonError::into_inner),
            keys: keys.collect(),
            pool: self.keys.pool.stats(),
            client: self.client.stats(),
        })
    }

    /// Reports the last errors of tasks that will not be tried again.
    fn fail_the_rest(&self) {
        let mut left = core::mem::take(&mut *lock(&self.skipped));
        let queued = self.queue.drain();
        let key_error = self.members.last_key_error();
        if self.members.is_over() {
            left.extend(queued);
        }
        for task in left {
            let reason = match (&key_error, &task.last_error) {
                (Some(error), _) => {
                    format!("no usable key is left; the last one failed with: {error}")
                }
                (None, Some(error)) => error.clone(),
                (None, None) => continue,
            };
            self.fail(&task, &reason, None, None);
        }
    }

    fn work(&self) {
        let _guard = CloseOnPanic(self);
        while let Some(task) = self.queue.next() {
            let permit = self.warmup.enter();
            if self.members.is_wrong_model(task.model) {
                lock(&self.skipped).push(task);
                self.queue.finish();
                continue;
            }
            let goes_on = self.attempt(task);
            drop(permit);
            if !goes_on {
                self.close();
                return;
            }
        }
    }

    /// Makes one attempt at a task; `false` if the pool is closed.
    fn attempt(&self, task: Task) -> bool {
        let (item, model) = self.names(&task);
        let request = match self.batch.request.request(item, model) {
            Ok(request) => request,
            // All requests were built before, so only a change of the program gets here.
            Err(error) => {
                self.fail(&task, &error.to_string(), None, None);
                self.queue.finish();
                return true;
            }
        };
        let cost = self.max_cost(&task, &request);
        let lease = match self.lease(&task, cost) {
            Ok(lease) => lease,
            Err(AcquireError::NeverFits) => {
                let reason = "the request costs more than a limit ever admits; see --limit";
                self.fail(&task, reason, None, None);
                self.queue.finish();
                return true;
            }
            Err(_) => {
                self.queue.requeue(task, Duration::ZERO);
                return false;
            }
        };
        if self.members.is_wrong_model(task.model) {
            // A lease without a time to live can't have expired.
            let _ = lease.release(Outcome::NotSent);
            self.queue.requeue(task, Duration::ZERO);
            return true;
        }
        if let Err(error) = self.write_charges() {
            let _ = lease.release(Outcome::NotSent);
            lock(&self.write_error).get_or_insert(error);
            self.queue.requeue(task, Duration::ZERO);
            return false;
        }
        self.call(task, &request, lease, cost);
        if let Err(error) = self.write_charges() {
            lock(&self.write_error).get_or_insert(error);
            return false;
        }
        !self.members.is_over()
    }

    fn lease(&self, task: &Task, cost: Cost) -> Result<Lease<Slot>, AcquireError> {
        let class = u32::try_from(task.model).unwrap_or(u32::MAX);
        let request = Request::new()
            .cost(cost)
            // A charge tells its model by the class.
            .class(class.saturating_add(1))
            .labels(self.keys.labels(task.model));
        self.keys.pool.enqueue(request).and_then(PendingLease::wait)
    }

    /// Calls, and sees to what follows from the answer.
    fn call(&self, task: Task, request: &TaskRequest, lease: Lease<Slot>, cost: Cost) {
        let upstream = self.members.pick(&lease);
        let endpoint = &self.batch.upstreams[upstream].endpoint;
        let began = self.keys.pool.now();
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let mut on_event = |event: CallEvent<'_>| {
            if let CallEvent::Arrived { .. } = event {
                let _ = lease.arrived();
            }
        };
        let sent = self.client.send_with_events(
            endpoint,
            &request.path,
            &request.body,
            &HeaderMap::new(),
            &mut on_event,
        );
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        let attempt = Attempt::new(sent, endpoint);
        let verdict = &attempt.verdict;
        if let Some(used) = verdict.usage.and_then(|usage| usage.completion_tokens) {
            let used = u32::try_from(used).unwrap_or(u32::MAX);
            self.outputs[task.model].fetch_max(used, Ordering::Relaxed);
        }
        let release = Release::from(outcome_of(verdict)).cost(verdict.cost(cost));
        let step = self.members.conclude(
            lease,
            Called {
                began,
                model: task.model,
                upstream,
                verdict,
                text: &attempt.text,
                release,
            },
        );
        if attempt.is_answer() {
            self.warmup.open();
            self.record(&task, attempt, &request.fingerprint());
            self.queue.finish();
            return;
        }
        if verdict.outcome == Judged::Ok {
            // The service has read the request: URL and model are right.
            self.warmup.open();
        } else {
            self.warmup.fail();
        }
        self.retry_or_fail(task, attempt, step);
    }

    /// The most that a call may cost: a request, and the tokens of its prompt and of the longest answer, within the
    /// cap.
    fn max_cost(&self, task: &Task, request: &TaskRequest) -> Cost {
        let Some(cap) = self.keys.token_cap(task.model) else {
            return Cost::REQUEST;
        };
        let seen = self.outputs[task.model].load(Ordering::Relaxed);
        let output = if seen == 0 { FIRST_OUTPUT } else { seen };
        let model = &self.batch.models[task.model];
        Cost {
            requests: 1,
            tokens: estimate_most(model, &request.body, output).min(cap),
        }
    }

    /// Writes the charges of leases that were granted or ended since.
    fn write_charges(&self) -> Result<(), BatchError> {
        let Some(charges) = &self.charges else {
            return Ok(());
        };
        // Under the lock, so that a charge that another thread has taken is written before this returns.
        let mut charges = lock(charges);
        charges.write(self.keys.pool.take_charges(), |charge| {
            let (member, class, turn) = match charge {
                Charge::Granted {
                    member,
                    class,
                    lease,
                    ..
                } => (*member, *class, *lease),
                Charge::Observed { member, .. } => (*member, 0, 0),
                Charge::Arrived { .. } | Charge::Ended { .. } | Charge::Block { .. } => {
                    return None;
                }
            };
            let log = self.keys.log_of(member, turn)?;
            let model = usize::try_from(class).ok()?.checked_sub(1);
            let model = model.and_then(|model| self.batch.models.get(model));
            Some((log, model.cloned().unwrap_or_default()))
        })
    }

    fn record(&self, task: &Task, attempt: Attempt, hash: &str) {
        let (item, model) = self.names(task);
        let answer = attempt.into_answer(item, hash, self.batch.keep_full);
        let recorded = lock(&self.results).record(item, model, answer);
        match recorded {
            Ok(()) => self.counter.add_ok(),
            Err(error) => {
                lock(&self.write_error).get_or_insert(error);
                self.close();
            }
        }
    }

    fn retry_or_fail(&self, mut task: Task, attempt: Attempt, step: Step) {
        let counts = |tally: Tally| match tally {
            Tally::Attempt => true,
            Tally::Free => false,
            Tally::AttemptUnlessOutage => step.is_up,
        };
        let has_other = self.keys.members.len() > 1;
        let (wait, is_counted, is_last) = match step.next {
            Next::RetryAfter { wait, tally } => (wait, counts(tally), false),
            Next::OtherMember { tally } => {
                let is_counted = counts(tally);
                (Duration::ZERO, is_counted, is_counted && !has_other)
            }
            // The services are asked only a few times, so that this ends.
            Next::Stop => (Duration::ZERO, false, false),
            Next::Done | Next::GiveUp => (Duration::ZERO, true, true),
        };
        if is_counted {
            task.attempts = task.attempts.saturating_add(1);
        }
        if is_last || task.attempts >= self.batch.max_attempts.get() {
            let status = attempt.verdict.status.map(|status| status.as_u16());
            let text = attempt.text.clone();
            self.fail(&task, &text, status, attempt.into_remains());
            self.queue.finish();
            return;
        }
        task.last_error = Some(attempt.text);
        // A member that rests delays the task by itself, and another may serve it at once.
        let delay = if step.rests && !is_counted {
            wait
        } else if attempt.verdict.fate == Fate::Reject {
            Duration::ZERO
        } else {
            wait.max(task.backoff.next_delay())
        };
        self.queue.requeue(task, delay);
    }

    fn fail(&self, task: &Task, reason: &str, status: Option<u16>, remains: Option<Value>) {
        let (item, model) = self.names(task);
        lock(&self.first_failure).get_or_insert_with(|| FailedTask {
            item: item.id.clone(),
            model: model.to_owned(),
            reason: reason.to_owned(),
        });
        let failure = failure(item, reason, status, remains);
        lock(&self.results).record_failure(item, model, failure);
        self.counter.add_failed();
    }

    fn names(&self, task: &Task) -> (&'a Item, &'a str) {
        let batch = self.batch;
        (&batch.items[task.item], &batch.models[task.model])
    }

    fn close(&self) {
        self.queue.close();
        self.keys.pool.close();
        self.warmup.open();
    }
}

/// Closes the queue and the pool if its worker panics, so that the other workers end too.
struct CloseOnPanic<'a>(&'a Run<'a>);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
        }
    }
}
