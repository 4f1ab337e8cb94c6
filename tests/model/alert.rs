//! An alert, and a trail of a count, against oracles that look at all observations so far.

use arbitrary::Arbitrary;
use core::time::Duration;
use leasehold_core::health::{Alert, AlertChange, AlertConfig, Trail};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// Settings, and observations in order.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// The time that the condition has to hold, in ticks modulo 8.
    pub hold: u8,
    /// The time that it has to be absent, in ticks modulo 8.
    pub clear: u8,
    /// The pause between two tellings, in ticks modulo 16; zero tells once.
    pub repeat: u8,
    /// The span of the trail in ticks.
    pub span: u8,
    /// Observations.
    pub ops: Vec<Op>,
}

/// One observation.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Op {
    /// The ticks since the one before; those from 240 on turn the clock back.
    pub passed: u8,
    /// Whether the condition holds.
    pub holds: bool,
}

/// Runs a case.
///
/// # Panics
/// If machine and oracle differ.
pub fn run(case: &Case) {
    let ticks = |count: u8| Duration::from_nanos(count.into());
    let repeat = case.repeat % 16;
    let config = AlertConfig {
        hold: ticks(case.hold % 8),
        clear: ticks(case.clear % 8),
        repeat: (repeat > 0).then(|| ticks(repeat)),
    };
    let (mut alert, mut trail) = (Alert::default(), Trail::new(ticks(case.span)));
    let mut oracle = Oracle::default();
    let mut clock = 1_000_u64;
    for (index, op) in case.ops.iter().enumerate() {
        clock = match op.passed {
            back @ 240.. => clock.saturating_sub(u64::from(back) - 239),
            passed => clock + u64::from(passed) % 16,
        };
        let change = alert.observe(&config, Tick::from_nanos(clock), op.holds);
        assert_eq!(
            change,
            oracle.observe(&config, clock, op.holds),
            "{index}: {case:?}"
        );
        assert_eq!(
            alert.since().map(Tick::as_nanos),
            oracle.begun,
            "{index}: {case:?}"
        );
        let is_idle = oracle.begun.is_none() && !op.holds;
        assert_eq!(alert.is_idle(), is_idle, "{index}: {case:?}");
        let then = *trail.note(Tick::from_nanos(clock), &index);
        oracle.check_trail(case, then);
    }
}

/// All observations, by time.
#[derive(Debug, Default)]
struct Oracle {
    seen: Vec<(u64, bool)>,
    /// The begin of the alert that lasts.
    begun: Option<u64>,
    told: u64,
}

impl Oracle {
    /// The time of the first of the latest observations in a row that are the same.
    fn run_began(&self) -> (u64, bool) {
        let (mut began, holds) = *self.seen.last().expect("an observation");
        for (at, same) in self.seen.iter().rev() {
            if *same != holds {
                break;
            }
            began = *at;
        }
        (began, holds)
    }

    fn observe(&mut self, config: &AlertConfig, clock: u64, holds: bool) -> Option<AlertChange> {
        let now = self
            .seen
            .last()
            .map_or(clock, |(latest, _)| clock.max(*latest));
        self.seen.push((now, holds));
        let (began, holds) = self.run_began();
        let lasted = Duration::from_nanos(now - began);
        let (tick, change) = (Tick::from_nanos, |change| Some(change));
        match (self.begun, holds) {
            (None, true) if lasted >= config.hold => {
                (self.begun, self.told) = (Some(began), now);
                change(AlertChange::Began { since: tick(began) })
            }
            (Some(begun), true) => {
                let paused = Duration::from_nanos(now - self.told);
                if config.repeat.is_none_or(|repeat| paused < repeat) {
                    return None;
                }
                self.told = now;
                change(AlertChange::Lasts { since: tick(begun) })
            }
            (Some(begun), false) if lasted >= config.clear => {
                self.begun = None;
                let (since, until) = (tick(begun), tick(began));
                change(AlertChange::Ended { since, until })
            }
            (None | Some(_), _) => None,
        }
    }

    /// The value that the trail returns is of a span ago, less than a step more, or the first.
    fn check_trail(&self, case: &Case, then: usize) {
        let (span, times) = (u64::from(case.span), &self.seen);
        let now = times[times.len() - 1].0;
        let step = span.div_ceil(60).max(1);
        let at = times[then].0;
        assert!(then == 0 || now - at >= span, "{then}: {case:?}");
        let mut old = times.iter().filter(|(at, _)| now - at >= span);
        let newest = old.next_back().map_or(at, |(at, _)| *at);
        assert!(newest - at < step, "{then}: {case:?}");
    }
}
