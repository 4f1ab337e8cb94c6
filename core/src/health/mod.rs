//! Whether a member is fit to serve: breaker, probes, outlier detection, slow start, panic threshold.
//!
//! The terms are those of Envoy. Each machine watches one member, except for [`OutlierDetector`] and
//! [`PanicThreshold`], which compare all of them. None of them knows the pool.

mod breaker;
mod outlier;
mod panic;
mod probes;
mod slow_start;

pub use breaker::{
    Breaker, BreakerConfig, BreakerConfigBuilder, BreakerConfigError, BreakerState, CallResult,
    Permit,
};
pub use outlier::{
    Ejection, OutcomeWindow, OutlierConfig, OutlierConfigBuilder, OutlierConfigError,
    OutlierDetector,
};
pub use panic::{PanicThreshold, PanicThresholdError};
pub use probes::{
    ProbeAnswer, ProbeConfig, ProbeConfigBuilder, ProbeConfigError, ProbeNumber, Prober, Transition,
};
pub use slow_start::{SlowStart, SlowStartConfig, SlowStartConfigError};
