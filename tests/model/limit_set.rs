//! A set of limits against limits that stand alone, each there from the beginning, taken all or none.

use crate::limits;
use crate::reports::Reports;
use arbitrary::Arbitrary;
use leasehold_core::limit::{Booking, Cost, Limit, LimitSet, Limiter, Unit, Wait};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A set and what is done with it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// Its limits; only the first three are taken.
    pub rules: Vec<RuleSetup>,
    /// What is done, in order.
    pub ops: Vec<Op>,
}

/// One limit of the set.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct RuleSetup {
    /// Whether each class counts by itself.
    pub each_class: bool,
    /// Whether tokens are counted.
    pub tokens: bool,
    /// How.
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
    /// Settles one of those in flight at a cost.
    #[proptest(weight = 6)]
    Settle(u8, u8, u8),
    /// Says how many more tokens, or requests, will be served within so many ticks.
    Observe(bool, u8, u8),
    /// Saves and restores.
    Restart,
    /// Goes on by a clock that shows at most 31 ticks now.
    Rebase(u8),
    /// Lets at most 15 ticks pass.
    #[proptest(weight = 6)]
    Advance(u8),
    /// Turns the clock back.
    Back(u8),
}

const CLASSES: u32 = 3;

struct Oracle {
    rules: Vec<RuleSetup>,
    /// The limits of each rule: one, or one for each class.
    limits: Vec<Vec<Limiter>>,
    latest: u64,
    reports: Reports,
}

struct Open {
    booking: Booking,
    which: usize,
    class: u32,
    cost: Cost,
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

impl RuleSetup {
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
    fn limits(&self, class: u32) -> impl Iterator<Item = (&RuleSetup, &Limiter)> {
        let of_class = move |limits: &'_ Vec<Limiter>| class as usize % limits.len();
        let limits = self
            .limits
            .iter()
            .map(move |limits| &limits[of_class(limits)]);
        self.rules.iter().zip(limits)
    }

    fn each(&mut self, class: u32, mut change: impl FnMut(&RuleSetup, &mut Limiter)) {
        for (rule, limits) in self.rules.iter().zip(&mut self.limits) {
            let own = class as usize % limits.len();
            change(rule, &mut limits[own]);
        }
    }

    /// When all admit a cost; `None` where one of them doesn't say.
    fn earliest(&self, now: u64, class: u32, cost: Cost) -> Option<u64> {
        let asked = now;
        let now = now.max(self.latest);
        let mut then = Some(now);
        for (rule, limit) in self.limits(class) {
            then = match limit.earliest(Tick::from_nanos(now), rule.of(cost)) {
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
        self.each(class, |rule, limit| {
            assert_eq!(limit.charge(latest, rule.of(cost)), latest);
        });
        self.reports.admit(0, by_unit(cost));
    }

    fn settle(&mut self, now: u64, one: &Open, actual: Cost) {
        self.latest = self.latest.max(now);
        let latest = Tick::from_nanos(self.latest);
        self.each(one.class, |rule, limit| {
            let (reserved, actual) = (rule.of(one.cost), rule.of(actual));
            limit.settle(latest, one.booking.at(), reserved, actual);
        });
        self.reports.settle(one.which, by_unit(actual));
    }

    fn rebase(&mut self, now: u64, to: u64) {
        let from = now.max(self.latest);
        let to = to + (from - now);
        for limit in self.limits.iter_mut().flatten() {
            limit.rebase(Tick::from_nanos(from), Tick::from_nanos(to));
        }
        self.reports.rebase(i128::from(to) - i128::from(from));
        self.latest = to;
    }

    fn available(&self, now: u64, class: u32) -> Cost {
        let now = now.max(self.latest);
        let of = |unit: Unit, index: usize| {
            let limits = self.limits(class).filter(|(rule, _)| rule.unit() == unit);
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

/// Holds a set to its oracle: the same answers, all or none.
///
/// # Panics
/// Where they differ.
pub fn run(case: &Case) {
    let rules: Vec<_> = case.rules.iter().copied().take(3).collect();
    let mut machine = LimitSet::new();
    for rule in &rules {
        let limit = rule.limit.machine();
        machine = match rule.each_class {
            true => machine.with_each_class(rule.unit(), limit),
            false => machine.with(rule.unit(), limit),
        };
    }
    let counts = |rule: &RuleSetup| if rule.each_class { CLASSES as usize } else { 1 };
    let mut oracle = Oracle {
        limits: rules
            .iter()
            .map(|rule| vec![rule.limit.machine(); counts(rule)])
            .collect(),
        rules,
        latest: 0,
        reports: Reports::default(),
    };
    let (mut now, mut admitted) = (0u64, 0);
    let mut open: Vec<Open> = Vec::new();
    for op in &case.ops {
        let tick = Tick::from_nanos(now);
        match *op {
            Op::Acquire(class, requests, tokens) | Op::Charge(class, requests, tokens) => {
                let (class, cost) = (u32::from(class) % CLASSES, cost(requests, tokens));
                let booking = if matches!(op, Op::Acquire(..)) {
                    let fits = oracle.earliest(now, class, cost) == Some(now);
                    let before = machine.clone();
                    let got = machine.try_acquire(tick, class, cost);
                    assert_eq!(got.is_ok(), fits, "{op:?} at {now}");
                    if let Err(wait) = got {
                        assert_eq!(wait, machine.earliest(tick, class, cost));
                        assert_eq!(machine, before, "a refusal changed the state");
                        continue;
                    }
                    got.ok()
                } else {
                    Some(machine.charge(tick, class, cost))
                };
                oracle.charge(now, class, cost);
                let booking = booking.expect("it was booked");
                assert_eq!(booking.at().as_nanos(), oracle.latest);
                open.push(Open {
                    booking,
                    which: admitted,
                    class,
                    cost,
                });
                admitted += 1;
            }
            Op::Settle(which, requests, tokens) => {
                if let Some(which) = usize::from(which).checked_rem(open.len()) {
                    let one = open.remove(which);
                    let actual = cost(requests, tokens);
                    machine.settle(tick, one.booking, one.cost, actual);
                    oracle.settle(now, &one, actual);
                }
            }
            Op::Observe(tokens, remaining, reset) => {
                oracle.latest = oracle.latest.max(now);
                let (unit, remaining) = (usize::from(tokens), remaining % 8);
                let reset = now.saturating_add(u64::from(reset % 32));
                let news = oracle
                    .reports
                    .observe(oracle.latest, 0, unit, remaining.into(), reset);
                // What no longer holds is no news.
                let reset = Tick::from_nanos(if news { reset } else { 0 });
                let unit = if tokens { Unit::Tokens } else { Unit::Requests };
                machine.observe(tick, unit, remaining.into(), reset);
            }
            Op::Restart => {
                let saved = serde_json::to_vec(&machine).expect("a set can be saved");
                let read: LimitSet = serde_json::from_slice(&saved).expect("and restored");
                assert_eq!(read, machine);
                machine = read;
            }
            Op::Rebase(to) => {
                let to = u64::from(to % 32);
                let shown = Tick::from_nanos(to);
                machine.rebase(tick, shown);
                oracle.rebase(now, to);
                for one in &mut open {
                    one.booking = one.booking.rebased(tick, shown);
                }
                now = to;
            }
            Op::Advance(ticks) => now += u64::from(ticks % 16),
            Op::Back(ticks) => now = now.saturating_sub(ticks.into()),
        }
        compare(&machine, &oracle, now);
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
