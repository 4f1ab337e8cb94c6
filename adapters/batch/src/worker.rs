//! The worker loop: take a task, lease a key, write the charge, call, release, then record the answer or retry.
//!
//! Invariant: each attempt has a lease of its own, released with what the service saw of it, so that retries stay
//! within the limits too. What an answer means is decided by `leasehold-protocol`.

use crate::answer::Attempt;
use crate::batch::Batch;
use crate::error::BatchError;
use crate::figures::{EndedCall, Figures};
use crate::input::Item;
use crate::job_log::{Job, JobLog};
use crate::load::Load;
use crate::lock;
use crate::progress::Counter;
use crate::queue::{Queue, Taken, Task};
use crate::recorder::Recorder;
use crate::request::TaskRequest;
use crate::source::{Called, Granted, NoLease, Source, Step, outcome_of};
use crate::status::Status;
use crate::warmup::Warmup;
use crate::watch::watch;
use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use http::HeaderMap;
use leasehold_core::limit::Cost;
use leasehold_core::pool::Release;
use leasehold_core::retry::Backoff;
use leasehold_core::time::Tick;
use leasehold_http::{CallError, CallEvent, Client, Endpoint, Reply};
use leasehold_protocol::verdict::{Fate, Kind, Next, Outcome as Judged, Tally};
use leasehold_protocol::{Call, estimate_most, make_streamed};
use leasehold_sync::MemberId;
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::thread;

const BACKOFF_BASE: Duration = Duration::from_millis(500);
const BACKOFF_CAP: Duration = Duration::from_secs(30);
/// Time between two looks at the number of threads that are wanted.
const WORKERS_INTERVAL: Duration = Duration::from_millis(250);
/// Tokens reserved for an answer without a limit, before any has told its size.
pub(crate) const FIRST_OUTPUT: u32 = 1_024;

/// The parts of a run that outlive its threads.
pub(crate) struct Parts<'a, S> {
    pub(crate) batch: &'a Batch,
    pub(crate) client: &'a Client,
    pub(crate) source: &'a S,
    pub(crate) queue: &'a Queue,
    pub(crate) counter: &'a Counter,
    pub(crate) warmup: &'a Warmup,
    pub(crate) load: &'a Load,
    pub(crate) figures: &'a Figures,
    pub(crate) job_log: Option<&'a JobLog>,
}

pub(crate) struct Run<'a, S> {
    parts: Parts<'a, S>,
    recorder: Recorder<'a>,
    /// By model: the most tokens of an answer so far.
    outputs: Vec<AtomicU32>,
    /// Whether there is nothing left to do, so that no thread is needed.
    is_done: AtomicBool,
    /// Tasks of models that no member can serve.
    skipped: Mutex<Vec<Task>>,
}

impl<'a, S: Source> Run<'a, S> {
    pub(crate) fn new(parts: Parts<'a, S>, recorder: Recorder<'a>) -> Self {
        let models = parts.batch.models.iter();
        Self {
            parts,
            recorder,
            outputs: models.map(|_| AtomicU32::new(0)).collect(),
            is_done: AtomicBool::new(false),
            skipped: Mutex::default(),
        }
    }

    /// Works until no task is left or the queue is closed: with `workers` threads, unless another number is set
    /// meanwhile, with no more than `tasks`, and as many as the system allows.
    pub(crate) fn run_workers(&self, workers: usize, tasks: usize, status: Status<'_, S>) {
        let Parts {
            source,
            counter,
            load,
            ..
        } = self.parts;
        thread::scope(|scope| {
            let stop_status = status.tell(scope);
            let stop_watch = watch(scope, source, counter, load, || self.close());
            let wanted = || {
                let set = self.parts.batch.worker_count.get();
                set.map_or(workers, NonZeroUsize::get).min(tasks)
            };
            let (ended, ends) = mpsc::channel();
            let mut threads = Vec::new();
            let mut running = 0_usize;
            loop {
                while running < wanted() && !self.is_done.load(Ordering::SeqCst) {
                    let (number, ended) = (running, ended.clone());
                    let run = move || {
                        // Also told by a panic.
                        let _end = EndOfThread(ended);
                        self.work(|| number < wanted());
                    };
                    let spawned = thread::Builder::new().spawn_scoped(scope, run);
                    let Ok(thread) = spawned else {
                        break;
                    };
                    threads.push(thread);
                    running = running.saturating_add(1);
                }
                if running == 0 {
                    break;
                }
                if ends.recv_timeout(WORKERS_INTERVAL).is_ok() {
                    running = running.saturating_sub(1);
                }
            }
            if threads.is_empty() {
                self.work(|| true);
            }
            let panics = threads.into_iter().filter_map(|thread| thread.join().err());
            let panic = panics.last();
            drop((stop_status, stop_watch));
            if let Some(panic) = panic {
                std::panic::resume_unwind(panic);
            }
        });
    }

    /// Writes what is left to be written; returns why the run was halted, if it was.
    pub(crate) fn finish(self) -> Result<Option<String>, BatchError> {
        self.fail_the_rest();
        self.write_charges();
        self.parts.counter.clear();
        self.recorder.finish()
    }

    /// Reports the last errors of tasks that will not be tried again.
    fn fail_the_rest(&self) {
        let key_error = self.parts.source.last_key_error();
        let is_over = self.parts.source.is_over();
        let skipped = core::mem::take(&mut *lock(&self.skipped));
        let queued = core::iter::from_fn(|| self.parts.queue.take_left().filter(|_| is_over));
        for task in skipped
            .into_iter()
            .chain(queued.map(|taken| self.task(taken)))
        {
            let reason = match (&key_error, &task.last_error) {
                (Some(error), _) => {
                    format!("no usable key is left; the last one failed with: {error}")
                }
                (None, Some(error)) => error.clone(),
                (None, None) => continue,
            };
            self.fail(task.number, &reason, task.last_kind);
        }
    }

    /// Records that a task failed, with the kind of its last answer, if there was one.
    fn fail(&self, number: usize, reason: &str, kind: Option<Kind>) {
        let batch = self.parts.batch;
        match batch.items.item(batch.place_of(number).0) {
            Ok(item) => self.recorder.failure(number, &item, reason, kind, None),
            Err(error) => self.recorder.keep_error(error),
        }
    }

    /// Makes a task of what was taken.
    fn task(&self, taken: Taken) -> Task {
        let number = match taken {
            Taken::Again(task) => return task,
            Taken::First(number) => number,
        };
        let batch = self.parts.batch;
        let (item, column) = batch.place_of(number);
        let seed = batch.seed.wrapping_add(number as u64);
        Task {
            number,
            model: batch.model_of(item, column),
            backoff: Backoff::new(BACKOFF_BASE, BACKOFF_CAP, seed),
            attempts: 0,
            tried: Vec::new(),
            last_error: None,
            last_kind: None,
        }
    }

    /// Works for as long as this thread is wanted.
    fn work(&self, is_wanted: impl Fn() -> bool) {
        let _guard = CloseOnPanic(self);
        while is_wanted() {
            let Some(taken) = self.parts.queue.next() else {
                self.is_done.store(true, Ordering::SeqCst);
                return;
            };
            let task = self.task(taken);
            let permit = self.parts.warmup.enter();
            if self.parts.source.is_unserved(task.model) {
                lock(&self.skipped).push(task);
                self.parts.queue.finish();
                continue;
            }
            let goes_on = self.attempt(task);
            drop(permit);
            if !goes_on || self.recorder.has_failed() || self.recorder.is_halted() {
                self.close();
                return;
            }
        }
    }

    /// Makes one attempt at a task; `false` if the pool is closed.
    fn attempt(&self, task: Task) -> bool {
        let batch = self.parts.batch;
        let item = batch.items.item(batch.place_of(task.number).0);
        let built = item.and_then(|item| {
            let request = self.recorder.request(task.number, &item)?;
            Ok((item, request))
        });
        let (item, request) = match built {
            Ok((item, Ok(request))) => (item, request),
            // A template of reviews may not fit the answer that is reviewed.
            Ok((item, Err(error))) => {
                let reason = error.to_string();
                self.recorder
                    .failure(task.number, &item, &reason, None, None);
                self.parts.queue.finish();
                return true;
            }
            Err(error) => {
                self.recorder.keep_error(error);
                self.parts.queue.finish();
                return false;
            }
        };
        let cost = self.max_cost(&task, &request);
        let waits = self.parts.load.wait();
        let leased = self.parts.source.lease(&task, cost);
        drop(waits);
        match leased {
            Ok(granted) => {
                self.parts.figures.leased(granted.lease.waited());
                self.call(task, &item, &request, granted, cost);
                self.write_charges() && !self.parts.source.is_over()
            }
            Err(refused) => self.unleased(task, &item, refused),
        }
    }

    /// Sees to a task without a lease; `false` if the pool is closed.
    fn unleased(&self, task: Task, item: &Item, refused: NoLease) -> bool {
        let goes_on = match refused {
            NoLease::NeverFits(reason) => {
                self.parts.figures.refused();
                self.recorder
                    .failure(task.number, item, &reason, None, None);
                self.parts.queue.finish();
                return true;
            }
            NoLease::Again => true,
            NoLease::Closed => false,
            NoLease::Unwritten(error) => {
                self.recorder.keep_error(error);
                false
            }
        };
        self.parts.queue.requeue(task, Duration::ZERO);
        goes_on
    }

    /// Calls, and sees to what follows from the answer.
    fn call(
        &self,
        task: Task,
        item: &Item,
        request: &TaskRequest,
        granted: Granted<S::Member>,
        cost: Cost,
    ) {
        let Granted {
            lease,
            upstream,
            endpoint,
        } = granted;
        if task.last_error.is_some() {
            self.parts.figures.retried();
        }
        let (member, source) = (lease.member(), self.parts.source);
        let began = source.now();
        let (sent, in_flight) = self.send(request, &endpoint, || {
            let _ = lease.arrived();
        });
        let attempt = Attempt::new(sent, &endpoint);
        let (verdict, ended) = (&attempt.verdict, source.now());
        self.parts.figures.call(&EndedCall {
            upstream,
            key: &endpoint.key().to_string(),
            verdict,
            began,
            ended,
            in_flight,
        });
        self.log_job(&task, item, request, &endpoint, &attempt, (began, ended));
        if let Some(used) = verdict.usage.and_then(|usage| usage.completion_tokens) {
            let used = u32::try_from(used).unwrap_or(u32::MAX);
            self.outputs[task.model].fetch_max(used, Ordering::Relaxed);
        }
        let release = Release::from(outcome_of(verdict)).cost(verdict.cost(cost));
        let step = source.conclude(
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
            self.parts.warmup.open();
            self.recorder
                .answer(&task, item, attempt, &request.fingerprint());
            for review in self.recorder.reviews_of(task.number) {
                self.parts.queue.add(review);
            }
            self.parts.queue.finish();
            return;
        }
        if verdict.outcome == Judged::Ok {
            // The service has read the request: URL and model are right.
            self.parts.warmup.open();
        } else {
            self.parts.warmup.fail();
        }
        self.retry_or_fail(task, item, attempt, member, step);
    }

    /// Sends a request; returns how many calls were in flight with it, too.
    fn send(
        &self,
        request: &TaskRequest,
        endpoint: &Endpoint,
        arrived: impl Fn(),
    ) -> (Result<Reply, CallError>, usize) {
        let Parts { batch, load, .. } = self.parts;
        let _counted = load.call();
        let in_flight = load.in_flight();
        let mut parts = 0_u64;
        let mut on_event = |event: CallEvent<'_>| match event {
            CallEvent::Arrived { .. } => arrived(),
            CallEvent::Chunk(_) => {
                parts = parts.saturating_add(1);
                load.add_streamed();
            }
            _ => {}
        };
        let (call, mut streamed) = (Call::of_path(&request.path), None);
        if batch.stream && call.can_stream() {
            let body = streamed.insert(request.body.clone());
            make_streamed(call, body);
        }
        let sent = self.parts.client.send_with_events(
            endpoint,
            &request.path,
            streamed.as_ref().unwrap_or(&request.body),
            &HeaderMap::new(),
            &mut on_event,
        );
        load.take_streamed(parts);
        (sent, in_flight)
    }

    /// Adds a line to the log of jobs, if there is one. One that can't be written ends the run.
    fn log_job(
        &self,
        task: &Task,
        item: &Item,
        request: &TaskRequest,
        endpoint: &Endpoint,
        attempt: &Attempt,
        (began, ended): (Tick, Tick),
    ) {
        let Some(log) = self.parts.job_log else {
            return;
        };
        let batch = self.parts.batch;
        let (index, column) = batch.place_of(task.number);
        let added = log.add(&Job {
            number: task.number,
            host: endpoint.url(),
            began: began.since(Tick::ZERO),
            took: ended.since(began),
            sent: request.body.to_string().len(),
            received: attempt.received,
            is_ok: attempt.is_answer(),
            item: &item.id,
            name: &batch.name_of(index, column).to_string(),
        });
        if let Err(error) = added {
            self.recorder.keep_error(error);
        }
    }

    /// The most that a call may cost: a request, and the tokens of its prompt and of the longest answer, within the
    /// cap.
    fn max_cost(&self, task: &Task, request: &TaskRequest) -> Cost {
        let Some(cap) = self.parts.source.token_cap(task.model) else {
            return Cost::REQUEST;
        };
        let seen = self.outputs[task.model].load(Ordering::Relaxed);
        let output = if seen == 0 { FIRST_OUTPUT } else { seen };
        let model = &self.parts.batch.models[task.model];
        Cost {
            requests: 1,
            tokens: estimate_most(model, &request.body, output).min(cap),
        }
    }

    /// Writes the charges of leases that were granted or ended since; `false` if they can't be written.
    fn write_charges(&self) -> bool {
        match self.parts.source.write_charges() {
            Ok(()) => true,
            Err(error) => {
                self.recorder.keep_error(error);
                false
            }
        }
    }

    fn retry_or_fail(
        &self,
        mut task: Task,
        item: &Item,
        attempt: Attempt,
        member: MemberId,
        step: Step,
    ) {
        let counts = |tally: Tally| match tally {
            Tally::Attempt => true,
            Tally::Free => false,
            Tally::AttemptUnlessOutage => step.is_up,
        };
        let (wait, is_counted, is_last) = match step.next {
            Next::RetryAfter { wait, tally } => (wait, counts(tally), false),
            Next::OtherMember { tally } => {
                let is_counted = counts(tally);
                task.tried.push(member);
                let is_last = is_counted && !self.parts.source.has_untried(&task);
                (Duration::ZERO, is_counted, is_last)
            }
            // The services are asked only a few times, so that this ends.
            Next::Stop => (Duration::ZERO, false, false),
            Next::Done | Next::GiveUp => (Duration::ZERO, true, true),
        };
        if is_counted {
            task.attempts = task.attempts.saturating_add(1);
        }
        if is_last || task.attempts >= self.parts.batch.max_attempts.get() {
            let (text, kind) = (attempt.text.clone(), Some(attempt.verdict.kind));
            self.recorder
                .failure(task.number, item, &text, kind, Some(attempt));
            self.parts.queue.finish();
            return;
        }
        task.last_kind = Some(attempt.verdict.kind);
        task.last_error = Some(attempt.text);
        // A member that rests delays the task by itself, and another may serve it at once.
        let delay = if step.rests && !is_counted {
            wait
        } else if attempt.verdict.fate == Fate::Reject {
            Duration::ZERO
        } else {
            wait.max(task.backoff.next_delay())
        };
        self.parts.queue.requeue(task, delay);
    }

    fn close(&self) {
        self.is_done.store(true, Ordering::SeqCst);
        self.parts.queue.close();
        self.parts.source.closer()();
        self.parts.warmup.open();
    }
}

/// Tells that a thread has ended.
struct EndOfThread(Sender<()>);

impl Drop for EndOfThread {
    fn drop(&mut self) {
        // The receiver lives as long as the threads.
        let _ = self.0.send(());
    }
}

/// Closes the queue and the pool if its worker panics, so that the other workers end too.
struct CloseOnPanic<'r, 'a, S: Source>(&'r Run<'a, S>);

impl<S: Source> Drop for CloseOnPanic<'_, '_, S> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
        }
    }
}
