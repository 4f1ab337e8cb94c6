//! The health of members: probes, breakers, outliers and their timers.

use super::super::case::{Found, nanos};
use super::{Oracle, OracleEvent, OracleMember, State};
use leasehold_core::health::{BreakerConfig, BreakerState, ProbeConfig};
use leasehold_core::health::{ProbeAnswer, ProbeNumber, Prober, Transition};
use leasehold_core::pool::{HealthChange, MemberSetting};
use leasehold_core::time::Tick;

/// Half-open, whatever its probes.
const HALF_OPEN: BreakerState = BreakerState::HalfOpen {
    probes: 0,
    successes: 0,
};

impl Oracle {
    pub(crate) fn handle_probe(
        &mut self,
        now: u64,
        member: usize,
        probe: ProbeNumber,
        found: Found,
    ) -> bool {
        self.advance(now);
        let tick = self.tick();
        let one = &mut self.members[member];
        if one.state == State::Gone || one.probe != Some(probe) {
            return false;
        }
        one.probe = None;
        let answer = match found {
            Found::Up(depth, latency) => {
                if let Some(depth) = depth {
                    one.depth = Some(depth.into());
                    one.granted_since_depth = one.granted_since_probe;
                }
                if let (Some(took), Some(latency)) = (latency, &mut one.latency) {
                    latency.observe(tick, nanos(took.into()));
                }
                ProbeAnswer::Up
            }
            Found::Down => ProbeAnswer::Down,
        };
        let config = self.probes_of(member).expect("there was a probe");
        let health = self.members[member]
            .health
            .as_mut()
            .expect("there was a probe");
        let change = health.answer(&config, tick, probe, answer);
        self.changed(member, change);
        self.refresh_panic();
        self.serve();
        true
    }

    fn changed(&mut self, member: usize, change: Option<Transition>) {
        let tick = self.tick();
        let condition = match change {
            None => return,
            Some(Transition::WentDown) => HealthChange::Down,
            Some(Transition::WentUp) => {
                self.members[member].slow_start.begin(tick);
                if self.breaker_of(member).is_some() {
                    self.members[member].breaker.reset(tick);
                }
                HealthChange::Up
            }
        };
        self.events.push(OracleEvent::Changed(member, condition));
        self.note_breaker(member);
    }

    pub(crate) fn observe_depth(&mut self, now: u64, member: usize, depth: u8) -> bool {
        self.advance(now);
        let one = &mut self.members[member];
        let there = !matches!(one.state, State::Removing | State::Gone);
        if there {
            one.depth = Some(depth.into());
            one.granted_since_depth = 0;
            one.granted_since_probe = 0;
            self.serve();
        }
        there
    }

    fn timer(&self, member: &OracleMember) -> Option<u64> {
        if member.state == State::Gone {
            return None;
        }
        let now = self.tick();
        let ramp = self.watch.slow_start();
        let breaker = self.setting(member.own_breaker.breaker(), self.watch.breaker());
        let timers = [
            member.health.as_ref().and_then(Prober::poll_timeout),
            breaker.and_then(|_| member.breaker.poll_timeout()),
            ramp.and_then(|ramp| member.slow_start.next_change(&ramp, now)),
            member.ejected_until,
        ];
        timers.into_iter().flatten().map(Tick::as_nanos).min()
    }

    /// The member with the first timer; of several, the one of the lowest slot.
    pub(super) fn first_timer(&self) -> Option<(u64, usize)> {
        let members = self.members.iter().enumerate();
        let timers = members
            .filter_map(|(name, member)| self.timer(member).map(|tick| (tick, member.id, name)));
        timers.min().map(|(tick, _, name)| (tick, name))
    }

    pub(super) fn handle_timer(&mut self, name: usize) {
        let tick = self.tick();
        if let Some(config) = self.probes_of(name) {
            let member = &mut self.members[name];
            let health = member.health.as_mut().expect("members are probed");
            if health.poll_timeout().is_some_and(|due| due <= tick) {
                member.probe = None;
            }
            let change = health.handle_timeout(&config, tick);
            if let Some(probe) = health.begin_probe(&config, tick) {
                member.probe = Some(probe);
                member.latest_probe = Some(probe);
                member.granted_since_probe = 0;
                self.events.push(OracleEvent::Probe(name));
            }
            self.changed(name, change);
        }
        let breaker = self.breaker_of(name);
        let member = &mut self.members[name];
        member.ejected_until = member.ejected_until.filter(|until| *until > tick);
        if member.outcomes.uneject_if_due(tick) {
            member.slow_start.begin(tick);
        }
        if let Some(config) = breaker {
            member.breaker.handle_timeout(&config, tick);
            self.note_breaker(name);
        }
        self.refresh_panic();
    }

    pub(super) fn note_breaker(&mut self, name: usize) {
        let Some(config) = self.breaker_of(name) else {
            return;
        };
        let tick = self.tick();
        let member = &mut self.members[name];
        let state = match member.breaker.state(&config, tick) {
            BreakerState::HalfOpen { .. } => HALF_OPEN,
            other @ (BreakerState::Closed | BreakerState::Open { .. }) => other,
        };
        if core::mem::replace(&mut member.told, state) == state {
            return;
        }
        let condition = match state {
            BreakerState::Open { until } => HealthChange::BreakerOpen { until },
            BreakerState::HalfOpen { .. } => HealthChange::BreakerHalfOpen,
            BreakerState::Closed => {
                member.slow_start.begin(tick);
                HealthChange::BreakerClosed
            }
        };
        self.events.push(OracleEvent::Changed(name, condition));
    }

    pub(super) fn breaker_of(&self, member: usize) -> Option<BreakerConfig> {
        let own = self.members[member].own_breaker;
        self.setting(own.breaker(), self.watch.breaker())
    }

    pub(super) fn probes_of(&self, member: usize) -> Option<ProbeConfig> {
        let own = self.members[member].own_probes;
        self.setting(own.probes(), self.watch.health())
    }

    fn setting<C>(&self, own: MemberSetting<C>, pool: Option<C>) -> Option<C> {
        match own {
            MemberSetting::Pool => pool,
            MemberSetting::Own(own) => Some(own),
            MemberSetting::Off => None,
        }
    }

    /// Trips a breaker until a tick, or resets it; whether there is one.
    pub(super) fn command_breaker(&mut self, name: usize, trip: Option<u64>) -> bool {
        let tick = self.tick();
        let Some(config) = self.breaker_of(name) else {
            return false;
        };
        let breaker = &mut self.members[name].breaker;
        match trip {
            Some(until) => breaker.trip(&config, tick, Tick::from_nanos(until)),
            None => breaker.reset(tick),
        }
        self.note_breaker(name);
        true
    }

    /// Enters settings that are new.
    pub(super) fn apply_settings(&mut self, name: usize, was_probed: bool) {
        let tick = self.tick();
        let (breaker, probes) = (self.breaker_of(name), self.probes_of(name));
        if breaker.is_some() {
            self.note_breaker(name);
        } else {
            let member = &mut self.members[name];
            member.breaker.reset(tick);
            if core::mem::replace(&mut member.told, BreakerState::Closed) != BreakerState::Closed {
                let closed = HealthChange::BreakerClosed;
                self.events.push(OracleEvent::Changed(name, closed));
            }
        }
        let member = &mut self.members[name];
        match (&mut member.health, probes) {
            (Some(prober), Some(config)) if !was_probed => {
                prober.restart(&config, tick, member.seed);
            }
            (Some(_), Some(_)) | (None, None) => {}
            (None, Some(config)) => {
                member.health = Some(Prober::new(&config, tick, member.seed));
            }
            (Some(prober), None) => {
                member.probe = None;
                let was_up = prober.is_up();
                prober.stop();
                if !was_up {
                    self.changed(name, Some(Transition::WentUp));
                }
            }
        }
    }

    pub(super) fn sweep(&mut self) {
        let (Some(outlier), Some(config)) = (&mut self.outlier, self.watch.outlier()) else {
            return;
        };
        if outlier
            .poll_timeout()
            .is_none_or(|due| due.as_nanos() > self.now)
        {
            return;
        }
        let members = self.members.iter_mut().enumerate();
        let there =
            members.filter(|(_, member)| member.state == State::Enabled && member.weight > 0);
        let mut there: Vec<_> = there.collect();
        there.sort_by_key(|(_, member)| member.id);
        let windows = there
            .into_iter()
            .map(|(name, member)| (name, &mut member.outcomes));
        let mut ejected = Vec::new();
        for ejection in outlier.sweep(&config, Tick::from_nanos(self.now), windows) {
            let until = ejection.until;
            ejected.push((ejection.member, until));
            let condition = HealthChange::Ejected { until };
            self.events
                .push(OracleEvent::Changed(ejection.member, condition));
        }
        for (member, until) in ejected {
            self.members[member].ejected_until = Some(until);
        }
        self.refresh_panic();
    }

    /// Recounts the healthy members.
    pub(super) fn refresh_panic(&mut self) {
        let now = self.tick();
        let members = self.members.iter();
        let counted: Vec<bool> = members
            .filter(|member| member.state == State::Enabled && member.weight > 0)
            .map(|member| {
                let up = member.health.as_ref().is_none_or(Prober::is_up);
                up && member.outcomes.ejected_until(now).is_none()
            })
            .collect();
        let healthy = counted.iter().filter(|healthy| **healthy).count();
        let panic = self.watch.panic();
        self.panic = panic.in_panic(healthy as u32, counted.len() as u32);
    }
}
