//! The delivery of messages to one receiver, again and again until they are taken.
//!
//! Invariant: one attempt at a time; what the answer means is the protocol's, and the pause after a failure core's.

use super::command::Command;
use super::message::body;
use super::outbox::Outbox;
use super::webhook::WebhookClient;
use crate::state::unix_millis;
use core::fmt;
use core::time::Duration;
use leasehold_config::AlertSettings;
use leasehold_core::retry::Backoff;
use std::sync::Arc;
use tokio::time::sleep;

/// The pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause that a receiver can ask for.
const MAX_ASKED: Duration = Duration::from_secs(10 * 60);

/// A receiver of messages.
#[derive(Debug)]
pub(super) enum Way {
    Webhook(WebhookClient),
    Command(Command),
}

/// Why messages were not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Untaken {
    /// They may be taken later, after a pause if the receiver asks for one.
    Later(String, Option<Duration>),
    /// They are never taken.
    Refused(String),
}

impl Way {
    /// The receivers of an alert.
    pub(super) fn of(settings: &AlertSettings) -> Vec<Self> {
        let webhook = settings.webhook.as_ref().map(WebhookClient::new);
        let command = Command::new(&settings.command);
        let webhook = webhook.into_iter().map(Self::Webhook);
        webhook.chain(command.map(Self::Command)).collect()
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Command(_) => "command",
        }
    }

    async fn send(&self, alert: &str, body: String) -> Result<(), Untaken> {
        match self {
            Self::Webhook(webhook) => webhook.post(body).await,
            Self::Command(command) => command.run(alert, body).await,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook(webhook) => webhook.fmt(f),
            Self::Command(command) => command.fmt(f),
        }
    }
}

/// Delivers messages until their outbox is closed and empty.
pub(super) async fn deliver(way: Way, outbox: Arc<Outbox>) {
    let to = way.to_string();
    let backoff = || Backoff::decorrelated(FIRST_PAUSE, LAST_PAUSE, unix_millis());
    let mut pauses = backoff();
    while let Some(batch) = outbox.next().await {
        let body = body(outbox.alert(), &batch.messages, batch.lost).to_string();
        match way.send(outbox.alert(), body).await {
            Ok(()) => {
                outbox.note_taken(&batch, &to);
                pauses = backoff();
            }
            Err(Untaken::Refused(why)) => outbox.note_refused(&batch, &to, why),
            Err(Untaken::Later(why, asked)) => {
                outbox.note_trouble(&to, why);
                let pause = pauses.next_delay();
                sleep(asked.map_or(pause, |asked| asked.min(MAX_ASKED).max(pause))).await;
            }
        }
    }
}
