//! A request on a connection of its own, to a collector or a webhook.
//!
//! Invariant: an answer's head decides; a body that does not come, or is longer than [`MAX_ANSWER`], is left out.

use super::connect::{ConnectError, connect};
use crate::backend::Backend;
use crate::proxy::CallerBody;
use bytes::Bytes;
use core::time::Duration;
use http::header::{CONNECTION, HOST};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Collected, Limited};
use hyper::client::conn::TrySendError;
use tokio::time::timeout;

/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1_024;
/// The time that the body of an answer may take.
const BODY: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    #[error("cannot connect: {0}")]
    Connect(#[from] ConnectError),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
}

/// Sends a request. Uses only the path of its URL.
pub(crate) async fn post(
    to: &Backend,
    request: Request<Bytes>,
    longest: Duration,
) -> Result<Response<Bytes>, PostError> {
    let mut connection = connect(to, longest).await?;
    let mut request = request.map(CallerBody::whole);
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = path.into();
    let headers = request.headers_mut();
    headers.insert(HOST, to.authority().clone());
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let sent = connection.send(request, longest).await;
    let answer = sent.ok_or(PostError::TimedOut(longest))?;
    let answer = answer.map_err(TrySendError::into_error)?;
    connection.detach();
    let (parts, body) = answer.into_parts();
    let body = timeout(BODY, Limited::new(body, MAX_ANSWER).collect()).await;
    let body = body.ok().and_then(Result::ok);
    let body = body.map(Collected::to_bytes).unwrap_or_default();
    Ok(Response::from_parts(parts, body))
}
