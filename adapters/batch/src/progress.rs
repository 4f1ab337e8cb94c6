//! Progress of a running batch.
//!
//! Invariant: all of it goes to standard error, so that standard output can be piped.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;

const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Whether progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A bar on a terminal, else a line every 10 s.
    Shown,
    /// No progress.
    Silent,
}

#[derive(Debug)]
pub(crate) struct Counter {
    tasks: usize,
    ok: AtomicUsize,
    failed: AtomicUsize,
    bar: ProgressBar,
    /// Whether to print lines instead of the bar.
    lines: bool,
    /// Whether messages are shown.
    speaks: bool,
}

impl Counter {
    pub(crate) fn new(progress: Progress, tasks: usize) -> Self {
        let terminal = io::stderr().is_terminal();
        let target = match progress {
            Progress::Shown if terminal => ProgressDrawTarget::stderr(),
            Progress::Shown | Progress::Silent => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(tasks as u64), target);
        let template =
            "{elapsed_precise} [{wide_bar}] {pos}/{len} tasks, {per_sec}, {eta} left{msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self {
            tasks,
            ok: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            bar,
            lines: progress == Progress::Shown && !terminal,
            speaks: progress == Progress::Shown,
        }
    }

    pub(crate) fn ok(&self) -> usize {
        self.ok.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn add_ok(&self) {
        self.ok.fetch_add(1, Ordering::Relaxed);
        self.bar.inc(1);
    }

    pub(crate) fn add_failed(&self) {
        let failed = self
            .failed
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        self.bar.set_message(format!(", {failed} failed"));
        self.bar.inc(1);
    }

    /// Prints a message, above the bar if there is one.
    pub(crate) fn say(&self, message: &str) {
        if self.speaks {
            // A closed standard error must not stop the batch.
            self.bar.suspend(|| {
                let _ = writeln!(io::stderr(), "{message}");
            });
        }
    }

    /// Prints lines from a thread of `scope` until the returned sender is dropped.
    pub(crate) fn write_lines<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
    ) -> Sender<()> {
        let (stop, stopped) = mpsc::channel();
        if self.lines {
            scope.spawn(move || {
                while stopped.recv_timeout(LINE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    let (ok, failed) = (self.ok(), self.failed());
                    let done = ok.saturating_add(failed);
                    // A closed standard error must not stop the batch.
                    let _ = writeln!(
                        io::stderr(),
                        "{done}/{} tasks done: {ok} ok, {failed} failed",
                        self.tasks
                    );
                }
            });
        }
        stop
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
