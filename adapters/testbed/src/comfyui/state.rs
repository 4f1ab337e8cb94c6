//! The state of a ComfyUI double: what lives in the server, on its disk, and in the judge's report.
//!
//! Invariant: a kill loses [`Life`] and nothing else; every change of the queue is told to all websockets.

use super::config::{ComfyAge, ComfyConfig, ComfyGuard};
use super::disk::Disk;
use super::fault::ComfyFault;
use super::nodes::Classes;
use super::queue::{History, Incomparable, Item, Pending};
use super::report::{ComfyReport, ComfyStart, Milestone};
use super::sockets::{Inbox, Sockets, event};
use super::worker::Cache;
use crate::clock::Clock;
use crate::server::Orders;
use crate::watched::Watched;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::net::SocketAddr;
use core::time::Duration;
use serde_json::{Value, json};
use std::collections::HashMap;
use tokio::sync::{Notify, watch};
use tokio_tungstenite::tungstenite::Message;

/// Most faults that wait for a prompt.
pub(super) const MAX_FAULTS: usize = 100_000;

/// A double's settings and state, shared by its connections, its worker and its handle.
#[derive(Debug)]
pub(super) struct Studio {
    pub(super) id: String,
    pub(super) address: SocketAddr,
    pub(super) config: ComfyConfig,
    pub(super) classes: Classes,
    pub(super) clock: Clock,
    /// Wakes the worker: the queue has changed.
    pub(super) queued: Notify,
    /// Wakes the running job: it may be interrupted.
    pub(super) interrupting: Notify,
    pub(super) mode: watch::Sender<Mode>,
    state: Watched<State>,
}

/// Parts of the server that stand still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mode {
    pub(super) is_stalled: bool,
    pub(super) is_worker_dead: bool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) life: Life,
    pub(super) disk: Disk,
    pub(super) report: ComfyReport,
    /// Whether frames of websockets are dropped.
    pub(super) is_silent: bool,
    pub(super) object_info_delay: Duration,
    pub(super) faults: VecDeque<ComfyFault>,
    pub(super) rng: fastrand::Rng,
    pub(super) connections: HashMap<u64, Arc<Orders>>,
}

/// The memory of the process.
#[derive(Debug)]
pub(super) struct Life {
    /// Number of the next prompt.
    pub(super) counter: i64,
    pub(super) pending: Pending,
    pub(super) running: Option<Running>,
    pub(super) history: History,
    pub(super) sockets: Sockets,
    pub(super) cache: Cache,
    /// Whether the cache is to be dropped after the current prompt.
    pub(super) frees_memory: bool,
}

/// The running job.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) item: Arc<Item>,
    pub(super) is_interrupted: bool,
    /// The node that runs.
    pub(super) node: Option<String>,
}

impl Life {
    fn new(max_socket_bytes: usize) -> Self {
        Self {
            counter: 0,
            pending: Pending::default(),
            running: None,
            history: History::default(),
            sockets: Sockets::new(max_socket_bytes),
            cache: Cache::default(),
            frees_memory: false,
        }
    }
}

impl Studio {
    pub(super) fn new(config: ComfyConfig, address: SocketAddr) -> Self {
        let default_id = || format!("comfy-{}", address.port());
        let id = config.id.clone().unwrap_or_else(default_id);
        Self {
            address,
            classes: Classes::new(&config),
            clock: Clock::start(),
            queued: Notify::new(),
            interrupting: Notify::new(),
            mode: watch::Sender::new(Mode::default()),
            state: Watched::new(State {
                life: Life::new(config.max_socket_bytes),
                disk: Disk::default(),
                report: ComfyReport::new(id.clone(), address, config.age),
                is_silent: false,
                object_info_delay: config.object_info_delay,
                faults: VecDeque::new(),
                rng: fastrand::Rng::with_seed(config.seed),
                connections: HashMap::new(),
            }),
            id,
            config,
        }
    }

    pub(super) fn age(&self) -> ComfyAge {
        self.config.age
    }

    pub(super) const fn guard(&self) -> &ComfyGuard {
        &self.config.guard
    }

    pub(super) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        self.state.read(read)
    }

    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        self.state.change(change)
    }

    pub(super) fn wait(&self, limit: Duration, condition: impl Fn(&ComfyReport) -> bool) -> bool {
        let holds = || self.state.read(|state| condition(&state.report));
        self.state.wait(limit, holds)
    }

    /// Returns once the server is not stalled.
    pub(super) async fn unstalled(&self) {
        let mut mode = self.mode.subscribe();
        // An error would mean that the double is gone, with all that waits for it.
        let _ = mode.wait_for(|mode| !mode.is_stalled).await;
    }

    /// Takes the first pending prompt as the running one.
    pub(super) fn start_next(&self) -> Option<Arc<Item>> {
        let at_ms = self.clock.nanos() / 1_000_000;
        self.change(|state| {
            if core::mem::take(&mut state.life.frees_memory) {
                state.life.cache = Cache::default();
            }
            let item = Arc::new(state.life.pending.pop()?);
            state.life.running = Some(Running {
                item: Arc::clone(&item),
                is_interrupted: false,
                node: None,
            });
            state.report.note_start(ComfyStart {
                prompt_id: item.id.clone(),
                client_id: item.client_id().map(ToOwned::to_owned),
                at_ms,
            });
            state.queue_changed();
            Some(item)
        })
    }

    /// Interrupts the running prompt if it is the named one, and returns whether it is.
    pub(super) fn interrupt(&self, prompt_id: Option<&str>) -> bool {
        let is_it = self.change(|state| {
            let running = state.life.running.as_mut();
            let running = running.filter(|run| prompt_id.is_none_or(|id| run.item.id == id));
            running
                .map(|running| running.is_interrupted = true)
                .is_some()
        });
        if is_it {
            self.interrupting.notify_one();
        }
        is_it
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.read(|state| {
            state
                .life
                .running
                .as_ref()
                .is_some_and(|run| run.is_interrupted)
        })
    }

    /// Loses the memory of the process, and tells the judge which prompts are lost.
    pub(super) fn lose_life(&self) {
        self.mode.send_replace(Mode::default());
        self.change(|state| {
            let life = Life::new(self.config.max_socket_bytes);
            let mut life = core::mem::replace(&mut state.life, life);
            let running = life.running.take().map(|running| running.item.id.clone());
            let pending = life.pending.clear().into_iter().map(|item| item.id);
            for id in running.into_iter().chain(pending) {
                state.report.note(&id, Milestone::Lost);
            }
            state.disk.wipe_temp();
            state.queue_changed();
        });
    }
}

impl State {
    pub(super) fn queue_remaining(&self) -> usize {
        self.life.pending.len() + usize::from(self.life.running.is_some())
    }

    pub(super) fn queue_info(&self) -> Value {
        json!({ "exec_info": { "queue_remaining": self.queue_remaining() } })
    }

    /// Tells all websockets, and the judge, how long the queue is now.
    pub(super) fn queue_changed(&mut self) {
        let queued = self.queue_remaining() as u64;
        let running = self.life.running.as_ref();
        self.report.running = running.map(|running| running.item.id.clone());
        self.report.pending = self.life.pending.len() as u64;
        self.report.max_queued = self.report.max_queued.max(queued);
        let status = event("status", &json!({ "status": self.queue_info() }));
        self.send(None, &status);
    }

    /// Sends a frame to a client, or to all.
    pub(super) fn send(&mut self, client_id: Option<&str>, frame: &Message) {
        if !self.is_silent {
            self.report.websockets_dropped += self.life.sockets.send(client_id, frame);
        }
    }

    /// Adds a prompt to the queue, also if the heap then raises.
    pub(super) fn enqueue(&mut self, item: Item) -> Result<(), Incomparable> {
        self.report.note(&item.id, Milestone::Accepted);
        let pushed = self.life.pending.push(item);
        self.queue_changed();
        pushed
    }

    /// Removes a pending prompt, and returns whether it was there.
    pub(super) fn dequeue(&mut self, prompt_id: &str) -> bool {
        let is_there = self.life.pending.remove(prompt_id).is_some();
        if is_there {
            self.report.note(prompt_id, Milestone::Dequeued);
            self.queue_changed();
        }
        is_there
    }

    pub(super) fn clear_queue(&mut self) {
        for item in self.life.pending.clear() {
            self.report.note(&item.id, Milestone::Dequeued);
        }
        self.queue_changed();
    }

    /// Enters a websocket in the table, and queues the frames that it gets first.
    pub(super) fn open_socket(&mut self, client_id: &str) -> (u64, Inbox) {
        let opened = self.life.sockets.open(client_id);
        let report = &mut self.report;
        report.websockets_opened += 1;
        report.websockets_open += 1;
        report.max_websockets = report.max_websockets.max(report.websockets_open);
        let hello = json!({ "status": self.queue_info(), "sid": client_id });
        self.send(Some(client_id), &event("status", &hello));
        let running = self.life.running.as_ref();
        let running = running.filter(|run| run.item.client_id() == Some(client_id));
        if let Some(node) = running.and_then(|run| run.node.clone()) {
            self.send(
                Some(client_id),
                &event("executing", &json!({ "node": node })),
            );
        }
        opened
    }

    /// Draws an id of 128 bits, in the form of a UUID of version 4.
    pub(super) fn draw_uuid(&mut self) -> String {
        let bits = self.rng.u128(..) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ]
        .join("-")
    }
}
