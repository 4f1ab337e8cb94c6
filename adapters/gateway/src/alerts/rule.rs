//! One alert of the settings: what it is told of, and to which receivers.
//!
//! Invariant: a subject that nothing is told of, and whose condition does not hold, is forgotten.

use super::AlertFigures;
use super::delivery::{Way, deliver};
use super::looks::{Looks, Subject, Sum};
use super::message::Message;
use super::outbox::Outbox;
use crate::operator_log::target;
use crate::shared::Shared;
use crate::state::unix_millis;
use core::time::Duration;
use leasehold_config::AlertSettings;
use leasehold_core::health::{Alert, AlertChange, Trail};
use leasehold_core::time::{DisplaySpan, Tick};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::task::spawn_local;

/// An alert of the settings with all that is known of it.
#[derive(Debug)]
pub(super) struct Rule {
    settings: AlertSettings,
    watched: HashMap<Subject, Watched>,
    trails: HashMap<Subject, Trail<Sum>>,
    /// The ways to its receivers: the kind, the receiver as it is shown, and what waits for it.
    ways: Vec<(&'static str, String, Arc<Outbox>)>,
}

/// A subject whose condition holds, or of which something is told.
#[derive(Debug, Default)]
struct Watched {
    alert: Alert,
    /// The words for it when it held last.
    words: String,
    /// The begin of the alert in milliseconds since 1970; `None` while nothing is told.
    since: Option<u64>,
}

impl Drop for Rule {
    fn drop(&mut self) {
        for (_, _, outbox) in &self.ways {
            outbox.close();
        }
    }
}

impl Rule {
    /// Makes a rule, whose messages this thread delivers.
    pub(super) fn start(settings: &AlertSettings) -> Self {
        let ways = Way::of(settings).into_iter().map(|way| {
            let outbox = Arc::new(Outbox::new(&settings.name));
            let (kind, shown) = (way.kind(), way.to_string());
            spawn_local(deliver(way, Arc::clone(&outbox)));
            (kind, shown, outbox)
        });
        Self {
            settings: settings.clone(),
            watched: HashMap::new(),
            trails: HashMap::new(),
            ways: ways.collect(),
        }
    }

    pub(super) fn settings(&self) -> &AlertSettings {
        &self.settings
    }

    pub(super) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        let ways = self.ways.iter();
        ways.map(|(_, _, outbox)| Arc::clone(outbox)).collect()
    }

    /// Looks at all its subjects, and tells what has changed.
    pub(super) fn look(&mut self, shared: &Shared, looks: &Looks<'_>) {
        let now = looks.now;
        let mut seen = HashSet::new();
        let (trails, over) = (&mut self.trails, self.settings.over);
        let looked = looks.of(&self.settings, |subject, sum| {
            let trail = trails
                .entry(subject.clone())
                .or_insert_with(|| Trail::new(over));
            trail.then(now, &sum).clone()
        });
        if self.trails.len() > looked.len() {
            let subjects: HashSet<&Subject> = looked.iter().map(|look| &look.subject).collect();
            self.trails.retain(|subject, _| subjects.contains(subject));
        }
        for look in looked {
            if look.holds {
                let watched = self.watched.entry(look.subject.clone()).or_default();
                watched.words = look.words;
                seen.insert(look.subject);
            }
        }
        // One that was removed is over too.
        let mut messages = Vec::new();
        for (subject, watched) in &mut self.watched {
            let holds = seen.contains(subject);
            let change = watched.alert.observe(&self.settings.times, now, holds);
            messages.extend(change.map(|change| watched.message(subject, now, change)));
        }
        self.watched.retain(|_, watched| !watched.alert.is_idle());
        self.tell(shared, messages);
    }

    fn tell(&self, shared: &Shared, messages: Vec<Message>) {
        for message in &messages {
            let (name, words) = (&self.settings.name, &message.words);
            match message.until {
                None => tracing::warn!(target: target::ALERT, "alert {name}: {words}"),
                Some(_) => tracing::info!(target: target::ALERT, "alert {name}: {words}"),
            }
            shared.events().tell_alert(name, message);
        }
        for (_, _, outbox) in &self.ways {
            outbox.add(&messages);
        }
    }

    /// Returns it as the admin interface shows it.
    pub(super) fn view(&self) -> Value {
        let settings = &self.settings;
        let ways = self.ways.iter().map(|(kind, shown, outbox)| {
            let mut view = outbox.view();
            (view["kind"], view["to"]) = ((*kind).into(), shown.as_str().into());
            view
        });
        let holding = self.watched.values();
        let holding = holding.filter(|one| one.since.is_none());
        json!({
            "name": settings.name,
            "when": settings.when.to_string(),
            "for": DisplaySpan(settings.times.hold).to_string(),
            "pools": settings.pools,
            "active": self.active().collect::<Vec<_>>(),
            "holding": holding.count(),
            "receivers": ways.collect::<Vec<_>>(),
        })
    }

    /// What is told of and not over.
    pub(super) fn active(&self) -> impl Iterator<Item = Value> {
        let watched = self.watched.iter();
        watched.filter_map(|(subject, watched)| {
            Some(json!({
                "alert": self.settings.name,
                "pool": subject.pool,
                "backend": subject.member,
                "caller": subject.caller,
                "since": watched.since?,
                "text": watched.words,
            }))
        })
    }

    pub(super) fn figures(&self) -> AlertFigures {
        let active = self.watched.values().filter(|one| one.since.is_some());
        let ways = self.ways.iter().map(|(kind, _, outbox)| {
            let (taken, given_up) = outbox.counts();
            (*kind, taken, given_up)
        });
        AlertFigures {
            name: self.settings.name.clone(),
            active: active.count() as u64,
            ways: ways.collect(),
        }
    }
}

impl Watched {
    fn message(&mut self, subject: &Subject, now: Tick, change: AlertChange) -> Message {
        let at = |tick: Tick| {
            let ago = now.since(tick).as_millis() as u64;
            unix_millis().saturating_sub(ago)
        };
        let (since, until) = match change {
            AlertChange::Began { since } | AlertChange::Lasts { since } => (since, None),
            AlertChange::Ended { since, until } => (since, Some(until)),
        };
        let words = match until {
            None => self.words.clone(),
            Some(until) => {
                let lasted = Duration::from_secs(until.since(since).as_secs());
                format!("over after {}: {}", DisplaySpan(lasted), self.words)
            }
        };
        self.since = until.is_none().then(|| at(since));
        Message {
            subject: subject.clone(),
            words,
            since: at(since),
            until: until.map(at),
            made: unix_millis(),
        }
    }
}
