//! A batch's run from start to end.
//!
//! Invariant: a batch that is stopped, or that can't write its journal any more, still writes its output. Nothing is
//! sent before all requests were built, and answers to other requests were found.

use crate::account::{Account, KeyPool, longest_window};
use crate::batch::{Batch, OnChange, default_workers};
use crate::bits::Bits;
use crate::charges::Charges;
use crate::clock::wall_clock;
use crate::error::BatchError;
use crate::figures::Figures;
use crate::input::Item;
use crate::item_results::{Found, ItemResults};
use crate::job_log::JobLog;
use crate::load::Load;
use crate::local::Local;
use crate::members::Members;
use crate::progress::{Counter, Progress};
use crate::queue::Queue;
use crate::recorder::Recorder;
use crate::remote::Remote;
use crate::report::Summary;
use crate::results::Results;
use crate::run_report;
use crate::source::{Source, SourceReport};
use crate::status::Status;
use crate::stop::Stop;
use crate::warmup::Warmup;
use crate::worker::{Parts, Run};
use core::num::NonZeroUsize;
use leasehold_http::Client;
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
    fn open(&self, output: &Path) -> Result<(Results, Tasks), BatchError> {
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
        tasks: Tasks,
        stop: &Stop,
    ) -> Result<Summary, BatchError> {
        let began = source.now();
        let (count, earlier, load) = (tasks.open.len(), tasks.earlier, self.load(&tasks.open));
        let left_out = tasks.missing;
        let queue = Arc::new(Queue::new(tasks.ready));
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
        let (ok, failed) = (counter.ok(), counter.failed());
        let totals = figures.totals();
        let SourceReport {
            mut stopped,
            mut keys,
            pool,
        } = source.report();
        stopped.extend(halted);
        for (upstream, figures) in totals.keys.iter() {
            if let Some(key) = keys.get_mut(*upstream) {
                (key.ok, key.throttled) = (figures.ok, figures.throttled);
                key.latency.clone_from(&figures.latency);
            }
        }
        let mut summary = Summary {
            tasks: earlier.saturating_add(count),
            earlier,
            ok,
            failed,
            unfinished: count.saturating_sub(ok).saturating_sub(failed),
            elapsed,
            stopped,
            first_failure: totals.failures.first().cloned(),
            keys,
            tokens: totals.tokens,
            cost: self.prices.map(|prices| prices.of(totals.tokens)),
            retries: totals.retries,
            causes: totals.causes.clone(),
            left_out,
            pool,
            client: client.stats(),
        };
        if let Some(path) = &self.report
            && let Err(error) = run_report::write(path, self, files.output, &summary, &totals)
        {
            // The results are written, and their figures are not to be lost for that.
            summary.stopped.push(error.to_string());
        }
        Ok(summary)
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

    fn workers(&self) -> NonZeroUsize {
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

    /// Finds the tasks that are to be run. Requests that a template may not fit, or that were answered, are built once.
    fn open_tasks(&self, results: &Results, output: &Path) -> Result<Tasks, BatchError> {
        let count = self.number_of(self.items.len(), 0);
        let mut tasks = Tasks {
            open: Bits::new(count),
            ready: Bits::new(count),
            ..Tasks::default()
        };
        for index in 0..self.items.len() {
            let is_known = self.items.has_answers(index) || results.knows(self, index);
            if !is_known && self.request.body.is_none() && !self.retry_failed {
                self.open_new(index, &mut tasks);
                continue;
            }
            let item = self.items.item(index)?;
            let known = results.of_item(self, index, &item.id)?;
            tasks.other_lines = tasks
                .other_lines
                .saturating_add(usize::from(!known.is_line_of(&item)));
            let had_failed = |number| results.had_failed(number);
            self.open_known(index, &item, &known, had_failed, &mut tasks)?;
        }
        match tasks.example.take() {
            Some(example) if self.on_change == OnChange::Fail => Err(BatchError::Changed {
                path: output.to_owned(),
                changed: tasks.changed,
                answers: tasks.answers,
                example,
            }),
            Some(_) | None => Ok(tasks),
        }
    }

    /// Opens the tasks of an item of which nothing is known.
    fn open_new(&self, index: usize, tasks: &mut Tasks) {
        tasks.other_lines = tasks.other_lines.saturating_add(1);
        for (number, column) in (self.number_of(index, 0)..).zip(&self.columns) {
            let reviewed = column
                .reviewed
                .and_then(|reviewed| self.columns.get(reviewed));
            match (column.is_asked, reviewed) {
                (false, _) => {}
                (true, None) => tasks.open(number, true),
                (true, Some(reviewed)) if reviewed.is_asked => tasks.open(number, false),
                (true, Some(_)) => tasks.missing = tasks.missing.saturating_add(1),
            }
        }
    }

    /// Opens the tasks of an item that have no answer to their request.
    fn open_known(
        &self,
        index: usize,
        item: &Item,
        known: &ItemResults,
        had_failed: impl Fn(usize) -> bool,
        tasks: &mut Tasks,
    ) -> Result<(), BatchError> {
        for (at, column) in self
            .columns
            .iter()
            .enumerate()
            .filter(|(_, it)| it.is_asked)
        {
            let (number, name) = (self.number_of(index, at), self.name_of(index, at));
            let request = match column.reviewed.zip(self.reviewed_by(index, at)) {
                None => self.request.request(item, &name.model)?,
                Some((reviewed, _)) if tasks.open.contains(self.number_of(index, reviewed)) => {
                    tasks.open(number, false);
                    continue;
                }
                Some((_, (reviews, reviewed))) => match known.answer(item, &reviewed) {
                    Some(answer) => match self.request.review(reviews, item, answer, &name) {
                        Ok(request) => request,
                        // The template does not fit this answer, which fails the task and no other.
                        Err(_) if known.answer(item, &name).is_none() => {
                            tasks.open(number, true);
                            continue;
                        }
                        Err(_) => {
                            tasks.earlier = tasks.earlier.saturating_add(1);
                            continue;
                        }
                    },
                    None => {
                        tasks.missing = tasks.missing.saturating_add(1);
                        continue;
                    }
                },
            };
            let found = known.find(item, &name, &request.fingerprint());
            tasks.answers = tasks
                .answers
                .saturating_add(usize::from(found != Found::Nothing));
            let is_wanted =
                !self.retry_failed || known.has_failed(item, &name) || had_failed(number);
            let is_open = match found {
                Found::Nothing => is_wanted,
                Found::Answer => false,
                Found::Changed => {
                    tasks.changed = tasks.changed.saturating_add(1);
                    let example = || format!("item {}, model {name}", item.id);
                    tasks.example.get_or_insert_with(example);
                    self.on_change == OnChange::Redo && is_wanted
                }
            };
            if is_open {
                tasks.open(number, true);
            } else if found != Found::Nothing {
                tasks.earlier = tasks.earlier.saturating_add(1);
            }
        }
        Ok(())
    }
}

/// The files that a run writes, besides its journal and its report.
#[derive(Clone, Copy)]
struct Files<'a> {
    output: &'a Path,
    job_log: Option<&'a JobLog>,
}

/// The tasks of a run.
#[derive(Debug, Default)]
struct Tasks {
    /// All that are to be run, and those of them that wait for no other answer.
    open: Bits,
    ready: Bits,
    /// Tasks that were answered before.
    earlier: usize,
    /// Reviews of answers that are not there.
    missing: usize,
    /// Answers of earlier runs, those of them to another request, and one of these.
    answers: usize,
    changed: usize,
    example: Option<String>,
    /// Items whose line in the output would be another one, or is not there.
    other_lines: usize,
}

impl Tasks {
    fn open(&mut self, number: usize, is_ready: bool) {
        self.open.insert(number);
        if is_ready {
            self.ready.insert(number);
        }
    }
}
