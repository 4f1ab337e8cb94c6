//! A listener: what it may take, and the limits that hold for its callers.
//!
//! Invariant: a request that one limit refuses is charged to no other.

use crate::lock;
use core::net::IpAddr;
use core::num::NonZeroUsize;
use core::time::Duration;
use leasehold_config::{ListenerSettings, Route, TrustedProxies};
use leasehold_core::limit::{Cost, LimitSet, Wait};
use leasehold_core::time::Tick;
use leasehold_sync::{KeyRule, KeyedError, KeyedLimiter};
use std::sync::Mutex;

/// Clients whose limits are kept at once; an idle one makes room for a new one.
const MAX_CLIENTS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
/// The class of requests at a listener, where all are alike.
const CLASS: u32 = 0;

/// One address that callers reach.
#[derive(Debug)]
pub(crate) struct Listener {
    settings: ListenerSettings,
    limit: Option<Mutex<LimitSet>>,
    by_client: Option<KeyedLimiter<IpAddr, EachClient>>,
}

/// A limit's refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverLimit {
    /// Requests that the limit admits in its window.
    pub(crate) limit: u32,
    /// The time until it admits one more; `None` if that is not known.
    pub(crate) wait: Option<Duration>,
}

impl Listener {
    pub(crate) fn new(settings: ListenerSettings) -> Self {
        let limit = settings.limit.as_ref();
        let by_client = settings.client_limit.as_ref();
        Self {
            limit: limit.map(|specs| Mutex::new(specs.limits())),
            by_client: by_client
                .map(|specs| KeyedLimiter::new(EachClient(specs.limits()), MAX_CLIENTS)),
            settings,
        }
    }

    pub(crate) fn settings(&self) -> &ListenerSettings {
        &self.settings
    }

    /// Takes a request of a client, if the limit of all and that of each client admit it.
    pub(crate) fn admit(&self, client: IpAddr, now: Tick) -> Result<(), OverLimit> {
        let mut limit = self.limit.as_ref().map(lock);
        if let Some(limit) = &limit {
            match limit.earliest(now, CLASS, Cost::REQUEST) {
                Wait::Until(at) if at <= now => {}
                wait @ (Wait::Until(_) | Wait::ForSettlement | Wait::Never) => {
                    return Err(OverLimit::new(limit, now, wait));
                }
            }
        }
        if let Some(limiter) = &self.by_client {
            let admitted = limiter.try_acquire_at(now, &client, 1);
            admitted.map_err(|refused| match refused {
                KeyedError::AtLimit(wait) => OverLimit::new(&self.client_limit(), now, wait),
                KeyedError::TooManyKeys => OverLimit {
                    limit: 0,
                    wait: None,
                },
            })?;
        }
        if let Some(limit) = &mut limit {
            // It was found open under the same lock.
            let _ = take(limit, now);
        }
        Ok(())
    }

    /// Whether a route is for some hosts alone.
    pub(crate) fn routes_by_host(&self) -> bool {
        self.settings
            .routes
            .iter()
            .any(|route| route.host.is_some())
    }

    /// Returns the first route that fits.
    pub(crate) fn route(&self, host: Option<&str>, path: &str) -> Option<&Route> {
        self.settings
            .routes
            .iter()
            .find(|route| fits(route, host, path))
    }

    /// Whether the word of a peer on its clients' addresses is taken.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        match &self.settings.forwarded {
            TrustedProxies::None => false,
            TrustedProxies::Networks(networks) => {
                networks.iter().any(|network| network.contains(peer))
            }
            TrustedProxies::All => true,
        }
    }

    fn client_limit(&self) -> LimitSet {
        let limit = self.settings.client_limit.as_ref();
        limit.map(|specs| specs.limits()).unwrap_or_default()
    }
}

impl OverLimit {
    fn new(limits: &LimitSet, now: Tick, wait: Wait) -> Self {
        Self {
            limit: limits.capacity().requests,
            wait: match wait {
                Wait::Until(at) => Some(at.since(now)),
                Wait::ForSettlement | Wait::Never => None,
            },
        }
    }
}

/// Whether a request for a host and path is one of a route's.
fn fits(route: &Route, host: Option<&str>, path: &str) -> bool {
    let is_host = |wanted: &str| host.is_some_and(|host| host.eq_ignore_ascii_case(wanted));
    let prefix = route.path.trim_end_matches('/');
    let rest = path.strip_prefix(prefix);
    route.host.as_deref().is_none_or(is_host)
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The same limits for each client.
#[derive(Debug)]
struct EachClient(LimitSet);

impl KeyRule for EachClient {
    type State = LimitSet;

    fn fresh(&self) -> LimitSet {
        self.0.clone()
    }

    fn try_acquire(&self, limits: &mut LimitSet, now: Tick, _: u32) -> Result<(), Wait> {
        take(limits, now)
    }

    fn idle_from(&self, limits: &LimitSet, now: Tick) -> Tick {
        match limits.is_idle(now) {
            true => now,
            false => limits.next_change(now, CLASS).unwrap_or(Tick::MAX),
        }
    }
}

/// Takes a request, which counts from now on: the gateway's own limits protect it and not an upstream.
fn take(limits: &mut LimitSet, now: Tick) -> Result<(), Wait> {
    let booking = limits.try_acquire(now, CLASS, Cost::REQUEST)?;
    limits.settle(now, booking, Cost::REQUEST, Cost::REQUEST);
    Ok(())
}
