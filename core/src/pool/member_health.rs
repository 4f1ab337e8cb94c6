//! What is watched of members (probes, breakers, ejections, slow starts), and what follows from it.
//!
//! Invariant: whatever changes there is entered at once in the count of the healthy, the member's timer and
//! its places.

use super::{Event, HealthChange, MemberId, Pool, ProbeId};
use crate::health::BreakerState;
use crate::health::Transition;
use crate::util::slab::Handle;

impl<T> Pool<T> {
    /// Looks after what a member is waiting for itself: its probes, breaker, ramp or ejection.
    pub(super) fn handle_timer(&mut self, member: Handle) {
        let Some(entry) = self.members.get_mut(member) else {
            return;
        };
        if let Some(watch) = &mut entry.details.watch
            && let (Some(health), Some(config)) = (&mut watch.health, &self.config.health)
        {
            // A timer while a probe is out is that probe's.
            if health.poll_timeout().is_some_and(|due| due <= self.now) {
                watch.probe = None;
            }
            let change = health.handle_timeout(config, self.now);
            if let Some(probe) = health.begin_probe(config, self.now) {
                watch.probe = Some(probe);
                entry.details.unseen_by_probe = 0;
                self.events.push_back(Event::Probe {
                    member: MemberId(member),
                    probe: ProbeId { member, probe },
                });
            }
            self.changed(member, change);
        }
        if let Some(entry) = self.members.get_mut(member)
            && let Some(watch) = &mut entry.details.watch
        {
            if watch.outcomes.uneject_if_due(self.now) {
                entry.details.slow_start.begin(self.now);
            }
            if let Some(config) = &self.config.breaker {
                watch.breaker.handle_timeout(config, self.now);
                self.note_breaker(member);
            }
        }
        self.reweigh(member);
        self.look_after(member);
    }

    /// Compares the members, if that is due.
    pub(super) fn sweep(&mut self) {
        let (Some(outlier), Some(config)) = (&mut self.outlier, &self.config.outlier) else {
            return;
        };
        if outlier.poll_timeout().is_none_or(|due| due > self.now) {
            return;
        }
        let members = self.members.iter_mut();
        let serving = members.filter(|(_, entry)| entry.counted.is_some());
        let windows = serving.filter_map(|(member, entry)| {
            let watch = entry.details.watch.as_mut()?;
            Some((member, &mut watch.outcomes))
        });
        for ejection in outlier.sweep(config, self.now, windows) {
            let until = ejection.until;
            self.events.push_back(Event::Changed {
                member: MemberId(ejection.member),
                condition: HealthChange::Ejected { until },
            });
            self.look_after(ejection.member);
        }
    }

    /// Tells of a member whose probes have turned.
    pub(super) fn changed(&mut self, member: Handle, change: Option<Transition>) {
        let condition = match change {
            None => return,
            Some(Transition::WentDown) => HealthChange::Down,
            Some(Transition::WentUp) => HealthChange::Up,
        };
        if let Some(entry) = self.members.get_mut(member)
            && condition == HealthChange::Up
        {
            entry.details.slow_start.begin(self.now);
        }
        self.events.push_back(Event::Changed {
            member: MemberId(member),
            condition,
        });
        self.reweigh(member);
    }

    /// Tells of a breaker that has opened, for another time or for longer, or closed.
    pub(super) fn note_breaker(&mut self, member: Handle) {
        let (Some(entry), Some(config)) = (self.members.get_mut(member), &self.config.breaker)
        else {
            return;
        };
        let Some(watch) = &mut entry.details.watch else {
            return;
        };
        let condition = match watch.breaker.state(config, self.now) {
            BreakerState::Open { until } if watch.told_open != Some(until) => {
                watch.told_open = Some(until);
                HealthChange::BreakerOpen { until }
            }
            BreakerState::Closed if watch.told_open.is_some() => {
                watch.told_open = None;
                entry.details.slow_start.begin(self.now);
                HealthChange::BreakerClosed
            }
            BreakerState::Open { .. } | BreakerState::HalfOpen { .. } | BreakerState::Closed => {
                return;
            }
        };
        self.events.push_back(Event::Changed {
            member: MemberId(member),
            condition,
        });
        self.reweigh(member);
    }

    /// Enters a change of a member everywhere: the count of the healthy, its timer and its places.
    pub(super) fn look_after(&mut self, member: Handle) {
        let now = self.now;
        let Some(entry) = self.members.get_mut(member) else {
            return;
        };
        let counted = entry.is_healthy(now);
        let before = core::mem::replace(&mut entry.counted, counted);
        match entry.next_timer(&self.config, now) {
            Some(tick) => self.timers.set(member.slot(), tick),
            None => drop(self.timers.remove(member.slot())),
        }
        let count = |counted: Option<bool>| {
            let enabled = u32::from(counted.is_some());
            (enabled, u32::from(counted == Some(true)))
        };
        let ((was_enabled, was_healthy), (enabled, healthy)) = (count(before), count(counted));
        let adjust = |sum: u32, was: u32, is: u32| sum.saturating_sub(was).saturating_add(is);
        self.enabled = adjust(self.enabled, was_enabled, enabled);
        self.healthy = adjust(self.healthy, was_healthy, healthy);
        let panic = self.config.panic_threshold;
        let panic = panic.in_panic(self.healthy, self.enabled);
        if core::mem::replace(&mut self.panic, panic) == panic {
            self.place(member);
        } else {
            self.place_all();
        }
    }

    /// Tells the lanes what a member weighs now.
    pub(super) fn reweigh(&mut self, member: Handle) {
        let Some(entry) = self.members.get(member) else {
            return;
        };
        let weight = entry.weight_at(&self.config, self.now);
        let (slot, tier) = (member.slot(), entry.tier);
        for lane in &self.general {
            if let Some(Some(lane)) = self.lanes.get_mut(*lane as usize)
                && lane.contains(slot)
            {
                lane.set_weight(slot, tier, weight);
            }
        }
    }
}
