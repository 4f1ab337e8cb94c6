//! The end of an attempt: what its lease is released with, and what its member learns.
//!
//! Invariant: a call without a reported usage stays booked as it was reserved.

use super::relayed::RelayedBody;
use crate::account::Attempt;
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::clock::time_of_day;
use crate::lock;
use core::time::Duration;
use http::response::Parts;
use leasehold_core::limit::Cost;
use leasehold_protocol::verdict::{Fate, Pause, Verdict, told_limits};
use leasehold_sync::{MemberId, Outcome, Release};
use leasehold_tokio::{BodyEnd, ClassifyEnd};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// How long a key that the service has rejected is left alone.
const REJECTED: Duration = Duration::from_secs(600);
/// Longest rest of one member of a service that is overloaded.
const OVERLOADED: Duration = Duration::from_secs(4);

/// Settles the lease of an attempt.
#[derive(Debug)]
pub(crate) struct Settle {
    pub(super) pool: Arc<BackendPool>,
    pub(super) backend: Arc<Backend>,
    pub(super) member: MemberId,
    pub(super) reserved: Cost,
    /// What the call spends on it; one that is not told of its end has spent what it may.
    pub(super) attempt: Mutex<Option<Attempt>>,
}

impl Settle {
    /// Learns the limits that an answer's head tells. They hold from now on, and not from the end of its body on.
    pub(super) fn observe(&self, parts: &Parts) {
        for limit in told_limits(&parts.headers, since_1970()) {
            if let Some((unit, left, reset)) = limit.observation() {
                // A leased member can't have been removed.
                let sync = self.pool.pool().blocking();
                let _ = sync.observe(self.member, unit, left, reset);
            }
        }
    }

    /// Counts a verdict, and returns how its lease ends.
    pub(super) fn release(&self, verdict: &Verdict) -> Release {
        if let Some(attempt) = &mut *lock(&self.attempt) {
            match &verdict.usage {
                Some(usage) => attempt.used(usage),
                None if verdict.kind.is_unpaid() => attempt.unused(),
                None => {}
            }
        }
        let rests = self
            .backend
            .service()
            .map(|service| lock(&service.rests).after(verdict));
        let rest = match verdict.fate {
            Fate::Reject => Some(REJECTED),
            Fate::Rest(Pause::Overload) => rests.flatten().map(|rest| rest.min(OVERLOADED)),
            Fate::Rest(Pause::Told(_) | Pause::Rate) | Fate::Keep | Fate::TooSmall => {
                rests.flatten()
            }
        };
        let now = self.pool.pool().blocking().now();
        let outcome = match rest {
            Some(rest) => Outcome::Throttled {
                until: now.saturating_add(rest),
            },
            None => verdict.outcome.of_pool(now),
        };
        Release::from(outcome).cost(verdict.cost(self.reserved))
    }
}

impl ClassifyEnd<RelayedBody> for Settle {
    fn classify_end(&self, body: &RelayedBody, end: BodyEnd, release: Release) -> Release {
        match (body.verdict(), end) {
            (Some(verdict), _) => self.release(verdict),
            // The caller has left: what it was charged stays.
            (None, BodyEnd::Complete | BodyEnd::Failed | BodyEnd::Abandoned) => release,
        }
    }
}

/// Returns the time since 1970, by which services tell times of day.
pub(super) fn since_1970() -> Duration {
    let since = time_of_day().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default()
}
