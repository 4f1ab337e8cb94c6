//! Limits against an oracle that keeps every admission for ever.
//!
//! Invariant: after every operation, machine and [`Oracle`] give the same answers, and no span holds more than the
//! limit promises unless something was booked or settled beyond it.

mod oracle;

pub use oracle::{Oracle, Use};

use arbitrary::Arbitrary;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::limit::{
    Anchor, BucketedWindow, Concurrency, FixedWindow, Gcra, Limit, Limiter, Pacing, SlidingCounter,
    SlidingLog, TokenBucket, Wait,
};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A limit and the operations on it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// The limit.
    pub setup: Setup,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

/// A small limit, so that a short run fills it.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Setup {
    /// The algorithm.
    pub kind: Kind,
    /// Units per window, modulo 6 and at least 1.
    pub limit: u8,
    /// Ticks per bucket, or per window without buckets; modulo 8 and at least 1.
    pub width: u8,
    /// Buckets per window, or units of a burst; modulo 6 and at least 1.
    pub buckets: u8,
    /// Whether a window with an anchor counts from completion.
    pub completion: bool,
}

/// The algorithm of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary, Strategy)]
pub enum Kind {
    /// [`SlidingLog`].
    Log,
    /// [`BucketedWindow`].
    Buckets,
    /// [`SlidingCounter`].
    Counter,
    /// [`FixedWindow`].
    Fixed,
    /// [`TokenBucket`].
    Tokens,
    /// [`Gcra`].
    Gcra,
    /// [`Pacing`].
    Pacing,
    /// [`Concurrency`].
    Concurrency,
}

/// One operation.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Asks for up to 7 units.
    #[proptest(weight = 6)]
    Acquire(u8),
    /// Books up to 7 units without asking.
    Charge(u8),
    /// Settles one of the open admissions at up to 7 units.
    #[proptest(weight = 4)]
    Settle {
        /// Index of the admission, modulo the open ones.
        which: u8,
        /// Units used.
        actual: u8,
    },
    /// Tells that the call of one of the open admissions has arrived.
    #[proptest(weight = 2)]
    Arrive(u8),
    /// Changes the limit, and the rate and burst of a level, as in the setup.
    SetLimit {
        /// Units per window.
        limit: u8,
        /// Width of a level's window.
        width: u8,
        /// Burst of a level.
        buckets: u8,
    },
    /// Saves and restores.
    #[proptest(weight = 2)]
    Restart,
    /// Continues on a clock that shows at most 31 ticks now.
    Rebase(u8),
    /// Advances the clock by at most 15 ticks.
    #[proptest(weight = 6)]
    Advance(u8),
    /// Turns the clock back.
    Back(u8),
    /// Advances the clock far.
    Leap(u32),
    /// Advances the clock to this many ticks before the last one, if below 64.
    ToTheEnd(u8),
}

impl Setup {
    /// The same setup with one of the two windows that have an anchor.
    #[must_use]
    pub fn anchored(mut self) -> Self {
        self.kind = match self.kind {
            Kind::Log | Kind::Counter | Kind::Tokens | Kind::Pacing => Kind::Log,
            Kind::Buckets | Kind::Fixed | Kind::Gcra | Kind::Concurrency => Kind::Buckets,
        };
        self
    }

    /// The window of this limit.
    #[must_use]
    pub fn window(self) -> Duration {
        Duration::from_nanos(match self.kind {
            Kind::Buckets => self.width() * u64::from(self.buckets()),
            // These need a tick for each unit.
            Kind::Counter | Kind::Tokens | Kind::Gcra | Kind::Pacing => {
                self.width() + u64::from(self.units()) - 1
            }
            Kind::Log | Kind::Fixed | Kind::Concurrency => self.width(),
        })
    }

    fn width(self) -> u64 {
        u64::from(self.width % 8).max(1)
    }

    fn buckets(self) -> u32 {
        u32::from(self.buckets % 6).max(1)
    }

    pub(crate) fn units(self) -> u32 {
        units(self.limit).get()
    }

    /// The event that windows count from.
    #[must_use]
    pub fn anchor(self) -> Anchor {
        let anchored = matches!(self.kind, Kind::Log | Kind::Buckets);
        if anchored && self.completion {
            Anchor::Completion
        } else {
            Anchor::Grant
        }
    }

    /// Builds the machine.
    #[must_use]
    pub fn machine(self) -> Limiter {
        let (limit, window, anchor) = (units(self.limit), self.window(), self.anchor());
        let burst = NonZeroU32::new(self.buckets()).expect(GOOD);
        match self.kind {
            Kind::Log => SlidingLog::new(limit, window, anchor).expect(GOOD).into(),
            Kind::Buckets => BucketedWindow::new(limit, window, burst, anchor)
                .expect(GOOD)
                .into(),
            Kind::Counter => SlidingCounter::new(limit, window).expect(GOOD).into(),
            Kind::Fixed => FixedWindow::new(limit, window).expect(GOOD).into(),
            Kind::Tokens => TokenBucket::new(limit, window, burst).expect(GOOD).into(),
            Kind::Gcra => Gcra::new(limit, window, burst).expect(GOOD).into(),
            Kind::Pacing => Pacing::new(limit, window).expect(GOOD).into(),
            Kind::Concurrency => Concurrency::new(limit).into(),
        }
    }

    /// Builds the oracle.
    #[must_use]
    pub fn oracle(self) -> Oracle {
        Oracle::new(self)
    }
}

impl Kind {
    /// Whether the state is a level, which does not remember the admissions it sums up.
    fn is_level(self) -> bool {
        matches!(self, Self::Tokens | Self::Gcra | Self::Pacing)
    }
}

/// Holds a limit to its oracle, and to its promise if nothing was booked or settled beyond it.
///
/// # Panics
/// If they differ, or a span held too much.
pub fn run(case: &Case) {
    let mut run = Run {
        setup: case.setup,
        machine: case.setup.machine(),
        oracle: case.setup.oracle(),
        now: 0,
        open: Vec::new(),
        overdrawn: false,
    };
    for op in &case.ops {
        run.step(*op);
        compare(&run.machine, &run.oracle, run.now);
    }
    if !run.overdrawn {
        let oracle = &run.oracle;
        oracle.judge(|span| oracle.promise(span));
    }
}

const GOOD: &str = "the setup makes a limit";

/// An admission that was not settled: its index, tick and cost.
struct Open {
    which: usize,
    booked: Tick,
    cost: u32,
    arrived: bool,
}

struct Run {
    setup: Setup,
    machine: Limiter,
    oracle: Oracle,
    now: u64,
    /// Admissions that were not settled.
    open: Vec<Open>,
    /// Whether something was booked or settled beyond the limit.
    overdrawn: bool,
}

impl Run {
    fn step(&mut self, op: Op) {
        match op {
            Op::Acquire(cost) => self.acquire(u32::from(cost % 8)),
            Op::Charge(cost) => self.charge(u32::from(cost % 8)),
            Op::Settle { which, actual } => self.settle(which.into(), u32::from(actual % 8)),
            Op::Arrive(which) => self.arrive(which.into()),
            Op::SetLimit {
                limit,
                width,
                buckets,
            } => self.set_limit(Setup {
                limit,
                width,
                buckets,
                ..self.setup
            }),
            Op::Restart => {
                let saved = serde_json::to_string(&self.machine).expect("a limit can be saved");
                let restored: Limiter = serde_json::from_str(&saved).expect("and restored");
                assert_eq!(restored, self.machine);
                self.machine = restored;
            }
            Op::Rebase(to) => self.rebase(u64::from(to % 32)),
            Op::Advance(ticks) => self.now = self.now.saturating_add(u64::from(ticks % 16)),
            Op::Back(ticks) => self.now = self.now.saturating_sub(ticks.into()),
            Op::Leap(ticks) => self.now = self.now.saturating_add(ticks.into()),
            Op::ToTheEnd(left) if left < 64 => self.now = u64::MAX - u64::from(left),
            Op::ToTheEnd(_) => {}
        }
    }

    fn tick(&self) -> Tick {
        Tick::from_nanos(self.now)
    }

    fn acquire(&mut self, cost: u32) {
        let before = self.machine.clone();
        let expected = self.oracle.try_acquire(self.now, cost.into());
        let got = self.machine.try_acquire(self.tick(), cost);
        let booked = got.ok().map(Tick::as_nanos);
        assert_eq!(booked, expected, "{cost} units at {}", self.now);
        match got {
            Ok(booked) => self.push(booked, cost),
            Err(wait) => {
                assert_eq!(self.machine, before, "a refusal changed the state");
                assert_eq!(wait, self.machine.earliest(self.tick(), cost));
            }
        }
    }

    fn charge(&mut self, cost: u32) {
        self.overdrawn |= !self.oracle.admits(self.now, cost.into());
        let booked = self.machine.charge(self.tick(), cost);
        let expected = self.oracle.charge(self.now, cost.into());
        assert_eq!(booked.as_nanos(), expected);
        self.push(booked, cost);
    }

    fn push(&mut self, booked: Tick, cost: u32) {
        self.open.push(Open {
            which: self.oracle.uses.len() - 1,
            booked,
            cost,
            arrived: false,
        });
    }

    fn arrive(&mut self, which: usize) {
        let Some(which) = which.checked_rem(self.open.len()) else {
            return;
        };
        let now = self.tick();
        let one = &mut self.open[which];
        if !core::mem::replace(&mut one.arrived, true) {
            self.machine.arrive(now, one.cost);
            self.oracle.arrive(self.now, one.which);
        }
    }

    fn settle(&mut self, which: usize, actual: u32) {
        let Some(which) = which.checked_rem(self.open.len()) else {
            return;
        };
        let one = self.open.remove(which);
        self.overdrawn |= actual > one.cost;
        self.oracle.settle(self.now, one.which, actual.into());
        let now = self.tick();
        if one.arrived {
            self.machine
                .settle_arrived(now, one.booked, one.cost, actual);
        } else {
            self.machine.settle(now, one.booked, one.cost, actual);
        }
    }

    fn set_limit(&mut self, next: Setup) {
        let now = self.tick();
        if set_limit(&mut self.machine, now, next) {
            self.oracle.set_limit(self.now, next);
        }
    }

    fn rebase(&mut self, to: u64) {
        self.machine.rebase(self.tick(), Tick::from_nanos(to));
        self.oracle.rebase(self.now, to);
        for one in &mut self.open {
            one.booked = Tick::from_nanos(self.oracle.uses[one.which].booked);
        }
        self.now = to;
    }
}

/// Changes the limit of a window, or rate and burst of a level; answers whether that was possible.
fn set_limit(machine: &mut Limiter, now: Tick, setup: Setup) -> bool {
    let (limit, window) = (units(setup.limit), setup.window());
    let burst = NonZeroU32::new(setup.buckets()).expect(GOOD);
    match machine {
        Limiter::SlidingLog(log) => log.set_limit(limit),
        Limiter::BucketedWindow(window) => window.set_limit(limit),
        Limiter::FixedWindow(window) => window.set_limit(limit),
        Limiter::Concurrency(slots) => slots.set_limit(limit),
        Limiter::SlidingCounter(counter) => return counter.set_limit(limit).is_ok(),
        Limiter::TokenBucket(level) => level.set_limit(now, limit, window, burst).expect(GOOD),
        Limiter::Gcra(level) => level.set_limit(now, limit, window, burst).expect(GOOD),
        Limiter::Pacing(level) => level.set_limit(limit, window).expect(GOOD),
    }
    true
}

fn units(limit: u8) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(u32::from((limit % 6).saturating_sub(1)))
}

fn compare(machine: &Limiter, oracle: &Oracle, now: u64) {
    let tick = Tick::from_nanos(now);
    let present = oracle.clamp(now);
    for cost in 0..8u32 {
        match machine.earliest(tick, cost) {
            Wait::Until(then) => {
                let then = then.as_nanos();
                assert!(
                    then >= present && oracle.admits(then, cost.into()),
                    "{cost} at {then}"
                );
                let sooner = then.checked_sub(1).filter(|sooner| *sooner >= present);
                let early = sooner.is_some_and(|sooner| oracle.admits(sooner, cost.into()));
                assert!(!early, "{cost} before {then}");
            }
            Wait::ForSettlement => assert!(oracle.waits_for_settlement(cost.into()), "{cost}"),
            Wait::Never => {
                assert!(!oracle.waits_for_settlement(cost.into()), "{cost}");
                assert!(!oracle.admits(u64::MAX, cost.into()), "{cost}");
            }
        }
    }
    let available = oracle.available(now);
    assert_eq!(u64::from(machine.available(tick)), available, "at {now}");
    match machine.next_change(tick) {
        Some(then) => {
            assert!(then.as_nanos() > present);
            assert!(
                oracle.available(then.as_nanos()) > available,
                "nothing changes at {then:?}"
            );
            assert_eq!(
                oracle.available(then.as_nanos() - 1),
                available,
                "before {then:?}"
            );
        }
        None => assert_eq!(oracle.available(u64::MAX), available, "more after {now}"),
    }
}
