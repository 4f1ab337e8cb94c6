//! Circuit breaker of one member: closed, open or half-open.
//!
//! Invariant: probes are out only in the half-open state, at most [`BreakerConfigBuilder::probes`] of them
//! when each begins, and `probes` holds their deadlines in ascending order.
//!
//! # States
//! - **Closed**: every call is let through. It trips (opens) with the outcome that reaches the allowed
//!   number of consecutive failures or the allowed failure rate.
//! - **Open**: no call is let through for `min(cap, base * 2^k)`, where `k` counts the trips since the
//!   backoff was last reset. Then it is half-open.
//! - **Half-open**: a bounded number of calls is let through at once, as probes. Enough consecutive
//!   successes close it. A failed probe opens it again, and so does a probe that times out.
//!
//! Closing does not reset `k`, so that a member that fails soon after each recovery is tried less and
//! less. `k` is reset once the breaker has stayed closed for [`BreakerConfigBuilder::reset_after`].
//!
//! Every change of state begins an epoch. Results of calls from an earlier epoch are ignored, so that
//! calls under way when the breaker opened cannot open it a second time or close it.

mod config;
mod window;

pub use config::{BreakerConfig, BreakerConfigBuilder, BreakerConfigError};

use crate::limit::Wait;
use crate::time::{ClockOffset, Tick, saturating_nanos};
use alloc::vec::Vec;
use window::FailureWindow;

/// State of a breaker at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub enum BreakerState {
    /// Every call is let through.
    Closed,
    /// No call is let through.
    Open {
        /// Tick at which the breaker becomes half-open.
        until: Tick,
    },
    /// Probes are let through, up to a bound.
    HalfOpen {
        /// Probes out now.
        probes: u32,
        /// Consecutive successes so far.
        successes: u32,
    },
}

/// Permission for one call, to be ended once by [`Breaker::end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use = "a probe whose permit is lost counts as failed"]
pub struct Permit {
    epoch: u64,
    /// Tick at which the call counts as failed, if it is a probe.
    deadline: Tick,
}

impl Permit {
    /// Moves the permit to another clock, which shows `to` when this one shows `from`.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        self.deadline = ClockOffset { from, to }.tick(self.deadline);
    }
}

/// Result of a call, as a breaker counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallResult {
    /// The member served the call.
    Ok,
    /// The member failed the call.
    Failed,
    /// No verdict on the member.
    ///
    /// The call was not sent, or was sent and ended without a verdict (abandoned, say), or failed for a
    /// reason that is not the member's. It counts as neither success nor failure. If it was a probe, its
    /// place is freed and the breaker stays half-open.
    Unused,
}

/// Circuit breaker of one member (M. Nygard, "Release It!", 2007).
///
/// Every operation costs O(1), and O(probes) while half-open. Memory is 120 bytes, plus 8 for each probe
/// out while half-open. Each command first does what [`handle_timeout`](Self::handle_timeout) would.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::health::{Breaker, BreakerConfig, BreakerState, CallResult};
/// use leasehold_core::limit::Wait;
/// use leasehold_core::time::Tick;
///
/// let two = NonZeroU32::new(2).unwrap();
/// let config = BreakerConfig::builder(Duration::from_secs(5), Duration::from_secs(60))
///     .consecutive_failures(two)
///     .build()?;
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
///
/// let mut breaker = Breaker::new();
/// for _ in 0..2 {
///     let permit = breaker.begin(&config, at(0)).unwrap();
///     breaker.end(&config, at(1), permit, CallResult::Failed);
/// }
/// assert_eq!(breaker.state(&config, at(1)), BreakerState::Open { until: at(6) });
/// assert_eq!(breaker.earliest(&config, at(2)), Wait::Until(at(6)));
///
/// let probe = breaker.begin(&config, at(6)).unwrap();
/// assert_eq!(breaker.begin(&config, at(6)), None);
/// breaker.end(&config, at(7), probe, CallResult::Ok);
/// assert_eq!(breaker.state(&config, at(7)), BreakerState::Closed);
/// # Ok::<(), leasehold_core::health::BreakerConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Breaker {
    latest: Tick,
    epoch: u64,
    /// Trips since the backoff was last reset.
    trips: u32,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
enum State {
    Closed {
        since: Tick,
        /// Consecutive failures.
        failures: u32,
        window: FailureWindow,
    },
    Open {
        until: Tick,
    },
    HalfOpen {
        /// Consecutive successes.
        successes: u32,
        /// Deadlines of the probes out.
        #[cfg_attr(feature = "serde", serde(deserialize_with = "in_order"))]
        probes: Vec<Tick>,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new()
    }
}

impl Breaker {
    /// Creates a closed breaker.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            latest: Tick::ZERO,
            epoch: 0,
            trips: 0,
            state: State::closed(Tick::ZERO),
        }
    }

    /// Returns the state at `now`.
    #[must_use]
    pub fn state(&self, config: &BreakerConfig, now: Tick) -> BreakerState {
        let now = now.max(self.latest);
        let until = match &self.state {
            State::Closed { .. } => return BreakerState::Closed,
            State::Open { until } => *until,
            State::HalfOpen { successes, probes } => match probes.first() {
                Some(deadline) if *deadline <= now => {
                    deadline.saturating_add(config.backoff(self.trips))
                }
                Some(_) | None => {
                    return BreakerState::HalfOpen {
                        probes: count(probes),
                        successes: *successes,
                    };
                }
            },
        };
        if now < until {
            BreakerState::Open { until }
        } else {
            BreakerState::HalfOpen {
                probes: 0,
                successes: 0,
            }
        }
    }

    /// Returns when the next call is let through if nothing else happens until then.
    ///
    /// [`Wait::ForSettlement`] while all probe places are taken; the first of them is freed at the latest
    /// at [`poll_timeout`](Self::poll_timeout).
    #[must_use]
    pub fn earliest(&self, config: &BreakerConfig, now: Tick) -> Wait {
        match self.state(config, now) {
            BreakerState::Closed => Wait::Until(now.max(self.latest)),
            BreakerState::Open { until } => Wait::Until(until),
            BreakerState::HalfOpen { probes, .. } if probes < config.probes.get() => {
                Wait::Until(now.max(self.latest))
            }
            BreakerState::HalfOpen { .. } => Wait::ForSettlement,
        }
    }

    /// Begins a call; `None` while the breaker is open or all probe places are taken.
    #[must_use]
    pub fn begin(&mut self, config: &BreakerConfig, now: Tick) -> Option<Permit> {
        self.advance(config, now);
        let deadline = self.latest.saturating_add(config.probe_timeout);
        match &mut self.state {
            State::Closed { .. } => {}
            State::Open { .. } => return None,
            State::HalfOpen { probes, .. } => {
                if count(probes) >= config.probes.get() {
                    return None;
                }
                let at = probes.partition_point(|other| *other <= deadline);
                probes.insert(at, deadline);
            }
        }
        Some(Permit {
            epoch: self.epoch,
            deadline,
        })
    }

    /// Ends a call. Ignored if the state has changed since the call began.
    pub fn end(&mut self, config: &BreakerConfig, now: Tick, permit: Permit, result: CallResult) {
        self.advance(config, now);
        if permit.epoch != self.epoch {
            return;
        }
        let now = self.latest;
        match &mut self.state {
            State::Open { .. } => {}
            State::Closed {
                failures, window, ..
            } => {
                match result {
                    CallResult::Ok => *failures = 0,
                    CallResult::Failed => *failures = failures.saturating_add(1),
                    CallResult::Unused => return,
                }
                let failed = result == CallResult::Failed;
                let by_count = config.consecutive.is_some_and(|max| *failures >= max.get());
                let by_rate = config
                    .rate
                    .is_some_and(|rate| window.record(rate, now, failed));
                if by_count || by_rate {
                    self.open(config, now);
                }
            }
            State::HalfOpen { successes, probes } => {
                let Ok(at) = probes.binary_search(&permit.deadline) else {
                    return;
                };
                probes.remove(at);
                match result {
                    CallResult::Ok => {
                        *successes = successes.saturating_add(1);
                        if *successes >= config.successes.get() {
                            self.enter(State::closed(now));
                        }
                    }
                    CallResult::Failed => self.open(config, now),
                    CallResult::Unused => {}
                }
            }
        }
    }

    /// Opens at once until `until`, as when an upstream says when it will serve again.
    ///
    /// An open breaker stays open until the later of both ticks. The backoff does not grow. Ignored if
    /// `until` has passed.
    pub fn trip(&mut self, config: &BreakerConfig, now: Tick, until: Tick) {
        self.advance(config, now);
        if until <= self.latest {
            return;
        }
        match &mut self.state {
            State::Open { until: before } => *before = until.max(*before),
            State::Closed { .. } | State::HalfOpen { .. } => {
                self.reset_backoff(config, self.latest);
                self.enter(State::Open { until });
            }
        }
    }

    /// Closes at once, as when an operator knows that the member serves again. The backoff starts anew, and the
    /// results of calls under way are ignored.
    pub fn reset(&mut self, now: Tick) {
        self.latest = self.latest.max(now);
        self.trips = 0;
        self.enter(State::closed(self.latest));
    }

    /// Does what is due: fails a probe that has timed out, goes from open to half-open.
    ///
    /// A late call acts as of the tick at which each was due.
    pub fn handle_timeout(&mut self, config: &BreakerConfig, now: Tick) {
        self.advance(config, now);
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due next; `None` means never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        match &self.state {
            State::Closed { .. } => None,
            State::Open { until } => Some(*until),
            State::HalfOpen { probes, .. } => probes.first().copied(),
        }
    }

    /// Moves all ticks to another clock, which shows `to` when this one shows `from`.
    ///
    /// Permits of calls under way have to be moved as well, by [`Permit::rebase`].
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        let offset = ClockOffset { from, to };
        self.latest = offset.tick(self.latest);
        match &mut self.state {
            State::Closed { since, window, .. } => {
                *since = offset.tick(*since);
                window.rebase(offset);
            }
            State::Open { until } => *until = offset.tick(*until),
            State::HalfOpen { probes, .. } => {
                for deadline in probes {
                    *deadline = offset.tick(*deadline);
                }
            }
        }
    }

    fn advance(&mut self, config: &BreakerConfig, now: Tick) {
        self.latest = self.latest.max(now);
        if let State::HalfOpen { probes, .. } = &self.state
            && let Some(deadline) = probes.first().copied()
            && deadline <= self.latest
        {
            self.open(config, deadline);
        }
        if let State::Open { until } = self.state
            && until <= self.latest
        {
            self.enter(State::HalfOpen {
                successes: 0,
                probes: Vec::new(),
            });
        }
    }

    /// Opens from `at` for the next backoff.
    fn open(&mut self, config: &BreakerConfig, at: Tick) {
        self.reset_backoff(config, at);
        let until = at.saturating_add(config.backoff(self.trips));
        self.trips = self.trips.saturating_add(1);
        self.enter(State::Open { until });
    }

    /// Resets the backoff if the breaker has stayed closed for long enough.
    fn reset_backoff(&mut self, config: &BreakerConfig, at: Tick) {
        if let State::Closed { since, .. } = self.state
            && saturating_nanos(at.since(since)) >= config.reset_after
        {
            self.trips = 0;
        }
    }

    fn enter(&mut self, state: State) {
        self.epoch = self.epoch.wrapping_add(1);
        self.state = state;
    }
}

impl State {
    const fn closed(since: Tick) -> Self {
        Self::Closed {
            since,
            failures: 0,
            window: FailureWindow::starting_at(since),
        }
    }
}

fn count(probes: &[Tick]) -> u32 {
    u32::try_from(probes.len()).unwrap_or(u32::MAX)
}

#[cfg(feature = "serde")]
fn in_order<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Tick>, D::Error> {
    let mut probes: Vec<Tick> = serde::Deserialize::deserialize(deserializer)?;
    probes.sort_unstable();
    Ok(probes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroU32;
    use core::time::Duration;

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    /// Opens for 10, 20, 40 and then 50 ns; trips after two consecutive failures.
    fn builder() -> BreakerConfigBuilder {
        let (base, cap) = (Duration::from_nanos(10), Duration::from_nanos(50));
        BreakerConfig::builder(base, cap)
            .consecutive_failures(number(2))
            .probe_timeout(Duration::from_nanos(7))
    }

    fn config() -> BreakerConfig {
        builder().build().unwrap()
    }

    fn call(breaker: &mut Breaker, config: &BreakerConfig, now: u64, result: CallResult) {
        let permit = breaker.begin(config, tick(now)).unwrap();
        breaker.end(config, tick(now), permit, result);
    }

    fn open_until(breaker: &Breaker, config: &BreakerConfig, now: u64) -> u64 {
        match breaker.state(config, tick(now)) {
            BreakerState::Open { until } => until.as_nanos(),
            state @ (BreakerState::Closed | BreakerState::HalfOpen { .. }) => panic!("{state:?}"),
        }
    }

    fn tripped(config: &BreakerConfig) -> Breaker {
        let mut breaker = Breaker::new();
        call(&mut breaker, config, 0, CallResult::Failed);
        call(&mut breaker, config, 0, CallResult::Failed);
        breaker
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let (config, mut breaker) = (config(), Breaker::new());
        for result in [
            CallResult::Failed,
            CallResult::Ok,
            CallResult::Failed,
            CallResult::Unused,
        ] {
            call(&mut breaker, &config, 1, result);
            assert_eq!(breaker.state(&config, tick(1)), BreakerState::Closed);
        }
        call(&mut breaker, &config, 1, CallResult::Failed);
        assert_eq!(open_until(&breaker, &config, 1), 11);
    }

    #[test]
    fn each_failure_while_half_open_doubles_the_time_up_to_the_cap() {
        let config = config();
        let mut breaker = tripped(&config);
        let mut now = 0;
        for backoff in [10, 20, 40, 50, 50, 50] {
            assert_eq!(open_until(&breaker, &config, now), now + backoff);
            now += backoff;
            call(&mut breaker, &config, now, CallResult::Failed);
        }
    }

    #[test]
    fn the_backoff_is_reset_only_after_a_time_closed() {
        for (closed, backoff) in [(49, 20), (50, 10)] {
            let config = config();
            let mut breaker = tripped(&config);
            call(&mut breaker, &config, 10, CallResult::Ok);
            let now = 10 + closed;
            call(&mut breaker, &config, now, CallResult::Failed);
            call(&mut breaker, &config, now, CallResult::Failed);
            assert_eq!(open_until(&breaker, &config, now), now + backoff);
        }
    }

    #[test]
    fn a_probe_without_result_counts_as_failed_at_its_deadline() {
        let config = config();
        let mut breaker = tripped(&config);
        let probe = breaker.begin(&config, tick(10)).unwrap();
        assert_eq!(breaker.poll_timeout(), Some(tick(17)));
        assert_eq!(breaker.earliest(&config, tick(16)), Wait::ForSettlement);
        assert_eq!(open_until(&breaker, &config, 17), 17 + 20);
        breaker.handle_timeout(&config, tick(30));
        assert_eq!(open_until(&breaker, &config, 30), 37);
        breaker.end(&config, tick(37), probe, CallResult::Ok);
        let half_open = BreakerState::HalfOpen {
            probes: 0,
            successes: 0,
        };
        assert_eq!(breaker.state(&config, tick(37)), half_open);
    }

    #[test]
    fn results_of_calls_begun_before_a_trip_are_ignored() {
        let config = config();
        let mut breaker = Breaker::new();
        let permits: Vec<_> = (0..4)
            .map(|_| breaker.begin(&config, tick(0)).unwrap())
            .collect();
        for permit in permits {
            breaker.end(&config, tick(1), permit, CallResult::Failed);
        }
        assert_eq!(open_until(&breaker, &config, 1), 11);
        assert_eq!(breaker.trips, 1);
    }

    #[test]
    fn the_configured_number_of_consecutive_successes_closes_it() {
        let config = builder().probes(number(2)).successes(number(3)).build();
        let config = config.unwrap();
        let mut breaker = tripped(&config);
        let first = breaker.begin(&config, tick(10)).unwrap();
        let second = breaker.begin(&config, tick(11)).unwrap();
        assert_eq!(breaker.begin(&config, tick(11)), None);
        breaker.end(&config, tick(12), first, CallResult::Ok);
        assert_eq!(breaker.poll_timeout(), Some(tick(18)));
        breaker.end(&config, tick(12), second, CallResult::Unused);
        for successes in 1..3 {
            let state = BreakerState::HalfOpen {
                probes: 0,
                successes,
            };
            assert_eq!(breaker.state(&config, tick(13)), state);
            call(&mut breaker, &config, 13, CallResult::Ok);
        }
        assert_eq!(breaker.state(&config, tick(13)), BreakerState::Closed);
    }

    #[test]
    fn a_probe_without_verdict_frees_its_place_and_leaves_the_breaker_half_open() {
        let config = config();
        let mut breaker = tripped(&config);
        let probe = breaker.begin(&config, tick(10)).unwrap();
        assert_eq!(breaker.begin(&config, tick(11)), None);
        breaker.end(&config, tick(11), probe, CallResult::Unused);
        let half_open = BreakerState::HalfOpen {
            probes: 0,
            successes: 0,
        };
        assert_eq!(breaker.state(&config, tick(11)), half_open);
        assert_eq!(breaker.poll_timeout(), None);
        assert_eq!(breaker.earliest(&config, tick(11)), Wait::Until(tick(11)));
        // The backoff has not changed: a failure now opens for the second one.
        call(&mut breaker, &config, 11, CallResult::Failed);
        assert_eq!(open_until(&breaker, &config, 11), 11 + 20);
    }

    #[test]
    fn a_failure_rate_needs_its_minimum_of_outcomes_within_the_window() {
        let (base, window) = (Duration::from_nanos(10), Duration::from_nanos(80));
        let config = BreakerConfig::builder(base, base)
            .failure_rate(500, window, number(4))
            .build()
            .unwrap();
        let mut breaker = Breaker::new();
        for (now, result) in [
            (9, CallResult::Failed),
            (80, CallResult::Failed),
            (80, CallResult::Ok),
            (80, CallResult::Ok),
        ] {
            call(&mut breaker, &config, now, result);
            assert_eq!(breaker.state(&config, tick(now)), BreakerState::Closed);
        }
        call(&mut breaker, &config, 89, CallResult::Failed);
        assert_eq!(open_until(&breaker, &config, 89), 99);
    }

    #[test]
    fn a_trip_until_a_tick_is_never_shortened_and_adds_no_backoff() {
        let config = config();
        let mut breaker = Breaker::new();
        breaker.trip(&config, tick(5), tick(5));
        assert_eq!(breaker.state(&config, tick(5)), BreakerState::Closed);
        breaker.trip(&config, tick(5), tick(100));
        breaker.trip(&config, tick(6), tick(50));
        assert_eq!(open_until(&breaker, &config, 6), 100);
        call(&mut breaker, &config, 100, CallResult::Failed);
        assert_eq!(open_until(&breaker, &config, 100), 110);
    }

    #[test]
    fn a_breaker_is_small() {
        assert!(size_of::<Breaker>() <= 120, "{}", size_of::<Breaker>());
    }
}
