//! Reads what a shared limit allows.
//!
//! Invariant: a quota is read under the limit's lock at one tick.

use super::queue::{COST, Shared};
use core::fmt;
use core::time::Duration;
use leasehold_core::limit::{Allowance, Limit, Quota, Wait};

/// The quota now.
pub(super) fn read(allowance: Allowance, shared: &Shared) -> Quota {
    shared.read(|limiter, now| allowance.quota(limiter, now))
}

pub(super) fn retry_after(shared: &Shared) -> Option<Duration> {
    shared.read(|limiter, now| match limiter.earliest(now, COST) {
        Wait::Until(tick) => Some(tick.since(now)),
        Wait::ForSettlement | Wait::Never => None,
    })
}

/// Shows when to try again.
pub(super) struct Until(pub(super) Option<Duration>);

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(wait) => write!(f, "in {wait:?}"),
            None => f.write_str("when a call in flight has completed"),
        }
    }
}
