//! A pool of backends with what the gateway needs beside it: repeats, counts and bounds.
//!
//! Invariant: every decision on members is the pool's; this file only turns settings into its configuration.

mod labels;

use crate::affinity::Session;
use crate::backend::{Backend, Service};
use crate::callers::Callers;
use crate::clock::poll_time;
use crate::lent::Lent;
use crate::lock;
use crate::names::is_made;
use crate::operator_log::target;
use crate::state::{State, StateError, unix_tick};
use core::net::IpAddr;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use http::{HeaderValue, Response, StatusCode};
use leasehold_config::{ComfyuiSettings, Kind, MemberSettings, PoolSettings};
use leasehold_core::balance::stable_hash;
use leasehold_core::limit::{Cost, LimitSet, LimitSpec, LimitSpecs, Unit};
use leasehold_core::pool::{Cause, Charge, Labels, PoolConfig, PoolConfigError};
use leasehold_core::retry::RetryBudget;
use leasehold_protocol::Refusal;
use leasehold_sync::{
    AcquireError, GroupId, Member, MemberCondition, MemberId, MemberUpdate, Request,
};
use leasehold_tokio::TokioPool;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

/// The part of a limit, in thousandths, that may be used between two writes of the state.
const BLOCK: u16 = 10;

/// Why a pool can't be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Its settings contradict each other.
    #[error("pool {pool}: {error}")]
    Config {
        /// The pool.
        pool: String,
        /// The contradiction.
        error: PoolConfigError,
    },
    /// A member can't be added.
    #[error("pool {pool}, member {member}: {problem}")]
    Member {
        /// The pool.
        pool: String,
        /// The member.
        member: String,
        /// Why not.
        problem: String,
    },
}

/// A pool of backends under its present settings.
#[derive(Debug)]
pub(crate) struct BackendPool {
    settings: PoolSettings,
    /// Its name, as callers are told it.
    shown_name: HeaderValue,
    live: Arc<Live>,
}

/// What a reload keeps.
#[derive(Debug)]
struct Live {
    pool: TokioPool<Backend>,
    budget: Mutex<RetryBudget>,
    /// The groups by name, with the limits that they have.
    groups: Mutex<HashMap<String, (GroupId, Option<LimitSpecs>)>>,
    /// Sets of members that requests were restricted to; each is a label of its members.
    sets: Mutex<BTreeSet<Vec<String>>>,
    /// Where its charges are kept; `None` for a pool without limits.
    state: Option<Arc<State>>,
    counts: Arc<RepeatCounts>,
    lent: Arc<Lent>,
}

/// What a pool takes over from one before it.
#[derive(Default)]
struct Kept {
    groups: HashMap<String, (GroupId, Option<LimitSpecs>)>,
    sets: BTreeSet<Vec<String>>,
    counts: Arc<RepeatCounts>,
    lent: Arc<Lent>,
}

/// Repeats of a pool's requests.
#[derive(Debug, Default)]
pub(crate) struct RepeatCounts {
    /// Repeats that were made.
    pub(crate) made: AtomicU64,
    /// Requests that failed because they could not be repeated.
    pub(crate) refused: AtomicU64,
}

impl BackendPool {
    /// Makes a pool; with a state, its limits are where earlier processes have left them. One that `lends` has leases that
    /// outlive a process, whether it has limits or not.
    pub(crate) fn new(
        settings: &PoolSettings,
        state: Option<&Arc<State>>,
        callers: &Callers,
        lends: bool,
    ) -> Result<Self, PoolError> {
        let longest = longest_window(settings, callers);
        let state = state.filter(|_| lends || !longest.is_zero()).cloned();
        if let Some(state) = &state {
            state.keep_for(longest);
        }
        let config = pool_config(settings, state.is_some())?;
        let pool = TokioPool::starting_at(config, unix_tick());
        let made = Self::with(settings, pool, state, Kept::default());
        for member in &settings.members {
            made.add(member)?;
        }
        callers.tell(&made, &Callers::default());
        made.restore()?;
        Ok(made)
    }

    /// Makes the pool that takes this one's place under other settings: members, limits and health stay.
    ///
    /// Where the pool itself has to change, this one is closed, so that no two pools grant from the same limits. Requests
    /// that it refuses for that go to the other.
    pub(crate) fn reloaded(
        &self,
        settings: &PoolSettings,
        state: Option<&Arc<State>>,
        callers: &Callers,
        callers_before: &Callers,
        lends: bool,
    ) -> Result<Self, PoolError> {
        let old = &self.settings;
        let same = PoolSettings {
            max_wait: old.max_wait,
            limits: old.limits.clone(),
            retry: old.retry,
            upstream: old.upstream,
            members: old.members.clone(),
            // Of these the pool itself knows one alone.
            comfyui: ComfyuiSettings {
                queue_weight: settings.comfyui.queue_weight,
                ..old.comfyui
            },
            ..settings.clone()
        };
        let longest = longest_window(settings, callers);
        let state = state.filter(|_| lends || !longest.is_zero());
        if let Some(state) = state {
            state.keep_for(longest);
        }
        let reloaded = if same == *old && state.is_some() == self.live.state.is_some() {
            Self {
                settings: settings.clone(),
                shown_name: self.shown_name.clone(),
                live: Arc::clone(&self.live),
            }
        } else {
            let config = pool_config(settings, state.is_some())?;
            self.live.pool.blocking().close();
            self.flush_charges()
                .map_err(|error| self.error("any", error.to_string()))?;
            let pool = self.live.pool.successor(config);
            let pool = pool.map_err(|error| self.error("any", error.to_string()))?;
            let kept = Kept {
                groups: lock(&self.live.groups).clone(),
                sets: lock(&self.live.sets).clone(),
                counts: Arc::clone(&self.live.counts),
                lent: Arc::clone(&self.live.lent),
            };
            Self::with(settings, pool, state.cloned(), kept)
        };
        if settings.limits != old.limits {
            let limits = settings.limits.as_ref().map(LimitSpecs::limits);
            let pool = reloaded.live.pool.blocking();
            pool.set_pool_limits(limits.unwrap_or_default());
        }
        reloaded.change_members(old)?;
        callers.tell(&reloaded, callers_before);
        Ok(reloaded)
    }

    /// Checks what other settings ask of a pool, before anything is changed.
    pub(crate) fn check(settings: &PoolSettings) -> Result<(), PoolError> {
        pool_config(settings, false)?;
        for member in &settings.members {
            let made = Backend::new(member, settings.kind);
            made.map_err(|problem| error(settings, &member.name, problem))?;
        }
        Ok(())
    }

    fn with(
        settings: &PoolSettings,
        pool: TokioPool<Backend>,
        state: Option<Arc<State>>,
        kept: Kept,
    ) -> Self {
        if has_idle_weights(settings) {
            let (pool, policy) = (&*settings.name, settings.policy);
            tracing::warn!(
                target: target::GATEWAY,
                pool,
                "its members have different weights, which make no difference under {policy}; \
                 weighted_round_robin goes by them"
            );
        }
        let retry = settings.retry;
        let budget = RetryBudget::new(retry.budget_permille, retry.reserve).per_second(1);
        let live = Live {
            pool,
            budget: Mutex::new(budget),
            groups: Mutex::new(kept.groups),
            sets: Mutex::new(kept.sets),
            state,
            counts: kept.counts,
            lent: kept.lent,
        };
        // The name of a pool is made of letters, digits and dashes.
        let shown_name = HeaderValue::from_str(&settings.name);
        Self {
            settings: settings.clone(),
            shown_name: shown_name.unwrap_or(HeaderValue::from_static("")),
            live: Arc::new(live),
        }
    }

    /// Adds, changes and removes members, from those that the settings had before.
    fn change_members(&self, old: &PoolSettings) -> Result<(), PoolError> {
        let before = &old.members;
        // It bounds what each server has at once.
        let is_same = |before: &MemberSettings, member: &MemberSettings| {
            before == member && old.comfyui.prefetch == self.settings.comfyui.prefetch
        };
        let sync = self.live.pool.blocking();
        let find = |members: &[MemberSettings], name: &str| {
            members.iter().find(|one| one.name == name).cloned()
        };
        for member in before {
            if find(&self.settings.members, &member.name).is_none()
                && let Some(id) = sync.member(&member.name)
            {
                // The admin may have removed it.
                let _ = sync.remove(id);
            }
        }
        for member in &self.settings.members {
            match (find(before, &member.name), sync.member(&member.name)) {
                (Some(old), Some(_)) if is_same(&old, member) => {}
                // The admin has removed it, and nothing was changed since.
                (Some(old), None) if old == *member => {}
                (old, Some(id)) => self.update(id, old.as_ref(), member)?,
                (_, None) => {
                    self.add(member)?;
                }
            }
        }
        Ok(())
    }

    /// Changes a member from what its settings were before, if they are known; its state stays.
    fn update(
        &self,
        id: MemberId,
        before: Option<&MemberSettings>,
        settings: &MemberSettings,
    ) -> Result<(), PoolError> {
        let error = |problem: String| self.error(&settings.name, problem);
        let sync = self.live.pool.blocking();
        let (labels, limits) = self.labels_and_limits(settings)?;
        let mut update = MemberUpdate::new()
            .weight(settings.weight)
            .tier(settings.tier)
            .labels(labels)
            .max_leases(self.max_leases(settings));
        let has_same_limits =
            before.is_some_and(|it| it.group == settings.group && it.limits == settings.limits);
        update = match &settings.group {
            _ if has_same_limits => update,
            Some(group) => update.group(self.group(group, settings)?),
            None => update.group(None).limits(limits),
        };
        if let Some((_, backend)) = sync.members().into_iter().find(|(member, _)| *member == id)
            && !backend.is_of(settings)
        {
            update = update.payload(Backend::new(settings, self.settings.kind).map_err(error)?);
        }
        sync.update(id, update)
            .map_err(|problem| error(problem.to_string()))?;
        Ok(())
    }

    fn labels_and_limits(
        &self,
        settings: &MemberSettings,
    ) -> Result<(Labels, LimitSet), PoolError> {
        let labels = self.live.pool.labels(self.labels_of(settings));
        let labels = labels.map_err(|full| self.error(&settings.name, full.to_string()))?;
        let limits = settings.limits.as_ref().map(LimitSpecs::limits);
        Ok((labels, limits.unwrap_or_default()))
    }

    /// The most tokens that a call may reserve; `None` where no limit counts tokens.
    pub(crate) fn token_cap(&self) -> Option<u32> {
        self.rates(Unit::Tokens).min()
    }

    /// What each limit of a unit admits in its window.
    fn rates(&self, unit: Unit) -> impl Iterator<Item = u32> {
        let members = self.settings.members.iter();
        let specs = members.filter_map(|member| member.limits.as_ref());
        rates(specs.chain(&self.settings.limits), unit)
    }

    /// The group of a member's settings, whose limits are those of the group.
    fn group(&self, name: &str, settings: &MemberSettings) -> Result<GroupId, PoolError> {
        let sync = self.live.pool.blocking();
        let specs = settings.limits.as_ref();
        let limits = || specs.map(LimitSpecs::limits).unwrap_or_default();
        let mut groups = lock(&self.live.groups);
        let Some((id, known)) = groups.get_mut(name) else {
            let id = sync.add_group(limits());
            groups.insert(name.to_owned(), (id, specs.cloned()));
            return Ok(id);
        };
        if known.as_ref() != specs {
            let set = sync.set_group_limits(*id, limits());
            set.map_err(|_| self.error(&settings.name, "its group is of another pool".to_owned()))?;
            *known = specs.cloned();
        }
        Ok(*id)
    }

    fn error(&self, member: &str, problem: String) -> PoolError {
        error(&self.settings, member, problem)
    }

    /// Enters what earlier processes have used of the limits; all of them, if the state may lack charges.
    fn restore(&self) -> Result<(), PoolError> {
        let Some(state) = &self.live.state else {
            return Ok(());
        };
        let name = &self.settings.name;
        let mut charges = state.earlier(name);
        if state.must_close {
            let full = self.full(&charges);
            state
                .append(name, &full)
                .map_err(|error| self.error("any", error.to_string()))?;
            charges.extend(full);
        }
        let replayed = self.live.pool.blocking().replay(&charges);
        replayed.map_err(|error| self.error("any", error.to_string()))?;
        Ok(())
    }

    /// Returns charges that use up every limit, by calls that end now.
    fn full(&self, earlier: &[Charge]) -> Vec<Charge> {
        let leases = earlier.iter().filter_map(|charge| match charge {
            Charge::Granted { lease, .. } => Some(*lease),
            Charge::Arrived { .. }
            | Charge::Renewed { .. }
            | Charge::Ended { .. }
            | Charge::Observed { .. }
            | Charge::Block { .. } => None,
        });
        let first = leases.max().unwrap_or(0).saturating_add(1);
        let members = self.settings.members.iter();
        let most = |unit: Unit| self.rates(unit).max().unwrap_or(0);
        let (requests, tokens) = (most(Unit::Requests), most(Unit::Tokens));
        let (cost, at) = (Cost { requests, tokens }, self.live.pool.blocking().now());
        let calls = members.zip(first..).flat_map(|(member, lease)| {
            let (member, class, flow, expires) = (stable_hash(member.name.as_bytes()), 0, 0, None);
            let granted = Charge::Granted {
                lease,
                member,
                class,
                flow,
                cost,
                at,
                expires,
            };
            [granted, Charge::Ended { lease, cost, at }]
        });
        calls.collect()
    }

    /// Writes the charge of a request before it is sent.
    pub(crate) fn write_charges(&self) -> Result<(), StateError> {
        let written = self.live.state.as_ref().map(|state| state.write_due(self));
        written.unwrap_or(Ok(()))
    }

    /// Writes all charges, due or not.
    pub(crate) fn flush_charges(&self) -> Result<(), StateError> {
        let written = self.live.state.as_ref().map(|state| state.write_all(self));
        written.unwrap_or(Ok(()))
    }

    /// Adds a member under its name.
    pub(crate) fn add(&self, settings: &MemberSettings) -> Result<MemberId, PoolError> {
        let error = |problem: String| self.error(&settings.name, problem);
        let sync = self.live.pool.blocking();
        if sync.member(&settings.name).is_some() {
            return Err(error("there is one of this name already".to_owned()));
        }
        let backend = Backend::new(settings, self.settings.kind).map_err(error)?;
        let (labels, limits) = self.labels_and_limits(settings)?;
        let mut member = Member::new(backend)
            .weight(settings.weight)
            .tier(settings.tier)
            .labels(labels);
        member = match &settings.group {
            Some(group) => member.group(self.group(group, settings)?),
            None => member.limits(limits),
        };
        if let Some(max) = self.max_leases(settings) {
            member = member.max_leases(max);
        }
        sync.add_named(&settings.name, member)
            .map_err(|full| error(full.to_string()))
    }

    /// How many leases a member may have at once; a ComfyUI server runs one job, and holds a few more ready.
    fn max_leases(&self, settings: &MemberSettings) -> Option<NonZeroU32> {
        match self.settings.kind {
            Kind::Http | Kind::Openai => settings.max_connections,
            Kind::Comfyui => {
                let ready = self.settings.comfyui.prefetch;
                Some(NonZeroU32::MIN.saturating_add(ready))
            }
        }
    }

    /// Whether a member was made from an address of a name.
    pub(crate) fn is_made_from_name(&self, name: &str) -> bool {
        let mut members = self.settings.members.iter();
        members.any(|member| member.name == name && is_made(member))
    }

    /// Its name, as callers are told it.
    pub(crate) fn shown_name(&self) -> &HeaderValue {
        &self.shown_name
    }

    pub(crate) fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    pub(crate) fn pool(&self) -> &TokioPool<Backend> {
        &self.live.pool
    }

    /// Returns its members, and the condition of each: one whose key is turned away is down. O(members), under the pool's
    /// lock.
    pub(crate) fn conditions(&self) -> Vec<(MemberId, Arc<Backend>, MemberCondition)> {
        let mut conditions = self.pool().blocking().conditions();
        for (_, backend, condition) in &mut conditions {
            condition.is_up &= !is_turned_away(backend);
        }
        conditions
    }

    /// Returns why no key of a service can be used, if all of them are turned away.
    fn turned_away(&self) -> Option<String> {
        let backends = self.pool().blocking().members();
        let (_, last) = backends.last()?;
        let all = backends.iter().all(|(_, backend)| is_turned_away(backend));
        all.then(|| {
            let why = last.last_failure().unwrap_or_default();
            format!("all keys of the pool are turned away; of the last one it is known that {why}")
        })
    }

    pub(crate) fn repeats(&self) -> &RepeatCounts {
        &self.live.counts
    }

    /// Whether both are the same pool, perhaps under other settings.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.live, &other.live)
    }

    /// Returns what is asked of the pool for a client's request.
    pub(crate) fn request(&self, client: Option<IpAddr>, session: &Session) -> Request {
        let settings = &self.settings;
        let now = self.live.pool.tick_of(poll_time());
        let mut asked = Request::new().deadline(now.saturating_add(settings.max_wait));
        if settings.policy.uses_key() {
            let key = client.map(|client| client.to_string()).unwrap_or_default();
            asked = asked.key(stable_hash(key.as_bytes()));
        }
        if let Some(session) = session.number {
            asked = asked.session(session);
        }
        asked
    }

    /// The leases that workers hold.
    pub(crate) fn lent(&self) -> &Lent {
        &self.live.lent
    }

    /// Says why a request has no member, and when it may have one.
    pub(crate) fn refusal(&self, refused: &AcquireError, request: &Request) -> Refusal {
        let pool = self.pool();
        if let Some(Cause::Throttled { .. }) = refused.cause()
            && let Some(why) = self.turned_away()
        {
            // No wait is told: another try would only be worth it with other keys.
            return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_key", why);
        }
        let response: Response<String> = pool.refusal_response(refused);
        let status = response.status();
        let code = match status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
            _ => "no_key",
        };
        let text = pool.blocking().describe(*refused, request);
        let never = matches!(refused, AcquireError::NeverFits).then_some(Cause::NeverFits);
        let cause = refused.cause().or(never);
        Refusal::new(status, code, text)
            .with_wait(pool.retry_after(refused))
            .with_cause(cause)
    }

    /// Counts a first attempt for the budget of repeats.
    pub(crate) fn count_attempt(&self) {
        lock(&self.live.budget).deposit(self.live.pool.tick_of(poll_time()));
    }

    /// Counts a request that failed and could not be repeated.
    pub(crate) fn count_unrepeated(&self) {
        self.live.counts.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether attempt `number` of a request, from 1 on, may be followed by another; takes it from the budget.
    pub(crate) fn may_repeat(&self, number: u32) -> bool {
        let now = self.live.pool.blocking().now();
        let may = number < self.settings.retry.attempts.get()
            && lock(&self.live.budget).try_retry(now).is_ok();
        match may {
            true => self.live.counts.made.fetch_add(1, Ordering::Relaxed),
            false => self.live.counts.refused.fetch_add(1, Ordering::Relaxed),
        };
        may
    }
}

/// Whether members that serve have different weights, and the policy does not go by them.
fn has_idle_weights(settings: &PoolSettings) -> bool {
    let weights = settings.members.iter().map(|member| member.weight);
    let weights: BTreeSet<u16> = weights.filter(|weight| *weight > 0).collect();
    weights.len() > 1 && !settings.policy.uses_weight()
}

fn is_turned_away(backend: &Backend) -> bool {
    let service = backend.service();
    service.is_some_and(Service::is_turned_away)
}

fn pool_config(settings: &PoolSettings, logs_charges: bool) -> Result<PoolConfig, PoolError> {
    let micros = unix_tick().as_nanos() / 1_000;
    let mut config = PoolConfig::builder(settings.policy)
        .first_fence(micros)
        .seed(fastrand::u64(..))
        .max_waiters(settings.max_waiters)
        .panic_threshold(settings.panic_threshold);
    if logs_charges {
        config = config.log_charges(BLOCK);
    }
    if settings.kind == Kind::Comfyui && settings.comfyui.queue_weight {
        config = config.weigh_by_time();
    }
    if let Some(limits) = &settings.limits {
        config = config.limits(limits.limits());
    }
    if let Some(breaker) = &settings.breaker {
        config = config.breaker(*breaker);
    }
    if let Some(health) = &settings.health {
        config = config.health(health.probes);
    }
    if let Some(outlier) = &settings.outlier {
        config = config.outlier(*outlier);
    }
    if let Some(slow_start) = &settings.slow_start {
        config = config.slow_start(*slow_start);
    }
    if let Some(affinity) = &settings.affinity {
        config = config.affinity(affinity.capacity, affinity.ttl);
    }
    config.build().map_err(|error| PoolError::Config {
        pool: settings.name.clone(),
        error,
    })
}

/// What each of some limits that are of this unit admits in its window.
pub(crate) fn rates<'l>(
    specs: impl Iterator<Item = &'l LimitSpecs>,
    unit: Unit,
) -> impl Iterator<Item = u32> {
    let limits = specs
        .flat_map(|specs| specs.iter())
        .filter(move |limit| limit.unit() == unit);
    limits.filter_map(|limit| match limit {
        LimitSpec::Rate { rate, .. } => Some(rate.limit.get()),
        LimitSpec::Concurrent(_) => None,
    })
}

/// Returns the longest window of a pool's limits, those of its callers included; zero if it has none.
pub(crate) fn longest_window(settings: &PoolSettings, callers: &Callers) -> Duration {
    let of_callers = match settings.kind {
        Kind::Openai => callers.longest_window(),
        Kind::Http | Kind::Comfyui => Duration::ZERO,
    };
    let members = settings
        .members
        .iter()
        .filter_map(|member| member.limits.as_ref());
    let windows = members
        .chain(&settings.limits)
        .map(LimitSpecs::longest_window);
    windows.max().unwrap_or_default().max(of_callers)
}

fn error(settings: &PoolSettings, member: &str, problem: String) -> PoolError {
    PoolError::Member {
        pool: settings.name.clone(),
        member: member.to_owned(),
        problem,
    }
}
