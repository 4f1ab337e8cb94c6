//! Limits against an oracle that keeps every admission for ever and counts them anew for each question.

use arbitrary::Arbitrary;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::limit::{Anchor, BucketedWindow, Limit, Limiter, SlidingLog, Wait};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A limit and what is done with it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// The limit.
    pub setup: Setup,
    /// What is done, in order.
    pub ops: Vec<Op>,
}

/// A small limit, so that a short run fills it.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Setup {
    /// Units a window, taken modulo 6 and made at least 1.
    pub limit: u8,
    /// Ticks in a bucket, taken modulo 8 and made at least 1.
    pub width: u8,
    /// Buckets in a window, taken modulo 7; none for the exact log.
    pub buckets: u8,
    /// Whether the window counts from completion.
    pub completion: bool,
}

/// One operation.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Asks for up to 7 units.
    #[proptest(weight = 6)]
    Acquire(u8),
    /// Settles one of the open admissions at up to 7 units.
    #[proptest(weight = 4)]
    Settle {
        /// Which of them.
        which: u8,
        /// What was used.
        actual: u8,
    },
    /// Lets time pass, at most 15 ticks.
    #[proptest(weight = 6)]
    Advance(u8),
    /// Turns the clock back.
    Back(u8),
    /// Lets much time pass.
    Leap(u32),
    /// Goes to where so many ticks are left, if they are fewer than 64.
    ToTheEnd(u8),
}

impl Setup {
    /// The window of this limit.
    #[must_use]
    pub fn window(self) -> Duration {
        let buckets = u64::from(self.buckets % 7).max(1);
        Duration::from_nanos(self.width() * buckets)
    }

    fn width(self) -> u64 {
        u64::from(self.width % 8).max(1)
    }

    fn units(self) -> u32 {
        u32::from(self.limit % 6).max(1)
    }

    /// When the window counts from.
    #[must_use]
    pub fn anchor(self) -> Anchor {
        if self.completion {
            Anchor::Completion
        } else {
            Anchor::Grant
        }
    }

    /// The machine.
    #[must_use]
    pub fn machine(self) -> Limiter {
        let limit = NonZeroU32::new(self.units()).expect("a limit is at least 1");
        match NonZeroU32::new(u32::from(self.buckets % 7)) {
            None => SlidingLog::new(limit, self.window(), self.anchor())
                .expect("the window has a length")
                .into(),
            Some(buckets) => BucketedWindow::new(limit, self.window(), buckets, self.anchor())
                .expect("the buckets are even")
                .into(),
        }
    }

    /// The oracle.
    #[must_use]
    pub fn oracle(self) -> Oracle {
        Oracle {
            limit: self.units().into(),
            width: self.width(),
            buckets: u64::from(self.buckets % 7),
            completion: self.completion,
            latest: 0,
            uses: Vec::new(),
        }
    }
}

/// One admission, for ever.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    booked: u64,
    settled: Option<u64>,
    units: u64,
}

/// A window, counted anew from all admissions for each question.
#[derive(Clone, Debug)]
pub struct Oracle {
    limit: u64,
    width: u64,
    buckets: u64,
    completion: bool,
    latest: u64,
    /// All admissions so far.
    pub uses: Vec<Use>,
}

impl Oracle {
    /// Admits `cost` units if they fit at `now`, and answers the tick they are booked at.
    pub fn try_acquire(&mut self, now: u64, cost: u64) -> Option<u64> {
        let now = now.max(self.latest);
        if !self.admits(now, cost) {
            return None;
        }
        if cost > 0 {
            self.latest = now;
            self.uses.push(Use {
                booked: now,
                settled: None,
                units: cost,
            });
        }
        Some(now)
    }

    /// Settles an admission that has not been settled.
    pub fn settle(&mut self, now: u64, which: usize, actual: u64) {
        self.latest = self.latest.max(now);
        let one = &mut self.uses[which];
        one.settled = Some(self.latest);
        one.units = actual;
    }

    /// Whether `cost` units fit at `now`.
    #[must_use]
    pub fn admits(&self, now: u64, cost: u64) -> bool {
        let counted: u64 = self
            .uses
            .iter()
            .filter(|one| self.leaves(one).is_none_or(|leaves| leaves > now))
            .map(|one| one.units)
            .sum();
        cost == 0 || counted + cost <= self.limit
    }

    /// The first tick from `now` on at which `cost` units fit, if nothing is settled before.
    #[must_use]
    pub fn earliest(&self, now: u64, cost: u64) -> Option<u64> {
        let now = now.max(self.latest);
        let leaves = self.uses.iter().filter_map(|one| self.leaves(one));
        let candidates = leaves.filter(|tick| *tick > now).chain([now]);
        candidates.filter(|tick| self.admits(*tick, cost)).min()
    }

    /// Whether `cost` will fit once what is in flight has been settled.
    #[must_use]
    pub fn waits_for_settlement(&self, cost: u64) -> bool {
        let mut later = self.clone();
        later
            .uses
            .retain(|one| later.completion && one.settled.is_none());
        cost <= self.limit && !later.admits(u64::MAX, cost)
    }

    /// When an admission no longer counts; `None` where that isn't known or is past the end of time.
    fn leaves(&self, one: &Use) -> Option<u64> {
        let from = if self.completion {
            one.settled?
        } else {
            one.booked
        };
        if self.buckets == 0 {
            from.checked_add(self.width)
        } else {
            (from / self.width)
                .checked_add(self.buckets + 1)?
                .checked_mul(self.width)
        }
    }

    /// Panics where a window holds more units than the limit: counted by admission under the grant
    /// anchor, by any choice of arrivals between admission and settlement under the other.
    pub fn judge(&self, window: Duration) {
        let window = u128::from(u64::try_from(window.as_nanos()).unwrap_or(u64::MAX));
        let spans = || {
            self.uses.iter().map(|one| {
                let from = u128::from(one.booked);
                let to = match (self.completion, one.settled) {
                    (false, _) => from,
                    (true, Some(settled)) => u128::from(settled),
                    (true, None) => u128::MAX,
                };
                (from, to, one.units)
            })
        };
        // A window fullest of such spans begins where one of them ends or just after one left it.
        let starts = spans().flat_map(|(from, to, _)| [to, (from + 1).saturating_sub(window)]);
        for start in starts {
            let end = start.saturating_add(window);
            let seen: u64 = spans()
                .filter(|(from, to, _)| *from < end && *to >= start)
                .map(|(_, _, units)| units)
                .sum();
            assert!(seen <= self.limit, "{seen} in the window from {start}");
        }
    }
}

/// Holds a limit to its oracle, and to its promise where nothing was settled above its reservation.
///
/// # Panics
/// Where they differ, or a window held too much.
pub fn run(case: &Case) {
    let setup = case.setup;
    let mut machine = setup.machine();
    let mut oracle = setup.oracle();
    let mut now = 0u64;
    let mut open: Vec<(usize, Tick, u32)> = Vec::new();
    let mut overdrawn = false;
    for op in &case.ops {
        match *op {
            Op::Acquire(cost) => {
                let cost = u32::from(cost % 8);
                let before = machine.clone();
                let expected = oracle.try_acquire(now, cost.into());
                let got = machine.try_acquire(Tick::from_nanos(now), cost);
                assert_eq!(got.ok().map(Tick::as_nanos), expected, "{op:?} at {now}");
                match got {
                    Ok(booked) if cost > 0 => open.push((oracle.uses.len() - 1, booked, cost)),
                    Ok(_) => {}
                    Err(wait) => {
                        assert_eq!(machine, before, "a refusal changed the state");
                        assert_eq!(wait, machine.earliest(Tick::from_nanos(now), cost));
                    }
                }
            }
            Op::Settle { which, actual } => {
                if open.is_empty() {
                    continue;
                }
                let (which, booked, reserved) = open.remove(usize::from(which) % open.len());
                let actual = u32::from(actual % 8);
                overdrawn |= actual > reserved;
                oracle.settle(now, which, actual.into());
                machine.settle(Tick::from_nanos(now), booked, reserved, actual);
            }
            Op::Advance(ticks) => now = now.saturating_add(u64::from(ticks % 16)),
            Op::Back(ticks) => now = now.saturating_sub(ticks.into()),
            Op::Leap(ticks) => now = now.saturating_add(ticks.into()),
            Op::ToTheEnd(left) => {
                if left < 64 {
                    now = u64::MAX - u64::from(left);
                }
            }
        }
        for cost in 0..8 {
            check_earliest(&machine, &oracle, now, cost);
        }
    }
    if !overdrawn {
        oracle.judge(setup.window());
    }
}

fn check_earliest(machine: &Limiter, oracle: &Oracle, now: u64, cost: u32) {
    let wait = machine.earliest(Tick::from_nanos(now), cost);
    let expected = match oracle.earliest(now, cost.into()) {
        Some(tick) => Wait::Until(Tick::from_nanos(tick)),
        None if oracle.waits_for_settlement(cost.into()) => Wait::ForSettlement,
        None => Wait::Never,
    };
    assert_eq!(wait, expected, "cost {cost} at {now}");
    let Wait::Until(tick) = wait else { return };
    assert!(machine.clone().try_acquire(tick, cost).is_ok());
    if tick.as_nanos() > now.max(oracle.latest) {
        let sooner = Tick::from_nanos(tick.as_nanos() - 1);
        assert!(machine.clone().try_acquire(sooner, cost).is_err());
    }
}
