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
use leasehold_config::{Kind, MemberSettings};
use leasehold_protocol::{ApiKey, Endpoint, Rests};
use std::io;
use std::sync::Mutex;
use tokio::time::Instant;

/// How long the addresses of a name are used before they are asked for again.
const ADDRESSES_KEPT: Duration = Duration::from_secs(30);

/// The key of a service that needs none; it is never sent.
const NO_KEY: &str = "no-key-is-needed";

/// A member of a pool: an HTTP server, or a key of a service.
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
    service: Option<Service>,
}

/// A service that answers calls, and a key for it.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) endpoint: Endpoint,
    /// Whether the key is one; a service of one's own may need none.
    pub(crate) has_key: bool,
    /// How long it rests after refusals.
    pub(crate) rests: Mutex<Rests>,
}

impl Service {
    fn new(url: &Uri, key: Option<&ApiKey>) -> Result<Self, String> {
        let given = key.cloned().map_or_else(|| ApiKey::new(NO_KEY), Ok);
        let given = given.map_err(|error| error.to_string())?;
        let endpoint = Endpoint::new(&url.to_string(), given);
        Ok(Self {
            endpoint: endpoint.map_err(|error| format!("{url}: {error}"))?,
            has_key: key.is_some(),
            rests: Mutex::new(Rests::new(fastrand::u64(..))),
        })
    }
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
        Self::with_service(name, url, None)
    }

    /// Makes a backend of a pool of this kind.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn of(settings: &MemberSettings, kind: Kind) -> Result<Self, String> {
        let (name, url) = (&settings.name, &settings.url);
        let service = match kind {
            Kind::Openai => Some(Service::new(url, settings.key.as_ref())?),
            Kind::Http | Kind::Comfyui => None,
        };
        Self::with_service(name, url, service)
    }

    fn with_service(name: &str, url: &Uri, service: Option<Service>) -> Result<Self, String> {
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
            service,
        })
    }

    /// Whether it is where these settings say, with the same key.
    pub(crate) fn is_of(&self, settings: &MemberSettings) -> bool {
        let key = self.service.as_ref().filter(|service| service.has_key);
        let key = key.map(|service| service.endpoint.key());
        self.url == settings.url && key == settings.key.as_ref()
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

    /// The service that it is, if it is one of a pool of keys.
    pub(crate) fn service(&self) -> Option<&Service> {
        self.service.as_ref()
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
