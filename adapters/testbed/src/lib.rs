//! Honest upstreams to test against: they enforce their limits, count what they saw, and answer as the
//! real services do.
//!
//! This crate is the judge of everything else here, so it shares no code with what it judges: limits
//! are enforced by brute force over the arrivals themselves.
//!
//! ```
//! use core::num::NonZeroU32;
//! use leasehold_testbed::{OpenAi, OpenAiConfig};
//!
//! let server = OpenAi::start(OpenAiConfig {
//!     keys: vec!["sk-first".into(), "sk-second".into()],
//!     limit: NonZeroU32::new(3),
//!     ..OpenAiConfig::default()
//! })?;
//! // Send calls to `server.url()`, then ask what it saw.
//! assert_eq!(server.report().calls, 0);
//! server.stop();
//! # Ok::<(), leasehold_testbed::StartError>(())
//! ```

extern crate alloc;

mod clock;
mod judge;
mod openai;
mod report;
mod server;

pub use openai::{Fault, FaultKind, OpenAi, OpenAiConfig, StartError};
pub use report::{KeyReport, Report};
