//! The health of members: probes, breakers, ejections and slow starts, and what follows from them.
//!
//! Invariant: a change is entered at once in the panic threshold's counts, the member's timer and its
//! positions in the lanes.

use super::drive::Pool;
use super::error::{BreakerError, StaleMember, StaleProbe};
use super::event::{Event, HealthChange};
use super::ids::{MemberId, ProbeId};
use super::member::Settings;
use super::member_state::{MemberHealth, ToldBreaker};
use super::outcome::ProbeResult;
use crate::health::{Breaker, BreakerConfig, BreakerState, ProbeAnswer, Transition};
use crate::time::Tick;
use crate::util::slab::Handle;
use alloc::vec::Vec;
use core::mem;

impl<T> Pool<T> {
    /// Enters the result of a probe.
    ///
    /// # Errors
    /// [`StaleProbe`] where the probe was answered, given up or overtaken by another, or its member removed.
    pub fn handle_probe(
        &mut self,
        now: Tick,
        probe: ProbeId,
        result: ProbeResult,
    ) -> Result<(), StaleProbe> {
        self.advance(now);
        let now = self.clock.now;
        let handle = probe.member.within(self.config.id).ok_or(StaleProbe)?;
        let member = self.members.get_mut(handle).ok_or(StaleProbe)?;
        let config = member.probe_config(&self.config).copied();
        let health = member.health.as_mut().ok_or(StaleProbe)?;
        if health.probe != Some(probe.probe) {
            return Err(StaleProbe);
        }
        health.probe = None;
        let answer = match result {
            ProbeResult::Up { .. } => ProbeAnswer::Up,
            ProbeResult::Down => ProbeAnswer::Down,
        };
        let change = match (&mut health.prober, config) {
            (Some(prober), Some(config)) => prober.answer(&config, now, probe.probe, answer),
            (Some(_) | None, Some(_) | None) => None,
        };
        if let ProbeResult::Up { depth, latency } = result {
            if let Some(depth) = depth {
                member.report_depth(depth, member.granted_since_probe);
            }
            if let (Some(took), Some(known)) = (latency, &mut member.latency) {
                known.observe(now, took);
            }
        }
        self.note_transition(handle, change);
        self.refresh(handle);
        self.hand_over();
        Ok(())
    }

    /// Learns how many jobs a member has queued or running, apart from any probe.
    ///
    /// # Errors
    /// [`StaleMember`] where it was removed.
    pub fn observe_depth(
        &mut self,
        now: Tick,
        member: MemberId,
        depth: u32,
    ) -> Result<(), StaleMember> {
        self.advance(now);
        let (handle, member) = self.members.current_mut(member)?;
        member.report_depth(depth, 0);
        member.granted_since_probe = 0;
        self.reindex(handle.slot());
        self.hand_over();
        Ok(())
    }

    /// Opens a member's breaker until a tick, at an operator's command. Ignored if the tick has passed.
    ///
    /// # Errors
    /// [`BreakerError`] where the member was removed or has no breaker.
    pub fn trip_breaker(
        &mut self,
        now: Tick,
        member: MemberId,
        until: Tick,
    ) -> Result<(), BreakerError> {
        self.command_breaker(now, member, |config, breaker, now| {
            breaker.trip(config, now, until);
        })
    }

    /// Closes a member's breaker at an operator's command. A throttle by its upstream still holds.
    ///
    /// # Errors
    /// [`BreakerError`] where the member was removed or has no breaker.
    pub fn reset_breaker(&mut self, now: Tick, member: MemberId) -> Result<(), BreakerError> {
        self.command_breaker(now, member, |_, breaker, now| breaker.reset(now))
    }

    fn command_breaker(
        &mut self,
        now: Tick,
        member: MemberId,
        command: impl FnOnce(&BreakerConfig, &mut Breaker, Tick),
    ) -> Result<(), BreakerError> {
        self.advance(now);
        let (handle, state) = self.members.current_mut(member)?;
        let (config, health) = state
            .breaker_mut(&self.config)
            .ok_or(BreakerError::NoBreaker)?;
        command(&config, &mut health.breaker, self.clock.now);
        self.note_breaker(handle);
        self.refresh(handle);
        self.hand_over();
        Ok(())
    }

    /// Enters new settings of a member: what they end is forgotten, what they begin starts now.
    pub(super) fn apply_settings(&mut self, handle: Handle, settings: Settings) {
        self.members.has_settings = true;
        let now = self.clock.now;
        let Some(member) = self.members.get_mut(handle) else {
            return;
        };
        let seed = member.probe_seed;
        let was_probed = member.probe_config(&self.config).is_some();
        member.settings = settings.into_box();
        let fresh = MemberHealth::new(&self.config, &settings, now, seed);
        let probes = member.probe_config(&self.config).copied();
        let has_breaker = member.breaker_config(&self.config).is_some();
        let Some(health) = &mut member.health else {
            member.health = fresh;
            return;
        };
        let mut change = None;
        match (&mut health.prober, probes) {
            (Some(prober), Some(config)) if !was_probed => prober.restart(&config, now, seed),
            (Some(prober), None) => {
                health.probe = None;
                change = (!prober.is_up()).then_some(Transition::WentUp);
                prober.stop();
            }
            (Some(_), Some(_)) => {}
            (None, _) => health.prober = fresh.and_then(|fresh| fresh.prober),
        }
        if has_breaker {
            self.note_breaker(handle);
        } else {
            health.breaker.reset(now);
            if mem::take(&mut health.told) != ToldBreaker::Closed {
                self.tell_change(handle, HealthChange::BreakerClosed);
            }
        }
        self.note_transition(handle, change);
    }

    /// Does what is due of a member: its probes, its breaker, the end of its ejection, its slow start.
    pub(super) fn handle_timer(&mut self, handle: Handle) {
        self.handle_probe_timer(handle);
        let now = self.clock.now;
        if let Some(member) = self.members.get_mut(handle) {
            let health = member.health.as_mut();
            if health.is_some_and(|health| health.outcomes.uneject_if_due(now)) {
                member.slow_start.begin(now);
            }
            if let Some((config, health)) = member.breaker_mut(&self.config) {
                health.breaker.handle_timeout(&config, now);
                self.note_breaker(handle);
            }
        }
        self.reweigh(handle);
        self.refresh(handle);
    }

    fn handle_probe_timer(&mut self, handle: Handle) {
        let now = self.clock.now;
        let id = self.members.id(handle);
        let Some(member) = self.members.get_mut(handle) else {
            return;
        };
        let config = member.probe_config(&self.config).copied();
        let Some(health) = &mut member.health else {
            return;
        };
        let (Some(prober), Some(config)) = (&mut health.prober, config) else {
            return;
        };
        // A timer while a probe is under way is that probe's.
        if prober.poll_timeout().is_some_and(|due| due <= now) {
            health.probe = None;
        }
        let change = prober.handle_timeout(&config, now);
        if let Some(probe) = prober.begin_probe(&config, now) {
            health.probe = Some(probe);
            member.granted_since_probe = 0;
            self.events.push_back(Event::Probe {
                member: id,
                probe: ProbeId { member: id, probe },
            });
        }
        self.note_transition(handle, change);
    }

    /// Compares the members' failure rates, if that is due, and ejects outliers.
    pub(super) fn sweep(&mut self) {
        let now = self.clock.now;
        let (Some(outlier), Some(config)) = (&mut self.outlier, &self.config.outlier) else {
            return;
        };
        if outlier.poll_timeout().is_none_or(|due| due > now) {
            return;
        }
        let members = self.members.iter_mut();
        let serving = members.filter(|(_, member)| member.counted.is_some());
        let windows = serving.filter_map(|(handle, member)| {
            let health = member.health.as_mut()?;
            Some((handle, &mut health.outcomes))
        });
        for ejection in outlier.sweep(config, now, windows) {
            let until = ejection.until;
            self.tell_change(ejection.member, HealthChange::Ejected { until });
            self.refresh(ejection.member);
        }
    }

    /// Tells that a member's probes have turned. One that comes up again is served by at once: its breaker closes, as
    /// Envoy unejects a host on a successful health check.
    fn note_transition(&mut self, handle: Handle, change: Option<Transition>) {
        let change = match change {
            None => return,
            Some(Transition::WentDown) => HealthChange::Down,
            Some(Transition::WentUp) => HealthChange::Up,
        };
        let now = self.clock.now;
        if let Some(member) = self.members.get_mut(handle)
            && change == HealthChange::Up
        {
            member.slow_start.begin(now);
            // Its breaker has opened for the failures of the time in which it was down.
            if let Some((_, health)) = member.breaker_mut(&self.config) {
                health.breaker.reset(now);
            }
        }
        self.tell_change(handle, change);
        self.note_breaker(handle);
        self.reweigh(handle);
    }

    /// Tells that a breaker has opened, for another time or for longer, is half-open or has closed.
    pub(super) fn note_breaker(&mut self, handle: Handle) {
        let now = self.clock.now;
        let Some(member) = self.members.get_mut(handle) else {
            return;
        };
        let Some((config, health)) = member.breaker_mut(&self.config) else {
            return;
        };
        let (told, change) = match health.breaker.state(&config, now) {
            BreakerState::Open { until } => {
                let change = HealthChange::BreakerOpen { until };
                (ToldBreaker::Open { until }, change)
            }
            BreakerState::HalfOpen { .. } => (ToldBreaker::HalfOpen, HealthChange::BreakerHalfOpen),
            BreakerState::Closed => (ToldBreaker::Closed, HealthChange::BreakerClosed),
        };
        if mem::replace(&mut health.told, told) == told {
            return;
        }
        if told == ToldBreaker::Closed {
            member.slow_start.begin(now);
        }
        self.tell_change(handle, change);
        self.reweigh(handle);
    }

    fn tell_change(&mut self, handle: Handle, change: HealthChange) {
        let member = self.members.id(handle);
        self.events.push_back(Event::Changed { member, change });
    }

    /// Whether a member may have a breaker.
    #[inline]
    pub(super) fn has_breakers(&self) -> bool {
        self.config.breaker.is_some() || self.members.has_settings
    }

    /// Enters a grant or release in the member's positions, and in its timer where a breaker may have moved.
    pub(super) fn reindex_after_use(&mut self, handle: Handle) {
        if self.has_breakers() {
            self.refresh(handle);
        } else {
            self.reindex(handle.slot());
        }
    }

    /// Enters a change of a member in the counts, its timer and its positions.
    pub(super) fn refresh(&mut self, handle: Handle) {
        let panic_changed = self.members.refresh(handle, &self.config, self.clock.now);
        if panic_changed {
            self.reindex_all();
        } else {
            self.reindex(handle.slot());
        }
    }

    /// Stops all probes; each member stays up or down as it is. O(members).
    pub(super) fn suspend_probes(&mut self) {
        let mut probed = Vec::new();
        for (handle, member) in self.members.iter_mut() {
            let prober = member.health.as_mut().and_then(|it| it.prober.as_mut());
            if let Some(prober) = prober {
                prober.suspend();
                probed.push(handle);
            }
        }
        for handle in probed {
            self.refresh(handle);
        }
    }

    /// Tells the lanes the member's present weight.
    pub(super) fn reweigh(&mut self, handle: Handle) {
        if let Some(member) = self.members.get(handle) {
            let weight = member.weight_at(&self.config, self.clock.now);
            self.lanes.set_weight(handle.slot(), member.tier, weight);
        }
    }
}
