//! One request on one connection, kept or new.
//!
//! Invariant: a request that a kept connection did not take goes to another; one of which a part was sent does not.

use super::connect::{ConnectError, connect};
use super::{BackendConnection, IdleConnections};
use crate::backend::Backend;
use crate::proxy::CallerBody;
use core::time::Duration;
use http::{Request, Response};
use hyper::body::Incoming;
use leasehold_config::UpstreamBounds;

/// An answer's head, and the connection that its body comes from.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) response: Response<Incoming>,
    pub(crate) connection: BackendConnection,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The backend can't be reached; nothing was sent.
    #[error("cannot connect: {error}")]
    Connect {
        /// What went wrong.
        error: ConnectError,
        /// The request.
        request: Box<Request<CallerBody>>,
    },
    /// The connection broke before the answer's head.
    #[error("the connection broke before the answer: {error}")]
    Broken {
        /// What went wrong.
        error: hyper::Error,
        /// Whether the connection had served before, so that it may just have been closed as unused.
        was_kept: bool,
    },
    /// There was no answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// Sends a request, and waits for the answer's head; without kept connections, on a new one.
pub(crate) async fn send(
    idle: Option<&IdleConnections<BackendConnection>>,
    backend: &Backend,
    bounds: &UpstreamBounds,
    mut request: Request<CallerBody>,
) -> Result<Sent, SendError> {
    loop {
        let kept = idle.and_then(|idle| idle.take(backend.number()));
        let was_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => match connect(backend, bounds.connect).await {
                Ok(connection) => connection,
                Err(error) => {
                    let request = Box::new(request);
                    return Err(SendError::Connect { error, request });
                }
            },
        };
        let longest = bounds.response_header;
        match connection.send(request, longest).await {
            None => return Err(SendError::TimedOut(longest)),
            Some(Ok(response)) => {
                return Ok(Sent {
                    response,
                    connection,
                });
            }
            Some(Err(mut error)) => match error.take_message() {
                Some(unsent) if was_kept => request = unsent,
                Some(unsent) => {
                    let error = std::io::Error::other(error.into_error()).into();
                    return Err(SendError::Connect {
                        error,
                        request: Box::new(unsent),
                    });
                }
                None => {
                    return Err(SendError::Broken {
                        error: error.into_error(),
                        was_kept,
                    });
                }
            },
        }
    }
}
