//! A batch's run from start to end.
//!
//! Invariant: a batch that is stopped, or that can't write its journal any more, still writes its output. Nothing is
//! sent before all requests were built, and answers to other requests were found.

use crate::account::{Account, KeyPool, longest_window};
use crate::batch::{Batch, default_workers};
use crate::bits::Bits;
use crate::charges::Charges;
use crate::clock::wall_clock;
use crate::error::BatchError;
use crate::figures::{Figures, Totals};
use crate::job_log::JobLog;
use crate::load::Load;
use crate::local::Local;
use crate::members::Members;
use crate::progress::{Counter, Progress};
use crate::queue::Queue;
use crate::recorder::Recorder;
use crate::remote::Remote;
use crate::report::{KeySummary, Summary};
use crate::results::Results;
use crate::run_report;
use crate::source::{Source, SourceReport};
use crate::status::Status;
use crate::stop::Stop;
use crate::tasks::Tasks;
use crate::warmup::Warmup;
use crate::worker::{Parts, Run};
use core::num::NonZeroUsize;
use core::time::Duration;
use leasehold_http::{Client, ClientStats};
use std::path::Path;
use std::sync::Arc;

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
        let job_log = self.job_log.as_deref().map(JobLog::open).transpose()?;
        if let Some(path) = &self.report {
            run_report::check(path)?;
        }
        let files = Files {
            output,
            job_log: job_log.as_ref(),
        };
        match &self.pool {
            None => self.run_here(files, stop, progress),
            Some(place) => {
                let (results, tasks) = self.open(output)?;
                let counter = Counter::new(progress, tasks.open.len());
                match Remote::new(self, place) {
                    Ok(source) => self.work(&source, &counter, (results, files), tasks, stop),
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
        files: Files<'_>,
        stop: &Stop,
        progress: Progress,
    ) -> Result<Summary, BatchError> {
        let accounts = self.accounts()?;
        let (results, tasks) = self.open(files.output)?;
        let (keys, charges) = match self.open_keys(&accounts) {
            Ok(opened) => opened,
            Err(error) => {
                let _ = results.abandon();
                return Err(error);
            }
        };
        let counter = Counter::new(progress, tasks.open.len());
        let members = Members::new(self, &keys, &accounts, &counter);
        let source = Local::new(self, &keys, &members, charges);
        self.work(&source, &counter, (results, files), tasks, stop)
    }

    /// Opens the results, and returns the tasks that are to be run.
    pub(crate) fn open(&self, output: &Path) -> Result<(Results, Tasks), BatchError> {
        let mut results = Results::open(output, self)?;
        match self.open_tasks(&results, output) {
            Ok(tasks) => {
                let is_same = tasks.other_lines == 0;
                results.set_open(tasks.open.clone(), is_same);
                Ok((results, tasks))
            }
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
        (results, files): (Results, Files<'_>),
        mut tasks: Tasks,
        stop: &Stop,
    ) -> Result<Summary, BatchError> {
        let began = source.now();
        let (count, load) = (tasks.open.len(), self.load(&tasks.open));
        let queue = Arc::new(Queue::new(core::mem::take(&mut tasks.ready)));
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
        let figures = Figures::new(began);
        let parts = Parts {
            batch: self,
            client: &client,
            source,
            queue: &queue,
            counter,
            warmup: &warmup,
            load: &load,
            figures: &figures,
            job_log: files.job_log,
        };
        let workers = self.workers().get();
        let wanted = || self.worker_count.get().map_or(workers, NonZeroUsize::get);
        let status = Status {
            source,
            counter,
            figures: &figures,
            load: &load,
            workers: &wanted,
            limits: self.limits_in_words(),
            request: self.status.clone(),
            shows_tokens: self.stream,
            is_verbose: self.is_verbose,
        };
        let recorder = Recorder::new(self, counter, &load, &figures, results);
        let run = Run::new(parts, recorder);
        run.run_workers(workers, count, status);
        let elapsed = source.now().since(began);
        let halted = run.finish()?;
        let totals = figures.totals();
        let calls = Calls {
            elapsed,
            client: client.stats(),
            totals: &totals,
        };
        let mut summary = self.sum_up(&tasks, counter, calls, source.report());
        summary.stopped.extend(halted);
        if let Some(path) = &self.report
            && let Err(error) = run_report::write(path, self, files.output, &summary, &totals)
        {
            // The results are written, and their figures are not to be lost for that.
            summary.stopped.push(error.to_string());
        }
        Ok(summary)
    }

    /// Sums up what the calls came to.
    fn sum_up(
        &self,
        tasks: &Tasks,
        counter: &Counter,
        calls: Calls<'_>,
        source: SourceReport,
    ) -> Summary {
        let totals = calls.totals;
        let (count, ok, failed) = (counter.tasks(), counter.ok(), counter.failed());
        let keys = source.keys.into_iter().enumerate();
        let keys = keys.map(|(upstream, key)| match totals.keys.get(&upstream) {
            None => key,
            Some(figures) => KeySummary {
                rejected: key.rejected,
                ..figures.clone()
            },
        });
        Summary {
            tasks: tasks.earlier.saturating_add(count),
            earlier: tasks.earlier,
            ok,
            failed,
            unfinished: count.saturating_sub(ok).saturating_sub(failed),
            elapsed: calls.elapsed,
            stopped: source.stopped,
            first_failure: totals.failures.first().cloned(),
            keys: keys.collect(),
            tokens: totals.tokens,
            cost: self.prices.map(|prices| prices.of(totals.tokens)),
            retries: totals.retries,
            waits: totals.waits.clone(),
            left_out: tasks.missing,
            causes: totals.causes(),
            pool: source.pool,
            client: calls.client,
        }
    }

    /// The limits, as the user wrote them; `None` if there are none.
    pub(crate) fn limits_in_words(&self) -> Option<String> {
        if self.pool.is_some() {
            return Some("those of the gateway's pool".to_owned());
        }
        let all = self.limits.iter().map(ToString::to_string);
        let models = self.model_limits.iter();
        let models = models.map(|(model, limits)| format!("{model}={limits}"));
        let has_own = self.upstreams.iter().any(|it| it.limits.is_some());
        let own = has_own.then(|| "those in the file of keys".to_owned());
        let limits: Vec<_> = all.chain(models).chain(own).collect();
        (!limits.is_empty()).then(|| limits.join("; "))
    }

    /// Counts the tasks of each model.
    fn load(&self, open: &Bits) -> Load {
        let mut left = vec![0_usize; self.models.len()];
        let mut next = open.first_from(0);
        while let Some(number) = next {
            let (item, column) = self.place_of(number);
            if let Some(left) = left.get_mut(self.model_of(item, column)) {
                *left = left.saturating_add(1);
            }
            next = open.first_from(number.saturating_add(1));
        }
        Load::new(left)
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

    pub(crate) fn workers(&self) -> NonZeroUsize {
        // How many keys a gateway has is not known here.
        let keys = match &self.pool {
            Some(_) => usize::MAX,
            None => self.upstreams.len(),
        };
        let default = || default_workers(keys, self.models.len());
        self.worker_count.get().unwrap_or_else(default)
    }

    fn client(&self) -> Client {
        let mut config = self.client.clone();
        let endpoints = match &self.pool {
            Some(_) => POOL_ENDPOINTS,
            None => self.upstreams.len(),
        };
        config.max_agents = config.max_agents.max(endpoints);
        config.max_idle_per_agent = config.max_idle_per_agent.max(self.workers().get());
        Client::new(config)
    }
}

/// The calls of a run, once all have ended.
struct Calls<'a> {
    elapsed: Duration,
    client: ClientStats,
    totals: &'a Totals,
}

/// The files that a run writes, besides its journal and its report.
#[derive(Clone, Copy)]
struct Files<'a> {
    output: &'a Path,
    job_log: Option<&'a JobLog>,
}
