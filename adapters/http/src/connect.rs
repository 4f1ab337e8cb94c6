//! Connection errors, marked so that a call that never reached its upstream can be told from one that may have.
//!
//! Implements a trait of ureq's `unversioned` module, which may change in any minor version. Because of this
//! file and `resolver.rs` the workspace pins ureq to one minor version.
//!
//! Invariant: [`NotConnected`] means that no byte of the request was sent. ureq calls a connector only if it has
//! no pooled connection, and always before it writes the request.

use crate::resolver::CachedResolver;
use ureq::unversioned::transport::{ConnectionDetails, Connector, DefaultConnector, Transport};

/// The name was not resolved, or the connection not made, in time.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotConnected(ureq::Error);

impl NotConnected {
    /// Wraps an error; a wrapped one is returned as it is.
    pub(crate) fn mark(error: ureq::Error) -> ureq::Error {
        if Self::cause(&error).is_some() {
            return error;
        }
        ureq::Error::Other(Box::new(Self(error)))
    }

    /// Returns the error inside a marked one.
    pub(crate) fn cause(error: &ureq::Error) -> Option<&ureq::Error> {
        let ureq::Error::Other(inner) = error else {
            return None;
        };
        inner.downcast_ref().map(|Self(cause)| cause)
    }
}

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
            NotConnected::mark(error)
        })
    }
}
