//! What the machines that handle failure promise.

use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::health::{Health, HealthConfig, ProbeAnswer, SlowStart, SlowStartConfig};
use leasehold_core::retry::RetryBudget;
use leasehold_core::time::Tick;
use leasehold_tests::{affinity, breaker, budget, health, outlier};
use proptest::prelude::*;

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn a_breaker_agrees_with_its_oracle(case: breaker::Case) {
        breaker::run(&case);
    }

    #[test]
    fn health_agrees_with_its_oracle(case: health::Case) {
        health::run(&case);
    }

    #[test]
    fn an_outlier_agrees_with_its_oracle_and_never_ejects_more_than_the_share(case: outlier::Case) {
        outlier::run(&case);
    }

    #[test]
    fn an_affinity_agrees_with_its_oracle_and_stays_bounded(case: affinity::Case) {
        affinity::run(&case);
    }

    #[test]
    fn a_retry_budget_agrees_with_its_oracle_and_keeps_its_promise_over_every_span(case: budget::Case) {
        budget::run(&case);
    }

    #[test]
    fn a_slow_start_climbs_step_by_step_and_starves_nobody(
        duration in 1_u64..200, steps in 1_u32..30, full in 1_u32..1_000, began in 0_u64..100,
    ) {
        let steps_given = NonZeroU32::new(steps).expect("it is above zero");
        let config = SlowStartConfig::new(Duration::from_nanos(duration), steps_given);
        let config = config.expect("it has a length");
        let mut start = SlowStart::default();
        start.begin(Tick::from_nanos(began));
        let weight = |at: u64| start.weight_at(&config, Tick::from_nanos(at), full);
        let mut changes = None;
        for passed in 0..duration + 5 {
            let share = (passed * u64::from(steps) / duration).clamp(1, steps.into());
            let whole = u64::from(full) * u64::from(SlowStart::SCALE);
            let exact = (whole * share / u64::from(steps)).max(1);
            prop_assert_eq!(u64::from(weight(began + passed)), exact);
            let now = began + passed;
            if changes.is_none_or(|tick: Tick| tick.as_nanos() <= now) && share < steps.into() {
                changes = start.next_change(&config, Tick::from_nanos(now));
                prop_assert!(changes.is_some_and(|tick| tick.as_nanos() > now));
            } else if share == u64::from(steps) {
                prop_assert_eq!(start.next_change(&config, Tick::from_nanos(now)), None);
            } else {
                prop_assert_eq!(weight(now), weight(now - 1), "a change that was not told");
            }
        }
    }
}

/// Every probe of members added at once, over ten intervals of 30 seconds, as they are due.
fn probes(members: u64, jitter: u16) -> Vec<u64> {
    let interval = Duration::from_secs(30);
    let config = HealthConfig::new(interval, Duration::from_secs(10))
        .and_then(|config| config.jitter(jitter))
        .expect("the configuration is good");
    let mut all = Vec::new();
    for seed in 0..members {
        let mut health = Health::new(&config, Tick::ZERO, seed);
        while let Some(due) = health.poll_timeout()
            && due < Tick::ZERO.saturating_add(interval * 10)
        {
            let probe = health.begin_probe(&config, due).expect("it is due");
            let _ = health.answer(&config, due, probe, ProbeAnswer::Up);
            all.push(due.as_nanos());
        }
    }
    all.sort_unstable();
    all
}

#[test]
fn probes_of_many_members_dont_align() {
    let tenth = Duration::from_secs(3).as_nanos() as u64;
    for (members, jitter) in [(10, 100), (100, 0), (100, 100), (100, 1_000), (5_000, 100)] {
        let probes = probes(members, jitter);
        let most = (0..probes.len())
            .map(|first| {
                let end = probes[first] + tenth;
                probes[first..].partition_point(|due| *due < end) as u64
            })
            .max();
        // In no tenth of an interval are there more than twice a tenth of the members, and two.
        let bound = members / 10 * 2 + 2;
        assert!(
            most.is_some_and(|most| most <= bound),
            "{most:?} of {members} members within a tenth, {jitter}"
        );
    }
}

#[test]
fn no_schedule_gets_more_retries_than_stated_and_one_gets_as_many() {
    for (deposit, reserve, initial) in [(500, 2, 0), (300, 1, 1), (1_000, 3, 2), (0, 2, 2)] {
        // The most retries of any schedule of so many steps, by first attempts in it.
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
