//! The jobs of a pool, its servers and its callers' sockets, as they are at a moment.
//!
//! Invariant: a client is told of a job's end once for each of its sockets, or once when it is back.

use super::hub::{JobId, name_files};
use super::made::Made;
use super::outbox::Outbox;
use super::record::{Finished, JobRecord, millis};
use super::servers::{ServerState, Servers};
use crate::state::unix_millis;
use core::time::Duration;
use indexmap::IndexMap;
use leasehold_core::time::Tick;
use leasehold_protocol::comfyui::{Event, EventKind, JobConfig, ServerId, StatusFrame};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// Bytes in memory of the entries of ended jobs that are remembered.
const MAX_FINISHED: usize = 256 << 20;

/// How long a client that is back is told of ends again: longer than a broken socket is taken for a good one.
const AGAIN: Duration = Duration::from_secs(120);

/// What changes.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) jobs: HashMap<JobId, JobRecord>,
    /// Bytes of all jobs in memory.
    pub(super) bytes: usize,
    pub(super) finished: IndexMap<JobId, Finished>,
    /// The files of ended jobs.
    pub(super) made: Made,
    pub(super) servers: Servers,
    pub(super) sockets: HashMap<String, Vec<Arc<Outbox>>>,
    pub(super) sequence: u64,
    /// Bytes of the entries of all ended jobs.
    pub(super) finished_bytes: usize,
    pub(super) max_finished: usize,
    /// Whether the log has full reports.
    pub(super) is_verbose: bool,
    pub(super) is_verbose_set: bool,
    pub(super) config: JobConfig,
    /// How far off expected ends were of late, in thousandths of the wait.
    pub(super) error_permille: Option<u64>,
}

impl State {
    pub(super) fn add_job(&mut self, id: &JobId, record: JobRecord) {
        self.bytes = self.bytes.saturating_add(record.bytes);
        self.jobs.insert(Arc::clone(id), record);
    }

    pub(super) fn remove_job(&mut self, id: &JobId) -> Option<JobRecord> {
        let record = self.jobs.remove(id)?;
        self.bytes = self.bytes.saturating_sub(record.bytes);
        Some(record)
    }

    /// Adds an ended job; beyond the bounds the oldest ones are forgotten.
    pub(super) fn add_finished(&mut self, id: &JobId, finished: Finished) {
        self.remove_finished(id);
        self.finished_bytes = self.finished_bytes.saturating_add(finished.bytes);
        self.made.add(id, &finished);
        self.finished.insert(Arc::clone(id), finished);
        while self.finished.len() > self.max_finished || self.finished_bytes > MAX_FINISHED {
            let Some((oldest, _)) = self.finished.first() else {
                return;
            };
            let oldest = Arc::clone(oldest);
            self.remove_finished(&oldest);
        }
    }

    pub(super) fn remove_finished(&mut self, id: &JobId) {
        if let Some(gone) = self.finished.shift_remove(id) {
            self.finished_bytes = self.finished_bytes.saturating_sub(gone.bytes);
            self.made.remove(id, &gone);
        }
    }

    /// How many jobs there are, those that others gave to the servers included.
    pub(super) fn remaining(&self) -> u32 {
        let mut own: HashMap<ServerId, u32> = HashMap::new();
        for record in self.jobs.values() {
            if let Some(server) = record.machine.server() {
                let count = own.entry(server).or_default();
                *count = count.saturating_add(1);
            }
        }
        let foreign = self.servers.iter().map(|(id, server)| {
            let own = own.get(&id).copied().unwrap_or(0);
            server.remaining.unwrap_or(0).saturating_sub(own)
        });
        let own = u32::try_from(self.jobs.len()).unwrap_or(u32::MAX);
        own.saturating_add(foreign.sum())
    }

    /// Tells all sockets how many jobs there are.
    pub(super) fn tell_status(&self) {
        let status = StatusFrame {
            remaining: self.remaining(),
        };
        for socket in self.sockets.values().flatten() {
            socket.push_status(&status);
        }
    }

    /// How many of the gateway's jobs a server has, and how many are on their way there.
    pub(super) fn own_jobs(&self, server: ServerId) -> (u32, u32) {
        let of_server = |record: &&JobRecord| record.machine.server() == Some(server);
        let (mut there, mut on_way) = (0_u32, 0_u32);
        for record in self.jobs.values().filter(of_server) {
            let count = match record.machine.is_on_its_way() {
                true => &mut on_way,
                false => &mut there,
            };
            *count = count.saturating_add(1);
        }
        (there, on_way)
    }

    pub(super) fn server(&self, id: ServerId) -> Option<&ServerState> {
        self.servers.get(id)
    }

    /// Jobs that wait for a server before this one.
    pub(super) fn ahead_of(&self, record: &JobRecord) -> usize {
        let order = record.order();
        let waits = |other: &&JobRecord| other.machine.server().is_none();
        let others = self.jobs.values().filter(waits);
        others.filter(|other| other.order() < order).count()
    }

    /// Counts the jobs that wait for a server, and tells how long ago the oldest of them was accepted.
    pub(super) fn waits(&self, now_millis: u64) -> (u32, Duration) {
        let waiting = self.jobs.values();
        let waiting = waiting.filter(|record| record.machine.server().is_none());
        waiting.fold((0, Duration::ZERO), |(count, longest), record| {
            let wait = Duration::from_millis(now_millis.saturating_sub(record.created));
            (count.saturating_add(1), longest.max(wait))
        })
    }

    pub(super) fn running_at(&self, server: ServerId) -> Option<JobId> {
        let is_there = |record: &JobRecord| {
            let machine = &record.machine;
            // Its events may come before the answer to its submission.
            let has_begun = machine.is_on_its_way() && record.begun_at.is_some();
            machine.server() == Some(server) && (machine.is_running() || has_begun)
        };
        // One that has ended may not have been looked for yet.
        let there = self.jobs.iter().filter(|(_, record)| is_there(record));
        let found = there.max_by_key(|(_, record)| record.begun_at);
        found.map(|(id, _)| Arc::clone(id))
    }

    pub(super) fn pass_on(&mut self, now: Tick, server: ServerId, event: Event) {
        let Some(name) = self.servers.name(server) else {
            return;
        };
        let id = JobId::from(event.prompt_id);
        let Some(record) = self.jobs.get_mut(&id) else {
            return;
        };
        if record.machine.server() != Some(server) {
            return;
        }
        if event.kind == EventKind::Over {
            // Its end is what the history says.
            record.machine.look_soon(now, server);
            record.wake.notify_one();
            return;
        }
        let was_running = record.machine.is_running();
        record.machine.progressed(now, server);
        let mut frame = event.frame;
        if let Some(output) = frame.pointer_mut("/data/output") {
            name_files(output, &name);
        }
        let kind = frame["type"].as_str().unwrap_or_default().to_owned();
        if kind == "execution_start" || !was_running {
            record.begun = Some(unix_millis());
            record.begun_at = Some(now);
        }
        let text = Utf8Bytes::from(frame.to_string());
        let latest = record.replay.note(event.kind, &kind, &text);
        let client = record.prompt.client_id.as_deref();
        for socket in client
            .and_then(|client| self.sockets.get(client))
            .into_iter()
            .flatten()
        {
            match latest {
                Some(latest) => socket.push_latest(latest, text.clone()),
                None => socket.push(text.clone()),
            }
        }
    }

    /// Passes a frame that names no job on to the client whose job runs at the server.
    pub(super) fn pass_on_unnamed(&self, server: ServerId, frame: &Value) {
        let record = self.running_at(server).and_then(|id| self.jobs.get(&id));
        let client = record.and_then(|record| record.prompt.client_id.as_deref());
        let sockets = client.and_then(|client| self.sockets.get(client));
        let text = Utf8Bytes::from(frame.to_string());
        for socket in sockets.into_iter().flatten() {
            socket.push(text.clone());
        }
    }

    /// The features of the first server that has told them, and the gateway's own.
    pub(super) fn features(&self) -> Value {
        let mut servers = self.servers.iter();
        let first = servers.find_map(|(_, server)| server.features.as_ref()?.as_object());
        let mut features = first.cloned().unwrap_or_default();
        for own in ["supports_preview_metadata", "leasehold_places"] {
            features.insert(own.to_owned(), true.into());
        }
        features.into()
    }

    /// Tells a client that its job is over, if it is there; and all how many jobs are left.
    pub(super) fn tell_end(&mut self, id: &JobId, mut finished: Finished) -> Finished {
        let [how, over] = finished.frames(id);
        let client = finished.client_id.as_deref();
        let sockets = client.and_then(|client| self.sockets.get(client));
        for socket in sockets.into_iter().flatten() {
            socket.push(how.clone());
        }
        self.tell_status();
        for socket in sockets.into_iter().flatten() {
            socket.push(over.clone());
        }
        finished.is_told = sockets.is_some();
        finished
    }

    /// Tells a client that is back of ends that it was not there for. Of late ones it may have missed those that went to a
    /// socket which was broken, and is told again.
    pub(super) fn tell_ends_again(&mut self, client: &str, outbox: &Outbox) {
        let now = unix_millis();
        for (id, finished) in &mut self.finished {
            let is_late = now.saturating_sub(finished.ended) < millis(AGAIN);
            let is_own = finished.client_id.as_deref() == Some(client);
            if is_own && (is_late || !finished.is_told) {
                finished.is_told = true;
                finished
                    .frames(id)
                    .into_iter()
                    .for_each(|frame| outbox.push(frame));
            }
        }
    }

    /// Learns how far off the expected end of a job was.
    pub(super) fn note_error(&mut self, record: &JobRecord, now: Tick) {
        let Some(expected) = record.expected else {
            return;
        };
        let off = now.since(expected).max(expected.since(now));
        let took = Duration::from_millis(unix_millis().saturating_sub(record.created));
        let permille = off.as_millis().saturating_mul(1_000) / took.as_millis().max(1);
        let permille = u64::try_from(permille).unwrap_or(u64::MAX);
        let before = self.error_permille.unwrap_or(permille);
        self.error_permille = Some(before.saturating_mul(7).saturating_add(permille) / 8);
    }
}
