//! Whether a member is asked at all: breakers, probes, outlier ejection, slow start and panic threshold.
//!
//! The terms are those of Envoy. Each machine here watches one member, but for [`Outlier`], which
//! compares all of them. None of them knows the pool.

mod breaker;
mod outlier;
mod panic;
mod probes;
mod slow_start;

pub use breaker::{Breaker, BreakerConfig, BreakerConfigError, BreakerState, CallResult, Permit};
pub use outlier::{Ejection, OutcomeWindow, Outlier, OutlierConfig, OutlierConfigError};
pub use panic::{PanicThreshold, PanicThresholdError};
pub use probes::{Health, HealthConfig, HealthConfigError, ProbeAnswer, ProbeId, Transition};
pub use slow_start::{SlowStart, SlowStartConfig, SlowStartConfigError};
