//! The lease pool for tasks of tokio, and leases and rate limits as layers of tower.
//!
//! [`TokioPool`] is [`SyncPool`] on tokio's clock: tasks and threads share one queue, with the same guarantees.
//! [`LeaseLayer`] leases a member for each request of a tower stack; [`RateLimitLayer`] holds requests to a
//! limit of the core.
//!
//! With the feature `http`, `LeaseLayer::hold_body` holds a lease until the response's body ends, and
//! `RateLimitLayer::with_headers` tells callers the limit and when to come back. With the feature `remote`, `RemotePool` is
//! a pool of a gateway elsewhere.
//!
//! # Dropped futures
//! Every future here may be dropped at any point. It then cancels its request or releases its grant, and hands
//! the role of timekeeper over; no other request waits longer for it.
//!
//! # Futures that are kept and not polled
//! A pending future that is neither polled nor dropped keeps its place in the queue, what is granted to it, and
//! the role of timekeeper if it has it; others wait for it. The same holds for a service whose readiness was
//! polled. Don't await anything else while one is set aside.
//!
//! # Paused time
//! Threads outside of the runtime don't see that its clock is paused or advanced by hand. Tests that mix threads
//! and tasks need a clock that runs.

mod acquire;
mod clock;
mod lease;
#[cfg(feature = "http")]
mod lease_body;
#[cfg(feature = "http")]
mod leased_body;
mod pool;
mod rate_limit;
#[cfg(feature = "http")]
mod rate_limit_headers;
#[cfg(feature = "http")]
mod rate_limit_policies;
#[cfg(feature = "http")]
mod refusal;
#[cfg(feature = "remote")]
mod remote;
mod subscription;
#[cfg(test)]
mod tests;

pub use acquire::Acquire;
pub use lease::{
    Classify, ClassifyByResult, LeaseError, LeaseFuture, LeaseLayer, LeaseService, Leased,
};
#[cfg(feature = "http")]
pub use lease_body::{LeaseBodyFuture, LeaseBodyLayer, LeaseBodyService};
#[cfg(feature = "http")]
pub use leased_body::{BodyEnd, ClassifyEnd, KeepRelease, LeasedBody};
pub use pool::TokioPool;
pub use rate_limit::{RateLimit, RateLimitError, RateLimitFuture, RateLimitLayer};
#[cfg(feature = "http")]
pub use rate_limit_headers::{
    BuildRefusal, RateLimitHeaders, RateLimitHeadersFuture, RateLimitHeadersLayer, TextRefusal,
};
#[cfg(feature = "http")]
pub use rate_limit_policies::{PolicyNameError, RateLimitFields, RateLimitPolicies};
#[cfg(feature = "remote")]
pub use remote::RemotePool;
pub use subscription::Subscription;

// What a pool elsewhere is asked for and tells. `Place` is that of a member in the core.
#[cfg(feature = "remote")]
pub use leasehold_protocol::lease::{
    GrantedLease, LeaseFailure, LeaseRequest, Place as RemotePlace, PlaceError as RemotePlaceError,
};

// Types of the shared pool and of the core that the commands above take or answer with.
pub use leasehold_core::limit::Quota;
pub use leasehold_sync::{
    AcquireError, AddError, BreakerError, CancelHandle, Cause, Charge, Eligibility, Estimate,
    Explained, FlowConfig, FlowStats, GroupId, HalfLife, HealthChange, Histogram, Labels, Lease,
    LeaseCounts, LeaseExpired, LoadFactor, Member, MemberId, MemberSetting, MemberStats,
    MemberUpdate, Outcome, PendingLease, Place, Policy, PolicyConfigError, PoolConfig,
    PoolConfigBuilder, PoolConfigError, PoolEvent, PoolId, ProbeId, ProbeResult, QueueStats,
    Release, Request, ShareBy, StaleMember, StaleProbe, Stats, SyncPool, TableSize, Tick,
    TooManyNames, UpdateError, health, limit, stable_hash,
};

/// Runs the README's example as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
