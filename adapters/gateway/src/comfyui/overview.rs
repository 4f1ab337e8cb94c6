//! The jobs of all callers, as the operator sees them.

use super::hub::Hub;
use super::record::JobRecord;
use leasehold_protocol::comfyui::Preview;
use serde_json::{Value, json};

impl Hub {
    /// Returns jobs that have not ended, by their ids; up to a number of those that end next.
    pub(crate) fn overview(&self, max: usize) -> Value {
        let state = self.state();
        let mut jobs: Vec<_> = state.jobs.iter().collect();
        let rank = |record: &JobRecord| {
            let is_waiting = record.machine.server().is_none();
            (!record.machine.is_running(), is_waiting, record.order())
        };
        jobs.sort_by_key(|(_, record)| rank(record));
        let shown = jobs.into_iter().take(max).enumerate();
        let shown = shown.map(|(place, (id, record))| {
            let server = record.machine.server();
            let server = server.and_then(|server| state.servers.name(server));
            let mut job = json!({
                "place": place, "status": record.status(), "created": record.created,
                "lost": record.machine.lost_at().len(),
                "has_preview": record.replay.preview().is_some(),
            });
            if let Some(server) = server {
                job["server"] = server.into();
            }
            if let Some(begun) = record.begun {
                job["begun"] = begun.into();
            }
            (id.to_string(), job)
        });
        Value::Object(shown.collect())
    }

    /// Returns the picture of a job's last preview.
    pub(crate) fn preview(&self, id: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let frame = state.jobs.get(id)?.replay.preview()?;
        Some(Preview::read(frame)?.image().to_vec())
    }

    /// Takes a job back for the operator; whether there is one of this id.
    pub(crate) fn take_back(&self, id: &str) -> bool {
        self.cancel(|one, _| **one == *id) > 0
    }
}
