//! Logs of requests as workloads: the gateway's own in its three forms, those of other servers, and JSON lines.
//!
//! Invariant: a line is read whole or counted as left out; no text panics. Times of calls are those of the log, and never
//! of the lines' order, except within one tick of the log's clock.

mod common;
mod date;
mod haproxy;
mod json;

use crate::cost::Tokens;
use crate::workload::{Call, CallTime, Pace, Workload, WorkloadError};
use core::time::Duration;
use leasehold_core::balance::stable_hash;
use std::collections::HashMap;

/// A request as a log tells of it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Entry {
    /// When it began, in nanoseconds of the log's clock.
    start: i128,
    /// The tick of the log's clock in nanoseconds: lines of one tick are spread over it.
    tick: u64,
    /// The time of the call, without its wait for a member.
    time: Option<Duration>,
    /// The member that served it.
    member: Option<String>,
    /// The address or name of its caller.
    caller: Option<String>,
    model: Option<String>,
    prompt: Option<u64>,
    completion: Option<u64>,
}

/// A log that was read.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    entries: Vec<Entry>,
    /// Lines that tell of a request.
    pub read: u64,
    /// Lines that don't, and were left out; blank ones are not counted.
    pub left_out: u64,
    /// The first line that was left out, with its number from 1.
    pub first_left_out: Option<(u64, String)>,
    /// Whether every line tells how long its call took.
    pub has_times: bool,
}

/// Figures of calls that the lines of a log don't tell.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TraceDefaults {
    /// The names of models of which a line may tell one; lines without go through them in turn.
    pub models: Vec<String>,
    /// The tokens of a call.
    pub tokens: Tokens,
    /// The most tokens of an answer, which are reserved.
    pub max_tokens: Option<u32>,
    /// When the calls come; at the times of the log by default.
    pub pace: Option<Pace>,
    /// The time of a call.
    pub time: CallTime,
}

impl TraceDefaults {
    /// Defaults for a log whose calls take this long where it does not tell.
    #[must_use]
    pub const fn new(models: Vec<String>, time: CallTime) -> Self {
        Self {
            models,
            tokens: Tokens {
                prompt: 0,
                completion: 0,
            },
            max_tokens: None,
            pace: None,
            time,
        }
    }
}

/// Bytes of a line that is shown.
const SHOWN: usize = 80;

impl Trace {
    /// Reads the lines of a log. Each may have a form of its own.
    ///
    /// ```
    /// use leasehold_plan::Trace;
    ///
    /// let log = "127.0.0.1 - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 12\n\nstarting up\n";
    /// let trace = Trace::read(log);
    /// assert_eq!((trace.read, trace.left_out), (1, 1));
    /// assert_eq!(trace.first_left_out, Some((3, "starting up".to_owned())));
    /// ```
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut trace = Self {
            has_times: true,
            ..Self::default()
        };
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            match parse(line) {
                Some(entry) => {
                    trace.has_times &= entry.time.is_some();
                    trace.read = trace.read.saturating_add(1);
                    trace.entries.push(entry);
                }
                None => {
                    trace.left_out = trace.left_out.saturating_add(1);
                    trace
                        .first_left_out
                        .get_or_insert_with(|| (number, line.chars().take(SHOWN).collect()));
                }
            }
        }
        trace.spread();
        trace
    }

    /// Makes a workload of the calls. Where lines tell their member and time, a member with a name of `members` takes
    /// as long for a call as the log has measured there.
    ///
    /// # Errors
    /// If no line tells of a request, or too many do.
    pub fn workload(
        &self,
        members: &[String],
        defaults: &TraceDefaults,
    ) -> Result<Workload, WorkloadError> {
        let first = self.entries.iter().map(|entry| entry.start).min();
        let mut models = defaults.models.clone();
        let mut known: HashMap<String, usize> = models.iter().cloned().zip(0..).collect();
        let measured = self.measured(members);
        let ranks = self.ranks();
        let mut calls = Vec::with_capacity(self.entries.len());
        for (number, entry) in self.entries.iter().enumerate() {
            let since = entry.start.saturating_sub(first.unwrap_or(entry.start));
            let model = match &entry.model {
                Some(name) => *known.entry(name.clone()).or_insert_with(|| {
                    models.push(name.clone());
                    models.len().saturating_sub(1)
                }),
                None => number % defaults.models.len().max(1),
            };
            let tokens = Tokens {
                prompt: entry.prompt.unwrap_or(defaults.tokens.prompt),
                completion: entry.completion.unwrap_or(defaults.tokens.completion),
            };
            let answer = defaults.max_tokens.map_or(tokens.completion, u64::from);
            calls.push(Call {
                at: Duration::from_nanos(u64::try_from(since).unwrap_or(u64::MAX)),
                model: u32::try_from(model).unwrap_or(u32::MAX),
                key: entry.caller.as_ref().map(|it| stable_hash(it.as_bytes())),
                tokens,
                reserved: tokens.prompt.saturating_add(answer),
                time: entry.time,
                rank: ranks.get(number).copied().unwrap_or_default(),
            });
        }
        let time = measured.map_or_else(|| defaults.time.clone(), CallTime::Measured);
        let pace = defaults.pace.clone().unwrap_or(Pace::Arrivals);
        Workload::new(models, calls, pace, time)
    }

    /// Spreads lines of one tick of the log's clock evenly over it, in their order.
    fn spread(&mut self) {
        self.entries.sort_by_key(|entry| entry.start);
        let entries = &mut self.entries;
        let mut from = 0;
        while let Some(first) = entries.get(from) {
            let (start, tick) = (first.start, first.tick);
            let same = entries.iter().skip(from);
            let count = same.take_while(|entry| entry.start == start).count();
            let parts = entries.iter_mut().skip(from).take(count);
            for (number, entry) in (0u64..).zip(parts) {
                let part = u128::from(tick).saturating_mul(number.into()) / (count as u128).max(1);
                entry.start = start.saturating_add_unsigned(part);
            }
            from = from.saturating_add(count);
        }
        for entry in entries.iter_mut().filter(|entry| entry.tick > 0) {
            // The line is written at the end of the call.
            let time = entry.time.unwrap_or_default().as_nanos();
            entry.start = entry.start.saturating_sub_unsigned(time);
        }
    }

    /// The times that were measured at each member, in rising order; `None` if no line names one of these.
    fn measured(&self, members: &[String]) -> Option<Vec<Vec<Duration>>> {
        let places: HashMap<&str, usize> = members
            .iter()
            .enumerate()
            .map(|(place, name)| (name.as_str(), place))
            .collect();
        let mut all = vec![Vec::new(); members.len()];
        for entry in &self.entries {
            let place = entry.member.as_deref().and_then(|name| places.get(name));
            if let (Some(time), Some(times)) = (entry.time, place.and_then(|at| all.get_mut(*at))) {
                times.push(time);
            }
        }
        all.iter_mut().for_each(|times| times.sort_unstable());
        all.iter().any(|times| !times.is_empty()).then_some(all)
    }

    /// The rank of each call's time among those of its member, from 0 to 1.
    fn ranks(&self) -> Vec<f32> {
        let mut by_member: HashMap<Option<&str>, Vec<(Duration, usize)>> = HashMap::new();
        for (number, entry) in self.entries.iter().enumerate() {
            if let Some(time) = entry.time {
                let times = by_member.entry(entry.member.as_deref()).or_default();
                times.push((time, number));
            }
        }
        let mut ranks = vec![0.0; self.entries.len()];
        for times in by_member.values_mut() {
            times.sort_unstable();
            let count = times.len() as f64;
            for (place, (_, number)) in times.iter().enumerate() {
                if let Some(rank) = ranks.get_mut(*number) {
                    // The middle of its place, so that no rounding takes it to the next.
                    *rank = ((place as f64 + 0.5) / count) as f32;
                }
            }
        }
        ranks
    }
}

/// Reads a line in whichever form it has.
fn parse(line: &str) -> Option<Entry> {
    if line.starts_with('{') {
        return json::parse(line);
    }
    common::parse(line).or_else(|| haproxy::parse(line))
}

#[cfg(test)]
mod tests;
