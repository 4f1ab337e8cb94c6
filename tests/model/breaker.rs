//! A breaker against an oracle that keeps every call and every outcome, and counts them anew for each
//! question.

use arbitrary::Arbitrary;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::health::{Breaker, BreakerConfig, BreakerState, CallResult, Permit};
use leasehold_core::limit::Wait;
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A breaker and what is done with it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// Its configuration.
    pub setup: Setup,
    /// What is done, in order.
    pub ops: Vec<Op>,
}

/// A configuration of small numbers.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Setup {
    /// Failures in a row, modulo 4; zero for no such rule.
    pub consecutive: u8,
    /// The failure rate in eighths, modulo 9; zero for no such rule.
    pub rate: u8,
    /// Ticks in a part of the window, modulo 4 and one more.
    pub part: u8,
    /// The minimum volume, modulo 6 and one more.
    pub minimum: u8,
    /// The first backoff, modulo 8 and one more.
    pub base: u8,
    /// How much longer the longest is, modulo 64.
    pub cap: u8,
    /// Ticks closed until it is at rest, modulo 32.
    pub reset_after: u8,
    /// Probes at once, modulo 4 and one more.
    pub probes: u8,
    /// Successes in a row, modulo 4 and one more.
    pub successes: u8,
    /// Ticks a probe has, modulo 16 and one more.
    pub probe_timeout: u8,
}

/// One operation.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Lets a call go.
    #[proptest(weight = 8)]
    Begin,
    /// Ends one of the latest 8 calls, which may have ended before only if it is stale.
    #[proptest(weight = 8)]
    End {
        /// Which of them.
        which: u8,
        /// Ok, unused, or else failed, modulo 8.
        how: u8,
    },
    /// Opens for up to 31 ticks.
    Trip(u8),
    /// Tells it the time.
    HandleTimeout,
    /// Lets at most 15 ticks pass.
    #[proptest(weight = 6)]
    Advance(u8),
    /// Goes to when something is due, or a tick before.
    #[proptest(weight = 3)]
    ToTheDeadline(bool),
    /// Turns the clock back.
    Back(u8),
    /// Lets much time pass.
    Leap(u32),
    /// Goes to where so many ticks are left.
    ToTheEnd(u8),
    /// Saves and restores.
    Restart,
    /// Goes on by a clock that is so many ticks ahead of the oracle's.
    Rebase(u8),
}

const GOOD: &str = "the setup makes a configuration";

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
        let mut config = BreakerConfig::new(nanos(self.base()), nanos(self.cap()))
            .expect(GOOD)
            .reset_after(nanos(self.reset_after()))
            .probes(number(self.probes()))
            .successes(number(self.successes()))
            .probe_timeout(nanos(self.probe_timeout()))
            .expect(GOOD);
        if let Some(failures) = self.consecutive() {
            config = config.consecutive_failures(number(failures));
        }
        if let Some(permille) = self.permille() {
            let window = nanos(8 * self.part());
            config = config
                .failure_rate(permille as u16, window, number(self.minimum()))
                .expect(GOOD);
        }
        config
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until: u64 },
    HalfOpen,
}

/// A call for ever, with the period of one state in which it began.
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
    /// The last tick there is.
    end: u64,
    /// All states there were, each with its first tick; the last is the present one.
    periods: Vec<(u64, Phase)>,
    /// How many of the first periods no longer matter for the backoff.
    rested: usize,
    /// Which periods began with a failure.
    failures: Vec<usize>,
    calls: Vec<Call>,
}

impl Oracle {
    fn new(setup: Setup) -> Self {
        Self {
            setup,
            latest: 0,
            end: u64::MAX,
            periods: vec![(0, Phase::Closed)],
            rested: 0,
            failures: Vec::new(),
            calls: Vec::new(),
        }
    }

    fn present(&self) -> (usize, u64, Phase) {
        let (since, phase) = *self.periods.last().expect("there is always a state");
        (self.periods.len() - 1, since, phase)
    }

    fn later(&self, at: u64, span: u64) -> u64 {
        at.saturating_add(span).min(self.end)
    }

    /// The calls of the present state, by whether they have ended.
    fn calls(&self, ended: bool) -> impl Iterator<Item = &Call> {
        let (period, ..) = self.present();
        let calls = self.calls.iter();
        calls.filter(move |call| call.period == period && call.ended.is_some() == ended)
    }

    /// Outcomes of the present state in their order.
    fn outcomes(&self) -> Vec<(u64, bool)> {
        let mut calls: Vec<_> = self.calls(true).filter_map(|call| call.ended).collect();
        calls.sort_by_key(|(at, _)| *at);
        let used = calls.iter().filter(|(_, how)| *how != CallResult::Unused);
        used.map(|(at, how)| (*at, *how == CallResult::Failed))
            .collect()
    }

    /// How many of the latest outcomes in a row are of one kind.
    fn row(&self, of: bool, order: &[bool]) -> u64 {
        order
            .iter()
            .rev()
            .take_while(|failed| **failed == of)
            .count() as u64
    }

    fn first_deadline(&self) -> Option<u64> {
        let (_, _, phase) = self.present();
        let timeout = self.setup.probe_timeout();
        let deadlines = self
            .calls(false)
            .map(|call| self.later(call.began, timeout));
        deadlines.min().filter(|_| phase == Phase::HalfOpen)
    }

    fn poll_timeout(&self) -> Option<u64> {
        match self.present().2 {
            Phase::Closed => None,
            Phase::Open { until } => Some(until),
            Phase::HalfOpen => self.first_deadline(),
        }
    }

    fn leave(&mut self, at: u64, phase: Phase, failed: bool) {
        let (_, since, before) = self.present();
        if before == Phase::Closed && at - since >= self.setup.reset_after() {
            self.rested = self.periods.len();
        }
        if failed {
            self.failures.push(self.periods.len());
        }
        self.periods.push((at, phase));
    }

    fn fail(&mut self, at: u64) {
        let (_, since, before) = self.present();
        let rests = before == Phase::Closed && at - since >= self.setup.reset_after();
        let times = if rests {
            0
        } else {
            let counts = self
                .failures
                .iter()
                .filter(|period| **period >= self.rested);
            counts.count()
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
        if let (_, _, Phase::Open { until }) = self.present()
            && until <= self.latest
        {
            self.leave(until, Phase::HalfOpen, false);
        }
    }

    fn may_begin(&self) -> bool {
        match self.present().2 {
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
                period: self.present().0,
                began: self.latest,
                ended: None,
            });
        }
        may
    }

    fn end(&mut self, now: u64, which: usize, verdict: CallResult, order: &mut Vec<(usize, bool)>) {
        self.advance(now);
        let (period, since, phase) = self.present();
        if self.calls[which].period != period {
            return;
        }
        self.calls[which].ended = Some((self.latest, verdict));
        if verdict == CallResult::Unused {
            return;
        }
        order.push((period, verdict == CallResult::Failed));
        let of_now: Vec<_> = order
            .iter()
            .filter(|(of, _)| *of == period)
            .map(|(_, failed)| *failed)
            .collect();
        match phase {
            Phase::Open { .. } => unreachable!("no call begins while it is open"),
            Phase::Closed => {
                let row = self.row(true, &of_now);
                let many = self.setup.consecutive().is_some_and(|max| row >= max);
                let part = |at: u64| (at - since) / self.setup.part();
                let counted: Vec<_> = self
                    .outcomes()
                    .into_iter()
                    .filter(|(at, _)| part(self.latest) - part(*at) < 8)
                    .collect();
                let total = counted.len() as u64;
                let failed = counted.iter().filter(|(_, failed)| *failed).count() as u64;
                let often = self.setup.permille().is_some_and(|permille| {
                    total >= self.setup.minimum() && failed * 1_000 >= permille * total
                });
                if many || often {
                    self.fail(self.latest);
                }
            }
            Phase::HalfOpen => {
                if verdict == CallResult::Failed {
                    self.fail(self.latest);
                } else if self.row(false, &of_now) >= self.setup.successes() {
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
        match self.present().2 {
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

fn verdict(how: u8) -> CallResult {
    match how % 8 {
        0..=2 => CallResult::Ok,
        3 => CallResult::Unused,
        _ => CallResult::Failed,
    }
}

/// Runs a case.
///
/// # Panics
/// Where machine and oracle differ, or a promise is broken.
pub fn run(case: &Case) {
    let config = case.setup.config();
    let mut machine = Breaker::new();
    let mut oracle = Oracle::new(case.setup);
    let mut permits: Vec<Permit> = Vec::new();
    let mut order = Vec::new();
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
                let how = verdict(how);
                if oracle.calls[which].ended.is_some()
                    && oracle.calls[which].period == oracle.present().0
                {
                    continue;
                }
                machine.end(&config, tick(now), permits[which], how);
                oracle.end(now, which, how, &mut order);
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
            && matches!(oracle.present().2, Phase::HalfOpen)
        {
            assert!(until.since(tick(then)).as_nanos() <= u128::from(oracle.setup.cap()));
        }
        let wait = machine.earliest(config, tick(then));
        match later.present().2 {
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
