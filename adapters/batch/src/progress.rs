//! What a person sees while a batch runs.
//!
//! Invariant: everything goes to standard error, so that results can be piped.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;

/// How long there is between two plain lines.
const EVERY: Duration = Duration::from_secs(10);

/// Whether and how progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A bar on a terminal, elsewhere a plain line every 10 s.
    Shown,
    /// Nothing.
    Silent,
}

/// Counts the tasks that have ended, and shows them.
#[derive(Debug)]
pub(crate) struct Counter {
    tasks: usize,
    ok: AtomicUsize,
    failed: AtomicUsize,
    bar: ProgressBar,
    /// Whether lines take the place of the bar.
    lines: bool,
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

    /// Writes lines in a thread of `scope` until what it returns is dropped.
    pub(crate) fn write_lines<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
    ) -> Sender<()> {
        let (over, ended) = mpsc::channel();
        if self.lines {
            scope.spawn(move || {
                while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                    let (ok, failed) = (self.ok(), self.failed());
                    let ended = ok.saturating_add(failed);
                    // A closed standard error is no reason to stop.
                    let _ = writeln!(
                        io::stderr(),
                        "{ended}/{} tasks ended, {ok} ok, {failed} failed",
                        self.tasks
                    );
                }
            });
        }
        over
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
