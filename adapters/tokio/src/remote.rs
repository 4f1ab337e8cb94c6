//! A pool of a gateway elsewhere (`serve = "leases"`), for tasks.
//!
//! Invariant: leases are renewed as long as their handles live, and each end is told until the gateway has heard it. A
//! request whose future is dropped neither waits on nor leaves a lease behind.

mod connection;
mod link;

use core::fmt;
use core::time::Duration;
use leasehold_protocol::lease::{
    Asking, GrantedLease, HoldingId, LeaseFailure, LeaseRelease, LeaseRequest, Place, PlaceError,
    RemoteMembers,
};
use leasehold_sync::{Lease, Release, RemoteLease, Tick};
use link::{Link, Opened};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// A pool of a gateway elsewhere, for tasks. Clones are the same pool.
///
/// A lease is a [`leasehold_sync::Lease`], as of a pool of this process: its payload is made once for each member, of what
/// the gateway tells of it. A task renews leases and tells how they end, many in one call. It goes on while the gateway
/// restarts, and ends once all clones and leases are gone and the gateway has heard of their ends; so it needs the runtime
/// until then: call [`flush`](Self::flush) before the runtime ends.
///
/// Start no call with a lease that has expired: [`Lease::renew`] tells how long it may be counted on.
///
/// ```no_run
/// use core::time::Duration;
/// use leasehold_tokio::{LeaseRequest, Outcome, RemotePlace, RemotePool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let place = RemotePlace::new("http://127.0.0.1:8090/v1/pools/keys", None)?;
/// let pool = RemotePool::new(place, |member| member.secret.clone())?;
/// let minute = Duration::from_secs(60);
/// let key = pool.acquire(LeaseRequest::default(), Some(minute)).await?;
/// // ... make the call with *key ...
/// key.release(Outcome::Ok)?;
/// pool.flush().await;
/// # Ok(())
/// # }
/// ```
pub struct RemotePool<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    opened: Arc<Opened>,
    make: Box<dyn Fn(&GrantedLease) -> T + Send + Sync>,
    members: Mutex<RemoteMembers<T>>,
}

impl<T> RemotePool<T> {
    /// Makes the client of a pool, whose payloads are made of what the gateway tells of a member: its URL and, where it may,
    /// its key. Nothing is asked yet; the task is spawned on the runtime that this is called in.
    ///
    /// # Errors
    /// The place begins with `https://`, and this client has no TLS.
    ///
    /// # Panics
    /// Outside of a runtime of tokio.
    pub fn new(
        place: Place,
        make: impl Fn(&GrantedLease) -> T + Send + Sync + 'static,
    ) -> Result<Self, PlaceError> {
        let opened = Opened::start(place)?;
        Ok(Self {
            shared: Arc::new(Shared {
                opened: Arc::new(opened),
                make: Box::new(make),
                members: Mutex::default(),
            }),
        })
    }

    /// Waits for a lease, for at most this long; without a bound, until there is one.
    ///
    /// The future may be dropped at any point. That closes its connection, by which the gateway cancels the wait, and a lease
    /// whose answer was on its way is given back as not sent. Only one that was asked for under an idempotency key of the
    /// caller's own is left to expire instead, because another request may have got it by that key.
    ///
    /// # Errors
    /// There is none in time, the gateway refuses the request, or it can't be reached in time.
    pub async fn acquire(
        &self,
        request: LeaseRequest,
        wait: Option<Duration>,
    ) -> Result<Lease<T>, LeaseFailure> {
        let opened = &self.shared.opened;
        let link = opened.link();
        let is_shared = request.idempotency_key.is_some();
        let request = link.one_of(request);
        let mut asking = Asking::new(request, Uuid::new_v4().to_string(), wait, link.now());
        loop {
            let asked_at = link.now();
            let request = asking.request(asked_at);
            let answer = opened.acquire(&request, asked_at, asking.timeout(asked_at), is_shared);
            let failure = match answer.await {
                Ok(granted) => return Ok(self.lease(asked_at, &granted)),
                Err(failure) => failure,
            };
            link.sleep_until(asking.after(failure, link.now())?).await;
        }
    }

    /// Waits until the gateway has heard how all leases that were given back have ended, or it can't matter any more because
    /// they would have expired long ago.
    pub async fn flush(&self) {
        self.shared.opened.link().flush().await;
    }

    fn lease(&self, asked_at: Tick, granted: &GrantedLease) -> Lease<T> {
        let link = self.shared.opened.link();
        let held = Held {
            id: link.tell(|holdings| holdings.add(asked_at, granted)),
            link: Arc::clone(link),
        };
        let (member, payload) = lock(&self.shared.members).of(granted, &self.shared.make);
        let waited = Duration::from_millis(granted.waited_ms);
        Lease::of_remote(Box::new(held), payload, member, granted.fence, waited)
    }
}

impl<T> Clone for RemotePool<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> fmt::Debug for RemotePool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemotePool").finish_non_exhaustive()
    }
}

/// A lease that the gateway has granted.
struct Held {
    link: Arc<Link>,
    id: HoldingId,
}

impl RemoteLease for Held {
    fn now(&self) -> Tick {
        self.link.now()
    }

    fn left(&self) -> Option<Duration> {
        self.link.left(self.id)
    }

    fn tell_arrived(&self) {
        self.link.tell(|holdings| holdings.arrived(self.id));
    }

    fn tell_released(&self, release: Release) {
        let told = LeaseRelease::of(&release, self.link.now());
        self.link.tell(|holdings| holdings.release(self.id, told));
    }
}

/// Locks, and ignores poison: no code here leaves data half changed between two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
