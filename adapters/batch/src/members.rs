//! Effects of a call on keys and services: rests, rejections, outages, wrong URLs and models.
//!
//! Invariant: a member of a service that is down is not leased before the next try, and then one of them goes first. A
//! task whose model nothing can serve any more does not wait for a lease forever.

use crate::account::{Account, KeyPool, Slot};
use crate::batch::Batch;
use crate::clock::time_of_day;
use crate::in_use::InUse;
use crate::lock;
use crate::origin::{Heard, Origin, Outage, Reaction, gave_up};
use crate::progress::Counter;
use crate::queue::Task;
use crate::rests::MemberRests;
use crate::source::{Called, Step};
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use leasehold_core::time::Tick;
use leasehold_page::words;
use leasehold_protocol::verdict::{Fate, Next, Pause};
use leasehold_sync::{Lease, MemberId};
use std::collections::HashSet;
use std::sync::Mutex;

/// Rests from this length on are told.
const LONG_REST: Duration = Duration::from_secs(60);
/// In an outage, the time by which the first member's try comes before that of the others.
const HEAD_START: Duration = Duration::from_secs(5);

/// The keys and services of a run, as its calls have found them.
pub(crate) struct Members<'a> {
    batch: &'a Batch,
    keys: &'a KeyPool,
    accounts: &'a [Account],
    counter: &'a Counter,
    origins: Vec<Mutex<Origin>>,
    rests: MemberRests,
    /// By endpoint: whether the service rejected its key.
    rejected: Vec<AtomicBool>,
    /// The models that services lack, as pairs of model and service.
    lacking: Mutex<HashSet<(usize, usize)>>,
    in_use: InUse,
    /// By model: whether no member can serve it any more.
    unserved: Vec<AtomicBool>,
    /// Reasons why the run, or a model, stopped early.
    stopped: Mutex<Vec<String>>,
    is_over: AtomicBool,
    /// The error that rejected the last remaining key.
    last_key_error: Mutex<Option<String>>,
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
        let ids = keys.members.iter().map(|(id, _)| *id);
        let count = batch.upstreams.len();
        Self {
            batch,
            keys,
            accounts,
            counter,
            origins,
            rests: MemberRests::new(ids, batch.seed),
            rejected: flags(count),
            lacking: Mutex::default(),
            in_use: InUse::default(),
            unserved: flags(batch.models.len()),
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
        usable[turn.checked_rem(usable.len()).unwrap_or(0)]
    }

    pub(crate) fn is_rejected(&self, upstream: usize) -> bool {
        self.rejected[upstream].load(Ordering::SeqCst)
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

    /// Whether no member can serve the model any more.
    pub(crate) fn is_unserved(&self, model: usize) -> bool {
        self.unserved[model].load(Ordering::SeqCst)
    }

    /// The first key of a member's account, masked, and how many more there are.
    pub(crate) fn name_of(&self, slot: &Slot) -> String {
        let keys = &self.accounts[slot.account].upstreams;
        let first = self.batch.upstreams[keys[0]].endpoint.key();
        match keys.len() {
            1 => first.to_string(),
            count => format!("{first} +{}", count.saturating_sub(1)),
        }
    }

    /// The end of a member's rest, if it rests.
    pub(crate) fn rests_until(&self, member: MemberId, now: Tick) -> Option<Tick> {
        Some(self.rests.of(member, now)?.until)
    }

    /// Whether a member has been refused, and has to wait.
    pub(crate) fn is_resting(&self, member: MemberId) -> bool {
        self.rests.of(member, self.now()).is_some()
    }

    /// Returns a member that can serve a task and has not failed it; one that does not rest, if there is one.
    pub(crate) fn untried(&self, task: &Task) -> Option<MemberId> {
        let now = self.now();
        // Not always the first one, or all tasks that a member fails would wait for the same other.
        let start = task
            .number
            .checked_rem(self.keys.members.len())
            .unwrap_or(0);
        let (before, after) = self.keys.members.split_at(start);
        let open = after.iter().chain(before);
        let open =
            open.filter(|(id, slot)| !task.tried.contains(id) && self.can_serve(slot, task.model));
        let open = open.map(|(id, _)| *id);
        open.min_by_key(|id| self.rests.of(*id, now).map(|rest| rest.until))
    }

    pub(crate) fn now(&self) -> Tick {
        self.keys.pool.now()
    }

    /// Learns from a call, and ends its lease.
    pub(crate) fn conclude(&self, lease: Lease<Slot>, called: Called<'_>) -> Step {
        let now = self.keys.pool.now();
        let verdict = called.verdict;
        let (member, account) = (lease.member(), lease.account);
        let origin = self.accounts[account].origin;
        for limit in &verdict.limits {
            if let Some((unit, left, reset)) = limit.observation() {
                // A leased member can't have been removed.
                let _ = self.keys.pool.observe(member, unit, left, reset);
            }
        }
        let heard = lock(&self.origins[origin]).hear(now, called.began, called.model, verdict);
        let Heard {
            reaction,
            ended,
            next,
            is_up,
        } = heard;
        let rest = match next {
            Next::Stop => None,
            Next::Done | Next::RetryAfter { .. } | Next::OtherMember { .. } | Next::GiveUp => {
                self.rests.after(member, verdict, now)
            }
        };
        self.end(lease, &called, rest, now);
        if let Some(outage) = ended {
            self.end_outage(origin, &outage, now);
        }
        self.react(reaction, origin, &called, now);
        if verdict.fate == Fate::Reject {
            self.reject(called.upstream, called.text);
        }
        Step {
            next,
            is_up,
            rests: rest.is_some(),
        }
    }

    /// Releases a lease with what the service saw of it, and lets its member rest.
    fn end(&self, lease: Lease<Slot>, called: &Called<'_>, rest: Option<Duration>, now: Tick) {
        let (member, account, verdict) = (lease.member(), lease.account, called.verdict);
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
        if let Some(rest) = rest.filter(|rest| *rest >= LONG_REST) {
            let key = upstream.endpoint.key();
            let host = self.host(account);
            self.counter.say(&format!(
                "the key {key} of {host} rests for {}, until {}: {verdict}",
                words(rest),
                time_of_day(now.saturating_add(rest))
            ));
        }
    }

    fn host(&self, account: usize) -> String {
        let origin = self.accounts[account].origin;
        lock(&self.origins[origin]).host().to_owned()
    }

    fn react(&self, reaction: Reaction, origin: usize, called: &Called<'_>, now: Tick) {
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
                self.stop_with(format!("stopped: {}", called.text));
                self.retire();
            }
            Reaction::WrongModel => {
                if lock(&self.lacking).insert((called.model, origin)) {
                    let name = &self.batch.models[called.model];
                    self.stop_with(format!("stopped model {name}: {}", called.text));
                    self.retire();
                }
            }
        }
    }

    /// Takes a rejected key out of use.
    fn reject(&self, upstream: usize, text: &str) {
        self.rejected[upstream].store(true, Ordering::SeqCst);
        if self.rejected.iter().all(|it| it.load(Ordering::SeqCst)) {
            *lock(&self.last_key_error) = Some(text.to_owned());
        }
        self.retire();
    }

    /// Takes members out of use that can't serve any more; the run is over once none can.
    ///
    /// Those that are woken by the last ones of a model, which stay in use, find it unserved.
    fn retire(&self) {
        let members = &self.keys.members;
        let models = 0..self.batch.models.len();
        let serves = |slot: &Slot| models.clone().map(|model| slot.serves(model)).collect();
        let serves: Vec<Vec<bool>> = members.iter().map(|(_, slot)| serves(slot)).collect();
        let can_serve = |member: usize, model| self.can_serve(&members[member].1, model);
        let served = self.in_use.retire(&serves, can_serve, |member| {
            let _ = self.keys.pool.disable(members[member].0);
        });
        for (unserved, is_served) in self.unserved.iter().zip(&served) {
            // Never taken back: another thread may have seen a later state.
            unserved.fetch_or(!is_served, Ordering::SeqCst);
        }
        if !served.contains(&true) {
            self.close();
        }
    }

    /// Whether a member can serve a model, as far as is known.
    fn can_serve(&self, slot: &Slot, model: usize) -> bool {
        let account = &self.accounts[slot.account];
        slot.serves(model)
            && !account.upstreams.iter().all(|it| self.is_rejected(*it))
            && !lock(&self.origins[account.origin]).is_wrong()
            && !lock(&self.lacking).contains(&(model, account.origin))
    }

    fn end_outage(&self, origin: usize, outage: &Outage, now: Tick) {
        for member in self.members_of(origin) {
            let _ = self.keys.pool.reset_breaker(member);
            self.rests.end(member);
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
        let (mut found, mut next): (Option<(String, Tick)>, _) = (None, None);
        for (id, slot) in &self.keys.members {
            let account = &self.accounts[slot.account];
            let origin = lock(&self.origins[account.origin]);
            if origin.is_wrong() || account.upstreams.iter().all(|it| self.is_rejected(*it)) {
                continue;
            }
            let outage = origin.outage().filter(|outage| outage.until > now);
            let rest = self.rests.of(*id, now);
            let (since, until, reason) = match (outage, &rest) {
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
            match origin.overdue(now, limit) {
                Some(reason) => reasons.push(reason),
                None => return,
            }
        }
        if reasons.is_empty() || self.is_over() {
            return;
        }
        self.stop_with(gave_up("an answer", limit, &reasons));
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

fn flags(count: usize) -> Vec<AtomicBool> {
    (0..count).map(|_| AtomicBool::new(false)).collect()
}
