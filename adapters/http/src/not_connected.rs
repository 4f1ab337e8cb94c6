//! The mark on errors of calls that never reached their upstream.
//!
//! Invariant: [`NotConnected`] means that no byte of the request was sent. ureq calls a connector only if it has
//! no pooled connection, and always before it writes the request.

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
