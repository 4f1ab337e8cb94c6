//! A breaker against an oracle that keeps every call and recounts all results for each query.

use arbitrary::Arbitrary;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::health::{Breaker, BreakerConfig, BreakerState, CallResult, Permit};
use leasehold_core::limit::Wait;
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A breaker and the operations on it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// Configuration.
    pub setup: Setup,
    /// Operations in order.
    pub ops: Vec<Op>,
}

/// Configuration with small numbers. Durations are in ticks.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Setup {
    /// Consecutive failures that trip it, modulo 4; zero for no such rule.
    pub consecutive: u8,
    /// Failure rate in eighths, modulo 9; zero for no such rule.
    pub rate: u8,
    /// Part of the window: one plus this modulo 4.
    pub part: u8,
    /// Minimum number of outcomes: one plus this modulo 6.
    pub minimum: u8,
    /// First backoff: one plus this modulo 8.
    pub base: u8,
    /// Longest backoff minus the first, modulo 64.
    pub cap: u8,
    /// Time closed after which the backoff is reset, modulo 32.
    pub reset_after: u8,
    /// Probes at once: one plus this modulo 4.
    pub probes: u8,
    /// Consecutive successes that close it: one plus this modulo 4.
    pub successes: u8,
    /// Timeout of a probe: one plus this modulo 16.
    pub probe_timeout: u8,
}

/// One operation.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Begins a call.
    #[proptest(weight = 8)]
    Begin,
    /// Ends one of the latest 8 calls; an ended call again only if the state has changed since.
    #[proptest(weight = 8)]
    End {
        /// Index of the call, counted back from the latest, modulo 8.
        which: u8,
        /// Result of the call: ok, failed or unused, by the number modulo 8: 0 to 2, above 3, and 3.
        how: u8,
    },
    /// Trips the breaker for this many ticks, modulo 32.
    Trip(u8),
    /// Calls `handle_timeout` twice.
    HandleTimeout,
    /// Advances the clock by this many ticks, modulo 16.
    #[proptest(weight = 6)]
    Advance(u8),
    /// Advances the clock to the next timeout, or to one tick before it.
    #[proptest(weight = 3)]
    ToTheDeadline(bool),
    /// Turns the clock back by this many ticks.
    Back(u8),
    /// Advances the clock by this many ticks.
    Leap(u32),
    /// Advances the clock to this many ticks before the last one.
    ToTheEnd(u8),
    /// Serializes and deserializes the machine.
    Restart,
    /// Rebases the machine to a clock this many ticks ahead of the oracle's.
    Rebase(u8),
}

const GOOD: &str = "the setup is in range";

fn number(n: u64) -> NonZeroU32 {
    NonZeroU32::new(n as u32).expect(GOOD)
}

impl Setup {
    fn consecutive(self) -> Option<u64> {
        Some(u64::from(self.consecutive % 4)).filter(|failures| *failures > 0)
    }
    fn permille(self) -> Option<u64> {
        Some(u64::from(self.rate % 9) * 125).filter(|permille| *permille > 0)
    }
    fn part(self) -> u64 {
        u64::from(self.part % 4) + 1
    }
    fn minimum(self) -> u64 {
        u64::from(self.minimum % 6) + 1
    }
    fn base(self) -> u64 {
        u64::from(self.base % 8) + 1
    }
    fn cap(self) -> u64 {
        self.base() + u64::from(self.cap % 64)
    }
    fn reset_after(self) -> u64 {
        u64::from(self.reset_after % 32)
    }
    fn probes(self) -> u64 {
        u64::from(self.probes % 4) + 1
    }
    fn successes(self) -> u64 {
        u64::from(self.successes % 4) + 1
    }
    fn probe_timeout(self) -> u64 {
        u64::from(self.probe_timeout % 16) + 1
    }

    fn config(self) -> BreakerConfig {
        let nanos = Duration::from_nanos;
        let mut config = BreakerConfig::builder(nanos(self.base()), nanos(self.cap()))
            .reset_after(nanos(self.reset_after()))
            .probes(number(self.probes()))
            .successes(number(self.successes()))
            .probe_timeout(nanos(self.probe_timeout()));
        if let Some(failures) = self.consecutive() {
            config = config.consecutive_failures(number(failures));
        }
        if let Some(permille) = self.permille() {
            let window = nanos(8 * self.part());
            config = config.failure_rate(permille as u16, window, number(self.minimum()));
        }
        config.build().expect(GOOD)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until: u64 },
    HalfOpen,
}

/// A call, with the period in which it began. A period is the time between two changes of state.
#[derive(Clone, Copy, Debug)]
struct Call {
    period: usize,
    began: u64,
    ended: Option<(u64, CallResult)>,
}

#[derive(Clone, Debug)]
struct Oracle {
    setup: Setup,
    latest: u64,
    /// Last tick of the machine's clock, on the oracle's clock.
    end: u64,
    /// First tick and phase of every period; the last is the current one.
    periods: Vec<(u64, Phase)>,
    /// Number of periods before the backoff was last reset.
    reset: usize,
    /// Periods that began with a failure.
    failures: Vec<usize>,
    calls: Vec<Call>,
    /// Period of each result that counts, and whether it is a failure, in order.
    results: Vec<(usize, bool)>,
}

impl Oracle {
    fn new(setup: Setup) -> Self {
        Self {
            setup,
            latest: 0,
            end: u64::MAX,
            periods: vec![(0, Phase::Closed)],
            reset: 0,
            failures: Vec::new(),
            calls: Vec::new(),
            results: Vec::new(),
        }
    }

    fn current(&self) -> (usize, u64, Phase) {
        let (since, phase) = *self
            .periods
            .last()
            .expect("there is always a current period");
        (self.periods.len() - 1, since, phase)
    }

    fn later(&self, at: u64, span: u64) -> u64 {
        at.saturating_add(span).min(self.end)
    }

    /// Returns the calls of the current period that have ended, or those that have not.
    fn calls(&self, ended: bool) -> impl Iterator<Item = &Call> {
        let (period, ..) = self.current();
        let calls = self.calls.iter();
        calls.filter(move |call| call.period == period && call.ended.is_some() == ended)
    }

    /// Returns time and failure of the results of the current period, by time.
    fn outcomes(&self) -> Vec<(u64, bool)> {
        let mut calls: Vec<_> = self.calls(true).filter_map(|call| call.ended).collect();
        calls.sort_by_key(|(at, _)| *at);
        let counted = calls.iter().filter(|(_, how)| *how != CallResult::Unused);
        counted
            .map(|(at, how)| (*at, *how == CallResult::Failed))
            .collect()
    }

    /// Returns how many of the latest results of the current period are all failures, or all successes.
    fn consecutive(&self, failures: bool) -> u64 {
        let (current, ..) = self.current();
        let results = self.results.iter().rev();
        results
            .filter(|(period, _)| *period == current)
            .take_while(|(_, failed)| *failed == failures)
            .count() as u64
    }

    /// Returns whether the results in the window exceed the failure rate.
    fn exceeds_rate(&self, since: u64) -> bool {
        let part = |at: u64| (at - since) / self.setup.part();
        let in_window = |at: &u64| part(self.latest) - part(*at) < 8;
        let outcomes = self.outcomes();
        let counted: Vec<_> = outcomes.iter().filter(|(at, _)| in_window(at)).collect();
        let total = counted.len() as u64;
        let failed = counted.iter().filter(|(_, failed)| *failed).count() as u64;
        self.setup.permille().is_some_and(|permille| {
            total >= self.setup.minimum() && failed * 1_000 >= permille * total
        })
    }

    fn first_deadline(&self) -> Option<u64> {
        let (_, _, phase) = self.current();
        let timeout = self.setup.probe_timeout();
        let deadlines = self
            .calls(false)
            .map(|call| self.later(call.began, timeout));
        deadlines.min().filter(|_| phase == Phase::HalfOpen)
    }

    fn poll_timeout(&self) -> Option<u64> {
        match self.current().2 {
            Phase::Closed => None,
            Phase::Open { until } => Some(until),
            Phase::HalfOpen => self.first_deadline(),
        }
    }

    fn leave(&mut self, at: u64, phase: Phase, failed: bool) {
        let (_, since, before) = self.current();
        if before == Phase::Closed && at - since >= self.setup.reset_after() {
            self.reset = self.periods.len();
        }
        if failed {
            self.failures.push(self.periods.len());
        }
        self.periods.push((at, phase));
    }

    fn fail(&mut self, at: u64) {
        let (_, since, before) = self.current();
        let resets = before == Phase::Closed && at - since >= self.setup.reset_after();
        let times = if resets {
            0
        } else {
            let counted = self.failures.iter();
            counted.filter(|period| **period >= self.reset).count()
        };
        let mut backoff = self.setup.base();
        for _ in 0..times {
            backoff = (backoff * 2).min(self.setup.cap());
        }
        let until = self.later(at, backoff);
        self.leave(at, Phase::Open { until }, true);
    }

    fn advance(&mut self, now: u64) {
        self.latest = self.latest.max(now);
        if let Some(deadline) = self.first_deadline().filter(|due| *due <= self.latest) {
            self.fail(deadline);
        }
        if let (_, _, Phase::Open { until }) = self.current()
            && until <= self.latest
        {
            self.leave(until, Phase::HalfOpen, false);
        }
    }

    fn may_begin(&self) -> bool {
        match self.current().2 {
            Phase::Closed => true,
            Phase::Open { .. } => false,
            Phase::HalfOpen => (self.calls(false).count() as u64) < self.setup.probes(),
        }
    }

    fn begin(&mut self, now: u64) -> bool {
        self.advance(now);
        let may = self.may_begin();
        if may {
            self.calls.push(Call {
                period: self.current().0,
                began: self.latest,
                ended: None,
            });
        }
        may
    }

    fn end(&mut self, now: u64, which: usize, result: CallResult) {
        self.advance(now);
        let (period, since, phase) = self.current();
        if self.calls[which].period != period {
            return;
        }
        self.calls[which].ended = Some((self.latest, result));
        if result == CallResult::Unused {
            return;
        }
        self.results.push((period, result == CallResult::Failed));
        match phase {
            Phase::Open { .. } => unreachable!("no call begins while it is open"),
            Phase::Closed => {
                let failures = self.consecutive(true);
                let by_count = self.setup.consecutive().is_some_and(|max| failures >= max);
                if by_count || self.exceeds_rate(since) {
                    self.fail(self.latest);
                }
            }
            Phase::HalfOpen => {
                if result == CallResult::Failed {
                    self.fail(self.latest);
                } else if self.consecutive(false) >= self.setup.successes() {
                    self.leave(self.latest, Phase::Closed, false);
                }
            }
        }
    }

    fn trip(&mut self, now: u64, until: u64) {
        self.advance(now);
        if until <= self.latest {
            return;
        }
        if let Some((_, Phase::Open { until: before })) = self.periods.last_mut() {
            *before = until.max(*before);
        } else {
            self.leave(self.latest, Phase::Open { until }, false);
        }
    }

    fn state(&self, offset: u64) -> BreakerState {
        match self.current().2 {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { until } => BreakerState::Open {
                until: Tick::from_nanos(until + offset),
            },
            Phase::HalfOpen => {
                let ok = self.calls(true);
                let ok = ok.filter(|call| matches!(call.ended, Some((_, CallResult::Ok))));
                BreakerState::HalfOpen {
                    probes: self.calls(false).count() as u32,
                    successes: ok.count() as u32,
                }
            }
        }
    }
}

/// Ok, unused or failed, by `how` modulo 8.
fn result(how: u8) -> CallResult {
    match how % 8 {
        0..=2 => CallResult::Ok,
        3 => CallResult::Unused,
        _ => CallResult::Failed,
    }
}

/// Runs a case.
///
/// # Panics
/// If machine and oracle differ, or a promise is broken.
pub fn run(case: &Case) {
    let config = case.setup.config();
    let mut machine = Breaker::new();
    let mut oracle = Oracle::new(case.setup);
    let mut permits: Vec<Permit> = Vec::new();
    let (mut now, mut offset) = (0_u64, 0_u64);
    for op in &case.ops {
        let tick = |at: u64| Tick::from_nanos(at + offset);
        match *op {
            Op::Begin => {
                let permit = machine.begin(&config, tick(now));
                assert_eq!(permit.is_some(), oracle.begin(now), "{op:?} at {now}");
                permits.extend(permit);
            }
            Op::End { which, how } => {
                let recent = permits.len().min(8);
                if recent == 0 {
                    continue;
                }
                let which = permits.len() - 1 - usize::from(which) % recent;
                let how = result(how);
                if oracle.calls[which].ended.is_some()
                    && oracle.calls[which].period == oracle.current().0
                {
                    continue;
                }
                machine.end(&config, tick(now), permits[which], how);
                oracle.end(now, which, how);
            }
            Op::Trip(span) => {
                let until = oracle.later(now, u64::from(span % 32));
                machine.trip(&config, tick(now), tick(until));
                oracle.trip(now, until);
            }
            Op::HandleTimeout => {
                for _ in 0..2 {
                    machine.handle_timeout(&config, tick(now));
                }
                oracle.advance(now);
            }
            Op::Advance(span) => now = oracle.later(now, u64::from(span % 16)),
            Op::ToTheDeadline(before) => {
                if let Some(due) = oracle.poll_timeout() {
                    now = due - u64::from(before);
                }
            }
            Op::Back(span) => now = now.saturating_sub(span.into()),
            Op::Leap(span) => now = oracle.later(now, span.into()),
            Op::ToTheEnd(left) => now = now.max(oracle.end - u64::from(left)),
            Op::Restart => {
                let saved = serde_json::to_string(&(&machine, &permits)).expect("it can be saved");
                (machine, permits) = serde_json::from_str(&saved).expect("it can be restored");
            }
            Op::Rebase(ahead) => {
                if oracle.latest.max(now) < u64::MAX / 2 && offset == 0 {
                    let to = Tick::from_nanos(now + u64::from(ahead));
                    machine.rebase(tick(now), to);
                    for permit in &mut permits {
                        permit.rebase(tick(now), to);
                    }
                    offset = ahead.into();
                    oracle.end = u64::MAX - offset;
                }
            }
        }
        compare(&config, &machine, &oracle, now, offset);
    }
}

fn compare(config: &BreakerConfig, machine: &Breaker, oracle: &Oracle, now: u64, offset: u64) {
    let tick = |at: u64| Tick::from_nanos(at + offset);
    let due = oracle.poll_timeout();
    assert_eq!(machine.poll_timeout(), due.map(tick), "{oracle:?}");
    let deadlines = due.into_iter().flat_map(|due| [due - 1, due]);
    let far = [now, oracle.later(now, 7), oracle.later(now, 40)];
    for then in far.into_iter().chain(deadlines) {
        let mut later = oracle.clone();
        later.advance(then);
        let state = machine.state(config, tick(then));
        assert_eq!(state, later.state(offset), "at {then}: {oracle:?}");
        if let BreakerState::HalfOpen { probes, .. } = state {
            assert!(u64::from(probes) <= oracle.setup.probes());
        }
        if let BreakerState::Open { until } = state
            && matches!(oracle.current().2, Phase::HalfOpen)
        {
            assert!(until.since(tick(then)).as_nanos() <= u128::from(oracle.setup.cap()));
        }
        let wait = machine.earliest(config, tick(then));
        match later.current().2 {
            _ if later.may_begin() => assert_eq!(wait, Wait::Until(tick(later.latest))),
            Phase::Open { until } => {
                assert_eq!(wait, Wait::Until(tick(until)));
                assert!(machine.clone().begin(config, tick(until)).is_some());
                assert_eq!(machine.clone().begin(config, tick(until - 1)), None);
            }
            Phase::Closed | Phase::HalfOpen => assert_eq!(wait, Wait::ForSettlement),
        }
    }
}
