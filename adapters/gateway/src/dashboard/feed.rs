//! The stream of figures to those that watch the dashboard.
//!
//! Invariant: a watcher gets all figures first, and then each difference to them in order; one that is too slow gets
//! all of them again.

use super::figures::figures;
use super::history::{History, PAUSE};
use super::patch;
use crate::admin::{AdminError, event};
use crate::clock::millis_of_day;
use crate::lock;
use crate::proxy::AnswerBody;
use crate::shared::Shared;
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
/// Differences that are kept for watchers that have not taken them.
const KEPT: usize = 8;
/// Events that wait for their connection.
const WAITING: usize = 4;

/// What watchers are told.
#[derive(Debug)]
pub(crate) struct Feed {
    told: broadcast::Sender<Bytes>,
    state: Mutex<Told>,
}

/// What all watchers have been told by now.
#[derive(Debug, Default)]
struct Told {
    /// `None` while there is no watcher.
    figures: Option<Value>,
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
        let changes = shared.events().recent().since(0);
        let refusals = shared.refusals().since(0);
        let Told {
            figures: known,
            history,
            ..
        } = &mut *state;
        let is_first = known.is_none();
        let all = known.get_or_insert_with(|| figures(shared, &shared.table(), millis_of_day()));
        let all = json!({
            "figures": all, "history": history.view(), "changes": changes.0, "refusals": refusals.0,
        });
        if is_first {
            (state.changes, state.refusals) = (changes.1, refusals.1);
        }
        (event("snapshot", &all), told)
    }

    /// Tells the watchers, if there are any, what has changed.
    fn tick(&self, shared: &Shared, is_sample: bool) {
        let mut state = lock(&self.state);
        let table = shared.table();
        let sample = is_sample.then(|| state.history.sample(millis_of_day(), table.pools()));
        if self.told.receiver_count() == 0 {
            state.figures = None;
            return;
        }
        let figures = figures(shared, &table, millis_of_day());
        let known = state.figures.replace(figures).unwrap_or_default();
        let patch = state
            .figures
            .as_ref()
            .and_then(|new| patch::between(&known, new));
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
