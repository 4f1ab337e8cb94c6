//! The state of a server: counts, draws, outages, the log of calls.
//!
//! Invariant: each call takes all its draws at once, so that no setting changes those of a later call.

use super::answer::Answer;
use super::call::{CallStatus, Log, LogIndex};
use super::config::{ModelRule, OpenAiConfig, Outage};
use super::fault::{Dice, Fault, FaultTimes};
use super::request::ApiRequest;
use super::resource::Resources;
use super::sse::Pace;
use crate::clock::{Clock, unix_now};
use crate::judge::{CallEnd, Judge, JudgeConfig, KeyId};
use crate::limit::{Limit, LimitUnit};
use crate::report::Report;
use crate::watched::Watched;
use alloc::collections::{BTreeMap, VecDeque};
use core::hash::{Hash, Hasher};
use core::num::{NonZeroU32, NonZeroU64};
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use hyper::body::Bytes;
use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;

const MAX_LATENCIES: usize = 100_000;

/// Most answered calls that are remembered to find repetitions.
const MAX_ANSWERED: usize = 1_000_000;

/// Makes the draws of faults independent of those of latencies.
const FAULT_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// A server's settings and state, shared by its connections and its handles.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) models: Vec<String>,
    pub(super) model_rules: Vec<ModelRule>,
    pub(super) times: FaultTimes,
    pub(super) clock: Clock,
    /// Seconds since 1970 at the start.
    pub(super) started: u64,
    chunks: Option<NonZeroU32>,
    chunk_delay: RangeInclusive<u64>,
    /// Random id of this run, so that request ids are unique over several runs.
    run: u64,
    requests: AtomicU64,
    state: Watched<State>,
}

/// The draws for a valid call.
#[derive(Clone, Debug)]
pub(super) struct Draw {
    pub(super) latency: Duration,
    pub(super) fault: Option<Fault>,
    pub(super) tokens: u64,
    pub(super) pace: Pace,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) judge: Judge,
    pub(super) dice: Dice,
    pub(super) log: Log,
    pub(super) resources: Resources,
    /// Faults of the next valid calls, before all rules.
    pub(super) script: VecDeque<Fault>,
    /// The fault of an outage that a test began.
    pub(super) outage: Option<Fault>,
    pub(super) connections_opened: u64,
    pub(super) connections_open: u64,
    limit: Option<NonZeroU32>,
    window: Duration,
    outages: Vec<Outage>,
    first_call: Option<u64>,
    rng: fastrand::Rng,
    latency: RangeInclusive<u64>,
    answer_tokens: RangeInclusive<u64>,
    latencies: Vec<Duration>,
    answered: HashSet<u64>,
    repeated: u64,
    hung_up: u64,
    by_fault: BTreeMap<String, u64>,
}

impl Upstream {
    pub(super) fn new(config: OpenAiConfig) -> Self {
        let nanos = |range: &RangeInclusive<Duration>| {
            let nanos = |span: &Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
            nanos(range.start())..=nanos(range.end())
        };
        let first = config
            .limit
            .map(|limit| Limit::new(LimitUnit::Requests, NonZeroU64::from(limit), config.window));
        let judge = JudgeConfig {
            limits: first.into_iter().chain(config.limits).collect(),
            window: config.window,
            max_concurrent: config.max_concurrent,
        };
        Self {
            models: config.models,
            model_rules: config.model_rules,
            times: FaultTimes {
                wait: config.fault_wait,
                stall: config.stall,
                trickle: config.trickle,
            },
            clock: Clock::start(),
            started: unix_now().as_secs(),
            chunks: config.chunks,
            chunk_delay: nanos(&config.chunk_delay),
            run: fastrand::u64(..),
            requests: AtomicU64::new(0),
            state: Watched::new(State {
                judge: Judge::new(judge, config.keys),
                dice: Dice::new(config.faults, config.seed ^ FAULT_SEED),
                log: Log::new(config.recording),
                resources: Resources::default(),
                script: VecDeque::new(),
                outage: None,
                connections_opened: 0,
                connections_open: 0,
                limit: config.limit,
                window: config.window,
                outages: config.outages,
                first_call: None,
                rng: fastrand::Rng::with_seed(config.seed),
                latency: nanos(&config.latency),
                answer_tokens: config.answer_tokens,
                latencies: Vec::new(),
                answered: HashSet::new(),
                repeated: 0,
                hung_up: 0,
                by_fault: BTreeMap::new(),
            }),
        }
    }

    /// Reads the state.
    pub(super) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        self.state.read(read)
    }

    /// Changes the state, and wakes the waiting tests.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        self.state.change(change)
    }

    /// Waits until a condition holds; it is checked again after each change.
    pub(super) fn wait(&self, limit: Duration, condition: impl Fn() -> bool) -> bool {
        self.state.wait(limit, condition)
    }

    /// An id that no other request of any server has.
    pub(super) fn next_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}{number:08x}", self.run)
    }

    pub(super) fn report(&self) -> Report {
        self.read(State::report)
    }

    /// Time since the start.
    pub(super) fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.nanos())
    }

    pub(super) fn pace(&self, seed: u64) -> Pace {
        Pace {
            chunks: self.chunks,
            delay: self.chunk_delay.clone(),
            seed,
        }
    }

    /// Draws latency, length, pace and fault of a valid call.
    pub(super) fn draw(&self, key: KeyId, request: &ApiRequest) -> Draw {
        self.change(|state| {
            let latency = Duration::from_nanos(state.rng.u64(state.latency.clone()));
            let tokens = state.rng.u64(state.answer_tokens.clone());
            let pace = self.pace(state.rng.u64(..));
            let drawn = state.dice.draw(state.judge.key(key), request);
            let fault = match state.script.pop_front() {
                Some(scripted) => Some(scripted).filter(|fault| fault.applies_to(request)),
                None => drawn,
            };
            Draw {
                latency,
                fault,
                tokens,
                pace,
            }
        })
    }
}

impl State {
    /// Returns the fault of an outage that lasts at `now`; the first call starts their clock.
    pub(super) fn outage_at(&mut self, now: u64) -> Option<Fault> {
        let first = *self.first_call.get_or_insert(now);
        let since = Duration::from_nanos(now.saturating_sub(first));
        let mut outages = self.outages.iter();
        let planned = outages.find(|outage| (outage.from..outage.to).contains(&since));
        self.outage.or(planned.map(|outage| outage.fault))
    }

    pub(super) fn note_latency(&mut self, latency: Duration) {
        if self.latencies.len() < MAX_LATENCIES {
            self.latencies.push(latency);
        }
    }

    pub(super) fn note_fault(&mut self, index: LogIndex, fault: Fault) {
        *self.by_fault.entry(fault.to_string()).or_default() += 1;
        if let Some(call) = self.log.call(index) {
            call.fault = Some(fault);
        }
    }

    /// Ends a call with a known key.
    pub(super) fn finish(&mut self, call: &FinishedCall<'_>, now: Duration) {
        self.hung_up += u64::from(call.hung_up);
        if call.refused.is_none() {
            self.judge.finish(call.key, call.end);
            self.note_answered(call);
        }
        let status = call.refused.unwrap_or_else(|| call.end.into());
        self.log.close(call.index, status, now);
        if let Some(logged) = self.log.call(call.index) {
            logged.hung_up = call.hung_up;
        }
    }

    /// Counts an answered call whose like was answered before.
    fn note_answered(&mut self, call: &FinishedCall<'_>) {
        if call.end == CallEnd::Ok && self.answered.len() < MAX_ANSWERED {
            let mut hasher = DefaultHasher::new();
            (call.path, call.body).hash(&mut hasher);
            self.repeated += u64::from(!self.answered.insert(hasher.finish()));
        }
    }

    fn report(&self) -> Report {
        let counts = self.judge.counts();
        let per_key = self.judge.key_reports();
        Report {
            limit: self.limit.map(NonZeroU32::get),
            window: self.window,
            calls: counts.calls,
            ok: counts.ok,
            rejected_429: counts.rejected_429,
            rejected_503: counts.rejected_503,
            faults: counts.faults,
            invalid: counts.invalid,
            abandoned: counts.abandoned,
            max_in_window: per_key
                .iter()
                .map(|key| key.max_in_window)
                .max()
                .unwrap_or(0),
            max_concurrent: counts.max_concurrent,
            connections_opened: self.connections_opened,
            connections_open: self.connections_open,
            early: counts.early,
            repeated: self.repeated,
            hung_up: self.hung_up,
            by_fault: self.by_fault.clone(),
            limits: self.judge.limit_reports(),
            per_key,
            latencies: self.latencies.clone(),
        }
    }
}

/// A call with a known key at its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct FinishedCall<'a> {
    pub(super) key: KeyId,
    pub(super) index: LogIndex,
    pub(super) end: CallEnd,
    /// The status of a call that the judge refused, and counted, at its arrival.
    pub(super) refused: Option<CallStatus>,
    pub(super) hung_up: bool,
    pub(super) path: &'a str,
    pub(super) body: &'a Bytes,
}

/// Plans the answer of a drawn call.
pub(super) fn plan(request: ApiRequest, id: &str, draw: &Draw) -> Answer {
    let prefix = draw.fault.map_or("", Fault::prefix);
    Answer::new(request, id, unix_now().as_secs(), prefix, Some(draw.tokens))
}
