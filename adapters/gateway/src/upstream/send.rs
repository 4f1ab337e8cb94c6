//! One request on one connection, kept or new.
//!
//! Invariant: a request that a kept connection did not take goes to another; one of which a part was sent does not.

use super::connect::{ConnectError, connect};
use super::{BackendConnection, IdleConnections};
use crate::backend::Backend;
use crate::clock::now;
use crate::proxy::{CallerBody, Progress};
use core::pin::pin;
use core::time::Duration;
use http::{Request, Response};
use hyper::body::Incoming;
use leasehold_config::UpstreamBounds;
use tokio::time::sleep_until;

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

/// Sends a request, and waits for the answer's head.
pub(crate) async fn send(
    idle: &IdleConnections,
    backend: &Backend,
    bounds: &UpstreamBounds,
    mut request: Request<CallerBody>,
) -> Result<Sent, SendError> {
    let progress = request.body().progress();
    loop {
        let kept = idle.take(backend.number());
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
        let answered = within(
            pin!(connection.send(request)),
            &progress,
            bounds.response_header,
        )
        .await;
        match answered {
            None => return Err(SendError::TimedOut(bounds.response_header)),
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

/// Waits for an answer until `longest` after the request's end; `None` if there is none.
async fn within<A: Future + Unpin>(
    mut answer: A,
    progress: &Progress,
    longest: Duration,
) -> Option<A::Output> {
    let mut timer = pin!(sleep_until(now() + longest));
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return Some(answer),
            () = &mut timer => {}
        }
        // A body that still comes has bounds of its own.
        let ended = progress.ended.get().unwrap_or_else(now);
        if ended + longest <= now() {
            return None;
        }
        timer.as_mut().reset(ended + longest);
    }
}
