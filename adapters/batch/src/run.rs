//! A batch's run from start to end.
//!
//! Invariant: a batch that is stopped, or that can't write its journal any more, still writes its output. Nothing is
//! sent before all requests were built, and answers to other requests were found.

use crate::account::{Account, KeyPool, longest_window};
use crate::batch::{Batch, OnChange, default_workers};
use crate::charges::Charges;
use crate::clock::wall_clock;
use crate::error::BatchError;
use crate::item_results::{Found, ItemResults};
use crate::local::Local;
use crate::members::Members;
use crate::progress::{Counter, Progress};
use crate::queue::{Queue, Task};
use crate::recorder::Recorder;
use crate::remote::Remote;
use crate::report::Summary;
use crate::results::Results;
use crate::source::{Source, SourceReport};
use crate::stop::Stop;
use crate::warmup::Warmup;
use crate::worker::{Parts, Run};
use core::num::NonZeroUsize;
use core::time::Duration;
use leasehold_core::retry::Backoff;
use leasehold_http::Client;
use std::path::Path;
use std::sync::Arc;

const BACKOFF_BASE: Duration = Duration::from_millis(500);
const BACKOFF_CAP: Duration = Duration::from_secs(30);
/// Endpoints of a gateway's pool to which connections are kept at most.
const POOL_ENDPOINTS: usize = 256;

impl Batch {
    /// Runs all tasks without an answer in `output` or its journal, until done or stopped.
    ///
    /// Either way it adds the results to `output`; `-` is standard output, which keeps nothing if the run is killed.
    ///
    /// # Errors
    /// If the endpoints can't make a pool, a request can't be built, an earlier answer belongs to another request
    /// (unless [`on_change`](Self::on_change) allows it), `output` exists and holds no results or is in use by
    /// another run, or results or charges can't be written.
    pub fn run(
        &self,
        output: &Path,
        stop: &Stop,
        progress: Progress,
    ) -> Result<Summary, BatchError> {
        if self.models.is_empty() && !self.items.is_empty() {
            return Err(BatchError::NoModels);
        }
        match &self.pool {
            None => self.run_here(output, stop, progress),
            Some(place) => {
                let (results, tasks) = self.open(output)?;
                let counter = Counter::new(progress, tasks.len());
                match Remote::new(self, place) {
                    Ok(source) => self.work(&source, &counter, results, tasks, stop),
                    Err(error) => {
                        let _ = results.abandon();
                        Err(error)
                    }
                }
            }
        }
    }

    /// Runs with a pool of this process.
    fn run_here(
        &self,
        output: &Path,
        stop: &Stop,
        progress: Progress,
    ) -> Result<Summary, BatchError> {
        let accounts = self.accounts()?;
        let (results, tasks) = self.open(output)?;
        let (keys, charges) = match self.open_keys(&accounts) {
            Ok(opened) => opened,
            Err(error) => {
                let _ = results.abandon();
                return Err(error);
            }
        };
        let counter = Counter::new(progress, tasks.len());
        let members = Members::new(self, &keys, &accounts, &counter);
        let source = Local::new(self, &keys, &members, charges);
        self.work(&source, &counter, results, tasks, stop)
    }

    /// Opens the results, and returns the tasks that are to be run.
    fn open(&self, output: &Path) -> Result<(Results, Vec<Task>), BatchError> {
        let results = Results::open(output)?;
        match self.open_tasks(&results, output) {
            Ok(tasks) => Ok((results, tasks)),
            Err(error) => {
                // The first error is the one to report.
                let _ = results.abandon();
                Err(error)
            }
        }
    }

    /// Runs tasks with the leases of a source.
    fn work(
        &self,
        source: &impl Source,
        counter: &Counter,
        results: Results,
        tasks: Vec<Task>,
        stop: &Stop,
    ) -> Result<Summary, BatchError> {
        let began = source.now();
        let count = tasks.len();
        let queue = Arc::new(Queue::new(tasks));
        let warmup = Arc::new(Warmup::new());
        let client = self.client();
        stop.on_stop({
            let (queue, close) = (Arc::clone(&queue), source.closer());
            let warmup = Arc::clone(&warmup);
            move || {
                queue.close();
                close();
                warmup.open();
            }
        });
        let parts = Parts {
            batch: self,
            client: &client,
            source,
            queue: &queue,
            counter,
            warmup: &warmup,
        };
        let run = Run::new(parts, Recorder::new(self, counter, results));
        run.run_workers(self.workers().get().min(count));
        let elapsed = source.now().since(began);
        let first_failure = run.finish()?;
        let (ok, failed) = (counter.ok(), counter.failed());
        let tasks = self.pairs().count();
        let SourceReport {
            stopped,
            keys,
            pool,
        } = source.report();
        Ok(Summary {
            tasks,
            earlier: tasks.saturating_sub(count),
            ok,
            failed,
            unfinished: count.saturating_sub(ok).saturating_sub(failed),
            elapsed,
            stopped,
            first_failure,
            keys,
            pool,
            client: client.stats(),
        })
    }

    /// Opens the logs of the keys, and makes the pool that holds what they tell.
    fn open_keys(&self, accounts: &[Account]) -> Result<(KeyPool, Option<Charges>), BatchError> {
        let clock = wall_clock();
        let folder = self.state.as_deref().filter(|_| self.has_limits());
        let Some(folder) = folder else {
            return Ok((KeyPool::new(self, accounts, clock, Vec::new())?, None));
        };
        let mut endpoints = Vec::new();
        for (index, account) in accounts.iter().enumerate() {
            let upstreams = account.upstreams.iter();
            endpoints.extend(upstreams.map(|it| (&self.upstreams[*it].endpoint, index)));
        }
        let longest = longest_window(self, accounts);
        let (charges, earlier) = Charges::open(folder, &endpoints, longest, clock.now())?;
        Ok((KeyPool::new(self, accounts, clock, earlier)?, Some(charges)))
    }

    fn workers(&self) -> NonZeroUsize {
        // How many keys a gateway has is not known here.
        let keys = match &self.pool {
            Some(_) => usize::MAX,
            None => self.upstreams.len(),
        };
        let default = || default_workers(keys, self.models.len());
        self.workers.unwrap_or_else(default)
    }

    fn client(&self) -> Client {
        let mut config = self.client.clone();
        let endpoints = match &self.pool {
            Some(_) => POOL_ENDPOINTS,
            None => self.upstreams.len(),
        };
        config.max_agents = config.max_agents.max(endpoints);
        config.max_idle_per_agent = self.workers().get();
        Client::new(config)
    }

    /// Returns the tasks that are to be run, after all of their requests were built once.
    fn open_tasks(&self, results: &Results, output: &Path) -> Result<Vec<Task>, BatchError> {
        let mut tasks = Vec::new();
        let (mut answers, mut changed, mut example) = (0_usize, 0_usize, None);
        let mut known = (usize::MAX, ItemResults::default());
        for (item, model) in self.pairs() {
            let (it, name) = (&self.items[item], &self.models[model]);
            if known.0 != item {
                known = (item, results.of_item(&it.id)?);
            }
            let hash = self.request.request(it, name)?.fingerprint();
            let found = known.1.find(it, name, &hash);
            if found != Found::Nothing {
                answers = answers.saturating_add(1);
            }
            let is_open = match found {
                Found::Nothing => true,
                Found::Answer => false,
                Found::Changed => {
                    changed = changed.saturating_add(1);
                    example.get_or_insert_with(|| format!("item {}, model {name}", it.id));
                    self.on_change == OnChange::Redo
                }
            };
            if is_open {
                let seed = self.seed.wrapping_add(tasks.len() as u64);
                tasks.push(Task {
                    item,
                    model,
                    backoff: Backoff::new(BACKOFF_BASE, BACKOFF_CAP, seed),
                    attempts: 0,
                    tried: Vec::new(),
                    last_error: None,
                });
            }
        }
        match example {
            Some(example) if self.on_change == OnChange::Fail => Err(BatchError::Changed {
                path: output.to_owned(),
                changed,
                answers,
                example,
            }),
            Some(_) | None => Ok(tasks),
        }
    }
}
