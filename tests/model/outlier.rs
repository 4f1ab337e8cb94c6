//! An outlier detector against an oracle that computes each deviation by definition.

use arbitrary::Arbitrary;
use core::cmp::Reverse;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::health::{Ejection, OutcomeWindow, OutlierConfig, OutlierDetector};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// Members and the sweeps over them.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// Configuration.
    pub setup: Setup,
    /// Rounds in order.
    pub rounds: Vec<Round>,
}

/// Configuration. Durations are in ticks, and the interval is 10.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Setup {
    /// Least outcomes of a judged member: one plus this modulo 8.
    pub volume: u8,
    /// Least number of judged members: one plus this modulo 4.
    pub members: u8,
    /// Factor of the deviation, modulo 3,000; no such rule if odd.
    pub factor: u16,
    /// Margin of the deviation, modulo 300.
    pub margin: u16,
    /// Failure rate in eighths, modulo 9; zero for no such rule.
    pub failure_rate: u8,
    /// First ejection: one plus this modulo 64.
    pub base: u8,
    /// Longest ejection minus the first.
    pub cap: u8,
    /// Share of members ejected at once in permille, modulo 1,001.
    pub max_ejected: u16,
}

/// Outcomes before a sweep, and the time until then.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Round {
    /// Successes and failures by member, each modulo 16. A sweep sees 4 to 12 members.
    pub outcomes: Vec<(u8, u8)>,
    /// Ticks since the previous round, modulo 32.
    pub after: u8,
    /// Member whose ejection is ended by hand, modulo 12.
    pub uneject: Option<u8>,
}

const GOOD: &str = "the setup is in range";
const INTERVAL: u64 = 10;
const MEMBERS: usize = 12;

impl Setup {
    fn base(self) -> u64 {
        u64::from(self.base % 64) + 1
    }
    fn cap(self) -> u64 {
        self.base() + u64::from(self.cap)
    }
    fn volume(self) -> u32 {
        u32::from(self.volume % 8) + 1
    }
    fn members(self) -> u32 {
        u32::from(self.members % 4) + 1
    }
    fn factor(self) -> Option<u16> {
        Some(self.factor % 3_000).filter(|factor| factor.is_multiple_of(2))
    }
    fn failure_rate(self) -> Option<u16> {
        Some(u16::from(self.failure_rate % 9) * 125).filter(|permille| *permille > 0)
    }

    fn config(self) -> OutlierConfig {
        let nanos = Duration::from_nanos;
        let number = |n| NonZeroU32::new(n).expect(GOOD);
        let (base, cap) = (nanos(self.base()), nanos(self.cap()));
        let mut config = OutlierConfig::builder(nanos(INTERVAL), base, cap)
            .max_ejected(self.max_ejected % 1_001)
            .volume(number(self.volume()), number(self.members()));
        if let Some(factor) = self.factor() {
            config = config.deviation(factor, self.margin % 300);
        }
        if let Some(permille) = self.failure_rate() {
            config = config.failure_rate(permille);
        }
        config.build().expect(GOOD)
    }

    /// Returns which judged members are outliers, by their failure rates in millionths.
    fn outliers(self, rates: &[u64]) -> Vec<bool> {
        let n = rates.len() as i128;
        let sum: i128 = rates.iter().map(|rate| i128::from(*rate)).sum();
        // Distance above the mean, times n.
        let above = |rate: &u64| i128::from(*rate) * n - sum;
        // Variance, times n^3.
        let squares: i128 = rates.iter().map(|rate| above(rate) * above(rate)).sum();
        rates
            .iter()
            .map(|rate| {
                let over = above(rate);
                let deviates = self.factor().is_some_and(|factor| {
                    let factor = i128::from(factor);
                    over > 0
                        && over >= i128::from(self.margin % 300) * 1_000 * n
                        && over * over * n * 1_000_000 > factor * factor * squares
                });
                let fails = self
                    .failure_rate()
                    .is_some_and(|permille| *rate >= u64::from(permille) * 1_000);
                n >= i128::from(self.members()) && (deviates || fails)
            })
            .collect()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Member {
    ejections: u64,
    ejected_until: u64,
}

/// Runs a case.
///
/// # Panics
/// If machine and oracle differ, or a promise is broken.
pub fn run(case: &Case) {
    let (setup, config) = (case.setup, case.setup.config());
    let mut machine = OutlierDetector::new(&config, Tick::ZERO);
    let mut windows = [OutcomeWindow::default(); MEMBERS];
    let mut oracle = [Member::default(); MEMBERS];
    let mut outcomes = [(0_u32, 0_u32); MEMBERS];
    let (mut now, mut due) = (0_u64, INTERVAL);
    for round in &case.rounds {
        let shown = round.outcomes.len().clamp(4, MEMBERS);
        for (index, (ok, failed)) in round.outcomes.iter().take(shown).enumerate() {
            for (count, good) in [(ok % 16, true), (failed % 16, false)] {
                for _ in 0..count {
                    windows[index].record(good);
                }
            }
            outcomes[index].0 += u32::from(ok % 16);
            outcomes[index].1 += u32::from(failed % 16);
        }
        if let Some(member) = round.uneject {
            let member = usize::from(member) % MEMBERS;
            windows[member].uneject();
            oracle[member].ejected_until = 0;
        }
        now += u64::from(round.after % 32);
        let tick = Tick::from_nanos(now);
        let before = oracle
            .iter()
            .take(shown)
            .filter(|member| member.ejected_until > now)
            .count();
        let shown_members = windows.iter_mut().take(shown).enumerate();
        let ejected = machine.sweep(&config, tick, shown_members);
        if now < due {
            assert!(ejected.is_empty());
        } else {
            due += ((now - due) / INTERVAL + 1) * INTERVAL;
            let expected = sweep(setup, now, &mut oracle[..shown], &mut outcomes[..shown]);
            assert_eq!(ejected, expected, "{round:?}");
            let allowance = config.allowance(shown as u32) as usize;
            let after = oracle
                .iter()
                .take(shown)
                .filter(|member| member.ejected_until > now)
                .count();
            assert!(after <= allowance.max(before), "{after} of {shown}");
        }
        assert_eq!(machine.poll_timeout(), Some(Tick::from_nanos(due)));
        for (outcomes, member) in windows.iter().zip(&oracle) {
            let until = Some(Tick::from_nanos(member.ejected_until)).filter(|until| *until > tick);
            assert_eq!(outcomes.ejected_until(tick), until);
        }
    }
}

fn sweep(
    setup: Setup,
    now: u64,
    members: &mut [Member],
    outcomes: &mut [(u32, u32)],
) -> Vec<Ejection<usize>> {
    let ejected = members
        .iter()
        .filter(|member| member.ejected_until > now)
        .count();
    let judged: Vec<usize> = (0..members.len())
        .filter(|index| members[*index].ejected_until <= now)
        .filter(|index| outcomes[*index].0 + outcomes[*index].1 >= setup.volume())
        .collect();
    let rate = |index: &usize| {
        let (ok, failed) = outcomes[*index];
        u64::from(failed) * 1_000_000 / u64::from(ok + failed)
    };
    let rates: Vec<_> = judged.iter().map(rate).collect();
    let marks = setup.outliers(&rates);
    let mut outliers: Vec<_> = judged
        .iter()
        .zip(&rates)
        .zip(&marks)
        .filter(|(_, outlier)| **outlier)
        .map(|((index, rate), _)| (Reverse(*rate), *index))
        .collect();
    outliers.sort_unstable();
    for (index, member) in members.iter_mut().enumerate() {
        if member.ejected_until <= now && !outliers.iter().any(|(_, outlier)| *outlier == index) {
            member.ejections = member.ejections.saturating_sub(1);
        }
    }
    let total = members.len();
    let share = total * usize::from(setup.max_ejected % 1_001) / 1_000;
    let allowed = match setup.max_ejected % 1_001 {
        0 => 0,
        _ => share.max(1).min(total - 1),
    };
    outliers.truncate(allowed.saturating_sub(ejected));
    outcomes.fill((0, 0));
    let eject = |(_, index): (Reverse<u64>, usize)| {
        let member = &mut members[index];
        member.ejections += 1;
        member.ejected_until = now + (setup.base() * member.ejections).min(setup.cap());
        Ejection {
            member: index,
            until: Tick::from_nanos(member.ejected_until),
        }
    };
    outliers.into_iter().map(eject).collect()
}
