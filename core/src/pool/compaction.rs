//! Short logs of charges: what a pool that is restored has to know of a long one.
//!
//! Invariant: a pool that replays the shorter log never admits a call that it would have refused after the longer one.

use super::charges::{Charge, less};
use crate::limit::Cost;
use crate::time::Tick;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
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
            | Self::Ended { at, .. }
            | Self::Observed { at, .. } => Some(at),
            Self::Block { .. } => None,
        }
    }
}

/// Closes a log whose process has ended at an unknown time, at the restart.
///
/// Leases without an end, and what blocks may have let through, end `now`. Ticks beyond `now`, of a clock that was
/// ahead, become `now`, because a replay never goes back. O(n log n).
pub fn close_log(charges: &mut Vec<Charge>, now: Tick) {
    for charge in charges.iter_mut() {
        charge.move_back(now);
    }
    let mut open: BTreeMap<u64, Cost> = BTreeMap::new();
    let mut latest = 0;
    for charge in &*charges {
        match *charge {
            Charge::Granted { lease, cost, .. } => {
                latest = lease.max(latest);
                open.insert(lease, cost);
            }
            Charge::Ended { lease, .. } => {
                open.remove(&lease);
            }
            Charge::Arrived { .. } | Charge::Observed { .. } | Charge::Block { .. } => {}
        }
    }
    let rests = rests_of_blocks(charges);
    charges.retain(|charge| !matches!(charge, Charge::Block { .. }));
    charges.extend(open.into_iter().map(|(lease, cost)| Charge::Ended {
        lease,
        cost,
        at: now,
    }));
    for (member, cost) in rests {
        latest = latest.saturating_add(1);
        let lease = latest;
        let granted = Charge::Granted {
            lease,
            member,
            class: 0,
            flow: 0,
            cost,
            at: now,
            expires: None,
        };
        charges.extend([
            granted,
            Charge::Ended {
                lease,
                cost,
                at: now,
            },
        ]);
    }
}

/// Shortens a log without a change of what it means from `now` on.
///
/// Leases that ended more than `kept` ago are dropped: no window may be longer. Those that ended more than `exact` ago
/// become one for each minute, member, class and flow, which ended with the last of them. O(n log n).
#[must_use]
pub fn compact_log(charges: &[Charge], now: Tick, exact: Duration, kept: Duration) -> Vec<Charge> {
    let mut ends: BTreeMap<u64, (Tick, Cost)> = BTreeMap::new();
    let mut arrived = BTreeSet::new();
    for charge in charges {
        match *charge {
            Charge::Ended { lease, cost, at } => {
                ends.insert(lease, (at, cost));
            }
            Charge::Arrived { lease, .. } => {
                arrived.insert(lease);
            }
            Charge::Granted { .. } | Charge::Observed { .. } | Charge::Block { .. } => {}
        }
    }
    let age = |at: Tick| now.since(at);
    let mut minutes: BTreeMap<_, (u64, Cost, Tick)> = BTreeMap::new();
    let mut recent = Vec::new();
    for charge in charges {
        let lease = match *charge {
            Charge::Block { .. } => continue,
            Charge::Observed { reset, .. } if reset <= now => continue,
            Charge::Observed { .. } => {
                recent.push(*charge);
                continue;
            }
            Charge::Granted { lease, .. }
            | Charge::Arrived { lease, .. }
            | Charge::Ended { lease, .. } => lease,
        };
        match ends.get(&lease) {
            Some((at, _)) if age(*at) > kept => {}
            // Nothing is held of a call that was given back before it arrived.
            Some((at, cost))
                if age(*at) > exact && *cost == Cost::default() && !arrived.contains(&lease) => {}
            Some((at, cost)) if age(*at) > exact => {
                if let Charge::Granted {
                    member,
                    class,
                    flow,
                    ..
                } = *charge
                {
                    let minute = (at.as_nanos().checked_div(MINUTE), member, class, flow);
                    let (_, sum, last) =
                        minutes
                            .entry(minute)
                            .or_insert((lease, Cost::default(), *at));
                    *sum = more(*sum, at_least_one(*cost));
                    *last = (*at).max(*last);
                }
            }
            Some(_) | None => recent.push(*charge),
        }
    }
    let mut all = Vec::new();
    for ((_, member, class, flow), (lease, cost, at)) in minutes {
        let granted = Charge::Granted {
            lease,
            member,
            class,
            flow,
            cost,
            at,
            expires: None,
        };
        all.extend([granted, Charge::Ended { lease, cost, at }]);
    }
    // Stable, so that the charges of a lease stay in order.
    all.sort_by_key(Charge::at);
    all.extend(recent);
    all.extend(
        rests_of_blocks(charges)
            .into_iter()
            .map(|(member, cost)| Charge::Block { member, cost }),
    );
    all
}

impl Charge {
    fn move_back(&mut self, now: Tick) {
        match self {
            Self::Granted { at, .. } | Self::Arrived { at, .. } | Self::Ended { at, .. } => {
                *at = now.min(*at)
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
fn rests_of_blocks(charges: &[Charge]) -> BTreeMap<u64, Cost> {
    let mut rests: BTreeMap<u64, Cost> = BTreeMap::new();
    for charge in charges {
        match *charge {
            Charge::Block { member, cost } => {
                rests.insert(member, cost);
            }
            Charge::Granted { member, cost, .. } => {
                if let Some(rest) = rests.get_mut(&member) {
                    *rest = less(*rest, cost);
                }
            }
            Charge::Arrived { .. } | Charge::Ended { .. } | Charge::Observed { .. } => {}
        }
    }
    rests.retain(|_, rest| rest.requests > 0);
    rests
}

/// The cost of a call that was made, which holds a place among those at once whatever it cost.
fn at_least_one(cost: Cost) -> Cost {
    Cost {
        requests: cost.requests.max(1),
        ..cost
    }
}

fn more(cost: Cost, other: Cost) -> Cost {
    Cost {
        requests: cost.requests.saturating_add(other.requests),
        tokens: cost.tokens.saturating_add(other.tokens),
    }
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

    #[test]
    fn a_log_that_was_cut_is_closed_at_the_restart() {
        let mut log = vec![
            granted(1, 1),
            ended(1, 2),
            granted(2, 3),
            block(4),
            granted(3, 900),
        ];
        close_log(&mut log, at(10));
        let rest = Cost {
            requests: 3,
            tokens: 0,
        };
        let unrecorded = Charge::Granted {
            lease: 4,
            member: 7,
            class: 0,
            flow: 0,
            cost: rest,
            at: at(10),
            expires: None,
        };
        let ended_now = [2, 3].map(|lease| ended(lease, 10));
        let mut expected = vec![granted(1, 1), ended(1, 2), granted(2, 3), granted(3, 10)];
        expected.extend(ended_now);
        expected.extend([
            unrecorded,
            Charge::Ended {
                lease: 4,
                cost: rest,
                at: at(10),
            },
        ]);
        assert_eq!(log, expected);
    }

    #[test]
    fn old_charges_are_joined_by_minute_and_then_dropped() {
        let mut log = Vec::new();
        for (lease, seconds) in (1..).zip([10, 3_601, 3_602, 3_661, 7_000]) {
            log.extend([granted(lease, seconds), ended(lease, seconds)]);
        }
        log.extend([block(9), granted(6, 7_100)]);
        let [exact, kept] = [600, 7_000].map(Duration::from_secs);
        let short = compact_log(&log, at(7_200), exact, kept);
        let two = Cost {
            requests: 2,
            tokens: 0,
        };
        let joined = Charge::Granted {
            lease: 2,
            member: 7,
            class: 0,
            flow: 0,
            cost: two,
            at: at(3_602),
            expires: None,
        };
        let expected = [
            joined,
            Charge::Ended {
                lease: 2,
                cost: two,
                at: at(3_602),
            },
            granted(4, 3_661),
            ended(4, 3_661),
            granted(5, 7_000),
            ended(5, 7_000),
            granted(6, 7_100),
            block(8),
        ];
        assert_eq!(short, expected);
        assert_eq!(compact_log(&short, at(7_200), exact, kept), short);
    }
}
