//! Messages as requests to a webhook.
//!
//! Invariant: no error shows the path of its URL, which may hold a secret.

use super::receiver::DeliveryError;
use crate::backend::Backend;
use crate::state::unix_tick;
use crate::upstream::{connect, post};
use bytes::Bytes;
use core::fmt;
use core::time::Duration;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Uri};
use leasehold_config::{Kind, MemberSettings, Webhook};
use leasehold_protocol::{WebhookAnswer, webhook_answer};
use tokio::time::timeout;

/// The time that a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A webhook, as a client knows it.
#[derive(Clone, Debug)]
pub(crate) struct WebhookClient {
    /// The host alone is told of it.
    webhook: Webhook,
}

/// The file that has the URL makes no other webhook of it.
impl PartialEq for WebhookClient {
    fn eq(&self, other: &Self) -> bool {
        self.webhook.url() == other.webhook.url()
    }
}

impl Eq for WebhookClient {}

impl fmt::Display for WebhookClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the webhook {}", self.webhook)
    }
}

impl WebhookClient {
    pub(super) fn new(webhook: &Webhook) -> Self {
        Self {
            webhook: webhook.clone(),
        }
    }

    /// Posts a body, on a connection of its own.
    pub(super) async fn post(&self, body: String) -> Result<(), DeliveryError> {
        let posted = timeout(TIMEOUT, self.exchange(body)).await;
        posted.unwrap_or_else(|_| {
            let why = format!("no answer within {} s", TIMEOUT.as_secs());
            Err(DeliveryError::Later(why, None))
        })
    }

    /// Connects to its host, and asks for nothing.
    pub(super) async fn reach(&self) -> Result<(), String> {
        let (backend, _) = self.target()?;
        let connected = connect(&backend, TIMEOUT).await;
        connected
            .map(drop)
            .map_err(|error| format!("cannot connect: {error}"))
    }

    async fn exchange(&self, body: String) -> Result<(), DeliveryError> {
        let (backend, path) = self
            .target()
            .map_err(|why| DeliveryError::Later(why, None))?;
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = path.into();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("leasehold"));
        let answer = post(&backend, request, TIMEOUT).await;
        let answer = answer.map_err(|error| DeliveryError::Later(error.to_string(), None))?;
        let now = Duration::from_nanos(unix_tick().as_nanos());
        match webhook_answer(answer.status(), answer.headers(), now) {
            WebhookAnswer::Taken => Ok(()),
            WebhookAnswer::Later(wait) => Err(DeliveryError::Later(
                format!("status {}", answer.status()),
                wait,
            )),
            // The text of an answer is not told: it may repeat the path.
            WebhookAnswer::Refused => Err(DeliveryError::Refused(format!(
                "status {}",
                answer.status()
            ))),
        }
    }

    /// The host to connect to, and the path that is asked for there.
    fn target(&self) -> Result<(Backend, PathAndQuery), String> {
        let wrong = || "its URL can't be used".to_owned();
        let url: Uri = self.webhook.url().parse().map_err(|_| wrong())?;
        let path = url.path_and_query().cloned().ok_or_else(wrong)?;
        let host: Uri = self.webhook.to_string().parse().map_err(|_| wrong())?;
        let member = MemberSettings::new("webhook".to_owned(), host);
        Ok((Backend::new(&member, Kind::Http)?, path))
    }
}
