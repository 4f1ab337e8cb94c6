//! The oracle of limits: each algorithm by its definition, over all admissions so far.
//!
//! Invariant: nothing is forgotten. Every question is answered by counting all [`Use`]s anew.

use super::{Kind, Setup, set_limit};
use core::time::Duration;
use leasehold_core::limit::{Anchor, Limit};
use leasehold_core::time::Tick;

/// One admission.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// The tick its holder has.
    pub(super) booked: u64,
    /// The booking's tick on the present clock, below zero if before its epoch.
    at: i128,
    settled: Option<i128>,
    /// Whether it was counted from its arrival.
    arrived: bool,
    units: u64,
    /// Ticks of booking and settlement on a clock that is never set.
    real: (i128, Option<i128>),
}

/// An algorithm by its definition, applied to all admissions so far.
#[derive(Clone, Debug)]
pub struct Oracle {
    setup: Setup,
    pub(crate) limit: u64,
    largest_limit: u64,
    latest: u64,
    /// Offset of window or bucket starts on the present clock.
    phase: u64,
    /// The last tick whose bookings are not refunded.
    refund_cutoff: Option<u64>,
    /// Events with the number of admissions before them and their tick on the present clock.
    events: Vec<(usize, i128, Event)>,
    /// Ticks by which the clock was set forward in total.
    ahead: i128,
    /// All admissions so far.
    pub uses: Vec<Use>,
}

/// An event that changes a level, besides admissions.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The clock was set, and shows nothing before its epoch.
    Epoch,
    /// Rate and burst were changed.
    Change(Setup),
}

impl Oracle {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            setup,
            limit: setup.units().into(),
            largest_limit: setup.units().into(),
            latest: 0,
            phase: 0,
            refund_cutoff: None,
            events: Vec::new(),
            ahead: 0,
            uses: Vec::new(),
        }
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
            arrived: false,
            units: cost,
            real: (self.real(), None),
        });
        self.latest
    }

    fn real(&self) -> i128 {
        i128::from(self.latest) - self.ahead
    }

    /// Whether an admission counts from its arrival.
    #[must_use]
    pub fn has_arrived(&self, which: usize) -> bool {
        self.uses[which].arrived
    }

    /// Counts an admission from now on, because its call has arrived, where that is the anchor.
    pub fn arrive(&mut self, now: u64, which: usize) {
        if self.setup.anchor() == Anchor::Completion {
            self.settle(now, which, self.uses[which].units);
            self.uses[which].arrived = true;
        }
    }

    /// Settles an admission that has not been settled.
    pub fn settle(&mut self, now: u64, which: usize, actual: u64) {
        if self.uses[which].arrived {
            let more = actual.saturating_sub(self.uses[which].units);
            let extra = self.uses.len();
            self.charge(now, more);
            self.settle(now, extra, more);
            return;
        }
        let before = self.latest;
        self.latest = self.clamp(now);
        let (latest, real, cutoff) = (self.latest, self.real(), self.refund_cutoff);
        let level = self.setup.kind.is_level();
        let anchored = self.setup.anchor() == Anchor::Completion;
        let counts_when_done = anchored || self.setup.kind == Kind::Concurrency;
        let one = &mut self.uses[which];
        one.settled = Some(latest.into());
        one.real.1 = Some(real);
        let refused = cutoff.is_some_and(|cutoff| one.booked <= cutoff) && !counts_when_done;
        if !level && !refused {
            one.units = actual;
        } else if actual > one.units {
            // A level owes the difference from the settlement on, a window from the booking.
            let more = actual - one.units;
            let at = if level { latest } else { one.booked };
            self.uses.push(Use {
                booked: at,
                at: at.into(),
                settled: Some(latest.into()),
                arrived: false,
                units: more,
                real: (real, Some(real)),
            });
        } else if level && !refused && one.booked == before {
            // A level credits unused units only if nothing came in between.
            one.units = actual;
        }
    }

    /// Continues on a clock that shows `to` now.
    pub fn rebase(&mut self, now: u64, to: u64) {
        let present = self.clamp(now);
        let width = self.width();
        let into = (present % width + width - self.phase) % width;
        let start = present.saturating_sub(into);
        // A window can't begin before the epoch; earlier windows move with the present one.
        let shift = i128::from(to) - i128::from(now);
        let moved = match self.setup.kind {
            Kind::Buckets | Kind::Counter | Kind::Fixed => shift.max(-i128::from(start)),
            Kind::Log | Kind::Tokens | Kind::Gcra | Kind::Pacing | Kind::Concurrency => shift,
        };
        self.phase = crate::shifted(start, shift) % width;
        self.latest = crate::shifted(present, shift);
        self.ahead += shift;
        if shift < 0 {
            self.refund_cutoff = self.refund_cutoff.max(Some(0));
        }
        let cutoff = self.refund_cutoff;
        self.refund_cutoff = cutoff.map(|cutoff| crate::shifted(cutoff, shift));
        let log = self.setup.kind == Kind::Log;
        for one in &mut self.uses {
            one.booked = crate::shifted(one.booked, shift);
            for at in one.settled.iter_mut().chain([&mut one.at]) {
                // The log moves a stamp that still counts from before the epoch to it.
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

    /// Changes the limit of a window, or rate and burst of a level.
    pub fn set_limit(&mut self, now: u64, setup: Setup) {
        if !self.setup.kind.is_level() {
            self.limit = setup.units().into();
            self.largest_limit = self.largest_limit.max(self.limit);
            return;
        }
        if setup.level() != self.level().level() {
            let present = self.clamp(now);
            if self.setup.kind != Kind::Pacing {
                self.latest = present;
            }
            let change = Event::Change(setup);
            self.events.push((self.uses.len(), present.into(), change));
            // Bookings by another limit are not refunded.
            self.refund_cutoff = self.refund_cutoff.max(Some(self.latest));
        }
    }

    /// The present configuration of a level.
    fn level(&self) -> Setup {
        let mut setups = self.setups();
        setups.next_back().unwrap_or(self.setup)
    }

    /// Every configuration a level has had.
    fn setups(&self) -> impl DoubleEndedIterator<Item = Setup> {
        let changes = self.events.iter().filter_map(|(_, _, event)| match event {
            Event::Change(setup) => Some(*setup),
            Event::Epoch => None,
        });
        [self.setup].into_iter().chain(changes)
    }

    /// The missing part of a burst at `now`: the most by which a span that ends then exceeds its flow. In parts of
    /// the present rate.
    fn missing(&self, now: u64) -> i128 {
        let mut setup = self.setup;
        let mut first = 0;
        // The missing part at the last change.
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

    /// Ticks between aligned starts.
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

    /// The later of `now` and the latest tick; concurrency has no time.
    pub(super) fn clamp(&self, now: u64) -> u64 {
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

    /// The first tick from `now` on at which `cost` units fit, if nothing is settled before. Only for the two windows
    /// that have an anchor.
    #[must_use]
    pub fn earliest(&self, now: u64, cost: u64) -> Option<u64> {
        let now = self.clamp(now);
        let leaves = self.uses.iter().filter_map(|one| self.leaves(one));
        let leaves = leaves.filter_map(|tick| u64::try_from(tick).ok());
        let candidates = leaves.filter(|tick| *tick > now).chain([now]);
        candidates.filter(|tick| self.admits(*tick, cost)).min()
    }

    /// Whether `cost` fits only once units in flight are settled.
    #[must_use]
    pub fn waits_for_settlement(&self, cost: u64) -> bool {
        let waits =
            self.setup.anchor() == Anchor::Completion || self.setup.kind == Kind::Concurrency;
        let mut later = self.clone();
        later.uses.retain(|one| one.settled.is_none());
        waits && cost <= self.limit && !later.admits(u64::MAX, cost)
    }

    pub(crate) fn available(&self, now: u64) -> u64 {
        (0..=8)
            .rev()
            .find(|cost| self.admits(now, *cost))
            .unwrap_or(0)
    }

    fn window(&self) -> u64 {
        u64::try_from(self.setup.window().as_nanos()).expect("the window is small")
    }

    /// When pacing admits next, in parts of the present rate.
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
            // A unit within the tick in which it was due counts as on time.
            let from = if at >= due && at - due < flow {
                due
            } else {
                at.max(due)
            };
            due = from + i128::from(one.units) * unit;
        }
        due
    }

    /// When an admission no longer counts; `None` while it is in flight under the completion anchor.
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

    /// Checks that no span holds more units than its `worst_case`. Counts admissions under the grant anchor, and any
    /// arrival between admission and settlement under the other.
    ///
    /// # Panics
    /// If one does.
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
            // A fullest span begins where a use ends, or ends where a use begins.
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

    /// The most units a span may hold under all configurations so far.
    pub(super) fn promise(&self, span: Duration) -> u64 {
        if !self.setup.kind.is_level() {
            let mut largest = self.setup.machine();
            let limit = self.largest_limit as u8;
            let setup = Setup {
                limit,
                ..self.setup
            };
            set_limit(&mut largest, Tick::ZERO, setup);
            return largest.worst_case(span);
        }
        let mut setups: Vec<Setup> = Vec::new();
        for setup in self.setups() {
            if setups
                .iter()
                .all(|earlier| earlier.level() != setup.level())
            {
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

/// The missing part after a change of a level. Free units stay free, up to the next burst; if the next rate is higher,
/// they shrink by the difference of the bursts.
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

impl Setup {
    /// In lowest terms, the parts that a tick is worth and a unit costs; and the units of a burst.
    fn level(self) -> (i128, i128, i128) {
        let (units, window) = (i128::from(self.units()), self.window().as_nanos() as i128);
        let divisor = (1..=units).rev();
        let divisor = divisor.filter(|by| units % by == 0 && window % by == 0);
        let divisor = divisor.max().unwrap_or(1);
        let pacing = self.kind == Kind::Pacing;
        let burst = if pacing { units } else { self.buckets().into() };
        (units / divisor, window / divisor, burst)
    }
}
