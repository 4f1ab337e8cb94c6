//! A pool of a gateway elsewhere (`serve = "leases"`), behind the same handle as a pool of this process.
//!
//! Invariant: leases are renewed as long as their handles live, and each end is told until the gateway has heard it. No
//! method but those that ask for a lease waits for the gateway.

mod link;

use core::time::Duration;
use leasehold_protocol::lease::{
    Asking, GrantedLease, HoldingId, LeaseFailure, LeaseRelease, LeaseRequest, Place, RemoteMembers,
};
use leasehold_sync::{Lease, Release, RemoteLease, Tick};
use link::Link;
use std::io;
use std::sync::{Arc, Mutex};
use uuid::Uuid;

use crate::{clock, lock};

/// How long the last handle that is dropped waits for the gateway to hear of the ends of leases.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A pool of a gateway elsewhere. Clones are the same pool.
///
/// A lease is a [`leasehold_sync::Lease`], as of a pool of this process: its payload is made once for each member, of what
/// the gateway tells of it. A thread renews leases and tells how they end, many in one call. It goes on while the gateway
/// restarts.
///
/// Start no call with a lease that has expired: [`Lease::renew`] tells how long it may be counted on.
pub struct RemotePool<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    link: Arc<Link>,
    make: Box<dyn Fn(&GrantedLease) -> T + Send + Sync>,
    members: Mutex<RemoteMembers<T>>,
}

impl<T> RemotePool<T> {
    /// Makes the client of a pool, whose payloads are made of what the gateway tells of a member: its URL and, where it may,
    /// its key. Nothing is asked yet.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new(
        place: Place,
        make: impl Fn(&GrantedLease) -> T + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let link = Link::start(place)?;
        Ok(Self {
            shared: Arc::new(Shared {
                link,
                make: Box::new(make),
                members: Mutex::default(),
            }),
        })
    }

    /// Waits for a lease, for at most this long; without a bound, until there is one.
    ///
    /// # Errors
    /// There is none in time, the gateway refuses the request, or it can't be reached in time.
    pub fn acquire(
        &self,
        request: LeaseRequest,
        wait: Option<Duration>,
    ) -> Result<Lease<T>, LeaseFailure> {
        let link = &self.shared.link;
        let request = link.one_of(request);
        let mut asking = Asking::new(request, Uuid::new_v4().to_string(), wait, link.now());
        loop {
            let asked_at = link.now();
            let failure = match link.acquire(&asking.request(asked_at), asking.timeout(asked_at)) {
                Ok(granted) => return Ok(self.lease(asked_at, &granted)),
                Err(failure) => failure,
            };
            let again = asking.after(failure, link.now())?;
            clock::sleep(again.since(link.now()));
        }
    }

    /// Waits until the gateway has heard how all leases that were given back have ended; `false` if it has not within this
    /// time.
    #[must_use]
    pub fn flush(&self, timeout: Duration) -> bool {
        self.shared.link.flush(timeout)
    }

    fn lease(&self, asked_at: Tick, granted: &GrantedLease) -> Lease<T> {
        let (member, payload) = lock(&self.shared.members).of(granted, &self.shared.make);
        let remote = Held {
            link: Arc::clone(&self.shared.link),
            id: self.shared.link.add(asked_at, granted),
        };
        let waited = Duration::from_millis(granted.waited_ms);
        Lease::of_remote(Box::new(remote), payload, member, granted.fence, waited)
    }
}

impl<T> Clone for RemotePool<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> core::fmt::Debug for RemotePool<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RemotePool").finish_non_exhaustive()
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let _ = self.link.flush(LAST_WORDS);
        self.link.close();
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
