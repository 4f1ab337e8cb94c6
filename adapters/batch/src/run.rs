//! A batch's run from start to end.
//!
//! Invariant: a batch that is stopped, or that can't write its journal any more, still writes its output.

use crate::batch::{Batch, default_workers};
use crate::error::BatchError;
use crate::progress::{Counter, Progress};
use crate::queue::{Queue, Task};
use crate::report::Summary;
use crate::results::Results;
use crate::stop::Stop;
use crate::worker::Run;
use core::num::NonZeroUsize;
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::limit::LimitSpecs;
use leasehold_core::pool::{Member, PoolConfig};
use leasehold_core::retry::{Backoff, RetryState};
use leasehold_core::time::Tick;
use leasehold_http::{Client, ClientConfig};
use leasehold_protocol::{ApiKey, Endpoint};
use leasehold_sync::{Clock, SyncPool};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Rate-limited attempts of a task before it fails, per key.
const MAX_THROTTLES_PER_KEY: u32 = 50;
const BACKOFF_BASE: Duration = Duration::from_millis(500);
const BACKOFF_CAP: Duration = Duration::from_secs(30);

impl Batch {
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
    (endpoint.root(), endpoint.key())
}
