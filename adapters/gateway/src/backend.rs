//! A backend: where it is, and how it is reached.
//!
//! Invariant: two backends never have one number, so that a connection to one is never used for another.

use crate::addresses::{Addresses, Found, News, Step};
use crate::clock::now;
use crate::lock;
use crate::operator_log::target;
use crate::upstream::Tls;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use http::uri::Authority;
use http::{HeaderValue, Uri};
use leasehold_config::{Kind, MemberAddresses, MemberSettings};
use leasehold_protocol::{ApiKey, Endpoint, Rests};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::task::spawn_local;

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
    /// The only address that is used, if its settings say so.
    only: Option<IpAddr>,
    addresses: Arc<Mutex<Addresses>>,
    /// What went wrong last, for people.
    failure: Mutex<Option<String>>,
    service: Option<Service>,
}

/// A service that answers calls, and a key for it.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) endpoint: Endpoint,
    /// Whether the key is one; a service of one's own may need none.
    pub(crate) has_key: bool,
    /// The end of the key's text, as callers are told it; empty without a key.
    pub(crate) key_end: HeaderValue,
    /// How long it rests after refusals.
    pub(crate) rests: Mutex<Rests>,
    /// Whether the service has turned the key away, and has answered no call with it since.
    is_turned_away: AtomicBool,
}

impl Service {
    /// Whether its key is turned away: it is left alone for a time, and then tried again.
    pub(crate) fn is_turned_away(&self) -> bool {
        self.is_turned_away.load(Ordering::Relaxed)
    }

    /// Notes whether the service has turned the key away; returns whether that is new.
    pub(crate) fn note_turned_away(&self, is_so: bool) -> bool {
        self.is_turned_away() != is_so
            && self.is_turned_away.swap(is_so, Ordering::Relaxed) != is_so
    }

    fn new(url: &Uri, key: Option<&ApiKey>) -> Result<Self, String> {
        let given = key.cloned().map_or_else(|| ApiKey::new(NO_KEY), Ok);
        let given = given.map_err(|error| error.to_string())?;
        let endpoint = Endpoint::new(&url.to_string(), given);
        Ok(Self {
            endpoint: endpoint.map_err(|error| format!("{url}: {error}"))?,
            has_key: key.is_some(),
            key_end: key.map_or(HeaderValue::from_static(""), end_of),
            rests: Mutex::new(Rests::new(fastrand::u64(..))),
            is_turned_away: AtomicBool::new(false),
        })
    }
}

/// Returns the end of a key's text.
fn end_of(key: &ApiKey) -> HeaderValue {
    let shown = key.to_string();
    let end = HeaderValue::from_str(shown.trim_start_matches('…'));
    // A key is sent in a header itself.
    end.unwrap_or(HeaderValue::from_static(""))
}

impl Backend {
    /// Makes a backend of a pool of this kind from its settings.
    ///
    /// # Errors
    /// The URL has no host, or TLS can't be used for it.
    pub(crate) fn new(settings: &MemberSettings, kind: Kind) -> Result<Self, String> {
        let (name, url) = (&settings.name, &settings.url);
        let service = match kind {
            Kind::Openai => Some(Service::new(url, settings.key.as_ref())?),
            Kind::Http | Kind::Comfyui => None,
        };
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let no_host = || format!("{url} has no host");
        let authority = url.authority().ok_or_else(no_host)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let is_secure = url.scheme_str() == Some("https");
        let default_port = if is_secure { 443 } else { 80 };
        let only = match settings.addresses {
            MemberAddresses::One(address) => Some(address),
            MemberAddresses::Any | MemberAddresses::Each => host.parse().ok(),
        };
        Ok(Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            name: name.clone(),
            url: url.clone(),
            tls: is_secure.then(|| Tls::new(&host)).transpose()?,
            host,
            port: authority.port_u16().unwrap_or(default_port),
            authority: host_header(authority).ok_or_else(no_host)?,
            only,
            addresses: Arc::default(),
            failure: Mutex::new(None),
            service,
        })
    }

    /// Whether it is where these settings say, with the same key.
    pub(crate) fn is_of(&self, settings: &MemberSettings) -> bool {
        let key = self.service.as_ref().filter(|service| service.has_key);
        let key = key.map(|service| service.endpoint.key());
        self.url == settings.url && key == settings.key.as_ref()
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

    /// Finds its addresses. Where those of a name are known, it waits for no look-up.
    pub(crate) async fn addresses(&self) -> io::Result<Arc<[SocketAddr]>> {
        if let Some(address) = self.only {
            return Ok([SocketAddr::new(address, self.port)].into());
        }
        let step = lock(&self.addresses).step(now());
        match step {
            Step::Use(known) => Ok(known),
            Step::Refresh(known) => {
                spawn_local(self.look_up());
                Ok(known)
            }
            Step::LookUp => self.look_up().await,
        }
    }

    /// Looks its name up, and tells the operator once if that fails or works again.
    fn look_up(&self) -> impl Future<Output = io::Result<Arc<[SocketAddr]>>> + use<> {
        let (name, host, port) = (self.name.clone(), self.host.clone(), self.port);
        let addresses = Arc::clone(&self.addresses);
        async move {
            let looked_up = tokio::net::lookup_host((host.as_str(), port)).await;
            let looked_up = looked_up.map(Vec::from_iter).and_then(|found| {
                let none = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                if found.is_empty() {
                    Err(none)
                } else {
                    Ok(found)
                }
            });
            let found = Found {
                addresses: looked_up.as_deref().unwrap_or_default().to_vec(),
                ttl: None,
            };
            let news = lock(&addresses).finish(now(), &found);
            match (news, &looked_up) {
                (Some(News::Lost), Err(error)) => tracing::warn!(
                    target: target::NAMES,
                    "backend {name}: {host} can't be looked up: {error}; the addresses known before are used"
                ),
                (Some(News::Back), Ok(_)) => {
                    tracing::info!(target: target::NAMES, "backend {name}: {host} can be looked up again");
                }
                (Some(News::Lost | News::Back) | None, _) => {}
            }
            looked_up.map(Arc::from)
        }
    }
}

fn host_header(authority: &Authority) -> Option<HeaderValue> {
    let host = authority.as_str().rsplit('@').next()?;
    HeaderValue::from_str(host).ok()
}
