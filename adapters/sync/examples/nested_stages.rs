//! One pool of 5 endpoints under nested stages: 4 samples x 16 output workers x 12 validation workers.
//!
//! A worker releases its endpoint before its own workers start: no stage holds a lease while it waits for
//! another one, so that 836 threads can't deadlock on 5 endpoints. Each wait has a deadline, which would turn
//! a deadlock into an error. Asserts that every call was made and that the calls are balanced.

use core::error::Error;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_sync::{AcquireError, Member, Outcome, Policy, PoolConfig, SyncPool};
use std::thread;

type Pool = SyncPool<&'static str>;

const ENDPOINTS: [&str; 5] = ["gpu-0", "gpu-1", "gpu-2", "gpu-3", "gpu-4"];
const SAMPLES: u64 = 4;
const OUTPUTS: u64 = 16;
const VALIDATIONS: u64 = 12;
/// Far above the time that the example takes, about 0.2 s.
const DEADLOCK: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new(PoolConfig::new(Policy::LeastUsed));
    for endpoint in ENDPOINTS {
        pool.add(Member::new(endpoint).max_leases(NonZeroU32::MIN))?;
    }
    stage(SAMPLES, || stage(OUTPUTS, || output(&pool)))?;

    let stats = pool.stats();
    for (endpoint, figures) in ENDPOINTS.iter().zip(&stats.members) {
        println!("{endpoint}  {} calls", figures.counts.ok);
    }
    let (variance, score) = (stats.variance(), stats.balance_score());
    println!("variance {variance:.2}, balance score {score:.3}");
    assert_eq!(stats.total.ok, SAMPLES * OUTPUTS * (1 + VALIDATIONS));
    assert_eq!(stats.waiting.waiting, 0);
    assert!(score > 0.75, "the endpoints are used unevenly: {score}");
    Ok(())
}

/// Runs a stage of `workers` threads; returns the error of one that failed.
fn stage(
    workers: u64,
    work: impl Fn() -> Result<(), AcquireError> + Sync,
) -> Result<(), AcquireError> {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(&work)).collect();
        let mut workers = workers.into_iter();
        workers.try_for_each(|worker| worker.join().expect("no worker panics"))
    })
}

/// Makes one output, then validates it in parallel.
fn output(pool: &Pool) -> Result<(), AcquireError> {
    call(pool)?;
    stage(VALIDATIONS, || call(pool))
}

/// Leases an endpoint for one call of 1 ms.
fn call(pool: &Pool) -> Result<(), AcquireError> {
    let endpoint = pool.acquire_timeout(DEADLOCK)?;
    thread::sleep(Duration::from_millis(1));
    let released = endpoint.release(Outcome::Ok);
    released.expect("leases of this pool don't expire");
    Ok(())
}
