//! Counts of a client.

use crate::agents::AgentCounts;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// Counts of a [`Client`](crate::Client) since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Agents opened; each is the connection pool of one endpoint.
    pub agents_created: u64,
    /// Calls that used an agent already open.
    pub agents_reused: u64,
    /// Agents evicted to make room for another.
    pub agents_closed: u64,
    /// Lookups of names that were not cached.
    pub name_lookups: u64,
    /// Attempts, failed ones included.
    pub calls: u64,
    /// Failed attempts.
    pub failed: u64,
    /// Total duration of all attempts.
    pub total_time: Duration,
}

impl ClientStats {
    /// Mean duration of an attempt; zero before the first.
    #[must_use]
    pub fn mean_time(&self) -> Duration {
        let nanos = self
            .total_time
            .as_nanos()
            .checked_div(u128::from(self.calls));
        Duration::from_nanos(
            nanos
                .and_then(|nanos| u64::try_from(nanos).ok())
                .unwrap_or(0),
        )
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    calls: AtomicU64,
    failed: AtomicU64,
    nanos: AtomicU64,
}

impl Counters {
    pub(crate) fn count(&self, time: Duration, succeeded: bool) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.failed
            .fetch_add(u64::from(!succeeded), Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self, agents: AgentCounts, name_lookups: u64) -> ClientStats {
        ClientStats {
            agents_created: agents.created,
            agents_reused: agents.reused,
            agents_closed: agents.closed,
            name_lookups,
            calls: self.calls.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            total_time: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_no_calls_is_zero() {
        let mut stats = ClientStats::default();
        assert_eq!(stats.mean_time(), Duration::ZERO);
        stats.calls = 4;
        stats.total_time = Duration::from_secs(10);
        assert_eq!(stats.mean_time(), Duration::from_millis(2_500));
    }
}
