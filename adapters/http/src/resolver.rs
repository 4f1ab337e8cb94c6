//! A resolver that caches the addresses of host names.
//!
//! ureq resolves for every request, even on a pooled connection, and its own resolver starts a thread to do so
//! under a timeout. This one calls it only for a name that is not cached.
//!
//! Implements a trait of ureq's `unversioned` module, which may change in any minor version. Because of this
//! file and `connect.rs` the workspace pins ureq to one minor version.
//!
//! Invariant: at most [`MAX_NAMES`] names are cached, each for less than [`TTL`], and no lock is held during a
//! lookup.

use crate::not_connected::{NotConnected, Phase};
use crate::{clock, lock};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Time that a name stays cached. The lifetime given by the name service isn't known here.
const TTL: Duration = Duration::from_secs(60);
const MAX_NAMES: usize = 1_024;

/// A caching resolver; clones share the cache.
#[derive(Clone, Debug, Default)]
pub(crate) struct CachedResolver(Arc<Mutex<Cache>>);

#[derive(Debug, Default)]
struct Cache {
    names: HashMap<String, CachedName>,
    lookups: u64,
}

#[derive(Debug)]
struct CachedName {
    addresses: ResolvedSocketAddrs,
    looked_up_at: Instant,
}

impl CachedResolver {
    pub(crate) fn lookups(&self) -> u64 {
        lock(&self.0).lookups
    }

    /// Evicts the host of `uri` from the cache.
    pub(crate) fn forget(&self, uri: &Uri) {
        if let Some(name) = host_and_port(uri) {
            lock(&self.0).names.remove(&name);
        }
    }

    /// Returns the addresses of `name`, from the cache or by `look_up`.
    ///
    /// Callers that miss at the same time each look it up.
    fn addresses(
        &self,
        name: String,
        now: Instant,
        look_up: impl FnOnce() -> Result<ResolvedSocketAddrs, ureq::Error>,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        {
            let mut cache = lock(&self.0);
            if let Some(cached) = cache.names.get(&name)
                && cached.is_fresh(now)
            {
                return Ok(cached.addresses.clone());
            }
            cache.lookups += 1;
        }
        let addresses = look_up()?;
        lock(&self.0).insert(name, addresses.clone(), now);
        Ok(addresses)
    }
}

impl Cache {
    /// Adds a name; a full cache first evicts all expired names, else the oldest one.
    fn insert(&mut self, name: String, addresses: ResolvedSocketAddrs, now: Instant) {
        if self.names.len() >= MAX_NAMES {
            self.names.retain(|_, cached| cached.is_fresh(now));
        }
        if self.names.len() >= MAX_NAMES {
            let oldest = self.names.iter().min_by_key(|(_, it)| it.looked_up_at);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.names.remove(&oldest);
            }
        }
        let cached = CachedName {
            addresses,
            looked_up_at: now,
        };
        self.names.insert(name, cached);
    }
}

impl CachedName {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.looked_up_at) < TTL
    }
}

impl Resolver for CachedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let inner = DefaultResolver::default();
        let mark = |error| NotConnected::mark(Phase::Resolve, error);
        let Some(name) = host_and_port(uri) else {
            return inner.resolve(uri, config, timeout).map_err(mark);
        };
        if let Some(address) = literal_address(&name) {
            let mut addresses = self.empty();
            addresses.push(address);
            return Ok(addresses);
        }
        self.addresses(name, clock::now(), || inner.resolve(uri, config, timeout))
            .map_err(mark)
    }
}

/// Returns the `host:port` of a URI in lower case.
fn host_and_port(uri: &Uri) -> Option<String> {
    let mut name = DefaultResolver::host_and_port(uri.scheme()?, uri.authority()?)?;
    name.make_ascii_lowercase();
    Some(name)
}

/// Parses a name that is an address and needs no lookup.
fn literal_address(name: &str) -> Option<SocketAddr> {
    let (host, port) = name.rsplit_once(':')?;
    Some(SocketAddr::new(literal(host)?, port.parse().ok()?))
}

/// Parses a host that is an IP address; IPv6 in brackets.
fn literal(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(last: u8) -> ResolvedSocketAddrs {
        let mut addresses = CachedResolver::default().empty();
        addresses.push(SocketAddr::from(([10, 0, 0, last], 80)));
        addresses
    }

    fn uri(uri: &str) -> Uri {
        uri.parse().unwrap()
    }

    #[test]
    fn a_name_is_looked_up_again_once_it_has_expired() {
        let resolver = CachedResolver::default();
        let start = clock::now();
        let resolve = |after, last| {
            let name = "h:80".to_owned();
            resolver.addresses(name, start + after, || Ok(addresses(last)))
        };
        assert_eq!(resolve(Duration::ZERO, 1).unwrap(), addresses(1));
        let last_fresh = TTL - Duration::from_nanos(1);
        assert_eq!(resolve(last_fresh, 2).unwrap(), addresses(1));
        assert_eq!(resolve(TTL, 3).unwrap(), addresses(3));
        assert_eq!(resolve(TTL + last_fresh, 4).unwrap(), addresses(3));
        assert_eq!(resolver.lookups(), 2);
    }

    #[test]
    fn a_failed_lookup_is_not_cached() {
        let resolver = CachedResolver::default();
        let now = clock::now();
        let failed = resolver.addresses("h:80".to_owned(), now, || Err(ureq::Error::HostNotFound));
        assert!(failed.is_err());
        let found = resolver.addresses("h:80".to_owned(), now, || Ok(addresses(1)));
        assert_eq!(found.unwrap(), addresses(1));
    }

    #[test]
    fn a_failed_lookup_of_an_expired_name_is_an_error() {
        let resolver = CachedResolver::default();
        let now = clock::now();
        let found = resolver.addresses("h:80".to_owned(), now, || Ok(addresses(1)));
        assert!(found.is_ok());
        let failed = resolver.addresses("h:80".to_owned(), now + TTL, || {
            Err(ureq::Error::HostNotFound)
        });
        assert!(failed.is_err());
    }

    #[test]
    fn a_full_cache_evicts_the_oldest_name() {
        let resolver = CachedResolver::default();
        let start = clock::now();
        for number in 0..=MAX_NAMES as u64 {
            let now = start + Duration::from_micros(number);
            let kept = resolver.addresses(format!("h{number}:80"), now, || Ok(addresses(1)));
            assert!(kept.is_ok());
        }
        let cache = lock(&resolver.0);
        assert_eq!(cache.names.len(), MAX_NAMES);
        assert!(!cache.names.contains_key("h0:80"));
    }

    #[test]
    fn a_full_cache_evicts_expired_names_first() {
        let resolver = CachedResolver::default();
        let start = clock::now();
        for number in 0..MAX_NAMES {
            let kept = resolver.addresses(format!("h{number}:80"), start, || Ok(addresses(1)));
            assert!(kept.is_ok());
        }
        let kept = resolver.addresses("h:80".to_owned(), start + TTL, || Ok(addresses(1)));
        assert!(kept.is_ok());
        assert_eq!(lock(&resolver.0).names.len(), 1);
    }

    #[test]
    fn a_forgotten_name_is_looked_up_again() {
        let resolver = CachedResolver::default();
        for _ in 0..2 {
            let kept = resolver.addresses("h:443".to_owned(), clock::now(), || Ok(addresses(1)));
            assert!(kept.is_ok());
            resolver.forget(&uri("https://H/path"));
        }
        assert_eq!(resolver.lookups(), 2);
    }

    #[test]
    fn an_address_needs_no_lookup() {
        let resolver = CachedResolver::default();
        for (url, address) in [
            ("http://127.0.0.1:81/x", "127.0.0.1:81"),
            ("https://[::1]/x", "[::1]:443"),
        ] {
            let found = resolver.resolve(&uri(url), &Config::default(), NextTimeout::default());
            assert_eq!(found.unwrap().first(), Some(&address.parse().unwrap()));
        }
        assert_eq!(resolver.lookups(), 0);
    }
}
