//! Which addresses a host has, from memory where it can be.
//!
//! ureq resolves for every request, even one that goes over a pooled connection, and under a timeout its
//! own resolver starts a thread to do so. This one asks it only for what it doesn't know.
//!
//! Implements a trait of ureq's `unversioned` module, which may change with any minor version: this and
//! `connect.rs` are why the workspace pins ureq to one.
//!
//! Invariant: at most [`MAX_NAMES`] names are kept, none is answered from memory [`TTL`] after it was
//! looked up, and no lock is held during a lookup.

use crate::connect::NotConnected;
use crate::endpoint::literal;
use crate::{clock, lock};
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long an answer is used. The lifetime that the name service gave isn't known here.
const TTL: Duration = Duration::from_secs(60);
/// The most names that are kept.
const MAX_NAMES: usize = 1_024;

/// A resolver with a memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct CachedResolver(Arc<Mutex<Names>>);

#[derive(Debug, Default)]
struct Names {
    known: HashMap<String, Known>,
    lookups: u64,
}

#[derive(Debug)]
struct Known {
    addresses: ResolvedSocketAddrs,
    since: Instant,
}

impl CachedResolver {
    /// How many names were looked up.
    pub(crate) fn lookups(&self) -> u64 {
        lock(&self.0).lookups
    }

    /// Looks the host of `uri` up again when it is next wanted.
    pub(crate) fn forget(&self, uri: &Uri) {
        if let Some(name) = name(uri) {
            lock(&self.0).known.remove(&name);
        }
    }

    /// The addresses of `name`. Callers that miss at the same time each look it up.
    fn recall(
        &self,
        name: String,
        now: Instant,
        look_up: impl FnOnce() -> Result<ResolvedSocketAddrs, ureq::Error>,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        {
            let mut names = lock(&self.0);
            if let Some(known) = names.known.get(&name)
                && known.is_fresh(now)
            {
                return Ok(known.addresses.clone());
            }
            names.lookups += 1;
        }
        let addresses = look_up()?;
        lock(&self.0).keep(name, addresses.clone(), now);
        Ok(addresses)
    }
}

impl Names {
    fn keep(&mut self, name: String, addresses: ResolvedSocketAddrs, now: Instant) {
        if self.known.len() >= MAX_NAMES {
            self.known.retain(|_, known| known.is_fresh(now));
        }
        if self.known.len() >= MAX_NAMES {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.since);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.known.remove(&oldest);
            }
        }
        let since = now;
        self.known.insert(name, Known { addresses, since });
    }
}

impl Known {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < TTL
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
        let Some(name) = name(uri) else {
            return inner
                .resolve(uri, config, timeout)
                .map_err(NotConnected::mark);
        };
        if let Some(address) = spelled_out(&name) {
            let mut addresses = self.empty();
            addresses.push(address);
            return Ok(addresses);
        }
        self.recall(name, clock::now(), || inner.resolve(uri, config, timeout))
            .map_err(NotConnected::mark)
    }
}

/// The `host:port` that a URI names, in lower case.
fn name(uri: &Uri) -> Option<String> {
    let mut name = DefaultResolver::host_and_port(uri.scheme()?, uri.authority()?)?;
    name.make_ascii_lowercase();
    Some(name)
}

fn spelled_out(name: &str) -> Option<SocketAddr> {
    let (host, port) = name.rsplit_once(':')?;
    Some(SocketAddr::new(literal(host)?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(last: u8) -> ResolvedSocketAddrs {
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
        let recall = |after, last| {
            let name = "h:80".to_owned();
            resolver.recall(name, start + after, || Ok(answer(last)))
        };
        assert_eq!(recall(Duration::ZERO, 1).unwrap(), answer(1));
        let last_fresh = TTL - Duration::from_nanos(1);
        assert_eq!(recall(last_fresh, 2).unwrap(), answer(1));
        assert_eq!(recall(TTL, 3).unwrap(), answer(3));
        assert_eq!(recall(TTL + last_fresh, 4).unwrap(), answer(3));
        assert_eq!(resolver.lookups(), 2);
    }

    #[test]
    fn a_failed_lookup_is_not_kept() {
        let resolver = CachedResolver::default();
        let now = clock::now();
        let failed = resolver.recall("h:80".to_owned(), now, || Err(ureq::Error::HostNotFound));
        assert!(failed.is_err());
        let found = resolver.recall("h:80".to_owned(), now, || Ok(answer(1)));
        assert_eq!(found.unwrap(), answer(1));
    }

    #[test]
    fn an_expired_name_that_cannot_be_looked_up_is_not_answered() {
        let resolver = CachedResolver::default();
        let now = clock::now();
        let found = resolver.recall("h:80".to_owned(), now, || Ok(answer(1)));
        assert!(found.is_ok());
        let failed = resolver.recall("h:80".to_owned(), now + TTL, || {
            Err(ureq::Error::HostNotFound)
        });
        assert!(failed.is_err());
    }

    #[test]
    fn the_oldest_name_makes_room() {
        let resolver = CachedResolver::default();
        let start = clock::now();
        for number in 0..=MAX_NAMES as u64 {
            let now = start + Duration::from_micros(number);
            let kept = resolver.recall(format!("h{number}:80"), now, || Ok(answer(1)));
            assert!(kept.is_ok());
        }
        let names = lock(&resolver.0);
        assert_eq!(names.known.len(), MAX_NAMES);
        assert!(!names.known.contains_key("h0:80"));
    }

    #[test]
    fn expired_names_make_room_first() {
        let resolver = CachedResolver::default();
        let start = clock::now();
        for number in 0..MAX_NAMES {
            let kept = resolver.recall(format!("h{number}:80"), start, || Ok(answer(1)));
            assert!(kept.is_ok());
        }
        let kept = resolver.recall("h:80".to_owned(), start + TTL, || Ok(answer(1)));
        assert!(kept.is_ok());
        assert_eq!(lock(&resolver.0).known.len(), 1);
    }

    #[test]
    fn a_forgotten_name_is_looked_up() {
        let resolver = CachedResolver::default();
        for _ in 0..2 {
            let kept = resolver.recall("h:443".to_owned(), clock::now(), || Ok(answer(1)));
            assert!(kept.is_ok());
            resolver.forget(&uri("https://H/path"));
        }
        assert_eq!(resolver.lookups(), 2);
    }

    #[test]
    fn an_address_needs_no_lookup() {
        let resolver = CachedResolver::default();
        for (at, address) in [
            ("http://127.0.0.1:81/x", "127.0.0.1:81"),
            ("https://[::1]/x", "[::1]:443"),
        ] {
            let found = resolver.resolve(&uri(at), &Config::default(), NextTimeout::default());
            assert_eq!(found.unwrap().first(), Some(&address.parse().unwrap()));
        }
        assert_eq!(resolver.lookups(), 0);
    }
}
