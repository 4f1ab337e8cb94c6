//! A prober against an oracle that keeps every result and computes each round from the first.

use arbitrary::Arbitrary;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::health::{ProbeAnswer, ProbeConfig, ProbeNumber, Prober, Transition};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A prober and the operations on it.
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
    /// Interval between probes: one plus this modulo 32.
    pub interval: u8,
    /// Jitter in eighths of the interval, modulo 9.
    pub jitter: u8,
    /// Timeout of a probe: one plus this modulo the interval.
    pub timeout: u8,
    /// Consecutive successes that bring the member up: one plus this modulo 4.
    pub rise: u8,
    /// Consecutive failures that take the member down: one plus this modulo 4.
    pub fall: u8,
    /// Whether the member is up before its first probe.
    pub up: bool,
    /// Seed of the prober.
    pub seed: u64,
    /// Tick at which the member is added.
    pub added: u16,
}

/// One operation.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Begins a probe.
    #[proptest(weight = 6)]
    Begin,
    /// Reports the result of one of the latest 3 probes.
    #[proptest(weight = 8)]
    Answer {
        /// Index of the probe, counted back from the latest: this / 86.
        which: u8,
        /// Whether the member can serve.
        up: bool,
    },
    /// Calls `handle_timeout` twice.
    HandleTimeout,
    /// Advances the clock to the next timeout, or to one tick before it.
    #[proptest(weight = 8)]
    ToTheDeadline(bool),
    /// Advances the clock by this many ticks, modulo 16.
    #[proptest(weight = 2)]
    Advance(u8),
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
    fn interval(self) -> u64 {
        u64::from(self.interval % 32) + 1
    }
    fn jitter(self) -> u64 {
        u64::from(self.jitter % 9) * 125
    }
    fn timeout(self) -> u64 {
        u64::from(self.timeout) % self.interval() + 1
    }
    fn rise(self) -> u64 {
        u64::from(self.rise % 4) + 1
    }
    fn fall(self) -> u64 {
        u64::from(self.fall % 4) + 1
    }

    fn config(self) -> ProbeConfig {
        let nanos = Duration::from_nanos;
        ProbeConfig::builder(nanos(self.interval()), nanos(self.timeout()))
            .jitter(self.jitter() as u16)
            .rise(number(self.rise()))
            .fall(number(self.fall()))
            .initially_up(self.up)
            .build()
            .expect(GOOD)
    }
}

#[derive(Clone, Copy, Debug)]
enum Next {
    /// Next probe; its due tick is known once the machine has drawn it.
    Probe { round: u128, due: Option<u64> },
    /// Timeout of the probe under way; `round` is that of the next one.
    Timeout { round: u128, at: u64 },
}

#[derive(Clone, Debug)]
struct Oracle {
    setup: Setup,
    latest: u64,
    /// Last tick of the machine's clock, on the oracle's clock.
    end: u64,
    /// Begin of round 0.
    first: u128,
    next: Next,
    probes: usize,
    /// Results since the health last changed.
    answers: Vec<bool>,
    up: bool,
}

impl Oracle {
    fn new(setup: Setup) -> Self {
        // The golden ratio's fraction, in units of 2^-64.
        let fraction = setup.seed.wrapping_mul(11_400_714_819_323_198_485);
        let shift = u128::from(fraction) * u128::from(setup.interval()) / (1 << 64);
        Self {
            setup,
            latest: setup.added.into(),
            end: u64::MAX,
            first: u128::from(setup.added) + shift,
            next: Next::Probe {
                round: 0,
                due: None,
            },
            probes: 0,
            answers: Vec::new(),
            up: setup.up,
        }
    }

    fn start(&self, round: u128) -> u128 {
        self.first + round * u128::from(self.setup.interval())
    }

    /// Adopts the tick drawn for the next probe, which has to be within the jitter of its round.
    fn adopt_due(&mut self, polled: Option<u64>) {
        let Next::Probe { round, due } = &mut self.next else {
            return;
        };
        let start = self.first + *round * u128::from(self.setup.interval());
        let most = u128::from(self.setup.interval() * self.setup.jitter() / 1_000);
        let range = start..=start + most;
        match polled {
            Some(polled) => assert!(range.contains(&polled.into()), "{polled} in {range:?}"),
            None => assert!(
                *range.end() > self.end.into(),
                "nothing is due in {range:?}"
            ),
        }
        *due = polled;
    }

    fn settle(&mut self, round: u128, up: bool) -> Option<Transition> {
        self.next = Next::Probe { round, due: None };
        self.answers.push(up);
        let contrary = self.answers.iter().rev().take_while(|one| **one != self.up);
        let needed = if self.up {
            self.setup.fall()
        } else {
            self.setup.rise()
        };
        if (contrary.count() as u64) < needed {
            return None;
        }
        self.answers.clear();
        self.up = !self.up;
        Some(if self.up {
            Transition::WentUp
        } else {
            Transition::WentDown
        })
    }

    fn handle_timeout(&mut self, now: u64) -> Option<Transition> {
        self.latest = self.latest.max(now);
        match self.next {
            Next::Timeout { round, at } if at <= self.latest => self.settle(round, false),
            Next::Timeout { .. } | Next::Probe { .. } => None,
        }
    }

    fn begin(&mut self, now: u64) -> bool {
        self.latest = self.latest.max(now);
        let Next::Probe { mut round, due } = self.next else {
            return false;
        };
        if due.is_none_or(|due| due > self.latest) {
            return false;
        }
        let late = u128::from(self.latest).saturating_sub(self.first);
        round = (round + 1).max(late.div_ceil(self.setup.interval().into()));
        assert!(self.start(round) >= self.latest.into());
        let at = self.latest.saturating_add(self.setup.timeout());
        self.next = Next::Timeout {
            round,
            at: at.min(self.end),
        };
        self.probes += 1;
        true
    }

    fn answer(&mut self, now: u64, which: usize, up: bool) -> Option<Transition> {
        let change = self.handle_timeout(now);
        match self.next {
            Next::Timeout { round, .. } if which + 1 == self.probes => self.settle(round, up),
            Next::Timeout { .. } | Next::Probe { .. } => change,
        }
    }

    fn poll_timeout(&self) -> Option<u64> {
        match self.next {
            Next::Probe { due, .. } => due,
            Next::Timeout { at, .. } => Some(at),
        }
    }
}

/// Runs a case.
///
/// # Panics
/// If machine and oracle differ, or a promise is broken.
pub fn run(case: &Case) {
    let config = case.setup.config();
    let added = Tick::from_nanos(case.setup.added.into());
    let mut machine = Prober::new(&config, added, case.setup.seed);
    let mut oracle = Oracle::new(case.setup);
    oracle.adopt_due(machine.poll_timeout().map(Tick::as_nanos));
    let mut probes: Vec<ProbeNumber> = Vec::new();
    let (mut now, mut offset) = (0_u64, 0_u64);
    for op in &case.ops {
        let tick = |at: u64| Tick::from_nanos(at + offset);
        match *op {
            Op::Begin => {
                let probe = machine.begin_probe(&config, tick(now));
                assert_eq!(probe.is_some(), oracle.begin(now), "{op:?} at {now}");
                probes.extend(probe);
            }
            Op::Answer { which, up } => {
                let back = usize::from(which / 86).min(2);
                let Some(which) = probes.len().checked_sub(back + 1) else {
                    continue;
                };
                let answer = if up {
                    ProbeAnswer::Up
                } else {
                    ProbeAnswer::Down
                };
                let change = machine.answer(&config, tick(now), probes[which], answer);
                assert_eq!(change, oracle.answer(now, which, up), "{op:?} at {now}");
            }
            Op::HandleTimeout => {
                let change = machine.handle_timeout(&config, tick(now));
                assert_eq!(change, oracle.handle_timeout(now), "{op:?} at {now}");
                assert_eq!(machine.handle_timeout(&config, tick(now)), None);
            }
            Op::ToTheDeadline(before) => {
                if let Some(due) = oracle.poll_timeout() {
                    now = due.saturating_sub(before.into());
                }
            }
            Op::Advance(span) => now = now.saturating_add(u64::from(span % 16)).min(oracle.end),
            Op::Back(span) => now = now.saturating_sub(span.into()),
            Op::Leap(span) => now = now.saturating_add(span.into()).min(oracle.end),
            Op::ToTheEnd(left) => now = now.max(oracle.end - u64::from(left)),
            Op::Restart => {
                let saved = serde_json::to_string(&(&machine, &probes)).expect("it can be saved");
                (machine, probes) = serde_json::from_str(&saved).expect("it can be restored");
            }
            Op::Rebase(ahead) => {
                if oracle.latest.max(now) < u64::MAX / 2 && offset == 0 {
                    machine.rebase(tick(now), Tick::from_nanos(now + u64::from(ahead)));
                    offset = ahead.into();
                    oracle.end = u64::MAX - offset;
                }
            }
        }
        let polled = machine.poll_timeout().map(|due| due.as_nanos() - offset);
        if oracle.poll_timeout().is_none() {
            oracle.adopt_due(polled);
        }
        assert_eq!(polled, oracle.poll_timeout(), "after {op:?} at {now}");
        assert_eq!(machine.is_up(), oracle.up, "after {op:?} at {now}");
    }
}
