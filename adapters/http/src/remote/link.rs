//! The way to a gateway: calls, and the thread that tells of leases.

use crate::connect::MarkingConnector;
use crate::lock;
use crate::resolver::CachedResolver;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use leasehold_protocol::lease::{
    GrantedLease, HoldingId, Holdings, LeaseBatch, LeaseBatchAnswer, LeaseFailure, LeaseRequest,
    Place,
};
use leasehold_sync::{Clock, Tick};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use ureq::Agent;

/// How long the answer to a batch of ends and renewals may take.
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);

/// A gateway, and the leases that it has granted.
pub(super) struct Link {
    agent: Agent,
    place: Place,
    clock: Clock,
    holdings: Mutex<Holdings>,
    /// There is something to be told, or all was.
    changed: Condvar,
    is_closed: AtomicBool,
}

impl Link {
    /// Makes it, with its thread.
    pub(super) fn start(place: Place) -> io::Result<Arc<Self>> {
        let resolver = CachedResolver::default();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("leasehold/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(BATCH_TIMEOUT))
            .max_idle_connections_per_host(256)
            .max_idle_connections(256)
            .build();
        let connector = MarkingConnector::new(resolver.clone());
        let link = Arc::new(Self {
            agent: Agent::with_parts(config, connector, resolver),
            place,
            clock: Clock::start(),
            holdings: Mutex::default(),
            changed: Condvar::new(),
            is_closed: AtomicBool::new(false),
        });
        let teller = Arc::clone(&link);
        let thread = thread::Builder::new().name("leasehold-leases".to_owned());
        thread.spawn(move || teller.tell_all())?;
        Ok(link)
    }

    pub(super) fn now(&self) -> Tick {
        self.clock.now()
    }

    /// Returns a request for one lease of the pool.
    pub(super) fn one_of(&self, request: LeaseRequest) -> LeaseRequest {
        self.place.one_of(request)
    }

    /// Asks for one lease, once.
    pub(super) fn acquire(
        &self,
        request: &LeaseRequest,
        timeout: Duration,
    ) -> Result<GrantedLease, LeaseFailure> {
        self.call("leases", request, timeout)
    }

    /// Takes a lease that was granted, to be renewed from now on.
    pub(super) fn add(&self, asked_at: Tick, granted: &GrantedLease) -> HoldingId {
        self.tell(|holdings| holdings.add(asked_at, granted))
    }

    pub(super) fn left(&self, lease: HoldingId) -> Option<Duration> {
        lock(&self.holdings).left(self.now(), lease)
    }

    /// Changes what is held, and wakes the thread.
    pub(super) fn tell<R>(&self, change: impl FnOnce(&mut Holdings) -> R) -> R {
        let changed = change(&mut lock(&self.holdings));
        self.changed.notify_all();
        changed
    }

    /// Waits until nothing is left to be told.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        let until = self.now().saturating_add(timeout);
        let mut holdings = lock(&self.holdings);
        while holdings.is_telling() {
            let left = until.since(self.now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(holdings, left);
            holdings = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Lets the thread end once no lease is held.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Tells the gateway of leases until the link is closed and none is held.
    fn tell_all(&self) {
        let mut holdings = lock(&self.holdings);
        loop {
            if let Some(batch) = holdings.next_batch(self.now()) {
                drop(holdings);
                let answer: Result<LeaseBatchAnswer, _> = self.send(&batch);
                holdings = lock(&self.holdings);
                match answer {
                    Ok(answer) => holdings.answered(&answer),
                    Err(_) => holdings.failed(self.now()),
                }
                self.changed.notify_all();
                continue;
            }
            if self.is_closed.load(Ordering::Relaxed) && holdings.is_idle() {
                return;
            }
            let wait = holdings.poll_timeout().map(|at| at.since(self.now()));
            holdings = match wait {
                Some(wait) => {
                    let waited = self.changed.wait_timeout(holdings, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.changed.wait(holdings);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    fn send(&self, batch: &LeaseBatch) -> Result<LeaseBatchAnswer, LeaseFailure> {
        self.call("batch", batch, BATCH_TIMEOUT)
    }

    fn call<T: DeserializeOwned>(
        &self,
        call: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<T, LeaseFailure> {
        let request = self.place.request(call, body)?;
        let request = self.agent.configure_request(request);
        let request = request.timeout_global(Some(timeout)).build();
        let unreachable = |error: ureq::Error| self.place.unreachable(error);
        let mut response = self.agent.run(request).map_err(unreachable)?;
        let status = response.status();
        let text = response.body_mut().read_to_vec().map_err(unreachable)?;
        self.place.read(status, &text)
    }
}
