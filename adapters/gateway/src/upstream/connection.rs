//! A connection to a backend.
//!
//! Invariant: it has no task of its own. The exchange that uses it polls it from the request to the end of the answer;
//! one that is unused has nothing to do and is not polled, so that a thousand of them cost no wake-ups.

use super::connect::BackendStream;
use crate::buffers::BUFFER;
use crate::clock::poll_time;
use crate::patience::Patience;
use crate::proxy::CallerBody;
use core::fmt;
use core::future::poll_fn;
use core::pin::{Pin, pin};
use core::task::{Context, Poll};
use core::time::Duration;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;

/// A connection to a backend.
pub(crate) struct BackendConnection {
    sender: SendRequest<CallerBody>,
    /// What makes progress on it; `None` once it has ended.
    driver: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waiting: Patience,
}

impl BackendConnection {
    /// Prepares a stream for requests.
    pub(crate) async fn open(stream: BackendStream) -> hyper::Result<Self> {
        let builder = http1::Builder::new()
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = builder.await?;
        let connection = connection.with_upgrades();
        let driver = async move {
            // The exchange that uses it is told of its errors.
            let _ = connection.await;
        };
        Ok(Self {
            sender,
            driver: Some(Box::pin(driver)),
            waiting: Patience::default(),
        })
    }

    /// Sends a request, and waits for the answer's head until `longest` after the request's end; `None` if there is
    /// none by then.
    ///
    /// # Errors
    /// The connection broke; with the request, if nothing of it was sent.
    pub(crate) async fn send(
        &mut self,
        request: Request<CallerBody>,
        longest: Duration,
    ) -> Option<Result<Response<Incoming>, TrySendError<Request<CallerBody>>>> {
        let progress = request.body().progress();
        let begun = poll_time();
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|context| {
            poll_driver(&mut self.driver, context);
            if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                return Poll::Ready(Some(answer));
            }
            let since = progress.awaits_answer_from(begun);
            let waited = self.waiting.poll(context, since + longest);
            waited.map(|()| None)
        })
        .await
    }

    /// Makes progress.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) {
        poll_driver(&mut self.driver, context);
    }

    /// Whether it has ended its exchange and can take another.
    pub(crate) fn is_idle(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Drives it in a task of its own from now on, for a body or another protocol that is read without it.
    pub(crate) fn detach(self) {
        if let Some(driver) = self.driver {
            spawn_local(async move {
                driver.await;
                // A connection without its sender would end.
                drop(self.sender);
            });
        }
    }
}

fn poll_driver(driver: &mut Option<Pin<Box<dyn Future<Output = ()>>>>, context: &mut Context<'_>) {
    if let Some(future) = driver
        && let Poll::Ready(()) = future.as_mut().poll(context)
    {
        *driver = None;
    }
}

impl fmt::Debug for BackendConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendConnection")
            .field("is_idle", &self.is_idle())
            .finish_non_exhaustive()
    }
}
