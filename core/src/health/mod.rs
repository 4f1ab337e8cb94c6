//! Whether a member is fit to serve: breaker, probes, outlier detection, slow start, panic threshold; and alerts.
//!
//! The terms are those of Envoy. Each machine watches one member, except for [`OutlierDetector`] and
//! [`PanicThreshold`], which compare all of them, and [`Alert`], which watches any condition. None of them knows the
//! pool.

mod alert;
mod breaker;
mod outlier;
mod panic;
mod probes;
mod slow_start;
mod trail;

pub use alert::{Alert, AlertChange, AlertConfig};
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
pub use trail::Trail;
