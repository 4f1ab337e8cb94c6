//! The worker loop: take a task, lease a key, call, release, then record the answer or retry.
//!
//! Invariant: each attempt has a lease of its own, released with what the service saw of it, so that retries
//! stay within the limits too. `leasehold-core` decides whether and when a task is retried.

use crate::batch::Batch;
use crate::error::BatchError;
use crate::input::Item;
use crate::lock;
use crate::progress::Counter;
use crate::queue::{Queue, Task};
use crate::report::{FailedTask, KeySummary, Summary};
use crate::results::Results;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use leasehold_core::limit::Cost;
use leasehold_core::pool::{Outcome, Release, Request};
use leasehold_core::retry::AttemptFailure;
use leasehold_http::{CallError, ChatCompletion, ChatRequest, Client};
use leasehold_protocol::verdict::{Fate, Next, Outcome as Judged, Pause, Tally};
use leasehold_sync::{Lease, PendingLease, SyncPool};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Pause of a throttled key if the service names no wait.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Run<'a> {
    batch: &'a Batch,
    client: Client,
    /// The keys; each member's payload is the index of its endpoint.
    pool: &'a SyncPool<usize>,
    queue: &'a Queue,
    /// The most tokens that a call may reserve; `None` where no limit counts tokens.
    token_cap: Option<u32>,
    results: Mutex<Results>,
    counter: Counter,
    /// Flags by endpoint: whether the service rejected its key.
    rejected: Vec<AtomicBool>,
    /// The error that rejected the last remaining key.
    last_key_error: Mutex<Option<String>>,
    first_failure: Mutex<Option<FailedTask>>,
    write_error: Mutex<Option<BatchError>>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        batch: &'a Batch,
        client: Client,
        pool: &'a SyncPool<usize>,
        queue: &'a Queue,
        results: Results,
        counter: Counter,
    ) -> Self {
        let endpoints = batch.endpoints.iter();
        Self {
            batch,
            client,
            pool,
            queue,
            token_cap: batch.token_cap(),
            results: Mutex::new(results),
            counter,
            rejected: endpoints.map(|_| AtomicBool::new(false)).collect(),
            last_key_error: Mutex::new(None),
            first_failure: Mutex::new(None),
            write_error: Mutex::new(None),
        }
    }

    /// Works on `threads` threads until no task is left. If none can be started, the caller's thread works.
    pub(crate) fn run_workers(&self, threads: usize) {
        thread::scope(|scope| {
            let stop_lines = self.counter.write_lines(scope);
            let workers = (0..threads).map_while(|_| {
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
            drop(stop_lines);
        });
    }

    /// Writes the output and sums up. `earlier` is the number of tasks answered by an earlier run.
    pub(crate) fn finish(self, earlier: usize, elapsed: Duration) -> Result<Summary, BatchError> {
        let left = self.queue.drain();
        if let Some(error) = &*lock(&self.last_key_error) {
            for task in &left {
                let reason = format!("no usable key is left; the last one failed with: {error}");
                self.fail(task, reason);
            }
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
        let (tasks, ok, failed) = (batch.task_count(), self.counter.ok(), self.counter.failed());
        let done = earlier.saturating_add(ok).saturating_add(failed);
        let pool = self.pool.stats();
        let endpoints = batch.endpoints.iter().zip(&pool.members);
        let keys = endpoints
            .zip(&self.rejected)
            .map(|((endpoint, member), rejected)| KeySummary {
                key: endpoint.key().to_string(),
                calls: member.counts.calls(),
                rejected: rejected.load(Ordering::SeqCst),
            });
        let first_failure = self.first_failure.into_inner();
        Ok(Summary {
            tasks,
            earlier,
            ok,
            failed,
            unfinished: tasks.saturating_sub(done),
            elapsed,
            first_failure: first_failure.unwrap_or_else(PoisonError::into_inner),
            keys: keys.collect(),
            pool,
            client: self.client.stats(),
        })
    }

    fn work(&self) {
        let _guard = CloseOnPanic(self);
        while let Some(task) = self.queue.next() {
            let item = &self.batch.items[task.item];
            let request_cost = self.max_cost(item);
            let request = Request::new().cost(request_cost);
            let lease = self.pool.enqueue(request).and_then(PendingLease::wait);
            let Ok(lease) = lease else {
                self.queue.requeue(task, Duration::ZERO);
                return;
            };
            let mut request = ChatRequest::user(&self.batch.models[task.model], &item.prompt);
            request.max_tokens = Some(self.batch.max_tokens);
            match self.client.chat(&self.batch.endpoints[*lease], &request) {
                Ok(answer) => {
                    // These leases have no time to live, so they can't have expired.
                    let _ =
                        lease.release(Release::from(Outcome::Ok).cost(cost(&answer, request_cost)));
                    self.record(&task, &answer);
                    self.queue.finish();
                }
                Err(error) => {
                    if error.rejects_key() {
                        self.reject_key(&lease, &error);
                    }
                    release_failed(lease, &error, request_cost);
                    self.retry_or_fail(task, &error);
                }
            }
        }
    }

    /// The most that a call may cost: a request, and the tokens of its prompt (a quarter of its bytes) and of the
    /// longest answer, within the cap.
    fn max_cost(&self, item: &Item) -> Cost {
        let prompt = u32::try_from(item.prompt.len().div_ceil(4)).unwrap_or(u32::MAX);
        let most = prompt.saturating_add(self.batch.max_tokens);
        Cost {
            requests: 1,
            tokens: self.token_cap.map_or(0, |cap| most.min(cap)),
        }
    }

    fn record(&self, task: &Task, answer: &ChatCompletion) {
        let (item, model) = self.names(task);
        let value = serde_json::to_value(answer).unwrap_or_default();
        let recorded = lock(&self.results).record(item, model, value);
        match recorded {
            Ok(()) => self.counter.add_ok(),
            Err(error) => {
                lock(&self.write_error).get_or_insert(error);
                self.close();
            }
        }
    }

    /// Takes a rejected key out of use; the last one ends the batch.
    fn reject_key(&self, lease: &Lease<usize>, error: &CallError) {
        self.rejected[**lease].store(true, Ordering::SeqCst);
        // A leased member can't have been removed.
        let _ = self.pool.disable(lease.member());
        if self.rejected.iter().all(|it| it.load(Ordering::SeqCst)) {
            *lock(&self.last_key_error) = Some(error.to_string());
            self.close();
        }
    }

    fn retry_or_fail(&self, mut task: Task, error: &CallError) {
        let failure = classify(error);
        let Some(delay) = task.retry.delay_after(failure) else {
            self.fail(&task, error.to_string());
            self.queue.finish();
            return;
        };
        // A throttled key pauses in the pool instead; another key may serve the task at once.
        let asked = match failure {
            AttemptFailure::Failed => error.retry_after().unwrap_or_default(),
            AttemptFailure::Throttled
            | AttemptFailure::MemberUnusable
            | AttemptFailure::Permanent => Duration::ZERO,
        };
        self.queue.requeue(task, delay.max(asked));
    }

    fn fail(&self, task: &Task, reason: String) {
        let (item, model) = self.names(task);
        lock(&self.first_failure).get_or_insert_with(|| FailedTask {
            item: item.id.clone(),
            model: model.to_owned(),
            reason: reason.clone(),
        });
        lock(&self.results).record_failure(item, model, reason);
        self.counter.add_failed();
    }

    fn names(&self, task: &Task) -> (&Item, &str) {
        let batch = self.batch;
        (&batch.items[task.item], &batch.models[task.model])
    }

    fn close(&self) {
        self.queue.close();
        self.pool.close();
    }
}

/// The real cost of a call; what was reserved if the answer does not say.
fn cost(answer: &ChatCompletion, reserved: Cost) -> Cost {
    let tokens = answer.total_tokens();
    Cost {
        requests: 1,
        tokens: tokens.map_or(reserved.tokens, |tokens| {
            u32::try_from(tokens).unwrap_or(u32::MAX)
        }),
    }
}

fn classify(error: &CallError) -> AttemptFailure {
    let verdict = error.verdict();
    match verdict.next {
        _ if verdict.fate == Fate::Reject => AttemptFailure::MemberUnusable,
        _ if verdict.outcome == Judged::Throttled => AttemptFailure::Throttled,
        Next::RetryAfter { .. }
        | Next::OtherMember {
            tally: Tally::Attempt,
        } => AttemptFailure::Failed,
        Next::OtherMember { .. } => AttemptFailure::MemberUnusable,
        Next::Done | Next::GiveUp | Next::Stop => AttemptFailure::Permanent,
    }
}

fn release_failed(lease: Lease<usize>, error: &CallError, reserved: Cost) {
    let verdict = error.verdict();
    let cost = verdict.cost(reserved);
    // These leases have no time to live, so they can't have expired.
    let _ = match verdict.outcome {
        Judged::Throttled => {
            let told = match verdict.fate {
                Fate::Rest(Pause::Told(wait)) => wait,
                Fate::Rest(Pause::Rate | Pause::Overload)
                | Fate::Keep
                | Fate::Reject
                | Fate::TooSmall => DEFAULT_PAUSE,
            };
            lease.release_throttled(told)
        }
        Judged::Ok => lease.release(Release::from(Outcome::Ok).cost(cost)),
        // Not charged to any limit if it was not sent, but counted as a failure of the endpoint.
        Judged::Failed => lease.release(Release::from(Outcome::Failed).cost(cost)),
        Judged::Unknown => lease.release(Release::from(Outcome::Unknown).cost(cost)),
        Judged::NotSent => lease.release(Outcome::NotSent),
    };
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
