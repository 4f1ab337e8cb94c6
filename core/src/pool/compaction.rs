//! Short logs of charges: what a pool that is restored has to know of a long one.
//!
//! Invariant: a pool that replays the shorter log never admits a call that it would have refused after the longer one.

use super::charges::{Charge, less};
use crate::limit::Cost;
use crate::time::Tick;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::num::NonZeroU64;
use core::time::Duration;

/// The span whose charges become one, once they are not needed one by one.
const MINUTE: u64 = 60_000_000_000;

impl Charge {
    /// The tick at which it was; `None` for a block, which is no event.
    #[must_use]
    pub const fn at(&self) -> Option<Tick> {
        match *self {
            Self::Granted { at, .. }
            | Self::Arrived { at, .. }
            | Self::Renewed { at, .. }
            | Self::Ended { at, .. }
            | Self::Observed { at, .. } => Some(at),
            Self::Block { .. } => None,
        }
    }
}

/// Closes a log whose process has ended at an unknown time, at the restart.
///
/// Leases without an end, and what blocks may have let through, end `now`; those that expire later stay open, because
/// their holders may live on. Ticks beyond `now`, of a clock that was ahead, become `now`, because a replay never goes
/// back. Each charge has a tag, which its successors take over.
/// O(n log n).
pub fn close_log<K: Clone>(log: &mut Vec<(K, Charge)>, now: Tick) {
    for (_, charge) in log.iter_mut() {
        charge.move_back(now);
    }
    let mut open: BTreeMap<u64, (K, Cost, Tick)> = BTreeMap::new();
    let mut latest = 0;
    for (tag, charge) in &*log {
        match *charge {
            Charge::Granted {
                lease,
                cost,
                expires,
                ..
            } => {
                latest = lease.max(latest);
                open.insert(lease, (tag.clone(), cost, expires.unwrap_or(now)));
            }
            Charge::Renewed { lease, expires, .. } => {
                if let Some((_, _, open_until)) = open.get_mut(&lease) {
                    *open_until = expires;
                }
            }
            Charge::Ended { lease, .. } => {
                open.remove(&lease);
            }
            Charge::Arrived { .. } | Charge::Observed { .. } | Charge::Block { .. } => {}
        }
    }
    let rests = rests_of_blocks(log);
    log.retain(|(_, charge)| !matches!(charge, Charge::Block { .. }));
    for (lease, (tag, cost, _)) in open.into_iter().filter(|(_, (.., until))| *until <= now) {
        log.push((
            tag,
            Charge::Ended {
                lease,
                cost,
                at: now,
            },
        ));
    }
    for (member, (tag, cost)) in rests {
        latest = latest.saturating_add(1);
        let call = Call {
            member,
            class: 0,
            flow: 0,
            lease: latest,
            cost,
            at: now,
        };
        log.extend(call.charges().map(|charge| (tag.clone(), charge)));
    }
}

/// Shortens a log without a change of what it means from `now` on.
///
/// Leases that ended more than `kept` ago are dropped: no window may be longer. Those that ended more than `exact` ago
/// become one for each minute, tag, member, class and flow, which ended with the last of them. O(n log n).
#[must_use]
pub fn compact_log<K: Clone + Ord>(
    log: &[(K, Charge)],
    now: Tick,
    exact: Duration,
    kept: Duration,
) -> Vec<(K, Charge)> {
    joined(log, now, [exact, kept], |_| MINUTE)
}

/// Shortens a log as [`compact_log`] does, but joins charges over spans of at most one part in `share` of their age.
///
/// So each window is off by that part of it at most, whatever its length, and the size of the log grows with the logarithm
/// of `kept`: at most `2 * share` calls for each doubling of the age, tag, member, class and flow. The spans are powers of
/// two that lie in each other, so that repeated compaction moves no charge by more than its latest span. O(n log n).
#[must_use]
pub fn compact_log_by_age<K: Clone + Ord>(
    log: &[(K, Charge)],
    now: Tick,
    exact: Duration,
    kept: Duration,
    share: NonZeroU64,
) -> Vec<(K, Charge)> {
    joined(log, now, [exact, kept], |age| {
        let longest = age.checked_div(share.get()).unwrap_or(0);
        longest.checked_ilog2().map_or(1, |power| 1 << power)
    })
}

/// Joins charges that ended in the same span, whose length in ns `span` tells for their age in ns.
fn joined<K: Clone + Ord>(
    log: &[(K, Charge)],
    now: Tick,
    [exact, kept]: [Duration; 2],
    span: impl Fn(u64) -> u64,
) -> Vec<(K, Charge)> {
    let mut ends: BTreeMap<u64, (Tick, Cost)> = BTreeMap::new();
    let mut arrived = BTreeSet::new();
    let mut renewed: BTreeMap<u64, Charge> = BTreeMap::new();
    for (_, charge) in log {
        match *charge {
            Charge::Ended { lease, cost, at } => {
                ends.insert(lease, (at, cost));
            }
            Charge::Arrived { lease, .. } => {
                arrived.insert(lease);
            }
            Charge::Renewed { lease, .. } => {
                renewed.insert(lease, *charge);
            }
            Charge::Granted { .. } | Charge::Observed { .. } | Charge::Block { .. } => {}
        }
    }
    let mut spans: BTreeMap<_, Call> = BTreeMap::new();
    let mut recent = Vec::new();
    for (tag, charge) in log {
        let lease = match *charge {
            Charge::Block { .. } => continue,
            Charge::Observed { reset, .. } if reset <= now => continue,
            Charge::Observed { .. } => {
                recent.push((tag.clone(), *charge));
                continue;
            }
            // Of the renewals of one lease, the last says when it expires.
            Charge::Renewed { lease, .. } if renewed.get(&lease) != Some(charge) => continue,
            Charge::Granted { lease, .. }
            | Charge::Arrived { lease, .. }
            | Charge::Renewed { lease, .. }
            | Charge::Ended { lease, .. } => lease,
        };
        let Some((at, cost)) = ends
            .get(&lease)
            .copied()
            .filter(|(at, _)| now.since(*at) > exact)
        else {
            recent.push((tag.clone(), *charge));
            continue;
        };
        // Nothing is held of a call that was given back before it arrived.
        let is_held = cost != Cost::default() || arrived.contains(&lease);
        if let Charge::Granted {
            member,
            class,
            flow,
            ..
        } = *charge
            && is_held
            && now.since(at) <= kept
        {
            let length = span(nanos(now.since(at)));
            let span = (
                at.as_nanos().checked_div(length),
                length,
                tag.clone(),
                member,
                class,
                flow,
            );
            let call = Call {
                member,
                class,
                flow,
                lease,
                cost: Cost::default(),
                at,
            };
            spans.entry(span).or_insert(call).join(cost, at);
        }
    }
    let calls = spans
        .into_iter()
        .flat_map(|((_, _, tag, ..), call)| call.charges().map(|charge| (tag.clone(), charge)));
    let mut all: Vec<_> = calls.chain(recent).collect();
    // Stable, so that the charges of a lease stay in order.
    all.sort_by_key(|(_, charge)| charge.at());
    let blocks = rests_of_blocks(log).into_iter();
    all.extend(blocks.map(|(member, (tag, cost))| (tag, Charge::Block { member, cost })));
    all
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A call that ended as it was granted, or several that are taken as one.
struct Call {
    member: u64,
    class: u32,
    flow: u64,
    lease: u64,
    cost: Cost,
    at: Tick,
}

impl Call {
    /// Adds a call, which held a place among those at once whatever it cost.
    fn join(&mut self, cost: Cost, at: Tick) {
        self.cost = Cost {
            requests: self.cost.requests.saturating_add(cost.requests.max(1)),
            tokens: self.cost.tokens.saturating_add(cost.tokens),
        };
        self.at = self.at.max(at);
    }

    fn charges(self) -> [Charge; 2] {
        let Self {
            member,
            class,
            flow,
            lease,
            cost,
            at,
        } = self;
        let expires = None;
        [
            Charge::Granted {
                lease,
                member,
                class,
                flow,
                cost,
                at,
                expires,
            },
            Charge::Ended { lease, cost, at },
        ]
    }
}

impl Charge {
    fn move_back(&mut self, now: Tick) {
        match self {
            Self::Arrived { at, .. } | Self::Ended { at, .. } => *at = now.min(*at),
            Self::Granted { at, expires, .. } => {
                let held = expires.map(|expires| expires.since(*at));
                *at = now.min(*at);
                *expires = held.map(|held| at.saturating_add(held));
            }
            Self::Renewed { at, expires, .. } => {
                let held = expires.since(*at);
                *at = now.min(*at);
                *expires = at.saturating_add(held);
            }
            Self::Observed { at, reset, .. } => {
                let span = reset.since(*at);
                *at = now.min(*at);
                *reset = at.saturating_add(span);
            }
            Self::Block { .. } => {}
        }
    }
}

/// What is left of the last block of each member.
fn rests_of_blocks<K: Clone>(log: &[(K, Charge)]) -> BTreeMap<u64, (K, Cost)> {
    let mut rests: BTreeMap<u64, (K, Cost)> = BTreeMap::new();
    for (tag, charge) in log {
        match *charge {
            Charge::Block { member, cost } => {
                rests.insert(member, (tag.clone(), cost));
            }
            Charge::Granted { member, cost, .. } => {
                if let Some((_, rest)) = rests.get_mut(&member) {
                    *rest = less(*rest, cost);
                }
            }
            Charge::Arrived { .. }
            | Charge::Renewed { .. }
            | Charge::Ended { .. }
            | Charge::Observed { .. } => {}
        }
    }
    rests.retain(|_, (_, rest)| rest.requests > 0);
    rests
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Tick {
        Tick::from_nanos(seconds.saturating_mul(SECOND))
    }

    fn granted(lease: u64, seconds: u64) -> Charge {
        let (class, flow, cost, expires) = (0, 0, Cost::REQUEST, None);
        Charge::Granted {
            lease,
            member: 7,
            class,
            flow,
            cost,
            at: at(seconds),
            expires,
        }
    }

    fn ended(lease: u64, seconds: u64) -> Charge {
        Charge::Ended {
            lease,
            cost: Cost::REQUEST,
            at: at(seconds),
        }
    }

    fn block(requests: u32) -> Charge {
        Charge::Block {
            member: 7,
            cost: Cost {
                requests,
                tokens: 0,
            },
        }
    }

    fn call(lease: u64, requests: u32, seconds: u64) -> [Charge; 2] {
        let (cost, at) = (
            Cost {
                requests,
                tokens: 0,
            },
            at(seconds),
        );
        Call {
            member: 7,
            class: 0,
            flow: 0,
            lease,
            cost,
            at,
        }
        .charges()
    }

    fn tagged(charges: Vec<Charge>) -> Vec<((), Charge)> {
        charges.into_iter().map(|charge| ((), charge)).collect()
    }

    #[test]
    fn a_log_that_was_cut_is_closed_at_the_restart() {
        let mut log = tagged(vec![
            granted(1, 1),
            ended(1, 2),
            granted(2, 3),
            block(4),
            granted(3, 900),
        ]);
        close_log(&mut log, at(10));
        let mut expected = vec![granted(1, 1), ended(1, 2), granted(2, 3), granted(3, 10)];
        expected.extend([2, 3].map(|lease| ended(lease, 10)));
        expected.extend(call(4, 3, 10));
        assert_eq!(log, tagged(expected));
    }

    #[test]
    fn old_charges_are_joined_by_minute_and_then_dropped() {
        let mut log = Vec::new();
        for (lease, seconds) in (1..).zip([10, 3_601, 3_602, 3_661, 7_000]) {
            log.extend(call(lease, 1, seconds));
        }
        log.extend([block(9), granted(6, 7_100)]);
        let [exact, kept] = [600, 7_000].map(Duration::from_secs);
        let short = compact_log(&tagged(log), at(7_200), exact, kept);
        let mut expected = Vec::new();
        expected.extend(call(2, 2, 3_602));
        expected.extend(call(4, 1, 3_661));
        expected.extend(call(5, 1, 7_000));
        expected.extend([granted(6, 7_100), block(8)]);
        assert_eq!(short, tagged(expected));
        assert_eq!(compact_log(&short, at(7_200), exact, kept), short);
    }

    #[test]
    fn charges_are_joined_over_longer_spans_as_they_grow_older() {
        let share = NonZeroU64::new(32).unwrap();
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
        let calls = 200_000_u64;
        let millis = |millis: u64| Tick::from_nanos(millis.saturating_mul(1_000_000));
        let mut log = Vec::new();
        let mut longest = 0;
        for lease in 0..calls {
            let (cost, at) = (Cost::REQUEST, millis(lease));
            let (member, class, flow) = (7, 0, 0);
            let call = Call {
                member,
                class,
                flow,
                lease,
                cost,
                at,
            };
            log.extend(call.charges().map(|charge| ((), charge)));
            if lease % 10_000 == 9_999 {
                log = compact_log_by_age(&log, at, second, day, share);
                longest = longest.max(log.len());
            }
        }
        // 1,001 calls of the last second, and 64 for each of 8 doublings up to 200 s.
        assert!(longest <= 2 * (1_001 + 8 * 64), "{longest}");
        let now = millis(calls - 1);
        let mut later = 0_u64;
        for (_, charge) in log.iter().rev() {
            let Charge::Ended { cost, at, .. } = *charge else {
                continue;
            };
            // As many calls as there were since this one, or as there were up to one part in 32 longer ago.
            let age = nanos(now.since(at)).checked_div(1_000_000).unwrap();
            let first = calls - 1 - later;
            later += u64::from(cost.requests);
            let last = calls - later;
            assert_eq!(age, calls - 1 - first, "the last of them counts");
            let oldest = calls - 1 - last;
            assert!(
                oldest - age <= oldest.checked_div(32).unwrap(),
                "{age} {oldest}"
            );
        }
        assert_eq!(later, calls, "none is lost");
    }

    #[test]
    fn a_call_that_has_arrived_counts_though_it_cost_nothing() {
        let arrived = Charge::Arrived {
            lease: 1,
            at: at(1),
        };
        let free = |lease| Charge::Ended {
            lease,
            cost: Cost::default(),
            at: at(1),
        };
        let log = vec![granted(1, 1), arrived, free(1), granted(2, 1), free(2)];
        let short = compact_log(&tagged(log), at(9), Duration::ZERO, Duration::MAX);
        assert_eq!(short, tagged(call(1, 1, 1).into()));
    }

    #[test]
    fn charges_of_two_tags_are_not_joined() {
        let log: Vec<_> = [("a", 1), ("b", 2)]
            .into_iter()
            .flat_map(|(tag, lease)| call(lease, 1, 1).map(|charge| (tag, charge)))
            .collect();
        assert_eq!(compact_log(&log, at(9), Duration::ZERO, Duration::MAX), log);
    }
}
