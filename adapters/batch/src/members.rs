//! What becomes of keys and services after a call: rests, rejections, outages, wrong URLs and models.
//!
//! Invariant: a member of a service that is down is not leased before the next try, and then one of them goes first.

use crate::account::{Account, KeyPool, Slot};
use crate::batch::Batch;
use crate::clock::{time_of_day, words};
use crate::lock;
use crate::origin::{Origin, Outage, Reaction, short_reason};
use crate::progress::Counter;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use leasehold_core::time::Tick;
use leasehold_protocol::Rests;
use leasehold_protocol::verdict::{Fate, Next, Outcome as Judged, Pause, Scope, Verdict};
use leasehold_sync::{Lease, MemberId, Outcome, Release};
use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

/// Rests from this length on are told.
const LONG_REST: Duration = Duration::from_secs(60);
/// Longest rest of a single member whose service is overloaded; an outage of the service has rests of its own.
const OVERLOAD_REST: Duration = Duration::from_secs(4);
/// In an outage, the time by which the first member's try comes before that of the others.
const HEAD_START: Duration = Duration::from_secs(5);

/// A member that rests.
#[derive(Clone, Debug)]
pub(crate) struct Resting {
    pub(crate) since: Tick,
    pub(crate) until: Tick,
    pub(crate) reason: String,
}

/// The keys and services of a run, as its calls have found them.
pub(crate) struct Members<'a> {
    batch: &'a Batch,
    keys: &'a KeyPool,
    accounts: &'a [Account],
    counter: &'a Counter,
    origins: Vec<Mutex<Origin>>,
    rests: HashMap<MemberId, Mutex<Rests>>,
    resting: Mutex<HashMap<MemberId, Resting>>,
    /// By endpoint: whether the service rejected its key.
    rejected: Vec<AtomicBool>,
    calls: Vec<AtomicU64>,
    /// By model: the services that lack it, and why.
    lacking: Mutex<HashMap<usize, (BTreeSet<usize>, String)>>,
    /// Reasons why the run, or a model, stopped early.
    stopped: Mutex<Vec<String>>,
    is_over: AtomicBool,
    /// The error that rejected the last remaining key.
    last_key_error: Mutex<Option<String>>,
}

/// What a call tells, with the time at which it began and ended.
pub(crate) struct Called<'v> {
    pub(crate) began: Tick,
    pub(crate) model: usize,
    pub(crate) upstream: usize,
    pub(crate) verdict: &'v Verdict,
    pub(crate) text: &'v str,
    pub(crate) release: Release,
}

/// What the task is to do after a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) next: Next,
    /// Whether the service answered another call since this one began.
    pub(crate) is_up: bool,
    /// Whether the member rests, so that the task need not wait.
    pub(crate) rests: bool,
}

impl<'a> Members<'a> {
    pub(crate) fn new(
        batch: &'a Batch,
        keys: &'a KeyPool,
        accounts: &'a [Account],
        counter: &'a Counter,
    ) -> Self {
        let mut origins = Vec::new();
        for account in accounts {
            if account.origin == origins.len() {
                let url = batch.upstreams[account.upstreams[0]].endpoint.url();
                let seed = batch.seed.wrapping_add(origins.len() as u64);
                origins.push(Mutex::new(Origin::new(url, batch.models.len(), seed)));
            }
        }
        let seeds = (0u64..).map(|number| batch.seed.wrapping_add(number));
        let rests = keys.members.iter().zip(seeds);
        let count = batch.upstreams.len();
        Self {
            batch,
            keys,
            accounts,
            counter,
            origins,
            rests: rests
                .map(|((id, _), seed)| (*id, Mutex::new(Rests::new(seed))))
                .collect(),
            resting: Mutex::default(),
            rejected: (0..count).map(|_| AtomicBool::new(false)).collect(),
            calls: (0..count).map(|_| AtomicU64::new(0)).collect(),
            lacking: Mutex::default(),
            stopped: Mutex::default(),
            is_over: AtomicBool::new(false),
            last_key_error: Mutex::new(None),
        }
    }

    /// Chooses a key of the leased account, in turn, among those that the service accepts.
    pub(crate) fn pick(&self, lease: &Lease<Slot>) -> usize {
        let all = &self.accounts[lease.account].upstreams;
        let usable: Vec<usize> = all
            .iter()
            .copied()
            .filter(|it| !self.is_rejected(*it))
            .collect();
        let usable = if usable.is_empty() { all } else { &usable };
        let turn = usize::try_from(lease.fence()).unwrap_or(0);
        let upstream = usable[turn.checked_rem(usable.len()).unwrap_or(0)];
        self.calls[upstream].fetch_add(1, Ordering::Relaxed);
        upstream
    }

    pub(crate) fn is_rejected(&self, upstream: usize) -> bool {
        self.rejected[upstream].load(Ordering::SeqCst)
    }

    pub(crate) fn calls(&self, upstream: usize) -> u64 {
        self.calls[upstream].load(Ordering::Relaxed)
    }

    pub(crate) fn stopped(&self) -> Vec<String> {
        lock(&self.stopped).clone()
    }

    pub(crate) fn last_key_error(&self) -> Option<String> {
        lock(&self.last_key_error).clone()
    }

    /// Whether no further call can succeed.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Whether no service has the model.
    pub(crate) fn is_wrong_model(&self, model: usize) -> bool {
        let lacking = lock(&self.lacking);
        let by = lacking.get(&model).map_or(0, |(origins, _)| origins.len());
        by == self.origins.len()
    }

    /// Learns from a call, and ends its lease.
    pub(crate) fn conclude(&self, lease: Lease<Slot>, called: Called<'_>) -> Step {
        let now = self.keys.pool.now();
        let verdict = called.verdict;
        let (member, account) = (lease.member(), lease.account);
        let origin = self.accounts[account].origin;
        let slot_model = lease.model;
        for limit in &verdict.limits {
            if let Some((unit, left, reset)) = limit.observation() {
                // A leased member can't have been removed.
                let _ = self.keys.pool.observe(member, unit, left, reset);
            }
        }
        let (reaction, ended, step) = {
            let mut state = lock(&self.origins[origin]);
            let next = verdict.next_after_success(state.has_answered(called.model));
            let is_alive = verdict.outcome == Judged::Ok || verdict.kind.scope() == Scope::Key;
            let (reaction, ended) = if is_alive {
                let ended = state.answer(now, called.began, called.model, verdict.kind);
                (Reaction::None, ended)
            } else {
                let reaction = state.failure(now, called.began, called.model, verdict);
                (reaction, None)
            };
            let is_up = state.answered_since(called.began);
            let rests = false;
            (reaction, ended, Step { next, is_up, rests })
        };
        let rest = match step.next {
            Next::Stop => None,
            Next::Done | Next::RetryAfter { .. } | Next::OtherMember { .. } | Next::GiveUp => {
                let rests = self.rests.get(&member);
                let rest = rests.and_then(|rests| lock(rests).after(verdict));
                match verdict.fate {
                    Fate::Rest(Pause::Overload) => rest.map(|rest| rest.min(OVERLOAD_REST)),
                    Fate::Rest(Pause::Told(_) | Pause::Rate)
                    | Fate::Keep
                    | Fate::Reject
                    | Fate::TooSmall => rest,
                }
            }
        };
        self.end(lease, &called, rest, now);
        if let Some(outage) = ended {
            self.end_outage(origin, &outage, now);
        }
        self.react(reaction, origin, &called, slot_model, now);
        if verdict.fate == Fate::Reject {
            self.reject(called.upstream, account, called.text);
        }
        Step {
            rests: rest.is_some(),
            ..step
        }
    }

    /// Releases a lease with what the service saw of it, and lets its member rest.
    fn end(&self, lease: Lease<Slot>, called: &Called<'_>, rest: Option<Duration>, now: Tick) {
        let (member, verdict) = (lease.member(), called.verdict);
        let upstream = &self.batch.upstreams[called.upstream];
        let is_overload = verdict.fate == Fate::Rest(Pause::Overload);
        // These leases have no time to live, so they can't have expired.
        let _ = match rest {
            // A breaker can be closed when the service answers again; a throttle holds whatever comes.
            Some(rest) if is_overload => {
                let ended = lease.release(called.release);
                let _ = self.keys.pool.trip_breaker(member, rest);
                ended
            }
            Some(rest) => lease.release_throttled(rest),
            None => lease.release(called.release),
        };
        let mut resting = lock(&self.resting);
        let Some(rest) = rest else {
            if verdict.outcome == Judged::Ok {
                resting.remove(&member);
            }
            return;
        };
        let until = now.saturating_add(rest);
        let reason = short_reason(verdict);
        if rest >= LONG_REST {
            let (key, host) = (upstream.endpoint.key(), host_of(upstream.endpoint.url()));
            self.counter.say(&format!(
                "the key {key} of {host} rests for {}, until {}: {verdict}",
                words(rest),
                time_of_day(until)
            ));
        }
        let since = resting.get(&member).map_or(now, |known| known.since);
        resting.insert(
            member,
            Resting {
                since,
                until,
                reason,
            },
        );
    }

    fn react(
        &self,
        reaction: Reaction,
        origin: usize,
        called: &Called<'_>,
        model: Option<usize>,
        now: Tick,
    ) {
        match reaction {
            Reaction::None => {}
            Reaction::RestUntil(until) => {
                let rest = until.since(now);
                let members = self.members_of(origin);
                let first = usize::try_from(now.as_nanos() % 1_000_003).unwrap_or(0);
                let first = first.checked_rem(members.len()).unwrap_or(0);
                for (index, member) in members.into_iter().enumerate() {
                    let head_start = if index == first {
                        Duration::ZERO
                    } else {
                        HEAD_START
                    };
                    let rest = rest.saturating_add(head_start);
                    let _ = self.keys.pool.trip_breaker(member, rest);
                }
            }
            Reaction::WrongUrl => {
                for member in self.members_of(origin) {
                    let _ = self.keys.pool.disable(member);
                }
                self.stop_with(format!("stopped: {}", called.text));
                if self.origins.iter().all(|origin| lock(origin).is_wrong()) {
                    self.close();
                }
            }
            Reaction::WrongModel => self.lack(origin, called, model),
        }
    }

    /// Records that a service lacks a model.
    fn lack(&self, origin: usize, called: &Called<'_>, slot_model: Option<usize>) {
        let model = called.model;
        let is_new = {
            let mut lacking = lock(&self.lacking);
            let known = lacking.entry(model);
            let (origins, _) = known.or_insert_with(|| (BTreeSet::new(), called.text.to_owned()));
            origins.insert(origin)
        };
        if !is_new {
            return;
        }
        let name = &self.batch.models[model];
        self.stop_with(format!("stopped model {name}: {}", called.text));
        let serves = |slot: &Slot| {
            let is_here = self.accounts[slot.account].origin == origin;
            let only = slot_model.is_some() || self.batch.models.len() == 1;
            is_here && only && slot.model.is_none_or(|own| own == model)
        };
        if self.origins.len() > 1 {
            for (member, slot) in &self.keys.members {
                if serves(slot) {
                    let _ = self.keys.pool.disable(*member);
                }
            }
        }
        if (0..self.batch.models.len()).all(|model| self.is_wrong_model(model)) {
            self.close();
        }
    }

    /// Takes a rejected key out of use; the last one ends the batch.
    fn reject(&self, upstream: usize, account: usize, text: &str) {
        self.rejected[upstream].store(true, Ordering::SeqCst);
        let mut keys = self.accounts[account].upstreams.iter();
        if keys.all(|it| self.is_rejected(*it)) {
            for (member, slot) in &self.keys.members {
                if slot.account == account {
                    let _ = self.keys.pool.disable(*member);
                }
            }
        }
        if self.rejected.iter().all(|it| it.load(Ordering::SeqCst)) {
            *lock(&self.last_key_error) = Some(text.to_owned());
            self.close();
        }
    }

    fn end_outage(&self, origin: usize, outage: &Outage, now: Tick) {
        for member in self.members_of(origin) {
            let _ = self.keys.pool.reset_breaker(member);
            lock(&self.resting).remove(&member);
        }
        let host = lock(&self.origins[origin]).host().to_owned();
        let lasted = now.since(outage.since);
        if lasted >= HEAD_START {
            let lasted = words(lasted);
            self.counter
                .say(&format!("{host} answers again, after {lasted}"));
        }
    }

    fn members_of(&self, origin: usize) -> Vec<MemberId> {
        let members = self.keys.members.iter();
        let here = members.filter(|(_, slot)| self.accounts[slot.account].origin == origin);
        here.map(|(id, _)| *id).collect()
    }

    /// Returns why every usable member rests now, and the tick of the next try; `None` if one does not.
    pub(crate) fn pause(&self, now: Tick) -> Option<(String, Tick)> {
        let resting = lock(&self.resting);
        let (mut found, mut next): (Option<(String, Tick)>, _) = (None, None);
        for (id, slot) in &self.keys.members {
            let account = &self.accounts[slot.account];
            let origin = lock(&self.origins[account.origin]);
            if origin.is_wrong() || account.upstreams.iter().all(|it| self.is_rejected(*it)) {
                continue;
            }
            let outage = origin.outage().filter(|outage| outage.until > now);
            let rest = resting.get(id).filter(|rest| rest.until > now);
            let (since, until, reason) = match (outage, rest) {
                (Some(outage), _) => (outage.since, outage.until, &outage.reason),
                (None, Some(rest)) => (rest.since, rest.until, &rest.reason),
                (None, None) => return None,
            };
            if next.is_none_or(|next| until < next) {
                next = Some(until);
                let text = format!("{}: {reason} since {}", origin.host(), time_of_day(since));
                found = Some((text, until));
            }
        }
        found
    }

    /// Ends the run if no service has answered for too long.
    pub(crate) fn give_up(&self, now: Tick) {
        let limit = self.batch.give_up_after;
        let mut reasons = Vec::new();
        for origin in &self.origins {
            let origin = lock(origin);
            if origin.is_wrong() {
                continue;
            }
            match (origin.bad_since(), origin.outage()) {
                (Some(since), Some(outage)) if now.since(since) >= limit => {
                    reasons.push(format!("{}: {}", origin.host(), outage.reason));
                }
                (Some(_) | None, Some(_) | None) => return,
            }
        }
        if reasons.is_empty() || self.is_over() {
            return;
        }
        self.stop_with(format!(
            "gave up after {} without an answer (--give-up-after): {}",
            words(limit),
            reasons.join("; ")
        ));
        self.close();
    }

    fn stop_with(&self, reason: String) {
        lock(&self.stopped).push(reason);
    }

    fn close(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.keys.pool.close();
    }
}

/// Returns the outcome to release a lease with, where its member does not rest.
pub(crate) fn outcome_of(verdict: &Verdict) -> Outcome {
    match verdict.outcome {
        Judged::Ok => Outcome::Ok,
        // A rest is told by other means; without one this is a failure like others.
        Judged::Failed | Judged::Throttled => Outcome::Failed,
        Judged::Unknown => Outcome::Unknown,
        Judged::NotSent => Outcome::NotSent,
    }
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}
