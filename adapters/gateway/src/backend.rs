//! A backend: where it is, and how it is reached.
//!
//! Invariant: two backends never have one number, so that a connection to one is never used for another.

use crate::clock::now;
use crate::lock;
use crate::upstream::Tls;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use http::uri::Authority;
use http::{HeaderValue, Uri};
use std::io;
use std::sync::Mutex;
use tokio::time::Instant;

/// How long the addresses of a name are used before they are asked for again.
const ADDRESSES_KEPT: Duration = Duration::from_secs(30);

/// A member of a pool of HTTP servers.
#[derive(Debug)]
pub(crate) struct Backend {
    number: u64,
    name: String,
    url: Uri,
    tls: Option<Tls>,
    host: String,
    port: u16,
    authority: HeaderValue,
    addresses: Mutex<Option<Addresses>>,
    /// What went wrong last, for people.
    failure: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Addresses {
    found: Vec<SocketAddr>,
    at: Instant,
}

impl Backend {
    /// Makes a backend from a URL.
    ///
    /// # Errors
    /// The URL has no host, or TLS can't be used for it.
    pub(crate) fn new(name: &str, url: &Uri) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let no_host = || format!("{url} has no host");
        let authority = url.authority().ok_or_else(no_host)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let is_secure = url.scheme_str() == Some("https");
        let default_port = if is_secure { 443 } else { 80 };
        Ok(Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            name: name.to_owned(),
            url: url.clone(),
            tls: is_secure.then(|| Tls::new(&host)).transpose()?,
            host,
            port: authority.port_u16().unwrap_or(default_port),
            authority: host_header(authority).ok_or_else(no_host)?,
            addresses: Mutex::new(None),
            failure: Mutex::new(None),
        })
    }

    /// Remembers what went wrong, to be told if the backend is left alone for it.
    pub(crate) fn note_failure(&self, why: &impl ToString) {
        *lock(&self.failure) = Some(why.to_string());
    }

    /// What went wrong last; `None` if nothing did.
    pub(crate) fn last_failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// The number under which connections to it are kept.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn url(&self) -> &Uri {
        &self.url
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How it is reached by TLS, if it is.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Its host and port as the header `host` has them.
    pub(crate) fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Finds its addresses; those of a name are kept for 30 s.
    pub(crate) async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        if let Some(known) = &*lock(&self.addresses)
            && known.at.elapsed() < ADDRESSES_KEPT
        {
            return Ok(known.found.clone());
        }
        let found: Vec<_> = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await?
            .collect();
        let known = Addresses {
            found: found.clone(),
            at: now(),
        };
        *lock(&self.addresses) = Some(known);
        Ok(found)
    }
}

fn host_header(authority: &Authority) -> Option<HeaderValue> {
    let host = authority.as_str().rsplit('@').next()?;
    HeaderValue::from_str(host).ok()
}
