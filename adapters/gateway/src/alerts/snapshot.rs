//! The conditions of alerts, observed at one time.
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
use serde_json::{Value, json};
use std::sync::Arc;

/// Requests that must have ended within the span of an error rate; one failure of two says little.
const MIN_REQUESTS: u64 = 10;

/// The pool, member or caller that an alert is of; all of them are `None` for the gateway as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Subject {
    pub(super) pool: Option<String>,
    pub(super) member: Option<String>,
    pub(super) caller: Option<String>,
    /// Whether it is none, and a message about it a test.
    pub(super) is_test: bool,
}

impl Subject {
    fn of_pool(pool: &str) -> Self {
        Self {
            pool: Some(pool.to_owned()),
            ..Self::default()
        }
    }

    /// Returns the labels that name it.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let labels = [
            ("pool", self.pool.as_deref()),
            ("member", self.member.as_deref()),
            ("caller", self.caller.as_deref()),
            ("test", self.is_test.then_some("true")),
        ];
        let labels = labels.into_iter();
        labels.filter_map(|(label, name)| Some((label, name?)))
    }

    /// Returns it as the admin interface shows it.
    pub(super) fn view(&self) -> Value {
        json!({"pool": self.pool, "backend": self.member, "caller": self.caller})
    }
}

/// A condition of a subject, as it was observed.
pub(super) struct Observation {
    pub(super) subject: Subject,
    pub(super) state: State,
}

/// The state of a condition.
pub(super) enum State {
    /// It holds; with a summary.
    Holds(String),
    Absent,
    /// Unknown; the alert keeps its state.
    Unknown,
}

impl State {
    fn holds_if(holds: bool, summary: impl FnOnce() -> String) -> Self {
        match holds {
            true => Self::Holds(summary()),
            false => Self::Absent,
        }
    }
}

/// Counts of a subject that only grow, and are compared with what they were.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// The waits of requests that got a member.
    waited: Option<Box<Histogram>>,
    /// Requests that failed, of all.
    failed: u64,
    all: u64,
    jobs_lost: u64,
    spent: Usd,
}

/// All figures that conditions are of, at one time.
pub(super) struct Snapshot<'a> {
    pub(super) now: Tick,
    shared: &'a Shared,
    pools: Vec<PoolFigures<'a>>,
    /// The money that each caller has spent; the empty name is of those without one.
    spent: OnceCell<Vec<(String, Usd)>>,
}

struct PoolFigures<'a> {
    pool: &'a Arc<BackendPool>,
    members: OnceCell<Vec<(String, MemberCondition, Option<String>)>>,
    /// The figures of the pool, without those of its members.
    stats: OnceCell<Stats>,
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(shared: &'a Shared, table: &'a Table) -> Self {
        let pools = table.pools().iter().map(|pool| PoolFigures {
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

    /// Observes all subjects of an alert; `then` notes a count and returns what it was a span ago.
    pub(super) fn observe(
        &self,
        alert: &AlertSettings,
        mut then: impl FnMut(&Subject, Counts) -> Counts,
    ) -> Vec<Observation> {
        let then = &mut then;
        match alert.when {
            AlertWhen::MemberDown => self.of_members(alert, down),
            AlertWhen::BreakerOpen => self.of_members(alert, breaker_open),
            AlertWhen::LimitExhausted => self.of_members(alert, limit_exhausted),
            AlertWhen::PoolDown => self.of_pools(alert, |_, pool| pool.down()),
            AlertWhen::Queue(most) => self.of_pools(alert, |_, pool| pool.queue(most)),
            AlertWhen::JobsLost => self.of_pools(alert, |subject, pool| {
                let hub = self.shared.hubs().get(pool.name());
                let lost = hub.map_or(0, |hub| hub.lost());
                pool.jobs_lost(lost, alert.over, |counts| then(subject, counts))
            }),
            AlertWhen::Wait { quantile, above } => self.of_pools(alert, |subject, pool| {
                pool.wait(quantile, above, alert.over, |counts| then(subject, counts))
            }),
            AlertWhen::Errors(most) => self.of_pools(alert, |subject, pool| {
                pool.errors(most, alert.over, |counts| then(subject, counts))
            }),
            AlertWhen::Spend(most) => {
                let spent = self.spent().iter().map(|(_, spent)| *spent);
                let all = spent.fold(Usd::ZERO, |all, one| all + one);
                let subject = Subject::default();
                let state = spending(
                    "all callers together have",
                    all,
                    most,
                    alert.over,
                    |counts| then(&subject, counts),
                );
                vec![Observation { subject, state }]
            }
            AlertWhen::CallerSpend(most) => {
                let callers = self.spent().iter().map(|(name, spent)| {
                    let subject = Subject {
                        caller: Some(name.clone()),
                        ..Subject::default()
                    };
                    let text = match name.is_empty() {
                        true => "callers without a name have".to_owned(),
                        false => format!("caller {name} has"),
                    };
                    let state = spending(&text, *spent, most, alert.over, |counts| {
                        then(&subject, counts)
                    });
                    Observation { subject, state }
                });
                callers.collect()
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
    fn pools(&self, alert: &AlertSettings) -> impl Iterator<Item = &PoolFigures<'a>> {
        let is_meant = |pool: &&PoolFigures<'_>| {
            alert.pools.is_empty() || alert.pools.iter().any(|name| name == pool.name())
        };
        self.pools.iter().filter(is_meant)
    }

    fn of_pools(
        &self,
        alert: &AlertSettings,
        mut observe: impl FnMut(&Subject, &PoolFigures<'a>) -> State,
    ) -> Vec<Observation> {
        let pools = self.pools(alert).map(|pool| {
            let subject = Subject::of_pool(pool.name());
            Observation {
                state: observe(&subject, pool),
                subject,
            }
        });
        pools.collect()
    }

    /// Observes each member; a summary is the end of a sentence about it.
    fn of_members(
        &self,
        alert: &AlertSettings,
        observe: impl Fn(&MemberCondition) -> State,
    ) -> Vec<Observation> {
        let members = self.pools(alert).flat_map(|pool| {
            let members = pool.members().iter();
            members.map(move |member| (pool.name(), member))
        });
        let members = members.map(|(pool, (name, condition, failure))| {
            let state = match observe(condition) {
                State::Holds(summary) => {
                    let why = failure.as_ref().map(|why| format!(": {why}"));
                    let why = why.unwrap_or_default();
                    State::Holds(format!("{name} of pool {pool} {summary}{why}"))
                }
                other @ (State::Absent | State::Unknown) => other,
            };
            let subject = Subject {
                member: Some(name.clone()),
                ..Subject::of_pool(pool)
            };
            Observation { subject, state }
        });
        members.collect()
    }
}

/// Returns whether a member that is to serve does not; a breaker that is half open tells nothing.
fn down(member: &MemberCondition) -> State {
    let is_meant = member.status == MemberStatus::Enabled && member.weight > 0;
    match member.breaker {
        Some(BreakerState::HalfOpen { .. }) if is_meant && member.serves() => State::Unknown,
        _ => State::holds_if(is_meant && !member.serves(), || "is down".to_owned()),
    }
}

/// Returns whether the breaker of a member is open, or is waiting for its first success after that.
fn breaker_open(member: &MemberCondition) -> State {
    match member.breaker {
        Some(BreakerState::Open { .. }) => State::Holds("has an open breaker".to_owned()),
        Some(BreakerState::HalfOpen { .. }) => State::Unknown,
        Some(BreakerState::Closed) | None => State::Absent,
    }
}

/// Returns whether less than a hundredth is left of the limits of a member that serves.
fn limit_exhausted(member: &MemberCondition) -> State {
    let (left, most) = (member.available, member.capacity);
    let units = [
        ("requests", left.requests, most.requests),
        ("tokens", left.tokens, most.tokens),
    ];
    let is_used_up = |(_, left, most): &(&str, u32, u32)| u64::from(*left) * 100 < u64::from(*most);
    let limited = units.into_iter().filter(|(_, _, most)| *most < u32::MAX);
    match limited.clone().find(is_used_up) {
        Some((unit, left, most)) if member.serves() => {
            State::Holds(format!("has {left} of {most} {unit} left by its limits"))
        }
        Some(_) | None => State::Absent,
    }
}

impl PoolFigures<'_> {
    fn name(&self) -> &str {
        &self.pool.settings().name
    }

    fn members(&self) -> &[(String, MemberCondition, Option<String>)] {
        self.members.get_or_init(|| {
            let conditions = self.pool.conditions().into_iter();
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

    fn down(&self) -> State {
        let serves = self.members().iter().any(|(_, one, _)| one.serves());
        State::holds_if(!serves, || {
            format!("no member of pool {} serves", self.name())
        })
    }

    fn queue(&self, most: u32) -> State {
        let waiting = self.stats().waiting.waiting;
        State::holds_if(waiting > most, || {
            let wait = counted(waiting.into(), "request waits", "requests wait");
            format!("{wait} for pool {}", self.name())
        })
    }

    fn jobs_lost(
        &self,
        jobs_lost: u64,
        over: Duration,
        then: impl FnOnce(Counts) -> Counts,
    ) -> State {
        let before = then(Counts {
            jobs_lost,
            ..Counts::default()
        });
        let new = jobs_lost.saturating_sub(before.jobs_lost);
        State::holds_if(new > 0, || {
            let lost = counted(new, "job was", "jobs were");
            let (name, over) = (self.name(), DisplaySpan(over));
            format!("{lost} lost with a server of pool {name} in {over}")
        })
    }

    fn wait(
        &self,
        quantile: u16,
        above: Duration,
        over: Duration,
        then: impl FnOnce(Counts) -> Counts,
    ) -> State {
        let Stats {
            waited, waiting, ..
        } = self.stats();
        let before = then(Counts {
            waited: Some(Box::new(waited.clone())),
            all: waiting.timed_out,
            ..Counts::default()
        });
        let waited = waited.since(&before.waited.unwrap_or_default());
        let Some(wait) = waited.quantile(quantile.into()) else {
            // Without a grant there is no quantile; the alert keeps its state while requests wait.
            let is_stuck = waiting.waiting > 0 || waiting.timed_out > before.all;
            return if is_stuck {
                State::Unknown
            } else {
                State::Absent
            };
        };
        State::holds_if(wait > above, || {
            let (name, percent) = (self.name(), f64::from(quantile) / 10.0);
            let (wait, over) = (wait.as_secs_f64(), DisplaySpan(over));
            format!("p{percent} of the waits for pool {name} is {wait:.1} s in {over}")
        })
    }

    fn errors(&self, most: u16, over: Duration, then: impl FnOnce(Counts) -> Counts) -> State {
        let Stats { total, waiting, .. } = self.stats();
        // A request that got no member has failed too. One that a key turns away is sent with another, and counts there.
        let failed = [
            total.failed,
            total.expired,
            waiting.refused,
            waiting.timed_out,
        ];
        let failed = failed.into_iter().fold(0, u64::saturating_add);
        let others = [total.ok, total.unknown];
        let all = others.into_iter().fold(failed, u64::saturating_add);
        let before = then(Counts {
            failed,
            all,
            ..Counts::default()
        });
        let failed = failed.saturating_sub(before.failed);
        let all = all.saturating_sub(before.all);
        match all {
            0..MIN_REQUESTS if failed == 0 => State::Absent,
            0..MIN_REQUESTS => State::Unknown,
            MIN_REQUESTS.. => {
                let is_above = u128::from(failed) * 1_000 > u128::from(all) * u128::from(most);
                State::holds_if(is_above, || {
                    let (name, over) = (self.name(), DisplaySpan(over));
                    format!("{failed} of {all} requests to pool {name} failed in {over}")
                })
            }
        }
    }
}

/// Returns whether more was spent; the text begins a sentence about it.
fn spending(
    text: &str,
    spent: Usd,
    most: Usd,
    over: Duration,
    then: impl FnOnce(Counts) -> Counts,
) -> State {
    let before = then(Counts {
        spent,
        ..Counts::default()
    });
    let new = spent.saturating_sub(before.spent);
    State::holds_if(new > most, || {
        format!("{text} spent {new} in {}", DisplaySpan(over))
    })
}

fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}
