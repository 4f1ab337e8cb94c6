//! Connection errors, marked so that a call that never reached its upstream can be told from one that may have.
//!
//! Implements a trait of ureq's `unversioned` module, which may change in any minor version. Because of this
//! file and `resolver.rs` the workspace pins ureq to one minor version.

use crate::not_connected::{NotConnected, Phase};
use crate::resolver::CachedResolver;
use ureq::unversioned::transport::{ConnectionDetails, Connector, DefaultConnector, Transport};

/// ureq's own connector, with its errors marked.
///
/// A failed connection also evicts the host from the resolver's cache, so that a service that moved is found
/// before its name expires.
#[derive(Debug)]
pub(crate) struct MarkingConnector {
    inner: DefaultConnector,
    resolver: CachedResolver,
}

impl MarkingConnector {
    pub(crate) fn new(resolver: CachedResolver) -> Self {
        Self {
            inner: DefaultConnector::new(),
            resolver,
        }
    }
}

impl Connector<()> for MarkingConnector {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        self.inner.connect(details, chained).map_err(|error| {
            self.resolver.forget(details.uri);
            NotConnected::mark(Phase::Connect, error)
        })
    }
}
