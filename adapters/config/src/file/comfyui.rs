//! The table of a pool of ComfyUI servers.
//!
//! Invariant: the table that is built and shown again gives the same settings.

use super::{Text, Timeout};
use crate::settings::ComfyuiSettings;
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What holds for ComfyUI servers alone.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ComfyuiTable {
    /// Jobs that wait at a server behind the one that runs; all others wait in the gateway.
    #[schemars(range(min = 0, max = 1_000))]
    pub(crate) prefetch: u32,
    /// The pause between two looks at a server that has jobs, from which no event came.
    pub(crate) poll: Text<Timeout>,
    /// How long a server may give no sign before its jobs are done elsewhere; longer than `poll`.
    pub(crate) lost_after: Text<Timeout>,
    /// How long a job may run without progress before it is taken from its server; longer than `poll`.
    pub(crate) stalled_after: Text<Timeout>,
    /// How long a server with waiting jobs may run none before its worker is taken for dead; longer than `poll`.
    pub(crate) idle_after: Text<Timeout>,
    /// Waiting jobs above which an event tells of it; none without it.
    pub(crate) alert_waiting: Option<u32>,
    /// The wait of a job above which an event tells of it; none without it.
    pub(crate) alert_wait: Option<Text<Timeout>>,
    /// Whether servers are chosen by their queues; otherwise the first in the file's order that is up is used.
    pub(crate) queue_weight: bool,
    /// Whether other servers than the first are used; otherwise they have weight 0.
    pub(crate) failover: bool,
    /// Whether the log has a full report after each round of checks.
    pub(crate) verbose: bool,
    /// Ended jobs that are remembered.
    #[schemars(range(min = 1))]
    pub(crate) max_history: u32,
    /// Bytes of uploaded files that are kept, at most 1 PiB; 0 keeps none.
    #[schemars(range(min = 0, max = 1_125_899_906_842_624_u64))]
    pub(crate) max_uploads: u64,
}

impl Default for ComfyuiTable {
    fn default() -> Self {
        Self::of(ComfyuiSettings::default())
    }
}

impl ComfyuiTable {
    pub(crate) fn build(&self) -> ComfyuiSettings {
        ComfyuiSettings {
            prefetch: self.prefetch,
            poll: self.poll.0.0,
            lost_after: self.lost_after.0.0,
            stalled_after: self.stalled_after.0.0,
            idle_after: self.idle_after.0.0,
            alert_waiting: self.alert_waiting,
            alert_wait: self.alert_wait.map(|wait| wait.0.0),
            queue_weight: self.queue_weight,
            failover: self.failover,
            verbose: self.verbose,
            max_history: self.max_history,
            max_uploads: self.max_uploads,
        }
    }

    pub(crate) fn of(settings: ComfyuiSettings) -> Self {
        let timeout = |span: Duration| Text(Timeout(span));
        Self {
            prefetch: settings.prefetch,
            poll: timeout(settings.poll),
            lost_after: timeout(settings.lost_after),
            stalled_after: timeout(settings.stalled_after),
            idle_after: timeout(settings.idle_after),
            alert_waiting: settings.alert_waiting,
            alert_wait: settings.alert_wait.map(timeout),
            queue_weight: settings.queue_weight,
            failover: settings.failover,
            verbose: settings.verbose,
            max_history: settings.max_history,
            max_uploads: settings.max_uploads,
        }
    }
}
