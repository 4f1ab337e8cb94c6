//! Tasks and a thread share two keys, each with 2 calls per 100 ms; some tasks give up while they wait.
//!
//! At the end a key is drained, which a subscription reports.

use core::error::Error;
use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use leasehold_tokio::limit::{Anchor, SlidingLog};
use leasehold_tokio::{Member, Policy, PoolConfig, PoolEvent, TokioPool};
use std::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const WINDOW: Duration = Duration::from_millis(100);

/// A key's log: the instant of each call.
type Key = Mutex<Vec<Instant>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool: TokioPool<Key> = TokioPool::new(PoolConfig::new(Policy::Fifo));
    let two = NonZeroU32::MIN.saturating_add(1);
    for _ in 0..2 {
        let limit = SlidingLog::new(two, WINDOW, Anchor::Completion)?;
        pool.blocking()
            .add(Member::new(Key::default()).limit(limit))?;
    }
    let mut events = pool.events(NonZeroUsize::MIN.saturating_add(7));

    let call = |key: &Key| key.lock().expect("no task panicked").push(Instant::now());
    let mut tasks = JoinSet::new();
    for _ in 0..9 {
        let pool = pool.clone();
        tasks.spawn(async move {
            let key = pool.acquire().await.expect("the pool stays open");
            call(&key);
            sleep(Duration::from_millis(5)).await;
        });
    }
    let shared = pool.clone();
    tasks.spawn_blocking(move || call(&shared.blocking().acquire().expect("the pool stays open")));
    for millis in 1..6 {
        let pool = pool.clone();
        tasks.spawn(async move {
            // A lease that is granted as the time is up goes to the next task.
            let _ = timeout(Duration::from_millis(millis), pool.acquire()).await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done?;
    }

    let mut calls = 0;
    for (_, key) in pool.blocking().members() {
        let sent = key.lock().expect("no task panicked");
        calls += sent.len();
        for three in sent.windows(3) {
            assert!(three[2] - three[0] >= WINDOW, "{three:?}");
        }
    }
    assert_eq!(calls, 10);
    let stats = pool.blocking().stats();
    assert!(stats.members.iter().all(|key| key.in_flight == 0));

    let (key, _) = pool.blocking().members().remove(0);
    pool.blocking().drain(key)?;
    let event = events.next().await;
    assert!(matches!(event, Some(PoolEvent::Drained { member }) if member == key));
    println!("10 calls, never 3 in {WINDOW:?} on one key");
    Ok(())
}
