//! Whether a member answers its probes, and how much it is given once it does again.
//!
//! Invariant: `streak` is how many of the latest answers in a row contradict `up`, and is below what
//! would turn it.

use crate::random::SplitMix64;
use crate::time::{ClockOffset, Tick, saturating_nanos};
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// How members are probed. Many members share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    interval: NonZeroU64,
    jitter: u16,
    timeout: Duration,
    rise: NonZeroU32,
    fall: NonZeroU32,
    initially_up: bool,
}

impl HealthConfig {
    /// A probe each `interval`, late by up to a tenth of it at random. A probe that isn't answered within
    /// `timeout` has failed. Members are up to begin with; three failures in a row take one down, and two
    /// successes bring it up.
    ///
    /// # Errors
    /// Where the interval or the timeout is zero, or the timeout is longer than the interval.
    pub fn new(interval: Duration, timeout: Duration) -> Result<Self, HealthConfigError> {
        let interval = NonZeroU64::new(saturating_nanos(interval));
        let interval = interval.ok_or(HealthConfigError::EmptyInterval)?;
        if timeout.is_zero() {
            return Err(HealthConfigError::EmptyTimeout);
        }
        if saturating_nanos(timeout) > interval.get() {
            return Err(HealthConfigError::TimeoutAboveInterval);
        }
        Ok(Self {
            interval,
            jitter: 100,
            timeout,
            rise: NonZeroU32::MIN.saturating_add(1),
            fall: NonZeroU32::MIN.saturating_add(2),
            initially_up: true,
        })
    }

    /// Makes each probe late by a random share of the interval, of up to so many in a thousand.
    ///
    /// # Errors
    /// Where `permille` is above 1,000.
    pub const fn jitter(mut self, permille: u16) -> Result<Self, HealthConfigError> {
        if permille > 1_000 {
            return Err(HealthConfigError::JitterOutOfRange);
        }
        self.jitter = permille;
        Ok(self)
    }

    /// Brings a member up after so many successes in a row.
    #[must_use]
    pub const fn rise(mut self, in_a_row: NonZeroU32) -> Self {
        self.rise = in_a_row;
        self
    }

    /// Takes a member down after so many failures in a row.
    #[must_use]
    pub const fn fall(mut self, in_a_row: NonZeroU32) -> Self {
        self.fall = in_a_row;
        self
    }

    /// Whether a member is up before it has been probed.
    #[must_use]
    pub const fn initially_up(mut self, up: bool) -> Self {
        self.initially_up = up;
        self
    }
}

/// Why a [`HealthConfig`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HealthConfigError {
    /// Probes would never end.
    #[error("probes need an interval above zero")]
    EmptyInterval,
    /// A probe would have failed as it began.
    #[error("a probe needs a timeout above zero")]
    EmptyTimeout,
    /// A probe could be out when the next but one is due.
    #[error("a probe's timeout may be at most the interval")]
    TimeoutAboveInterval,
    /// The jitter is above 1,000 permille.
    #[error("jitter may be at most 1000 permille")]
    JitterOutOfRange,
}

/// Names a probe of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ProbeId(u64);

/// What a probe has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// The member serves.
    Up,
    /// It doesn't.
    Down,
}

/// How a member's health has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It is up from now on.
    WentUp,
    /// It is down from now on.
    WentDown,
}

/// The health of one member.
///
/// Every operation costs O(1); memory is 64 bytes.
///
/// The probes of a member lie on a grid of its own: each round begins one interval after the last, and
/// its probe is due at a random part of the jitter later. Rounds in which nobody probed are skipped. How
/// far a grid is shifted into the interval is the seed times the golden ratio, modulo one: of `n`
/// members added at once with consecutive seeds, no two grids are nearer than a third of `interval / n`
/// (three-gap theorem; V. T. Sós, 1957), and whatever the jitter, no tenth of an interval sees more than
/// twice its share of probes and two.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::health::{Transition, Health, HealthConfig, ProbeAnswer};
/// use leasehold_core::time::Tick;
///
/// let config = HealthConfig::new(Duration::from_secs(30), Duration::from_secs(10))?;
/// let mut health = Health::new(&config, Tick::ZERO, 7);
/// let mut went = None;
/// while went.is_none() {
///     let due = health.poll_timeout().unwrap();
///     let probe = health.begin_probe(&config, due).unwrap();
///     went = health.answer(&config, due, probe, ProbeAnswer::Down);
/// }
/// assert_eq!(went, Some(Transition::WentDown));
/// assert!(!health.is_up());
/// # Ok::<(), leasehold_core::health::HealthConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Health {
    latest: Tick,
    random: SplitMix64,
    /// When the round of the next probe begins; `None` past the end of time.
    round: Option<Tick>,
    wake: Option<Wake>,
    /// How many probes have begun.
    probes: u64,
    streak: u32,
    up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
enum Wake {
    /// The next probe is due.
    Due(Tick),
    /// The probe that is out has failed.
    Timeout(Tick),
}

impl Health {
    /// A member whose first probe is due within the first interval, and the jitter, from now. Seeds of
    /// members that share a configuration should be consecutive numbers.
    #[must_use]
    pub fn new(config: &HealthConfig, now: Tick, seed: u64) -> Self {
        let turn = seed.wrapping_mul(crate::random::GOLDEN);
        let shift = u128::from(turn).saturating_mul(config.interval.get().into()) >> 64;
        let mut health = Self {
            latest: now,
            random: SplitMix64(seed),
            round: now.checked_add_nanos(shift as u64),
            wake: None,
            probes: 0,
            streak: 0,
            up: config.initially_up,
        };
        health.schedule(config);
        health
    }

    /// Whether the member is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Begins the probe that is due; `None` where none is or one is out. One that has timed out is out
    /// until [`handle_timeout`](Self::handle_timeout) has said what came of it.
    #[must_use]
    pub fn begin_probe(&mut self, config: &HealthConfig, now: Tick) -> Option<ProbeId> {
        self.latest = self.latest.max(now);
        let Some(Wake::Due(due)) = self.wake else {
            return None;
        };
        if due > self.latest {
            return None;
        }
        // The first round to begin after that of this probe and not before now.
        self.round = self.round.and_then(|round| {
            let missed = saturating_nanos(self.latest.since(round)).div_ceil(config.interval.get());
            round.checked_add_nanos(config.interval.get().checked_mul(missed.max(1))?)
        });
        self.wake = Some(Wake::Timeout(self.latest.saturating_add(config.timeout)));
        self.probes = self.probes.wrapping_add(1);
        Some(ProbeId(self.probes))
    }

    /// Takes the answer of a probe. One that comes late, or twice, or of an earlier probe, is ignored.
    pub fn answer(
        &mut self,
        config: &HealthConfig,
        now: Tick,
        probe: ProbeId,
        answer: ProbeAnswer,
    ) -> Option<Transition> {
        let change = self.handle_timeout(config, now);
        match self.wake {
            Some(Wake::Timeout(_)) if probe.0 == self.probes => self.settle(config, answer),
            Some(Wake::Timeout(_) | Wake::Due(_)) | None => change,
        }
    }

    /// Counts a probe whose timeout has passed as failed.
    pub fn handle_timeout(&mut self, config: &HealthConfig, now: Tick) -> Option<Transition> {
        self.latest = self.latest.max(now);
        match self.wake {
            Some(Wake::Timeout(deadline)) if deadline <= self.latest => {
                self.settle(config, ProbeAnswer::Down)
            }
            Some(Wake::Timeout(_) | Wake::Due(_)) | None => None,
        }
    }

    /// When a probe is due, or times out; `None` means never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.wake.map(|wake| match wake {
            Wake::Due(tick) | Wake::Timeout(tick) => tick,
        })
    }

    /// Moves what is remembered to another clock, which shows `to` when this one shows `from`.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        let shift = ClockOffset { from, to };
        self.latest = shift.tick(self.latest);
        self.round = self.round.map(|round| shift.tick(round));
        if let Some(Wake::Due(tick) | Wake::Timeout(tick)) = &mut self.wake {
            *tick = shift.tick(*tick);
        }
    }

    /// Ends the probe that is out.
    fn settle(&mut self, config: &HealthConfig, answer: ProbeAnswer) -> Option<Transition> {
        self.schedule(config);
        let (turns, needed) = match answer {
            ProbeAnswer::Up => (!self.up, config.rise),
            ProbeAnswer::Down => (self.up, config.fall),
        };
        self.streak = if turns {
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

    /// Makes the next probe due somewhere in its round.
    fn schedule(&mut self, config: &HealthConfig) {
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

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    /// A probe each 100, on the dot, that has 30.
    fn config() -> HealthConfig {
        HealthConfig::new(Duration::from_nanos(100), Duration::from_nanos(30))
            .and_then(|config| config.jitter(0))
            .unwrap()
            .fall(number(2))
            .rise(number(3))
    }

    fn probe(
        health: &mut Health,
        config: &HealthConfig,
        answer: ProbeAnswer,
    ) -> Option<Transition> {
        let due = health.poll_timeout().unwrap();
        let probe = health.begin_probe(config, due).unwrap();
        health.answer(config, due, probe, answer)
    }

    #[test]
    fn so_many_contrary_answers_in_a_row_turn_it_and_no_fewer() {
        use ProbeAnswer::{Down, Up};
        let config = config();
        let mut health = Health::new(&config, tick(0), 0);
        let answers = [Down, Up, Down, Down, Up, Up, Down, Up, Up, Up, Down];
        let changes: Vec<_> = answers
            .into_iter()
            .map(|answer| probe(&mut health, &config, answer))
            .collect();
        let mut expected = vec![None; 11];
        expected[3] = Some(Transition::WentDown);
        expected[9] = Some(Transition::WentUp);
        assert_eq!(changes, expected);
    }

    #[test]
    fn a_probe_fails_at_its_timeout_exactly() {
        let config = config().fall(number(1));
        for (now, change) in [(29, None), (30, Some(Transition::WentDown))] {
            let mut health = Health::new(&config, tick(0), 0);
            let probe = health.begin_probe(&config, tick(0)).unwrap();
            assert_eq!(health.poll_timeout(), Some(tick(30)));
            assert_eq!(
                health.answer(&config, tick(now), probe, ProbeAnswer::Up),
                change
            );
            assert_eq!(health.poll_timeout(), Some(tick(100)));
        }
    }

    #[test]
    fn an_answer_of_an_earlier_probe_is_ignored() {
        let config = config().fall(number(1));
        let mut health = Health::new(&config, tick(0), 0);
        let first = health.begin_probe(&config, tick(0)).unwrap();
        assert_eq!(
            health.handle_timeout(&config, tick(50)),
            Some(Transition::WentDown)
        );
        let second = health.begin_probe(&config, tick(100)).unwrap();
        for _ in 0..9 {
            assert_eq!(
                health.answer(&config, tick(101), first, ProbeAnswer::Up),
                None
            );
        }
        assert_eq!(health.streak, 0);
        assert_eq!(
            health.answer(&config, tick(101), second, ProbeAnswer::Up),
            None
        );
        assert_eq!(health.streak, 1);
    }

    #[test]
    fn rounds_that_were_missed_are_skipped() {
        let config = config();
        let mut health = Health::new(&config, tick(0), 0);
        let late = u64::MAX / 2;
        assert!(health.begin_probe(&config, tick(0)).is_some());
        let _ = health.handle_timeout(&config, tick(late));
        assert_eq!(health.poll_timeout(), Some(tick(100)));
        assert!(health.begin_probe(&config, tick(late)).is_some());
        let _ = health.handle_timeout(&config, tick(late + 30));
        let next = late.next_multiple_of(100);
        assert_eq!(health.poll_timeout(), Some(tick(next)));
    }

    #[test]
    fn at_the_end_of_time_no_probe_is_due() {
        let config = config();
        let mut health = Health::new(&config, tick(u64::MAX - 3), 0);
        assert!(health.begin_probe(&config, Tick::MAX).is_some());
        assert_eq!(health.poll_timeout(), Some(Tick::MAX));
        let _ = health.handle_timeout(&config, Tick::MAX);
        assert_eq!(health.poll_timeout(), None);
    }

    #[test]
    fn first_probes_of_members_added_at_once_keep_their_distance() {
        let interval = 30_000_000_000_u64;
        let config = HealthConfig::new(Duration::from_nanos(interval), Duration::from_nanos(1))
            .and_then(|config| config.jitter(0))
            .unwrap();
        for first_seed in [0, 1 << 40] {
            let mut dues = Vec::new();
            for seed in 0..3_000_u64 {
                let health = Health::new(&config, tick(0), first_seed + seed);
                dues.push(health.poll_timeout().unwrap().as_nanos());
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
    fn a_configuration_without_meaning_is_refused() {
        let second = Duration::from_secs(1);
        let error = |interval, timeout| HealthConfig::new(interval, timeout).unwrap_err();
        assert_eq!(
            error(Duration::ZERO, second),
            HealthConfigError::EmptyInterval
        );
        assert_eq!(
            error(second, Duration::ZERO),
            HealthConfigError::EmptyTimeout
        );
        assert_eq!(
            error(second, second * 2),
            HealthConfigError::TimeoutAboveInterval
        );
        assert_eq!(
            config().jitter(1_001),
            Err(HealthConfigError::JitterOutOfRange)
        );
    }

    #[test]
    fn health_is_small() {
        assert!(size_of::<Health>() <= 64, "{}", size_of::<Health>());
    }
}
