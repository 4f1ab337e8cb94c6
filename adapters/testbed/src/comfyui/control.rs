//! The testbed's own paths: the report, and settings that change while the server runs.
//!
//! Invariant: of a request's settings, all are changed or none.

use super::fault::ComfyFault;
use super::route::Query;
use super::state::{MAX_FAULTS, Mode, Studio};
use crate::reply::Reply;
use crate::text::parse_span;
use core::time::Duration;
use hyper::{Method, Uri};
use serde_json::json;

/// `GET /testbed/report`, or `POST /testbed/set?silent=true&stalled=false&worker=dead&fault=NAME&count=1`.
pub(super) fn answer(studio: &Studio, method: &Method, uri: &Uri) -> Reply {
    match (uri.path(), method) {
        ("/testbed/report", &Method::GET) => {
            let report = studio.read(|state| serde_json::to_vec(&state.report));
            match report {
                Ok(report) => Reply::new(200, "application/json", report),
                Err(error) => Reply::json(500, &json!({ "error": error.to_string() })),
            }
        }
        ("/testbed/set", &Method::POST) => match Settings::new(&Query::new(uri.query())) {
            Ok(settings) => settings.apply(studio),
            Err(problem) => Reply::json(400, &json!({ "error": problem })),
        },
        ("/testbed/set", _) => {
            Reply::json(405, &json!({ "error": "write it as POST" })).header("allow", "POST")
        }
        _ => Reply::json(404, &json!({ "error": "there is report and set" })),
    }
}

#[derive(Debug, Default)]
struct Settings {
    is_silent: Option<bool>,
    is_stalled: Option<bool>,
    kills_worker: bool,
    object_info_delay: Option<Duration>,
    faults: Option<Vec<ComfyFault>>,
    count: Option<usize>,
}

impl Settings {
    fn new(query: &Query) -> Result<Self, String> {
        let mut settings = Self::default();
        for (name, value) in query.pairs() {
            let is_true = value == "true";
            match (name, value) {
                ("silent", "true" | "false") => settings.is_silent = Some(is_true),
                ("stalled", "true" | "false") => settings.is_stalled = Some(is_true),
                ("worker", "dead") => settings.kills_worker = true,
                ("object_info_delay", _) => {
                    let delay = parse_span(value);
                    let advice = || format!("{name}={value}: write a duration, such as 50ms");
                    settings.object_info_delay = Some(delay.ok_or_else(advice)?);
                }
                ("fault", "none") => settings.faults = Some(Vec::new()),
                ("fault", _) => {
                    let fault: ComfyFault = value.parse().map_err(|error| format!("{error}"))?;
                    settings.faults.get_or_insert_with(Vec::new).push(fault);
                }
                ("count", _) => {
                    let count = value.parse().ok().filter(|count| *count <= MAX_FAULTS);
                    let advice = || format!("count={value}: write a number up to {MAX_FAULTS}");
                    settings.count = Some(count.ok_or_else(advice)?);
                }
                _ => {
                    return Err(format!(
                        "{name}={value}: write silent=true, stalled=true, worker=dead, \
                         object_info_delay=50ms, fault=accept-reset or none, count=1"
                    ));
                }
            }
        }
        Ok(settings)
    }

    fn apply(self, studio: &Studio) -> Reply {
        let count = self.count.unwrap_or(1);
        let mode = &studio.mode;
        mode.send_modify(|mode| {
            mode.is_stalled = self.is_stalled.unwrap_or(mode.is_stalled);
            mode.is_worker_dead |= self.kills_worker;
        });
        let Mode {
            is_stalled,
            is_worker_dead,
        } = *mode.borrow();
        let now = studio.change(|state| {
            state.is_silent = self.is_silent.unwrap_or(state.is_silent);
            let delay = self.object_info_delay;
            state.object_info_delay = delay.unwrap_or(state.object_info_delay);
            if let Some(faults) = self.faults {
                state.faults.clear();
                let faults = faults.into_iter();
                let faults = faults.flat_map(|fault| core::iter::repeat_n(fault, count));
                state.faults.extend(faults.take(MAX_FAULTS));
            }
            json!({
                "silent": state.is_silent,
                "stalled": is_stalled,
                "worker": if is_worker_dead { "dead" } else { "alive" },
                "object_info_delay_ms": state.object_info_delay.as_millis(),
                "faults": state.faults.len(),
            })
        });
        Reply::json(200, &json!({ "now": now }))
    }
}
