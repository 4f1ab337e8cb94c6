//! A job's task: it carries out what the job's machine asks for, one step after the other.
//!
//! Invariant: the task holds a lease of a server exactly while the machine has the job there, and releases it with what
//! came of the job.

use super::hub::{Hub, JobId};
use super::inputs::Brought;
use super::record::reason;
use super::server::{Answer, Call, CallError, SUBMIT};
use crate::admin::Told;
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::operator_log::target;
use crate::shared::Shared;
use crate::trace::{Attempt, AttemptSpan};
use crate::worker::Worker;
use core::pin::pin;
use core::time::Duration;
use http::{Method, StatusCode};
use leasehold_core::time::Tick;
use leasehold_protocol::comfyui::{
    End, Look, Loss, Queue, QueueItem, Refused, ServerId, Step, Submission, entry_of, judge_refusal,
};
use leasehold_sync::{Lease, Outcome, Release};
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::timeout;

/// The task of one job.
pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: Rc<Worker>,
    pub(super) hub: Arc<Hub>,
    pub(super) id: JobId,
}

/// The lease under which a server has the job.
pub(super) struct Held {
    pub(super) lease: Lease<Backend>,
    pub(super) server: ServerId,
    /// Whether what came of the job's submission says nothing of the server.
    pub(super) is_blameless: bool,
}

impl Held {
    pub(super) fn new(lease: Lease<Backend>, server: ServerId) -> Self {
        Self {
            lease,
            server,
            is_blameless: false,
        }
    }
}

impl Driver {
    /// Drives the job to its end.
    pub(super) async fn run(self) {
        let mut held = self.lease_of_running().await;
        let (mut entry, mut noted, mut withdraws) = (None, 0, false);
        while let Some(todo) = self.hub.step(&self.id) {
            // A loss may come with the next step: no lease is kept while another is waited for.
            self.note_losses(&mut noted);
            self.release_if_gone(&mut held);
            match todo.step {
                None => {
                    let due = todo.due.map(|due| due.since(self.hub.now()));
                    let due = due.unwrap_or(Duration::MAX);
                    // Whether it was woken or is due, the machine says what follows.
                    let _ = timeout(due, todo.wake.notified()).await;
                }
                Some(Step::Acquire) => held = self.acquire(&todo.wake).await,
                Some(Step::Submit(server)) => self.submit(server, held.as_mut()).await,
                Some(Step::Look(server)) => {
                    let withdraws = core::mem::take(&mut withdraws);
                    let looking = async {
                        if withdraws {
                            self.withdraw(server, held.as_ref()).await;
                        }
                        self.look(server, held.as_ref()).await
                    };
                    if let Some((look, found)) = self.while_there(server, looking).await {
                        entry = found.or(entry);
                        self.looked(server, look);
                    }
                }
                // The look that follows shows what came of it.
                Some(Step::Withdraw(server)) => {
                    withdraws = true;
                    self.tell(|record, now| record.machine.look_soon(now, server));
                }
                Some(Step::Finish(end)) => {
                    // What a server said of a job that was taken from it is no end.
                    let entry = entry.filter(|_| matches!(end, End::OnServer(..)));
                    self.finish(end, entry, held.take());
                    return;
                }
            }
        }
    }

    /// Asks a server something, and lets time pass for the job meanwhile; `None` if the job has left the server first.
    async fn while_there<T>(&self, server: ServerId, asking: impl Future<Output = T>) -> Option<T> {
        let mut asking = pin!(asking);
        loop {
            let due = self.tell(|record, now| {
                record.machine.handle_timeout(now);
                let is_there = record.machine.server() == Some(server);
                let due = record.machine.poll_timeout();
                is_there.then(|| due.map_or(Duration::MAX, |due| due.since(now)))
            })??;
            if let Ok(answer) = timeout(due, &mut asking).await {
                return Some(answer);
            }
        }
    }

    fn looked(&self, server: ServerId, look: Look) {
        let client_id = self.client_id(server);
        self.tell(|record, now| {
            // Events of a job go to the client that it was submitted for, which may be no more.
            if look == Look::Running && record.submitted_for != client_id {
                record.machine.progressed(now, server);
            }
            record.machine.looked(now, server, look);
        });
    }

    /// The gateway's client at a server.
    fn client_id(&self, server: ServerId) -> String {
        let state = self.hub.state();
        let known = state.server(server);
        known
            .map(|known| known.client_id.clone())
            .unwrap_or_default()
    }

    pub(super) fn tell<R>(
        &self,
        tell: impl FnOnce(&mut super::record::JobRecord, Tick) -> R,
    ) -> Option<R> {
        self.hub.tell(&self.id, tell)
    }

    pub(super) fn pool(&self) -> Option<Arc<BackendPool>> {
        self.shared.table().pool_named(&self.hub.pool).cloned()
    }

    /// Submits the job to the server under whose lease it is.
    async fn submit(&self, server: ServerId, held: Option<&mut Held>) {
        let Some(held) = held else {
            return;
        };
        let answer = self.post(server, held).await;
        // A job may be one that breaks each server.
        held.is_blameless |= answer == Submission::Faulted;
        if answer == Submission::Accepted {
            self.close_breaker(held);
        }
        self.tell(|record, now| record.machine.answered(now, server, answer));
    }

    /// A server that takes a job works, however long the job lasts: its breaker waits for no end of it.
    fn close_breaker(&self, held: &Held) {
        if let Some(pool) = self.pool() {
            // A pool without breakers has none to close.
            let _ = pool.pool().blocking().reset_breaker(held.lease.member());
        }
    }

    async fn post(&self, server: ServerId, held: &mut Held) -> Submission {
        let backend = &Arc::clone(held.lease.payload());
        let Some(prompt) = self.tell(|record, _| Arc::clone(&record.prompt)) else {
            return Submission::Unsent;
        };
        let Some(call) = self.call(backend) else {
            return Submission::Unsent;
        };
        let mut graph = prompt.graph.clone();
        if let Err(error) = self.bring_inputs(server, &call, &mut graph).await {
            match &error {
                Brought::Call(_) | Brought::Refused(..) => backend.note_failure(&error),
                Brought::Away(..) | Brought::Gone(..) | Brought::Lost(..) | Brought::NotOwn(_) => {
                    held.is_blameless = true;
                }
            }
            return self.judge_files(&error);
        }
        if let Err(error) = self.hub.note_placed(&self.id, backend.name()) {
            tracing::error!(target: target::STATE, "{error}");
            return Submission::Unsent;
        }
        let client_id = self.client_id(server);
        self.tell(|record, _| record.submitted_for.clone_from(&client_id));
        let body = prompt.body_for(&graph, &self.id, &client_id);
        let mut span = self.begin_span(backend);
        let answered = call.submit(&body, span.as_ref()).await;
        match (&mut span, &answered) {
            (None, _) => {}
            (Some(span), Ok(answer)) => span.answered(answer.status),
            (Some(span), Err(error)) => span.failed("no_answer", error),
        }
        match answered {
            Ok(answer) => self.judge(server, &graph, &answer),
            Err(CallError::Unsent(error)) => {
                backend.note_failure(&error);
                Submission::Unsent
            }
            Err(CallError::Unsure(error)) => {
                backend.note_failure(&error);
                Submission::Unsure
            }
        }
    }

    /// Begins the span of a submission, if spans are exported.
    fn begin_span(&self, backend: &Backend) -> Option<AttemptSpan> {
        let (parent, lost) = self.tell(|record, _| {
            let lost = record.machine.lost_at().len();
            (
                record.parent.clone(),
                u32::try_from(lost).unwrap_or(u32::MAX),
            )
        })?;
        let attempt = Attempt {
            pool: &self.hub.pool,
            backend,
            method: &Method::POST,
            path: SUBMIT,
            model: None,
        };
        Some(parent?.attempt(&attempt, lost.saturating_add(1)))
    }

    /// Says what a server's answer to a submission means.
    fn judge(
        &self,
        server: ServerId,
        graph: &serde_json::Map<String, Value>,
        answer: &Answer,
    ) -> Submission {
        let mut body = answer.json();
        if answer.is_ok() {
            self.note_part(server, graph, &body);
            return Submission::Accepted;
        }
        if matches!(answer.status.as_u16(), 502..=504) {
            // What stands before the server has no answer of it.
            return Submission::Unsure;
        }
        let refused = match answer.status {
            StatusCode::BAD_REQUEST => judge_refusal(graph, &body),
            StatusCode::PAYLOAD_TOO_LARGE => Refused::Everywhere,
            _ => Refused::Here(Vec::new()),
        };
        if !body["error"].is_object() {
            let text = format!("the server answered with status {}", answer.status);
            body = refusal_body("refused", &text);
        }
        self.tell(|record, _| record.refusal = Some(body));
        if answer.status.is_server_error() {
            return Submission::Faulted;
        }
        match refused {
            Refused::Here(lacks) => {
                if let Some(known) = self.hub.state().servers.get_mut(server) {
                    known.learn_lacks(lacks);
                    // It may have lost files that were brought to it.
                    known.uploads.clear();
                }
                Submission::RefusedHere
            }
            Refused::Everywhere => Submission::RefusedEverywhere,
        }
    }

    /// Notes what a server that has accepted the job does not run of it.
    fn note_part(&self, server: ServerId, graph: &serde_json::Map<String, Value>, body: &Value) {
        let errors = body["node_errors"].as_object();
        if errors.is_none_or(serde_json::Map::is_empty) {
            return;
        }
        if let Refused::Here(lacks) = judge_refusal(graph, body)
            && let Some(known) = self.hub.state().servers.get_mut(server)
        {
            known.learn_lacks(lacks);
            // It may have lost files that were brought to it.
            known.uploads.clear();
        }
        self.tell(|record, _| record.node_errors = Some(body["node_errors"].clone()));
    }

    /// Says what a file that could not be brought means for the job.
    fn judge_files(&self, error: &Brought) -> Submission {
        let submission = match error {
            // It can be brought again.
            Brought::Call(_) | Brought::Away(..) => return Submission::Unsent,
            Brought::Gone(..) => Submission::Faulted,
            Brought::Lost(..) | Brought::NotOwn(_) => Submission::RefusedEverywhere,
            Brought::Refused(..) => Submission::RefusedHere,
        };
        self.tell(|record, _| record.refusal = Some(refusal_body("no_file", &error.to_string())));
        submission
    }

    /// Looks for the job in a server's history and queue.
    async fn look(&self, server: ServerId, held: Option<&Held>) -> (Look, Option<Value>) {
        let Some(backend) = self.backend(server, held) else {
            return (Look::NoAnswer, None);
        };
        let Some(call) = self.call(&backend) else {
            return (Look::NoAnswer, None);
        };
        let looked = look_for(&call, &self.id, |other| self.hub.has_left(other, server)).await;
        if let Err(error) = &looked {
            backend.note_failure(error);
        }
        looked.unwrap_or((Look::NoAnswer, None))
    }

    /// Takes the job out of a server's queue, and interrupts it if it runs.
    async fn withdraw(&self, server: ServerId, held: Option<&Held>) {
        let Some(backend) = self.backend(server, held) else {
            return;
        };
        let Some(call) = self.call(&backend) else {
            return;
        };
        let _ = call
            .post_json("/queue", &json!({"delete": [&*self.id]}))
            .await;
        let _ = call
            .post_json("/interrupt", &json!({"prompt_id": &*self.id}))
            .await;
    }

    fn finish(&self, end: End, entry: Option<Value>, held: Option<Held>) {
        let took = self.tell(|record, now| record.begun_at.map(|begun| now.since(begun)));
        if let Some(held) = held {
            let mut release = Release::from(match end {
                End::OnServer(..) | End::Refused | End::Cancelled => Outcome::Ok,
                End::Lost(_) => Outcome::Failed,
            });
            if let (End::OnServer(..), Some(Some(took))) = (end, took) {
                release = release.latency(took);
            }
            // A lease that has expired meanwhile was taken back already.
            let _ = held.lease.release(release);
        }
        if let End::Lost(loss) = end {
            let (pool, id) = (&self.hub.pool, &self.id);
            let why = reason(loss);
            tracing::warn!(
                target: target::COMFYUI,
                pool = &**pool,
                "job {id} has failed: {why}, once too often"
            );
        }
        if let Err(error) = self.hub.finish(&self.id, end, entry) {
            tracing::error!(target: target::STATE, "{error}");
        }
    }

    /// Tells of losses that are new, and writes them down.
    fn note_losses(&self, noted: &mut usize) {
        let lost = self.tell(|record, _| record.machine.lost_at().to_vec());
        let lost = lost.unwrap_or_default();
        for (server, loss) in lost.iter().skip(*noted) {
            self.note_lost(*server, *loss);
        }
        *noted = lost.len();
    }

    fn note_lost(&self, server: ServerId, loss: Loss) {
        let name = {
            let mut state = self.hub.state();
            if let Some(known) = state.servers.get_mut(server) {
                known.note_copy(&self.id);
            }
            state.servers.name(server).unwrap_or_default()
        };
        let (pool, id) = (&self.hub.pool, &self.id);
        let why = reason(loss);
        tracing::warn!(
            target: target::COMFYUI,
            pool = &**pool,
            member = &*name,
            "job {id} is lost there: {why}"
        );
        if let Some(pool) = self.pool() {
            self.shared.events().tell(&pool, &name, Told::JobLost);
        }
        if let Err(error) = self.hub.note_lost(&self.id) {
            tracing::error!(target: target::STATE, "{error}");
        }
    }

    /// Gives a lease back whose server no longer has the job, which is not over.
    fn release_if_gone(&self, held: &mut Option<Held>) {
        let now_at = self.tell(|record, _| {
            let refused = record.machine.refused_by().last().copied();
            let lost = record.machine.lost_at().last().map(|(_, loss)| *loss);
            let is_over = record.machine.end().is_some();
            (record.machine.server(), refused, lost, is_over)
        });
        let Some((server, refused, lost, is_over)) = now_at else {
            return;
        };
        let is_gone = |held: &mut Held| !is_over && server != Some(held.server);
        if let Some(gone) = held.take_if(|held| is_gone(held)) {
            let outcome = match lost {
                _ if refused == Some(gone.server) => Outcome::NotSent,
                _ if gone.is_blameless => Outcome::Unknown,
                // A restart says nothing of the server that is there now.
                Some(Loss::Forgotten) => Outcome::Unknown,
                Some(Loss::Silent | Loss::DeadWorker | Loss::Stalled) | None => Outcome::Failed,
            };
            let _ = gone.lease.release(outcome);
            if let Err(error) = self.hub.note_returned(&self.id) {
                tracing::error!(target: target::STATE, "{error}");
            }
        }
    }

    pub(super) fn backend(&self, server: ServerId, held: Option<&Held>) -> Option<Arc<Backend>> {
        if let Some(held) = held.filter(|held| held.server == server) {
            return Some(Arc::clone(held.lease.payload()));
        }
        let (pool, name) = (self.pool()?, self.hub.state().servers.name(server)?);
        backend_named(&pool, &name)
    }

    pub(super) fn call<'a>(&'a self, backend: &'a Arc<Backend>) -> Option<Call<'a>> {
        Some(Call {
            worker: &self.worker,
            backend,
            bounds: self.pool()?.settings().upstream,
        })
    }
}

/// The body of a refusal that is not in a server's own words.
fn refusal_body(kind: &str, text: &str) -> Value {
    json!({"error": {"type": kind, "message": text, "details": ""}, "node_errors": {}})
}

/// Looks for a job: in the history, in the queue, and in the history again, which it may have reached meanwhile.
///
/// `is_left` tells of a job that the gateway has taken from the server: if it still runs there, nothing does.
async fn look_for(
    call: &Call<'_>,
    id: &str,
    is_left: impl Fn(&str) -> bool,
) -> Result<(Look, Option<Value>), CallError> {
    let path = format!("/history/{id}");
    if let Some(found) = ended(&call.get(&path).await?, id)? {
        return Ok(found);
    }
    let queue = call.get("/queue").await?;
    let queue = Queue::read(&queue.json()).ok_or_else(|| unread(&queue))?;
    let has = |items: &[QueueItem]| items.iter().any(|item| item.id == id);
    if has(&queue.running) {
        return Ok((Look::Running, None));
    }
    if has(&queue.pending) {
        let is_idle = queue.running.iter().all(|item| is_left(&item.id));
        return Ok((Look::Waiting { is_idle }, None));
    }
    let found = ended(&call.get(&path).await?, id)?;
    Ok(found.unwrap_or((Look::Absent, None)))
}

fn ended(answer: &Answer, id: &str) -> Result<Option<(Look, Option<Value>)>, CallError> {
    let history = answer.json();
    if !answer.is_ok() || !history.is_object() {
        return Err(unread(answer));
    }
    let entry = entry_of(&history, id);
    Ok(entry.map(|entry| (Look::Ended(entry.ended), Some(entry.value))))
}

fn unread(answer: &Answer) -> CallError {
    let length = answer.body.len();
    CallError::Unsure(format!(
        "its answer of {length} bytes with status {} can't be read",
        answer.status
    ))
}

/// Returns the backend of a member.
pub(super) fn backend_named(pool: &BackendPool, name: &str) -> Option<Arc<Backend>> {
    let members = pool.pool().blocking().members();
    let found = members
        .into_iter()
        .find(|(_, backend)| backend.name() == name);
    found.map(|(_, backend)| backend)
}
