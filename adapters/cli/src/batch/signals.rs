//! Signals to a batch: an end, the status box, another number of workers.
//!
//! Invariant: no signal ends the process before its answers are kept, unless an interrupt comes twice.

use super::arguments::WorkersArgument;
use crate::signals::{Given, Signals};
use crate::{CliError, print_err};
use core::num::NonZeroUsize;
use core::time::Duration;
use leasehold_batch::{Batch, StatusRequest, Stop, WorkerCount};
use std::path::{Path, PathBuf};
use std::{fs, process, thread};
use tokio::runtime::Builder;
use tokio::time::Instant;

/// A second signal within this time is taken for the first: GNU `timeout` signals a process and its group.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// The parts of a batch that signals reach.
struct Actions {
    stop: Stop,
    status: StatusRequest,
    workers: WorkerCount,
    /// The file of the number of workers.
    file: Option<PathBuf>,
    /// When the first interrupt came.
    interrupted: Option<Instant>,
}

/// Listens to signals from now on, in a thread of its own.
pub(super) fn listen(batch: &Batch, workers: Option<&WorkersArgument>) -> Result<Stop, CliError> {
    let stop = Stop::default();
    let mut actions = Actions {
        stop: stop.clone(),
        status: batch.status.clone(),
        workers: batch.worker_count.clone(),
        file: match workers {
            Some(WorkersArgument::File(path)) => Some(path.clone()),
            Some(WorkersArgument::Count(_)) | None => None,
        },
        interrupted: None,
    };
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(CliError::system)?;
    // Before the thread starts, so that no signal is missed.
    let mut signals = {
        let _entered = runtime.enter();
        Signals::new().map_err(CliError::system)?
    };
    let run = move || {
        runtime.block_on(async {
            loop {
                match signals.next().await {
                    Given::End => actions.interrupt(),
                    Given::HangUp => actions.hang_up(),
                    Given::User => actions.status.ask(),
                }
            }
        });
    };
    let spawned = thread::Builder::new().name("signals".to_owned()).spawn(run);
    spawned.map_err(CliError::system)?;
    Ok(stop)
}

/// Reads a number of workers from a file.
pub(super) fn read_workers(path: &Path) -> Result<NonZeroUsize, CliError> {
    let wrong =
        |problem: String| CliError::usage(format!("--workers: {}: {problem}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let count = text.trim().parse();
    count.map_err(|_| wrong("write one whole number above zero".to_owned()))
}

impl Actions {
    fn interrupt(&mut self) {
        if let Some(first) = self.interrupted {
            if first.elapsed() > SAME_SIGNAL {
                process::exit(130);
            }
            return;
        }
        self.interrupted = Some(Instant::now());
        self.stop.stop();
        print_err("stopping: waiting for calls in flight; interrupt again to quit now");
    }

    /// Reads the number of workers again; without a file of it, the terminal has gone.
    fn hang_up(&mut self) {
        let Some(path) = &self.file else {
            self.interrupt();
            return;
        };
        match read_workers(path) {
            Ok(count) => {
                self.workers.set(count);
                print_err(format_args!("{count} workers from now on"));
            }
            Err(error) => print_err(format_args!("{}; the number stays", error.message)),
        }
    }
}
