//! Limits against oracles that keep every admission for ever and count them anew for each question, by
//! the definition of each algorithm.

use arbitrary::Arbitrary;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::limit::{
    Anchor, BucketedWindow, Concurrency, FixedWindow, Gcra, Limit, Limiter, Pacing, SlidingCounter,
    SlidingLog, TokenBucket, Wait,
};
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
    /// The algorithm.
    pub kind: Kind,
    /// Units a window, taken modulo 6 and made at least 1.
    pub limit: u8,
    /// Ticks in a bucket, or in a window that has none; taken modulo 8 and made at least 1.
    pub width: u8,
    /// Buckets in a window, or the units of a burst; taken modulo 6 and made at least 1.
    pub buckets: u8,
    /// Whether a window that can counts from completion.
    pub completion: bool,
}

/// Which algorithm.
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
        /// Which of them.
        which: u8,
        /// What was used.
        actual: u8,
    },
    /// Changes the limit of a window, as in the setup.
    SetLimit(u8),
    /// Saves and restores.
    #[proptest(weight = 2)]
    Restart,
    /// Goes on by a clock that shows so much now.
    Rebase(u8),
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
    /// The same with one of the two windows that have an anchor.
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
            // They need a tick for each unit.
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

    fn units(self) -> u32 {
        units(self.limit).get()
    }

    /// When the window counts from.
    #[must_use]
    pub fn anchor(self) -> Anchor {
        let anchored = matches!(self.kind, Kind::Log | Kind::Buckets);
        if anchored && self.completion {
            Anchor::Completion
        } else {
            Anchor::Grant
        }
    }

    /// The machine.
    #[must_use]
    pub fn machine(self) -> Limiter {
        const GOOD: &str = "the setup makes a limit";
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

    /// The oracle.
    #[must_use]
    pub fn oracle(self) -> Oracle {
        Oracle {
            setup: self,
            as_if: false,
            limit: self.units().into(),
            largest_limit: self.units().into(),
            latest: 0,
            phase: 0,
            floor: 0,
            epochs: vec![(0, 0)],
            ahead: 0,
            uses: Vec::new(),
        }
    }
}

fn units(limit: u8) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(u32::from((limit % 6).saturating_sub(1)))
}

/// One admission, for ever.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// When its holder thinks that it was booked.
    booked: u64,
    /// When it was booked as the present clock shows it, before its epoch too.
    at: i128,
    settled: Option<i128>,
    units: u64,
    /// When it was booked and settled by a clock that is never set.
    real: (i128, Option<i128>),
}

/// An algorithm by its definition, applied to all admissions so far.
#[derive(Clone, Debug)]
pub struct Oracle {
    setup: Setup,
    /// Whether every settlement counts from the time of its admission.
    as_if: bool,
    limit: u64,
    largest_limit: u64,
    latest: u64,
    /// Where a window or bucket begins, as the present clock shows it.
    phase: u64,
    /// What was booked before is not credited any more.
    floor: u64,
    /// After how many admissions a clock was set, and where its epoch is now.
    epochs: Vec<(usize, i128)>,
    /// How far the clock has been set forward in all.
    ahead: i128,
    /// All admissions so far.
    pub uses: Vec<Use>,
}

impl Oracle {
    /// The same with every settlement counted from the time of its admission.
    #[must_use]
    pub fn settled_as_if(mut self) -> Self {
        self.as_if = true;
        self
    }

    /// Admits `cost` units if they fit at `now`, and answers the tick they are booked at.
    pub fn try_acquire(&mut self, now: u64, cost: u64) -> Option<u64> {
        let now = self.clamp(now);
        if !self.admits(now, cost) {
            return None;
        }
        Some(self.charge(now, cost))
    }

    /// Books `cost` units.
    pub fn charge(&mut self, now: u64, cost: u64) -> u64 {
        self.latest = self.clamp(now);
        self.uses.push(Use {
            booked: self.latest,
            at: self.latest.into(),
            settled: None,
            units: cost,
            real: (self.real(), None),
        });
        self.latest
    }

    fn real(&self) -> i128 {
        i128::from(self.latest) - self.ahead
    }

    /// Settles an admission that has not been settled.
    pub fn settle(&mut self, now: u64, which: usize, actual: u64) {
        let before = self.latest;
        self.latest = self.clamp(now);
        let (latest, real, floor) = (self.latest, self.real(), self.floor);
        let level = self.setup.kind.is_level() && !self.as_if;
        let anchored = self.setup.anchor() == Anchor::Completion;
        let counts_when_done = anchored || self.setup.kind == Kind::Concurrency;
        let one = &mut self.uses[which];
        one.settled = Some(latest.into());
        one.real.1 = Some(real);
        let unknown = one.booked < floor && !counts_when_done;
        if !level && !unknown {
            one.units = actual;
        } else if actual > one.units {
            // Levels take what is owed when it becomes known; what was booked before an epoch is owed there.
            let more = actual - one.units;
            let at = if level { latest } else { one.booked };
            self.uses.push(Use {
                booked: at,
                at: at.into(),
                settled: Some(latest.into()),
                units: more,
                real: (real, Some(real)),
            });
        } else if level && !unknown && one.booked == before {
            // And credit what was not used only if nothing has come in between.
            one.units = actual;
        }
    }

    /// The clock shows `to` from now on.
    pub fn rebase(&mut self, now: u64, to: u64) {
        let present = self.clamp(now);
        let width = self.width();
        let into = (present % width + width - self.phase) % width;
        let start = present.saturating_sub(into);
        // A window can't begin before the epoch; whatever is counted in windows moves with the present one.
        let shift = i128::from(to) - i128::from(now);
        let moved = match self.setup.kind {
            Kind::Buckets | Kind::Counter | Kind::Fixed => shift.max(-i128::from(start)),
            Kind::Log | Kind::Tokens | Kind::Gcra | Kind::Pacing | Kind::Concurrency => shift,
        };
        self.phase = crate::shifted(start, shift) % width;
        self.latest = crate::shifted(present, shift);
        self.ahead += shift;
        self.floor = crate::shifted(self.floor, shift);
        if shift < 0 {
            self.floor = self.floor.max(1);
        }
        let log = self.setup.kind == Kind::Log;
        for one in &mut self.uses {
            one.booked = crate::shifted(one.booked, shift);
            for at in one.settled.iter_mut().chain([&mut one.at]) {
                // The log shows at the epoch what is before it and counts still.
                let counts = *at + i128::from(width) > i128::from(present);
                *at += moved;
                if log && counts {
                    *at = (*at).max(0);
                }
            }
        }
        self.epochs.iter_mut().for_each(|(_, at)| *at += shift);
        self.epochs.push((self.uses.len(), 0));
    }

    /// The ticks of what a window is aligned to.
    fn width(&self) -> u64 {
        match self.setup.kind {
            Kind::Buckets => self.setup.width(),
            Kind::Log
            | Kind::Counter
            | Kind::Fixed
            | Kind::Tokens
            | Kind::Gcra
            | Kind::Pacing
            | Kind::Concurrency => self.window(),
        }
    }

    /// Time stands still where it would run backwards, but for what time plays no part in.
    fn clamp(&self, now: u64) -> u64 {
        match self.setup.kind {
            Kind::Concurrency => now,
            Kind::Log
            | Kind::Buckets
            | Kind::Counter
            | Kind::Fixed
            | Kind::Tokens
            | Kind::Gcra
            | Kind::Pacing => now.max(self.latest),
        }
    }

    /// Whether `cost` units fit at `now`.
    #[must_use]
    pub fn admits(&self, now: u64, cost: u64) -> bool {
        let now = self.clamp(now);
        if cost == 0 {
            return true;
        }
        let window = u128::from(self.window());
        match self.setup.kind {
            Kind::Log | Kind::Buckets | Kind::Fixed => {
                let counts = |one: &&Use| self.leaves(one).is_none_or(|leaves| leaves > now.into());
                let counted: u64 = self.uses.iter().filter(counts).map(|one| one.units).sum();
                counted + cost <= self.limit
            }
            Kind::Counter => {
                let width = self.window();
                let into = (now % width + width - self.phase) % width;
                let start = i128::from(now) - i128::from(into);
                let sum = |from: i128, to: i128| -> u64 {
                    let within = self.uses.iter().filter(|one| (from..to).contains(&one.at));
                    within.map(|one| one.units).sum()
                };
                let current = sum(start, i128::MAX);
                let previous = sum(start - i128::from(width), start);
                let used = u128::from(previous) * u128::from(width - into)
                    + u128::from(current + cost) * window;
                used <= u128::from(self.limit) * window
            }
            Kind::Tokens | Kind::Gcra => {
                let burst = u64::from(self.setup.buckets());
                // No span may hold more than the burst and what flows in during it.
                let mut held = u128::from(cost);
                cost <= burst
                    && self.uses.iter().rev().all(|one| {
                        held += u128::from(one.units);
                        let since = (i128::from(now) - one.at) as u128;
                        let flowed = since * u128::from(self.limit);
                        held * window <= u128::from(burst) * window + flowed
                    })
            }
            Kind::Pacing => {
                let (limit, window) = (i128::from(self.limit), i128::from(self.window()));
                let mut due = i128::MIN;
                for (index, one) in self.uses.iter().enumerate() {
                    due = due.max(self.epoch(index) * limit);
                    let at = one.at * limit;
                    // Within the tick in which it was due, a unit is as good as on time.
                    let from = if at >= due && at - due < limit {
                        due
                    } else {
                        at.max(due)
                    };
                    due = from + i128::from(one.units) * window;
                }
                cost <= self.limit && i128::from(now) * limit >= due
            }
            Kind::Concurrency => {
                let open = self.uses.iter().filter(|one| one.settled.is_none());
                open.map(|one| one.units).sum::<u64>() + cost <= self.limit
            }
        }
    }

    /// The first tick from `now` on at which `cost` units fit, if nothing is settled before; for the
    /// two windows that have an anchor.
    #[must_use]
    pub fn earliest(&self, now: u64, cost: u64) -> Option<u64> {
        let now = self.clamp(now);
        let leaves = self.uses.iter().filter_map(|one| self.leaves(one));
        let leaves = leaves.filter_map(|tick| u64::try_from(tick).ok());
        let candidates = leaves.filter(|tick| *tick > now).chain([now]);
        candidates.filter(|tick| self.admits(*tick, cost)).min()
    }

    /// Whether `cost` will fit once what is in flight has been settled.
    #[must_use]
    pub fn waits_for_settlement(&self, cost: u64) -> bool {
        let waits =
            self.setup.anchor() == Anchor::Completion || self.setup.kind == Kind::Concurrency;
        let mut later = self.clone();
        later.uses.retain(|one| one.settled.is_none());
        waits && cost <= self.limit && !later.admits(u64::MAX, cost)
    }

    fn available(&self, now: u64) -> u64 {
        (0..=8)
            .rev()
            .find(|cost| self.admits(now, *cost))
            .unwrap_or(0)
    }

    fn window(&self) -> u64 {
        u64::try_from(self.setup.window().as_nanos()).expect("the window is small")
    }

    /// The latest of the epochs until the admission of this number.
    fn epoch(&self, index: usize) -> i128 {
        let set = self.epochs.iter().filter(|(count, _)| *count <= index);
        set.map(|(_, at)| *at).max().unwrap_or(0)
    }

    /// When an admission no longer counts; `None` where that isn't known.
    fn leaves(&self, one: &Use) -> Option<i128> {
        let from = match self.setup.anchor() {
            Anchor::Completion => one.settled?,
            Anchor::Grant => one.at,
        };
        let kept = match self.setup.kind {
            Kind::Buckets => i128::from(self.setup.buckets()) + 1,
            Kind::Fixed => 1,
            Kind::Log
            | Kind::Counter
            | Kind::Tokens
            | Kind::Gcra
            | Kind::Pacing
            | Kind::Concurrency => return Some(from + i128::from(self.window())),
        };
        let (width, phase) = (i128::from(self.width()), i128::from(self.phase));
        Some(((from - phase).div_euclid(width) + kept) * width + phase)
    }

    /// Panics where a span holds more units than `worst_case` of it: counted by admission under the
    /// grant anchor, by any choice of arrivals between admission and settlement under the other.
    pub fn judge(&self, worst_case: impl Fn(Duration) -> u64) {
        let spans = || {
            self.uses.iter().map(|one| {
                let (from, settled) = one.real;
                let to = match (self.setup.anchor(), settled) {
                    (Anchor::Grant, _) => from,
                    (Anchor::Completion, Some(settled)) => settled,
                    (Anchor::Completion, None) => i128::MAX,
                };
                (from, to, one.units)
            })
        };
        let window = self.window();
        for length in [
            1,
            window.div_ceil(2),
            window,
            window + 1,
            2 * window,
            2 * window + 1,
            5 * window,
        ] {
            // A fullest span begins where something ends, or just after something left it.
            let length = i128::from(length);
            let starts = spans().flat_map(|(from, to, _)| [to, from + 1 - length]);
            for start in starts {
                let end = start.saturating_add(length);
                let within = spans().filter(|(from, to, _)| *from < end && *to >= start);
                let seen: u64 = within.map(|(_, _, units)| units).sum();
                let allowed = worst_case(Duration::from_nanos(length as u64));
                assert!(
                    seen <= allowed,
                    "{seen} of {allowed} in {length} ticks from {start}"
                );
            }
        }
    }
}

impl Kind {
    /// Whether its state is a level, which forgets what made it.
    fn is_level(self) -> bool {
        matches!(self, Self::Tokens | Self::Gcra | Self::Pacing)
    }
}

/// Holds a limit to its oracle, and to its promise where nothing was booked or settled beyond it.
///
/// # Panics
/// Where they differ, or a span held too much.
pub fn run(case: &Case) {
    let setup = case.setup;
    let mut machine = setup.machine();
    let mut largest = machine.clone();
    let mut oracle = setup.oracle();
    let mut now = 0u64;
    let mut open: Vec<(usize, Tick, u32)> = Vec::new();
    let mut overdrawn = false;
    for op in &case.ops {
        let tick = Tick::from_nanos(now);
        match *op {
            Op::Acquire(cost) => {
                let cost = u32::from(cost % 8);
                let before = machine.clone();
                let expected = oracle.try_acquire(now, cost.into());
                let got = machine.try_acquire(tick, cost);
                let booked = got.ok().map(Tick::as_nanos);
                assert_eq!(booked, expected, "{op:?} at {now}");
                match got {
                    Ok(booked) => open.push((oracle.uses.len() - 1, booked, cost)),
                    Err(wait) => {
                        assert_eq!(machine, before, "a refusal changed the state");
                        assert_eq!(wait, machine.earliest(tick, cost));
                    }
                }
            }
            Op::Charge(cost) => {
                let cost = u32::from(cost % 8);
                overdrawn |= !oracle.admits(now, cost.into());
                let booked = machine.charge(tick, cost);
                assert_eq!(booked.as_nanos(), oracle.charge(now, cost.into()));
                open.push((oracle.uses.len() - 1, booked, cost));
            }
            Op::Settle { which, actual } => {
                if open.is_empty() {
                    continue;
                }
                let (which, booked, reserved) = open.remove(usize::from(which) % open.len());
                let actual = u32::from(actual % 8);
                overdrawn |= actual > reserved;
                oracle.settle(now, which, actual.into());
                machine.settle(tick, booked, reserved, actual);
            }
            Op::SetLimit(limit) => {
                if !set_limit(&mut machine, units(limit)) {
                    continue;
                }
                oracle.limit = units(limit).get().into();
                if oracle.limit > oracle.largest_limit {
                    oracle.largest_limit = oracle.limit;
                    set_limit(&mut largest, units(limit));
                }
            }
            Op::Restart => {
                let saved = serde_json::to_string(&machine).expect("a limit can be saved");
                let restored: Limiter = serde_json::from_str(&saved).expect("and restored");
                assert_eq!(restored, machine);
                machine = restored;
            }
            Op::Rebase(to) => {
                let shown = Tick::from_nanos(to.into());
                machine.rebase(tick, shown);
                oracle.rebase(now, to.into());
                for (which, booked, _) in &mut open {
                    *booked = Tick::from_nanos(oracle.uses[*which].booked);
                }
                now = to.into();
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
        compare(&machine, &oracle, now);
    }
    if !overdrawn {
        oracle.judge(|span| largest.worst_case(span));
    }
}

/// Changes the limit of a window; whether it could be.
fn set_limit(machine: &mut Limiter, limit: NonZeroU32) -> bool {
    match machine {
        Limiter::SlidingLog(log) => log.set_limit(limit),
        Limiter::BucketedWindow(window) => window.set_limit(limit),
        Limiter::FixedWindow(window) => window.set_limit(limit),
        Limiter::Concurrency(slots) => slots.set_limit(limit),
        Limiter::SlidingCounter(counter) => return counter.set_limit(limit).is_ok(),
        Limiter::TokenBucket(_) | Limiter::Gcra(_) | Limiter::Pacing(_) => return false,
    }
    true
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
