//! Tasks of smol, for which there is no adapter: a `PendingLease` and a timer make a future.

use core::error::Error;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use leasehold_sync::limit::LimitSpecs;
use leasehold_sync::{AcquireError, Lease, Member, PendingLease, Policy};
use leasehold_sync::{PoolConfig, Request, SyncPool};
use smol::{LocalExecutor, Timer};

type Pool = SyncPool<&'static str>;

const WINDOW: Duration = Duration::from_millis(100);

/// Waits for a lease, and wakes at the tick that the pool asks for while it is the pool's timekeeper.
struct Acquire<'a> {
    pool: &'a Pool,
    pending: PendingLease<&'static str>,
    timer: Timer,
}

impl Future for Acquire<'_> {
    type Output = Result<Lease<&'static str>, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let (answer, wake_at) = self.pending.poll(context);
            let Some(wake_at) = wake_at else {
                return answer;
            };
            self.timer = Timer::after(wake_at.since(self.pool.now()));
            if Pin::new(&mut self.timer).poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

async fn acquire(pool: &Pool, request: Request) -> Result<Lease<&'static str>, AcquireError> {
    let (pending, timer) = (pool.enqueue(request)?, Timer::never());
    Acquire {
        pool,
        pending,
        timer,
    }
    .await
}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
    let limits: LimitSpecs = "2/100ms".parse()?;
    pool.add(Member::new("sk-1").limits(limits.limits()))?;

    let executor = LocalExecutor::new();
    let call = async || {
        let lease = acquire(&pool, Request::new()).await?;
        let sent = pool.now();
        Timer::after(Duration::from_millis(5)).await;
        drop(lease);
        Ok::<_, AcquireError>(sent)
    };
    let tasks: Vec<_> = (0..6).map(|_| executor.spawn(call())).collect();
    let mut sent = Vec::new();
    for task in tasks {
        sent.push(smol::block_on(executor.run(task))?);
    }

    assert!(sent.is_sorted(), "not served in order: {sent:?}");
    for three in sent.windows(3) {
        assert!(three[2].since(three[0]) >= WINDOW, "{three:?}");
    }
    let soon = Request::new().deadline(pool.now().saturating_add(WINDOW / 2));
    let refused = smol::block_on(acquire(&pool, soon));
    assert!(matches!(refused, Err(AcquireError::DeadlineTooSoon { .. })));
    println!("6 calls, never 3 in {WINDOW:?}: {sent:?}");
    Ok(())
}
