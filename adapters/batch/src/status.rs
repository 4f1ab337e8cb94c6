//! The status of a running batch: the bar, a plain line now and then, and the status box.
//!
//! Invariant: all of it goes to standard error, and none of it can end a run.

use crate::figures::Figures;
use crate::load::Load;
use crate::progress::Counter;
use crate::source::{CallPlan, KeyState, Source};
use core::fmt::Write as _;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use leasehold_core::time::Tick;
use leasehold_page::words;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(250);
/// Time between two updates of the bar, and two plain lines.
const BAR_INTERVAL: Duration = Duration::from_secs(1);
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two boxes.
const BOX_INTERVAL: Duration = Duration::from_secs(30);
/// Keys that a box lists.
const SHOWN_KEYS: usize = 20;

/// Asks a running batch for its status box, from any thread.
#[derive(Clone, Debug, Default)]
pub struct StatusRequest(Arc<AtomicBool>);

impl StatusRequest {
    /// Asks for the box, which is printed within 250 ms.
    pub fn ask(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

/// The parts of a run that its status is made of.
pub(crate) struct Status<'a, S> {
    pub(crate) source: &'a S,
    pub(crate) counter: &'a Counter,
    pub(crate) figures: &'a Figures,
    pub(crate) load: &'a Load,
    /// The number of workers, as it is now.
    pub(crate) workers: &'a (dyn Fn() -> usize + Sync),
    /// The limits of each key, as the user wrote them.
    pub(crate) limits: Option<String>,
    pub(crate) request: StatusRequest,
    /// Whether progress counts tokens.
    pub(crate) shows_tokens: bool,
    /// Whether the box is printed now and then.
    pub(crate) is_verbose: bool,
}

impl<'a, S: Source> Status<'a, S> {
    /// Tells from a thread of `scope` until the returned sender is dropped.
    pub(crate) fn tell<'scope>(self, scope: &'scope thread::Scope<'scope, '_>) -> Sender<()>
    where
        'a: 'scope,
    {
        let (stop, stopped) = mpsc::channel();
        scope.spawn(move || {
            let began = self.source.now();
            let (mut bar, mut line, mut last_box) = (began, began, began);
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let now = self.source.now();
                self.figures.sample(now, self.load.in_flight());
                let is_due = |last: &mut Tick, interval: Duration| {
                    let due = now.since(*last) >= interval;
                    *last = if due { now } else { *last };
                    due
                };
                if self.counter.has_bar() && is_due(&mut bar, BAR_INTERVAL) {
                    self.counter.show(self.words(began, now));
                }
                if self.counter.has_lines() && is_due(&mut line, LINE_INTERVAL) {
                    self.counter.say(&self.line(began, now));
                }
                let is_box_due = self.is_verbose && is_due(&mut last_box, BOX_INTERVAL);
                if self.request.take() || is_box_due {
                    self.counter.say_always(&self.status_box(began, now));
                }
            }
        });
        stop
    }

    fn line(&self, began: Tick, now: Tick) -> String {
        let (ok, failed) = (self.counter.ok(), self.counter.failed());
        let (done, tasks) = (ok.saturating_add(failed), self.counter.tasks());
        format!(
            "{done}/{tasks} tasks done: {ok} ok, {failed} failed; {}",
            self.words(began, now)
        )
    }

    /// The rate, the time left, and what is going on.
    fn words(&self, began: Tick, now: Tick) -> String {
        let done = self.counter.ok().saturating_add(self.counter.failed());
        let elapsed = now.since(began).as_secs_f64().max(0.001);
        let mut words = format!("{:.1}/s", done as f64 / elapsed);
        match self.left(now.since(began)) {
            Some(left) => {
                let _ = write!(words, ", {} left", words_of(left));
            }
            None => words.push_str(", time left unknown"),
        }
        let tokens = match self.shows_tokens {
            true => self
                .figures
                .tokens()
                .total()
                .saturating_add(self.load.streamed()),
            false => 0,
        };
        let counts = [
            (self.counter.failed() as u64, "failed"),
            (self.load.in_flight() as u64, "in flight"),
            (self.figures.retries(), "retries"),
            (tokens, "tokens"),
        ];
        for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
            let _ = write!(words, ", {count} {what}");
        }
        let keys = self.source.keys_now();
        let resting: Vec<_> = keys.iter().filter_map(|key| key.rests_until).collect();
        if let Some(first) = resting.iter().min() {
            let (count, all) = (resting.len(), keys.len());
            let wait = words_of(first.since(now));
            let _ = write!(words, ", {count} of {all} keys rest, the first for {wait}");
        }
        words
    }

    /// The time until the last task ends: from the limits, where they are known here, else from the calls so far.
    fn left(&self, elapsed: Duration) -> Option<Duration> {
        // Before the first answer, calls are taken to be short against the waits for the limits.
        let times = self.figures.call_times();
        let (time, slow) = times.unwrap_or_default();
        let left = self.load.left();
        let (ok, tokens) = (self.counter.ok().max(1) as u64, self.figures.tokens());
        let tokens = tokens.total().checked_div(ok).unwrap_or(0);
        let plan = CallPlan {
            workers: (self.workers)(),
            in_flight: self.load.in_flight(),
            time,
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        };
        let by_rate = || {
            let done = self.counter.ok().saturating_add(self.counter.failed());
            let left: usize = left.iter().sum();
            let is_known = done > 0;
            is_known.then(|| elapsed.mul_f64(left as f64 / done.max(1) as f64))
        };
        // Of the last calls, the slowest counts.
        let more = slow.saturating_sub(time);
        let outlook = self.source.outlook(&left, plan);
        let outlook = outlook.filter(|left| times.is_some() || !left.is_zero());
        outlook
            .map(|left| left.saturating_add(more))
            .or_else(by_rate)
    }

    fn status_box(&self, began: Tick, now: Tick) -> String {
        let keys = self.source.keys_now();
        let (in_flight, tasks) = (self.load.in_flight(), self.counter.tasks());
        let (ok, failed) = (self.counter.ok(), self.counter.failed());
        let free = keys.iter().filter(|key| key.is_free).count();
        let waiting = self.load.waiting();
        let (tokens, left) = (self.figures.tokens(), self.left(now.since(began)));
        let limits = self.limits.as_deref().unwrap_or("none for all");
        let mut text = format!(
            "--- status -------------------------------------------------\n\
             processing  {in_flight} in flight; {waiting} wait for a key\n\
             tasks       {ok} ok, {failed} failed, {} left of {tasks}\n\
             time left   {}\n\
             keys        {free} free of {}\n\
             limits      {limits}\n\
             tokens      {} in, {} out; {} retries\n",
            tasks.saturating_sub(ok).saturating_sub(failed),
            left.map_or_else(
                || "unknown".to_owned(),
                |left| format!("{:.1} s", left.as_secs_f64())
            ),
            keys.len(),
            tokens.prompt,
            tokens.completion,
            self.figures.retries(),
        );
        for key in keys.iter().take(SHOWN_KEYS) {
            let _ = writeln!(text, "  {}", line_of_key(key, now));
        }
        if let Some(more) = keys.len().checked_sub(SHOWN_KEYS).filter(|more| *more > 0) {
            let _ = writeln!(text, "  and {more} more");
        }
        text.push_str("------------------------------------------------------------");
        text
    }
}

fn line_of_key(key: &KeyState, now: Tick) -> String {
    let mut line = format!(
        "{:<12} {:>6} calls, {:>3} in flight, {}",
        key.key, key.calls, key.in_flight, key.state
    );
    if let Some(opens) = key.opens {
        let _ = write!(line, " for {}", words_of(opens.since(now)));
    }
    line
}

/// Words for a time that is left, in whole seconds, at least one.
fn words_of(left: Duration) -> String {
    words(left.saturating_add(Duration::from_millis(999)))
}
