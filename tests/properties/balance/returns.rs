//! Shares under round robin and weighted round robin while members come and go.

use super::Bench;
use leasehold_core::balance::{
    Availability::{self, Busy, Out, Ready},
    Policy,
};
use leasehold_tests::balance::turns::Turns;
use proptest::prelude::*;

/// One call, in the units of virtual time of [`Turns`].
const CALL: i128 = 1 << 64;
/// Rounding of virtual time over a run, at most.
const ROUNDING: i128 = 1 << 32;

/// Calls of a member since its turns began to count, and since it was last ready again.
#[derive(Clone, Copy, Debug)]
struct Stay {
    weight: u32,
    availability: Availability,
    /// Virtual time at which its turns began to count.
    joined: i128,
    calls: i128,
    /// Exact share of the calls since, without those that others left to the rest.
    share: i128,
    /// Virtual time of its latest return, the calls since, and their bound above its share.
    returned: i128,
    calls_since: i128,
    bound: i128,
}

impl Stay {
    /// Calls above its weight by virtual time.
    fn lead(&self, now: i128) -> i128 {
        self.calls * CALL - i128::from(self.weight) * (now - self.joined)
    }

    fn lead_since_return(&self, now: i128) -> i128 {
        self.calls_since * CALL - i128::from(self.weight) * (now - self.returned)
    }
}

/// The calls of a weighted round robin, beside the virtual time of its statement.
struct Reference {
    turns: Turns,
    stays: Vec<Stay>,
}

impl Reference {
    fn new(weights: &[u32]) -> Self {
        let mut turns = Turns::default();
        let now = ticks(turns.now());
        let stays = (0..).zip(weights).map(|(id, weight)| {
            turns.insert(id, *weight);
            turns.update(id, *weight, Ready);
            Stay {
                weight: *weight,
                availability: Ready,
                joined: now,
                calls: 0,
                share: 0,
                returned: now,
                calls_since: 0,
                bound: CALL,
            }
        });
        Self {
            stays: stays.collect(),
            turns,
        }
    }

    fn now(&self) -> i128 {
        ticks(self.turns.now())
    }

    fn update(&mut self, id: u32, availability: Availability) {
        let served_until = |turns: &Turns| turns.turn(id).map(|turn| ticks(turn.served_until()));
        let (now, before) = (self.now(), served_until(&self.turns));
        let stay = &mut self.stays[id as usize];
        self.turns.update(id, stay.weight, availability);
        let joined = served_until(&self.turns).unwrap_or(now);
        if stay.availability == Out && availability != Out || before != Some(joined) {
            (stay.joined, stay.calls) = (joined, 0);
            stay.share = i128::from(stay.weight) * (now - joined);
        }
        if stay.availability != Ready && availability == Ready {
            let is_owed = joined + ROUNDING < now;
            (stay.returned, stay.calls_since) = (now, 0);
            stay.bound = if is_owed { 2 * CALL } else { CALL };
        }
        stay.availability = availability;
    }

    fn call(&mut self, id: u32) {
        self.turns.chosen(id);
        self.stays[id as usize].calls += 1;
        self.stays[id as usize].calls_since += 1;
        let part = CALL / ticks(self.turns.rate());
        for stay in self
            .stays
            .iter_mut()
            .filter(|stay| stay.availability != Out)
        {
            stay.share += i128::from(stay.weight) * part;
        }
    }
}

fn ticks(virtual_time: u128) -> i128 {
    i128::try_from(virtual_time).expect("virtual time is far below its end")
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn calls_since_a_return_stay_within_the_stated_bounds_of_the_exact_share(
        weights in prop::collection::vec(prop_oneof![1..=6u32, 1..=100u32], 1..=6),
        has_busy: bool,
        ops in prop::collection::vec((0..6usize, 0..8u8), 0..300),
    ) {
        let mut bench = Bench::new(Policy::WeightedRoundRobin, &weights);
        let mut reference = Reference::new(&weights);
        for (id, op) in ops {
            let id = (id % weights.len()) as u32;
            let availability = match op {
                0 if has_busy => Some(Busy),
                0 | 1 => Some(Out),
                2 | 3 => Some(Ready),
                _ => None,
            };
            if let Some(availability) = availability {
                bench.update(id, availability);
                reference.update(id, availability);
                continue;
            }
            if bench.balancer.ready() == 0 {
                continue;
            }
            reference.call(bench.call(None));
            let now = reference.now();
            for stay in reference.stays.iter().filter(|stay| stay.availability != Out) {
                prop_assert!(stay.lead(now) < CALL + ROUNDING, "{stay:?} at {now}");
                let bound = stay.bound + ROUNDING;
                prop_assert!(stay.lead_since_return(now) < bound, "{stay:?} at {now}");
                if !has_busy {
                    prop_assert!(stay.lead(now) > -CALL - ROUNDING, "{stay:?} at {now}");
                    let lead = stay.calls * CALL - stay.share;
                    prop_assert!(lead > -CALL - ROUNDING, "{stay:?} at {now}");
                }
            }
        }
    }
}

/// Takes member 0 of `members` equal ones away for some calls, after `before` calls. Returns the greatest and
/// the least difference between its calls since its return and its share of all calls since.
fn stray_after_return(
    policy: Policy,
    members: u32,
    before: u32,
    (gone, away): (Availability, u32),
) -> (f64, f64) {
    let mut bench = Bench::new(policy, &vec![1; members as usize]);
    for _ in 0..before {
        bench.call(None);
    }
    bench.update(0, gone);
    for _ in 0..away {
        bench.call(None);
    }
    bench.update(0, Ready);
    let mut own = 0;
    let strays = (1..=5 * members).map(|calls| {
        own += u32::from(bench.call(None) == 0);
        f64::from(own) - f64::from(calls) / f64::from(members)
    });
    strays.fold((f64::MIN, f64::MAX), |(most, least), stray| {
        (most.max(stray), least.min(stray))
    })
}

#[test]
fn one_of_equal_members_is_within_one_call_of_its_share_after_it_was_out() {
    for policy in [Policy::RoundRobin, Policy::WeightedRoundRobin] {
        for members in 2..=7 {
            for before in 0..=3 * members {
                for away in 0..=6 * members {
                    let (most, least) = stray_after_return(policy, members, before, (Out, away));
                    let run = format!("{policy} {members} {before} {away}");
                    assert!(most < 1.0 && least > -1.0, "{run}: {most} {least}");
                }
            }
        }
    }
}

#[test]
fn one_of_equal_members_is_within_the_stated_bounds_after_it_was_busy() {
    // The bound after a short absence, and the rounds that such a one lasts at most.
    for (policy, bound, rounds) in [
        (Policy::RoundRobin, 3.0, 2),
        (Policy::WeightedRoundRobin, 2.0, 1),
    ] {
        for members in 2..=7 {
            for before in 0..=3 * members {
                for away in 0..=6 * members {
                    let (most, least) = stray_after_return(policy, members, before, (Busy, away));
                    let bound = if away <= rounds * members { bound } else { 1.0 };
                    let run = format!("{policy} {members} {before} {away}");
                    assert!(most < bound && least > -1.0, "{run}: {most} {least}");
                }
            }
        }
    }
}

#[test]
fn of_three_equal_members_one_takes_two_of_six_calls_after_it_was_away_for_six() {
    for policy in [Policy::RoundRobin, Policy::WeightedRoundRobin] {
        for (before, gone) in (0..9).flat_map(|before| [(before, Out), (before, Busy)]) {
            let mut bench = Bench::new(policy, &[1; 3]);
            for _ in 0..before {
                bench.call(None);
            }
            bench.update(0, gone);
            for _ in 0..6 {
                bench.call(None);
            }
            bench.update(0, Ready);
            let own = (0..6).filter(|_| bench.call(None) == 0).count();
            assert_eq!(own, 2, "{policy} {gone:?} after {before}");
        }
    }
}

#[test]
fn a_member_busy_for_long_takes_no_more_than_one_call_on_top_of_its_share() {
    for weights in [[1, 1, 1, 1], [5, 1, 2, 3], [1, 40, 3, 2]] {
        let mut bench = Bench::new(Policy::WeightedRoundRobin, &weights);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for _ in 0..50 {
            bench.update(0, Busy);
            for _ in 0..997 {
                bench.call(None);
            }
            bench.update(0, Ready);
            let before = bench.calls[0];
            for turn in 1..=total * 3 {
                bench.call(None);
                let share = turn * u64::from(weights[0]);
                let calls = bench.calls[0] - before;
                assert!(calls * total < share + 2 * total, "{calls} of {turn}");
            }
        }
    }
}
