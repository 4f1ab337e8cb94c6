//! The jobs interface of 2026: queue and history as one list.
//!
//! Invariant: a job is in one state: in progress, pending, or one of the three ends that its history tells.

use super::prompt::is_canonical_uuid;
use super::queue::Item;
use super::route::Query;
use super::state::{State, Studio};
use crate::reply::Reply;
use serde_json::{Map, Value, json};

const STATUSES: [&str; 5] = ["pending", "in_progress", "completed", "failed", "cancelled"];

/// Media that a page can show.
const PREVIEWABLE: [&str; 5] = ["images", "video", "audio", "3d", "text"];

fn bad(problem: &str) -> Reply {
    Reply::json(400, &json!({ "error": problem }))
}

/// Filter, order and page of a list.
#[derive(Debug)]
struct Wanted<'a> {
    statuses: Option<Vec<String>>,
    workflow_id: Option<&'a str>,
    by_duration: bool,
    is_ascending: bool,
    limit: Option<usize>,
    offset: usize,
}

impl<'a> Wanted<'a> {
    fn new(query: &'a Query) -> Result<Self, Reply> {
        let statuses = query.get("status").filter(|statuses| !statuses.is_empty());
        let statuses = statuses.map(|statuses| {
            let names = statuses
                .split(',')
                .map(|name| name.trim().to_ascii_lowercase());
            names.filter(|name| !name.is_empty()).collect::<Vec<_>>()
        });
        let is_unknown = |name: &&String| !STATUSES.contains(&name.as_str());
        let unknown: Vec<_> = statuses
            .iter()
            .flatten()
            .filter(is_unknown)
            .cloned()
            .collect();
        if !unknown.is_empty() {
            let (unknown, known) = (unknown.join(", "), STATUSES.join(", "));
            return Err(bad(&format!(
                "Invalid status value(s): {unknown}. Valid values: {known}"
            )));
        }
        let lower = |name: &str| query.get(name).map(str::to_ascii_lowercase);
        let by_duration = match lower("sort_by").as_deref() {
            None | Some("created_at") => false,
            Some("execution_duration") => true,
            Some(_) => return Err(bad("sort_by must be 'created_at' or 'execution_duration'")),
        };
        let is_ascending = match lower("sort_order").as_deref() {
            Some("asc") => true,
            None | Some("desc") => false,
            Some(_) => return Err(bad("sort_order must be 'asc' or 'desc'")),
        };
        let number = |name: &str| {
            let number = query.get(name).map(|text| text.trim().parse::<i64>());
            number
                .transpose()
                .map_err(|_| bad(&format!("{name} must be an integer")))
        };
        let limit = number("limit")?;
        if limit.is_some_and(|limit| limit <= 0) {
            return Err(bad("limit must be a positive integer"));
        }
        let size = |number: i64| usize::try_from(number).unwrap_or_default();
        Ok(Self {
            statuses,
            workflow_id: query.get("workflow_id").filter(|id| !id.is_empty()),
            by_duration,
            is_ascending,
            limit: limit.map(size),
            offset: number("offset")?.map_or(0, size),
        })
    }

    fn takes(&self, job: &Map<String, Value>) -> bool {
        let statuses = self.statuses.as_ref();
        let has_status =
            statuses.is_none_or(|names| names.iter().any(|name| job["status"] == *name));
        let workflow = job.get("workflow_id").and_then(Value::as_str);
        has_status && self.workflow_id.is_none_or(|id| workflow == Some(id))
    }

    fn key(&self, job: &Map<String, Value>) -> i64 {
        let time = |name: &str| job.get(name).and_then(Value::as_i64).unwrap_or_default();
        if !self.by_duration {
            return time("create_time");
        }
        let (start, end) = (time("execution_start_time"), time("execution_end_time"));
        if start == 0 || end == 0 {
            0
        } else {
            end - start
        }
    }
}

/// `GET /api/jobs`.
pub(super) fn list(studio: &Studio, query: &Query) -> Reply {
    let wanted = match Wanted::new(query) {
        Ok(wanted) => wanted,
        Err(reply) => return reply,
    };
    let mut jobs: Vec<_> = studio.read(|state| {
        let queued = queued(state).map(|(item, status)| of_item(item, status));
        let ended = state.life.history.entries().iter();
        let ended = ended.map(|(id, entry)| of_entry(id, entry));
        queued
            .chain(ended)
            .filter(|job| wanted.takes(job))
            .collect()
    });
    // Equal ones keep their order, also if the order is reversed.
    jobs.sort_by(|a, b| {
        let order = wanted.key(a).cmp(&wanted.key(b));
        if wanted.is_ascending {
            order
        } else {
            order.reverse()
        }
    });
    let total = jobs.len();
    let page = jobs.into_iter().skip(wanted.offset);
    let page: Vec<_> = page.take(wanted.limit.unwrap_or(usize::MAX)).collect();
    let has_more = wanted.offset.saturating_add(page.len()) < total;
    let pagination = json!({
        "offset": wanted.offset,
        "limit": wanted.limit,
        "total": total,
        "has_more": has_more,
    });
    Reply::json(200, &json!({ "jobs": page, "pagination": pagination }))
}

/// `GET /api/jobs/{id}`.
pub(super) fn one(studio: &Studio, id: &str) -> Reply {
    let job = studio.read(|state| {
        if let Some(entry) = state.life.history.get(id) {
            let mut job = of_entry(id, entry);
            job.insert("outputs".into(), entry["outputs"].clone());
            job.insert("execution_status".into(), entry["status"].clone());
            job.insert("workflow".into(), workflow(&entry["prompt"]));
            return Some(job);
        }
        let (item, status) = queued(state).find(|(item, _)| item.id == id)?;
        let mut job = of_item(item, status);
        job.insert("workflow".into(), workflow(&item.to_json()));
        Some(job)
    });
    match job {
        Some(job) => Reply::json(200, &Value::Object(job)),
        None => Reply::json(404, &json!({ "error": "Job not found" })),
    }
}

/// `POST /api/jobs/{id}/cancel`.
pub(super) fn cancel_one(studio: &Studio, id: &str) -> Reply {
    Reply::json(200, &json!({ "cancelled": cancel(studio, id) }))
}

/// `POST /api/jobs/cancel`.
pub(super) fn cancel_many(studio: &Studio, body: &[u8]) -> Reply {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return bad("Request body must be valid JSON");
    };
    let Some(ids) = body["job_ids"].as_array() else {
        return bad("job_ids must be a list");
    };
    let is_bad = |id: &&Value| !id.as_str().is_some_and(is_canonical_uuid);
    let shown = |id: &Value| id.as_str().map_or_else(|| id.to_string(), str::to_owned);
    let invalid: Vec<_> = ids.iter().filter(is_bad).map(shown).collect();
    if !invalid.is_empty() {
        let problem = "job_ids contains invalid id(s)";
        return Reply::json(400, &json!({ "error": problem, "invalid_ids": invalid }));
    }
    let cancelled = ids
        .iter()
        .filter_map(Value::as_str)
        .map(|id| cancel(studio, id));
    // Each of them is cancelled: a lazy search would stop at the first.
    let cancelled = cancelled.fold(false, |any, one| any | one);
    Reply::json(200, &json!({ "cancelled": cancelled }))
}

/// Interrupts a running job, or removes a pending one.
fn cancel(studio: &Studio, id: &str) -> bool {
    studio.interrupt(Some(id)) || studio.change(|state| state.dequeue(id))
}

fn queued(state: &State) -> impl Iterator<Item = (&Item, &'static str)> {
    let running = state
        .life
        .running
        .iter()
        .map(|run| (&*run.item, "in_progress"));
    let pending = state.life.pending.items().iter();
    running.chain(pending.map(|item| (item, "pending")))
}

fn workflow(item: &Value) -> Value {
    json!({ "prompt": item[2], "extra_data": item[3] })
}

/// Drops the fields that are null.
fn pruned(job: &Value) -> Map<String, Value> {
    let fields = job.as_object().into_iter().flatten();
    let fields = fields.filter(|(_, value)| !value.is_null());
    fields
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn of_item(item: &Item, status: &str) -> Map<String, Value> {
    pruned(&json!({
        "id": item.id,
        "status": status,
        "priority": item.number,
        "create_time": item.extra_data.get("create_time"),
        "outputs_count": 0,
        "previewable_outputs_count": 0,
        "workflow_id": workflow_id(item.extra_data.get("extra_pnginfo")),
    }))
}

fn workflow_id(pnginfo: Option<&Value>) -> Option<&Value> {
    pnginfo?.pointer("/workflow/id")
}

fn of_entry(id: &str, entry: &Value) -> Map<String, Value> {
    let messages = entry["status"]["messages"].as_array();
    let of_kind = |kind: &str| {
        let mut messages = messages.into_iter().flatten();
        messages
            .find(|message| message[0] == kind)
            .map(|message| &message[1])
    };
    let (error, interrupted) = (of_kind("execution_error"), of_kind("execution_interrupted"));
    let end = error
        .or(interrupted)
        .or_else(|| of_kind("execution_success"));
    let status = match (entry["status"]["status_str"].as_str(), interrupted) {
        (Some("error"), Some(_)) => "cancelled",
        (Some("error"), None) => "failed",
        _ => "completed",
    };
    let outputs = entry["outputs"].as_object();
    let outputs: Vec<_> = outputs.into_iter().flatten().flat_map(items_of).collect();
    let is_previewable = |item: &&(&String, &str, &Value)| PREVIEWABLE.contains(&item.1);
    let previewable: Vec<_> = outputs.iter().filter(is_previewable).collect();
    let saved = previewable
        .iter()
        .find(|(_, _, item)| item["type"] == "output");
    let preview = saved.or(previewable.first()).map(|(node, media, item)| {
        let mut preview = (*item).clone();
        preview["nodeId"] = json!(node);
        preview["mediaType"] = json!(media);
        preview
    });
    let extra_data = &entry["prompt"][3];
    pruned(&json!({
        "id": id,
        "status": status,
        "priority": entry["prompt"][0],
        "create_time": extra_data["create_time"],
        "execution_start_time": of_kind("execution_start").map(|data| &data["timestamp"]),
        "execution_end_time": end.map(|data| &data["timestamp"]),
        "execution_error": error,
        "outputs_count": outputs.len(),
        "previewable_outputs_count": previewable.len(),
        "preview_output": preview,
        "workflow_id": workflow_id(extra_data.get("extra_pnginfo")),
    }))
}

/// The outputs of a node that are files: node, kind of media, file.
fn items_of<'a>((node, media): (&'a String, &'a Value)) -> Vec<(&'a String, &'a str, &'a Value)> {
    let media = media.as_object().into_iter().flatten();
    let files = media.flat_map(|(kind, items)| {
        let items = items
            .as_array()
            .into_iter()
            .flatten()
            .filter(|item| item.is_object());
        items.map(move |item| (node, kind.as_str(), item))
    });
    files.collect()
}
