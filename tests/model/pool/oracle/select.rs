//! Eligibility, the choice of a member, and the causes of refusals.

use super::super::case::{Ask, Choice};
use super::super::owner::Owner;
use super::{FastFailure, Kind, Opening, Oracle, State, opening_of};
use leasehold_core::balance::{Availability, Balancer, MemberLoad, PeakEwma};
use leasehold_core::health::BreakerState;
use leasehold_core::health::SlowStart;
use leasehold_core::limit::{Cost, Wait};
use leasehold_core::pool::{Cause, Eligibility};
use leasehold_core::time::Tick;

impl Oracle {
    pub(super) fn matches(&self, kind: Kind, member: usize) -> bool {
        match kind.pin {
            Some(pin) => pin == member,
            None => self.members[member].setup.labels() & kind.labels == kind.labels,
        }
    }

    pub(super) fn fits(&self, kind: Kind, cost: Cost) -> bool {
        let admits = |owner: &Owner| owner.earliest(self.now, kind.class, cost) != Wait::Never;
        let mut has_none = true;
        let mut fits = false;
        for (name, member) in self.members.iter().enumerate() {
            let leaves = matches!(member.state, State::Removing | State::Gone);
            if !leaves && self.matches(kind, name) {
                has_none = false;
                let group = member.setup.group();
                fits |= admits(&member.owner) && group.is_none_or(|at| admits(&self.groups[at]));
            }
        }
        (has_none || fits) && admits(&self.shared)
    }

    /// Whether the limits of its flow would ever admit a request.
    pub(super) fn fits_flow(&self, ask: Ask) -> bool {
        let flow = self.flows.get(&ask.flow());
        let wait = flow.map(|flow| flow.owner.earliest(self.now, ask.class(), ask.cost()));
        wait != Some(Wait::Never)
    }

    pub(super) fn reason(&self, name: usize, kind: Kind, cost: Cost) -> Eligibility {
        let timed = |one: &&FastFailure| one.end().is_some_and(|end| end > self.as_of);
        let its = self.fast_failures.iter().filter(|one| one.member == name);
        let timed_failures = its.filter(timed).count() as u32;
        let member = &self.members[name];
        match member.state {
            State::Removing | State::Gone => return Eligibility::Removed,
            State::Disabled => return Eligibility::Disabled,
            State::Draining => return Eligibility::Draining,
            State::Enabled if member.weight == 0 => return Eligibility::Draining,
            State::Enabled => {}
        }
        if !self.panic && member.health.as_ref().is_some_and(|one| !one.is_up()) {
            return Eligibility::Unhealthy;
        }
        if member.in_flight + timed_failures >= member.setup.max_leases() {
            return Eligibility::Full;
        }
        self.reason_but_for_leases(name, kind, cost)
    }

    /// The reason of a member whose status, probes and bound on leases let it serve.
    pub(super) fn reason_but_for_leases(&self, name: usize, kind: Kind, cost: Cost) -> Eligibility {
        let at = self.as_of;
        let breaker = self.breaker_of(name);
        let member = &self.members[name];
        let group = member.setup.group();
        let mut holds = vec![(at, 0, Eligibility::Ready)];
        if let Some(until) = member.outcomes.ejected_until(self.tick())
            && !self.panic
        {
            holds.push((until.as_nanos(), 1, Eligibility::Ejected { until }));
        }
        let until = Tick::from_nanos(member.cooldown_until);
        holds.push((member.cooldown_until, 2, Eligibility::Throttled { until }));
        if let Some(config) = breaker {
            match member.breaker.state(&config, self.tick()) {
                BreakerState::Open { until } => {
                    holds.push((until.as_nanos(), 3, Eligibility::BreakerOpen { until }));
                }
                BreakerState::HalfOpen { probes: 1.., .. } => return Eligibility::BreakerHalfOpen,
                BreakerState::HalfOpen { .. } | BreakerState::Closed => {}
            }
        }
        let owners = [Some(&member.owner), group.map(|group| &self.groups[group])];
        for owner in owners.into_iter().flatten() {
            match owner.earliest(at, kind.class, cost) {
                Wait::Until(until) => {
                    holds.push((until.as_nanos(), 4, Eligibility::AtLimit { until }))
                }
                Wait::ForSettlement => return Eligibility::AwaitingCompletion,
                Wait::Never => return Eligibility::NeverFits,
            }
        }
        let latest = holds.iter().map(|(until, ..)| *until).max().unwrap_or(at);
        let mut longest = holds.into_iter().filter(|(until, ..)| *until == latest);
        longest
            .next()
            .map_or(Eligibility::Ready, |(.., reason)| reason)
    }

    /// When the first member of a lane is ready; the pool's own limits count if one is ready now.
    pub(crate) fn lane_opening(&self, kind: Kind, cost: Cost) -> Opening {
        let openings: Vec<_> = (0..self.members.len())
            .filter(|member| self.matches(kind, *member))
            .map(|member| opening_of(self.reason(member, kind, cost)))
            .collect();
        if openings.contains(&Opening::Now) {
            return match self.shared.earliest(self.as_of, kind.class, cost) {
                Wait::Until(at) if at.as_nanos() <= self.as_of => Opening::Now,
                Wait::Until(at) => Opening::At(at.as_nanos()),
                Wait::ForSettlement => Opening::AnyTime,
                Wait::Never => Opening::Unknown,
            };
        }
        if openings.contains(&Opening::AnyTime) {
            return Opening::AnyTime;
        }
        self.first_tick(kind, cost)
            .map_or(Opening::Unknown, Opening::At)
    }

    /// The causes that a refusal may name: those of the members that can serve soonest.
    pub(crate) fn causes_of(&self, kind: Kind, cost: Cost) -> Vec<Cause> {
        let reasons: Vec<_> = (0..self.members.len())
            .filter(|one| self.matches(kind, *one))
            .map(|one| self.reason(one, kind, cost))
            .filter(|reason| *reason != Eligibility::Removed)
            .collect();
        // Under least time, the request waits for a member that is full.
        let is_postponed = self.choice == Choice::LeastTime
            && reasons.contains(&Eligibility::Full)
            && self.lane_opening(kind, cost) == Opening::Now;
        if reasons.contains(&Eligibility::Ready) && !is_postponed {
            return vec![match self.shared.earliest(self.as_of, kind.class, cost) {
                Wait::Until(until) if until.as_nanos() <= self.as_of => Cause::BehindOthers,
                Wait::Until(until) => Cause::AtLimit { until },
                Wait::ForSettlement => Cause::AwaitingCompletion,
                Wait::Never => Cause::NeverFits,
            }];
        }
        let causes: Vec<_> = reasons.into_iter().map(cause_of).collect();
        let rank = |cause: &Cause| match cause {
            Cause::Full | Cause::BreakerHalfOpen | Cause::AwaitingCompletion => (0, None),
            Cause::AtLimit { .. }
            | Cause::Throttled { .. }
            | Cause::Ejected { .. }
            | Cause::BreakerOpen { .. } => (1, cause.until()),
            Cause::Unhealthy => (2, None),
            Cause::FlowAtLimit { .. } => unreachable!("it is no member's"),
            Cause::Disabled | Cause::NeverFits | Cause::NoMember | Cause::BehindOthers => (3, None),
        };
        let first = causes.iter().map(rank).min();
        // The pool judges only the first members of a lane again, and may miss that a later one waits for a
        // completion where costs differ or groups share limits.
        let first_tick = causes.iter().map(rank).filter(|(kind, _)| *kind == 1).min();
        let first_tick = first_tick.filter(|_| first.is_some_and(|(kind, _)| kind == 0));
        let soonest = causes.into_iter().filter(|cause| {
            let rank = Some(rank(cause));
            rank == first || rank == first_tick
        });
        let soonest: Vec<_> = soonest.collect();
        match soonest.is_empty() {
            true => vec![Cause::NoMember],
            false => soonest,
        }
    }

    /// The same for the request at the head of a lane.
    pub(crate) fn causes_of_head(&self, kind: Kind) -> Vec<Cause> {
        match self.next(kind) {
            Some((_, head)) => self.causes_of(kind, self.waiters[head].ask.cost()),
            // All flows in it are held back by limits of their own.
            None => vec![Cause::BehindOthers],
        }
    }

    /// The first known tick at which a member of a lane is ready.
    pub(super) fn first_tick(&self, kind: Kind, cost: Cost) -> Option<u64> {
        let members = (0..self.members.len()).filter(|member| self.matches(kind, *member));
        let openings = members.map(|member| opening_of(self.reason(member, kind, cost)));
        openings
            .filter_map(|opening| match opening {
                Opening::At(at) => Some(at),
                Opening::Now | Opening::AnyTime | Opening::Unknown => None,
            })
            .min()
    }

    fn fast_failures_of(&self, member: usize) -> u32 {
        let its = self.fast_failures.iter().filter(|one| one.member == member);
        let alive = its.filter(|one| one.end().is_none_or(|end| end > self.as_of));
        alive.count() as u32
    }

    /// The jobs that a member has, its upstream's included.
    pub(super) fn jobs(&self, name: usize) -> u64 {
        let member = &self.members[name];
        let fast_failures = self.fast_failures_of(name);
        u64::from(match member.depth {
            Some(depth) => depth + member.granted_since_depth.max(fast_failures),
            None => member.in_flight + fast_failures,
        })
    }

    fn member_load(&self, name: usize, class: u32) -> MemberLoad {
        let member = &self.members[name];
        let fast_failures = self.fast_failures_of(name);
        let jobs = self.jobs(name);
        let work = if self.choice == Choice::LeastTime {
            match self.estimate_of(name, class) {
                Some(mean) => self.ahead_of_next(name, mean) + mean,
                None if jobs == 0 => 0,
                None => u64::MAX / 2 + jobs,
            }
        } else {
            let scaled = jobs << 20;
            scaled
                .checked_div(self.weight(name).into())
                .unwrap_or(scaled)
        };
        MemberLoad {
            load: member.in_flight + fast_failures,
            pass: member.pass,
            last_used_seq: member.stamp,
            work,
            latency: member.latency.as_ref().and_then(PeakEwma::key),
        }
    }

    pub(super) fn weight(&self, name: usize) -> u32 {
        let member = &self.members[name];
        match self.watch.slow_start() {
            _ if self.choice.policy().uses_key() => member.weight.into(),
            Some(ramp) => member
                .slow_start
                .weight_at(&ramp, self.tick(), member.weight.into()),
            None => u32::from(member.weight) * SlowStart::SCALE,
        }
    }

    /// The member of the session, or the one that the policy chooses, of the lowest tier with a ready one.
    pub(super) fn choose(&mut self, kind: Kind, ask: Ask) -> usize {
        let hint = self.hints.pop_front();
        let hint = hint.expect("the machine grants as much as the oracle");
        if !self.choice.is_settled(&ask) && kind.pin.is_none() {
            let ready = self.nearest_ready(kind, ask);
            let held = self.session_member(ask);
            if held.is_none_or(|held| !ready.contains(&held)) {
                assert!(ready.contains(&hint), "{hint} of {ready:?}");
                return hint;
            }
        }
        let chosen = self.preferred(kind, ask);
        self.faster(kind, ask, chosen, None)
    }

    /// The ready members of the lowest tier that has any.
    fn nearest_ready(&self, kind: Kind, ask: Ask) -> Vec<usize> {
        let ready: Vec<usize> = (0..self.members.len())
            .filter(|one| self.matches(kind, *one))
            .filter(|one| self.reason(*one, kind, ask.cost()) == Eligibility::Ready)
            .collect();
        let tier = |name: usize| self.members[name].setup.tier();
        let nearest = ready.iter().map(|one| tier(*one)).min();
        ready
            .into_iter()
            .filter(|one| Some(tier(*one)) == nearest)
            .collect()
    }

    /// The member of the session, or the one that a policy which depends on the members' load alone chooses.
    pub(super) fn preferred(&self, kind: Kind, ask: Ask) -> usize {
        let ready = self.nearest_ready(kind, ask);
        let tier = |name: usize| self.members[name].setup.tier();
        let nearest = tier(*ready.first().expect("a member is ready"));
        if kind.pin.is_none()
            && let Some(held) = self.session_member(ask)
            && ready.contains(&held)
        {
            return held;
        }
        if kind.pin.is_some() {
            return ready[0];
        }
        let mut balancer = Balancer::new(self.choice.policy(), 0);
        for name in 0..self.members.len() {
            if tier(name) == nearest
                && self.matches(kind, name)
                && !matches!(self.members[name].state, State::Removing | State::Gone)
            {
                let identity = leasehold_core::balance::stable_hash(name.to_string().as_bytes());
                let member_load = self.member_load(name, kind.class);
                balancer.insert(name as u32, identity, self.weight(name));
                let availability = match self.reason(name, kind, ask.cost()) {
                    Eligibility::Ready => Availability::Ready,
                    Eligibility::Ejected { .. }
                    | Eligibility::BreakerOpen { .. }
                    | Eligibility::BreakerHalfOpen
                    | Eligibility::Full
                    | Eligibility::Throttled { .. }
                    | Eligibility::AtLimit { .. }
                    | Eligibility::AwaitingCompletion
                    | Eligibility::NeverFits => Availability::Busy,
                    Eligibility::LowerTier
                    | Eligibility::BehindOthers
                    | Eligibility::WrongLabels
                    | Eligibility::NotPinned
                    | Eligibility::Removed
                    | Eligibility::Disabled
                    | Eligibility::Draining
                    | Eligibility::FlowAtLimit { .. }
                    | Eligibility::Unhealthy => Availability::Out,
                };
                balancer.update(name as u32, &member_load, availability);
            }
        }
        balancer.choose(ask.key()).expect("a member is ready") as usize
    }

    /// The member that served the session last.
    pub(super) fn session_member(&self, ask: Ask) -> Option<usize> {
        let held = self.affinity.as_ref()?.peek(self.tick(), ask.session()?)?;
        (self.members[held].state != State::Gone).then_some(held)
    }

    pub(super) fn assign_session(&mut self, kind: Kind, ask: Ask, mut chosen: usize) {
        let Some(session) = ask.session().filter(|_| kind.pin.is_none()) else {
            return;
        };
        let tier = |oracle: &Self, name: usize| oracle.members[name].setup.tier();
        if let Some(held) = self.session_member(ask)
            && held != chosen
            && tier(self, held) <= tier(self, chosen)
            && self.matches(kind, held)
            && matches!(
                self.reason(held, kind, ask.cost()),
                Eligibility::Full
                    | Eligibility::Throttled { .. }
                    | Eligibility::AtLimit { .. }
                    | Eligibility::AwaitingCompletion
                    | Eligibility::BreakerHalfOpen
                    | Eligibility::Ready
            )
        {
            chosen = held;
        }
        let now = self.tick();
        if let Some(affinity) = &mut self.affinity {
            affinity.assign(now, session, chosen);
        }
    }

    /// The eligibility of each member for a request.
    pub(crate) fn explain(&self, ask: Ask, pin: Option<usize>) -> Vec<(usize, Eligibility)> {
        let kind = Kind {
            labels: ask.labels(),
            ..self.kind_of(ask, pin)
        };
        let held_back = self.held_back(ask).map(|(opening, cause)| match opening {
            Opening::Unknown => Eligibility::NeverFits,
            Opening::Now | Opening::At(_) | Opening::AnyTime => Eligibility::FlowAtLimit {
                until: cause.until(),
            },
        });
        let shared = match self.shared.earliest(self.now, kind.class, ask.cost()) {
            Wait::Until(until) if until.as_nanos() <= self.now => None,
            Wait::Until(until) => Some(Eligibility::AtLimit { until }),
            Wait::ForSettlement => Some(Eligibility::AwaitingCompletion),
            Wait::Never => Some(Eligibility::NeverFits),
        };
        let shared = held_back.or(shared);
        let there = (0..self.members.len()).filter(|one| self.members[*one].state != State::Gone);
        let mut reasons: Vec<_> = there
            .map(|name| {
                let reason = if pin.is_some_and(|pin| pin != name) {
                    Eligibility::NotPinned
                } else if !self.matches(kind, name) {
                    Eligibility::WrongLabels
                } else {
                    match (self.reason(name, kind, ask.cost()), shared) {
                        (Eligibility::Ready, Some(shared)) => shared,
                        (reason, _) => reason,
                    }
                };
                (name, reason)
            })
            .collect();
        let ready = reasons.iter().filter(|(_, one)| *one == Eligibility::Ready);
        let tier = |name: usize| self.members[name].setup.tier();
        let nearest = ready.map(|(name, _)| tier(*name)).min();
        let kind = Kind {
            labels: if pin.is_some() { 0 } else { kind.labels },
            ..kind
        };
        let next = self.next(kind).map(|(turn, _)| turn);
        let is_behind =
            next.is_some_and(|next| next < self.turn(ask)) || self.is_behind_own(kind, ask);
        for (name, reason) in &mut reasons {
            if *reason == Eligibility::Ready && nearest.is_some_and(|nearest| nearest < tier(*name))
            {
                *reason = Eligibility::LowerTier;
            } else if *reason == Eligibility::Ready && is_behind {
                *reason = Eligibility::BehindOthers;
            }
        }
        reasons
    }
}

fn cause_of(reason: Eligibility) -> Cause {
    match reason {
        Eligibility::AtLimit { until } => Cause::AtLimit { until },
        Eligibility::NeverFits => Cause::NeverFits,
        Eligibility::AwaitingCompletion => Cause::AwaitingCompletion,
        Eligibility::FlowAtLimit { until } => Cause::FlowAtLimit { until },
        Eligibility::Full => Cause::Full,
        Eligibility::Throttled { until } => Cause::Throttled { until },
        Eligibility::Ejected { until } => Cause::Ejected { until },
        Eligibility::BreakerOpen { until } => Cause::BreakerOpen { until },
        Eligibility::BreakerHalfOpen => Cause::BreakerHalfOpen,
        Eligibility::Unhealthy => Cause::Unhealthy,
        Eligibility::Removed | Eligibility::Disabled | Eligibility::Draining => Cause::Disabled,
        Eligibility::WrongLabels | Eligibility::NotPinned => Cause::NoMember,
        Eligibility::Ready | Eligibility::LowerTier | Eligibility::BehindOthers => {
            Cause::BehindOthers
        }
    }
}
