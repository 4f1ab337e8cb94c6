//! Twelve threads share three backends, each of which serves one caller at a time.

use core::error::Error;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_sync::{Member, Outcome, Policy, PoolConfig, SyncPool};
use std::sync::Mutex;
use std::thread;

fn main() -> Result<(), Box<dyn Error>> {
    let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
    for _ in 0..3 {
        let backend = Mutex::new(0);
        pool.add(Member::new(backend).max_leases(NonZeroU32::MIN))?;
    }

    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let backend = pool.acquire().expect("the pool stays open");
                    let mut calls = backend.try_lock().expect("the lease is exclusive");
                    thread::sleep(Duration::from_millis(1));
                    *calls += 1;
                    drop(calls);
                    let released = backend.release(Outcome::Ok);
                    released.expect("leases of this pool don't expire");
                }
            });
        }
    });

    let members = pool.members();
    let calls = members
        .iter()
        .map(|(_, calls)| *calls.lock().expect("no thread panicked"));
    assert_eq!(calls.sum::<u32>(), 60);
    let stats = pool.stats();
    assert_eq!((stats.total.ok, stats.waiting.waiting), (60, 0));
    println!(
        "60 calls, one at a time on each of 3 backends; waited {:?} on average",
        stats.mean_wait()
    );
    Ok(())
}
