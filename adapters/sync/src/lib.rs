//! The lease pool for threads.
//!
//! [`SyncPool`] puts a lock, a clock and parked threads around [`leasehold_core::pool::Pool`], which
//! takes every decision. A thread that has to wait sleeps until exactly its request is decided; one of
//! those that wait also keeps time for all. Nothing polls, and a hand-over wakes one thread.
//!
//! # Poisoning
//! Locks here are held only over commands of the core, which don't panic, and over the delivery of
//! their answers. A poisoned lock therefore guards sound state and is used as if it weren't poisoned.

mod clock;
mod parker;
mod pool;
mod sync;

pub use clock::Clock;
pub use leasehold_core as core;
pub use pool::{AcquireError, Lease, LeaseExpired, SyncPool};
