//! The delivery of messages to one receiver, again and again until they are taken.
//!
//! Invariant: one attempt at a time; what the answer means is the protocol's, and the pause after a failure core's.

use super::command::Command;
use super::outbox::{Batch, Outbox};
use super::webhook::WebhookClient;
use crate::state::unix_millis;
use core::fmt;
use core::future::pending;
use core::time::Duration;
use leasehold_config::AlertSettings;
use leasehold_core::balance::stable_hash;
use leasehold_core::retry::Backoff;
use std::sync::Arc;
use tokio::time::sleep;

/// The pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// Attempts for a receiver that a reload has removed.
const MAX_CLOSED: u32 = 5;
/// The longest pause that a receiver can ask for.
const MAX_ASKED: Duration = Duration::from_secs(10 * 60);

/// A receiver of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Receiver {
    Webhook(WebhookClient),
    Command(Command),
}

/// Reason that a message was not delivered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DeliveryError {
    /// It may be taken later, after a pause if the receiver asks for one.
    Later(String, Option<Duration>),
    /// It is never taken.
    Refused(String),
}

impl Receiver {
    /// The receivers of an alert.
    pub(crate) fn of(settings: &AlertSettings) -> Vec<Self> {
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

    /// Looks whether it could be sent a message, without sending one; returns what was found.
    pub(crate) async fn reach(&self) -> Result<String, String> {
        match self {
            Self::Webhook(webhook) => webhook.reach().await.map(|()| "connected".to_owned()),
            Self::Command(command) => {
                let path = command.find()?;
                Ok(match path.is_absolute() {
                    true => format!("it is {}", path.display()),
                    false => "it is found from this folder; write its path in full".to_owned(),
                })
            }
        }
    }

    async fn send(&self, alert: &str, body: String) -> Result<(), DeliveryError> {
        match self {
            Self::Webhook(webhook) => webhook.post(body).await,
            Self::Command(command) => command.run(alert, body).await,
        }
    }
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook(webhook) => webhook.fmt(f),
            Self::Command(command) => command.fmt(f),
        }
    }
}

/// Delivers messages until their outbox is closed and empty, or its last attempt has failed.
pub(super) async fn deliver(receiver: Receiver, outbox: Arc<Outbox>) {
    let to = receiver.to_string();
    // The seed differs by receiver, so that their attempts don't coincide.
    let seed = stable_hash(format!("{} {to}", outbox.alert()).as_bytes()) ^ unix_millis();
    let backoff = || Backoff::decorrelated(FIRST_PAUSE, LAST_PAUSE, seed);
    let (mut pauses, mut attempts) = (backoff(), 0);
    while let Some(batch) = outbox.next().await {
        let is_last = outbox.is_hurried();
        match receiver.send(outbox.alert(), batch.body.clone()).await {
            Ok(()) => {
                outbox.note_delivered(&batch, &to);
                pauses = backoff();
            }
            Err(DeliveryError::Refused(why)) => outbox.note_refused(&batch, &to, &why),
            Err(DeliveryError::Later(why, asked)) => {
                outbox.note_trouble(&to, &why);
                if is_last {
                    return outbox.give_up(&to, "the gateway ends");
                }
                attempts = if outbox.is_closed() { attempts + 1 } else { 0 };
                if attempts >= MAX_CLOSED {
                    return outbox.give_up(&to, "it is no longer a receiver, and takes nothing");
                }
                let pause = pauses.next_delay();
                let pauses_on = match asked {
                    Some(asked) => rest(&outbox, asked.min(MAX_ASKED).max(pause), None).await,
                    None => rest(&outbox, pause, Some(&batch)).await,
                };
                if !pauses_on {
                    pauses = backoff();
                }
            }
        }
    }
}

/// Waits for a pause, or until the last attempt is asked for. One that the receiver has not asked for is cut to the first
/// pause by an entry newer than the batch that failed, which may be what wakes a person; returns false then.
async fn rest(outbox: &Outbox, pause: Duration, failed: Option<&Batch>) -> bool {
    let newer = async {
        let Some(failed) = failed else {
            return pending().await;
        };
        sleep(FIRST_PAUSE).await;
        outbox.newer_than(failed).await;
    };
    tokio::select! {
        () = sleep(pause) => true,
        () = outbox.hurried() => true,
        () = newer => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::message::Message;
    use crate::alerts::snapshot::Subject;
    use tokio::join;
    use tokio::time::Instant;

    /// Rests for a minute while a message is added after some seconds; returns the seconds that it took.
    async fn seconds_of_rest(added_after: u64, is_asked: bool) -> u64 {
        let alert = AlertSettings::new("member down".parse().expect("a condition"));
        let outbox = Outbox::new(&alert, "here");
        let message = Message {
            subject: Subject::default(),
            summary: "a member is down".to_owned(),
            since: 1,
            until: None,
        };
        outbox.add(core::slice::from_ref(&message));
        let failed = outbox.next().await.expect("a batch");
        let begun = Instant::now();
        let add = async {
            sleep(Duration::from_secs(added_after)).await;
            outbox.add(&[message]);
        };
        let resting = async {
            let pause = Duration::from_secs(60);
            let goes_on = rest(&outbox, pause, (!is_asked).then_some(&failed)).await;
            assert_eq!(goes_on, begun.elapsed() == pause);
            begun.elapsed().as_secs()
        };
        join!(add, resting).1
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_message_ends_a_pause_that_the_receiver_has_not_asked_for() {
        assert_eq!(seconds_of_rest(7, false).await, 7);
        assert_eq!(seconds_of_rest(0, false).await, FIRST_PAUSE.as_secs());
        assert_eq!(seconds_of_rest(7, true).await, 60);
        assert_eq!(seconds_of_rest(70, false).await, 60);
    }
}
