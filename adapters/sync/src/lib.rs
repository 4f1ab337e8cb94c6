//! The lease pool for threads, and for tasks of any runtime.
//!
//! [`SyncPool`] puts a lock, a clock and parked threads around [`leasehold_core::pool::Pool`], which
//! takes every decision. A thread that has to wait sleeps until exactly its request is decided; one of
//! those that wait also keeps time for all. Nothing polls, and a hand-over wakes one thread. A [`Ticket`]
//! can be polled by a task in place of being waited for by a thread; both may stand in one line.
//!
//! # Poisoning
//! Locks here are held only over commands of the core, which don't panic, and over the delivery of
//! their answers. A poisoned lock therefore guards sound state and is used as if it weren't poisoned.

mod clock;
mod desk;
mod lease;
mod lookout;
mod notices;
mod parker;
mod pool;
mod sync;
mod ticket;

pub use clock::Clock;
pub use lease::{Lease, LeaseExpired};
pub use leasehold_core as core;
pub use notices::{Notice, Notices};
pub use pool::{AcquireError, SyncPool};
pub use ticket::{Canceller, Ticket};
