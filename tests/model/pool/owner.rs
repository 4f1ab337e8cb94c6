//! The limits of a member, a group or the pool, by brute force.

use super::CLASSES;
use crate::limits;
use leasehold_core::limit::{Cost, Wait};
use leasehold_core::time::Tick;

/// All limits of an owner, taken all or none.
#[derive(Clone, Debug, Default)]
pub(super) struct Owner {
    pub(super) requests: Option<limits::Oracle>,
    pub(super) tokens: Option<[limits::Oracle; CLASSES as usize]>,
    pub(super) latest: u64,
    /// The tick until which the upstream serves no more requests.
    pub(super) turned_away: u64,
}

/// The indexes of a lease's uses in its owner's limits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uses {
    requests: usize,
    tokens: usize,
}

impl Owner {
    pub(super) fn earliest(&self, asked: u64, class: u32, cost: Cost) -> Wait {
        let now = asked.max(self.latest);
        let mut wait = Wait::Until(Tick::from_nanos(asked));
        if cost.requests > 0 && self.turned_away > now {
            wait = Wait::Until(Tick::from_nanos(self.turned_away));
        }
        let tokens = self
            .tokens
            .as_ref()
            .map(|by_class| &by_class[class as usize]);
        let rules = [
            (self.requests.as_ref(), cost.requests),
            (tokens, cost.tokens),
        ];
        for (limit, units) in rules {
            let Some(limit) = limit else { continue };
            let units = u64::from(units);
            let own = match limit.earliest(now, units) {
                Some(at) if at <= now => continue,
                Some(at) => Wait::Until(Tick::from_nanos(at)),
                None if limit.waits_for_settlement(units) => Wait::ForSettlement,
                None => Wait::Never,
            };
            wait = match (wait, own) {
                (Wait::Never, _) | (_, Wait::Never) => Wait::Never,
                (Wait::ForSettlement, _) | (_, Wait::ForSettlement) => Wait::ForSettlement,
                (Wait::Until(a), Wait::Until(b)) => Wait::Until(a.max(b)),
            };
        }
        wait
    }

    pub(super) fn charge(&mut self, now: u64, class: u32, cost: Cost) -> Uses {
        self.latest = self.latest.max(now);
        let mut uses = Uses::default();
        if let Some(limit) = &mut self.requests {
            limit.charge(now, cost.requests.into());
            uses.requests = limit.uses.len() - 1;
        }
        if let Some(by_class) = &mut self.tokens {
            let limit = &mut by_class[class as usize];
            limit.charge(now, cost.tokens.into());
            uses.tokens = limit.uses.len() - 1;
        }
        uses
    }

    pub(super) fn arrive(&mut self, now: u64, uses: Uses) {
        self.latest = self.latest.max(now);
        if let Some(limit) = &mut self.requests {
            limit.arrive(now, uses.requests);
        }
    }

    pub(super) fn settle(&mut self, now: u64, class: u32, uses: Uses, actual: Cost) {
        self.latest = self.latest.max(now);
        if let Some(limit) = &mut self.requests {
            limit.settle(now, uses.requests, actual.requests.into());
        }
        if let Some(by_class) = &mut self.tokens {
            by_class[class as usize].settle(now, uses.tokens, actual.tokens.into());
        }
    }

    /// Counts what an earlier owner has counted besides the leases that are held as if it had ended now.
    pub(super) fn take_over(&mut self, now: u64, earlier: &Self) {
        self.latest = earlier.latest.max(now);
        self.turned_away = earlier.turned_away;
        let (Some(limit), Some(before)) = (&mut self.requests, &earlier.requests) else {
            return;
        };
        let used = before.limit - before.available(self.latest);
        let left = limit.available(self.latest);
        let used = used.saturating_sub(limit.limit - left).min(left);
        if used > 0 {
            limit.charge(self.latest, used);
            limit.settle(self.latest, limit.uses.len() - 1, used);
        }
    }
}
