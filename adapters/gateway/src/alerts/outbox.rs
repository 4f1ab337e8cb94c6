//! Messages that wait for a receiver.
//!
//! Invariant: at most [`MAX_WAITING`] wait, none for longer than [`KEPT`], and each is counted once as taken or given up.

use super::message::Message;
use crate::lock;
use crate::operator_log::target;
use crate::state::unix_millis;
use core::time::Duration;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::Notify;

/// Messages that may wait; of more, the oldest are given up.
const MAX_WAITING: usize = 1_000;
/// Messages that are sent at once.
const MAX_BATCH: usize = 100;
/// The time after which a message is given up.
const KEPT: Duration = Duration::from_secs(60 * 60);

/// The messages of one alert for one receiver.
#[derive(Debug)]
pub(super) struct Outbox {
    alert: String,
    state: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Message>,
    /// Messages that were removed from the front so far.
    removed: u64,
    taken: u64,
    given_up: u64,
    /// Those given up since a message was last taken.
    lost: u64,
    /// The reason that the latest attempt failed; `None` after one that did not.
    trouble: Option<String>,
    is_closed: bool,
}

/// Messages to be sent together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) messages: Vec<Message>,
    /// The number of messages that were given up before them.
    pub(super) lost: u64,
    /// The number of the first of them, of all that there ever were.
    first: u64,
}

impl Outbox {
    pub(super) fn new(alert: &str) -> Self {
        Self {
            alert: alert.to_owned(),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn alert(&self) -> &str {
        &self.alert
    }

    pub(super) fn add(&self, messages: &[Message]) {
        if messages.is_empty() {
            return;
        }
        let mut state = lock(&self.state);
        state.messages.extend(messages.iter().cloned());
        let excess = state.messages.len().saturating_sub(MAX_WAITING);
        state.give_up(excess);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes no more messages; those that wait are delivered.
    pub(super) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_waiters();
    }

    /// Waits for messages, which stay until they are known to be taken; `None` when it is closed and empty.
    pub(super) async fn next(&self) -> Option<Batch> {
        loop {
            let mut changed = core::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = lock(&self.state);
                state.give_up_old(unix_millis());
                if !state.messages.is_empty() {
                    return Some(state.batch());
                }
                if state.is_closed {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Waits until none is left.
    pub(super) async fn emptied(&self) {
        loop {
            let mut changed = core::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if lock(&self.state).messages.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Notes that the messages were taken.
    pub(super) fn note_taken(&self, batch: &Batch, to: &str) {
        let mut state = lock(&self.state);
        let count = state.left_of(batch);
        state.remove(count);
        state.taken = state.taken.saturating_add(count as u64);
        state.lost = 0;
        if state.trouble.take().is_some() {
            let alert = &self.alert;
            tracing::info!(target: target::ALERT, "alert {alert}: {to} takes messages again");
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Notes that the messages will never be taken.
    pub(super) fn note_refused(&self, batch: &Batch, to: &str, why: String) {
        let mut state = lock(&self.state);
        let count = state.left_of(batch);
        state.give_up(count);
        let alert = &self.alert;
        tracing::error!(
            target: target::ALERT,
            "alert {alert}: {to} took none of {count} messages, which are given up: {why}"
        );
        state.trouble = Some(why);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Notes that an attempt has failed, after which there will be another.
    pub(super) fn note_trouble(&self, to: &str, why: String) {
        let mut state = lock(&self.state);
        if state.trouble.is_none() {
            let alert = &self.alert;
            tracing::warn!(
                target: target::ALERT,
                "alert {alert}: {to} took no message, and is tried again: {why}"
            );
        }
        state.trouble = Some(why);
    }

    /// Messages that were taken, and that were given up.
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.taken, state.given_up)
    }

    pub(super) fn view(&self) -> Value {
        let state = lock(&self.state);
        json!({
            "waiting": state.messages.len(),
            "taken": state.taken,
            "given_up": state.given_up,
            "trouble": state.trouble,
        })
    }
}

impl Waiting {
    fn batch(&self) -> Batch {
        Batch {
            messages: self.messages.iter().take(MAX_BATCH).cloned().collect(),
            lost: self.lost,
            first: self.removed,
        }
    }

    /// The number of messages of a batch that still wait: some may have been given up meanwhile.
    fn left_of(&self, batch: &Batch) -> usize {
        let end = batch.first.saturating_add(batch.messages.len() as u64);
        usize::try_from(end.saturating_sub(self.removed)).unwrap_or(usize::MAX)
    }

    fn remove(&mut self, count: usize) {
        let count = count.min(self.messages.len());
        self.messages.drain(..count);
        self.removed = self.removed.saturating_add(count as u64);
    }

    fn give_up(&mut self, count: usize) {
        self.remove(count);
        self.given_up = self.given_up.saturating_add(count as u64);
        self.lost = self.lost.saturating_add(count as u64);
    }

    fn give_up_old(&mut self, now: u64) {
        let is_old =
            |message: &&Message| now.saturating_sub(message.made) > KEPT.as_millis() as u64;
        let old = self.messages.iter().take_while(is_old).count();
        if old > 0 {
            tracing::error!(
                target: target::ALERT,
                "{old} messages of an alert are given up, because they have waited for an hour"
            );
            self.give_up(old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::looks::Subject;
    use futures_util::FutureExt;

    fn messages(names: core::ops::Range<usize>) -> Vec<Message> {
        let message = |name: usize| Message {
            subject: Subject::default(),
            words: name.to_string(),
            since: 0,
            until: None,
            made: unix_millis(),
        };
        names.map(message).collect()
    }

    fn next(outbox: &Outbox) -> Batch {
        let next = outbox.next().now_or_never();
        next.expect("messages wait").expect("it is open")
    }

    #[test]
    fn messages_stay_until_they_are_taken_and_the_oldest_of_too_many_are_given_up() {
        let outbox = Outbox::new("a");
        assert!(outbox.next().now_or_never().is_none());
        outbox.add(&messages(0..950));
        let first = next(&outbox);
        assert_eq!((first.messages.len(), first.lost), (MAX_BATCH, 0));
        // 50 of those that are under way are given up for others.
        outbox.add(&messages(950..1_050));
        outbox.note_taken(&first, "it");
        assert_eq!(outbox.counts(), (50, 50));
        let second = next(&outbox);
        assert_eq!((&*second.messages[0].words, second.lost), ("100", 0));
        outbox.note_trouble("it", "why".to_owned());
        assert_eq!(next(&outbox).messages[0].words, "100");
        outbox.note_refused(&second, "it", "why".to_owned());
        let third = next(&outbox);
        assert_eq!((&*third.messages[0].words, third.lost), ("200", 100));
        assert_eq!(outbox.view()["waiting"], 850);
        assert_eq!(outbox.view()["trouble"], "why");
    }

    #[test]
    fn a_closed_outbox_is_emptied_and_old_messages_are_given_up() {
        let outbox = Outbox::new("a");
        let mut old = messages(0..3);
        old[0].made = 0;
        old[1].made = 0;
        outbox.add(&old);
        outbox.close();
        let batch = next(&outbox);
        assert_eq!(batch.messages.len(), 1);
        assert!(outbox.emptied().now_or_never().is_none());
        outbox.note_taken(&batch, "it");
        assert!(
            outbox
                .next()
                .now_or_never()
                .expect("it is closed")
                .is_none()
        );
        assert!(outbox.emptied().now_or_never().is_some());
        assert_eq!(outbox.counts(), (1, 2));
    }
}
