//! A pool of a gateway elsewhere (`serve = "leases"`), behind the same handle as a pool of this process.
//!
//! Invariant: leases are renewed as long as their handles live, and each end is told until the gateway has heard it. No
//! method but those that ask for a lease waits for the gateway.

mod link;
mod place;

pub use place::{Place, PlaceError};

use core::time::Duration;
use leasehold_protocol::lease::{
    Asking, GrantedLease, HoldingId, LeaseFailure, LeaseRelease, LeaseRequest,
};
use leasehold_sync::{Lease, LeaseExpired, MemberId, Release, RemoteLease, Tick};
use link::Link;
use std::collections::HashMap;
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
    pool: Option<String>,
    make: Box<dyn Fn(&GrantedLease) -> T + Send + Sync>,
    members: Mutex<HashMap<String, Known<T>>>,
}

/// A member as it was last told of.
struct Known<T> {
    id: MemberId,
    /// Its URL and its key, with which the payload was made.
    told: (String, Option<leasehold_protocol::ApiKey>),
    payload: Arc<T>,
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
        let pool = place.pool().map(str::to_owned);
        let link = Link::start(place)?;
        Ok(Self {
            shared: Arc::new(Shared {
                link,
                pool,
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
        mut request: LeaseRequest,
        wait: Option<Duration>,
    ) -> Result<Lease<T>, LeaseFailure> {
        let link = &self.shared.link;
        if request.pool.is_none() {
            request.pool.clone_from(&self.shared.pool);
        }
        request.count = None;
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
        let (member, payload) = self.member(granted);
        let remote = Held {
            link: Arc::clone(&self.shared.link),
            id: Some(self.shared.link.add(asked_at, granted)),
        };
        let waited = Duration::from_millis(granted.waited_ms);
        Lease::of_remote(Box::new(remote), payload, member, granted.fence, waited)
    }

    /// Returns a member's id and payload, which are made when it is first told of, or otherwise than before.
    fn member(&self, granted: &GrantedLease) -> (MemberId, Arc<T>) {
        let mut members = lock(&self.shared.members);
        let number = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let told = (granted.url.clone(), granted.secret.clone());
        let make = || Known {
            id: MemberId::elsewhere(self.shared.link.id(), number),
            told: told.clone(),
            payload: Arc::new((self.shared.make)(granted)),
        };
        let known = members.entry(granted.member.clone()).or_insert_with(make);
        if known.told != told {
            *known = Known {
                id: known.id,
                ..make()
            };
        }
        (known.id, Arc::clone(&known.payload))
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
    /// `None` once it was released.
    id: Option<HoldingId>,
}

impl Held {
    fn left(&self) -> Result<Duration, LeaseExpired> {
        let left = self.id.and_then(|id| self.link.left(id));
        left.ok_or(LeaseExpired)
    }
}

impl RemoteLease for Held {
    fn now(&self) -> Tick {
        self.link.now()
    }

    fn arrived(&self) -> Result<(), LeaseExpired> {
        if let Some(id) = self.id {
            self.link.tell(|holdings| holdings.arrived(id));
        }
        self.left().map(drop)
    }

    fn renew(&self) -> Result<Option<Duration>, LeaseExpired> {
        self.left().map(Some)
    }

    fn release(mut self: Box<Self>, release: Release) -> Result<(), LeaseExpired> {
        let left = self.left().map(drop);
        if let Some(id) = self.id.take() {
            let told = LeaseRelease::of(&release, self.link.now());
            self.link.tell(|holdings| holdings.release(id, told));
        }
        left
    }
}
