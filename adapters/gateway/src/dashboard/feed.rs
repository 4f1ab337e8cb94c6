//! The stream of figures to watchers of the dashboard.
//!
//! Invariant: a watcher gets all figures first, and then each difference to them in order; one that is too slow gets
//! all of them again.

use super::figures::figures;
use super::history::{History, PAUSE};
use super::patch;
use crate::admin::{AdminError, event};
use crate::lock;
use crate::proxy::AnswerBody;
use crate::shared::Shared;
use crate::state::unix_millis;
use crate::worker::Worker;
use bytes::Bytes;
use core::time::Duration;
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// The pause between two differences.
const TICK: Duration = Duration::from_secs(1);
/// The pause from a change to its difference.
const SOON: Duration = Duration::from_millis(100);
/// The shortest pause between two differences, besides that.
const REST: Duration = Duration::from_millis(400);
/// Differences that are kept for watchers that have not taken them.
const KEPT: usize = 8;
/// Events that wait for their connection.
const WAITING: usize = 4;

/// The way of figures to watchers.
#[derive(Debug)]
pub(crate) struct Feed {
    told: broadcast::Sender<Bytes>,
    state: Mutex<Told>,
}

/// The figures, changes and refusals that all watchers know by now.
#[derive(Debug, Default)]
struct Told {
    /// `None` while there is no watcher.
    figures: Option<Arc<Value>>,
    history: History,
    changes: u64,
    refusals: u64,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            told: broadcast::Sender::new(KEPT),
            state: Mutex::default(),
        }
    }
}

impl Feed {
    /// Returns all figures, after which the receiver has the differences.
    fn begin(&self, shared: &Shared) -> (Bytes, broadcast::Receiver<Bytes>) {
        let mut state = lock(&self.state);
        let told = self.told.subscribe();
        let (changes, refusals) = (shared.events().recent(), shared.refusals());
        let (changes, refusals) = (changes.since(0), refusals.since(0));
        if state.figures.is_none() {
            let all = figures(shared, &shared.table(), unix_millis());
            state.figures = Some(Arc::new(all));
            (state.changes, state.refusals) = (changes.1, refusals.1);
        }
        let (all, history) = (state.figures.clone(), state.history.view());
        drop(state);
        let all = json!({
            "figures": all.as_deref(), "history": history, "changes": changes.0, "refusals": refusals.0,
        });
        (event("snapshot", &all), told)
    }

    /// Tells the watchers, if there are any, what has changed.
    fn tick(&self, shared: &Shared, is_sample: bool) {
        let table = shared.table();
        let is_watched = self.told.receiver_count() > 0;
        let new = is_watched.then(|| figures(shared, &table, unix_millis()));
        let mut state = lock(&self.state);
        let sample = is_sample.then(|| state.history.sample(unix_millis(), table.pools()));
        let Some(new) = new else {
            // A watcher that has come meanwhile has figures of now.
            if self.told.receiver_count() == 0 {
                state.figures = None;
            }
            return;
        };
        let known = state.figures.take().unwrap_or_default();
        let patch = patch::between(&known, &new);
        state.figures = Some(Arc::new(new));
        let changes = shared.events().recent().since(state.changes);
        let refusals = shared.refusals().since(state.refusals);
        (state.changes, state.refusals) = (changes.1, refusals.1);
        let mut told = json!({"patch": patch, "changes": changes.0, "refusals": refusals.0});
        if let Some(sample) = sample {
            told["sample"] = sample;
        }
        // An error only means that the last watcher has gone meanwhile.
        let _ = self.told.send(event("tick", &told));
    }
}

/// Samples the pools, and tells the watchers each second and after each change.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pause = PAUSE.as_secs() / TICK.as_secs();
    let mut number = 0_u64;
    loop {
        let is_sample = tokio::select! {
            _ = ticks.tick() => {
                number = number.wrapping_add(1);
                number % pause == 1
            }
            // Changes are told soon, those of one cause together.
            () = shared.events().wait() => {
                sleep(SOON).await;
                false
            }
        };
        shared.feed().tick(&shared, is_sample);
        sleep(REST).await;
    }
}

/// Begins a stream, which ends when its reader goes or the gateway drains.
pub(crate) fn subscribe(worker: &Rc<Worker>) -> Result<AnswerBody, AdminError> {
    let place = worker.shared().events().admit()?;
    let (sender, receiver) = mpsc::channel(WAITING);
    let worker = Rc::clone(worker);
    spawn_local(async move {
        tokio::select! {
            () = pass_on(worker.shared(), &sender) => {}
            () = sender.closed() => {}
            () = worker.drain().begun() => {}
        }
        drop(place);
    });
    Ok(AnswerBody::events(receiver))
}

async fn pass_on(shared: &Shared, sender: &mpsc::Sender<Bytes>) {
    let feed = shared.feed();
    let (mut next, mut told) = feed.begin(shared);
    while sender.send(next).await.is_ok() {
        next = match told.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => {
                let (all, again) = feed.begin(shared);
                told = again;
                all
            }
            Err(RecvError::Closed) => return,
        };
    }
}
