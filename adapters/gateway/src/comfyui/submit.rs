//! `POST /prompt`: a job is checked, kept and answered at once; it waits for a server in the gateway.
//!
//! Invariant: a job that is answered with 200 is in the journal, where there is one.

use super::answers::{bad, not_kept, ok, with_status};
use super::hub::{Hub, NewJob};
use super::state::State;
use crate::backend_pool::BackendPool;
use crate::proxy::AnswerBody;
use crate::trace::Parent;
use core::time::Duration;
use http::{HeaderMap, HeaderName, Response, StatusCode};
use leasehold_config::MemberSettings;
use leasehold_protocol::Refusal;
use leasehold_protocol::comfyui::{NodeInfo, Prompt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// The header and the parameter by which a caller chooses a server.
const SERVER: HeaderName = HeaderName::from_static("x-leasehold-server");
/// The header by which a caller asks for servers with labels, such as the kind of task.
const LABELS: HeaderName = HeaderName::from_static("x-leasehold-labels");
const ZONE: HeaderName = HeaderName::from_static("x-leasehold-zone");

/// Bytes in memory of all jobs that have not ended, at most.
const MAX_BYTES: usize = 512 << 20;

/// Which servers a caller prefers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Choice {
    /// The only one that may have its job.
    pub(super) server: Option<String>,
    /// Where those are that come first.
    pub(super) zone: Option<String>,
    /// What all that may have its job are labelled with.
    pub(super) labels: Vec<String>,
}

impl Choice {
    /// Whether a server may have the job, as far as the caller's choice goes.
    pub(super) fn admits(&self, member: &MemberSettings) -> bool {
        let is_wanted = self
            .server
            .as_ref()
            .is_none_or(|wanted| *wanted == member.name);
        is_wanted
            && self
                .labels
                .iter()
                .all(|label| member.labels.contains(label))
    }

    /// Takes what the caller's headers say in place of what is known otherwise.
    pub(super) fn told(self, headers: &HeaderMap) -> Self {
        let told = |name: &HeaderName| {
            let value = headers.get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        Self {
            server: told(&SERVER).or(self.server),
            zone: told(&ZONE).or(self.zone),
            labels: split(&told(&LABELS).unwrap_or_default()),
        }
    }
}

/// Accepts a job.
pub(super) fn submit(
    hub: &Hub,
    pool: &BackendPool,
    owner: u64,
    choice: Choice,
    body: &[u8],
    parent: Option<&Parent>,
) -> Result<Response<AnswerBody>, Refusal> {
    let mut prompt = match Prompt::read(body) {
        Ok(prompt) => prompt,
        Err(error) => return Ok(with_status(StatusCode::BAD_REQUEST, &error.body())),
    };
    prompt.note_files(|text| hub.uploads.referred(owner, text).is_some());
    check_choice(pool, &choice)?;
    let node_errors = {
        let state = hub.state();
        check_room(&state, pool)?;
        check_id(&state, &prompt, owner)?;
        match check_nodes(&state, pool, &prompt, &choice) {
            Ok(node_errors) => node_errors,
            Err(refusal) => return Ok(with_status(StatusCode::BAD_REQUEST, &refusal)),
        }
    };
    let new = NewJob {
        prompt,
        owner,
        choice,
        parent: parent.cloned(),
    };
    let (id, number) = hub.accept(new).map_err(|error| not_kept(&error))?;
    Ok(ok(
        &json!({"prompt_id": &*id, "number": number, "node_errors": node_errors}),
    ))
}

/// Splits a list at its commas.
fn split(list: &str) -> Vec<String> {
    let items = list.split(',').map(str::trim);
    items
        .filter(|item| !item.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

fn check_choice(pool: &BackendPool, choice: &Choice) -> Result<(), Refusal> {
    let members = &pool.settings().members;
    if members.iter().any(|member| choice.admits(member)) {
        return Ok(());
    }
    let names: Vec<String> = members
        .iter()
        .map(|member| match member.labels.is_empty() {
            true => member.name.clone(),
            false => format!("{} ({})", member.name, member.labels.join(", ")),
        })
        .collect();
    let asked = choice.server.iter().chain(&choice.labels).cloned();
    Err(bad(format!(
        "no server is {}; there are {}",
        asked.collect::<Vec<_>>().join(", "),
        names.join(", ")
    )))
}

fn check_room(state: &State, pool: &BackendPool) -> Result<(), Refusal> {
    let most = usize::try_from(pool.settings().max_waiters).unwrap_or(usize::MAX);
    let text = if state.jobs.len() >= most {
        format!("{most} jobs wait already; submit again later")
    } else if state.bytes >= MAX_BYTES {
        let mebibytes = MAX_BYTES >> 20;
        format!("the jobs that wait take {mebibytes} MiB already; submit again later")
    } else {
        return Ok(());
    };
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Err(Refusal::new(status, "queue_full", text).with_wait(Some(Duration::from_secs(30))))
}

/// Refuses an id that another job has; the same job may be submitted again, and counts once.
fn check_id(state: &State, prompt: &Prompt, owner: u64) -> Result<(), Refusal> {
    let Some(id) = prompt.id.as_deref() else {
        return Ok(());
    };
    let is_other = match (state.jobs.get(id), state.finished.get(id)) {
        (Some(job), _) => job.owner != owner || job.prompt.graph != prompt.graph,
        (None, Some(finished)) => {
            let graph = finished.entry["prompt"][2].as_object();
            finished.owner != owner || graph != Some(&prompt.graph)
        }
        (None, None) => false,
    };
    match is_other {
        true => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "invalid_prompt_id",
            "another job has this prompt_id",
        )),
        false => Ok(()),
    }
}

/// Returns the errors of those nodes of a prompt that no server can run.
///
/// # Errors
/// The body of a refusal, if it is known that no server can run any of its outputs.
fn check_nodes(
    state: &State,
    pool: &BackendPool,
    prompt: &Prompt,
    choice: &Choice,
) -> Result<Value, Value> {
    let members = pool.settings().members.iter();
    let members = members.filter(|member| choice.admits(member));
    let servers = members.map(|member| state.servers.named(&member.name));
    // A server that was never reached may have anything.
    let known: Option<Vec<Arc<NodeInfo>>> = servers.map(|server| server?.nodes.clone()).collect();
    let known = known.unwrap_or_default();
    let is_good = |nodes: &&Arc<NodeInfo>| nodes.refusal(prompt).is_none();
    let good: Vec<&Arc<NodeInfo>> = known.iter().filter(is_good).collect();
    if known.is_empty() || good.iter().any(|nodes| nodes.lacks(prompt).is_empty()) {
        return Ok(json!({}));
    }
    let mut refusals = good
        .iter()
        .map(|nodes| (nodes, nodes.value_refusal(prompt)));
    if let Some((nodes, _)) = refusals.clone().find(|(_, refusal)| refusal.is_none()) {
        let mut errors = nodes.value_errors(prompt).0;
        for other in &good {
            let others = other.value_errors(prompt).0;
            errors.retain(|id, _| others.contains_key(id));
        }
        return Ok(errors.into());
    }
    let of_values = refusals.find_map(|(_, refusal)| refusal);
    let of_nodes = || known.iter().find_map(|nodes| nodes.refusal(prompt));
    Err(of_values.or_else(of_nodes).unwrap_or_default())
}
