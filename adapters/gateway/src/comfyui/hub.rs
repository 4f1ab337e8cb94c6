//! The queue of a pool of ComfyUI servers: its jobs, what is known of its servers, and its callers' sockets.
//!
//! Invariant: what decides a job's way is its machine in `leasehold-protocol`; this file keeps the machines, carries
//! events to them and tells callers of what came of it. A job is in the journal before its caller is told of it.

use super::journal::{Journal, JournalError, Line, Recovered};
use super::outbox::Outbox;
use super::record::{Finished, JobRecord, bytes_of, entry_without_server, status_of};
use super::state::State;
use super::submit::Choice;
use super::uploads::Uploads;
use crate::lock;
use crate::state::unix_millis;
use crate::trace::Parent;
use core::sync::atomic::{AtomicU64, Ordering};
use leasehold_config::PoolSettings;
use leasehold_core::time::Tick;
use leasehold_protocol::comfyui::{
    End, Job, JobConfig, ServerFrame, ServerId, StatusFrame, Step, map_files,
};
use leasehold_protocol::comfyui::{Preview, Prompt};
use leasehold_sync::Clock;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// The id of a job.
pub(super) type JobId = Arc<str>;

/// The queue of one pool.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(super) pool: String,
    clock: Clock,
    pub(super) uploads: Uploads,
    state: Mutex<State>,
    begun: mpsc::UnboundedSender<JobId>,
    to_begin: Mutex<Option<mpsc::UnboundedReceiver<JobId>>>,
    journal: Option<Journal>,
    lost: AtomicU64,
    /// The descriptions of nodes of all servers, and those that they were made of.
    pub(super) merged: Mutex<Option<(Vec<bytes::Bytes>, bytes::Bytes)>>,
}

/// A job that its caller asks for.
#[derive(Debug)]
pub(super) struct NewJob {
    pub(super) prompt: Prompt,
    pub(super) owner: u64,
    pub(super) choice: Choice,
    /// The span above its own, if spans are exported.
    pub(super) parent: Option<Parent>,
}

/// What the task that drives a job does next.
pub(super) struct Todo {
    pub(super) step: Option<Step>,
    pub(super) due: Option<Tick>,
    pub(super) wake: Arc<Notify>,
}

impl Hub {
    /// Opens the queue of a pool, with the jobs that an earlier process has left in its journal.
    pub(super) fn open(
        settings: &PoolSettings,
        directory: Option<&Path>,
    ) -> Result<Self, JournalError> {
        let journal = directory.map(|directory| Journal::open(directory, &settings.name));
        let (journal, recovered) = match journal.transpose()? {
            Some((journal, recovered)) => (Some(journal), recovered),
            None => (None, Recovered::default()),
        };
        let uploads = Uploads::open(directory, &settings.name, settings.comfyui.max_uploads)?;
        let (begun, to_begin) = mpsc::unbounded_channel();
        let hub = Self {
            pool: settings.name.clone(),
            clock: Clock::start(),
            uploads,
            state: Mutex::default(),
            begun,
            to_begin: Mutex::new(Some(to_begin)),
            journal,
            lost: AtomicU64::new(0),
            merged: Mutex::default(),
        };
        hub.configure(settings);
        hub.recover(recovered);
        hub.compact(&hub.state())?;
        Ok(hub)
    }

    /// Puts a pool's settings in force.
    pub(super) fn configure(&self, settings: &PoolSettings) {
        let comfyui = &settings.comfyui;
        let mut state = self.state();
        state.config = JobConfig {
            poll: comfyui.poll,
            lost_after: comfyui.lost_after,
            stalled_after: comfyui.stalled_after,
            idle_after: comfyui.idle_after,
            ..JobConfig::default()
        };
        state.max_finished = usize::try_from(comfyui.max_history).unwrap_or(usize::MAX);
        if !state.is_verbose_set {
            state.is_verbose = comfyui.verbose;
        }
        for member in &settings.members {
            state.servers.number(&member.name);
        }
    }

    fn recover(&self, recovered: Recovered) {
        let now = self.now();
        let mut state = self.state();
        state.sequence = recovered.sequence;
        for (id, finished) in recovered.finished {
            state.add_finished(&id, finished);
        }
        for (id, mut job) in recovered.jobs {
            let config = state.config.after_losses(job.lost);
            let machine = match job.server {
                Some(name) => {
                    let server = state.servers.number(&name);
                    Job::placed(config, now, server)
                }
                None => Job::new(config),
            };
            let is_brought = |text: &str| self.uploads.referred(job.owner, text).is_some();
            job.prompt.note_files(is_brought);
            let asked = NewJob {
                prompt: job.prompt,
                owner: job.owner,
                choice: job.choice,
                // The trace of an earlier process is not on file.
                parent: None,
            };
            let mut record = JobRecord::new(asked, job.sequence, job.created, machine);
            record.lost_before = job.lost;
            state.add_job(&id, record);
            let _ = self.begun.send(id);
        }
    }

    /// Switches full reports on or off, whatever the settings say.
    pub(crate) fn set_verbose(&self, is_verbose: bool) {
        let mut state = self.state();
        (state.is_verbose, state.is_verbose_set) = (is_verbose, true);
    }

    /// The jobs whose tasks are to begin; `None` if they were asked for before.
    pub(super) fn to_begin(&self) -> Option<mpsc::UnboundedReceiver<JobId>> {
        lock(&self.to_begin).take()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn now(&self) -> Tick {
        self.clock.now()
    }

    /// Accepts a job: from here on it is not lost.
    pub(super) fn accept(&self, new: NewJob) -> Result<(JobId, f64), JournalError> {
        let mut state = self.state();
        let id: JobId = match &new.prompt.id {
            Some(id) => id.as_str().into(),
            None => uuid::Uuid::new_v4().to_string().into(),
        };
        if let Some(known) = state.jobs.get(&id) {
            // A caller that has not heard the answer asks again.
            return Ok((id, known.number()));
        }
        if let Some(finished) = state.finished.get(&id) {
            let number = finished.entry["prompt"][0].as_f64();
            return Ok((id, number.unwrap_or_default()));
        }
        state.sequence = state.sequence.saturating_add(1);
        let machine = Job::new(state.config);
        let record = JobRecord::new(new, state.sequence, unix_millis(), machine);
        if let Some(journal) = &self.journal {
            journal.write(&Line::accepted(&id, &record))?;
        }
        let number = record.number();
        state.add_job(&id, record);
        state.tell_status();
        drop(state);
        let _ = self.begun.send(Arc::clone(&id));
        Ok((id, number))
    }

    /// Returns what a job's task does next; `None` once the job is over.
    pub(super) fn step(&self, id: &JobId) -> Option<Todo> {
        let now = self.now();
        let mut state = self.state();
        let record = state.jobs.get_mut(id)?;
        record.machine.handle_timeout(now);
        Some(Todo {
            step: record.machine.poll_step(now),
            due: record.machine.poll_timeout(),
            wake: Arc::clone(&record.wake),
        })
    }

    /// Lets a job's machine know something; returns `None` once the job is over.
    pub(super) fn tell<R>(
        &self,
        id: &JobId,
        tell: impl FnOnce(&mut JobRecord, Tick) -> R,
    ) -> Option<R> {
        let now = self.now();
        self.state()
            .jobs
            .get_mut(id)
            .map(|record| tell(record, now))
    }

    /// Notes where a job is about to be submitted.
    pub(super) fn note_placed(&self, id: &JobId, server: &str) -> Result<(), JournalError> {
        self.write(|| Line::placed(id, server))
    }

    /// Notes that a job was lost with its server, and is to be done again.
    pub(super) fn note_lost(&self, id: &JobId) -> Result<(), JournalError> {
        self.tell(id, |record, _| record.replay.clear());
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.write(|| Line::lost(id))
    }

    /// The jobs that were lost with their servers since the gateway began, each time.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Notes that a job is at no server any more, without having been lost.
    pub(super) fn note_returned(&self, id: &JobId) -> Result<(), JournalError> {
        self.write(|| Line::returned(id))
    }

    fn write(&self, line: impl FnOnce() -> Line) -> Result<(), JournalError> {
        match &self.journal {
            Some(journal) => journal.write(&line()),
            None => Ok(()),
        }
    }

    /// Ends a job: its entry joins the history, and its client is told.
    pub(super) fn finish(
        &self,
        id: &JobId,
        end: End,
        entry: Option<Value>,
    ) -> Result<(), JournalError> {
        let now = unix_millis();
        let mut state = self.state();
        let Some(record) = state.remove_job(id) else {
            return Ok(());
        };
        let server = match end {
            End::OnServer(server, _) => state.servers.name(server),
            End::Refused | End::Cancelled | End::Lost(_) => None,
        };
        let mut entry = entry.unwrap_or_else(|| entry_without_server(&record, id, end, now));
        if let Some(server) = &server {
            name_files(&mut entry, server);
        }
        // The caller's own client and extra data stand in place of the gateway's.
        entry["prompt"] = record.item(id);
        let finished = Finished {
            owner: record.owner,
            client_id: record.prompt.client_id.clone(),
            server,
            status: status_of(end),
            created: record.created,
            begun: record.begun,
            ended: now,
            is_told: false,
            bytes: bytes_of(&entry),
            entry,
        };
        state.note_error(&record, self.now());
        let written = self.write(|| Line::ended(id, &finished));
        let finished = state.tell_end(id, finished);
        state.add_finished(id, finished);
        self.compact(&state)?;
        written
    }

    /// Forgets entries of the history.
    pub(super) fn forget(
        &self,
        is_one: impl Fn(&JobId, &Finished) -> bool,
    ) -> Result<(), JournalError> {
        let mut state = self.state();
        let gone: Vec<JobId> = state
            .finished
            .iter()
            .filter(|(id, finished)| is_one(id, finished))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        for id in gone {
            state.remove_finished(&id);
            self.write(|| Line::forgotten(&id))?;
        }
        Ok(())
    }

    /// Writes the journal anew once most of it is of jobs that are over.
    fn compact(&self, state: &State) -> Result<(), JournalError> {
        match &self.journal {
            Some(journal) => {
                journal.compact(&state.jobs, &state.finished, state.sequence, &state.servers)
            }
            None => Ok(()),
        }
    }

    /// Takes jobs back; those that run are interrupted.
    pub(super) fn cancel(&self, is_one: impl Fn(&JobId, &JobRecord) -> bool) -> usize {
        let now = self.now();
        let mut state = self.state();
        let mut count = 0_usize;
        for (id, record) in &mut state.jobs {
            if is_one(id, record) {
                record.machine.cancel(now);
                record.wake.notify_one();
                count = count.saturating_add(1);
            }
        }
        count
    }

    /// Passes a server's text frame on to the client that it is for.
    pub(super) fn heard(&self, server: ServerId, text: &str) {
        let now = self.now();
        match ServerFrame::read(text) {
            ServerFrame::Status(StatusFrame { remaining }) => {
                let mut state = self.state();
                if let Some(known) = state.servers.get_mut(server) {
                    known.remaining = Some(remaining);
                }
            }
            ServerFrame::Event(event) => self.state().pass_on(now, server, event),
            ServerFrame::Unnamed(frame) => self.state().pass_on_unnamed(server, &frame),
            ServerFrame::Features(features) => {
                if let Some(known) = self.state().servers.get_mut(server) {
                    known.features = Some(features);
                }
            }
            ServerFrame::Other => {}
        }
    }

    /// Passes a preview on to the client whose job it is of.
    pub(super) fn pictured(&self, server: ServerId, frame: bytes::Bytes) {
        let now = self.now();
        let mut state = self.state();
        let preview = Preview::read(&frame);
        let is_preview = preview.is_some();
        let named = preview.and_then(|preview| preview.prompt_id());
        let id = match named {
            Some(id) => Some(JobId::from(id)),
            None => state.running_at(server),
        };
        let Some(record) = id.and_then(|id| state.jobs.get_mut(&id)) else {
            return;
        };
        if record.machine.server() != Some(server) {
            return;
        }
        record.machine.progressed(now, server);
        if is_preview {
            record.replay.note_preview(frame.clone());
        }
        let client = record.prompt.client_id.clone();
        for socket in client
            .iter()
            .filter_map(|client| state.sockets.get(client))
            .flatten()
        {
            match is_preview {
                true => socket.push_preview(&frame),
                false => socket.push_binary(frame.clone()),
            }
        }
    }

    /// Something has happened at a server: its jobs are looked for soon.
    pub(super) fn look_at(&self, server: ServerId) {
        let now = self.now();
        for record in self.state().jobs.values_mut() {
            if record.machine.server() == Some(server) {
                record.machine.look_soon(now, server);
                record.wake.notify_one();
            }
        }
    }

    /// Whether a job of the gateway is over, or at another server by now.
    pub(super) fn is_elsewhere(&self, id: &str, server: ServerId) -> bool {
        let state = self.state();
        let is_at_other =
            |record: &JobRecord| record.machine.server().is_some_and(|at| at != server);
        state.jobs.get(id).is_some_and(is_at_other) || state.finished.contains_key(id)
    }

    /// Whether a job of the gateway is over, or not at this server any more.
    pub(super) fn has_left(&self, id: &str, server: ServerId) -> bool {
        let state = self.state();
        let is_elsewhere = |record: &JobRecord| record.machine.server() != Some(server);
        state.jobs.get(id).is_some_and(is_elsewhere) || state.finished.contains_key(id)
    }

    /// Adds a client's socket, and tells it how its jobs stand.
    pub(super) fn join(&self, client: &str, outbox: &Arc<Outbox>) {
        let mut state = self.state();
        let first = StatusFrame {
            remaining: state.remaining(),
        };
        outbox.push(first.text(Some(client)).into());
        state.tell_ends_again(client, outbox);
        let mut jobs: Vec<&JobRecord> = state.jobs.values().collect();
        jobs.retain(|record| record.prompt.client_id.as_deref() == Some(client));
        jobs.sort_unstable_by_key(|record| record.sequence);
        jobs.iter().for_each(|record| record.replay.tell(outbox));
        let sockets = state.sockets.entry(client.to_owned()).or_default();
        sockets.push(Arc::clone(outbox));
    }

    /// The jobs whose place in line has changed, and that have a client which wants to know.
    pub(super) fn moved(&self) -> Vec<JobId> {
        let mut state = self.state();
        let wants = |record: &&JobRecord| {
            let client = record.prompt.client_id.as_deref();
            let sockets = client.and_then(|client| state.sockets.get(client));
            sockets
                .into_iter()
                .flatten()
                .any(|socket| socket.takes_places())
        };
        let waits = |record: &JobRecord| record.machine.server().is_none();
        let asked = state
            .jobs
            .iter()
            .filter(|(_, record)| waits(record) && wants(record));
        let places: Vec<(JobId, usize)> = asked
            .map(|(id, record)| (Arc::clone(id), state.ahead_of(record)))
            .collect();
        let mut moved = Vec::new();
        for (id, place) in places {
            if let Some(record) = state.jobs.get_mut(&id)
                && record.told_place.replace(place) != Some(place)
            {
                moved.push(id);
            }
        }
        moved
    }

    /// Tells the client of a job something that only clients which asked for it know.
    pub(super) fn tell_place(&self, id: &JobId, place: &Value) {
        let frame = json!({"type": "leasehold_place", "data": place}).to_string();
        let (state, frame) = (self.state(), Utf8Bytes::from(frame));
        let client = state
            .jobs
            .get(id)
            .and_then(|record| record.prompt.client_id.as_deref());
        let sockets = client.and_then(|client| state.sockets.get(client));
        for socket in sockets
            .into_iter()
            .flatten()
            .filter(|socket| socket.takes_places())
        {
            socket.push(frame.clone());
        }
    }

    /// Removes a client's socket.
    pub(super) fn leave(&self, client: &str, outbox: &Arc<Outbox>) {
        let mut state = self.state();
        if let Some(sockets) = state.sockets.get_mut(client) {
            sockets.retain(|other| !Arc::ptr_eq(other, outbox));
            if sockets.is_empty() {
                state.sockets.remove(client);
            }
        }
    }

    /// Ends the journal in order.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        match &self.journal {
            Some(journal) => journal.sync(),
            None => Ok(()),
        }
    }
}

/// Names the server in the folders of the files of a value.
pub(super) fn name_files(value: &mut Value, server: &str) {
    map_files(value, &mut |folder, _| match folder {
        "" => format!("@{server}"),
        folder => format!("@{server}/{folder}"),
    });
}
