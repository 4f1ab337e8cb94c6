//! What a receiver has to be told of an alert.
//!
//! Invariant: there is one entry of a subject at most, its latest. Entries that are over are kept until they are
//! delivered, at most [`MAX_OVER`] of them.

use super::message::{Message, body};
use super::snapshot::Subject;
use crate::lock;
use crate::operator_log::target;
use crate::state::unix_millis;
use leasehold_config::AlertSettings;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Mutex;
use tokio::sync::Notify;

/// Entries that are over and not delivered; of more, the oldest are dropped.
const MAX_OVER: usize = 1_000;
/// Entries of one body.
const MAX_BATCH: usize = 100;

/// The entries of one alert for one receiver.
#[derive(Debug)]
pub(super) struct Outbox {
    alert: String,
    /// The labels of all its messages.
    labels: BTreeMap<String, String>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Subject, Entry>,
    next: u64,
    delivered: u64,
    dropped: u64,
    /// Entries that were dropped since a body was last delivered.
    lost: u64,
    /// The reason that the latest attempt failed.
    trouble: Option<String>,
    is_closed: bool,
    is_hurried: bool,
}

#[derive(Debug)]
struct Entry {
    message: Message,
    /// Its number among all entries that there were.
    number: u64,
    is_new: bool,
}

/// Entries that are delivered together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) body: String,
    /// The new ones of them, by their numbers.
    new: Vec<(Subject, u64)>,
    /// The number of the next entry.
    next: u64,
    lost: u64,
}

impl Outbox {
    pub(super) fn new(alert: &AlertSettings, instance: &str) -> Self {
        let mut labels = alert.labels.clone();
        labels.insert("alertname".to_owned(), alert.name.clone());
        labels.insert("instance".to_owned(), instance.to_owned());
        Self {
            alert: alert.name.clone(),
            labels,
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
        for message in messages {
            let number = state.next;
            state.next = number.wrapping_add(1);
            let entry = Entry {
                message: message.clone(),
                number,
                is_new: true,
            };
            state.entries.insert(message.subject.clone(), entry);
        }
        state.drop_over();
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes no more messages; those that it has are delivered.
    pub(super) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_waiters();
    }

    /// Asks for one more attempt, at once and the last one.
    pub(super) fn hurry(&self) {
        lock(&self.state).is_hurried = true;
        self.changed.notify_waiters();
    }

    /// Waits for something to deliver; `None` when it is closed and empty.
    pub(super) async fn next(&self) -> Option<Batch> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let state = lock(&self.state);
                if state.waiting() > 0 {
                    return Some(state.batch(&self.labels));
                }
                if state.is_closed {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Waits for an entry that is newer than a batch.
    pub(super) async fn newer_than(&self, batch: &Batch) {
        self.until(|state| state.next != batch.next).await;
    }

    /// Waits until the last attempt is asked for.
    pub(super) async fn hurried(&self) {
        self.until(|state| state.is_hurried).await;
    }

    pub(super) fn is_hurried(&self) -> bool {
        lock(&self.state).is_hurried
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).is_closed
    }

    /// Drops what has not been delivered.
    pub(super) fn give_up(&self, to: &str, why: &str) {
        let mut state = lock(&self.state);
        let left = state.waiting();
        state.entries.clear();
        state.drop_messages(left as u64);
        drop(state);
        if left > 0 {
            let alert = &self.alert;
            tracing::error!(
                target: target::ALERT,
                "alert {alert}: {left} messages for {to} are lost, because {why}"
            );
        }
        self.changed.notify_waiters();
    }

    /// Waits until there is nothing to deliver.
    pub(super) async fn emptied(&self) {
        self.until(|state| state.waiting() == 0).await;
    }

    async fn until(&self, is_so: impl Fn(&State) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if is_so(&lock(&self.state)) {
                return;
            }
            changed.await;
        }
    }

    /// Notes that a batch was delivered to a receiver.
    pub(super) fn note_delivered(&self, batch: &Batch, to: &str) {
        let mut state = lock(&self.state);
        let count = state.settle(batch);
        state.delivered = state.delivered.saturating_add(count);
        state.lost = state.lost.saturating_sub(batch.lost);
        let had_trouble = state.trouble.take().is_some();
        drop(state);
        if had_trouble {
            let alert = &self.alert;
            tracing::info!(target: target::ALERT, "alert {alert}: {to} takes messages again");
        }
        self.changed.notify_waiters();
    }

    /// Notes that a receiver will never take a batch.
    pub(super) fn note_refused(&self, batch: &Batch, to: &str, why: &str) {
        let mut state = lock(&self.state);
        let count = state.settle(batch);
        state.drop_messages(count);
        state.trouble = Some(why.to_owned());
        drop(state);
        let alert = &self.alert;
        tracing::error!(
            target: target::ALERT,
            "alert {alert}: {count} messages are dropped, because {to} refuses them: {why}"
        );
        self.changed.notify_waiters();
    }

    /// Notes that an attempt has failed, after which there will be another.
    pub(super) fn note_trouble(&self, to: &str, why: &str) {
        let trouble = lock(&self.state).trouble.replace(why.to_owned());
        if trouble.is_none() {
            let alert = &self.alert;
            tracing::warn!(
                target: target::ALERT,
                "alert {alert}: {to} took no message, and is tried again: {why}"
            );
        }
    }

    /// Returns how many messages were delivered, and how many were dropped.
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.delivered, state.dropped)
    }

    /// Returns how many messages have to be delivered.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.state).waiting()
    }

    pub(super) fn view(&self) -> Value {
        let state = lock(&self.state);
        json!({
            "waiting": state.waiting(),
            "delivered": state.delivered,
            "dropped": state.dropped,
            "trouble": state.trouble,
        })
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.entries.values().filter(|entry| entry.is_new).count()
    }

    /// Puts new entries and all that still lasts into one body, as far as it has room.
    fn batch(&self, labels: &BTreeMap<String, String>) -> Batch {
        let mut entries: Vec<&Entry> = self.entries.values().collect();
        entries.sort_by_key(|entry| (!entry.is_new, entry.number));
        let others = entries.iter().skip(MAX_BATCH);
        let cut = others.filter(|entry| !entry.message.is_over()).count() as u64;
        entries.truncate(MAX_BATCH);
        let messages = entries.iter().map(|entry| (&entry.message, entry.is_new));
        let is_firing = self.entries.values().any(|entry| !entry.message.is_over());
        let body = body(labels, messages, cut.saturating_add(self.lost), is_firing);
        let new = entries.iter().filter(|entry| entry.is_new);
        Batch {
            body: body.to_string(),
            new: new
                .map(|entry| (entry.message.subject.clone(), entry.number))
                .collect(),
            next: self.next,
            lost: self.lost,
        }
    }

    /// Takes the new entries of a batch as known, except those that have changed meanwhile; returns their number.
    fn settle(&mut self, batch: &Batch) -> u64 {
        for (subject, number) in &batch.new {
            let Some(entry) = self.entries.get_mut(subject) else {
                continue;
            };
            if entry.number != *number {
                continue;
            }
            if entry.message.is_over() {
                self.entries.remove(subject);
            } else if subject.is_test {
                // No condition ends a test.
                entry.message.until = Some(unix_millis());
                entry.number = self.next;
                self.next = self.next.wrapping_add(1);
            } else {
                entry.is_new = false;
            }
        }
        batch.new.len() as u64
    }

    fn drop_over(&mut self) {
        let over = |entry: &&Entry| entry.message.is_over();
        let count = self.entries.values().filter(over).count();
        if count <= MAX_OVER {
            return;
        }
        let mut numbers: Vec<u64> = self
            .entries
            .values()
            .filter(over)
            .map(|it| it.number)
            .collect();
        numbers.sort_unstable();
        let excess = count.saturating_sub(MAX_OVER);
        let Some(first_kept) = numbers.get(excess).copied() else {
            return;
        };
        self.entries
            .retain(|_, entry| !entry.message.is_over() || entry.number >= first_kept);
        self.drop_messages(excess as u64);
    }

    fn drop_messages(&mut self, count: u64) {
        self.dropped = self.dropped.saturating_add(count);
        self.lost = self.lost.saturating_add(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn message(member: usize, until: Option<u64>) -> Message {
        Message {
            subject: Subject {
                member: Some(format!("m{member:04}")),
                ..Subject::default()
            },
            summary: format!("m{member:04} is down"),
            since: 1,
            until,
        }
    }

    fn outbox() -> Outbox {
        let alert = AlertSettings::new("member down".parse().expect("a condition"));
        Outbox::new(&alert, "here")
    }

    fn next(outbox: &Outbox) -> (Batch, Value) {
        let batch = outbox.next().now_or_never();
        let batch = batch.expect("messages wait").expect("it is open");
        let body = serde_json::from_str(&batch.body).expect("JSON");
        (batch, body)
    }

    #[test]
    fn a_body_has_all_that_lasts_and_what_is_over_until_it_is_delivered() {
        let outbox = outbox();
        assert!(outbox.next().now_or_never().is_none());
        outbox.add(&[message(1, None), message(2, None)]);
        let (first, body) = next(&outbox);
        assert_eq!(body["alerts"].as_array().map(Vec::len), Some(2));
        // One ends while the first body is under way, and the body is not taken.
        outbox.add(&[message(1, Some(2))]);
        outbox.note_trouble("it", "why");
        let (second, body) = next(&outbox);
        assert_eq!(body["status"], "firing");
        assert_eq!(body["alerts"].as_array().map(Vec::len), Some(2));
        outbox.note_delivered(&second, "it");
        // The late answer to the first one settles nothing more.
        outbox.note_delivered(&first, "it");
        assert_eq!(outbox.waiting(), 0);
        outbox.add(&[message(2, Some(3))]);
        let (last, body) = next(&outbox);
        let ended = &body["alerts"];
        assert_eq!(
            (&body["status"], ended.as_array().map(Vec::len)),
            (&json!("resolved"), Some(1))
        );
        outbox.note_refused(&last, "it", "why");
        assert_eq!((outbox.waiting(), outbox.counts().1), (0, 1));
        assert_eq!(outbox.view()["trouble"], "why");
    }

    #[test]
    fn many_are_delivered_in_parts_and_the_oldest_of_too_many_ends_are_dropped() {
        let outbox = outbox();
        let all: Vec<_> = (0..250).map(|member| message(member, None)).collect();
        outbox.add(&all);
        let mut sizes = Vec::new();
        while outbox.waiting() > 0 {
            let (batch, body) = next(&outbox);
            sizes.push((batch.new.len(), body["truncatedAlerts"].as_u64()));
            outbox.note_delivered(&batch, "it");
        }
        assert_eq!(sizes, [(100, Some(150)), (100, Some(150)), (50, Some(150))]);
        let ended: Vec<_> = (0..MAX_OVER + 7)
            .map(|member| message(member, Some(2)))
            .collect();
        outbox.add(&ended);
        assert_eq!((outbox.waiting(), outbox.counts().1), (MAX_OVER, 7));
        let (batch, body) = next(&outbox);
        assert_eq!(body["truncatedAlerts"], 7);
        assert_eq!(body["alerts"][0]["labels"]["member"], "m0007");
        outbox.note_delivered(&batch, "it");
        assert_eq!(next(&outbox).1["truncatedAlerts"], 0);
    }

    #[test]
    fn a_body_that_is_cut_still_tells_that_others_last() {
        let outbox = outbox();
        let all: Vec<_> = (0..200).map(|member| message(member, None)).collect();
        outbox.add(&all);
        while outbox.waiting() > 0 {
            let (batch, _) = next(&outbox);
            outbox.note_delivered(&batch, "it");
        }
        let ended: Vec<_> = (0..100).map(|member| message(member, Some(2))).collect();
        outbox.add(&ended);
        let (_, body) = next(&outbox);
        let is_over = |one: &Value| one["status"] == "resolved";
        assert!(
            body["alerts"]
                .as_array()
                .expect("a list")
                .iter()
                .all(is_over)
        );
        assert_eq!(
            (&body["status"], &body["truncatedAlerts"]),
            (&json!("firing"), &json!(100))
        );
    }

    #[test]
    fn what_is_given_up_is_counted_and_waited_for_no_more() {
        let outbox = outbox();
        outbox.add(&[message(1, None), message(2, Some(2))]);
        outbox.give_up("it", "the gateway ends");
        assert_eq!((outbox.waiting(), outbox.counts()), (0, (0, 2)));
        assert!(outbox.emptied().now_or_never().is_some());
    }

    #[test]
    fn a_closed_outbox_is_emptied() {
        let outbox = outbox();
        outbox.add(&[message(1, Some(2))]);
        outbox.close();
        let (batch, _) = next(&outbox);
        assert!(outbox.emptied().now_or_never().is_none());
        outbox.note_delivered(&batch, "it");
        assert!(
            outbox
                .next()
                .now_or_never()
                .expect("it is closed")
                .is_none()
        );
        assert!(outbox.emptied().now_or_never().is_some());
    }
}
