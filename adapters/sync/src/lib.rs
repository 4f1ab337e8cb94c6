//! The lease pool for threads, and for tasks of any runtime.
//!
//! [`SyncPool`] puts a lock, a clock and parked threads around [`leasehold_core::pool::Pool`], which
//! takes every decision. A thread that has to wait sleeps until exactly its request is decided; one of
//! those that wait also keeps time for all. Nothing polls, and a hand-over wakes one thread. A [`PendingLease`]
//! can be polled by a task in place of being waited for by a thread; both may stand in one line.
//!
//! # Poisoning
//! Locks here are held only over commands of the core, which don't panic, and over the delivery of
//! their answers. A poisoned lock therefore guards sound state and is used as if it weren't poisoned.
//!
//! # What loom explores
//! `pool/races.rs` is every interleaving of two or three threads with up to three preemptions: two who
//! want one permit; a release against a timeout, a cancellation, a dropped pending, an expiry and a close; a
//! window that opens before and after an alarm; and a timekeeper that times out, is served, cancelled or
//! dropped, or was a listener that leaves, while others wait. Time is one more thread, which sets the clock
//! and rings for those who sleep until then. Outside of loom the same tests are a thousand runs each with real
//! threads.
//!
//! Not explored: more threads, whose number of interleavings is out of reach, and for which
//! `tests/stress.rs` stands in; a clock that is read at two times in one command, as commands read it once;
//! the few microseconds that one who is next in line looks for mail before it sleeps, since what it sees there
//! it reads again under the lock; and tasks, whose wakers are called where threads are notified.
//!
//! Each of these changes to the code makes the test fail that is named beside it:
//!
//! | change | caught by |
//! |---|---|
//! | a call notifies nobody | nearly all |
//! | a decision is not put into the mail | `a_listener_that_keeps_time_and_leaves_strands_nobody` |
//! | a decision is put into the mail without a call | `a_release_against_a_cancel_serves_or_cancels_and_loses_no_permit` |
//! | mail is not looked for before sleep | `a_listener_sees_a_lease_expire_for_which_nobody_waits` |
//! | the timekeeper's role stays with one who left | `a_listener_that_keeps_time_and_leaves_strands_nobody` |
//! | nobody is appointed, or who is appointed isn't woken | `a_listener_sees_a_lease_expire_for_which_nobody_waits` |
//! | an alarm is not moved forward for an earlier deadline | `a_timekeeper_that_leaves_strands_nobody` |
//! | the timekeeper wakes and lets nothing be done | `a_listener_sees_a_lease_expire_for_which_nobody_waits` |
//! | a pending that was asked to look up sleeps on | `a_listener_that_keeps_time_and_leaves_strands_nobody` |
//! | a dropped pending stays in line | `a_timekeeper_that_is_dropped_strands_nobody` |
//! | a dropped pending keeps what was granted to it | `a_ticket_dropped_as_it_is_granted_gives_the_lease_back` |
//! | what is granted as its pending leaves is kept | `a_ticket_dropped_as_its_window_opens_gives_the_lease_back` |
//! | one who is cancelled isn't told | `a_release_against_a_cancel_serves_or_cancels_and_loses_no_permit` |
//! | a lease that is dropped isn't released | `a_release_against_a_cancel_serves_or_cancels_and_loses_no_permit` |
//! | listeners aren't told | `a_listener_sees_a_lease_expire_for_which_nobody_waits` |
//! | a close doesn't wake listeners | `close_never_strands_a_listener` |
//! | a listener that was told keeps the time | `a_listener_that_was_told_and_does_not_come_back_strands_nobody` |

mod atomic_gcra;
mod atomic_window;
mod clock;
mod events;
mod keyed;
mod lease;
mod limiter;
#[cfg(test)]
mod limits_tests;
mod parker;
mod pending;
mod pool;
mod spin;
mod state;
mod sync;

pub use atomic_gcra::AtomicGcra;
pub use atomic_window::{AtomicWindow, WindowError};
pub use clock::Clock;
pub use events::{PoolEvent, Subscription};
pub use keyed::{Each, KeyedError, KeyedLimiter, Rule};
pub use lease::{Lease, LeaseExpired};
pub use leasehold_core as core;
pub use limiter::SyncLimiter;
pub use pending::{CancelHandle, PendingLease};
pub use pool::{AcquireError, SyncPool};
