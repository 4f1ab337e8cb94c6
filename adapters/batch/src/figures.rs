//! Figures of the calls of a run: by key, by cause and over time.
//!
//! Invariant: memory does not grow with the number of calls.

use crate::lock;
use crate::report::{FailedTask, KeySummary, Tokens, Waits};
use core::time::Duration;
use leasehold_core::pool::stats::Histogram;
use leasehold_core::time::Tick;
use leasehold_protocol::verdict::{Kind, Outcome, Verdict};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Slots of the timeline at most.
const SLOTS: usize = 240;
/// The first width of a slot.
const FIRST_WIDTH: Duration = Duration::from_millis(100);
/// Failures that are kept whole.
const KEPT_FAILURES: usize = 20;

/// The figures of a run.
#[derive(Debug)]
pub(crate) struct Figures {
    began: Tick,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By the number of the upstream.
    keys: BTreeMap<usize, KeySummary>,
    latency: Histogram,
    waits: Waits,
    tokens: Tokens,
    retries: u64,
    timeline: Timeline,
    /// Failed tasks, by the kind of their last error.
    causes: BTreeMap<String, u64>,
    failures: Vec<FailedTask>,
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

/// The calls that ended in a slot of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeSlot {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) throttled: u64,
    /// The most calls in flight.
    pub(crate) in_flight: usize,
}

/// Slots of one width, from the start of the run on; it doubles where there would be too many.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    pub(crate) width: Duration,
    pub(crate) slots: Vec<TimeSlot>,
}

/// The figures at the end of a run.
#[derive(Clone, Debug)]
pub(crate) struct Totals {
    pub(crate) keys: BTreeMap<usize, KeySummary>,
    pub(crate) latency: Histogram,
    pub(crate) waits: Waits,
    pub(crate) tokens: Tokens,
    pub(crate) retries: u64,
    pub(crate) timeline: Timeline,
    pub(crate) causes: Vec<(String, u64)>,
    pub(crate) failures: Vec<FailedTask>,
}

impl Figures {
    pub(crate) fn new(began: Tick) -> Self {
        Self {
            began,
            state: Mutex::default(),
        }
    }

    /// Counts a call.
    pub(crate) fn call(&self, call: &EndedCall<'_>) {
        let (took, at) = (call.ended.since(call.began), call.ended.since(self.began));
        let mut state = lock(&self.state);
        let key = state.keys.entry(call.upstream);
        let key = key.or_insert_with(|| KeySummary::new(call.key));
        key.count(call.verdict, took);
        if call.verdict.outcome == Outcome::Ok {
            state.latency.record(took);
        }
        if let Some(usage) = call.verdict.usage {
            let tokens = &mut state.tokens;
            let add =
                |sum: &mut u64, more: Option<u64>| *sum = sum.saturating_add(more.unwrap_or(0));
            add(&mut tokens.prompt, usage.prompt_tokens);
            add(&mut tokens.completion, usage.completion_tokens);
        }
        let slot = state.timeline.slot(at);
        let count = match call.verdict.outcome {
            Outcome::Ok => &mut slot.ok,
            Outcome::Throttled => &mut slot.throttled,
            Outcome::Failed | Outcome::Unknown | Outcome::NotSent => &mut slot.failed,
        };
        *count = count.saturating_add(1);
        slot.in_flight = slot.in_flight.max(call.in_flight);
    }

    /// Notes the calls in flight.
    pub(crate) fn sample(&self, now: Tick, in_flight: usize) {
        let mut state = lock(&self.state);
        let slot = state.timeline.slot(now.since(self.began));
        slot.in_flight = slot.in_flight.max(in_flight);
    }

    /// Counts a lease that came after this time.
    pub(crate) fn leased(&self, waited: Duration) {
        let waits = &mut lock(&self.state).waits;
        waits.times.record(waited);
        let count = match waited.is_zero() {
            true => &mut waits.at_once,
            false => &mut waits.after_waiting,
        };
        *count = count.saturating_add(1);
    }

    /// Counts a request for a lease that was refused.
    pub(crate) fn refused(&self) {
        let waits = &mut lock(&self.state).waits;
        waits.refused = waits.refused.saturating_add(1);
    }

    /// Counts a task that is tried again.
    pub(crate) fn retried(&self) {
        let mut state = lock(&self.state);
        state.retries = state.retries.saturating_add(1);
    }

    /// Counts a task that has failed; `kind` is that of its last answer, if there was one.
    pub(crate) fn failed(&self, task: FailedTask, kind: Option<Kind>) {
        let mut state = lock(&self.state);
        let cause = kind.map_or_else(|| "not called".to_owned(), words_of);
        let count = state.causes.entry(cause).or_default();
        *count = count.saturating_add(1);
        if state.failures.len() < KEPT_FAILURES {
            state.failures.push(task);
        }
    }

    /// The mean time of the calls that were answered, and the time that one in ten exceeds; `None` before the first.
    pub(crate) fn call_times(&self) -> Option<(Duration, Duration)> {
        let state = lock(&self.state);
        Some((state.latency.mean()?, state.latency.quantile(900)?))
    }

    /// Tasks that were tried again so far.
    pub(crate) fn retries(&self) -> u64 {
        lock(&self.state).retries
    }

    /// Tokens so far.
    pub(crate) fn tokens(&self) -> Tokens {
        lock(&self.state).tokens
    }

    pub(crate) fn totals(&self) -> Totals {
        let state = lock(&self.state);
        let mut causes: Vec<_> = state.causes.clone().into_iter().collect();
        causes.sort_by_key(|(_, count)| core::cmp::Reverse(*count));
        Totals {
            keys: state.keys.clone(),
            latency: state.latency.clone(),
            waits: state.waits.clone(),
            tokens: state.tokens,
            retries: state.retries,
            timeline: state.timeline.clone(),
            causes,
            failures: state.failures.clone(),
        }
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

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width: FIRST_WIDTH,
            slots: Vec::new(),
        }
    }
}

impl Timeline {
    /// The slot of a time since the start.
    fn slot(&mut self, at: Duration) -> &mut TimeSlot {
        let index = |width: Duration| {
            let index = at.as_nanos().checked_div(width.as_nanos()).unwrap_or(0);
            usize::try_from(index).unwrap_or(usize::MAX)
        };
        while index(self.width) >= SLOTS {
            self.double();
        }
        let index = index(self.width);
        if self.slots.len() <= index {
            self.slots
                .resize(index.saturating_add(1), TimeSlot::default());
        }
        &mut self.slots[index]
    }

    /// Joins each two slots.
    fn double(&mut self) {
        let pairs = self.slots.chunks(2);
        let join = |pair: &[TimeSlot]| {
            let sum = |of: fn(&TimeSlot) -> u64| pair.iter().map(of).fold(0, u64::saturating_add);
            TimeSlot {
                ok: sum(|slot| slot.ok),
                failed: sum(|slot| slot.failed),
                throttled: sum(|slot| slot.throttled),
                in_flight: pair.iter().map(|slot| slot.in_flight).max().unwrap_or(0),
            }
        };
        self.slots = pairs.map(join).collect();
        self.width = self.width.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_timeline_keeps_every_count_in_few_slots(times in prop::collection::vec(0_u64..10_000_000, 1..200)) {
            let mut timeline = Timeline::default();
            for at in &times {
                let slot = timeline.slot(Duration::from_millis(*at));
                slot.ok += 1;
            }
            prop_assert!(timeline.slots.len() <= SLOTS);
            for (index, slot) in timeline.slots.iter().enumerate() {
                let width = timeline.width.as_millis() as u64;
                let begin = index as u64 * width;
                let within = times.iter().filter(|at| (begin..begin + width).contains(*at));
                prop_assert_eq!(slot.ok, within.count() as u64);
            }
        }
    }

    #[test]
    fn a_cause_is_in_words() {
        assert_eq!(words_of(Kind::RateLimited), "rate limited");
    }
}
