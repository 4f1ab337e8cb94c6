//! The end of leases: what is learnt from them, and what they cost.

use super::super::case::{End, nanos};
use super::{FastFailure, Oracle, OracleEvent, OracleLease, State, observe};
use leasehold_core::balance::Policy;
use leasehold_core::health::CallResult;
use leasehold_core::limit::Cost;
use leasehold_core::time::Tick;

/// The end of a lease: `None` for an expiry, else the outcome, tokens and latency of its release.
#[derive(Clone, Copy)]
pub(super) struct Ended {
    pub(super) end: Option<End>,
    pub(super) tokens: Option<u32>,
    pub(super) latency: Option<u64>,
}

impl Ended {
    pub(super) const EXPIRED: Self = Self {
        end: None,
        tokens: None,
        latency: None,
    };

    /// Whether it may have been faster than a success, without being one.
    fn is_fast_failure(self) -> bool {
        matches!(self.end, None | Some(End::Failed | End::Throttled(_)))
    }
}

impl Oracle {
    pub(crate) fn release(
        &mut self,
        now: u64,
        lease: usize,
        end: End,
        tokens: Option<u32>,
        latency: Option<u64>,
    ) -> bool {
        self.advance(now);
        let live = self.leases[lease].live && self.leases[lease].held;
        if live {
            self.tally.released += 1;
            self.end(
                lease,
                Ended {
                    end: Some(end),
                    tokens,
                    latency,
                },
            );
            self.serve();
        }
        live
    }

    pub(crate) fn arrived(&mut self, now: u64, lease: usize) -> bool {
        self.advance(now);
        let now = self.now;
        let lease = &mut self.leases[lease];
        let live = lease.live && lease.held;
        if live && !core::mem::replace(&mut lease.arrived, true) {
            self.members[lease.member].owner.arrive(now, lease.own);
            if let Some((group, uses)) = lease.group {
                self.groups[group].arrive(now, uses);
            }
            if self.has_shared {
                self.shared.arrive(now, lease.shared);
            }
            if let (Some(flow), Some(uses)) = (self.flows.get_mut(&lease.flow), lease.flow_uses) {
                flow.owner.arrive(now, uses);
            }
        }
        self.serve();
        live
    }

    pub(crate) fn renew(&mut self, now: u64, lease: usize) -> bool {
        self.advance(now);
        let live = self.leases[lease].live && self.leases[lease].held;
        if live {
            self.set_expiry(lease);
        }
        live
    }

    pub(super) fn end(&mut self, lease: usize, ended: Ended) {
        self.leases[lease].live = false;
        let lease = self.leases[lease].clone();
        let name = lease.member;
        let usual = self.service.get(&lease.class).copied();
        self.learn(&lease, ended);
        let actual = match ended.end {
            Some(End::NotSent) => Cost::default(),
            _ => Cost {
                requests: 1,
                tokens: ended.tokens.unwrap_or(lease.cost.tokens),
            },
        };
        self.settle(&lease, actual);
        self.tell_breaker(&lease, ended);
        for failure in &mut self.fast_failures {
            if failure.class == lease.class && failure.usual.is_none() {
                failure.usual = self.service.get(&lease.class).copied();
            }
        }
        let policy = self.choice.policy();
        let weighs_load = (policy.uses_load() || policy.uses_work()) && policy != Policy::Fifo;
        if ended.is_fast_failure() && weighs_load {
            self.fast_failures.push(FastFailure {
                member: name,
                granted: lease.granted,
                class: lease.class,
                usual,
            });
        }
        self.refresh_panic();
        let member = &mut self.members[name];
        if member.in_flight == 0 {
            match member.state {
                State::Enabled | State::Disabled | State::Gone => {}
                State::Draining => self.events.push(OracleEvent::Drained(name)),
                State::Removing => {
                    member.state = State::Gone;
                    self.events.push(OracleEvent::Removed(name));
                }
            }
        }
    }

    /// Enters the outcome in the member and in the times over all members.
    fn learn(&mut self, lease: &OracleLease, ended: Ended) {
        let stamp = self.stamp();
        let (now, tick) = (self.now, self.tick());
        let fleet = self.latency.as_ref().and_then(|one| one.estimate(tick));
        let took = ended.latency.unwrap_or(now - lease.granted);
        let span = self.end_job(lease, ended.end);
        let member = &mut self.members[lease.member];
        member.in_flight -= 1;
        member.stamp = stamp;
        match ended.end {
            Some(End::Ok) => {
                observe(
                    &mut member.service,
                    lease.class,
                    ended.latency.unwrap_or(span),
                );
                observe(&mut self.service, lease.class, took);
                for latency in [&mut member.latency, &mut self.latency]
                    .into_iter()
                    .flatten()
                {
                    latency.observe(tick, nanos(took));
                }
                member.outcomes.record(true);
            }
            Some(End::Failed) | None => member.outcomes.record(false),
            Some(End::Throttled(pause)) => {
                let until = now.saturating_add(u64::from(pause % 64));
                member.cooldown_until = member.cooldown_until.max(until);
                member.owner.latest = member.owner.latest.max(now);
                member.owner.turned_away = member.owner.turned_away.max(until);
            }
            Some(End::NotSent) => {
                member.pass = member.pass.saturating_sub(lease.stride);
                member.calls -= 1;
                member.granted_since_depth = member.granted_since_depth.saturating_sub(1);
                member.granted_since_probe = member.granted_since_probe.saturating_sub(1);
            }
            Some(End::Unknown) => {}
        }
        if ended.is_fast_failure()
            && let Some(latency) = &mut member.latency
            && let Some(least) = latency.estimate(tick).max(fleet)
        {
            latency.observe(tick, nanos(took).max(least));
        }
    }

    fn settle(&mut self, lease: &OracleLease, actual: Cost) {
        let now = self.now;
        let member = &mut self.members[lease.member];
        member.owner.settle(now, lease.class, lease.own, actual);
        if let Some((group, uses)) = lease.group {
            self.groups[group].settle(now, lease.class, uses, actual);
        }
        if self.has_shared {
            self.shared.settle(now, lease.class, lease.shared, actual);
        }
        self.settle_flow(lease.flow, lease.class, lease.flow_uses, actual);
    }

    fn tell_breaker(&mut self, lease: &OracleLease, ended: Ended) {
        let Some(config) = self.breaker_of(lease.member) else {
            return;
        };
        let (now, tick) = (self.now, self.tick());
        let breaker = &mut self.members[lease.member].breaker;
        let result = match ended.end {
            Some(End::Ok) => CallResult::Ok,
            Some(End::Failed) | None => CallResult::Failed,
            Some(End::Throttled(_) | End::NotSent | End::Unknown) => CallResult::Unused,
        };
        if let Some(permit) = lease.permit {
            breaker.end(&config, tick, permit, result);
        }
        if let Some(End::Throttled(pause)) = ended.end {
            let until = now.saturating_add(u64::from(pause % 64));
            breaker.trip(&config, tick, Tick::from_nanos(until));
        }
        self.note_breaker(lease.member);
    }
}
