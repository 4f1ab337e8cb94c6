//! Probes of members, and the health changes that the pool reports.

use super::member::Membership;
use super::{SimEvent, World};
use crate::schedule::MS;
use crate::settings::{
    BREAKER_CAP, EJECTION_CAP, FALL, PANIC_PERMILLE, PROBE_TIMEOUT, RECOVERY, RISE, tick,
};
use leasehold_core::pool::{HealthChange, MemberId, ProbeId, ProbeResult};

impl World {
    /// Sends a probe. One in a hundred is lost.
    pub(super) fn probe(&mut self, member: MemberId, probe: ProbeId) {
        let index = self.index(member);
        let sim = &mut self.members[index];
        if self.rng.u32(..100) == 0 {
            sim.count_probe(false);
            sim.up_by = sim.up_by.max(self.now + PROBE_TIMEOUT + RECOVERY);
            if sim.down {
                sim.excuse_idle_until(sim.up_by);
            }
            return;
        }
        let took = sim.upstream.probe(&mut self.rng);
        let up = took.is_some();
        let result = SimEvent::ProbeResult { member, probe, up };
        self.after(took.unwrap_or(MS), result);
    }

    pub(super) fn probe_result(&mut self, member: MemberId, probe: ProbeId, up: bool) {
        let (now, index) = (tick(self.now), self.index(member));
        let sim = &mut self.members[index];
        let result = if up {
            ProbeResult::Up {
                depth: Some(sim.upstream.depth(self.now)),
                latency: None,
            }
        } else {
            ProbeResult::Down
        };
        let is_known =
            [Membership::Present(member), Membership::Leaving(member)].contains(&sim.membership);
        if is_known {
            sim.count_probe(up);
        }
        let taken = self.pool.handle_probe(now, probe, result);
        assert_eq!(taken.is_ok(), is_known, "the probe of {index}");
    }

    pub(super) fn health_change(&mut self, member: MemberId, change: HealthChange) {
        let (now, index) = (self.now, self.index(member));
        let sim = &mut self.members[index];
        match change {
            HealthChange::Down => {
                assert!(sim.failed_probes >= FALL, "{index} answers its probes");
                assert!(!sim.down);
                sim.down = true;
                self.sum.downs += 1;
            }
            HealthChange::Up => {
                assert!(
                    sim.passed_probes >= RISE,
                    "{index} doesn't answer its probes"
                );
                assert!(sim.down);
                sim.down = false;
                // Its breaker closes with that, if it is open.
                sim.breaker.open_until = sim.breaker.open_until.min(now);
            }
            HealthChange::Ejected { until } => {
                sim.ejected_until = until.as_nanos();
                assert!(sim.ejected_until <= now + EJECTION_CAP);
                sim.excuse_idle_until(sim.ejected_until);
                self.sum.ejections += 1;
            }
            HealthChange::BreakerOpen { until } => {
                let breaker = &mut sim.breaker;
                breaker.open_until = until.as_nanos();
                assert!(breaker.open_until <= now + BREAKER_CAP);
                breaker.is_tripped = true;
                breaker.next_epoch();
                sim.excuse_idle_until(until.as_nanos());
                self.sum.breaker_trips += 1;
            }
            HealthChange::BreakerHalfOpen => {
                let breaker = &sim.breaker;
                assert!(breaker.is_tripped && breaker.open_until <= now);
            }
            HealthChange::BreakerClosed => {
                let breaker = &mut sim.breaker;
                assert!(breaker.is_tripped && breaker.open_until <= now);
                breaker.is_tripped = false;
                breaker.next_epoch();
            }
        }
        let in_panic = self.is_in_panic();
        if in_panic && !self.in_panic {
            self.sum.panics += 1;
        }
        self.in_panic = in_panic;
        self.record(("changed", index, core::mem::discriminant(&change)));
    }

    /// Whether the healthy share of the members in service is below the panic threshold, so that the
    /// pool ignores health.
    pub(super) fn is_in_panic(&self) -> bool {
        let in_service = self.members.iter().filter(|member| member.is_in_service());
        let healthy = in_service
            .clone()
            .filter(|member| member.is_healthy(self.now));
        healthy.count() * 1_000 < in_service.count() * usize::from(PANIC_PERMILLE)
    }
}
