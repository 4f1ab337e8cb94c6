//! The lease pool for tasks of tokio, and leases and rate limits as layers of tower.
//!
//! [`TokioPool`] is [`SyncPool`](leasehold_sync::SyncPool) on tokio's clock: tasks and threads stand in
//! one line, and what is true of the one is true of the other. [`LeaseLayer`] gives each request of a
//! tower stack a member to go to; [`RateLimitLayer`] lets through what a limit of the core allows.
//!
//! # Dropped futures
//! Every future here may be dropped at any point. It then leaves the line, gives back what it was
//! granted, and hands over the time that it kept; nobody else waits longer for it.
//!
//! # Futures that are kept and not polled
//! A future that was polled, is pending, and is then neither polled nor dropped keeps its place in line
//! and what is granted to it, and those behind it wait. So does a service whose readiness was asked for.
//! It may also be the one that keeps time for all. Don't await anything else while one is set aside.
//!
//! # Paused time
//! Threads outside of a runtime don't see that its clock is paused or moved on by hand. Tests that mix
//! them with tasks need a clock that runs.

mod acquire;
mod clock;
mod events;
mod lease;
mod pool;
mod rate_limit;
#[cfg(test)]
mod tests;

pub use acquire::Acquire;
pub use events::Subscription;
pub use lease::{
    Classify, ClassifyByResult, LeaseError, LeaseFuture, LeaseLayer, LeaseService, Leased,
};
pub use leasehold_core as core;
pub use leasehold_sync as sync;
pub use pool::TokioPool;
pub use rate_limit::{RateLimit, RateLimitError, RateLimitFuture, RateLimitLayer};
