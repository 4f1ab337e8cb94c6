//! A stream of changes for subscribers, as server-sent events.
//!
//! Invariant: a subscriber that reads too slowly holds back no other and takes a bounded place: it misses changes, and
//! gets a snapshot in their stead. A subscriber that has gone is noticed at the next heartbeat at the latest.

use super::answer::millis;
use super::backends;
use super::body::Change;
use super::error::AdminError;
use crate::alerts::Message;
use crate::backend_pool::BackendPool;
use crate::dashboard::Recent;
use crate::proxy::AnswerBody;
use crate::state::unix_millis;
use crate::worker::Worker;
use bytes::Bytes;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use http::StatusCode;
use leasehold_core::time::DisplaySpan;
use leasehold_sync::HealthChange;
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::task::spawn_local;
use tokio::time::timeout;

/// Changes that are kept for subscribers that have not taken them.
const KEPT: usize = 256;
/// Parts of a stream that wait for their connection.
const WAITING: usize = 16;
/// Subscribers at once.
const MAX_SUBSCRIBERS: usize = 64;
/// The time without a change after which a comment is sent.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The way of changes to subscribers.
#[derive(Debug)]
pub(crate) struct Events {
    changes: broadcast::Sender<Bytes>,
    recent: Recent,
    told: Notify,
    subscribers: Arc<AtomicUsize>,
}

/// A change of a backend, as it is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Told {
    Added,
    Removed,
    Disabled,
    Enabled,
    Draining,
    /// The last request of a draining backend has ended.
    Drained,
    Weight(u16),
    Limits,
    /// A job was lost with it, and is done again or has failed.
    JobLost,
    /// More jobs of a pool wait than its settings say, or no more than those again.
    Waiting {
        above: bool,
    },
    /// A job of a pool waits for longer than its settings say, or none any more.
    Wait {
        above: bool,
    },
    /// A change of its health; a time, if it holds for one.
    Health(&'static str, Option<Duration>),
}

impl Told {
    /// What a change by an operator is told as; `None` for one that a pool tells of.
    pub(crate) fn of(change: &Change) -> Option<Self> {
        match change {
            Change::Add(_) => Some(Self::Added),
            Change::Disable => Some(Self::Disabled),
            Change::Enable => Some(Self::Enabled),
            Change::Drain => Some(Self::Draining),
            Change::Weight(weight) => Some(Self::Weight(*weight)),
            Change::Limits(_) => Some(Self::Limits),
            Change::Remove => Some(Self::Removed),
            Change::Breaker(_) => None,
        }
    }

    /// What a change of health at `now` is told as.
    pub(crate) fn of_health(change: HealthChange, now: leasehold_sync::Tick) -> Self {
        match change {
            HealthChange::Up => Self::Health("up", None),
            HealthChange::Down => Self::Health("down", None),
            HealthChange::Ejected { until } => Self::Health("ejected", Some(until.since(now))),
            HealthChange::BreakerOpen { until } => {
                Self::Health("breaker_open", Some(until.since(now)))
            }
            HealthChange::BreakerHalfOpen => Self::Health("breaker_half_open", None),
            HealthChange::BreakerClosed => Self::Health("breaker_closed", None),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Disabled => "disabled",
            Self::Enabled => "enabled",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Weight(_) => "weight",
            Self::Limits => "limits",
            Self::JobLost => "job_lost",
            Self::Waiting { above: true } => "waiting_above",
            Self::Waiting { above: false } => "waiting_below",
            Self::Wait { above: true } => "wait_above",
            Self::Wait { above: false } => "wait_below",
            Self::Health(name, _) => name,
        }
    }
}

/// The change in words: `breaker open for 30s`.
impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name().replace('_', " ");
        match self {
            Self::Weight(weight) => write!(f, "{name} {weight}"),
            Self::Health(_, Some(time)) => {
                let rounded = time.saturating_add(Duration::from_millis(500));
                let whole = Duration::from_secs(rounded.as_secs().max(1));
                write!(f, "{name} for {}", DisplaySpan(whole))
            }
            Self::Added
            | Self::Removed
            | Self::Disabled
            | Self::Enabled
            | Self::Draining
            | Self::Drained
            | Self::Limits
            | Self::JobLost
            | Self::Waiting { .. }
            | Self::Wait { .. }
            | Self::Health(_, None) => f.write_str(&name),
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self {
            changes: broadcast::Sender::new(KEPT),
            recent: Recent::default(),
            told: Notify::new(),
            subscribers: Arc::default(),
        }
    }
}

impl Events {
    /// Tells subscribers of a change of a backend.
    pub(crate) fn tell(&self, pool: &BackendPool, backend: &str, told: Told) {
        self.tell_of(pool, Some(backend), told);
    }

    /// Tells subscribers of a change of a pool, or of one of its backends.
    pub(crate) fn tell_of(&self, pool: &BackendPool, backend: Option<&str>, told: Told) {
        let mut change = json!({
            "pool": pool.settings().name,
            "backend": backend,
            "change": told.name(),
        });
        match told {
            Told::Weight(weight) => change["weight"] = weight.into(),
            Told::Health(_, Some(time)) => change["for_ms"] = millis(time).into(),
            Told::Added
            | Told::Removed
            | Told::Disabled
            | Told::Enabled
            | Told::Draining
            | Told::Drained
            | Told::Limits
            | Told::JobLost
            | Told::Waiting { .. }
            | Told::Wait { .. }
            | Told::Health(_, None) => {}
        }
        self.send(change);
    }

    /// Tells subscribers of a change of an alert.
    pub(crate) fn tell_alert(&self, alert: &str, message: &Message) {
        self.send(message.event(alert));
    }

    fn send(&self, change: Value) {
        if self.changes.receiver_count() > 0 {
            // An error only means that the last subscriber has gone meanwhile.
            let _ = self.changes.send(event("change", &change));
        }
        self.recent.add(unix_millis(), || change);
        self.told.notify_one();
    }

    /// Waits until something was told since it was last waited for.
    pub(crate) async fn wait(&self) {
        self.told.notified().await;
    }

    /// The changes of late.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Takes a place for a stream.
    pub(crate) fn admit(&self) -> Result<Place, AdminError> {
        let place = Place(Arc::clone(&self.subscribers));
        let others = self.subscribers.fetch_add(1, Ordering::Relaxed);
        let text = format!("{MAX_SUBSCRIBERS} streams of events are open, and more may not be");
        let refusal = AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", text);
        (others < MAX_SUBSCRIBERS).then_some(place).ok_or(refusal)
    }
}

/// A subscriber's place among all.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Begins a stream, which ends when its reader goes or the gateway drains.
pub(crate) fn subscribe(worker: &Rc<Worker>) -> Result<AnswerBody, AdminError> {
    let events = worker.shared().events();
    let place = events.admit()?;
    // Subscribed before the snapshot, so that no change falls between the two.
    let changes = events.changes.subscribe();
    let (sender, receiver) = mpsc::channel(WAITING);
    let worker = Rc::clone(worker);
    spawn_local(async move {
        tokio::select! {
            () = pass_on(&worker, changes, &sender) => {}
            () = sender.closed() => {}
            () = worker.drain().begun() => {}
        }
        drop(place);
    });
    Ok(AnswerBody::events(receiver))
}

async fn pass_on(
    worker: &Worker,
    mut changes: broadcast::Receiver<Bytes>,
    sender: &mpsc::Sender<Bytes>,
) {
    let mut next = snapshot(worker, 0);
    while sender.send(next).await.is_ok() {
        next = match timeout(HEARTBEAT, changes.recv()).await {
            Ok(Ok(change)) => change,
            Ok(Err(RecvError::Lagged(missed))) => snapshot(worker, missed),
            Ok(Err(RecvError::Closed)) => return,
            Err(_) => Bytes::from_static(b": no change\n\n"),
        };
    }
}

/// Returns all backends as an event, after which only changes are told.
fn snapshot(worker: &Worker, missed: u64) -> Bytes {
    let table = worker.shared().table();
    let pools = table.pools().iter();
    let backends: Vec<_> = pools.flat_map(|pool| backends::list(pool)).collect();
    event("snapshot", &json!({"missed": missed, "backends": backends}))
}

/// Returns an event of a stream.
pub(crate) fn event(name: &str, data: &Value) -> Bytes {
    // JSON on one line has no line feed of its own.
    format!("event: {name}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let events = Events::default();
        let places: Vec<_> = (0..MAX_SUBSCRIBERS).map(|_| events.admit()).collect();
        assert!(places.iter().all(Result::is_ok));
        assert!(events.admit().is_err());
        drop(places);
        assert!(events.admit().is_ok());
    }
}
