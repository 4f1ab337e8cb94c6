//! The mark on errors of calls that never reached their upstream.
//!
//! Invariant: [`NotConnected`] means that no byte of the request was sent. ureq calls a connector only if it has
//! no pooled connection, and always before it writes the request.

/// The name was not resolved, or the connection not made, in time.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub(crate) struct NotConnected {
    phase: Phase,
    cause: ureq::Error,
}

/// The phase in which a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The lookup of the name.
    Resolve,
    /// The connection, with the handshake of TLS.
    Connect,
}

impl NotConnected {
    /// Wraps an error; a wrapped one is returned as it is.
    pub(crate) fn mark(phase: Phase, cause: ureq::Error) -> ureq::Error {
        if Self::cause(&cause).is_some() {
            return cause;
        }
        ureq::Error::Other(Box::new(Self { phase, cause }))
    }

    /// Returns the phase of a marked error, and the error inside it.
    pub(crate) fn cause(error: &ureq::Error) -> Option<(Phase, &ureq::Error)> {
        let ureq::Error::Other(inner) = error else {
            return None;
        };
        inner
            .downcast_ref()
            .map(|Self { phase, cause }| (*phase, cause))
    }
}
