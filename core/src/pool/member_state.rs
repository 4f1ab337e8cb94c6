//! A member as its pool knows it: what is remembered of it, and whether it can serve.
//!
//! Invariant: a removed member that holds no lease is gone.

use super::backlog::Backlog;
use super::config::PoolConfig;
use super::eligibility::Eligibility;
use super::groups::SharedLimits;
use super::ids::GroupIndex;
use super::labels::{LabelSet, LabelSets};
use super::lane::LaneKey;
use super::member::Settings;
use super::outcome::LeaseEnd;
use super::stats::MemberFigures;
use super::times::ServiceTimes;
use crate::balance::{MemberLoad, PeakEwma};
use crate::health::{
    self, Breaker, BreakerConfig, BreakerState, OutcomeWindow, ProbeConfig, Prober, SlowStart,
};
use crate::limit::{Cost, LimitSet, Wait};
use crate::time::{Tick, earliest};
use crate::util::slab::Handle;
use alloc::boxed::Box;

/// The least work of a member that was never measured and is busy: above all that is measured.
const UNMEASURED: u64 = 1 << 63;

/// Whether an operator lets a member serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Status {
    /// It is granted leases.
    Enabled,
    /// It is granted none until it is enabled.
    Disabled,
    /// It is granted none, and an event tells when its last one has ended.
    Draining,
    /// It was removed, and leases on it are still held.
    Removing,
}

/// A member of the pool.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct MemberState<T> {
    pub(super) status: Status,
    pub(super) tier: u8,
    pub(super) weight: u16,
    pub(super) max_leases: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) in_flight: u32,
    /// Fast failures that count as leases.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) fast_failures: u32,
    /// Those of them whose end is not known, because no call of their class has succeeded. They don't make the
    /// member full, or it would never be tried again.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) untimed_failures: u32,
    /// The place of its last grant, release or arrival in the order of all of them.
    pub(super) last_used_seq: u64,
    pub(super) group: Option<GroupIndex>,
    /// Its entry in the panic threshold's counts: `None` if not counted, else whether it is healthy.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) counted: Option<bool>,
    pub(super) limits: LimitSet,
    /// The cost of leases that may be granted before charges are written.
    pub(super) block: Cost,
    /// Made when health is watched, or at the first throttle.
    pub(super) health: Option<Box<MemberHealth>>,
    /// Its own settings, if it has any. They are configuration, which a snapshot leaves out.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) settings: Option<Box<Settings>>,
    pub(super) slow_start: SlowStart,
    /// The seed of its probes' times.
    pub(super) probe_seed: u64,
    /// Virtual time of stride scheduling, where the policy uses it.
    pub(super) pass: u64,
    /// The queue depth that it last reported, and leases granted since.
    pub(super) depth: Option<u32>,
    pub(super) granted_since_depth: u32,
    /// Leases granted since the probe under way began.
    pub(super) granted_since_probe: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) latency: Option<PeakEwma>,
    /// Kept where work is weighed by time.
    pub(super) service: ServiceTimes,
    /// Its leases as jobs, kept where work is weighed by time.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) backlog: Backlog,
    pub(super) labels: LabelSet,
    pub(super) identity: u64,
    pub(super) figures: MemberFigures,
    pub(super) payload: T,
}

/// The health of a member.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct MemberHealth {
    /// The tick until which its upstream serves no calls.
    pub(super) cooldown_until: Tick,
    pub(super) prober: Option<Prober>,
    /// The probe under way.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) probe: Option<health::ProbeNumber>,
    pub(super) outcomes: OutcomeWindow,
    pub(super) breaker: Breaker,
    /// The state of the breaker that an event last told.
    pub(super) told: ToldBreaker,
}

/// The state of a breaker that the last event about it told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) enum ToldBreaker {
    #[default]
    Closed,
    Open {
        until: Tick,
    },
    HalfOpen,
}

impl MemberHealth {
    /// The health of a new member, where it is watched.
    pub(super) fn new(
        config: &PoolConfig,
        own: &Settings,
        now: Tick,
        seed: u64,
    ) -> Option<Box<Self>> {
        let prober = own.probes.or(&config.health);
        let breaker = own.breaker.or(&config.breaker);
        let is_watched = prober.is_some() || breaker.is_some() || config.outlier.is_some();
        is_watched.then(|| {
            Box::new(Self {
                prober: prober.map(|config| Prober::new(config, now, seed)),
                ..Self::default()
            })
        })
    }
}

/// The state of the pool that decides over a member together with its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct EligibilityContext<'a> {
    pub(super) config: &'a PoolConfig,
    pub(super) shared: &'a SharedLimits,
    pub(super) label_sets: &'a LabelSets,
    /// The present, by which health is judged.
    pub(super) now: Tick,
    /// The tick up to which the pool has caught up, by which limits are judged.
    pub(super) as_of: Tick,
    pub(super) in_panic: bool,
}

impl<T> MemberState<T> {
    /// Whether it can serve a cost, and if not, the reason. Reasons without a tick come first, in the order of
    /// the checks; of those with a tick, the one that lasts longest is told.
    pub(super) fn eligibility(
        &self,
        class: u32,
        cost: Cost,
        ctx: &EligibilityContext<'_>,
    ) -> Eligibility {
        match self.status {
            Status::Removing => return Eligibility::Removed,
            Status::Disabled => return Eligibility::Disabled,
            Status::Draining => return Eligibility::Draining,
            Status::Enabled if self.weight == 0 => return Eligibility::Draining,
            Status::Enabled => {}
        }
        if !ctx.in_panic && self.is_down() {
            return Eligibility::Unhealthy;
        }
        let timed_failures = self.fast_failures.saturating_sub(self.untimed_failures);
        if self.in_flight.saturating_add(timed_failures) >= self.max_leases {
            return Eligibility::Full;
        }
        self.eligibility_but_for_leases(class, cost, ctx)
    }

    /// Whether it could serve a cost if its status, its probes and its bound on leases allowed it.
    fn eligibility_but_for_leases(
        &self,
        class: u32,
        cost: Cost,
        ctx: &EligibilityContext<'_>,
    ) -> Eligibility {
        let mut longest = Longest::new(ctx.as_of);
        if let Some(until) = self.ejected(ctx.now).filter(|_| !ctx.in_panic) {
            longest.add(until, Eligibility::Ejected { until });
        }
        if let Some(health) = &self.health {
            let until = health.cooldown_until;
            longest.add(until, Eligibility::Throttled { until });
            let config = self.breaker_config(ctx.config);
            match config.map(|config| (config, health.breaker.state(config, ctx.now))) {
                None | Some((_, BreakerState::Closed)) => {}
                Some((_, BreakerState::Open { until })) => {
                    longest.add(until, Eligibility::BreakerOpen { until });
                }
                Some((config, BreakerState::HalfOpen { .. })) => {
                    if health.breaker.earliest(config, ctx.now) == Wait::ForSettlement {
                        return Eligibility::BreakerHalfOpen;
                    }
                }
            }
        }
        let group = self.group.and_then(|group| ctx.shared.group(group));
        for limits in [Some(&self.limits), group].into_iter().flatten() {
            match limits.earliest(ctx.as_of, class, cost) {
                Wait::Until(until) => longest.add(until, Eligibility::AtLimit { until }),
                Wait::ForSettlement => return Eligibility::AwaitingCompletion,
                Wait::Never => return Eligibility::NeverFits,
            }
        }
        longest.reason
    }

    /// Whether the end of a lease would make it ready, and nothing else holds it back.
    pub(super) fn is_only_full(
        &self,
        class: u32,
        cost: Cost,
        ctx: &EligibilityContext<'_>,
    ) -> bool {
        self.eligibility(class, cost, ctx) == Eligibility::Full
            && self.eligibility_but_for_leases(class, cost, ctx) == Eligibility::Ready
    }

    /// The configuration of its breaker.
    #[inline]
    pub(super) fn breaker_config<'a>(
        &'a self,
        config: &'a PoolConfig,
    ) -> Option<&'a BreakerConfig> {
        match &self.settings {
            None => config.breaker.as_ref(),
            Some(own) => own.breaker.or(&config.breaker),
        }
    }

    /// Its breaker, with the configuration.
    #[inline]
    pub(super) fn breaker_mut(
        &mut self,
        config: &PoolConfig,
    ) -> Option<(BreakerConfig, &mut MemberHealth)> {
        let config = *self.breaker_config(config)?;
        Some((config, self.health.as_deref_mut()?))
    }

    /// The configuration of its probes.
    pub(super) fn probe_config<'a>(&'a self, config: &'a PoolConfig) -> Option<&'a ProbeConfig> {
        match &self.settings {
            None => config.health.as_ref(),
            Some(own) => own.probes.or(&config.health),
        }
    }

    /// Whether requests of a lane may go to it.
    pub(super) fn matches(&self, handle: Handle, key: &LaneKey, sets: &LabelSets) -> bool {
        match key.pin {
            Some(pin) => pin == handle,
            None => sets.contains(self.labels, key.labels),
        }
    }

    /// Whether it was removed, and only its leases keep it.
    pub(super) fn is_leaving(&self) -> bool {
        self.status == Status::Removing
    }

    /// Leases held, and fast failures that count as such.
    pub(super) fn load(&self) -> u32 {
        self.in_flight.saturating_add(self.fast_failures)
    }

    /// Extends its cooldown to `until`.
    pub(super) fn cool_down(&mut self, until: Tick) {
        let health = self.health.get_or_insert_default();
        health.cooldown_until = health.cooldown_until.max(until);
    }

    /// Whether its probes fail.
    pub(super) fn is_down(&self) -> bool {
        let prober = self.health.as_ref().and_then(|it| it.prober.as_ref());
        prober.is_some_and(|prober| !prober.is_up())
    }

    /// The end of its ejection.
    pub(super) fn ejected(&self, now: Tick) -> Option<Tick> {
        self.health.as_ref()?.outcomes.ejected_until(now)
    }

    /// Its entry in the counts of the panic threshold.
    pub(super) fn is_healthy(&self, now: Tick) -> Option<bool> {
        let counts = self.status == Status::Enabled && self.weight > 0;
        counts.then(|| !self.is_down() && self.ejected(now).is_none())
    }

    /// The weight that policies see. Hash policies see the full one, so that no keys move.
    pub(super) fn weight_at(&self, config: &PoolConfig, now: Tick) -> u32 {
        let full = u32::from(self.weight);
        match &config.slow_start {
            _ if config.policy.uses_key() => full,
            Some(ramp) => self.slow_start.weight_at(ramp, now, full),
            None => full.saturating_mul(SlowStart::SCALE),
        }
    }

    /// Its load for calls of a class, as far as the policy uses it.
    #[inline]
    pub(super) fn member_load(&self, config: &PoolConfig, class: u32, now: Tick) -> MemberLoad {
        let policy = config.policy;
        MemberLoad {
            load: self.load(),
            last_used_seq: self.last_used_seq,
            pass: if policy.uses_pass() { self.pass } else { 0 },
            work: if policy.uses_work() {
                self.work(config, class, now)
            } else {
                0
            },
            latency: match policy.half_life() {
                Some(_) => self.latency.as_ref().and_then(PeakEwma::key),
                None => None,
            },
        }
    }

    /// Whether it has no jobs, as far as is known.
    pub(super) fn is_idle(&self) -> bool {
        self.jobs() == 0
    }

    /// The jobs that it has, its upstream's included as far as they are known.
    fn jobs(&self) -> u64 {
        match self.depth {
            // A failure since the report is among both.
            Some(depth) => {
                let since = self.granted_since_depth.max(self.fast_failures);
                u64::from(depth).saturating_add(since.into())
            }
            None => self.load().into(),
        }
    }

    /// The jobs ahead of the next one, by weight, or the nanoseconds until it would be done, where work is weighed
    /// by time. A member that was never measured comes first while idle and last while busy.
    fn work(&self, config: &PoolConfig, class: u32, now: Tick) -> u64 {
        let jobs = self.jobs();
        if !config.weigh_by_time {
            let scaled = jobs.saturating_mul(1 << 20);
            let weight = u64::from(self.weight_at(config, now));
            return scaled.checked_div(weight).unwrap_or(scaled);
        }
        match self.service.estimate(class) {
            Some(mean) => {
                let known = self.nanos_ahead(jobs, mean).saturating_add(mean);
                known.clamp(1, UNMEASURED.saturating_sub(1))
            }
            None if jobs == 0 => 0,
            None => UNMEASURED.saturating_add(jobs),
        }
    }

    /// The nanoseconds that its own jobs take in all, and each of the others the mean.
    fn nanos_ahead(&self, jobs: u64, mean: u64) -> u64 {
        let others = jobs.saturating_sub(self.in_flight.into());
        let own = self.backlog.nanos(mean);
        own.saturating_add(others.saturating_mul(mean))
    }

    /// When it would serve the next call of a class; `None` where it was never measured.
    pub(super) fn prospect(&self, class: u32, as_of: Tick) -> Option<Prospect> {
        let mean = self.service.estimate(class)?;
        let ahead = self.nanos_ahead(self.jobs(), mean);
        let from = match self.backlog.is_empty() {
            true => as_of,
            false => self.backlog.began(),
        };
        let free = from.as_nanos().saturating_add(ahead);
        let late_at = self.backlog.late_at(mean);
        Some(Prospect {
            free: Tick::from_nanos(free).max(as_of),
            mean,
            late_at,
            is_late: late_at.is_some_and(|late| late <= as_of),
        })
    }

    /// The next tick at which its health or its slow start changes by itself.
    pub(super) fn next_timer(&self, config: &PoolConfig, now: Tick) -> Option<Tick> {
        let ramp = config.slow_start.as_ref();
        let ramp = ramp.and_then(|ramp| self.slow_start.next_change(ramp, now));
        let Some(health) = &self.health else {
            return ramp;
        };
        let prober = health.prober.as_ref().and_then(Prober::poll_timeout);
        let breaker = self.breaker_config(config);
        let breaker = breaker.and_then(|_| health.breaker.poll_timeout());
        let timers = earliest(
            earliest(prober, breaker),
            earliest(ramp, health.outcomes.ejected_until(now)),
        );
        // The last tick never passes.
        timers.filter(|tick| *tick < Tick::MAX)
    }

    /// Enters a grant.
    pub(super) fn record_grant(
        &mut self,
        now: Tick,
        sequence: u64,
        stride: u64,
        counts_work: bool,
    ) {
        self.figures.measure(now, self.in_flight);
        self.in_flight = self.in_flight.saturating_add(1);
        self.last_used_seq = sequence;
        self.pass = self.pass.saturating_add(stride);
        if counts_work {
            self.granted_since_depth = self.granted_since_depth.saturating_add(1);
            self.granted_since_probe = self.granted_since_probe.saturating_add(1);
        }
    }

    /// Enters the end of a lease.
    pub(super) fn record_end(&mut self, now: Tick, sequence: u64, end: &LeaseEnd, held: u64) {
        self.figures.measure(now, self.in_flight);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.last_used_seq = sequence;
        self.figures.record_end(end, held);
    }

    /// Takes back what a grant counted, because the call was not sent.
    pub(super) fn take_back_grant(&mut self, stride: u64) {
        self.pass = self.pass.saturating_sub(stride);
        self.granted_since_depth = self.granted_since_depth.saturating_sub(1);
        self.granted_since_probe = self.granted_since_probe.saturating_sub(1);
    }

    /// Enters the depth that it reported, after which `granted_since` leases were granted.
    pub(super) fn report_depth(&mut self, depth: u32, granted_since: u32) {
        self.depth = Some(depth);
        self.granted_since_depth = granted_since;
    }
}

/// When a member would serve the next call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prospect {
    /// The tick at which the jobs ahead are expected to have ended; now at the earliest.
    pub(super) free: Tick,
    /// The nanoseconds that the call would take; above zero.
    pub(super) mean: u64,
    /// The tick at which its present job is late; `None` while it has none.
    pub(super) late_at: Option<Tick>,
    pub(super) is_late: bool,
}

impl Prospect {
    /// The tick at which the call is expected to end.
    pub(super) fn ends(&self) -> Tick {
        let ends = self.free.as_nanos().saturating_add(self.mean);
        Tick::from_nanos(ends)
    }
}

/// The reason that lasts longest, and until when.
struct Longest {
    until: Tick,
    reason: Eligibility,
}

impl Longest {
    fn new(now: Tick) -> Self {
        Self {
            until: now,
            reason: Eligibility::Ready,
        }
    }

    fn add(&mut self, until: Tick, reason: Eligibility) {
        if until > self.until {
            *self = Self { until, reason };
        }
    }
}
