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
    /// Changes the limit, and the rate and burst of a level, as in the setup.
    SetLimit {
        /// Units a window.
        limit: u8,
        /// What makes the window of a level.
        width: u8,
        /// Its burst.
        buckets: u8,
    },
    /// Saves and restores.
    #[proptest(weight = 2)]
    Restart,
    /// Goes on by a clock that shows at most 31 ticks now.
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

    /// The parts, in lowest terms, that a tick is worth and that a unit costs, and the units of a burst.
    fn level(self) -> (i128, i128, i128) {
        let (units, window) = (i128::from(self.units()), self.window().as_nanos() as i128);
        let divisor = (1..=units).rev();
        let divisor = divisor.filter(|by| units % by == 0 && window % by == 0);
        let divisor = divisor.max().unwrap_or(1);
        let pacing = self.kind == Kind::Pacing;
        let burst = if pacing { units } else { self.buckets().into() };
        (units / divisor, window / divisor, burst)
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
            floor: None,
            events: Vec::new(),
            ahead: 0,
            uses: Vec::new(),
        }
    }
}

/// What of `missing` from one burst is missing from the next: what was free is, but no more than the next
/// holds; and where that flows faster, less what its burst is smaller by.
fn carried(missing: i128, from: Setup, to: Setup) -> i128 {
    let ((flow, unit, burst), (next_flow, next_unit, next_burst)) = (from.level(), to.level());
    let missing = (missing * next_unit + unit - 1) / unit;
    let free = burst * next_unit - missing;
    let free = if next_flow * unit > flow * next_unit {
        free - (burst - next_burst).max(0) * next_unit
    } else {
        free.min(next_burst * next_unit)
    };
    next_burst * next_unit - free
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
    /// What was booked then or before is not credited any more.
    floor: Option<u64>,
    /// What befell it after how many admissions, and when as the present clock shows it.
    events: Vec<(usize, i128, Event)>,
    /// How far the clock has been set forward in all.
    ahead: i128,
    /// All admissions so far.
    pub uses: Vec<Use>,
}

/// What changes a level but for admissions.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The clock was set, and can show nothing before.
    Epoch,
    /// It was configured so from then on.
    Change(Setup),
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
        let unknown = floor.is_some_and(|floor| one.booked <= floor) && !counts_when_done;
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
        if shift < 0 {
            self.floor = self.floor.max(Some(0));
        }
        self.floor = self.floor.map(|floor| crate::shifted(floor, shift));
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
        self.events.iter_mut().for_each(|(_, at, _)| *at += shift);
        self.events.push((self.uses.len(), 0, Event::Epoch));
    }

    /// Goes on with another limit; a level with that of another setup.
    pub fn set_limit(&mut self, now: u64, setup: Setup) {
        if !self.setup.kind.is_level() {
            self.limit = setup.units().into();
            return;
        }
        if setup.level() != self.level().level() {
            let present = self.clamp(now);
            if self.setup.kind != Kind::Pacing {
                self.latest = present;
            }
            let change = Event::Change(setup);
            self.events.push((self.uses.len(), present.into(), change));
            // What was booked by another limit is not credited.
            self.floor = self.floor.max(Some(self.latest));
        }
    }

    /// How a level is configured now.
    fn level(&self) -> Setup {
        let mut setups = self.setups();
        setups.next_back().unwrap_or(self.setup)
    }

    /// Each configuration that a level has had.
    fn setups(&self) -> impl DoubleEndedIterator<Item = Setup> {
        let changes = self.events.iter().filter_map(|(_, _, event)| match event {
            Event::Change(setup) => Some(*setup),
            Event::Epoch => None,
        });
        [self.setup].into_iter().chain(changes)
    }

    /// What is missing from a burst at `now`, in the parts of the present rate: as much as any span until
    /// then holds beyond what flows in during it.
    fn missing(&self, now: u64) -> i128 {
        let mut setup = self.setup;
        let mut first = 0;
        // What was missing when the last change was made.
        let mut base: Option<(i128, i128)> = None;
        let most = |setup: Setup, uses: &[Use], base: Option<(i128, i128)>, now: i128| {
            let (flow, unit, _) = setup.level();
            let (mut held, mut most) = (0, 0);
            for one in uses.iter().rev() {
                held += i128::from(one.units) * unit;
                most = (held - (now - one.at) * flow).max(most);
            }
            let owed = base.map(|(since, base)| held + base - (now - since) * flow);
            owed.unwrap_or(0).max(most)
        };
        for (end, at, event) in &self.events {
            if let Event::Change(next) = *event {
                let missing = most(setup, &self.uses[first..*end], base, *at);
                base = Some((*at, carried(missing, setup, next)));
                (setup, first) = (next, *end);
            }
        }
        most(setup, &self.uses[first..], base, now.into())
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
                let (_, unit, burst) = self.level().level();
                let cost = i128::from(cost);
                cost <= burst && self.missing(now) + cost * unit <= burst * unit
            }
            Kind::Pacing => {
                let limit = self.level().units();
                let (flow, ..) = self.level().level();
                cost <= u64::from(limit) && i128::from(now) * flow >= self.due()
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

    /// When the next is due by pacing, in parts of the present rate.
    fn due(&self) -> i128 {
        let mut setup = self.setup;
        // Nothing was due before the first clock began.
        let mut due = self.ahead * setup.level().0;
        let mut events = self.events.iter().peekable();
        for index in 0..=self.uses.len() {
            while let Some((_, at, event)) = events.next_if(|(count, ..)| *count == index) {
                let (flow, unit, _) = setup.level();
                let Event::Change(next) = *event else {
                    due = due.max(at * flow);
                    continue;
                };
                let (next_flow, next_unit, _) = next.level();
                if next_flow * unit < flow * next_unit {
                    let larger = i128::from(next.units()) - i128::from(setup.units());
                    due += larger.max(0) * unit;
                }
                due = (due + flow - 1).div_euclid(flow) * next_flow;
                setup = next;
            }
            let Some(one) = self.uses.get(index) else {
                break;
            };
            let (flow, unit, _) = setup.level();
            let at = one.at * flow;
            // Within the tick in which it was due, a unit is as good as on time.
            let from = if at >= due && at - due < flow {
                due
            } else {
                at.max(due)
            };
            due = from + i128::from(one.units) * unit;
        }
        due
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
            Op::SetLimit {
                limit,
                width,
                buckets,
            } => {
                let next = Setup {
                    limit,
                    width,
                    buckets,
                    ..setup
                };
                if set_limit(&mut machine, tick, next) {
                    oracle.set_limit(now, next);
                    oracle.largest_limit = oracle.largest_limit.max(oracle.limit);
                }
            }
            Op::Restart => {
                let saved = serde_json::to_string(&machine).expect("a limit can be saved");
                let restored: Limiter = serde_json::from_str(&saved).expect("and restored");
                assert_eq!(restored, machine);
                machine = restored;
            }
            Op::Rebase(to) => {
                let to = u64::from(to % 32);
                let shown = Tick::from_nanos(to);
                machine.rebase(tick, shown);
                oracle.rebase(now, to);
                for (which, booked, _) in &mut open {
                    *booked = Tick::from_nanos(oracle.uses[*which].booked);
                }
                now = to;
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
        oracle.judge(|span| oracle.promise(span));
    }
}

impl Oracle {
    /// The most that a span may hold with all configurations there have been.
    fn promise(&self, span: Duration) -> u64 {
        if !self.setup.kind.is_level() {
            let mut largest = self.setup.machine();
            let limit = self.largest_limit as u8;
            set_limit(
                &mut largest,
                Tick::ZERO,
                Setup {
                    limit,
                    ..self.setup
                },
            );
            return largest.worst_case(span);
        }
        let mut setups: Vec<Setup> = Vec::new();
        for setup in self.setups() {
            if setups.iter().all(|known| known.level() != setup.level()) {
                setups.push(setup);
            }
        }
        let between = span.as_nanos() as i128 - 1;
        let flow = |setup: &Setup| {
            let (flow, unit, _) = setup.level();
            between * flow / unit
        };
        let burst = |setup: &Setup| setup.level().2;
        let most = match setups.as_slice() {
            [only] => return only.machine().worst_case(span),
            [_, _] => setups.iter().map(|setup| flow(setup) + burst(setup)).max(),
            _ => {
                let flow = setups.iter().map(flow).max();
                flow.zip(setups.iter().map(burst).max())
                    .map(|(flow, burst)| flow + burst)
            }
        };
        u64::try_from(most.expect("there are some")).expect("it is above zero")
    }
}

/// Changes the limit of a window, or all of a level; whether it could be.
fn set_limit(machine: &mut Limiter, now: Tick, setup: Setup) -> bool {
    const GOOD: &str = "the setup makes a limit";
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
