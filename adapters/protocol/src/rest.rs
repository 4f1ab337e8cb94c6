//! How long a key rests that was refused, or an endpoint that is overloaded.
//!
//! Invariant: an untold rest is at least the floor and at most the cap. Equal seeds and calls give equal rests.

use crate::verdict::{Fate, Next, Pause, Verdict};
use crate::wait::MAX_WAIT;
use core::time::Duration;
use leasehold_core::retry::Backoff;

/// Settings of a [`Rest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestConfig {
    /// Shortest rest.
    pub floor: Duration,
    /// Longest first rest; it doubles with every refusal in a row.
    pub base: Duration,
    /// Longest rest that the service did not ask for.
    pub cap: Duration,
}

impl RestConfig {
    /// For a key at its rate limit: 100 ms, up to 1 s at first, at most a minute.
    pub const RATE: Self = Self {
        floor: Duration::from_millis(100),
        base: Duration::from_secs(1),
        cap: Duration::from_secs(60),
    };
    /// For a service that is overloaded or down: 1 s, up to 4 s at first, at most five minutes.
    pub const PATIENCE: Self = Self {
        floor: Duration::from_secs(1),
        base: Duration::from_secs(4),
        cap: Duration::from_secs(300),
    };
}

/// Rests of one key or endpoint: longer after a refusal, shorter after a success.
///
/// An untold rest is exponential with full jitter above a floor. A wait that the service asks for is kept to. If the
/// next try is refused all the same, the service's word was too short, so later rests are at least as long as untold
/// ones.
///
/// ```
/// use core::time::Duration;
/// use leasehold_protocol::{Rest, RestConfig};
///
/// let mut rest = Rest::new(RestConfig::RATE, 7);
/// assert_eq!(rest.told(Duration::from_secs(3)), Duration::from_secs(3));
/// let untold = rest.untold();
/// assert!(RestConfig::RATE.floor <= untold && untold <= 2 * RestConfig::RATE.base);
/// rest.success();
/// ```
#[derive(Clone, Debug)]
pub struct Rest {
    config: RestConfig,
    /// Refusals, less the successes since; the rest doubles with each.
    level: u32,
    /// Whether the last result was a refusal.
    in_a_row: bool,
    seed: u64,
}

impl Rest {
    /// Creates a rest without refusals so far.
    #[must_use]
    pub const fn new(config: RestConfig, seed: u64) -> Self {
        Self {
            config,
            level: 0,
            in_a_row: false,
            seed,
        }
    }

    /// Counts a refusal that names a wait, and returns the rest.
    pub fn told(&mut self, wait: Duration) -> Duration {
        let wait = wait.max(self.config.floor).min(MAX_WAIT);
        if !self.in_a_row {
            self.in_a_row = true;
            self.level = self.level.saturating_add(1);
            return wait;
        }
        wait.max(self.untold())
    }

    /// Counts a refusal that names no wait, and returns the rest.
    pub fn untold(&mut self) -> Duration {
        let longest = self.longest();
        let floor = self.config.floor.min(longest);
        self.seed = self.seed.wrapping_add(1);
        // A backoff's first delay is uniform between zero and its base.
        let drawn = Backoff::new(longest - floor, longest, self.seed).next_delay();
        self.level = self.level.saturating_add(1);
        self.in_a_row = true;
        floor + drawn
    }

    /// Counts a success: the next untold rest is half as long.
    pub fn success(&mut self) {
        self.in_a_row = false;
        // Levels above the cap change nothing, so that as few successes lead down as refusals led up.
        self.level = self.level.min(self.levels_to_cap()).saturating_sub(1);
    }

    /// Whether no refusal is left to be made up for.
    #[must_use]
    pub const fn is_rested(&self) -> bool {
        self.level == 0
    }

    /// The longest rest that the next refusal may have.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.level).unwrap_or(u32::MAX);
        self.config.base.saturating_mul(factor).min(self.config.cap)
    }

    fn levels_to_cap(&self) -> u32 {
        let steps = self.config.cap.as_nanos() / self.config.base.as_nanos().max(1);
        u128::BITS - steps.leading_zeros()
    }
}

/// The two rests of a member: for its rate limit, and with patience for its service.
///
/// ```
/// use leasehold_protocol::Rests;
/// use leasehold_protocol::verdict::{Context, Failure, verdict_of_failure};
/// use leasehold_protocol::Call;
///
/// let mut rests = Rests::new(7);
/// let context = Context { call: Call::Chat, key: None };
/// let verdict = verdict_of_failure(Failure::NotConnected, "refused", &context);
/// assert!(rests.after(&verdict).is_some());
/// ```
#[derive(Clone, Debug)]
pub struct Rests {
    rate: Rest,
    patience: Rest,
}

impl Rests {
    /// Creates the rests of a member with the usual settings.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            rate: Rest::new(RestConfig::RATE, seed),
            patience: Rest::new(RestConfig::PATIENCE, seed),
        }
    }

    /// Counts a refusal for a limit, of which the caller knows no more than this, and returns the rest.
    pub fn throttled(&mut self, told: Option<Duration>) -> Duration {
        match told {
            Some(wait) => self.rate.told(wait),
            None => self.rate.untold(),
        }
    }

    /// Counts an answer.
    pub fn answered(&mut self) {
        self.rate.success();
        self.patience.success();
    }

    /// Counts a verdict, and returns how long the member rests; `None` if it does not.
    pub fn after(&mut self, verdict: &Verdict) -> Option<Duration> {
        match verdict.fate {
            Fate::Rest(Pause::Told(wait)) => Some(self.rate.told(wait)),
            Fate::Rest(Pause::Rate) => Some(self.rate.untold()),
            Fate::Rest(Pause::Overload) => Some(self.patience.untold()),
            Fate::Keep | Fate::Reject | Fate::TooSmall => {
                if matches!(verdict.next, Next::Done) {
                    self.answered();
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untold_rest_grows_up_to_the_cap_and_fills_its_range() {
        let config = RestConfig::RATE;
        for (refusals, longest) in [
            (0, 1_000),
            (1, 2_000),
            (3, 8_000),
            (6, 60_000),
            (40, 60_000),
        ] {
            let longest = Duration::from_millis(longest);
            let (mut least, mut greatest) = (Duration::MAX, Duration::ZERO);
            for seed in 0..1_000 {
                let mut rest = Rest::new(config, seed * 1_000);
                for _ in 0..refusals {
                    rest.untold();
                }
                assert_eq!(rest.longest(), longest);
                let drawn = rest.untold();
                assert!(config.floor <= drawn && drawn <= longest, "{drawn:?}");
                (least, greatest) = (least.min(drawn), greatest.max(drawn));
            }
            assert!(greatest > longest.mul_f64(0.95), "{greatest:?}");
            assert!(least < config.floor + longest.mul_f64(0.05), "{least:?}");
        }
    }

    #[test]
    fn a_rest_shrinks_on_success_as_it_grew() {
        let mut rest = Rest::new(RestConfig::RATE, 1);
        for _ in 0..100 {
            rest.untold();
        }
        let mut before = rest.longest();
        let mut successes = 0;
        while !rest.is_rested() {
            rest.success();
            assert!(rest.longest() <= before);
            before = rest.longest();
            successes += 1;
        }
        assert_eq!(successes, 6);
        assert_eq!(rest.longest(), RestConfig::RATE.base);
        rest.success();
        assert!(rest.is_rested());
    }

    #[test]
    fn a_told_wait_is_kept_to_until_it_proves_too_short() {
        let wait = Duration::from_secs(3);
        let mut rest = Rest::new(RestConfig::RATE, 1);
        assert_eq!(rest.told(wait), wait);
        rest.success();
        assert_eq!(rest.told(wait), wait);
        let tiny = Duration::from_millis(1);
        let rests: Vec<_> = (0..12).map(|_| rest.told(tiny)).collect();
        assert!(rests.iter().all(|rest| *rest >= RestConfig::RATE.floor));
        assert!(
            rests.iter().any(|rest| *rest > Duration::from_secs(15)),
            "{rests:?}"
        );
        assert_eq!(Rest::new(RestConfig::RATE, 1).told(Duration::MAX), MAX_WAIT);
    }

    #[test]
    fn patience_lasts_for_minutes_and_is_never_three_tries_in_a_moment() {
        for seed in 0..100 {
            let mut rest = Rest::new(RestConfig::PATIENCE, seed);
            let first: Duration = (0..3).map(|_| rest.untold()).sum();
            assert!(first >= Duration::from_secs(3));
            let later: Duration = (0..20).map(|_| rest.untold()).sum();
            assert!(later > Duration::from_secs(600), "{later:?}");
        }
    }

    #[test]
    fn equal_seeds_give_equal_rests() {
        let draw = |seed| {
            let mut rest = Rest::new(RestConfig::RATE, seed);
            (0..9).map(|_| rest.untold()).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(500));
    }

    #[test]
    fn odd_settings_do_no_harm() {
        for (floor, base, cap) in [
            (Duration::ZERO, Duration::ZERO, Duration::ZERO),
            (Duration::MAX, Duration::MAX, Duration::MAX),
            (
                Duration::from_secs(9),
                Duration::from_secs(1),
                Duration::from_secs(2),
            ),
        ] {
            let mut rest = Rest::new(RestConfig { floor, base, cap }, 1);
            for _ in 0..70 {
                assert!(rest.untold() <= cap);
            }
            for _ in 0..200 {
                rest.success();
            }
            assert!(rest.is_rested());
        }
    }
}
