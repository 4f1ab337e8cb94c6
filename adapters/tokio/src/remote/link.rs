//! The way to a gateway: calls, and the task that tells of leases.

use super::connection::{Connections, Exchange};
use super::lock;
use crate::clock::Epoch;
use core::pin::pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use leasehold_protocol::lease::{
    GrantedLease, HoldingId, Holdings, LeaseBatch, LeaseBatchAnswer, LeaseFailure, LeaseOutcome,
    LeaseRelease, LeaseRequest, Place, PlaceError,
};
use leasehold_sync::Tick;
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long the answer to a batch of ends and renewals may take.
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);

/// A gateway, and the leases that it has granted.
pub(super) struct Link {
    place: Place,
    connections: Connections,
    epoch: Epoch,
    holdings: Mutex<Holdings>,
    /// Wakes the task: there is something to be told, or the link was closed.
    changed: Notify,
    /// Wakes those that flush: nothing is left to be told.
    told: Notify,
    is_closed: AtomicBool,
}

/// What keeps a link open: the handles of a pool, and requests that were dropped before their answer.
pub(super) struct Opened {
    link: Arc<Link>,
    runtime: Handle,
}

impl Opened {
    /// Makes a link, with its task.
    pub(super) fn start(place: Place) -> Result<Self, PlaceError> {
        let link = Arc::new(Link {
            connections: Connections::new(place.plain_address()?),
            place,
            epoch: Epoch::start(Tick::ZERO),
            holdings: Mutex::default(),
            changed: Notify::new(),
            told: Notify::new(),
            is_closed: AtomicBool::new(false),
        });
        let runtime = Handle::current();
        runtime.spawn(Arc::clone(&link).tell_all());
        Ok(Self { link, runtime })
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Asks for one lease, once. Dropped before the answer, it gives back what was granted, unless another request may have
    /// the same lease because it shares the key.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        request: &LeaseRequest,
        asked_at: Tick,
        time: Duration,
        is_shared: bool,
    ) -> Result<GrantedLease, LeaseFailure> {
        let request = self.link.place.request("leases", request)?;
        let exchange = self.link.connections.begin(request).await;
        let exchange = exchange.map_err(|error| self.link.place.unreachable(error))?;
        let mut asked = Asked {
            opened: self,
            asked_at,
            exchange: None,
            is_shared,
        };
        let exchange = asked.exchange.insert(exchange);
        let answer = timeout(time, self.link.finish(exchange)).await;
        // A failed one is asked again under the same key, and what it was granted is told then.
        asked.exchange = None;
        answer.unwrap_or_else(|late| Err(self.link.place.unreachable(late)))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.link.is_closed.store(true, Ordering::Relaxed);
        self.link.changed.notify_one();
    }
}

/// A request whose answer has not come.
struct Asked<'o> {
    opened: &'o Arc<Opened>,
    asked_at: Tick,
    /// `None` once it has come.
    exchange: Option<Exchange>,
    is_shared: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(mut exchange) = self.exchange.take() else {
            return;
        };
        // The gateway cancels the wait by that; if it has answered before, the answer can still be read.
        exchange.hang_up();
        if self.is_shared {
            return;
        }
        let (opened, asked_at) = (Arc::clone(self.opened), self.asked_at);
        self.opened.runtime.spawn(async move {
            let link = &opened.link;
            let answer = timeout(BATCH_TIMEOUT, link.finish(&mut exchange)).await;
            if let Ok(Ok(granted)) = answer {
                link.tell(|holdings| {
                    let lease = holdings.add(asked_at, &granted);
                    holdings.release(lease, LeaseRelease::new(LeaseOutcome::NotSent));
                });
            }
        });
    }
}

impl Link {
    pub(super) fn now(&self) -> Tick {
        self.epoch.now()
    }

    pub(super) async fn sleep_until(&self, tick: Tick) {
        self.epoch.sleep_until(tick).await;
    }

    /// Returns a request for one lease of the pool.
    pub(super) fn one_of(&self, request: LeaseRequest) -> LeaseRequest {
        self.place.one_of(request)
    }

    pub(super) fn left(&self, lease: HoldingId) -> Option<Duration> {
        lock(&self.holdings).left(self.now(), lease)
    }

    /// Changes what is held, and wakes the task.
    pub(super) fn tell<R>(&self, change: impl FnOnce(&mut Holdings) -> R) -> R {
        let changed = change(&mut lock(&self.holdings));
        self.changed.notify_one();
        changed
    }

    /// Waits until nothing is left to be told.
    pub(super) async fn flush(&self) {
        loop {
            let mut told = pin!(self.told.notified());
            told.as_mut().enable();
            if !lock(&self.holdings).is_telling() {
                return;
            }
            told.await;
        }
    }

    /// Tells the gateway of leases until the link is closed and none is held.
    async fn tell_all(self: Arc<Self>) {
        loop {
            let batch = lock(&self.holdings).next_batch(self.now());
            if let Some(batch) = batch {
                let answer = self.send(&batch).await;
                let mut holdings = lock(&self.holdings);
                match answer {
                    Ok(answer) => holdings.answered(&answer),
                    Err(_) => holdings.failed(self.now()),
                }
                continue;
            }
            self.told.notify_waiters();
            let due = {
                let holdings = lock(&self.holdings);
                if self.is_closed.load(Ordering::Relaxed) && holdings.is_idle() {
                    return;
                }
                holdings.poll_timeout()
            };
            let changed = self.changed.notified();
            match due {
                Some(due) => tokio::select! {
                    () = changed => {}
                    () = self.sleep_until(due) => {}
                },
                None => changed.await,
            }
        }
    }

    async fn send(&self, batch: &LeaseBatch) -> Result<LeaseBatchAnswer, LeaseFailure> {
        let request = self.place.request("batch", batch)?;
        let answered = async {
            let exchange = self.connections.begin(request).await;
            let mut exchange = exchange.map_err(|error| self.place.unreachable(error))?;
            self.finish(&mut exchange).await
        };
        let answer = timeout(BATCH_TIMEOUT, answered).await;
        answer.unwrap_or_else(|late| Err(self.place.unreachable(late)))
    }

    /// Reads the answer to a call, and keeps its connection.
    async fn finish<T: serde::de::DeserializeOwned>(
        &self,
        exchange: &mut Exchange,
    ) -> Result<T, LeaseFailure> {
        let answer = exchange.answer(&self.connections).await;
        let (status, body) = answer.map_err(|error| self.place.unreachable(error))?;
        self.place.read(status, &body)
    }
}
