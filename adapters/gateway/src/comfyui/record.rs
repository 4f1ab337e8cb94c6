//! A job as the gateway keeps it, and what its caller is shown when it comes back to it.

use super::hub::NewJob;
use super::outbox::{Latest, Outbox};
use super::submit::Choice;
use crate::trace::Parent;
use bytes::Bytes;
use core::time::Duration;
use leasehold_core::time::Tick;
use leasehold_protocol::comfyui::{End, Ended, EventKind, Job, Loss, Prompt, failed_entry};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// Bytes of the outputs of a job that a client is told of at its return.
const MAX_OUTPUTS: usize = 1 << 20;

/// A job that has not ended.
#[derive(Debug)]
pub(super) struct JobRecord {
    pub(super) prompt: Arc<Prompt>,
    /// Bytes of its prompt in memory.
    pub(super) bytes: usize,
    /// The caller that it belongs to.
    pub(super) owner: u64,
    /// Its place among all jobs that were ever accepted.
    pub(super) sequence: u64,
    /// The servers that its caller prefers.
    pub(super) choice: Choice,
    /// The span above its own, if spans are exported.
    pub(super) parent: Option<Parent>,
    /// Milliseconds since 1970.
    pub(super) created: u64,
    /// When it was last begun by a server, in milliseconds since 1970.
    pub(super) begun: Option<u64>,
    /// The same, as a tick.
    pub(super) begun_at: Option<Tick>,
    pub(super) machine: Job,
    /// The gateway's client at the server that has it.
    pub(super) submitted_for: String,
    /// Wakes the task that drives it.
    pub(super) wake: Arc<Notify>,
    pub(super) replay: Replay,
    /// What the last server that has refused it said.
    pub(super) refusal: Option<Value>,
    /// How often earlier processes have lost it.
    pub(super) lost_before: u32,
    /// The errors of those nodes that its server does not run.
    pub(super) node_errors: Option<Value>,
    /// The place in line that its client was told last.
    pub(super) told_place: Option<usize>,
    /// When it was expected to end, as its caller was told first.
    pub(super) expected: Option<Tick>,
}

/// A job that has ended.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    pub(super) owner: u64,
    pub(super) client_id: Option<String>,
    /// The server whose history has it, if one has.
    pub(super) server: Option<String>,
    pub(super) status: &'static str,
    pub(super) created: u64,
    pub(super) begun: Option<u64>,
    pub(super) ended: u64,
    /// Whether a socket of its client was there when it ended.
    pub(super) is_told: bool,
    /// The entry of the history.
    pub(super) entry: Value,
    /// Bytes of the entry in memory.
    pub(super) bytes: usize,
}

/// The frames that tell how far a job has come.
#[derive(Debug, Default)]
pub(super) struct Replay {
    begun: Vec<Utf8Bytes>,
    outputs: Vec<Utf8Bytes>,
    outputs_bytes: usize,
    state: Option<Utf8Bytes>,
    executing: Option<Utf8Bytes>,
    preview: Option<Bytes>,
}

impl JobRecord {
    /// Makes the record of a job that no server has begun.
    pub(super) fn new(asked: NewJob, sequence: u64, created: u64, machine: Job) -> Self {
        Self {
            bytes: bytes_of_prompt(&asked.prompt),
            prompt: Arc::new(asked.prompt),
            owner: asked.owner,
            sequence,
            choice: asked.choice,
            parent: asked.parent,
            created,
            begun: None,
            begun_at: None,
            machine,
            submitted_for: String::new(),
            wake: Arc::default(),
            replay: Replay::default(),
            refusal: None,
            lost_before: 0,
            node_errors: None,
            told_place: None,
            expected: None,
        }
    }

    /// Whether it runs, is at a server, or waits for one: in a word.
    pub(super) fn status(&self) -> &'static str {
        match (self.machine.is_running(), self.machine.server()) {
            (true, _) => "running",
            (false, Some(_)) => "at_server",
            (false, None) => "waiting",
        }
    }

    /// The item that lists of jobs show.
    pub(super) fn item(&self, id: &str) -> Value {
        self.prompt.item(self.number(), id)
    }

    /// Its number in the line, as servers give them.
    #[expect(clippy::cast_precision_loss, reason = "numbers of jobs are below 2^53")]
    pub(super) fn number(&self) -> f64 {
        let sequence = self.sequence as f64;
        match (self.prompt.number, self.prompt.is_front) {
            (Some(number), _) => number,
            (None, true) => -sequence,
            (None, false) => sequence,
        }
    }

    /// What decides which of two waiting jobs goes first.
    pub(super) fn order(&self) -> (u8, u64) {
        (self.prompt.priority(), self.sequence)
    }
}

impl Replay {
    /// Keeps a frame of an event, and returns what of it only the latest matters as.
    pub(super) fn note(
        &mut self,
        kind: EventKind,
        name: &str,
        frame: &Utf8Bytes,
    ) -> Option<Latest> {
        match (kind, name) {
            (_, "execution_start") => {
                *self = Self::default();
                self.begun.push(frame.clone());
            }
            (_, "execution_cached") => self.begun.push(frame.clone()),
            (EventKind::Executed, _) => {
                self.outputs_bytes = self.outputs_bytes.saturating_add(frame.len());
                if self.outputs_bytes <= MAX_OUTPUTS {
                    self.outputs.push(frame.clone());
                }
            }
            (_, "executing") => self.executing = Some(frame.clone()),
            (_, "progress_state") => {
                self.state = Some(frame.clone());
                return Some(Latest::ProgressState);
            }
            (_, "progress") => return Some(Latest::Progress),
            (EventKind::Progress | EventKind::Over, _) => {}
        }
        None
    }

    pub(super) fn note_preview(&mut self, frame: Bytes) {
        self.preview = Some(frame);
    }

    /// The frame of the last preview.
    pub(super) fn preview(&self) -> Option<&Bytes> {
        self.preview.as_ref()
    }

    /// Tells a socket how far the job has come.
    pub(super) fn tell(&self, outbox: &Outbox) {
        let frames = self.begun.iter().chain(&self.outputs);
        frames.for_each(|frame| outbox.push(frame.clone()));
        if let Some(state) = &self.state {
            outbox.push_latest(Latest::ProgressState, state.clone());
        }
        if let Some(executing) = &self.executing {
            outbox.push(executing.clone());
        }
        if let Some(preview) = &self.preview {
            outbox.push_preview(preview);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Finished {
    /// The frames by which a caller is told that the job is over.
    pub(super) fn frames(&self, id: &str) -> [Utf8Bytes; 2] {
        let messages = self.entry["status"]["messages"].as_array();
        let terminal = messages.into_iter().flatten().rev().find(|message| {
            let name = message[0].as_str().unwrap_or_default();
            [
                "execution_success",
                "execution_error",
                "execution_interrupted",
            ]
            .contains(&name)
        });
        let (name, data) = match terminal {
            Some(message) => (message[0].clone(), message[1].clone()),
            None => {
                let name = match self.status {
                    "completed" => "execution_success",
                    _ => "execution_error",
                };
                let data = json!({"prompt_id": id, "timestamp": self.ended});
                (Value::from(name), data)
            }
        };
        let over = json!({"node": null, "display_node": null, "prompt_id": id});
        [
            json!({"type": name, "data": data}),
            json!({"type": "executing", "data": over}),
        ]
        .map(|frame| frame.to_string().into())
    }
}

/// The word for a job's end in lists of jobs.
pub(super) fn status_of(end: End) -> &'static str {
    match end {
        End::OnServer(_, Ended::Succeeded) => "completed",
        End::OnServer(_, Ended::Interrupted) | End::Cancelled => "cancelled",
        End::OnServer(_, Ended::Failed) | End::Refused | End::Lost(_) => "failed",
    }
}

/// Why a job is no longer on a server, in words.
pub(super) fn reason(loss: Loss) -> &'static str {
    match loss {
        Loss::Forgotten => "the server was restarted and has forgotten it",
        Loss::Silent => "the server gave no sign any more",
        Loss::DeadWorker => "the server ran no jobs any more",
        Loss::Stalled => "it made no progress there",
    }
}

/// Makes the history's entry of a job that no server has ended.
pub(super) fn entry_without_server(record: &JobRecord, id: &str, end: End, now: u64) -> Value {
    let item = record.item(id);
    let (kind, message) = match end {
        End::Cancelled => {
            let data = json!({
                "prompt_id": id, "node_id": null, "node_type": null, "executed": [], "timestamp": now,
            });
            return failed_entry(item, "execution_interrupted", data);
        }
        End::Lost(loss) => (
            "JobLost",
            format!("the job was lost twice: {}", reason(loss)),
        ),
        End::Refused => ("JobRefused", refusal_text(record)),
        // A server's history has the entry.
        End::OnServer(..) => ("JobEnded", String::new()),
    };
    let (node_id, node_type) = first_wrong_node(record);
    let data = json!({
        "prompt_id": id, "node_id": node_id, "node_type": node_type, "executed": [],
        "exception_message": message, "exception_type": kind, "traceback": [],
        "current_inputs": {}, "current_outputs": [], "timestamp": now,
    });
    failed_entry(item, "execution_error", data)
}

fn refusal_text(record: &JobRecord) -> String {
    let told = record.refusal.as_ref().map(|refusal| {
        let error = &refusal["error"];
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        format!("{}: {}", text("message"), text("details"))
    });
    told.unwrap_or_else(|| "no server takes the job".to_owned())
}

/// The node that a refusal is about, if it is about one.
fn first_wrong_node(record: &JobRecord) -> (Value, Value) {
    let Some(refusal) = &record.refusal else {
        return (Value::Null, Value::Null);
    };
    let nodes = refusal["node_errors"].as_object();
    match nodes.and_then(|nodes| nodes.iter().next()) {
        Some((id, error)) => (id.as_str().into(), error["class_type"].clone()),
        None => {
            let info = &refusal["error"]["extra_info"];
            (info["node_id"].clone(), info["class_type"].clone())
        }
    }
}

fn bytes_of_prompt(prompt: &Prompt) -> usize {
    let fields = prompt.graph.iter().chain(&prompt.extra_data);
    fields.fold(0, |sum, (name, value)| {
        sum.saturating_add(name.len())
            .saturating_add(bytes_of(value))
    })
}

/// The bytes that a value takes in memory, about.
pub(super) fn bytes_of(value: &Value) -> usize {
    let own = size_of::<Value>();
    let inner = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(bytes_of).fold(0, usize::saturating_add),
        Value::Object(fields) => fields.iter().fold(0_usize, |sum, (name, value)| {
            // A name, its hash and its place beside the value.
            let entry = bytes_of(value)
                .saturating_add(name.len())
                .saturating_add(own);
            sum.saturating_add(entry)
        }),
    };
    own.saturating_add(inner)
}

/// Milliseconds of a span, as lists of jobs tell them.
pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
