//! Whether a member that fails is still asked.
//!
//! Invariant: probes are out in the half-open state alone, at most as many as its configuration says at
//! the time each begins, and `probes` holds their deadlines in order.
//!
//! # States
//! - **Closed**: every call may go. It trips, that is opens, with the outcome that makes the last
//!   failures in a row as many as allowed, or that makes the share of failures in the window too large.
//! - **Open**: no call may go, for `min(cap, base * 2^k)`, where `k` counts the times it has opened
//!   since it was last at rest. Then it is half-open.
//! - **Half-open**: up to so many calls may be out at once, as probes. Enough successes in a row close
//!   it. A failure opens it again, and so does a probe that isn't answered in time.
//!
//! Closing doesn't set `k` to zero: a member that fails soon after each recovery is asked less and less.
//! It is at rest, and `k` zero again, when it has stayed closed for a time that the configuration gives.
//!
//! Every change of state begins an epoch. An outcome of a call from an earlier epoch is ignored, so that
//! calls which were under way when the breaker opened can't open it a second time or close it.

use crate::limit::Wait;
use crate::time::{ClockOffset, Tick, saturating_nanos};
use alloc::vec::Vec;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// The parts a window is counted in.
const PARTS: usize = 8;

/// When a breaker trips, and how it recovers. Many breakers share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    consecutive: Option<NonZeroU32>,
    rate: Option<FailureRate>,
    base: u64,
    cap: u64,
    reset_after: u64,
    probes: NonZeroU32,
    successes: NonZeroU32,
    probe_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FailureRate {
    permille: u16,
    /// Nanoseconds in a part of the window.
    part: NonZeroU64,
    minimum: NonZeroU32,
}

impl BreakerConfig {
    /// A breaker that opens for `base`, then twice as long, and so on up to `cap`; `cap` closed puts it
    /// at rest. It lets one probe out at a time, which has 30 seconds, and closes with the first
    /// success. It has no rule to trip by yet: without one, it opens by [`Breaker::trip`] alone.
    ///
    /// # Errors
    /// Where `base` is zero or longer than `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Result<Self, BreakerConfigError> {
        let (base, cap) = (saturating_nanos(base), saturating_nanos(cap));
        if base == 0 {
            return Err(BreakerConfigError::EmptyBackoff);
        }
        if cap < base {
            return Err(BreakerConfigError::CapBelowBase);
        }
        Ok(Self {
            consecutive: None,
            rate: None,
            base,
            cap,
            reset_after: cap,
            probes: NonZeroU32::MIN,
            successes: NonZeroU32::MIN,
            probe_timeout: Duration::from_secs(30),
        })
    }

    /// Trips on so many failures in a row.
    #[must_use]
    pub const fn consecutive_failures(mut self, failures: NonZeroU32) -> Self {
        self.consecutive = Some(failures);
        self
    }

    /// Trips when the window holds at least `minimum` outcomes, of which at least `permille` in a
    /// thousand are failures. The window is counted in eight parts, so that an outcome counts for seven
    /// to eight eighths of it.
    ///
    /// # Errors
    /// Where `permille` is zero or above 1,000, or the window is zero or longer than 584 years.
    pub fn failure_rate(
        mut self,
        permille: u16,
        window: Duration,
        minimum: NonZeroU32,
    ) -> Result<Self, BreakerConfigError> {
        if permille == 0 || permille > 1_000 {
            return Err(BreakerConfigError::RateOutOfRange);
        }
        let window =
            u64::try_from(window.as_nanos()).map_err(|_| BreakerConfigError::WindowTooLong)?;
        let part = NonZeroU64::new(window.div_ceil(PARTS as u64));
        self.rate = Some(FailureRate {
            permille,
            part: part.ok_or(BreakerConfigError::EmptyWindow)?,
            minimum,
        });
        Ok(self)
    }

    /// Begins the backoff anew once the breaker has stayed closed for so long.
    #[must_use]
    pub const fn reset_after(mut self, closed: Duration) -> Self {
        self.reset_after = saturating_nanos(closed);
        self
    }

    /// Lets at most so many probes out at once; an open breaker takes 8 bytes for each.
    #[must_use]
    pub const fn probes(mut self, at_once: NonZeroU32) -> Self {
        self.probes = at_once;
        self
    }

    /// Closes on so many successes in a row while half-open.
    #[must_use]
    pub const fn successes(mut self, in_a_row: NonZeroU32) -> Self {
        self.successes = in_a_row;
        self
    }

    /// Takes a probe that isn't answered within `timeout` as failed.
    ///
    /// # Errors
    /// Where `timeout` is zero.
    pub const fn probe_timeout(mut self, timeout: Duration) -> Result<Self, BreakerConfigError> {
        if timeout.is_zero() {
            return Err(BreakerConfigError::EmptyProbeTimeout);
        }
        self.probe_timeout = timeout;
        Ok(self)
    }

    fn backoff(&self, trips: u32) -> Duration {
        let factor = 1u64.checked_shl(trips).unwrap_or(u64::MAX);
        Duration::from_nanos(self.base.saturating_mul(factor).min(self.cap))
    }
}

/// Why a [`BreakerConfig`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BreakerConfigError {
    /// The breaker would close as it opens.
    #[error("a breaker needs a backoff above zero")]
    EmptyBackoff,
    /// The longest backoff is shorter than the first.
    #[error("the cap of a breaker's backoff must not be below its base")]
    CapBelowBase,
    /// The share of failures isn't from 1 to 1,000 permille.
    #[error("a failure rate must be from 1 to 1000 permille")]
    RateOutOfRange,
    /// The window of the failure rate has no length.
    #[error("a window needs a length above zero")]
    EmptyWindow,
    /// The window of the failure rate is longer than a [`Tick`] can count.
    #[error("a window may be at most 584 years long")]
    WindowTooLong,
    /// A probe would have failed as it began.
    #[error("a probe needs a timeout above zero")]
    EmptyProbeTimeout,
}

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing.
    Open {
        /// When it is half-open.
        until: Tick,
    },
    /// Some probes.
    HalfOpen {
        /// How many are out.
        probes: u32,
        /// How many have succeeded in a row.
        successes: u32,
    },
}

/// Leave for one call, to be ended once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use = "a probe whose permit is lost counts as failed"]
pub struct Permit {
    epoch: u64,
    /// When the call counts as failed, if it is a probe.
    deadline: Tick,
}

impl Permit {
    /// Moves it to another clock, which shows `to` when this one shows `from`.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        self.deadline = ClockOffset { from, to }.tick(self.deadline);
    }
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallResult {
    /// The member served it.
    Ok,
    /// The member failed.
    Failed,
    /// The member never saw it, or its failure isn't the member's.
    Unused,
}

/// A circuit breaker for one member.
///
/// Every operation costs O(1), and O(probes) while half-open. Memory is 120 bytes, and while
/// half-open 8 more for each probe that is out. Each command first does what is due.
///
/// Source of the states: M. Nygard, "Release It!", 2007.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::health::{Breaker, BreakerConfig, BreakerState, CallResult};
/// use leasehold_core::limit::Wait;
/// use leasehold_core::time::Tick;
///
/// let two = NonZeroU32::new(2).unwrap();
/// let config = BreakerConfig::new(Duration::from_secs(5), Duration::from_secs(60))?
///     .consecutive_failures(two);
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
    /// How often it has opened since it was last at rest.
    trips: u32,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
enum State {
    Closed {
        since: Tick,
        /// In a row.
        failures: u32,
        window: Window,
    },
    Open {
        until: Tick,
    },
    HalfOpen {
        /// In a row.
        successes: u32,
        /// The deadlines of those out.
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
    /// A closed breaker.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            latest: Tick::ZERO,
            epoch: 0,
            trips: 0,
            state: State::closed(Tick::ZERO),
        }
    }

    /// What it lets through now.
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

    /// When a call may go, provided that nothing else happens until then; for a settlement while as many
    /// probes are out as may, the first of which is given up at [`poll_timeout`](Self::poll_timeout).
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

    /// Lets a call go, if one may.
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

    /// Ends a call. Nothing happens where the state has changed since it began.
    pub fn end(&mut self, config: &BreakerConfig, now: Tick, permit: Permit, verdict: CallResult) {
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
                match verdict {
                    CallResult::Ok => *failures = 0,
                    CallResult::Failed => *failures = failures.saturating_add(1),
                    CallResult::Unused => return,
                }
                let many = config.consecutive.is_some_and(|max| *failures >= max.get());
                let often = config
                    .rate
                    .is_some_and(|rate| window.exceeds(rate, now, verdict == CallResult::Failed));
                if many || often {
                    self.open(config, now);
                }
            }
            State::HalfOpen { successes, probes } => {
                let Ok(at) = probes.binary_search(&permit.deadline) else {
                    return;
                };
                probes.remove(at);
                match verdict {
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

    /// Opens at once until a tick, or for longer if it is open for longer, as when an upstream says when
    /// it will serve again. The backoff doesn't grow by it. Nothing happens where the tick has come.
    pub fn trip(&mut self, config: &BreakerConfig, now: Tick, until: Tick) {
        self.advance(config, now);
        if until <= self.latest {
            return;
        }
        match &mut self.state {
            State::Open { until: before } => *before = until.max(*before),
            State::Closed { .. } | State::HalfOpen { .. } => {
                self.rest(config, self.latest);
                self.enter(State::Open { until });
            }
        }
    }

    /// Does what is due: gives up on a probe, goes from open to half-open. However late, it is done as of
    /// the tick at which it was due.
    pub fn handle_timeout(&mut self, config: &BreakerConfig, now: Tick) {
        self.advance(config, now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is wanted next; `None` means never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        match &self.state {
            State::Closed { .. } => None,
            State::Open { until } => Some(*until),
            State::HalfOpen { probes, .. } => probes.first().copied(),
        }
    }

    /// Moves what is remembered to another clock, which shows `to` when this one shows `from`. The permits
    /// of calls under way have to be moved alike.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        let shift = ClockOffset { from, to };
        self.latest = shift.tick(self.latest);
        match &mut self.state {
            State::Closed { since, window, .. } => {
                *since = shift.tick(*since);
                window.start = shift.tick(window.start);
            }
            State::Open { until } => *until = shift.tick(*until),
            State::HalfOpen { probes, .. } => {
                for deadline in probes {
                    *deadline = shift.tick(*deadline);
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

    /// Opens for the next backoff from `at`.
    fn open(&mut self, config: &BreakerConfig, at: Tick) {
        self.rest(config, at);
        let until = at.saturating_add(config.backoff(self.trips));
        self.trips = self.trips.saturating_add(1);
        self.enter(State::Open { until });
    }

    /// Begins the backoff anew if it has stayed closed for long enough.
    fn rest(&mut self, config: &BreakerConfig, at: Tick) {
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
            window: Window {
                start: since,
                slot: 0,
                counts: [Count {
                    total: 0,
                    failed: 0,
                }; PARTS],
            },
        }
    }
}

/// Outcomes of the last parts of a window, in a ring.
///
/// `counts[slot]` is the part that begins at `start`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Window {
    start: Tick,
    slot: u8,
    counts: [Count; PARTS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Count {
    total: u32,
    failed: u32,
}

impl Window {
    /// Counts an outcome, and tells whether too many have failed.
    fn exceeds(&mut self, rate: FailureRate, now: Tick, failed: bool) -> bool {
        let steps = saturating_nanos(now.since(self.start)) / rate.part;
        for _ in 0..steps.min(PARTS as u64) {
            self.slot = match self.slot.checked_add(1) {
                Some(next) if usize::from(next) < PARTS => next,
                Some(_) | None => 0,
            };
            if let Some(count) = self.counts.get_mut(usize::from(self.slot)) {
                *count = Count::default();
            }
        }
        let passed = steps.saturating_mul(rate.part.get());
        self.start = self.start.saturating_add(Duration::from_nanos(passed));
        if let Some(count) = self.counts.get_mut(usize::from(self.slot)) {
            count.total = count.total.saturating_add(1);
            count.failed = count.failed.saturating_add(failed.into());
        }
        let sum = |of: fn(&Count) -> u32| {
            let counts = self.counts.iter().map(|count| u64::from(of(count)));
            counts.fold(0, u64::saturating_add)
        };
        let (total, failed) = (sum(|count| count.total), sum(|count| count.failed));
        total >= rate.minimum.get().into()
            && failed.saturating_mul(1_000) >= total.saturating_mul(rate.permille.into())
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

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    /// Opens for 10, 20, 40 and then 50; trips on two failures in a row.
    fn config() -> BreakerConfig {
        let (base, cap) = (Duration::from_nanos(10), Duration::from_nanos(50));
        BreakerConfig::new(base, cap)
            .unwrap()
            .consecutive_failures(number(2))
            .probe_timeout(Duration::from_nanos(7))
            .unwrap()
    }

    fn call(breaker: &mut Breaker, config: &BreakerConfig, now: u64, verdict: CallResult) {
        let permit = breaker.begin(config, tick(now)).unwrap();
        breaker.end(config, tick(now), permit, verdict);
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
        for verdict in [
            CallResult::Failed,
            CallResult::Ok,
            CallResult::Failed,
            CallResult::Unused,
        ] {
            call(&mut breaker, &config, 1, verdict);
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
    fn a_backoff_without_end_stays_at_its_cap() {
        let longest = Duration::from_nanos(u64::MAX);
        let config = BreakerConfig::new(Duration::from_nanos(5), longest).unwrap();
        assert_eq!(config.backoff(62), longest);
        assert_eq!(config.backoff(64), longest);
        assert_eq!(config.backoff(u32::MAX), longest);
    }

    #[test]
    fn the_backoff_begins_anew_only_after_a_time_at_rest() {
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
    fn a_probe_that_never_answers_counts_as_failed_at_its_deadline() {
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
    fn what_was_under_way_when_it_tripped_is_ignored() {
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
    fn so_many_successes_in_a_row_close_it() {
        let config = config().probes(number(2)).successes(number(3));
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
    fn a_rate_needs_its_volume_and_forgets_what_left_the_window() {
        let (base, window) = (Duration::from_nanos(10), Duration::from_nanos(80));
        let config = BreakerConfig::new(base, base)
            .and_then(|config| config.failure_rate(500, window, number(4)))
            .unwrap();
        let mut breaker = Breaker::new();
        for (now, verdict) in [
            (9, CallResult::Failed),
            (80, CallResult::Failed),
            (80, CallResult::Ok),
            (80, CallResult::Ok),
        ] {
            call(&mut breaker, &config, now, verdict);
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
    fn a_configuration_without_meaning_is_refused() {
        let second = Duration::from_secs(1);
        let error = |base, cap| BreakerConfig::new(base, cap).unwrap_err();
        assert_eq!(
            error(Duration::ZERO, second),
            BreakerConfigError::EmptyBackoff
        );
        assert_eq!(error(second * 2, second), BreakerConfigError::CapBelowBase);
        let rate = |permille, window| config().failure_rate(permille, window, number(1));
        assert_eq!(rate(0, second), Err(BreakerConfigError::RateOutOfRange));
        assert_eq!(rate(1_001, second), Err(BreakerConfigError::RateOutOfRange));
        assert_eq!(
            rate(1, Duration::ZERO),
            Err(BreakerConfigError::EmptyWindow)
        );
        assert_eq!(
            rate(1, Duration::MAX),
            Err(BreakerConfigError::WindowTooLong)
        );
        assert_eq!(
            config().probe_timeout(Duration::ZERO),
            Err(BreakerConfigError::EmptyProbeTimeout)
        );
    }

    #[test]
    fn a_breaker_is_small() {
        assert!(size_of::<Breaker>() <= 120, "{}", size_of::<Breaker>());
    }
}
