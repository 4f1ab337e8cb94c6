//! The lease pool: members, leases on them, and the queue of requests.
//!
//! A request goes `acquire` -> `select` -> grant (`acquire`, `select`); a lease ends by `release` -> settle ->
//! `hand_over` (`release`, `drive`). The parts of the pool own their state: `members`, `lanes`, `queue`,
//! `flows`, `leases`, `groups`, `labels`, `charges`, `fast_failures`, `times`, each member's `backlog` and the figures in
//! `stats`.

mod acquire;
mod backlog;
mod charges;
mod compaction;
mod condition;
mod config;
mod drive;
mod eligibility;
mod error;
mod event;
mod fairness;
mod fast_failures;
mod flows;
mod forecast;
mod groups;
mod ids;
mod inspect;
mod labels;
mod lane;
mod lanes;
mod leases;
mod member;
mod member_health;
mod member_state;
mod members;
mod membership;
mod outcome;
mod postpone;
mod queue;
mod release;
#[cfg(feature = "serde")]
mod replay;
mod request;
mod select;
#[cfg(feature = "serde")]
mod snapshot;
pub mod stats;
#[cfg(test)]
mod tests;
mod times;

pub use charges::Charge;
pub use compaction::{close_log, compact_log, compact_log_by_age};
pub use condition::MemberCondition;
pub use config::{PoolConfig, PoolConfigBuilder, PoolConfigError};
pub use drive::Pool;
pub use eligibility::{Cause, Eligibility};
pub use error::{
    AcquireError, AddError, BreakerError, StaleLease, StaleMember, StaleProbe, StaleWaiter,
    UpdateError,
};
pub use event::{Acquired, Estimate, Event, Grant, HealthChange, HeldLease, Place};
pub use flows::{FlowConfig, FlowStats, ShareBy};
pub use forecast::{Forecast, Plan};
pub use ids::{GroupId, LeaseId, MemberId, PoolId, ProbeId, WaiterId};
pub use labels::{Labels, TooManyLabelSets};
pub use member::{Member, MemberSetting, MemberUpdate};
pub use member_state::Status as MemberStatus;
pub use outcome::{Outcome, ProbeResult, Release};
#[cfg(feature = "serde")]
pub use replay::Replayed;
pub use request::Request;
#[cfg(feature = "serde")]
pub use snapshot::{PoolSnapshot, RestoreError};
