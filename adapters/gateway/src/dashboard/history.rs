//! Figures of the last quarter of an hour, of each pool.
//!
//! Invariant: at most [`KEPT`] samples of a pool, of pools that are in force.

use crate::backend_pool::BackendPool;
use core::time::Duration;
use leasehold_core::pool::stats::Histogram;
use leasehold_sync::{LeaseCounts, Stats};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The pause between two samples.
pub(super) const PAUSE: Duration = Duration::from_secs(5);
/// Samples of a pool that are kept: those of 15 minutes.
const KEPT: usize = 180;

/// The samples of all pools.
#[derive(Debug, Default)]
pub(super) struct History(BTreeMap<String, OfPool>);

#[derive(Debug, Default)]
struct OfPool {
    samples: VecDeque<Sample>,
    total: LeaseCounts,
    held: Histogram,
}

/// The figures of one pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    /// Its end, in milliseconds since 1970.
    at: u64,
    ok: u64,
    /// Requests that failed, or were turned away by their backend.
    failed: u64,
    p50: Duration,
    p99: Duration,
    waiting: u32,
}

impl Sample {
    /// Returns it as the list `[at, ok, failed, p50, p99, waiting]`, with times in milliseconds.
    fn view(&self) -> Value {
        let micros = |time: Duration| time.as_micros() as f64 / 1e3;
        json!([
            self.at,
            self.ok,
            self.failed,
            micros(self.p50),
            micros(self.p99),
            self.waiting
        ])
    }
}

impl History {
    /// Takes a sample of each pool, and returns them.
    pub(super) fn sample(&mut self, at: u64, pools: &[Arc<BackendPool>]) -> Value {
        let in_force = |name: &String| pools.iter().any(|pool| pool.settings().name == *name);
        self.0.retain(|name, _| in_force(name));
        let samples = pools.iter().map(|pool| {
            let of_pool = self.0.entry(pool.settings().name.clone()).or_default();
            // Those of the pool as a whole, without its members.
            let stats = pool.pool().blocking().stats_since(u64::MAX);
            (
                pool.settings().name.clone(),
                of_pool.sample(at, stats).view(),
            )
        });
        Value::Object(samples.collect())
    }

    /// Returns all samples, by pool.
    pub(super) fn view(&self) -> Value {
        let pools = self.0.iter().map(|(name, pool)| {
            let samples = pool.samples.iter().map(Sample::view);
            (name.clone(), samples.collect::<Value>())
        });
        Value::Object(pools.collect::<Map<_, _>>())
    }
}

impl OfPool {
    fn sample(&mut self, at: u64, stats: Stats) -> Sample {
        let held = stats.held.since(&self.held);
        let quantile = |permille| held.quantile(permille).unwrap_or_default();
        let failed = |counts: &LeaseCounts| counts.failed.saturating_add(counts.throttled);
        let sample = Sample {
            at,
            ok: stats.total.ok.saturating_sub(self.total.ok),
            failed: failed(&stats.total).saturating_sub(failed(&self.total)),
            p50: quantile(500),
            p99: quantile(990),
            waiting: stats.waiting.waiting,
        };
        (self.total, self.held) = (stats.total, stats.held);
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU64, Ordering};
    use leasehold_sync::{Clock, Member, Outcome, Policy, PoolConfig, SyncPool, Tick};

    #[test]
    fn a_sample_has_what_was_since_the_one_before() {
        let seconds = Arc::new(AtomicU64::new(0));
        let clock = Clock::told_by({
            let seconds = Arc::clone(&seconds);
            move || Tick::from_nanos(seconds.load(Ordering::Relaxed) * 1_000_000_000)
        });
        let pool: SyncPool<()> = SyncPool::with_clock(PoolConfig::new(Policy::Fifo), clock);
        pool.add(Member::new(())).unwrap();
        let end = |outcome: Outcome, held| {
            let lease = pool.try_acquire().unwrap();
            seconds.fetch_add(held, Ordering::Relaxed);
            lease.release(outcome).unwrap();
        };
        let mut history = OfPool::default();
        end(Outcome::Failed, 9);
        let first = history.sample(1, pool.stats());
        assert_eq!((first.ok, first.failed), (0, 1));
        end(Outcome::Ok, 1);
        end(Outcome::Ok, 1);
        let second = history.sample(2, pool.stats());
        assert_eq!((second.ok, second.failed), (2, 0));
        assert!(second.p99 < Duration::from_secs(2), "{second:?}");
        for at in 3..500 {
            history.sample(at, pool.stats());
        }
        assert_eq!(history.samples.len(), KEPT);
        assert_eq!(history.samples[0].at, 500 - KEPT as u64);
    }
}
