#![doc = include_str!("../README.md")]

mod capacity;
mod change;
mod cost;
mod figures;
mod html;
mod json;
mod limit;
mod prediction;
mod simulation;
mod table;
#[cfg(test)]
mod tests;
mod trace;
mod workload;

pub use capacity::{Capacity, CapacityError, PlannedMember};
pub use change::{Change, ParseChangesError};
pub use cost::{ParsePricesError, ParseTokensError, Prices, Tokens};
pub use figures::{Figures, Quantiles};
pub use limit::PlanLimit;
pub use prediction::Prediction;
pub use simulation::{Fate, PlanError, Schedule, ScheduledCall, simulate};
pub use trace::{Trace, TraceDefaults};
pub use workload::{Call, CallTime, NarrowStart, Pace, Workload, WorkloadError};
