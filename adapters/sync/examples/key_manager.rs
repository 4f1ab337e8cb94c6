//! A key manager for a language model: 10 keys, each with 3 requests and 40,000 tokens per minute.
//!
//! A call reserves an estimate of its tokens and is settled at what it used, which makes room for others.
//! A minute lasts 600 ms here. Asserts from the calls' own log that no key exceeds either limit.

use core::error::Error;
use core::time::Duration;
use leasehold_sync::limit::{Cost, LimitSpecs};
use leasehold_sync::{Member, Outcome, Policy, PoolConfig, Release, Request, SyncPool, Tick};
use std::sync::Mutex;
use std::thread;

const MINUTE: Duration = Duration::from_millis(600);
const REQUESTS: u32 = 3;
const TOKENS: u32 = 40_000;
const CALLS: u32 = 90;
const POISON: &str = "no worker panics while it holds the lock";

/// A key's log: when each call was sent and the tokens it used.
type Key = Mutex<Vec<(Tick, u32)>>;

fn main() -> Result<(), Box<dyn Error>> {
    let limits: LimitSpecs = format!("{REQUESTS}/600ms, {TOKENS} tokens/600ms").parse()?;
    let pool = SyncPool::new(PoolConfig::new(Policy::LeastUsed));
    for _ in 0..10 {
        pool.add(Member::new(Key::default()).limits(limits.limits()))?;
    }
    thread::scope(|scope| {
        for worker in 0..30 {
            let calls = (worker..CALLS).step_by(30);
            scope.spawn(|| calls.for_each(|call| ask(&pool, call)));
        }
    });

    println!("key  calls  tokens  most calls and tokens in a minute");
    for (number, (_, key)) in pool.members().iter().enumerate() {
        let calls = key.lock().expect(POISON);
        let tokens: u32 = calls.iter().map(|(_, used)| used).sum();
        let (mut most_calls, mut most_tokens) = (0, 0);
        for (from, _) in calls.iter() {
            let within = |at: &Tick| at >= from && at.since(*from) < MINUTE;
            let window = calls.iter().filter(|(at, _)| within(at));
            most_calls = most_calls.max(window.clone().count());
            most_tokens = most_tokens.max(window.map(|(_, used)| used).sum());
        }
        let count = calls.len();
        println!("{number:>3}{count:>7}{tokens:>8}{most_calls:>12}{most_tokens:>11}");
        assert!(most_calls <= REQUESTS as usize && most_tokens <= TOKENS);
    }
    let stats = pool.stats();
    assert_eq!(stats.total.ok, u64::from(CALLS));
    println!("{CALLS} calls, {:?} waited on average", stats.mean_wait());
    Ok(())
}

/// Waits for a key, makes one call with it, and settles the estimate at the tokens used.
fn ask(pool: &SyncPool<Key>, call: u32) {
    let cost = |tokens| Cost {
        requests: 1,
        tokens,
    };
    let (estimate, used) = (15_000, 6_000 + call * 997 % 7_000);
    let pending = pool.enqueue(Request::new().cost(cost(estimate)));
    let key = pending.and_then(|pending| pending.wait());
    let key = key.expect("the pool stays open and its queue has no bound");
    key.lock().expect(POISON).push((pool.now(), used));
    thread::sleep(Duration::from_millis(u64::from(call % 20)));
    let release = Release::from(Outcome::Ok).cost(cost(used));
    key.release(release)
        .expect("leases of this pool don't expire");
}
