//! Lists of jobs: the queue, the history and the jobs, of all servers together.
//!
//! Invariant: a caller sees its own jobs whole; of others' it sees their places in the queue alone.

use super::answers::{bad, ok, with_status};
use super::hub::{Hub, JobId};
use super::record::{Finished, JobRecord};
use super::state::State;
use crate::proxy::AnswerBody;
use core::cmp::Reverse;
use http::{Response, StatusCode};
use leasehold_protocol::Refusal;
use serde_json::{Map, Value, json};

/// The parameters of a query.
pub(super) struct Query<'q>(pub(super) Option<&'q str>);

impl Query<'_> {
    /// Returns a parameter, decoded.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let pairs = self.0?.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
        let value = value.replace('+', " ");
        let value = percent_encoding::percent_decode_str(&value).decode_utf8_lossy();
        Some(value.into_owned())
    }

    fn number(&self, name: &str) -> Result<Option<usize>, Refusal> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|_| bad(format!("{name} is no number from 0 on")))
    }
}

/// The answer of `GET /prompt`.
pub(super) fn remaining(state: &State) -> Value {
    json!({"exec_info": {"queue_remaining": state.remaining()}})
}

/// The answer of `GET /queue`.
pub(super) fn queue(state: &State, owner: u64) -> Value {
    let mut jobs: Vec<(&JobId, &JobRecord)> = state.jobs.iter().collect();
    jobs.sort_unstable_by_key(|(_, record)| record.order());
    let (running, pending): (Vec<_>, Vec<_>) = jobs
        .into_iter()
        .partition(|(_, record)| record.machine.is_running());
    let items = |jobs: Vec<(&JobId, &JobRecord)>| -> Vec<Value> {
        let item = |(id, record): (&JobId, &JobRecord)| match record.owner == owner {
            true => record.item(id),
            false => json!([record.number(), &**id, {}, {}, []]),
        };
        jobs.into_iter().map(item).collect()
    };
    json!({"queue_running": items(running), "queue_pending": items(pending)})
}

/// The answer of `GET /history`.
pub(super) fn history(state: &State, owner: u64, query: &Query<'_>) -> Result<Value, Refusal> {
    let own: Vec<_> = state
        .finished
        .iter()
        .filter(|(_, one)| one.owner == owner)
        .collect();
    let max = query.number("max_items")?.unwrap_or(usize::MAX);
    let offset = query.number("offset")?;
    // The newest without an offset.
    let skipped = offset.unwrap_or_else(|| own.len().saturating_sub(max));
    let entries = own.into_iter().skip(skipped).take(max);
    let entries = entries.map(|(id, one)| (id.to_string(), one.entry.clone()));
    Ok(Value::Object(entries.collect()))
}

/// The answer of `GET /history/{id}`.
pub(super) fn history_of(state: &State, owner: u64, id: &str) -> Value {
    let found = state.finished.get(id).filter(|one| one.owner == owner);
    let entry = found.map(|one| (id.to_owned(), one.entry.clone()));
    Value::Object(entry.into_iter().collect::<Map<_, _>>())
}

/// The answer of `GET /api/jobs`.
pub(super) fn jobs(
    state: &State,
    owner: u64,
    query: &Query<'_>,
) -> Result<Response<AnswerBody>, Refusal> {
    let statuses = query.get("status");
    let wanted: Vec<&str> = statuses.iter().flat_map(|text| text.split(',')).collect();
    let known = ["pending", "in_progress", "completed", "failed", "cancelled"];
    if let Some(wrong) = wanted.iter().find(|status| !known.contains(status)) {
        let error = format!(
            "Invalid status value(s): {wrong}. Must be one of: {}",
            known.join(", ")
        );
        return Ok(with_status(
            StatusCode::BAD_REQUEST,
            &json!({"error": error}),
        ));
    }
    let live = state.jobs.iter().filter(|(_, one)| one.owner == owner);
    let live = live.map(|(id, one)| (one.created, live_job(id, one)));
    let over = state.finished.iter().filter(|(_, one)| one.owner == owner);
    let over = over.map(|(id, one)| (one.created, finished_job(id, one)));
    let mut all: Vec<(u64, Value)> = live.chain(over).collect();
    all.retain(|(_, job)| {
        wanted.is_empty() || wanted.iter().any(|status| job["status"] == *status)
    });
    if let Some(workflow) = query.get("workflow_id") {
        all.retain(|(_, job)| job["workflow_id"] == *workflow);
    }
    let by_duration = query.get("sort_by").as_deref() == Some("execution_duration");
    let key = |(created, job): &(u64, Value)| match by_duration {
        true => {
            let time = |name: &str| job[name].as_u64().unwrap_or(0);
            time("execution_end_time").saturating_sub(time("execution_start_time"))
        }
        false => *created,
    };
    match query.get("sort_order").as_deref() {
        Some("asc") => all.sort_by_key(key),
        Some(_) | None => all.sort_by_key(|job| Reverse(key(job))),
    }
    let (offset, limit) = (query.number("offset")?.unwrap_or(0), query.number("limit")?);
    let total = all.len();
    let page: Vec<Value> = all
        .into_iter()
        .skip(offset)
        .take(limit.unwrap_or(usize::MAX))
        .map(|(_, job)| job)
        .collect();
    let has_more = offset.saturating_add(page.len()) < total;
    let pagination =
        json!({"offset": offset, "limit": limit, "total": total, "has_more": has_more});
    Ok(ok(&json!({"jobs": page, "pagination": pagination})))
}

/// The answer of `GET /api/jobs/{id}`.
pub(super) fn job(state: &State, owner: u64, id: &str) -> Response<AnswerBody> {
    let live = state
        .jobs
        .get_key_value(id)
        .filter(|(_, one)| one.owner == owner);
    let over = state
        .finished
        .get_key_value(id)
        .filter(|(_, one)| one.owner == owner);
    match (live, over) {
        (Some((id, record)), _) => {
            let mut job = live_job(id, record);
            job["workflow"] = workflow(&record.item(id));
            ok(&job)
        }
        (None, Some((id, finished))) => {
            let mut job = finished_job(id, finished);
            job["outputs"] = finished.entry["outputs"].clone();
            job["execution_status"] = finished.entry["status"].clone();
            job["workflow"] = workflow(&finished.entry["prompt"]);
            ok(&job)
        }
        (None, None) => with_status(StatusCode::NOT_FOUND, &json!({"error": "Job not found"})),
    }
}

fn workflow(item: &Value) -> Value {
    json!({"prompt": item[2], "extra_data": item[3]})
}

fn live_job(id: &JobId, record: &JobRecord) -> Value {
    let status = match record.machine.is_running() {
        true => "in_progress",
        false => "pending",
    };
    let mut job = json!({
        "id": &**id, "status": status, "priority": record.number(), "create_time": record.created,
        "outputs_count": 0,
    });
    if let (true, Some(begun)) = (record.machine.is_running(), record.begun) {
        job["execution_start_time"] = begun.into();
    }
    add_workflow_id(&mut job, record.prompt.extra_data.get("extra_pnginfo"));
    job
}

fn finished_job(id: &JobId, finished: &Finished) -> Value {
    let outputs = finished.entry["outputs"].as_object();
    let files = outputs.into_iter().flat_map(Map::values);
    let files = files.filter_map(Value::as_object).flat_map(Map::values);
    let files: Vec<&Value> = files
        .filter_map(Value::as_array)
        .flatten()
        .filter(|file| file["filename"].is_string())
        .collect();
    let mut job = json!({
        "id": &**id, "status": finished.status, "priority": finished.entry["prompt"][0],
        "create_time": finished.created, "outputs_count": files.len(),
        "execution_end_time": finished.ended,
    });
    if let Some(begun) = finished.begun {
        job["execution_start_time"] = begun.into();
    }
    if let Some(first) = files.first() {
        job["preview_output"] = (*first).clone();
    }
    let messages = finished.entry["status"]["messages"].as_array();
    let error = messages
        .into_iter()
        .flatten()
        .find(|message| message[0] == "execution_error");
    if let Some(error) = error {
        job["execution_error"] = error[1].clone();
    }
    add_workflow_id(&mut job, finished.entry["prompt"][3].get("extra_pnginfo"));
    job
}

fn add_workflow_id(job: &mut Value, info: Option<&Value>) {
    if let Some(id) = info.and_then(|info| info["workflow"]["id"].as_str()) {
        job["workflow_id"] = id.into();
    }
}

/// What `POST /queue` and `POST /history` ask for.
pub(super) struct Removal {
    is_all: bool,
    ids: Vec<String>,
}

impl Removal {
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| bad(format!("the body is no JSON: {error}")))?;
        let ids = body["delete"].as_array().into_iter().flatten();
        Ok(Self {
            is_all: body["clear"] == true,
            ids: ids
                .filter_map(Value::as_str)
                .map(ToOwned::to_owned)
                .collect(),
        })
    }

    fn has(&self, id: &str) -> bool {
        self.is_all || self.ids.iter().any(|one| one == id)
    }
}

/// Takes a caller's waiting jobs out of the queue.
pub(super) fn remove_waiting(hub: &Hub, owner: u64, removal: &Removal) {
    hub.cancel(|id, record| {
        record.owner == owner && !record.machine.is_running() && removal.has(id)
    });
}

/// Removes a caller's entries from the history.
pub(super) fn remove_ended(hub: &Hub, owner: u64, removal: &Removal) -> Result<(), Refusal> {
    let forgotten = hub.forget(|id, one| one.owner == owner && removal.has(id));
    forgotten.map_err(|error| super::answers::not_kept(&error))
}

/// Interrupts a caller's running jobs, or the one that its body names.
pub(super) fn interrupt(hub: &Hub, owner: u64, body: &[u8]) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let only = body["prompt_id"].as_str();
    hub.cancel(|id, record| {
        record.owner == owner
            && record.machine.is_running()
            && only.is_none_or(|only| only == &**id)
    });
}

/// Takes jobs back, whether they run or wait.
pub(super) fn cancel(hub: &Hub, owner: u64, ids: &[String]) -> Value {
    let is_one = |id: &JobId, record: &JobRecord| {
        record.owner == owner && ids.iter().any(|one| **one == **id)
    };
    json!({"cancelled": hub.cancel(is_one) > 0})
}
