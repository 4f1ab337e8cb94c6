//! Progress of a running batch.
//!
//! Invariant: all of it goes to standard error, so that standard output can be piped.

use core::sync::atomic::{AtomicUsize, Ordering};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};

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
        let template = "{elapsed_precise} [{bar:12}] {pos}/{len}, {wide_msg}";
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
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.bar.inc(1);
    }

    /// Prints a message, above the bar if there is one.
    pub(crate) fn say(&self, message: &str) {
        if self.speaks {
            self.say_always(message);
        }
    }

    /// Prints a message, though progress is not shown.
    pub(crate) fn say_always(&self, message: &str) {
        self.bar.suspend(|| {
            // A closed standard error must not stop the batch.
            let _ = writeln!(io::stderr(), "{message}");
        });
    }

    /// Shows words behind the bar.
    pub(crate) fn show(&self, words: String) {
        self.bar.set_message(words);
    }

    /// Whether there is a bar, on a terminal.
    pub(crate) fn has_bar(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Whether plain lines are printed instead of a bar.
    pub(crate) const fn has_lines(&self) -> bool {
        self.lines
    }

    /// The tasks of the run.
    pub(crate) const fn tasks(&self) -> usize {
        self.tasks
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
