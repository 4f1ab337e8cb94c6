//! Tells a call that never reached its upstream from one that may have.
//!
//! Implements a trait of ureq's `unversioned` module, which may change with any minor version: this and
//! `resolver.rs` are why the workspace pins ureq to one.
//!
//! Invariant: a [`NotConnected`] means that not one byte of the request was sent. ureq asks a connector
//! only for want of a pooled connection, and always before it writes the request.

use crate::resolver::CachedResolver;
use ureq::unversioned::transport::{ConnectionDetails, Connector, DefaultConnector, Transport};

/// The name was not resolved or the connection not made, in time.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotConnected(ureq::Error);

impl NotConnected {
    /// Marks an error, once.
    pub(crate) fn mark(error: ureq::Error) -> ureq::Error {
        if Self::marks(&error) {
            return error;
        }
        ureq::Error::Other(Box::new(Self(error)))
    }

    /// Whether an error was marked.
    pub(crate) fn marks(error: &ureq::Error) -> bool {
        matches!(error, ureq::Error::Other(inner) if inner.is::<Self>())
    }
}

/// ureq's own connector, with its errors marked. An address that can't be reached is looked up again for
/// the next connection: a service that moved is found before its name expires.
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
            NotConnected::mark(error)
        })
    }
}
