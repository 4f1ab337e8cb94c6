//! Leases of scarce upstream capacity, decided by deterministic state machines.
//!
//! This crate holds every decision that Leasehold takes: who is next, how long to wait, what is over a
//! limit. It has no clock, no I/O, no threads and no randomness but a seed it was given, so that the
//! code that serves traffic also runs under property tests, fuzzers and simulated time. It is `no_std`
//! and needs an allocator.
//!
//! # Contract
//! Commands take the present as a [`Tick`](time::Tick) and answer their caller. A machine with
//! deadlines of its own also has
//! - `handle_timeout(now)`: does what is due, in order of time. Due means `deadline <= now`. Early or
//!   repeated calls have no effect, a late one costs nobody their turn, and every command does the
//!   same first.
//! - `poll_timeout()`: when `handle_timeout` is wanted next; `None` means never.
//! - `poll_event()`: what happened that nobody asked for. To be drained after each command.
//!
//! Time that runs backwards is clamped to the latest seen. Handles carry a generation: a stale one is
//! an error, never a panic and never somebody else's lease.
//!
//! # What is promised
//! - A [`limit`] never admits more than its [`worst_case`](limit::Limit::worst_case).
//! - A [`pool`] never has two leases on one permit, never forgets a waiter, and grants by priority, in
//!   turn between flows, and in order of arrival.
//! - A [breaker](health::Breaker) lets out no more probes than it may, and no answer of an earlier epoch moves it.
//! - [Probes](health::Health) turn a member on exactly so many contrary answers in a row, and probes don't align.
//! - An [outlier](health::Outlier) sweep never takes those ejected above their share.
//! - An [`affinity`] table never holds more than it may, and forgets what was unused the longest.
//! - A [retry budget](retry::RetryBudget) never allows more retries than it states for any span.
//! - A [histogram](pool::stats::Histogram)'s quantiles are within 1/32 of the true ones.
//!
//! Each is a property in the `tests` package, held against a plain oracle.

#![no_std]
#![warn(clippy::arithmetic_side_effects)]

extern crate alloc;

pub mod affinity;
pub mod balance;
pub mod health;
pub mod limit;
pub mod pool;
mod random;
pub mod retry;
pub mod time;
mod util;
