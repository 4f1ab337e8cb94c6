//! ComfyUI servers: a job against a world of them, and readers of what they say.

pub mod job;
mod oracle;
pub mod read;
mod world;
