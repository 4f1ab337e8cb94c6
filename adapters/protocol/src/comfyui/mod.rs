//! ComfyUI servers: what a prompt asks, what a server says of it, and what follows for the job.
//!
//! Facts of the API, of the ages 2025 and 2026: ComfyUI's `server.py`, `execution.py` and `comfy_execution/jobs.py`.

mod events;
mod files;
mod history;
mod job;
mod nodes;
mod placed;
mod prompt;
mod queue;
mod step;

pub use events::{Event, EventKind, Preview, ServerFrame, StatusFrame};
pub use files::{map_files, replace_inputs};
pub use history::{Entry, entry_of, failed_entry, hide_secrets};
pub use job::{Job, JobConfig};
pub use nodes::NodeInfo;
pub use prompt::{Prompt, PromptError, Refused, judge_refusal};
pub use queue::{Queue, QueueItem};
pub use step::{End, Ended, Look, Loss, ServerId, Step, Submission};
