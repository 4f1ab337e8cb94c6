//! The report of what a ComfyUI double saw.
//!
//! Invariant: it belongs to the judge, not to the server: a kill or a restart loses nothing of it.

use super::config::ComfyAge;
use alloc::collections::BTreeMap;
use core::net::SocketAddr;
use serde::Serialize;

/// Most prompts that are counted by id, and most starts that are listed.
const MAX_PROMPTS: usize = 100_000;

/// Counts of a ComfyUI double since it was made, over all its restarts.
///
/// Every accepted prompt is, once nothing is queued, in one of `finished`, `failed`, `interrupted`, `dequeued` and
/// `lost`.
#[derive(Serialize, Clone, Debug)]
#[non_exhaustive]
pub struct ComfyReport {
    /// Name in its pictures.
    pub id: String,
    /// The address that it listens on.
    pub address: SocketAddr,
    /// Version of the interface.
    pub age: ComfyAge,
    /// Calls of `POST /prompt`, whatever became of them.
    pub posted: u64,
    /// Prompts that entered the queue.
    pub accepted: u64,
    /// Prompts that were refused with 400 or 500.
    pub refused: u64,
    /// Jobs that began to run.
    pub started: u64,
    /// Jobs that ended with success.
    pub finished: u64,
    /// Jobs that ended with an error of a node.
    pub failed: u64,
    /// Jobs that were interrupted while they ran.
    pub interrupted: u64,
    /// Jobs that were removed from the queue before they ran.
    pub dequeued: u64,
    /// Jobs that a kill took from the queue or the worker.
    pub lost: u64,
    /// Faults of `POST /prompt`, by name.
    pub faults: BTreeMap<String, u64>,
    /// Counts of each prompt by its id; the first 100,000 ids.
    pub prompts: BTreeMap<String, ComfyPromptReport>,
    /// Jobs in the order of their start; the first 100,000.
    pub starts: Vec<ComfyStart>,
    /// Id of the running prompt.
    pub running: Option<String>,
    /// Prompts in the queue, the running one not included.
    pub pending: u64,
    /// Most prompts that were pending or running at once.
    pub max_queued: u64,
    /// Websockets opened.
    pub websockets_opened: u64,
    /// Websockets that are open, deaf ones included.
    pub websockets_open: u64,
    /// Most websockets open at once.
    pub max_websockets: u64,
    /// Websockets dropped because their reader was too slow.
    pub websockets_dropped: u64,
    /// Websocket frames sent.
    pub frames: u64,
    /// Bytes of the sent frames.
    pub frame_bytes: u64,
    /// Files uploaded.
    pub uploads: u64,
    /// Calls by method and route without `/api`, such as `GET /history/{id}`.
    pub calls: BTreeMap<String, u64>,
    /// Calls by the status of their answer.
    pub statuses: BTreeMap<u16, u64>,
    /// Connections accepted.
    pub connections_opened: u64,
    /// Connections that are open, websockets included.
    pub connections_open: u64,
    /// Most connections open at once.
    pub max_connections: u64,
    /// Starts after the first.
    pub restarts: u64,
}

/// Counts of the prompts with one id. More than one start means that it was run twice.
#[derive(Serialize, Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComfyPromptReport {
    /// Times that it entered the queue.
    pub accepted: u64,
    /// Times that it began to run.
    pub started: u64,
    /// Times that it ended with success.
    pub finished: u64,
    /// Times that it ended with an error of a node.
    pub failed: u64,
    /// Times that it was interrupted while it ran.
    pub interrupted: u64,
    /// Times that it was removed from the queue before it ran.
    pub dequeued: u64,
    /// Times that a kill took it from the queue or the worker.
    pub lost: u64,
}

/// The start of a job.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComfyStart {
    /// Id of the prompt.
    pub prompt_id: String,
    /// The client that gets its events, if one was named.
    pub client_id: Option<String>,
    /// Time since the double was made, in ms.
    pub at_ms: u64,
}

/// An event in the life of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Milestone {
    Accepted,
    Started,
    Finished,
    Failed,
    Interrupted,
    Dequeued,
    Lost,
}

impl ComfyReport {
    pub(super) fn new(id: String, address: SocketAddr, age: ComfyAge) -> Self {
        Self {
            id,
            address,
            age,
            posted: 0,
            accepted: 0,
            refused: 0,
            started: 0,
            finished: 0,
            failed: 0,
            interrupted: 0,
            dequeued: 0,
            lost: 0,
            faults: BTreeMap::new(),
            prompts: BTreeMap::new(),
            starts: Vec::new(),
            running: None,
            pending: 0,
            max_queued: 0,
            websockets_opened: 0,
            websockets_open: 0,
            max_websockets: 0,
            websockets_dropped: 0,
            frames: 0,
            frame_bytes: 0,
            uploads: 0,
            calls: BTreeMap::new(),
            statuses: BTreeMap::new(),
            connections_opened: 0,
            connections_open: 0,
            max_connections: 0,
            restarts: 0,
        }
    }

    /// Returns how often a prompt began to run.
    #[must_use]
    pub fn starts_of(&self, prompt_id: &str) -> u64 {
        self.prompts
            .get(prompt_id)
            .map_or(0, |prompt| prompt.started)
    }

    /// Returns the number of calls of a route, such as `GET /queue`.
    #[must_use]
    pub fn calls_of(&self, route: &str) -> u64 {
        self.calls.get(route).copied().unwrap_or_default()
    }

    pub(super) fn note(&mut self, prompt_id: &str, milestone: Milestone) {
        let total = match milestone {
            Milestone::Accepted => &mut self.accepted,
            Milestone::Started => &mut self.started,
            Milestone::Finished => &mut self.finished,
            Milestone::Failed => &mut self.failed,
            Milestone::Interrupted => &mut self.interrupted,
            Milestone::Dequeued => &mut self.dequeued,
            Milestone::Lost => &mut self.lost,
        };
        *total += 1;
        if self.prompts.len() >= MAX_PROMPTS && !self.prompts.contains_key(prompt_id) {
            return;
        }
        let prompt = self.prompts.entry(prompt_id.to_owned()).or_default();
        let count = match milestone {
            Milestone::Accepted => &mut prompt.accepted,
            Milestone::Started => &mut prompt.started,
            Milestone::Finished => &mut prompt.finished,
            Milestone::Failed => &mut prompt.failed,
            Milestone::Interrupted => &mut prompt.interrupted,
            Milestone::Dequeued => &mut prompt.dequeued,
            Milestone::Lost => &mut prompt.lost,
        };
        *count += 1;
    }

    pub(super) fn note_start(&mut self, start: ComfyStart) {
        self.note(&start.prompt_id, Milestone::Started);
        if self.starts.len() < MAX_PROMPTS {
            self.starts.push(start);
        }
    }
}
