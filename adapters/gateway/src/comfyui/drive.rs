//! A job's task: it carries out what the job's machine asks for, one step after the other.
//!
//! Invariant: the task holds a lease of a server exactly while the machine has the job there, and releases it with what
//! came of the job.

use super::files::Brought;
use super::hub::{Hub, JobId};
use super::record::reason;
use super::server::{Answer, Call, CallError};
use crate::admin::Told;
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::shared::Shared;
use crate::worker::Worker;
use core::time::Duration;
use http::StatusCode;
use leasehold_config::MemberSettings;
use leasehold_core::balance::stable_hash;
use leasehold_core::time::Tick;
use leasehold_protocol::comfyui::{
    End, Look, Loss, Queue, QueueItem, Refused, ServerId, Step, Submission, entry_of,
    judge_refusal, replace_inputs,
};
use leasehold_sync::{AcquireError, Lease, MemberId, Outcome, Release, Request};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::{sleep, timeout};

/// The pause after the pool could not take a request.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause between two looks at which servers may have a waiting job.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a lease is waited for under which a job of an earlier process runs.
const FOR_RUNNING: Duration = Duration::from_secs(1);

/// The task of one job.
pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: Rc<Worker>,
    pub(super) hub: Arc<Hub>,
    pub(super) id: JobId,
}

/// The lease under which a server has the job.
struct Held {
    lease: Lease<Backend>,
    server: ServerId,
}

/// What came of an attempt to have a server.
enum Got {
    Lease(Lease<Backend>),
    /// The job ended meanwhile, or servers have changed.
    Nothing,
    NoneLeft,
}

impl Driver {
    /// Drives the job to its end.
    pub(super) async fn run(self) {
        let mut held = self.lease_of_running().await;
        let (mut entry, mut noted) = (None, 0);
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
                Some(Step::Submit(server)) => self.submit(server, held.as_ref()).await,
                Some(Step::Look(server)) => {
                    let (look, found) = self.look(server, held.as_ref()).await;
                    entry = found.or(entry);
                    self.looked(server, look);
                }
                Some(Step::Withdraw(server)) => self.withdraw(server, held.as_ref()).await,
                Some(Step::Finish(end)) => {
                    // What a server said of a job that was taken from it is no end.
                    let entry = entry.filter(|_| matches!(end, End::OnServer(..)));
                    self.finish(end, entry, held.take());
                    return;
                }
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

    fn tell<R>(&self, tell: impl FnOnce(&mut super::record::JobRecord, Tick) -> R) -> Option<R> {
        self.hub.tell(&self.id, tell)
    }

    fn pool(&self) -> Option<Arc<BackendPool>> {
        self.shared.table().pool_named(&self.hub.pool).cloned()
    }

    /// Takes the lease for a job of an earlier process that has a server already.
    async fn lease_of_running(&self) -> Option<Held> {
        let server = self.tell(|record, _| record.machine.server())??;
        let (pool, name) = (self.pool()?, self.hub.state().servers.name(server)?);
        let pool = pool.pool();
        let member = pool.blocking().member(&name)?;
        let request = Request::new().pin(member).priority(0);
        let lease = timeout(FOR_RUNNING, pool.acquire_with(request)).await;
        lease.ok()?.ok().map(|lease| Held { lease, server })
    }

    /// Waits in line for a server.
    async fn acquire(&self, wake: &tokio::sync::Notify) -> Option<Held> {
        match self.wait_in_line(wake).await {
            Got::Lease(lease) => {
                let server = self.hub.state().servers.number(lease.payload().name());
                self.tell(|record, now| record.machine.granted(now, server));
                Some(Held { lease, server })
            }
            Got::NoneLeft => {
                self.tell(|record, _| record.machine.none_left());
                None
            }
            Got::Nothing => None,
        }
    }

    async fn wait_in_line(&self, wake: &tokio::sync::Notify) -> Got {
        if let Some(lease) = self.lease_nearby().await {
            return Got::Lease(lease);
        }
        loop {
            let Some(pool) = self.pool() else {
                // The pool was taken away by a reload; its jobs wait until it is back.
                sleep(PAUSE).await;
                continue;
            };
            let names = match self.servers(&pool) {
                Some(names) if names.is_empty() => return Got::NoneLeft,
                Some(names) => names,
                None => return Got::Nothing,
            };
            let Some(request) = self.request(&pool, &names) else {
                return Got::Nothing;
            };
            let mut acquiring = core::pin::pin!(pool.pool().acquire_with(request));
            let refused = loop {
                tokio::select! {
                    biased;
                    acquired = &mut acquiring => match acquired {
                        Ok(lease) => return Got::Lease(lease),
                        Err(refused) => break Some(refused),
                    },
                    () = wake.notified() => {
                        let is_over = self.tell(|record, _| record.machine.end().is_some());
                        if is_over != Some(false) {
                            return Got::Nothing;
                        }
                    }
                    // Servers come, go and learn; a job whose servers are the same keeps its place.
                    () = sleep(LOOK_AGAIN) => {
                        let now = self.pool().and_then(|pool| self.servers(&pool));
                        if now.as_ref() != Some(&names) {
                            break None;
                        }
                    }
                }
            };
            match refused {
                None => {}
                Some(AcquireError::Closed) => {
                    self.shared.successor(&pool).await;
                }
                Some(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Takes a server of the caller's zone, if one is free.
    async fn lease_nearby(&self) -> Option<Lease<Backend>> {
        let pool = self.pool()?;
        let zone = self.tell(|record, _| record.choice.zone.clone())??;
        let mut names = self.servers(&pool)?;
        let members = &pool.settings().members;
        names.retain(|name| {
            let mut members = members.iter();
            members.any(|member| member.name == *name && member.zone.as_ref() == Some(&zone))
        });
        if names.is_empty() {
            return None;
        }
        let now = pool.pool().blocking().now();
        let request = self.request(&pool, &names)?.deadline(now);
        pool.pool().acquire_with(request).await.ok()
    }

    /// The servers that may have the job: none that lacks what it needs, and if possible none that has lost it. `None` if
    /// the job is over.
    fn servers(&self, pool: &BackendPool) -> Option<Vec<String>> {
        let up = up(pool);
        let state = self.hub.state();
        let record = state.jobs.get(&self.id)?;
        let is_among = |name: &str, ids: &[ServerId]| {
            let mut servers = ids.iter().filter_map(|id| state.server(*id));
            servers.any(|server| server.name == name)
        };
        let machine = &record.machine;
        let lost: Vec<ServerId> = machine.lost_at().iter().map(|(id, _)| *id).collect();
        let may = |member: &&MemberSettings| {
            let server = state.servers.named(&member.name);
            record.choice.admits(member)
                && !is_among(&member.name, machine.refused_by())
                && server.is_none_or(|server| server.may_run(&record.prompt))
        };
        let members = pool.settings().members.iter().filter(may);
        let names: Vec<String> = members.map(|member| member.name.clone()).collect();
        let is_other = |name: &&String| up.contains(*name) && !is_among(name, &lost);
        let others: Vec<String> = names.iter().filter(is_other).cloned().collect();
        Some(match others.is_empty() || lost.is_empty() {
            true => names,
            false => others,
        })
    }

    /// Makes the job's request for one of these servers; `None` if the job is over.
    fn request(&self, pool: &BackendPool, names: &[String]) -> Option<Request> {
        let state = self.hub.state();
        let record = state.jobs.get(&self.id)?;
        let prompt = &record.prompt;
        let client = prompt.client_id.as_deref().unwrap_or_default();
        let request = Request::new()
            .class(prompt.class())
            .priority(prompt.priority())
            .flow(record.owner ^ stable_hash(client.as_bytes()));
        Some(match names.len() == pool.settings().members.len() {
            true => request,
            false => restricted(pool, request, names),
        })
    }

    /// Submits the job to the server under whose lease it is.
    async fn submit(&self, server: ServerId, held: Option<&Held>) {
        let Some(held) = held else {
            return;
        };
        let answer = self.post(server, held.lease.payload()).await;
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

    async fn post(&self, server: ServerId, backend: &Arc<Backend>) -> Submission {
        let Some(prompt) = self.tell(|record, _| Arc::clone(&record.prompt)) else {
            return Submission::Unsent;
        };
        let Some(call) = self.call(backend) else {
            return Submission::Unsent;
        };
        let mut graph = prompt.graph.clone();
        if let Err(error) = self.bring_files(server, &call, &mut graph).await {
            backend.note_failure(&error);
            return self.judge_files(&error);
        }
        if let Err(error) = self.hub.note_placed(&self.id, backend.name()) {
            self.shared.report(format_args!("{error}"));
            return Submission::Unsent;
        }
        let client_id = self.client_id(server);
        self.tell(|record, _| record.submitted_for.clone_from(&client_id));
        let body = prompt.body_for(&graph, &self.id, &client_id);
        match call.post_json("/prompt", &body).await {
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

    /// Says what a server's answer to a submission means.
    fn judge(
        &self,
        server: ServerId,
        graph: &serde_json::Map<String, Value>,
        answer: &Answer,
    ) -> Submission {
        if answer.is_ok() {
            return Submission::Accepted;
        }
        if answer.status.is_server_error() {
            return Submission::Unsure;
        }
        let mut body = answer.json();
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

    /// Brings the files that a graph refers to, and puts the server's names of them into it.
    async fn bring_files(
        &self,
        server: ServerId,
        call: &Call<'_>,
        graph: &mut serde_json::Map<String, Value>,
    ) -> Result<(), Brought> {
        let owner = self.tell(|record, _| record.owner).unwrap_or_default();
        let mut needed = Vec::new();
        replace_inputs(graph, &mut |text| {
            needed.extend(
                self.hub
                    .uploads
                    .referred(owner, text)
                    .map(|upload| (text.to_owned(), upload)),
            );
            None
        });
        for (text, upload) in needed {
            let name = super::files::bring(&self.hub, server, call, &upload).await?;
            if name != upload.reference() {
                let with_kind = text.strip_prefix(&upload.reference()).unwrap_or_default();
                let other = format!("{name}{with_kind}");
                replace_inputs(graph, &mut |input| (input == text).then(|| other.clone()));
            }
        }
        Ok(())
    }

    /// Says what a file that could not be brought means for the job.
    fn judge_files(&self, error: &Brought) -> Submission {
        let submission = match error {
            // It can be brought again.
            Brought::Call(_) => return Submission::Unsent,
            Brought::Lost(..) => Submission::RefusedEverywhere,
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
        // What came of it is looked for next.
        let _ = call
            .post_json("/queue", &json!({"delete": [&*self.id]}))
            .await;
        let _ = call
            .post_json("/interrupt", &json!({"prompt_id": &*self.id}))
            .await;
        self.tell(|record, now| record.machine.look_soon(now, server));
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
            self.shared.report(format_args!(
                "pool {pool}: job {id} has failed: {}, once too often",
                reason(loss)
            ));
        }
        if let Err(error) = self.hub.finish(&self.id, end, entry) {
            self.shared.report(format_args!("{error}"));
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
        self.shared.report(format_args!(
            "pool {pool}: {name}: job {id} is lost there: {}",
            reason(loss)
        ));
        if let Some(pool) = self.pool() {
            self.shared.events().tell(&pool, &name, Told::JobLost);
        }
        if let Err(error) = self.hub.note_lost(&self.id) {
            self.shared.report(format_args!("{error}"));
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
                // A restart says nothing of the server that is there now.
                Some(Loss::Forgotten) => Outcome::Unknown,
                Some(Loss::Silent | Loss::DeadWorker | Loss::Stalled) | None => Outcome::Failed,
            };
            let _ = gone.lease.release(outcome);
            if let Err(error) = self.hub.note_returned(&self.id) {
                self.shared.report(format_args!("{error}"));
            }
        }
    }

    fn backend(&self, server: ServerId, held: Option<&Held>) -> Option<Arc<Backend>> {
        if let Some(held) = held.filter(|held| held.server == server) {
            return Some(Arc::clone(held.lease.payload()));
        }
        let (pool, name) = (self.pool()?, self.hub.state().servers.name(server)?);
        backend_named(&pool, &name)
    }

    fn call<'a>(&'a self, backend: &'a Arc<Backend>) -> Option<Call<'a>> {
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

/// The names of members that are not known to be down.
pub(super) fn up(pool: &BackendPool) -> BTreeSet<String> {
    let conditions = pool.pool().blocking().conditions();
    let up = conditions
        .into_iter()
        .filter(|(_, _, condition)| condition.serves());
    up.map(|(_, backend, _)| backend.name().to_owned())
        .collect()
}

/// Restricts a request to some members.
fn restricted(pool: &BackendPool, request: Request, names: &[String]) -> Request {
    if let Some(labels) = pool.labels_of_set(names) {
        return request.labels(labels);
    }
    // Too many sets are in use: the best of them now has to do.
    let sync = pool.pool().blocking();
    let rest: Vec<MemberId> = sync
        .members()
        .into_iter()
        .filter(|(_, backend)| !names.iter().any(|name| name == backend.name()))
        .map(|(id, _)| id)
        .collect();
    let first = names.first().and_then(|name| sync.member(name));
    match sync.alternative(&request, &rest).or(first) {
        Some(member) => request.pin(member),
        None => request,
    }
}
