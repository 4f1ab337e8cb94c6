//! Probes of one member (active health checking): when they are due, and whether the member is up.
//!
//! Invariant: `streak` counts the latest consecutive results that contradict `up`, and is below the number
//! that would change it.

mod config;

pub use config::{ProbeConfig, ProbeConfigBuilder, ProbeConfigError};

use crate::random::SplitMix64;
use crate::time::{ClockOffset, Tick, saturating_nanos};

/// Sequence number of a probe of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ProbeNumber(u64);

/// Result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// The member can serve.
    Up,
    /// The member cannot serve.
    Down,
}

/// Change of a member's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The member is up from now on.
    WentUp,
    /// The member is down from now on.
    WentDown,
}

/// Schedules the probes of one member and derives its health from their results.
///
/// Every operation costs O(1); memory is 64 bytes.
///
/// Each member has rounds of its own, one interval apart; a round's probe is due up to the jitter after
/// the round begins. Missed rounds are skipped. The first round begins `frac(seed * golden ratio)` of an
/// interval after the member is added: of `n` members added at once with consecutive seeds, no two begin
/// within `interval / (3 * n)` of each other (three-gap theorem; V. T. Sós, 1957). Whatever the jitter, no
/// tenth of an interval sees more than twice its share of probes, plus two.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::health::{ProbeAnswer, ProbeConfig, Prober, Transition};
/// use leasehold_core::time::Tick;
///
/// let config = ProbeConfig::builder(Duration::from_secs(30), Duration::from_secs(10)).build()?;
/// let mut prober = Prober::new(&config, Tick::ZERO, 7);
/// let mut change = None;
/// while change.is_none() {
///     let due = prober.poll_timeout().unwrap();
///     let probe = prober.begin_probe(&config, due).unwrap();
///     change = prober.answer(&config, due, probe, ProbeAnswer::Down);
/// }
/// assert_eq!(change, Some(Transition::WentDown));
/// assert!(!prober.is_up());
/// # Ok::<(), leasehold_core::health::ProbeConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Prober {
    latest: Tick,
    random: SplitMix64,
    /// Begin of the next probe's round; `None` past [`Tick::MAX`].
    round: Option<Tick>,
    wake: Option<Wake>,
    /// Number of probes begun.
    probes: u64,
    streak: u32,
    up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
enum Wake {
    /// Tick at which the next probe is due.
    Due(Tick),
    /// Tick at which the probe under way has failed.
    Timeout(Tick),
}

impl Prober {
    /// Creates a prober whose first probe is due within one interval, plus the jitter, after `now`.
    ///
    /// Members that share a configuration should have consecutive seeds.
    #[must_use]
    pub fn new(config: &ProbeConfig, now: Tick, seed: u64) -> Self {
        let fraction = seed.wrapping_mul(crate::random::GOLDEN);
        let shift = u128::from(fraction).saturating_mul(config.interval.get().into()) >> 64;
        let mut prober = Self {
            latest: now,
            random: SplitMix64(seed),
            round: now.checked_add_nanos(shift as u64),
            wake: None,
            probes: 0,
            streak: 0,
            up: config.initially_up,
        };
        prober.schedule(config);
        prober
    }

    /// Stops: no probe is due any more, and the member counts as up.
    pub fn stop(&mut self) {
        self.suspend();
        (self.streak, self.up) = (0, true);
    }

    /// Stops the probes, and leaves the member up or down as it is.
    pub(crate) fn suspend(&mut self) {
        (self.wake, self.round) = (None, None);
    }

    /// Begins anew, as [`new`](Self::new) does. The results of earlier probes are still told apart from later ones.
    pub fn restart(&mut self, config: &ProbeConfig, now: Tick, seed: u64) {
        *self = Self {
            probes: self.probes,
            ..Self::new(config, now.max(self.latest), seed)
        };
    }

    /// Returns whether the member is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Begins the probe that is due; `None` if none is, or if one is under way.
    ///
    /// A probe that has timed out is under way until [`handle_timeout`](Self::handle_timeout) counts it.
    #[must_use]
    pub fn begin_probe(&mut self, config: &ProbeConfig, now: Tick) -> Option<ProbeNumber> {
        self.latest = self.latest.max(now);
        let Some(Wake::Due(due)) = self.wake else {
            return None;
        };
        if due > self.latest {
            return None;
        }
        // The next round is the first one after this probe's that does not begin before now.
        self.round = self.round.and_then(|round| {
            let missed = saturating_nanos(self.latest.since(round)).div_ceil(config.interval.get());
            round.checked_add_nanos(config.interval.get().checked_mul(missed.max(1))?)
        });
        self.wake = Some(Wake::Timeout(self.latest.saturating_add(config.timeout)));
        self.probes = self.probes.wrapping_add(1);
        Some(ProbeNumber(self.probes))
    }

    /// Counts the result of a probe. A late or repeated one, or one of an earlier probe, is ignored.
    pub fn answer(
        &mut self,
        config: &ProbeConfig,
        now: Tick,
        probe: ProbeNumber,
        answer: ProbeAnswer,
    ) -> Option<Transition> {
        let change = self.handle_timeout(config, now);
        match self.wake {
            Some(Wake::Timeout(_)) if probe.0 == self.probes => self.settle(config, answer),
            Some(Wake::Timeout(_) | Wake::Due(_)) | None => change,
        }
    }

    /// Counts a probe that has timed out as failed.
    pub fn handle_timeout(&mut self, config: &ProbeConfig, now: Tick) -> Option<Transition> {
        self.latest = self.latest.max(now);
        match self.wake {
            Some(Wake::Timeout(deadline)) if deadline <= self.latest => {
                self.settle(config, ProbeAnswer::Down)
            }
            Some(Wake::Timeout(_) | Wake::Due(_)) | None => None,
        }
    }

    /// Returns when a probe is due or times out; `None` means never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.wake.map(|wake| match wake {
            Wake::Due(tick) | Wake::Timeout(tick) => tick,
        })
    }

    /// Moves all ticks to another clock, which shows `to` when this one shows `from`.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        let offset = ClockOffset { from, to };
        self.latest = offset.tick(self.latest);
        self.round = self.round.map(|round| offset.tick(round));
        if let Some(Wake::Due(tick) | Wake::Timeout(tick)) = &mut self.wake {
            *tick = offset.tick(*tick);
        }
    }

    /// Ends the probe under way.
    fn settle(&mut self, config: &ProbeConfig, answer: ProbeAnswer) -> Option<Transition> {
        self.schedule(config);
        let (contradicts, needed) = match answer {
            ProbeAnswer::Up => (!self.up, config.rise),
            ProbeAnswer::Down => (self.up, config.fall),
        };
        self.streak = if contradicts {
            self.streak.saturating_add(1)
        } else {
            0
        };
        if self.streak < needed.get() {
            return None;
        }
        self.streak = 0;
        self.up = !self.up;
        Some(if self.up {
            Transition::WentUp
        } else {
            Transition::WentDown
        })
    }

    /// Draws the tick at which the next probe is due, from its round's begin up to the jitter later.
    fn schedule(&mut self, config: &ProbeConfig) {
        let most = u128::from(config.interval.get()).saturating_mul(config.jitter.into()) / 1_000;
        let late = self.random.up_to(most as u64);
        let due = self.round.and_then(|round| round.checked_add_nanos(late));
        self.wake = due.map(Wake::Due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use core::num::NonZeroU32;
    use core::time::Duration;

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    /// A probe each 100 ns without jitter, with a timeout of 30 ns.
    fn builder() -> ProbeConfigBuilder {
        ProbeConfig::builder(Duration::from_nanos(100), Duration::from_nanos(30))
            .jitter(0)
            .fall(number(2))
            .rise(number(3))
    }

    fn config() -> ProbeConfig {
        builder().build().unwrap()
    }

    fn probe(prober: &mut Prober, config: &ProbeConfig, answer: ProbeAnswer) -> Option<Transition> {
        let due = prober.poll_timeout().unwrap();
        let probe = prober.begin_probe(config, due).unwrap();
        prober.answer(config, due, probe, answer)
    }

    #[test]
    fn only_enough_consecutive_contrary_results_change_the_health() {
        use ProbeAnswer::{Down, Up};
        let config = config();
        let mut prober = Prober::new(&config, tick(0), 0);
        let answers = [Down, Up, Down, Down, Up, Up, Down, Up, Up, Up, Down];
        let changes: Vec<_> = answers
            .into_iter()
            .map(|answer| probe(&mut prober, &config, answer))
            .collect();
        let mut expected = vec![None; 11];
        expected[3] = Some(Transition::WentDown);
        expected[9] = Some(Transition::WentUp);
        assert_eq!(changes, expected);
    }

    #[test]
    fn a_probe_fails_at_its_timeout_exactly() {
        let config = builder().fall(number(1)).build().unwrap();
        for (now, change) in [(29, None), (30, Some(Transition::WentDown))] {
            let mut prober = Prober::new(&config, tick(0), 0);
            let probe = prober.begin_probe(&config, tick(0)).unwrap();
            assert_eq!(prober.poll_timeout(), Some(tick(30)));
            assert_eq!(
                prober.answer(&config, tick(now), probe, ProbeAnswer::Up),
                change
            );
            assert_eq!(prober.poll_timeout(), Some(tick(100)));
        }
    }

    #[test]
    fn a_result_of_an_earlier_probe_is_ignored() {
        let config = builder().fall(number(1)).build().unwrap();
        let mut prober = Prober::new(&config, tick(0), 0);
        let first = prober.begin_probe(&config, tick(0)).unwrap();
        assert_eq!(
            prober.handle_timeout(&config, tick(50)),
            Some(Transition::WentDown)
        );
        let second = prober.begin_probe(&config, tick(100)).unwrap();
        for _ in 0..9 {
            assert_eq!(
                prober.answer(&config, tick(101), first, ProbeAnswer::Up),
                None
            );
        }
        assert_eq!(prober.streak, 0);
        assert_eq!(
            prober.answer(&config, tick(101), second, ProbeAnswer::Up),
            None
        );
        assert_eq!(prober.streak, 1);
    }

    #[test]
    fn missed_rounds_are_skipped() {
        let config = config();
        let mut prober = Prober::new(&config, tick(0), 0);
        let late = u64::MAX / 2;
        assert!(prober.begin_probe(&config, tick(0)).is_some());
        let _ = prober.handle_timeout(&config, tick(late));
        assert_eq!(prober.poll_timeout(), Some(tick(100)));
        assert!(prober.begin_probe(&config, tick(late)).is_some());
        let _ = prober.handle_timeout(&config, tick(late + 30));
        let next = late.next_multiple_of(100);
        assert_eq!(prober.poll_timeout(), Some(tick(next)));
    }

    #[test]
    fn no_probe_is_due_past_the_last_tick() {
        let config = config();
        let mut prober = Prober::new(&config, tick(u64::MAX - 3), 0);
        assert!(prober.begin_probe(&config, Tick::MAX).is_some());
        assert_eq!(prober.poll_timeout(), Some(Tick::MAX));
        let _ = prober.handle_timeout(&config, Tick::MAX);
        assert_eq!(prober.poll_timeout(), None);
    }

    #[test]
    fn first_probes_of_members_added_at_once_keep_their_distance() {
        let interval = 30_000_000_000_u64;
        let every = Duration::from_nanos(interval);
        let config = ProbeConfig::builder(every, Duration::from_nanos(1)).jitter(0);
        let config = config.build().unwrap();
        for first_seed in [0, 1 << 40] {
            let mut dues = Vec::new();
            for seed in 0..3_000_u64 {
                let prober = Prober::new(&config, tick(0), first_seed + seed);
                dues.push(prober.poll_timeout().unwrap().as_nanos());
                if !seed.is_multiple_of(7) {
                    continue;
                }
                dues.sort_unstable();
                let around = dues[0] + interval - dues[dues.len() - 1];
                let gaps = dues.windows(2).map(|pair| pair[1] - pair[0]);
                let least = gaps.chain([around]).min().unwrap();
                let members = dues.len() as u64;
                assert!(least >= interval / (3 * members), "{least} of {members}");
            }
        }
    }

    #[test]
    fn a_prober_is_small() {
        assert!(size_of::<Prober>() <= 64, "{}", size_of::<Prober>());
    }
}
