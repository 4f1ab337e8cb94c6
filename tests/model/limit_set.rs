//! Limit sets against separate limiters, one for each class from the start, taken all or none.
//!
//! Invariant: after every operation, set and oracle give the same answers for every class.

use crate::limits;
use crate::reports::Reports;
use arbitrary::Arbitrary;
use leasehold_core::limit::{Booking, Cost, Limit, LimitSet, Limiter, Unit, Wait};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A limit set and the operations on it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// The limits; only the first three are used.
    pub limits: Vec<ScopedSetup>,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

/// One limit of the set.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct ScopedSetup {
    /// Whether it is counted for each class.
    pub each_class: bool,
    /// Whether it counts tokens.
    pub tokens: bool,
    /// Algorithm and parameters.
    pub limit: limits::Setup,
}

/// One operation. There are three classes; a cost is up to 2 requests and 5 tokens.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Asks for a class and a cost.
    #[proptest(weight = 8)]
    Acquire(u8, u8, u8),
    /// Books for a class a cost without asking.
    Charge(u8, u8, u8),
    /// Settles one of the bookings in flight at a cost.
    #[proptest(weight = 6)]
    Settle(u8, u8, u8),
    /// Tells that the call of one of the bookings in flight has arrived.
    #[proptest(weight = 3)]
    Arrive(u8),
    /// Reports how many more tokens (or requests) will be served within some ticks.
    Observe(bool, u8, u8),
    /// Saves and restores.
    Restart,
    /// Continues on a clock that shows at most 31 ticks now.
    Rebase(u8),
    /// Advances the clock by at most 15 ticks.
    #[proptest(weight = 6)]
    Advance(u8),
    /// Turns the clock back.
    Back(u8),
}

const CLASSES: u32 = 3;

struct Oracle {
    setups: Vec<ScopedSetup>,
    /// The limiters of each setup: one, or one for each class.
    limiters: Vec<Vec<Limiter>>,
    latest: u64,
    reports: Reports,
}

/// A booking in flight.
struct Open {
    booking: Booking,
    /// Number of the booking, from 0.
    which: usize,
    class: u32,
    cost: Cost,
    arrived: bool,
}

fn cost(requests: u8, tokens: u8) -> Cost {
    Cost {
        requests: u32::from(requests % 3),
        tokens: u32::from(tokens % 6),
    }
}

fn by_unit(cost: Cost) -> [u64; 2] {
    [cost.requests.into(), cost.tokens.into()]
}

impl ScopedSetup {
    fn unit(self) -> Unit {
        if self.tokens {
            Unit::Tokens
        } else {
            Unit::Requests
        }
    }

    fn of(self, cost: Cost) -> u32 {
        if self.tokens {
            cost.tokens
        } else {
            cost.requests
        }
    }
}

impl Oracle {
    fn limits(&self, class: u32) -> impl Iterator<Item = (&ScopedSetup, &Limiter)> {
        let of_class = move |limiters: &'_ Vec<Limiter>| class as usize % limiters.len();
        let limiters = self
            .limiters
            .iter()
            .map(move |limiters| &limiters[of_class(limiters)]);
        self.setups.iter().zip(limiters)
    }

    fn each(&mut self, class: u32, mut change: impl FnMut(&ScopedSetup, &mut Limiter)) {
        for (setup, limiters) in self.setups.iter().zip(&mut self.limiters) {
            let own = class as usize % limiters.len();
            change(setup, &mut limiters[own]);
        }
    }

    /// When all limits admit a cost; `None` if one of them names no tick.
    fn earliest(&self, now: u64, class: u32, cost: Cost) -> Option<u64> {
        let asked = now;
        let now = now.max(self.latest);
        let mut then = Some(now);
        for (setup, limit) in self.limits(class) {
            then = match limit.earliest(Tick::from_nanos(now), setup.of(cost)) {
                Wait::Until(tick) => then.map(|then| then.max(tick.as_nanos())),
                Wait::ForSettlement | Wait::Never => None,
            };
        }
        let leave = |then: u64| {
            let units = by_unit(cost).into_iter().enumerate();
            let mut units = units;
            units.all(|(unit, cost)| self.reports.leave(then, 0, unit, cost))
        };
        // A report lasts for less than a byte's ticks.
        let then = then.and_then(|then| (then..then.saturating_add(300)).find(|then| leave(*then)));
        then.map(|then| if then <= now { asked } else { then })
    }

    fn charge(&mut self, now: u64, class: u32, cost: Cost) {
        self.latest = self.latest.max(now);
        let latest = Tick::from_nanos(self.latest);
        self.each(class, |setup, limit| {
            assert_eq!(limit.charge(latest, setup.of(cost)), latest);
        });
        self.reports.admit(0, by_unit(cost));
    }

    fn arrive(&mut self, now: u64, one: &mut Open) {
        if core::mem::replace(&mut one.arrived, true) {
            return;
        }
        self.latest = self.latest.max(now);
        let latest = Tick::from_nanos(self.latest);
        self.each(one.class, |setup, limit| {
            if !setup.tokens {
                limit.arrive(latest, one.cost.requests);
            }
        });
    }

    fn settle(&mut self, now: u64, one: &Open, actual: Cost) {
        self.latest = self.latest.max(now);
        let latest = Tick::from_nanos(self.latest);
        self.each(one.class, |setup, limit| {
            let (reserved, actual) = (setup.of(one.cost), setup.of(actual));
            if one.arrived && !setup.tokens {
                limit.settle_arrived(latest, one.booking.at(), reserved, actual);
            } else {
                limit.settle(latest, one.booking.at(), reserved, actual);
            }
        });
        self.reports.settle(one.which, by_unit(actual));
    }

    fn rebase(&mut self, now: u64, to: u64) {
        let from = now.max(self.latest);
        let to = to + (from - now);
        for limit in self.limiters.iter_mut().flatten() {
            limit.rebase(Tick::from_nanos(from), Tick::from_nanos(to));
        }
        self.reports.rebase(i128::from(to) - i128::from(from));
        self.latest = to;
    }

    fn available(&self, now: u64, class: u32) -> Cost {
        let now = now.max(self.latest);
        let of = |unit: Unit, index: usize| {
            let limits = self.limits(class).filter(|(setup, _)| setup.unit() == unit);
            let least = limits.map(|(_, limit)| limit.available(Tick::from_nanos(now)));
            let least = least.min().unwrap_or(u32::MAX);
            let leaves = |most: &u32| self.reports.leave(now, 0, index, (*most).into());
            match leaves(&least) {
                true => least,
                false => (0..=least.min(256)).rev().find(leaves).unwrap_or(0),
            }
        };
        Cost {
            requests: of(Unit::Requests, 0),
            tokens: of(Unit::Tokens, 1),
        }
    }
}

/// Holds a limit set to its oracle: the same answers, all or none.
///
/// # Panics
/// If they differ.
pub fn run(case: &Case) {
    let setups: Vec<_> = case.limits.iter().copied().take(3).collect();
    let mut machine = LimitSet::new();
    for setup in &setups {
        let limit = setup.limit.machine();
        machine = match setup.each_class {
            true => machine.with_each_class(setup.unit(), limit),
            false => machine.with(setup.unit(), limit),
        };
    }
    let counters = |setup: &ScopedSetup| {
        if setup.each_class {
            CLASSES as usize
        } else {
            1
        }
    };
    let oracle = Oracle {
        limiters: setups
            .iter()
            .map(|setup| vec![setup.limit.machine(); counters(setup)])
            .collect(),
        setups,
        latest: 0,
        reports: Reports::default(),
    };
    let mut run = Run {
        machine,
        oracle,
        now: 0,
        booked: 0,
        open: Vec::new(),
    };
    for op in &case.ops {
        run.step(*op);
        compare(&run.machine, &run.oracle, run.now);
    }
}

struct Run {
    machine: LimitSet,
    oracle: Oracle,
    now: u64,
    /// Bookings so far.
    booked: usize,
    /// Bookings in flight.
    open: Vec<Open>,
}

impl Run {
    fn step(&mut self, op: Op) {
        match op {
            Op::Acquire(class, requests, tokens) => {
                self.acquire(u32::from(class) % CLASSES, cost(requests, tokens));
            }
            Op::Charge(class, requests, tokens) => {
                let (class, cost) = (u32::from(class) % CLASSES, cost(requests, tokens));
                let booking = self.machine.charge(self.tick(), class, cost);
                self.book(booking, class, cost);
            }
            Op::Settle(which, requests, tokens) => {
                if let Some(which) = usize::from(which).checked_rem(self.open.len()) {
                    let one = self.open.remove(which);
                    let actual = cost(requests, tokens);
                    self.machine
                        .settle(self.tick(), one.booking, one.cost, actual);
                    self.oracle.settle(self.now, &one, actual);
                }
            }
            Op::Arrive(which) => {
                if let Some(which) = usize::from(which).checked_rem(self.open.len()) {
                    let now = self.tick();
                    let one = &mut self.open[which];
                    self.machine.arrive(now, &mut one.booking, one.cost);
                    self.oracle.arrive(self.now, one);
                }
            }
            Op::Observe(tokens, remaining, reset) => {
                self.observe(tokens, remaining % 8, u64::from(reset % 32));
            }
            Op::Restart => {
                let saved = serde_json::to_vec(&self.machine).expect("a set can be saved");
                let read: LimitSet = serde_json::from_slice(&saved).expect("and restored");
                assert_eq!(read, self.machine);
                self.machine = read;
            }
            Op::Rebase(to) => self.rebase(u64::from(to % 32)),
            Op::Advance(ticks) => self.now += u64::from(ticks % 16),
            Op::Back(ticks) => self.now = self.now.saturating_sub(ticks.into()),
        }
    }

    fn tick(&self) -> Tick {
        Tick::from_nanos(self.now)
    }

    fn acquire(&mut self, class: u32, cost: Cost) {
        let fits = self.oracle.earliest(self.now, class, cost) == Some(self.now);
        let before = self.machine.clone();
        let got = self.machine.try_acquire(self.tick(), class, cost);
        assert_eq!(
            got.is_ok(),
            fits,
            "{cost:?} of class {class} at {}",
            self.now
        );
        match got {
            Ok(booking) => self.book(booking, class, cost),
            Err(wait) => {
                assert_eq!(wait, self.machine.earliest(self.tick(), class, cost));
                assert_eq!(self.machine, before, "a refusal changed the state");
            }
        }
    }

    fn book(&mut self, booking: Booking, class: u32, cost: Cost) {
        self.oracle.charge(self.now, class, cost);
        assert_eq!(booking.at().as_nanos(), self.oracle.latest);
        self.open.push(Open {
            booking,
            which: self.booked,
            class,
            cost,
            arrived: false,
        });
        self.booked += 1;
    }

    fn observe(&mut self, tokens: bool, remaining: u8, ticks: u64) {
        let latest = self.oracle.latest.max(self.now);
        self.oracle.latest = latest;
        let reset = self.now.saturating_add(ticks);
        let reports = &mut self.oracle.reports;
        let kept = reports.observe(latest, 0, usize::from(tokens), remaining.into(), reset);
        // A report that the oracle can't keep apart is given as one that has expired.
        let reset = Tick::from_nanos(if kept { reset } else { 0 });
        let unit = if tokens { Unit::Tokens } else { Unit::Requests };
        self.machine
            .observe(self.tick(), unit, remaining.into(), reset);
    }

    fn rebase(&mut self, to: u64) {
        let (from, shown) = (self.tick(), Tick::from_nanos(to));
        self.machine.rebase(from, shown);
        self.oracle.rebase(self.now, to);
        for one in &mut self.open {
            one.booking = one.booking.rebased(from, shown);
        }
        self.now = to;
    }
}

fn compare(machine: &LimitSet, oracle: &Oracle, now: u64) {
    let tick = Tick::from_nanos(now);
    for class in 0..CLASSES {
        let cost = cost(1, 3);
        let expected = oracle.earliest(now, class, cost);
        let got = match machine.earliest(tick, class, cost) {
            Wait::Until(then) => Some(then.as_nanos()),
            Wait::ForSettlement | Wait::Never => None,
        };
        assert_eq!(got, expected, "class {class} at {now}");
        let available = oracle.available(now, class);
        assert_eq!(machine.available(tick, class), available, "at {now}");
        if let Some(change) = machine.next_change(tick, class) {
            let sooner = change.as_nanos() - 1;
            assert!(sooner >= now.max(oracle.latest));
            assert_eq!(
                oracle.available(sooner, class),
                available,
                "before {change:?}"
            );
        }
    }
}
