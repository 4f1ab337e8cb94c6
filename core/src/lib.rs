//! Leases of scarce upstream capacity, decided by deterministic state machines.
//!
//! This crate takes every decision of Leasehold: which member serves a request, how long it waits, and
//! whether it is within the limits. It has no clock, no I/O, no threads, and no randomness except a
//! seed given to it, so the code that serves traffic also runs under property tests, fuzzers and
//! simulated time. It is `no_std` and needs an allocator.
//!
//! # Contract
//! Commands take the current time as a [`Tick`](time::Tick) and return their result. A machine with
//! deadlines of its own also has:
//! - `handle_timeout(now)`: does everything due, in order of time. Due means `deadline <= now`. Early or
//!   repeated calls have no effect, a late call costs no waiter its turn, and every command does the same
//!   first.
//! - `poll_timeout()`: returns when `handle_timeout` is due next; `None` means never.
//! - `poll_event()`: returns the next event that is not the result of a command. Drain it after each
//!   command.
//!
//! Time that runs backwards is clamped to the latest tick seen. Handles carry a generation: a stale
//! handle is an error, never a panic and never another lease.
//!
//! # What is promised
//! - A [`limit`] never admits more than its [`worst_case`](limit::Limit::worst_case).
//! - A [`pool`] never grants one permit twice, never loses a waiter, and grants by priority, in turn
//!   between flows, and in order of arrival.
//! - A [breaker](health::Breaker) never has more than the configured number of probes out, and ignores
//!   results of an earlier epoch.
//! - A [prober](health::Prober) changes a member's health after exactly the configured number of
//!   consecutive contrary results, and spreads the probes of many members over the interval.
//! - A sweep of an [outlier detector](health::OutlierDetector) never raises the ejected members above
//!   their allowed share.
//! - An [`affinity`] table never exceeds its capacity, and evicts the least recently used session.
//! - A [retry budget](retry::RetryBudget) never allows more retries than it states for any span.
//! - A [histogram](pool::stats::Histogram)'s quantiles are within 1/32 of the true ones.
//!
//! Each promise is a property in the `tests` package, checked against a plain oracle.

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
