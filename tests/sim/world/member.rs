//! A member as the world knows it: its upstream, and what the pool should think of it.

use crate::schedule::{MS, Nanos};
use crate::settings::{TOKEN_LIMIT, WINDOW, has_token_limit, request_limit, weight};
use crate::upstream::Upstream;
use crate::window::WindowOracle;
use leasehold_core::pool::MemberId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Membership {
    Present(MemberId),
    /// Removed, with leases still held.
    Leaving(MemberId),
    Absent,
}

#[derive(Debug)]
pub(super) struct SimMember {
    pub(super) upstream: Upstream,
    pub(super) arrivals: WindowOracle,
    /// Tokens by class.
    pub(super) tokens: Option<[WindowOracle; 3]>,
    pub(super) membership: Membership,
    pub(super) enabled: bool,
    pub(super) weight: u16,
    /// Whether an operator has changed the member and will restore it.
    pub(super) is_operated: bool,
    /// Whether the pool owes a `Drained` event.
    pub(super) draining: bool,
    pub(super) in_flight: u32,
    pub(super) granted: u64,
    /// The latest time that its upstream asked to be left alone until.
    pub(super) throttled_until: Nanos,
    pub(super) down: bool,
    /// Consecutive probes that failed.
    pub(super) failed_probes: u32,
    /// Consecutive probes that succeeded.
    pub(super) passed_probes: u32,
    /// When probes must have found the member up again.
    pub(super) up_by: Nanos,
    pub(super) breaker: SimBreaker,
    pub(super) ejected_until: Nanos,
    pub(super) last_grant: Nanos,
    /// The latest time at which the member had a reason to be granted nothing.
    pub(super) idle_excused_until: Nanos,
}

/// A breaker, as its events tell.
#[derive(Debug, Default)]
pub(super) struct SimBreaker {
    pub(super) open_until: Nanos,
    /// Whether the breaker has opened and not closed since; half-open from `open_until` on.
    pub(super) is_tripped: bool,
    /// Number of openings, closings and resets so far.
    pub(super) epoch: u64,
    /// Calls of this epoch in flight.
    pub(super) probes: u32,
}

impl SimMember {
    pub(super) fn new(index: usize) -> Self {
        let tokens = || WindowOracle::new("a class's tokens", TOKEN_LIMIT, WINDOW);
        Self {
            upstream: Upstream::new(4, (200 + 20 * index as Nanos) * MS),
            arrivals: WindowOracle::new("a member", request_limit(index), WINDOW),
            tokens: has_token_limit(index).then(|| [tokens(), tokens(), tokens()]),
            membership: Membership::Absent,
            enabled: true,
            weight: weight(index),
            is_operated: false,
            draining: false,
            in_flight: 0,
            granted: 0,
            throttled_until: 0,
            down: false,
            failed_probes: 0,
            passed_probes: 0,
            up_by: 0,
            breaker: SimBreaker::default(),
            ejected_until: 0,
            last_grant: 0,
            idle_excused_until: 0,
        }
    }

    /// Begins anew, as a member that was just added.
    pub(super) fn reset(&mut self, index: usize, member: MemberId, now: Nanos) {
        self.membership = Membership::Present(member);
        self.enabled = true;
        self.draining = false;
        self.weight = weight(index);
        self.granted = 0;
        self.throttled_until = 0;
        self.down = false;
        (self.failed_probes, self.passed_probes) = (0, 0);
        self.ejected_until = 0;
        self.breaker.open_until = 0;
        self.breaker.is_tripped = false;
        self.breaker.next_epoch();
        self.excuse_idle_until(now);
    }

    /// Whether operators let the member serve.
    pub(super) const fn is_in_service(&self) -> bool {
        matches!(self.membership, Membership::Present(_)) && self.enabled && self.weight > 0
    }

    pub(super) const fn is_healthy(&self, now: Nanos) -> bool {
        !self.down && self.ejected_until <= now
    }

    pub(super) fn excuse_idle_until(&mut self, at: Nanos) {
        self.idle_excused_until = self.idle_excused_until.max(at);
    }

    pub(super) const fn count_probe(&mut self, passed: bool) {
        if passed {
            self.passed_probes += 1;
            self.failed_probes = 0;
        } else {
            self.failed_probes += 1;
            self.passed_probes = 0;
        }
    }
}

impl SimBreaker {
    /// Ends the epoch: calls of it no longer count.
    pub(super) const fn next_epoch(&mut self) {
        self.epoch += 1;
        self.probes = 0;
    }
}
