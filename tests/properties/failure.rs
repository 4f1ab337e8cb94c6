//! Promises of the machines that handle failure: health, affinity, retry budget.

use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::health::{ProbeAnswer, ProbeConfig, Prober, SlowStart, SlowStartConfig};
use leasehold_core::retry::RetryBudget;
use leasehold_core::time::Tick;
use leasehold_tests::{affinity, alert, breaker, budget, outlier, prober};
use proptest::prelude::*;

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn a_breaker_agrees_with_its_oracle(case: breaker::Case) {
        breaker::run(&case);
    }

    #[test]
    fn a_prober_agrees_with_its_oracle(case: prober::Case) {
        prober::run(&case);
    }

    #[test]
    fn an_outlier_detector_agrees_with_its_oracle_and_ejects_at_most_the_share(case: outlier::Case) {
        outlier::run(&case);
    }

    #[test]
    fn an_affinity_table_agrees_with_its_oracle_and_stays_bounded(case: affinity::Case) {
        affinity::run(&case);
    }

    #[test]
    fn a_retry_budget_agrees_with_its_oracle_and_keeps_its_bound_over_every_span(case: budget::Case) {
        budget::run(&case);
    }

    #[test]
    fn an_alert_and_a_trail_agree_with_their_oracles(case: alert::Case) {
        alert::run(&case);
    }

    #[test]
    fn a_slow_start_grows_step_by_step_and_is_never_zero(
        duration in 1_u64..200, steps in 1_u32..30, full in 1_u32..1_000, began in 0_u64..100,
    ) {
        let steps_given = NonZeroU32::new(steps).expect("above zero");
        let config = SlowStartConfig::new(Duration::from_nanos(duration), steps_given);
        let config = config.expect("the duration is above zero");
        let mut start = SlowStart::default();
        start.begin(Tick::from_nanos(began));
        let weight = |at: u64| start.weight_at(&config, Tick::from_nanos(at), full);
        let mut next_change = None;
        for passed in 0..duration + 5 {
            let share = (passed * u64::from(steps) / duration).clamp(1, steps.into());
            let whole = u64::from(full) * u64::from(SlowStart::SCALE);
            let exact = (whole * share / u64::from(steps)).max(1);
            prop_assert_eq!(u64::from(weight(began + passed)), exact);
            let now = began + passed;
            if next_change.is_none_or(|tick: Tick| tick.as_nanos() <= now) && share < steps.into() {
                next_change = start.next_change(&config, Tick::from_nanos(now));
                prop_assert!(next_change.is_some_and(|tick| tick.as_nanos() > now));
            } else if share == u64::from(steps) {
                prop_assert_eq!(start.next_change(&config, Tick::from_nanos(now)), None);
            } else {
                prop_assert_eq!(weight(now), weight(now - 1), "a change at a tick that `next_change` did not return");
            }
        }
    }
}

/// Returns the due ticks of all probes of members added at once, over ten intervals of 30 s.
fn probes(members: u64, jitter: u16) -> Vec<u64> {
    let interval = Duration::from_secs(30);
    let config = ProbeConfig::builder(interval, Duration::from_secs(10)).jitter(jitter);
    let config = config.build().expect("in range");
    let mut all = Vec::new();
    for seed in 0..members {
        let mut prober = Prober::new(&config, Tick::ZERO, seed);
        while let Some(due) = prober.poll_timeout()
            && due < Tick::ZERO.saturating_add(interval * 10)
        {
            let probe = prober.begin_probe(&config, due).expect("a probe is due");
            let _ = prober.answer(&config, due, probe, ProbeAnswer::Up);
            all.push(due.as_nanos());
        }
    }
    all.sort_unstable();
    all
}

#[test]
fn probes_of_many_members_spread_over_the_interval() {
    let tenth = Duration::from_secs(3).as_nanos() as u64;
    for (members, jitter) in [(10, 100), (100, 0), (100, 100), (100, 1_000), (5_000, 100)] {
        let probes = probes(members, jitter);
        let most = (0..probes.len())
            .map(|first| {
                let end = probes[first] + tenth;
                probes[first..].partition_point(|due| *due < end) as u64
            })
            .max();
        // Twice the share of a tenth of an interval, plus two.
        let bound = members / 10 * 2 + 2;
        assert!(
            most.is_some_and(|most| most <= bound),
            "{most:?} of {members} members within a tenth at a jitter of {jitter}"
        );
    }
}

#[test]
fn the_stated_number_of_retries_is_an_upper_bound_that_some_schedule_reaches() {
    for (deposit, reserve, initial) in [(500, 2, 0), (300, 1, 1), (1_000, 3, 2), (0, 2, 2)] {
        // Most retries of any schedule of nine operations, by number of first attempts.
        let mut best = [0_u64; 10];
        let fresh = RetryBudget::new(deposit, reserve).initial(initial);
        let mut states = vec![(fresh, 0_usize)];
        for _ in 0..9 {
            let mut next = Vec::new();
            for (budget, firsts) in states {
                let mut retried = budget.clone();
                if retried.try_retry(Tick::ZERO).is_ok() {
                    best[firsts] = best[firsts].max(retried.retries());
                    next.push((retried, firsts));
                }
                let mut deposited = budget.clone();
                deposited.deposit(Tick::ZERO);
                next.push((deposited, firsts + 1));
                let mut refunded = budget;
                refunded.refund(Tick::ZERO);
                next.push((refunded, firsts));
            }
            states = next;
        }
        for (firsts, most) in best.iter().enumerate().take(6) {
            let stated = u64::from(initial) + firsts as u64 * u64::from(deposit) / 1_000;
            assert!(*most <= stated, "{most} of {stated} by {firsts}");
            if firsts as u64 + stated <= 9 {
                assert_eq!(*most, stated, "by {firsts} at {deposit}");
            }
        }
    }
}
