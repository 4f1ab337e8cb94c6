//! The cost of a lease, acquired and released, by policy and number of members. Each member has a limit.
//!
//! `acquire_release/<policy>/<members>` runs in virtual time, so that no clock is read.

mod policies;

use core::hint::black_box;
use core::num::NonZeroU32;
use core::time::Duration;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Anchor, SlidingLog};
use leasehold_core::pool::{Acquired, Member, Outcome, Pool, PoolConfig, Request};
use leasehold_core::time::Tick;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;

fn acquire_and_release(c: &mut Criterion) {
    for (name, policy) in policies::ALL {
        let mut group = c.benchmark_group(format!("acquire_release/{name}"));
        for members in [10, 1_000, 100_000] {
            let mut pool = pool(policy, members);
            // The first request looks at all members and builds the policy's tables: seconds for a ring
            // of 100,000 members. Criterion would scale its number of iterations by that.
            lease(&mut pool, 0);
            let mut now = 0;
            group.bench_function(BenchmarkId::from_parameter(members), |b| {
                b.iter(|| {
                    // Slow enough that even ten members stay below their limits.
                    now += MILLISECOND;
                    lease(&mut pool, now);
                });
            });
        }
        group.finish();
    }
}

/// Builds a pool of members that each take one call at a time, and 1,000 calls a second.
fn pool(policy: Policy, members: u32) -> Pool<u32> {
    let mut pool = Pool::new(PoolConfig::new(policy));
    let limit = NonZeroU32::MIN.saturating_add(999);
    for name in 0..members {
        let log = SlidingLog::new(limit, Duration::from_secs(1), Anchor::Completion)
            .expect("the window has a length");
        let member = Member::new(name).max_leases(NonZeroU32::MIN).limit(log);
        pool.add(Tick::ZERO, member)
            .expect("a small pool takes members");
    }
    pool
}

/// Acquires a lease and releases it 0.5 ms later.
fn lease(pool: &mut Pool<u32>, now: u64) {
    let acquired = pool.acquire(Tick::from_nanos(now), Request::new().key(now));
    let Ok(Acquired::Granted(grant)) = black_box(acquired) else {
        panic!("a member is free");
    };
    let later = Tick::from_nanos(now + 500 * MICROSECOND);
    black_box(pool.release(later, grant.lease, Outcome::Ok)).expect("it was granted just now");
}

criterion_group!(benches, acquire_and_release);
criterion_main!(benches);
