//! An hour of a pool over the bare core, in virtual time and the same for one seed.
//!
//! Four keys with 20 calls per 60 s serve calls of 1 to 9 s, 50 per minute on average. From minute 20 to 30 the
//! upstream throttles key 0. Asserts that every call ends and that no key exceeds its limit.

use core::error::Error;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Anchor, SlidingLog};
use leasehold_core::pool::{Acquired, Event, Grant, Member, Outcome, Pool, PoolConfig, Request};
use leasehold_core::time::{Tick, earliest};
use std::collections::BTreeMap;

const WINDOW: Duration = Duration::from_secs(60);
const LIMIT: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let minute = |minute: u64| Tick::ZERO.saturating_add(Duration::from_secs(60 * minute));
    let limit = NonZeroU32::new(LIMIT as u32).expect("the limit is above zero");
    let mut pool = Pool::new(PoolConfig::new(Policy::LeastUsed));
    for key in 0..4 {
        let limit = SlidingLog::new(limit, WINDOW, Anchor::Completion)?;
        pool.add(Tick::ZERO, Member::new(key).limit(limit))?;
    }
    let mut random = fastrand::Rng::with_seed(7);
    let (mut arrival, mut arrived) = (Some(Tick::ZERO), 0);
    // Calls in flight by the tick of their end, and the ticks at which calls were sent, by key.
    let mut in_flight: BTreeMap<Tick, Grant> = BTreeMap::new();
    let mut sent: [Vec<Tick>; 4] = Default::default();

    let mut next = arrival;
    while let Some(now) = next {
        let mut granted = Vec::new();
        pool.handle_timeout(now);
        if let Some(grant) = in_flight.remove(&now) {
            let is_throttled = now >= minute(20) && now < minute(30);
            let outcome = match pool.payload(grant.member) {
                Some(0) if is_throttled => Outcome::Throttled { until: minute(30) },
                _ => Outcome::Ok,
            };
            pool.release(now, grant.lease, outcome)?;
        }
        if arrival == Some(now) {
            arrived += 1;
            if let Acquired::Granted(grant) = pool.acquire(now, Request::new())? {
                granted.push(grant);
            }
            let gap = Duration::from_millis(random.u64(1..2_400));
            arrival = Some(now.saturating_add(gap)).filter(|next| *next < minute(60));
        }
        while let Some(event) = pool.poll_event() {
            if let Event::Granted { grant, .. } = event {
                granted.push(grant);
            }
        }
        for grant in granted {
            sent[*pool.payload(grant.member).expect("a leased member stays")].push(now);
            let latency = Duration::from_nanos(random.u64(1_000_000_000..9_000_000_000));
            in_flight.insert(now.saturating_add(latency), grant);
        }
        let end = in_flight.keys().next().copied();
        next = earliest(pool.poll_timeout(), earliest(arrival, end));
    }

    let stats = pool.stats();
    let calls = sent.each_ref().map(Vec::len);
    println!("{arrived} calls, by key: {calls:?}");
    let (total, longest) = (stats.total, stats.waited.max().unwrap_or_default());
    println!("{} throttled, {longest:?} waited at most", total.throttled);
    assert_eq!(
        (total.ok + total.throttled, stats.waiting.waiting),
        (arrived, 0)
    );
    for window in sent.iter().flat_map(|sent| sent.windows(LIMIT + 1)) {
        assert!(window[LIMIT].since(window[0]) >= WINDOW);
    }
    Ok(())
}
