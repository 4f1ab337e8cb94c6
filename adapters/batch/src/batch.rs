//! The settings of a batch, and its run from start to end.
//!
//! Invariant: a batch that is stopped, or that can't write its journal any more, still writes its output.

use crate::error::BatchError;
use crate::input::Item;
use crate::progress::{Counter, Progress};
use crate::queue::{Queue, Task};
use crate::report::Summary;
use crate::results::Results;
use crate::stop::Stop;
use crate::worker::Run;
use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{LimitSpecs, Unit};
use leasehold_core::pool::{Member, PoolConfig};
use leasehold_core::retry::{Backoff, RetryState};
use leasehold_core::time::Tick;
use leasehold_http::{ApiKey, ChatRequest, Client, ClientConfig, Endpoint};
use leasehold_sync::{Clock, SyncPool};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Rate-limited attempts of a task before it fails, per key.
const MAX_THROTTLES_PER_KEY: u32 = 50;
const BACKOFF_BASE: Duration = Duration::from_millis(500);
const BACKOFF_CAP: Duration = Duration::from_secs(30);

/// Returns `min(keys * 2, models * 10)`, at least one.
///
/// Two calls per key keep it busy while responses are in flight; more than ten per model only queue behind it.
#[must_use]
pub fn default_workers(keys: usize, models: usize) -> NonZeroUsize {
    let workers = keys.saturating_mul(2).min(models.saturating_mul(10));
    NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN)
}

/// A batch: one task for each item and model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// The items.
    pub items: Vec<Item>,
    /// Names of the models, each once.
    pub models: Vec<String>,
    /// The endpoints, each with its own key.
    pub endpoints: Vec<Endpoint>,
    /// Limits of each endpoint; none by default. Tokens are reserved before a call, as many as it may use at
    /// most, and settled at the tokens that the answer reports.
    pub limits: Option<LimitSpecs>,
    /// Number of threads that make calls: [`default_workers`] by default.
    pub workers: Option<NonZeroUsize>,
    /// Attempts per task: 3 by default. Rate-limited attempts are not counted.
    pub max_attempts: NonZeroU32,
    /// Maximum number of tokens of an answer.
    pub max_tokens: u32,
    /// Timeout of a call: 600 s by default.
    pub timeout: Duration,
    /// Seed of the backoff delays.
    pub seed: u64,
}

impl Batch {
    /// Creates a batch without limits.
    #[must_use]
    pub fn new(items: Vec<Item>, models: Vec<String>, endpoints: Vec<Endpoint>) -> Self {
        Self {
            items,
            models,
            endpoints,
            limits: None,
            workers: None,
            max_attempts: NonZeroU32::MIN.saturating_add(2),
            max_tokens: ChatRequest::DEFAULT_MAX_TOKENS,
            timeout: Duration::from_secs(600),
            seed: 0,
        }
    }

    /// Runs all tasks without an answer in `output` or its journal, until done or stopped.
    ///
    /// Either way it adds the results to `output`.
    ///
    /// # Errors
    /// If the endpoints can't make a pool, `output` exists and holds no results or is in use by another run, or
    /// results can't be written.
    pub fn run(
        &self,
        output: &Path,
        stop: &Stop,
        progress: Progress,
    ) -> Result<Summary, BatchError> {
        let pool = Arc::new(self.pool()?);
        let results = Results::open(output)?;
        let clock = Clock::start();
        let tasks = self.open_tasks(&results);
        let count = tasks.len();
        let queue = Arc::new(Queue::new(tasks));
        stop.on_stop({
            let (queue, pool) = (Arc::clone(&queue), Arc::clone(&pool));
            move || {
                queue.close();
                pool.close();
            }
        });
        let counter = Counter::new(progress, count);
        let run = Run::new(self, self.client(), &pool, &queue, results, counter);
        run.run_workers(self.workers().get().min(count));
        let elapsed = clock.now().since(Tick::ZERO);
        run.finish(self.task_count().saturating_sub(count), elapsed)
    }

    pub(crate) fn task_count(&self) -> usize {
        self.items.len().saturating_mul(self.models.len())
    }

    fn workers(&self) -> NonZeroUsize {
        let default = || default_workers(self.endpoints.len(), self.models.len());
        self.workers.unwrap_or_else(default)
    }

    fn client(&self) -> Client {
        let mut config = ClientConfig::default();
        config.max_agents = config.max_agents.max(self.endpoints.len());
        config.max_idle_per_agent = self.workers().get();
        config.timeout = self.timeout;
        Client::new(config)
    }

    /// Creates the pool; each member's payload is the index of its endpoint.
    fn pool(&self) -> Result<SyncPool<usize>, BatchError> {
        let mut seen = HashSet::new();
        let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if !seen.insert(identity(endpoint)) {
                return Err(BatchError::DuplicateKey {
                    key: endpoint.key().to_string(),
                    url: endpoint.url().to_owned(),
                });
            }
            let limits = self.limits.as_ref().map(LimitSpecs::limits);
            pool.add(Member::new(index).limits(limits.unwrap_or_default()))?;
        }
        if self.endpoints.is_empty() {
            return Err(BatchError::NoKeys);
        }
        Ok(pool)
    }

    /// The most tokens that a call may reserve; `None` where no limit counts tokens.
    pub(crate) fn token_cap(&self) -> Option<u32> {
        let limits = self.limits.as_ref()?;
        let counts = limits.iter().any(|spec| spec.unit() == Unit::Tokens);
        counts.then(|| limits.limits().available(Tick::ZERO, 0).tokens)
    }

    fn open_tasks(&self, results: &Results) -> Vec<Task> {
        let keys = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
        let max_throttles = MAX_THROTTLES_PER_KEY.saturating_mul(keys);
        let mut tasks = Vec::new();
        for (item, fields) in self.items.iter().enumerate() {
            for (model, name) in self.models.iter().enumerate() {
                if !results.has_answer(fields, name) {
                    let seed = self.seed.wrapping_add(tasks.len() as u64);
                    let backoff = Backoff::new(BACKOFF_BASE, BACKOFF_CAP, seed);
                    let retry = RetryState::new(self.max_attempts, max_throttles, backoff);
                    tasks.push(Task { item, model, retry });
                }
            }
        }
        tasks
    }
}

/// Returns the pair by which a service counts calls: two endpoints with the same pair share one limit.
fn identity(endpoint: &Endpoint) -> (&str, &ApiKey) {
    (endpoint.chat_url(), endpoint.key())
}
