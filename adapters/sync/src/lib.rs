//! The lease pool for threads, and for tasks of any runtime.
//!
//! [`SyncPool`] is [`leasehold_core::pool::Pool`], which takes every decision, with a lock, a clock and parked
//! threads around it. A thread sleeps until its request is decided, and a release wakes only the thread whose
//! request it grants. One of the sleeping threads, the timekeeper, runs the pool's timers for all; nothing
//! polls. A task polls its [`PendingLease`] instead of waiting; threads and tasks share one queue.
//!
//! Shared limiters: [`AtomicGcra`] and [`AtomicWindow`] without a lock, [`SyncLimiter`] around any algorithm of
//! the core, and [`KeyedLimiter`] for a limit per key.
//!
//! # Poisoning
//! Locks are held over commands of the core, which don't panic, and over the delivery of their events. A
//! poisoned lock therefore guards sound state, and is used as if it weren't poisoned.
//!
//! # Interleavings that loom explores
//! `pool/races.rs` runs every interleaving of two or three threads with up to three preemptions: two threads
//! that want one permit; a release against a timeout, a cancellation, a dropped request, an expiry and a close;
//! a window that opens before or after the wake-up time; and a timekeeper that times out, is served, cancelled
//! or dropped while others wait. Time is one more thread, which sets the clock and wakes the threads that are
//! due. Without loom the same tests run a thousand times each with real threads.
//!
//! Not explored: more threads, for which `tests/stress.rs` stands in; two readings of the clock in one command,
//! as commands read it once; the spin before parking, as what it sees is read again under the lock; and tasks,
//! whose wakers are called where threads are notified.
//!
//! Each of these mutations of the code makes the named test fail:
//!
//! | mutation | caught by |
//! |---|---|
//! | `Parker::notify` notifies no thread | nearly all |
//! | a decision is not stored in the slot | `a_subscriber_that_times_out_hands_over_timekeeping` |
//! | a decision is stored without a notification | `a_release_against_a_cancel_serves_or_cancels_and_loses_no_permit` |
//! | the slot is not checked before sleeping | `a_subscriber_sees_an_expiry_with_no_waiter` |
//! | a timekeeper that leaves keeps its role | `a_subscriber_that_times_out_hands_over_timekeeping` |
//! | no timekeeper is elected, or the elected one is not woken | `a_subscriber_sees_an_expiry_with_no_waiter` |
//! | an earlier deadline does not move the wake-up time forward | `a_timekeeper_that_times_out_hands_over` |
//! | the timekeeper wakes and does not run the timers | `a_subscriber_sees_an_expiry_with_no_waiter` |
//! | a nudged request goes back to sleep | `a_subscriber_that_times_out_hands_over_timekeeping` |
//! | a dropped request stays queued | `a_timekeeper_that_is_dropped_hands_over` |
//! | a dropped request keeps its grant | `a_request_dropped_as_it_is_granted_releases_the_lease` |
//! | a grant in the same command as the drop is kept | `a_request_dropped_as_its_window_opens_releases_the_lease` |
//! | a cancelled request is not told | `a_release_against_a_cancel_serves_or_cancels_and_loses_no_permit` |
//! | a dropped lease is not released | `a_release_against_a_cancel_serves_or_cancels_and_loses_no_permit` |
//! | subscribers receive no events | `a_subscriber_sees_an_expiry_with_no_waiter` |
//! | a close does not wake subscribers | `close_never_strands_a_subscriber` |
//! | a subscriber that took an event stays timekeeper | `a_subscriber_that_took_an_event_hands_over_timekeeping` |

mod atomic_gcra;
mod atomic_window;
mod clock;
mod error;
mod event;
mod explained;
mod keyed;
mod lease;
mod leased_reader;
mod limiter;
#[cfg(test)]
mod limits_tests;
mod names;
mod parker;
mod pending;
mod pool;
mod remote;
mod shared;
mod spin;
mod state;
mod subscription;
mod sync;

pub use atomic_gcra::AtomicGcra;
pub use atomic_window::{AtomicWindow, AtomicWindowConfigError};
pub use clock::Clock;
pub use error::AcquireError;
pub use event::PoolEvent;
pub use explained::Explained;
pub use keyed::{KeyRule, KeyedError, KeyedLimiter, PerKey};
pub use lease::{Lease, LeaseExpired};
pub use leased_reader::LeasedReader;
pub use limiter::SyncLimiter;
pub use names::TooManyNames;
pub use pending::{CancelHandle, PendingLease};
pub use pool::SyncPool;
pub use remote::RemoteLease;
pub use subscription::Subscription;

// Types of the core that the commands above take or answer with.
pub use leasehold_core::balance::{
    HalfLife, LoadFactor, Policy, PolicyConfigError, TableSize, stable_hash,
};
pub use leasehold_core::pool::stats::{Histogram, LeaseCounts, MemberStats, QueueStats, Stats};
pub use leasehold_core::pool::{
    AddError, BreakerError, Cause, Charge, Eligibility, Estimate, FlowConfig, FlowStats, Forecast,
    GroupId, HealthChange, HeldLease, Labels, LeaseId, Member, MemberCondition, MemberId,
    MemberSetting, MemberStatus, MemberUpdate, Outcome, Place, Plan, PoolConfig, PoolConfigBuilder,
    PoolConfigError, PoolId, ProbeId, ProbeResult, Release, Request, ShareBy, StaleMember,
    StaleProbe, StaleWaiter, UpdateError,
};
pub use leasehold_core::time::Tick;
pub use leasehold_core::{health, limit};

/// Runs the README's example as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
