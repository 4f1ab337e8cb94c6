//! Changes of a plan that are compared with it.

use crate::capacity::Capacity;
use crate::limit::PlanLimit;
use crate::workload::{Pace, Workload};
use core::fmt;
use core::num::NonZeroU32;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Algorithm, LimitSpec, LimitSpecs};

/// A change of a capacity or a workload.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// More members, like the last one and in no group.
    MoreMembers(NonZeroU32),
    /// Another policy.
    Policy(Policy),
    /// Other limits of each member, in place of its own.
    Limits(LimitSpecs),
    /// Another algorithm of each rate of each member.
    Limiter(Algorithm),
    /// Another number of workers.
    Workers(NonZeroU32),
    /// A limit less.
    Without(PlanLimit),
}

/// Why a text is no change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseChangesError(String);

/// The most members that are added.
const MAX_MORE: u32 = 100_000;

const FORMS: &str = "write keys=+1, policy=least_used,peak_ewma, limiter=fixed,paced, \
                     limit=5/60s or workers=20,40";

impl Change {
    /// Reads changes of one kind, such as `policy=least_used,peak_ewma`.
    ///
    /// ```
    /// use leasehold_plan::Change;
    ///
    /// assert_eq!(Change::parse_all("policy=least_used,peak_ewma")?.len(), 2);
    /// assert_eq!(Change::parse_all("limiter=token bucket burst 3")?[0].to_string(), "limiter token bucket burst 3");
    /// let error = Change::parse_all("polcy=fifo").unwrap_err();
    /// assert!(error.to_string().starts_with("there is no polcy to compare"));
    /// # Ok::<(), leasehold_plan::ParseChangesError>(())
    /// ```
    ///
    /// # Errors
    /// If the text is no change; the error says how one is written.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, ParseChangesError> {
        let (kind, values) = text
            .split_once('=')
            .ok_or_else(|| ParseChangesError(FORMS.to_owned()))?;
        let each = |parse: fn(&str) -> Result<Self, String>| {
            let parsed = values.split(',').map(|value| parse(value.trim()));
            parsed.collect::<Result<Vec<_>, _>>()
        };
        let parsed = match kind.trim() {
            "keys" | "members" => each(|value| count(value).map(Self::MoreMembers)),
            "policy" => each(|value| {
                let policy = value.parse::<Policy>();
                let policy = policy.map_err(|error| format!("{value:?}: {error}"));
                policy.map(Self::Policy)
            }),
            "limiter" => each(|value| algorithm(value).map(Self::Limiter)),
            "workers" => each(|value| count(value).map(Self::Workers)),
            // Commas join limits that hold together.
            "limit" => {
                let limits = values.parse::<LimitSpecs>();
                let limits = limits.map_err(|error| error.to_string());
                limits.map(|limits| vec![Self::Limits(limits)])
            }
            other => Err(format!("there is no {other} to compare; {FORMS}")),
        };
        parsed.map_err(ParseChangesError)
    }

    /// Makes the change.
    pub(crate) fn apply(&self, capacity: &mut Capacity, workload: &mut Workload) {
        match self {
            Self::MoreMembers(count) => add_members(capacity, *count),
            Self::Policy(policy) => capacity.policy = *policy,
            Self::Limits(limits) => {
                for member in &mut capacity.members {
                    member.limits = Some(limits.clone());
                }
            }
            Self::Limiter(algorithm) => {
                for member in &mut capacity.members {
                    let limits = member.limits.take();
                    member.limits = limits.map(|specs| with_algorithm(&specs, *algorithm));
                }
            }
            Self::Workers(count) => {
                workload.pace = Pace::Workers {
                    count: *count,
                    start: None,
                };
            }
            Self::Without(limit) => limit.lift(capacity, workload),
        }
    }
}

fn count(text: &str) -> Result<NonZeroU32, String> {
    let number = text.strip_prefix('+').unwrap_or(text).parse::<NonZeroU32>();
    let number = number.ok().filter(|number| number.get() <= MAX_MORE);
    number.ok_or_else(|| format!("{text:?}: write a whole number from 1 to {MAX_MORE}"))
}

/// Reads an algorithm as a limit names it.
fn algorithm(text: &str) -> Result<Algorithm, String> {
    // The grammar has no algorithm without a rate; a burst is checked against each rate later.
    match format!("1000000/60s {text}").parse::<LimitSpec>() {
        Ok(LimitSpec::Rate { algorithm, .. }) => Ok(algorithm),
        Ok(LimitSpec::Concurrent(_)) | Err(_) => Err(format!(
            "{text:?} is no limiter; write one of exact, bucketed 6, sliding counter, fixed, paced, \
             token bucket burst 20 and gcra burst 20, with from grant or from completion after \
             the first two"
        )),
    }
}

/// Gives each rate the algorithm, with a burst that is not above the limit; one that it does not fit stays as it is.
fn with_algorithm(specs: &LimitSpecs, algorithm: Algorithm) -> LimitSpecs {
    let changed = specs.iter().map(|spec| match spec {
        LimitSpec::Rate { unit, rate, .. } => {
            let within = |burst: NonZeroU32| burst.min(rate.limit);
            let algorithm = match algorithm {
                Algorithm::TokenBucket { burst } => Algorithm::TokenBucket {
                    burst: within(burst),
                },
                Algorithm::Gcra { burst } => Algorithm::Gcra {
                    burst: within(burst),
                },
                Algorithm::Exact { .. }
                | Algorithm::Bucketed { .. }
                | Algorithm::SlidingCounter
                | Algorithm::Fixed
                | Algorithm::Paced => algorithm,
            };
            let changed = LimitSpec::Rate {
                unit: *unit,
                rate: *rate,
                algorithm,
            };
            match changed.limiter() {
                Ok(_) => changed,
                Err(_) => *spec,
            }
        }
        LimitSpec::Concurrent(_) => *spec,
    });
    let changed = LimitSpecs::new(changed.collect());
    changed.unwrap_or_else(|_| specs.clone())
}

fn add_members(capacity: &mut Capacity, count: NonZeroU32) {
    let Some(last) = capacity.members.last().cloned() else {
        return;
    };
    for number in 1..=count.get() {
        let mut member = last.clone();
        member.name = format!("another {number}");
        member.group = None;
        capacity.members.push(member);
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MoreMembers(count) if count.get() == 1 => f.write_str("1 more key or server"),
            Self::MoreMembers(count) => write!(f, "{count} more keys or servers"),
            Self::Policy(policy) => write!(f, "policy {policy}"),
            Self::Limits(limits) => write!(f, "limit {limits}"),
            Self::Limiter(algorithm) => {
                let whole = LimitSpec::Rate {
                    unit: leasehold_core::limit::Unit::Requests,
                    rate: leasehold_core::limit::Rate {
                        limit: NonZeroU32::MAX,
                        window: core::time::Duration::from_secs(60),
                    },
                    algorithm: *algorithm,
                };
                let text = whole.to_string();
                let name = text.split_once(' ').map_or("exact", |(_, name)| name);
                write!(f, "limiter {name}")
            }
            Self::Workers(count) => write!(f, "{count} workers"),
            Self::Without(limit) => write!(f, "without {limit}"),
        }
    }
}
