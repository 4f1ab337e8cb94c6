//! What the conditions of alerts are about, at one time.
//!
//! Invariant: the figures of a pool are gathered once for all alerts, and only if one needs them.

use crate::account::Used;
use crate::backend_pool::BackendPool;
use crate::shared::{Shared, Table};
use core::cell::OnceCell;
use core::time::Duration;
use leasehold_config::{AlertSettings, AlertWhen};
use leasehold_core::health::BreakerState;
use leasehold_core::pool::stats::Histogram;
use leasehold_core::time::{DisplaySpan, Tick};
use leasehold_protocol::Usd;
use leasehold_sync::{MemberCondition, MemberStatus, Stats};
use std::sync::Arc;

/// Requests that must have ended within the span of an error rate; one failure of two says little.
const MIN_REQUESTS: u64 = 10;

/// The pool, member or caller that an alert is of; all of them are `None` for the gateway as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub(super) pool: Option<String>,
    pub(super) member: Option<String>,
    pub(super) caller: Option<String>,
}

/// Whether a condition holds of a subject, and the words for it.
pub(super) struct Look {
    pub(super) subject: Subject,
    pub(super) holds: bool,
    /// The state in words, such as `7 requests wait for pool web`; empty where it does not hold.
    pub(super) words: String,
}

/// A count that grows, and is compared with what it was.
#[derive(Clone, Debug)]
pub(super) enum Sum {
    Lost(u64),
    Waits(Box<Histogram>),
    Requests { failed: u64, all: u64 },
    Money(Usd),
}

/// All that can be looked at now.
pub(super) struct Looks<'a> {
    pub(super) now: Tick,
    shared: &'a Shared,
    pools: Vec<PoolLooks<'a>>,
    /// What each caller has spent; the empty name is of those without one.
    spent: OnceCell<Vec<(String, Usd)>>,
}

struct PoolLooks<'a> {
    pool: &'a Arc<BackendPool>,
    members: OnceCell<Vec<(String, MemberCondition, Option<String>)>>,
    /// The figures of the pool, without those of its members.
    stats: OnceCell<Stats>,
}

impl<'a> Looks<'a> {
    pub(super) fn new(shared: &'a Shared, table: &'a Table) -> Self {
        let pools = table.pools().iter().map(|pool| PoolLooks {
            pool,
            members: OnceCell::new(),
            stats: OnceCell::new(),
        });
        Self {
            now: shared.tick(),
            shared,
            pools: pools.collect(),
            spent: OnceCell::new(),
        }
    }

    /// Looks at all subjects of an alert; `then` notes a count and returns what it was a span ago.
    pub(super) fn of(
        &self,
        alert: &AlertSettings,
        mut then: impl FnMut(&Subject, Sum) -> Sum,
    ) -> Vec<Look> {
        let then = &mut then;
        match alert.when {
            AlertWhen::MemberDown => self.of_members(alert, is_down),
            AlertWhen::BreakerOpen => self.of_members(alert, has_open_breaker),
            AlertWhen::LimitExhausted => self.of_members(alert, is_exhausted),
            AlertWhen::PoolDown => self.of_pools(alert, |_, pool| pool.is_down()),
            AlertWhen::Queue(most) => self.of_pools(alert, |_, pool| pool.queue(most)),
            AlertWhen::JobsLost => self.of_pools(alert, |subject, pool| {
                let hub = self.shared.hubs().get(pool.name())?;
                pool.lost(hub.lost(), alert.over, |sum| then(subject, sum))
            }),
            AlertWhen::Wait { quantile, above } => self.of_pools(alert, |subject, pool| {
                pool.wait(quantile, above, alert.over, |sum| then(subject, sum))
            }),
            AlertWhen::Errors(most) => self.of_pools(alert, |subject, pool| {
                pool.errors(most, alert.over, |sum| then(subject, sum))
            }),
            AlertWhen::Spend(most) => {
                let spent = self.spent().iter().map(|(_, spent)| *spent);
                let all = spent.fold(Usd::ZERO, |all, one| all + one);
                let who = "all callers together have".to_owned();
                vec![spending(
                    Subject::default(),
                    who,
                    all,
                    most,
                    alert.over,
                    then,
                )]
            }
            AlertWhen::CallerSpend(most) => {
                let callers = self.spent().iter();
                let looks = callers.map(|(name, spent)| {
                    let subject = Subject {
                        caller: Some(name.clone()),
                        ..Subject::default()
                    };
                    let who = match name.is_empty() {
                        true => "callers without a name have".to_owned(),
                        false => format!("caller {name} has"),
                    };
                    spending(subject, who, *spent, most, alert.over, then)
                });
                looks.collect()
            }
        }
    }

    fn spent(&self) -> &[(String, Usd)] {
        self.spent.get_or_init(|| {
            let accounts = self.shared.accounts().all().into_iter();
            let spent = accounts.map(|(name, account)| {
                let mut all = Used::default();
                account.used().values().for_each(|used| all.add(used));
                (name.unwrap_or_default(), all.cost)
            });
            spent.collect()
        })
    }

    /// The pools that an alert is of.
    fn pools(&self, alert: &AlertSettings) -> impl Iterator<Item = &PoolLooks<'a>> {
        let is_meant = |pool: &&PoolLooks<'_>| {
            alert.pools.is_empty() || alert.pools.iter().any(|name| name == pool.name())
        };
        self.pools.iter().filter(is_meant)
    }

    /// Looks at each pool; the words are `None` where the condition does not hold.
    fn of_pools(
        &self,
        alert: &AlertSettings,
        mut look: impl FnMut(&Subject, &PoolLooks<'a>) -> Option<String>,
    ) -> Vec<Look> {
        let looks = self.pools(alert).map(|pool| {
            let subject = Subject {
                pool: Some(pool.name().to_owned()),
                ..Subject::default()
            };
            Look::new(look(&subject, pool), subject)
        });
        looks.collect()
    }

    fn of_members(
        &self,
        alert: &AlertSettings,
        look: impl Fn(&MemberCondition) -> Option<&'static str>,
    ) -> Vec<Look> {
        let members = self.pools(alert).flat_map(|pool| {
            let members = pool.members().iter();
            members.map(move |(name, condition, failure)| (pool.name(), name, condition, failure))
        });
        let looks = members.map(|(pool, name, condition, failure)| {
            let words = look(condition).map(|state| {
                let failure = failure.as_ref().filter(|_| !condition.serves());
                let why = failure.map(|why| format!(": {why}"));
                format!("{name} of pool {pool} {state}{}", why.unwrap_or_default())
            });
            let subject = Subject {
                pool: Some(pool.to_owned()),
                member: Some(name.clone()),
                caller: None,
            };
            Look::new(words, subject)
        });
        looks.collect()
    }
}

impl Look {
    /// Makes a look of the words for a condition, which are there if it holds.
    fn new(words: Option<String>, subject: Subject) -> Self {
        Self {
            subject,
            holds: words.is_some(),
            words: words.unwrap_or_default(),
        }
    }
}

/// One that an operator lets serve, and that does not.
fn is_down(member: &MemberCondition) -> Option<&'static str> {
    let is_meant = member.status == MemberStatus::Enabled && member.weight > 0;
    (is_meant && !member.serves()).then_some("is down")
}

fn has_open_breaker(member: &MemberCondition) -> Option<&'static str> {
    let is_open = matches!(member.breaker, Some(BreakerState::Open { .. }));
    is_open.then_some("has an open breaker")
}

fn is_exhausted(member: &MemberCondition) -> Option<&'static str> {
    let left = member.available;
    let words = match (left.requests, left.tokens) {
        (0, _) => "has no requests left by its limits",
        (_, 0) => "has no tokens left by its limits",
        _ => return None,
    };
    member.serves().then_some(words)
}

impl PoolLooks<'_> {
    fn name(&self) -> &str {
        &self.pool.settings().name
    }

    fn members(&self) -> &[(String, MemberCondition, Option<String>)] {
        self.members.get_or_init(|| {
            let conditions = self.pool.pool().blocking().conditions().into_iter();
            let members = conditions.map(|(_, backend, condition)| {
                let failure = backend.last_failure().filter(|_| !condition.serves());
                (backend.name().to_owned(), condition, failure)
            });
            members.collect()
        })
    }

    fn stats(&self) -> &Stats {
        let pool = self.pool.pool().blocking();
        self.stats.get_or_init(|| pool.stats_since(u64::MAX))
    }

    fn is_down(&self) -> Option<String> {
        let serves = self.members().iter().any(|(_, one, _)| one.serves());
        (!serves).then(|| format!("no member of pool {} serves", self.name()))
    }

    fn queue(&self, most: u32) -> Option<String> {
        let waiting = self.stats().waiting.waiting;
        let words = || {
            let wait = counted(waiting.into(), "request waits", "requests wait");
            format!("{wait} for pool {}", self.name())
        };
        (waiting > most).then(words)
    }

    fn lost(&self, lost: u64, over: Duration, then: impl FnOnce(Sum) -> Sum) -> Option<String> {
        let Sum::Lost(before) = then(Sum::Lost(lost)) else {
            return None;
        };
        let new = lost.saturating_sub(before);
        let (name, over) = (self.name(), DisplaySpan(over));
        let words = || {
            let lost = counted(new, "job was", "jobs were");
            format!("{lost} lost with a server of pool {name} in {over}")
        };
        (new > 0).then(words)
    }

    fn wait(
        &self,
        quantile: u16,
        above: Duration,
        over: Duration,
        then: impl FnOnce(Sum) -> Sum,
    ) -> Option<String> {
        let waited = self.stats().waited.clone();
        let Sum::Waits(before) = then(Sum::Waits(Box::new(waited.clone()))) else {
            return None;
        };
        let wait = waited.since(&before).quantile(quantile.into())?;
        let (name, percent, over) = (self.name(), f64::from(quantile) / 10.0, DisplaySpan(over));
        let wait = wait.as_secs_f64();
        let words = || format!("p{percent} of the waits for pool {name} is {wait:.1} s in {over}");
        (wait > above.as_secs_f64()).then(words)
    }

    fn errors(&self, most: u16, over: Duration, then: impl FnOnce(Sum) -> Sum) -> Option<String> {
        let Stats { total, waiting, .. } = self.stats();
        // A request that got no member has failed too.
        let failed = [
            total.failed,
            total.throttled,
            total.expired,
            waiting.refused,
            waiting.timed_out,
        ];
        let failed = failed.into_iter().fold(0, u64::saturating_add);
        let all = failed
            .saturating_add(total.ok)
            .saturating_add(total.unknown);
        let Sum::Requests {
            failed: failed_before,
            all: before,
        } = then(Sum::Requests { failed, all })
        else {
            return None;
        };
        let failed = failed.saturating_sub(failed_before);
        let all = all.saturating_sub(before);
        let is_above = u128::from(failed) * 1_000 > u128::from(all) * u128::from(most);
        let (name, over) = (self.name(), DisplaySpan(over));
        let words = || format!("{failed} of {all} requests to pool {name} failed in {over}");
        (all >= MIN_REQUESTS && is_above).then(words)
    }
}

fn spending(
    subject: Subject,
    who: String,
    spent: Usd,
    most: Usd,
    over: Duration,
    then: &mut impl FnMut(&Subject, Sum) -> Sum,
) -> Look {
    let Sum::Money(before) = then(&subject, Sum::Money(spent)) else {
        return Look::new(None, subject);
    };
    let new = spent.saturating_sub(before);
    let words = || format!("{who} spent {new} in {}", DisplaySpan(over));
    Look::new((new > most).then(words), subject)
}

fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}
