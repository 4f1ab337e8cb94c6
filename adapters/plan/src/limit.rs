//! The limits of a plan one by one, so that each can be left out to see what it costs.

use crate::capacity::Capacity;
use crate::workload::{Pace, Workload};
use core::fmt;
use core::num::NonZeroU32;
use leasehold_core::limit::{LimitSpec, LimitSpecs};

/// A limit of a capacity or a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanLimit {
    /// Of each member or group that has it.
    Member(LimitSpec),
    /// Of each member or group, for calls of one model.
    Model(String, LimitSpec),
    /// Over all members together.
    Pool(LimitSpec),
    /// Calls at once of each member that has this bound.
    MemberCalls(NonZeroU32),
    /// Calls at once in all.
    Workers(NonZeroU32),
}

impl fmt::Display for PlanLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(spec) => write!(f, "{spec} of each key or server"),
            Self::Model(model, spec) => write!(f, "{model}={spec}"),
            Self::Pool(spec) => write!(f, "{spec} of the pool"),
            Self::MemberCalls(max) => write!(f, "{max} connections of a server"),
            Self::Workers(count) => write!(f, "{count} calls at once in all"),
        }
    }
}

impl PlanLimit {
    /// Finds the limits of a plan, each once, in the order of their definition.
    #[must_use]
    pub fn all(capacity: &Capacity, workload: &Workload) -> Vec<Self> {
        let mut all = Vec::new();
        let mut push = |limit: Self| {
            if !all.contains(&limit) {
                all.push(limit);
            }
        };
        for member in &capacity.members {
            for spec in member.limits.iter().flat_map(|specs| specs.iter()) {
                push(Self::Member(*spec));
            }
            if let Some(max) = member.max_calls {
                push(Self::MemberCalls(max));
            }
        }
        for (model, specs) in &capacity.model_limits {
            specs
                .iter()
                .for_each(|spec| push(Self::Model(model.clone(), *spec)));
        }
        for spec in capacity.limits.iter().flat_map(|specs| specs.iter()) {
            push(Self::Pool(*spec));
        }
        if let Pace::Workers { count, .. } = workload.pace() {
            push(Self::Workers(*count));
        }
        all
    }

    /// Leaves the limit out.
    pub(crate) fn lift(&self, capacity: &mut Capacity, workload: &mut Workload) {
        match self {
            Self::Member(spec) => {
                for member in &mut capacity.members {
                    member.limits = without(member.limits.take(), spec);
                }
            }
            Self::Model(name, spec) => {
                let limits = core::mem::take(&mut capacity.model_limits);
                let kept = limits.into_iter().filter_map(|(model, specs)| {
                    let specs = match model == *name {
                        true => without(Some(specs), spec),
                        false => Some(specs),
                    };
                    Some((model, specs?))
                });
                capacity.model_limits = kept.collect();
            }
            Self::Pool(spec) => capacity.limits = without(capacity.limits.take(), spec),
            Self::MemberCalls(max) => {
                for member in &mut capacity.members {
                    member.max_calls = member.max_calls.filter(|own| own != max);
                }
            }
            Self::Workers(_) => {
                workload.pace = Pace::Workers {
                    count: NonZeroU32::MAX,
                    start: None,
                };
            }
        }
    }
}

fn without(specs: Option<LimitSpecs>, spec: &LimitSpec) -> Option<LimitSpecs> {
    let kept = specs?.iter().filter(|it| *it != spec).copied().collect();
    // Only an empty list is refused, which is no limit.
    LimitSpecs::new(kept).ok()
}
