//! One alert of the settings: the subjects that it is active for, and its receivers.
//!
//! Invariant: a subject is forgotten once its condition does not hold and its alert is over.

use super::message::Message;
use super::outbox::Outbox;
use super::receiver::{Receiver, deliver};
use super::snapshot::{Counts, Observation, Snapshot, State, Subject};
use super::{AlertFigures, ReceiverFigures};
use crate::operator_log::target;
use crate::shared::Shared;
use crate::state::unix_millis;
use core::time::Duration;
use leasehold_config::AlertSettings;
use leasehold_core::health::{Alert, AlertChange, Trail};
use leasehold_core::time::{DisplaySpan, Tick};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use tokio::task::spawn_local;

/// An alert of the settings with all that is known of it.
#[derive(Debug)]
pub(super) struct Rule {
    settings: AlertSettings,
    instance: String,
    watched: BTreeMap<Subject, Watched>,
    trails: BTreeMap<Subject, Trail<Counts>>,
    has_looked: bool,
    receivers: Vec<(Receiver, Arc<Outbox>)>,
}

/// A subject whose condition holds, or whose alert is active.
#[derive(Debug, Default)]
struct Watched {
    alert: Alert,
    /// The summary of the condition when it held last.
    summary: String,
    /// The begin of an active alert, in milliseconds since 1970.
    since: Option<u64>,
}

impl Rule {
    /// Makes a rule, whose messages this thread delivers.
    pub(super) fn new(settings: &AlertSettings, instance: &str) -> Self {
        let mut rule = Self {
            settings: settings.clone(),
            instance: instance.to_owned(),
            watched: BTreeMap::new(),
            trails: BTreeMap::new(),
            has_looked: false,
            receivers: Vec::new(),
        };
        rule.receivers = Receiver::of(settings)
            .into_iter()
            .map(|it| rule.start(it))
            .collect();
        rule
    }

    fn start(&self, receiver: Receiver) -> (Receiver, Arc<Outbox>) {
        if let Receiver::Command(command) = &receiver
            && let Err(why) = command.find()
        {
            let name = &self.settings.name;
            tracing::warn!(target: target::ALERT, "alert {name}: {receiver} can't be run: {why}");
        }
        let outbox = Arc::new(Outbox::new(&self.settings, &self.instance));
        spawn_local(deliver(receiver.clone(), Arc::clone(&outbox)));
        (receiver, outbox)
    }

    pub(super) fn settings(&self) -> &AlertSettings {
        &self.settings
    }

    /// Whether other settings are of the same alert, which then goes on.
    pub(super) fn is_continued_by(&self, other: &AlertSettings) -> bool {
        self.settings.name == other.name
    }

    /// Goes on with other settings, and returns the outboxes of receivers that are gone.
    pub(super) fn continued(mut self, settings: &AlertSettings) -> (Self, Vec<Arc<Outbox>>) {
        if self.settings == *settings {
            return (self, Vec::new());
        }
        let counted = |it: &AlertSettings| (it.when, it.over, it.pools.clone());
        if counted(&self.settings) != counted(settings) {
            self.trails.clear();
            self.has_looked = false;
        }
        // Receivers know an alert by its labels: with others it is another one.
        let is_known = self.settings.labels == settings.labels;
        let wanted = Receiver::of(settings);
        let old = core::mem::take(&mut self.receivers).into_iter();
        let (mut kept, gone): (Vec<_>, Vec<_>) =
            old.partition(|(receiver, _)| is_known && wanted.contains(receiver));
        let closing = self.close(gone, "it is no longer told here");
        self.settings = settings.clone();
        let receivers = wanted.into_iter().map(|receiver| {
            if let Some(known) = kept.iter().position(|(it, _)| *it == receiver) {
                return kept.swap_remove(known);
            }
            let started = self.start(receiver);
            started.1.add(&self.messages(None));
            started
        });
        let receivers = receivers.collect();
        self.receivers = receivers;
        (self, closing)
    }

    /// Ends with all that is active, and returns its outboxes.
    pub(super) fn end(mut self, shared: &Shared) -> Vec<Arc<Outbox>> {
        let why = "the alert was removed";
        self.announce(shared, &self.messages(Some(why)));
        let receivers = core::mem::take(&mut self.receivers);
        self.close(receivers, why)
    }

    /// Tells receivers that all that is active is over, and returns their outboxes.
    fn close(&self, receivers: Vec<(Receiver, Arc<Outbox>)>, why: &str) -> Vec<Arc<Outbox>> {
        let messages = self.messages(Some(why));
        let outboxes = receivers.into_iter().map(|(_, outbox)| {
            outbox.add(&messages);
            outbox.close();
            outbox
        });
        outboxes.collect()
    }

    /// Messages of all that is active: that it lasts, or why it is over.
    fn messages(&self, over: Option<&str>) -> Vec<Message> {
        let active = self.watched.iter();
        let messages = active.filter_map(|(subject, watched)| {
            let summary = &watched.summary;
            Some(Message {
                subject: subject.clone(),
                summary: over.map_or_else(
                    || summary.clone(),
                    |why| format!("over, as {why}: {summary}"),
                ),
                since: watched.since?,
                until: over.map(|_| unix_millis()),
            })
        });
        messages.collect()
    }

    pub(super) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        let receivers = self.receivers.iter();
        receivers.map(|(_, outbox)| Arc::clone(outbox)).collect()
    }

    /// Observes its condition for all subjects, and tells what has changed.
    pub(super) fn look(&mut self, shared: &Shared, snapshot: &Snapshot<'_>) {
        let now = snapshot.now;
        let (trails, over, has_looked) = (&mut self.trails, self.settings.over, self.has_looked);
        let observed = snapshot.observe(&self.settings, |subject, counts| {
            let trail = trails.entry(subject.clone()).or_insert_with(|| {
                let mut trail = Trail::new(over);
                if has_looked {
                    // It is new, and has begun with nothing.
                    trail.note(now, &Counts::default());
                }
                trail
            });
            trail.note(now, &counts).clone()
        });
        self.has_looked = true;
        if self.trails.len() > observed.len() {
            let subjects: HashSet<&Subject> = observed.iter().map(|one| &one.subject).collect();
            self.trails.retain(|subject, _| subjects.contains(subject));
        }
        let (mut unknown, mut holding) = (HashSet::new(), HashSet::new());
        for Observation { subject, state } in observed {
            match state {
                State::Absent => {}
                State::Unknown => _ = unknown.insert(subject),
                State::Holds(summary) => {
                    self.watched.entry(subject.clone()).or_default().summary = summary;
                    holding.insert(subject);
                }
            }
        }
        let mut messages = Vec::new();
        // The condition of a subject that was removed is absent.
        for (subject, watched) in &mut self.watched {
            if !unknown.contains(subject) {
                let holds = holding.contains(subject);
                let change = watched.alert.observe(&self.settings.times, now, holds);
                messages.extend(change.map(|change| watched.message(subject, now, change)));
            }
        }
        self.watched.retain(|_, watched| !watched.alert.is_idle());
        self.announce(shared, &messages);
        for (_, outbox) in &self.receivers {
            outbox.add(&messages);
        }
    }

    /// Tells the log and the subscribers to events.
    fn announce(&self, shared: &Shared, messages: &[Message]) {
        for message in messages {
            let (name, summary) = (&self.settings.name, &message.summary);
            match message.until {
                None => tracing::warn!(target: target::ALERT, "alert {name}: {summary}"),
                Some(_) => tracing::info!(target: target::ALERT, "alert {name}: {summary}"),
            }
            shared.events().tell_alert(name, message);
        }
    }

    /// Sends all receivers a message that is over once they have taken it, and returns their number.
    pub(super) fn test(&self) -> usize {
        let message = Message {
            subject: Subject {
                is_test: true,
                ..Subject::default()
            },
            summary: format!("this is a test of the alert {}", self.settings.name),
            since: unix_millis(),
            until: None,
        };
        for (_, outbox) in &self.receivers {
            outbox.add(core::slice::from_ref(&message));
        }
        self.receivers.len()
    }

    /// Returns it as the admin interface shows it.
    pub(super) fn view(&self) -> Value {
        let settings = &self.settings;
        let receivers = self.receivers.iter().map(|(receiver, outbox)| {
            let mut view = outbox.view();
            view["kind"] = receiver.kind().into();
            view["to"] = receiver.to_string().into();
            view
        });
        let pending = self.watched.values().filter(|one| one.since.is_none());
        json!({
            "name": settings.name,
            "when": settings.when.to_string(),
            "for": DisplaySpan(settings.times.hold).to_string(),
            "pools": settings.pools,
            "active": self.active().collect::<Vec<_>>(),
            "pending": pending.count(),
            "receivers": receivers.collect::<Vec<_>>(),
        })
    }

    /// Returns the subjects that it is active for.
    pub(super) fn active(&self) -> impl Iterator<Item = Value> {
        let watched = self.watched.iter();
        watched.filter_map(|(subject, watched)| {
            let mut view = subject.view();
            view["alert"] = self.settings.name.as_str().into();
            view["since"] = watched.since?.into();
            view["text"] = watched.summary.as_str().into();
            Some(view)
        })
    }

    pub(super) fn figures(&self) -> AlertFigures {
        let active = self.watched.values().filter(|one| one.since.is_some());
        let receivers = self.receivers.iter().map(|(receiver, outbox)| {
            let (delivered, dropped) = outbox.counts();
            ReceiverFigures {
                kind: receiver.kind(),
                waiting: outbox.waiting() as u64,
                delivered,
                dropped,
            }
        });
        AlertFigures {
            name: self.settings.name.clone(),
            active: active.count() as u64,
            receivers: receivers.collect(),
        }
    }
}

impl Watched {
    fn message(&mut self, subject: &Subject, now: Tick, change: AlertChange) -> Message {
        let at = |tick: Tick| unix_millis().saturating_sub(now.since(tick).as_millis() as u64);
        // The begin stays the same, whatever becomes of the system's clock meanwhile.
        let (since, until) = match change {
            AlertChange::Began { since } | AlertChange::Lasts { since } => {
                let since = *self.since.get_or_insert_with(|| at(since));
                (since, None)
            }
            AlertChange::Ended { since, until } => {
                let lasted = Duration::from_secs(until.since(since).as_secs());
                self.summary = format!("over after {}: {}", DisplaySpan(lasted), self.summary);
                (
                    self.since.take().unwrap_or_else(|| at(since)),
                    Some(at(until)),
                )
            }
        };
        Message {
            subject: subject.clone(),
            summary: self.summary.clone(),
            since,
            until,
        }
    }
}
