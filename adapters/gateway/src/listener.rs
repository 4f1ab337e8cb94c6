//! A listener: the pool that a request goes to, the proxies that are believed, and the limits of its callers.
//!
//! Invariant: of several routes that fit a request the first is taken, and a peer that is not configured as a proxy is
//! never believed.

use crate::caller_limits::CallerLimits;
use core::net::IpAddr;
use leasehold_config::{ListenerSettings, Route, TrustedProxies};

/// One address that callers reach.
#[derive(Debug)]
pub(crate) struct Listener {
    settings: ListenerSettings,
    limits: Option<Box<CallerLimits>>,
}

impl Listener {
    pub(crate) fn new(settings: ListenerSettings) -> Self {
        Self {
            limits: CallerLimits::new(&settings).map(Box::new),
            settings,
        }
    }

    /// Makes one in the place of another, whose limits go on where they are the same.
    pub(crate) fn replacing(old: &Self, settings: ListenerSettings) -> Self {
        let limits = CallerLimits::replacing(old.limits(), &old.settings, &settings);
        Self {
            limits: limits.map(Box::new),
            settings,
        }
    }

    pub(crate) fn settings(&self) -> &ListenerSettings {
        &self.settings
    }

    /// The limits that hold for its callers, if there are any.
    pub(crate) fn limits(&self) -> Option<&CallerLimits> {
        self.limits.as_deref()
    }

    /// Whether a route is for some hosts alone.
    pub(crate) fn routes_by_host(&self) -> bool {
        self.settings
            .routes
            .iter()
            .any(|route| route.host.is_some())
    }

    /// Returns the first route that fits; a request that names no model fits those of any.
    pub(crate) fn route(
        &self,
        host: Option<&str>,
        path: &str,
        model: Option<&str>,
    ) -> Option<&Route> {
        self.settings
            .routes
            .iter()
            .find(|route| fits(route, host, path, model))
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
}

/// Whether a request for a host, path and model is one of a route's.
fn fits(route: &Route, host: Option<&str>, path: &str, model: Option<&str>) -> bool {
    let fits_model = route
        .model
        .as_ref()
        .zip(model)
        .is_none_or(|(pattern, model)| pattern.fits(model));
    let is_host = |wanted: &str| host.is_some_and(|host| host.eq_ignore_ascii_case(wanted));
    let prefix = route.path.trim_end_matches('/');
    let rest = path.strip_prefix(prefix);
    fits_model
        && route.host.as_deref().is_none_or(is_host)
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
