//! Worker threads that take tasks, lease a key for each try, and keep what comes back.
//!
//! Invariant: each try has a lease of its own, given back with what the upstream really saw, so that
//! retries stay within the limits too. What follows from a failure is decided by the core.

use crate::error::BatchError;
use crate::input::Item;
use crate::progress::{Counter, Progress};
use crate::queue::{Queue, Task};
use crate::store::Store;
use core::fmt;
use core::num::{NonZeroU32, NonZeroUsize};
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Anchor, Cost, Rate, SlidingLog};
use leasehold_core::pool::stats::Stats;
use leasehold_core::pool::{Member, Outcome, PoolConfig, Release};
use leasehold_core::retry::{AttemptFailure, Backoff, RetryState};
use leasehold_core::time::Tick;
use leasehold_http::{
    ApiKey, CallError, ChatCompletion, ChatRequest, Client, ClientConfig, ClientStats, Endpoint,
};
use leasehold_sync::{Clock, Lease, SyncPool};
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// How long a key rests that was turned away without being told for how long.
const DEFAULT_REST: Duration = Duration::from_secs(1);
/// How often each key may turn a task away before it is given up.
const THROTTLES_A_KEY: u32 = 50;
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// `min(keys * 2, models * 10)`, and at least one: two calls for each key keep it busy while answers
/// are on their way, and more than ten for each model only queue up behind it.
#[must_use]
pub fn default_workers(keys: usize, models: usize) -> NonZeroUsize {
    let workers = keys.saturating_mul(2).min(models.saturating_mul(10));
    NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN)
}

/// A batch to be run: every item is put to every model.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The items.
    pub items: Vec<Item>,
    /// The models; each once.
    pub models: Vec<String>,
    /// The endpoints, each with a key of its own.
    pub endpoints: Vec<Endpoint>,
    /// How many calls a key may make in how long.
    pub rate: Option<Rate>,
    /// When the window of `rate` counts from.
    pub anchor: Anchor,
    /// How many calls an endpoint takes at once.
    pub concurrency: Option<NonZeroU32>,
    /// How many threads make calls; [`default_workers`] by default.
    pub workers: Option<NonZeroUsize>,
    /// How often a task is tried that fails.
    pub tries: NonZeroU32,
    /// The longest answer that is asked for, in tokens.
    pub max_tokens: u32,
    /// The longest that a call may take.
    pub timeout: Duration,
    /// What backoff delays are drawn from.
    pub seed: u64,
}

impl Batch {
    /// A batch without limits, with three tries a task.
    #[must_use]
    pub fn new(items: Vec<Item>, models: Vec<String>, endpoints: Vec<Endpoint>) -> Self {
        Self {
            items,
            models,
            endpoints,
            rate: None,
            anchor: Anchor::Completion,
            concurrency: None,
            workers: None,
            tries: NonZeroU32::MIN.saturating_add(2),
            max_tokens: ChatRequest::DEFAULT_MAX_TOKENS,
            timeout: Duration::from_secs(600),
            seed: 0,
        }
    }

    /// Runs the batch to its end, or until it is stopped, and joins its results to those in `output`
    /// either way. What is answered there, or in the journal of a run that was killed, is not asked for
    /// again.
    ///
    /// # Errors
    /// Where the keys can't make a pool, `output` is there and holds no results or is in use by another
    /// run, or results can't be written.
    pub fn run(
        &self,
        output: &Path,
        stop: &Stop,
        progress: Progress,
    ) -> Result<Summary, BatchError> {
        let pool = Arc::new(self.pool()?);
        let store = Store::open(output)?;
        let clock = Clock::start();
        let tasks = self.tasks(&store);
        let all = self.items.len().saturating_mul(self.models.len());
        let count = tasks.len();
        let queue = Arc::new(Queue::new(tasks));
        stop.on_stop({
            let (queue, pool) = (Arc::clone(&queue), Arc::clone(&pool));
            move || {
                queue.close();
                pool.close();
            }
        });
        let run = Run {
            batch: self,
            client: Client::new(ClientConfig {
                max_clients: self
                    .endpoints
                    .len()
                    .max(ClientConfig::default().max_clients),
                max_idle_per_agent: self.workers().get(),
                timeout: self.timeout,
                ..ClientConfig::default()
            }),
            pool: &pool,
            queue: &queue,
            store: Mutex::new(store),
            counter: Counter::new(progress, count),
            rejected: self
                .endpoints
                .iter()
                .map(|_| AtomicBool::new(false))
                .collect(),
            last_key_error: Mutex::new(None),
            broken: Mutex::new(None),
        };
        thread::scope(|scope| {
            let over = run.counter.write_lines(scope);
            let workers = (0..self.workers().get().min(count)).map_while(|_| {
                thread::Builder::new()
                    .spawn_scoped(scope, || run.work())
                    .ok()
            });
            // Where the machine has no more threads, those that there are do the work.
            let workers: Vec<_> = workers.collect();
            if workers.is_empty() {
                run.work();
            }
            for worker in workers {
                // A worker's panic is this thread's.
                if let Err(panic) = worker.join() {
                    std::panic::resume_unwind(panic);
                }
            }
            drop(over);
        });
        run.finish(all.saturating_sub(count), clock.now().since(Tick::ZERO))
    }

    fn workers(&self) -> NonZeroUsize {
        let default = || default_workers(self.endpoints.len(), self.models.len());
        self.workers.unwrap_or_else(default)
    }

    /// Whether two endpoints are one: the service would count both for the same key.
    fn name(endpoint: &Endpoint) -> (&str, &ApiKey) {
        (endpoint.chat_url(), endpoint.key())
    }

    /// A pool whose members are the places of the endpoints in their list.
    fn pool(&self) -> Result<SyncPool<usize>, BatchError> {
        let mut seen = HashSet::new();
        let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let label = endpoint.key();
            if !seen.insert(Self::name(endpoint)) {
                let problem = format!("the key {label} is given twice for {}", endpoint.url());
                return Err(BatchError::Keys(problem));
            }
            let mut member = Member::new(index);
            if let Some(Rate { limit, window }) = self.rate {
                let log = SlidingLog::new(limit, window, self.anchor);
                member = member.limit(log.map_err(|error| BatchError::Keys(error.to_string()))?);
            }
            if let Some(concurrency) = self.concurrency {
                member = member.max_leases(concurrency);
            }
            pool.add(member)
                .map_err(|error| BatchError::Keys(error.to_string()))?;
        }
        if self.endpoints.is_empty() {
            return Err(BatchError::Keys("there is no key".to_owned()));
        }
        Ok(pool)
    }

    fn tasks(&self, store: &Store) -> Vec<Task> {
        let keys = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
        let throttles = THROTTLES_A_KEY.saturating_mul(keys);
        let mut tasks = Vec::new();
        for (item, fields) in self.items.iter().enumerate() {
            for (model, name) in self.models.iter().enumerate() {
                if !store.has(fields, name) {
                    let seed = self.seed.wrapping_add(tasks.len() as u64);
                    let backoff = Backoff::new(BACKOFF.0, BACKOFF.1, seed);
                    let tries = RetryState::new(self.tries, throttles, backoff);
                    tasks.push(Task { item, model, tries });
                }
            }
        }
        tasks
    }
}

/// Ends a batch before its time. Clones stop the same batch.
#[derive(Clone, Default)]
pub struct Stop {
    inner: Arc<StopInner>,
}

#[derive(Default)]
struct StopInner {
    requested: AtomicBool,
    action: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Stop {
    /// Lets calls that are under way end, makes no more, and lets the batch write out what it has.
    pub fn stop(&self) {
        self.inner.requested.store(true, Ordering::SeqCst);
        if let Some(action) = &*lock(&self.inner.action) {
            action();
        }
    }

    /// Whether it was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.inner.requested.load(Ordering::SeqCst)
    }

    fn on_stop(&self, action: impl Fn() + Send + 'static) {
        let mut slot = lock(&self.inner.action);
        if self.is_requested() {
            action();
        }
        *slot = Some(Box::new(action));
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop")
            .field("requested", &self.is_requested())
            .finish_non_exhaustive()
    }
}

/// What a batch has done.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Tasks in all: items by models.
    pub tasks: usize,
    /// Tasks answered by an earlier run.
    pub earlier: usize,
    /// Tasks answered by this one.
    pub ok: usize,
    /// Tasks that failed for good.
    pub failed: usize,
    /// Tasks that were not done because the batch was stopped.
    pub unfinished: usize,
    /// From the first call to the last answer.
    pub elapsed: Duration,
    /// Each key's share, in the order the keys were given.
    pub keys: Vec<KeySummary>,
    /// The pool's figures.
    pub pool: Stats,
    /// The client's figures.
    pub client: ClientStats,
}

/// What one key has done.
#[derive(Clone, Debug)]
pub struct KeySummary {
    /// The key, masked.
    pub key: String,
    /// Calls made with it.
    pub calls: u64,
    /// Whether the upstream refused the key itself.
    pub rejected: bool,
}

struct Run<'a> {
    batch: &'a Batch,
    client: Client,
    pool: &'a SyncPool<usize>,
    queue: &'a Queue,
    store: Mutex<Store>,
    counter: Counter,
    /// Which keys the upstream doesn't accept.
    rejected: Vec<AtomicBool>,
    /// What was said of the key that was the last to be rejected.
    last_key_error: Mutex<Option<String>>,
    /// Why results can't be kept any more.
    broken: Mutex<Option<BatchError>>,
}

impl Run<'_> {
    fn work(&self) {
        let _guard = StopOnPanic(self);
        while let Some(task) = self.queue.next() {
            let Ok(lease) = self.pool.acquire() else {
                self.queue.put_back(task, Duration::ZERO);
                return;
            };
            let item = &self.batch.items[task.item];
            let mut request = ChatRequest::user(&self.batch.models[task.model], &item.prompt);
            request.max_tokens = self.batch.max_tokens;
            match self.client.chat(&self.batch.endpoints[*lease], &request) {
                Ok(answer) => {
                    // Without a time to live a lease can't expire.
                    let _ = lease.release(Outcome::Ok);
                    self.keep(&task, &answer);
                    self.queue.finish();
                }
                Err(error) => {
                    let setback = self.give_back(lease, &error);
                    self.try_again(task, setback, &error);
                }
            }
        }
    }

    fn keep(&self, task: &Task, answer: &ChatCompletion) {
        let (item, model) = self.names(task);
        let value = serde_json::to_value(answer).unwrap_or_default();
        let recorded = lock(&self.store).record(item, model, value);
        match recorded {
            Ok(()) => self.counter.add_ok(),
            Err(error) => {
                lock(&self.broken).get_or_insert(error);
                self.close();
            }
        }
    }

    /// Tells the pool what became of the call, and what that means for its task.
    fn give_back(&self, lease: Lease<usize>, error: &CallError) -> AttemptFailure {
        let setback = if error.rejects_key() {
            self.condemn(&lease, error);
            AttemptFailure::MemberUnusable
        } else if error.is_throttled() {
            AttemptFailure::Throttled
        } else if error.is_retryable() || error.is_forbidden() {
            AttemptFailure::Failed
        } else {
            AttemptFailure::Permanent
        };
        // Without a time to live a lease can't expire.
        let _ = if error.is_throttled() {
            lease.release_throttled(error.retry_after().unwrap_or(DEFAULT_REST))
        } else if error.was_sent() {
            lease.release(Outcome::Failed)
        } else {
            // It counts against no limit; but who can't be reached has failed.
            lease.release(Release::from(Outcome::Failed).cost(Cost::default()))
        };
        setback
    }

    /// Takes a key out of service that the upstream doesn't accept. With the last one the batch ends.
    fn condemn(&self, lease: &Lease<usize>, error: &CallError) {
        self.rejected[**lease].store(true, Ordering::SeqCst);
        // A member that is leased is there.
        let _ = self.pool.disable(lease.member());
        if self.rejected.iter().all(|one| one.load(Ordering::SeqCst)) {
            *lock(&self.last_key_error) = Some(error.to_string());
            self.close();
        }
    }

    /// Makes no more calls.
    fn close(&self) {
        self.queue.close();
        self.pool.close();
    }

    fn try_again(&self, mut task: Task, setback: AttemptFailure, error: &CallError) {
        match task.tries.delay_after(setback) {
            Some(delay) => {
                let asked = error
                    .retry_after()
                    .filter(|_| setback == AttemptFailure::Failed);
                self.queue
                    .put_back(task, delay.max(asked.unwrap_or_default()));
            }
            None => {
                self.fail(&task, error.to_string());
                self.queue.finish();
            }
        }
    }

    fn fail(&self, task: &Task, reason: String) {
        let (item, model) = self.names(task);
        lock(&self.store).record_failure(item, model, reason);
        self.counter.add_failed();
    }

    fn names(&self, task: &Task) -> (&Item, &str) {
        let batch = self.batch;
        (&batch.items[task.item], &batch.models[task.model])
    }

    fn finish(self, earlier: usize, elapsed: Duration) -> Result<Summary, BatchError> {
        let left = self.queue.drain();
        if let Some(words) = &*lock(&self.last_key_error) {
            for task in &left {
                self.fail(
                    task,
                    format!("no usable key is left; of the last one: {words}"),
                );
            }
        }
        self.counter.clear();
        let batch = self.batch;
        let store = self.store.into_inner();
        let written = store
            .unwrap_or_else(PoisonError::into_inner)
            .finish(&batch.items, &batch.models);
        let broken = self.broken.into_inner();
        if let Some(error) = broken.unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        written?;
        let (ok, failed) = (self.counter.ok(), self.counter.failed());
        let tasks = batch.items.len().saturating_mul(batch.models.len());
        let pool = self.pool.stats();
        let keys = batch
            .endpoints
            .iter()
            .zip(&pool.members)
            .zip(&self.rejected);
        Ok(Summary {
            tasks,
            earlier,
            ok,
            failed,
            unfinished: tasks
                .saturating_sub(earlier)
                .saturating_sub(ok)
                .saturating_sub(failed),
            elapsed,
            keys: keys
                .map(|((endpoint, member), rejected)| KeySummary {
                    key: endpoint.key().to_string(),
                    calls: member.counts.calls(),
                    rejected: rejected.load(Ordering::SeqCst),
                })
                .collect(),
            pool,
            client: self.client.stats(),
        })
    }
}

/// Ends the batch when the worker that holds it panics, so that the others don't wait for its task.
struct StopOnPanic<'a>(&'a Run<'a>);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
