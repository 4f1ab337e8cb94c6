//! The limiters side by side on one pattern of bursts: 3 per 60 s, an hour in virtual time.
//!
//! Bursts of up to 12 calls come at random, a third of them across the end of a minute. Asserts that no limiter
//! admits more in any 60 s than its stated worst case.

use core::error::Error;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use leasehold_sync::limit::{Anchor, BucketedWindow, FixedWindow, Gcra, Limit, Limiter};
use leasehold_sync::limit::{Pacing, SlidingCounter, SlidingLog, TokenBucket};
use leasehold_sync::{Clock, SyncLimiter, Tick};
use std::sync::Arc;

const WINDOW: Duration = Duration::from_secs(60);
const MILLI: u64 = 1_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let [one, three, six] = [0, 2, 5].map(|more| NonZeroU32::MIN.saturating_add(more));
    let bucketed = BucketedWindow::new(three, WINDOW, six, Anchor::Grant)?;
    let family: [(&str, Limiter); 8] = [
        (
            "exact log",
            SlidingLog::new(three, WINDOW, Anchor::Grant)?.into(),
        ),
        ("6 buckets", bucketed.into()),
        ("counter", SlidingCounter::new(three, WINDOW)?.into()),
        ("fixed", FixedWindow::new(three, WINDOW)?.into()),
        (
            "bucket of 3",
            TokenBucket::new(three, WINDOW, three)?.into(),
        ),
        ("GCRA of 3", Gcra::new(three, WINDOW, three)?.into()),
        ("GCRA of 1", Gcra::new(three, WINDOW, one)?.into()),
        ("pacing", Pacing::new(three, WINDOW)?.into()),
    ];
    let calls = bursts();
    println!("{} calls in an hour, limit 3 per 60 s", calls.len());
    println!("limiter      admitted  most in any 60 s  stated worst case");
    for (name, limiter) in family {
        let worst_case = limiter.worst_case(WINDOW);
        let nanos = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&nanos);
        let clock = Clock::told_by(move || Tick::from_nanos(told.load(Ordering::Relaxed)));
        let limiter = SyncLimiter::with_clock(limiter, clock);
        let mut admitted = Vec::new();
        for call in &calls {
            nanos.store(call.as_nanos(), Ordering::Relaxed);
            admitted.extend(limiter.try_acquire(1));
        }
        let most = most_in_a_window(&admitted);
        let count = admitted.len();
        println!("{name:<11}{count:>10}{most:>18}{worst_case:>19}");
        assert!(most <= worst_case && count > 50, "{name}");
    }
    Ok(())
}

/// The ticks of all calls, from a fixed seed.
fn bursts() -> Vec<Tick> {
    let mut random = fastrand::Rng::with_seed(1);
    let (mut calls, mut millis) = (Vec::new(), 0);
    while millis < 3_600_000 {
        if random.u8(..3) == 0 {
            millis = millis / 60_000 * 60_000 + 59_995;
        }
        let burst = (0..random.u64(1..=12)).map(|call| (millis + call) * MILLI);
        calls.extend(burst.map(Tick::from_nanos));
        millis += random.u64(15..90_000);
    }
    calls
}

fn most_in_a_window(admitted: &[Tick]) -> u64 {
    let window = |from: &Tick| {
        let within = |at: &&Tick| *at >= from && at.since(*from) < WINDOW;
        admitted.iter().filter(within).count() as u64
    };
    admitted.iter().map(window).max().unwrap_or(0)
}
