//! Figures of the calls of a run: by key, by cause and over time.
//!
//! Invariant: memory does not grow with the number of calls.

use crate::lock;
use crate::report::{FailedTask, KeySummary, Waits};
use crate::timeline::Timeline;
use core::time::Duration;
use leasehold_core::pool::stats::Histogram;
use leasehold_core::time::Tick;
use leasehold_plan::Tokens;
use leasehold_protocol::verdict::{Kind, Outcome, Verdict};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Failures that are kept whole.
const KEPT_FAILURES: usize = 20;

/// The figures of a run.
#[derive(Debug)]
pub(crate) struct Figures {
    began: Tick,
    totals: Mutex<Totals>,
}

/// The figures so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    /// By the number of the upstream.
    pub(crate) keys: BTreeMap<usize, KeySummary>,
    /// The times of the calls that were answered.
    pub(crate) latency: Histogram,
    pub(crate) waits: Waits,
    pub(crate) tokens: Tokens,
    pub(crate) retries: u64,
    pub(crate) timeline: Timeline,
    /// Failed tasks, by the kind of their last answer.
    causes: BTreeMap<String, u64>,
    /// The first failures.
    pub(crate) failures: Vec<FailedTask>,
}

/// A call that has ended.
#[derive(Debug)]
pub(crate) struct EndedCall<'a> {
    pub(crate) upstream: usize,
    /// The key, masked.
    pub(crate) key: &'a str,
    pub(crate) verdict: &'a Verdict,
    pub(crate) began: Tick,
    pub(crate) ended: Tick,
    /// The calls in flight, with this one.
    pub(crate) in_flight: usize,
}

impl Figures {
    pub(crate) fn new(began: Tick) -> Self {
        Self {
            began,
            totals: Mutex::default(),
        }
    }

    /// Counts a call.
    pub(crate) fn call(&self, call: &EndedCall<'_>) {
        let (took, at) = (call.ended.since(call.began), call.ended.since(self.began));
        let mut totals = lock(&self.totals);
        let key = totals.keys.entry(call.upstream);
        let key = key.or_insert_with(|| KeySummary::new(call.key));
        key.count(call.verdict, took);
        if call.verdict.outcome == Outcome::Ok {
            totals.latency.record(took);
        }
        if let Some(usage) = call.verdict.usage {
            let tokens = &mut totals.tokens;
            let add =
                |sum: &mut u64, more: Option<u64>| *sum = sum.saturating_add(more.unwrap_or(0));
            add(&mut tokens.prompt, usage.prompt_tokens);
            add(&mut tokens.completion, usage.completion_tokens);
        }
        let slot = totals.timeline.slot(at);
        let count = match call.verdict.outcome {
            Outcome::Ok => &mut slot.ok,
            Outcome::Throttled => &mut slot.throttled,
            Outcome::Failed | Outcome::Unknown | Outcome::NotSent => &mut slot.failed,
        };
        *count = count.saturating_add(1);
        slot.in_flight = slot.in_flight.max(call.in_flight as u64);
    }

    /// Notes the calls in flight.
    pub(crate) fn sample(&self, now: Tick, in_flight: usize) {
        let mut totals = lock(&self.totals);
        let slot = totals.timeline.slot(now.since(self.began));
        slot.in_flight = slot.in_flight.max(in_flight as u64);
    }

    /// Counts a lease that came after this time.
    pub(crate) fn leased(&self, waited: Duration) {
        let waits = &mut lock(&self.totals).waits;
        waits.times.record(waited);
        let count = match waited.is_zero() {
            true => &mut waits.at_once,
            false => &mut waits.after_waiting,
        };
        *count = count.saturating_add(1);
    }

    /// Counts a request for a lease that was refused.
    pub(crate) fn refused(&self) {
        let waits = &mut lock(&self.totals).waits;
        waits.refused = waits.refused.saturating_add(1);
    }

    /// Counts a task that is tried again.
    pub(crate) fn retried(&self) {
        let mut totals = lock(&self.totals);
        totals.retries = totals.retries.saturating_add(1);
    }

    /// Counts a task that has failed; `kind` is that of its last answer, if there was one.
    pub(crate) fn failed(&self, task: FailedTask, kind: Option<Kind>) {
        let mut totals = lock(&self.totals);
        let cause = kind.map_or_else(|| "not called".to_owned(), words_of);
        let count = totals.causes.entry(cause).or_default();
        *count = count.saturating_add(1);
        if totals.failures.len() < KEPT_FAILURES {
            totals.failures.push(task);
        }
    }

    /// The mean time of the calls that were answered, and the time that one in ten exceeds; `None` before the first.
    pub(crate) fn call_times(&self) -> Option<(Duration, Duration)> {
        let totals = lock(&self.totals);
        Some((totals.latency.mean()?, totals.latency.quantile(900)?))
    }

    /// Tasks that were tried again so far.
    pub(crate) fn retries(&self) -> u64 {
        lock(&self.totals).retries
    }

    /// Tokens so far.
    pub(crate) fn tokens(&self) -> Tokens {
        lock(&self.totals).tokens
    }

    pub(crate) fn totals(&self) -> Totals {
        lock(&self.totals).clone()
    }
}

impl Totals {
    /// Failed tasks by their cause, the most frequent first.
    pub(crate) fn causes(&self) -> Vec<(String, u64)> {
        let mut causes: Vec<_> = self.causes.clone().into_iter().collect();
        causes.sort_by_key(|(_, count)| core::cmp::Reverse(*count));
        causes
    }
}

/// Words for a kind of answers: its name, in lower case with spaces.
fn words_of(kind: Kind) -> String {
    let mut words = String::new();
    for character in format!("{kind:?}").chars() {
        if character.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(character.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_in_words() {
        assert_eq!(words_of(Kind::RateLimited), "rate limited");
    }
}
