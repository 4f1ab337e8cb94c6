//! Members, their limits and the policy, as a pool is made of them.
//!
//! Invariant: the pool that is built is the one that serves, with the same limits, groups and labels.

use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_config::{Kind, PoolSettings};
use leasehold_core::balance::Policy;
use leasehold_core::limit::{LimitSet, LimitSpecs, Unit};
use leasehold_core::pool::{GroupId, Labels, Member, Pool, PoolConfig};
use leasehold_core::time::Tick;
use std::collections::HashMap;

/// The capacity that a workload runs on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Capacity {
    /// The rule by which a member is chosen.
    pub policy: Policy,
    /// The members: keys, endpoints or servers.
    pub members: Vec<PlannedMember>,
    /// Limits over all members together.
    pub limits: Option<LimitSpecs>,
    /// Further limits of each member or group for calls of one model.
    pub model_limits: Vec<(String, LimitSpecs)>,
    /// The wait after which a call is refused, if calls come at times of their own; `None` for any.
    pub max_wait: Option<Duration>,
    /// Calls that may wait at once.
    pub max_waiters: u32,
}

/// One unit of capacity.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PlannedMember {
    /// Its name.
    pub name: String,
    /// Its share under policies that weigh.
    pub weight: u16,
    /// Its tier: members of tier 0 come first.
    pub tier: u8,
    /// The models that it serves; empty for all.
    pub models: Vec<String>,
    /// Its limits, or those of its group.
    pub limits: Option<LimitSpecs>,
    /// Members of one group share their limits.
    pub group: Option<String>,
    /// Calls at once.
    pub max_calls: Option<NonZeroU32>,
}

/// Why a capacity can't serve a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CapacityError {
    /// There are no members.
    #[error("there is no key or server; give at least one")]
    NoMembers,
    /// No member serves a model.
    #[error("no member serves the model {0}; add it to the labels of one")]
    NoSuchModel(String),
    /// The pool takes no more members or sets of labels.
    #[error("member {member}: {problem}")]
    Member {
        /// The name of the member.
        member: String,
        /// Why it can't be added.
        problem: String,
    },
}

impl PlannedMember {
    /// A member of weight 1 for all models, without limits.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            weight: 1,
            tier: 0,
            models: Vec::new(),
            limits: None,
            group: None,
            max_calls: None,
        }
    }

    /// Whether it serves a model.
    fn serves(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|one| one == model)
    }
}

impl Capacity {
    /// A capacity of these members alone.
    #[must_use]
    pub fn new(policy: Policy, members: Vec<PlannedMember>) -> Self {
        Self {
            policy,
            members,
            limits: None,
            model_limits: Vec::new(),
            max_wait: None,
            max_waiters: u32::MAX,
        }
    }

    /// The capacity of a pool of a gateway. Health, breakers and sessions are left out: every member is up.
    ///
    /// A ComfyUI server is taken to run one job after another.
    #[must_use]
    pub fn of_pool(settings: &PoolSettings) -> Self {
        let members = settings.members.iter().map(|member| PlannedMember {
            name: member.name.clone(),
            weight: member.weight,
            tier: member.tier,
            models: match settings.kind {
                Kind::Openai => member.labels.clone(),
                Kind::Http | Kind::Comfyui => Vec::new(),
            },
            limits: member.limits.clone(),
            group: member.group.clone(),
            max_calls: match settings.kind {
                Kind::Http | Kind::Openai => member.max_connections,
                Kind::Comfyui => Some(NonZeroU32::MIN),
            },
        });
        Self {
            limits: settings.limits.clone(),
            max_wait: Some(settings.max_wait),
            max_waiters: settings.max_waiters,
            ..Self::new(settings.policy, members.collect())
        }
    }

    /// Builds the pool for calls of these models.
    pub(crate) fn build(&self, models: &[String], seed: u64) -> Result<BuiltPool, CapacityError> {
        if self.members.is_empty() {
            return Err(CapacityError::NoMembers);
        }
        let unserved = |model: &&String| !self.members.iter().any(|member| member.serves(model));
        if let Some(model) = models.iter().find(unserved) {
            return Err(CapacityError::NoSuchModel(model.clone()));
        }
        let mut config = PoolConfig::builder(self.policy)
            .seed(seed)
            .max_waiters(self.max_waiters);
        if let Some(limits) = &self.limits {
            config = config.limits(limits.limits());
        }
        // Without times to live, nothing of a configuration can be wrong.
        let config = config.build();
        let pool = Pool::new(config.unwrap_or_else(|_| PoolConfig::new(self.policy)));
        let is_split = !self.model_limits.is_empty();
        let has_labels = is_split || self.members.iter().any(|it| !it.models.is_empty());
        let mut builder = Builder {
            capacity: self,
            models,
            pool,
            groups: HashMap::new(),
        };
        let labels = builder.labels_of_models(has_labels)?;
        for (index, member) in (0..).zip(&self.members) {
            if is_split {
                builder.add_by_model(index, member)?;
            } else {
                builder.add(index, member, has_labels)?;
            }
        }
        Ok(BuiltPool {
            pool: builder.pool,
            labels,
            token_caps: models.iter().map(|it| self.token_cap(it)).collect(),
        })
    }

    /// The limits of each member or group for calls of a model.
    fn limits_of_model(&self, model: &str) -> Option<&LimitSpecs> {
        let mut limits = self.model_limits.iter();
        limits.find(|(it, _)| it == model).map(|(_, specs)| specs)
    }

    /// The most tokens that a call of a model may reserve; `None` where no limit counts tokens.
    fn token_cap(&self, model: &str) -> Option<u32> {
        let serving = self.members.iter().filter(|member| member.serves(model));
        let own = serving.filter_map(|member| member.limits.as_ref());
        let all = own.chain(self.limits_of_model(model)).chain(&self.limits);
        let counting = all.filter(|specs| specs.iter().any(|spec| spec.unit() == Unit::Tokens));
        counting.map(|specs| specs.limits().capacity().tokens).min()
    }
}

/// A pool with what is needed to ask it; a member's payload is its index in the capacity.
pub(crate) struct BuiltPool {
    pub(crate) pool: Pool<u32>,
    /// The labels that a call needs, by model.
    pub(crate) labels: Vec<Labels>,
    /// The most tokens that a call may reserve, by model.
    pub(crate) token_caps: Vec<Option<u32>>,
}

struct Builder<'a> {
    capacity: &'a Capacity,
    models: &'a [String],
    pool: Pool<u32>,
    groups: HashMap<&'a str, GroupId>,
}

impl<'a> Builder<'a> {
    fn labels_of_models(&mut self, has_labels: bool) -> Result<Vec<Labels>, CapacityError> {
        let mut all = Vec::with_capacity(self.models.len());
        for (number, model) in (0..).zip(self.models) {
            all.push(match has_labels {
                true => self.labels([number], model)?,
                false => Labels::NONE,
            });
        }
        Ok(all)
    }

    fn labels(
        &mut self,
        labels: impl IntoIterator<Item = u32>,
        of: &str,
    ) -> Result<Labels, CapacityError> {
        let labels = self.pool.labels(labels);
        labels.map_err(|full| error(of, full))
    }

    /// Adds a member for all of its models.
    fn add(
        &mut self,
        index: u32,
        planned: &'a PlannedMember,
        has_labels: bool,
    ) -> Result<(), CapacityError> {
        let mut member = member_of(index, planned).name(&planned.name);
        if has_labels {
            let models = (0..).zip(self.models);
            let served = models.filter(|(_, model)| planned.serves(model));
            let served: Vec<u32> = served.map(|(number, _)| number).collect();
            member = member.labels(self.labels(served, &planned.name)?);
        }
        member = match &planned.group {
            Some(group) => member.group(self.group(group, planned)),
            None => member.limits(limits_of(planned)),
        };
        let added = self.pool.add(Tick::ZERO, member);
        added.map_err(|full| error(&planned.name, full)).map(drop)
    }

    /// Adds a member for each of its models, which share its limits and have those of the model besides.
    fn add_by_model(
        &mut self,
        index: u32,
        planned: &'a PlannedMember,
    ) -> Result<(), CapacityError> {
        let shared = match &planned.group {
            Some(group) => self.group(group, planned),
            None => self.pool.add_group(limits_of(planned)),
        };
        for (number, model) in (0..).zip(self.models) {
            if !planned.serves(model) {
                continue;
            }
            let own = self.capacity.limits_of_model(model);
            let labels = self.labels([number], &planned.name)?;
            let member = member_of(index, planned)
                .name(&format!("{}/{model}", planned.name))
                .labels(labels)
                .group(shared)
                .limits(own.map(LimitSpecs::limits).unwrap_or_default());
            let added = self.pool.add(Tick::ZERO, member);
            added.map_err(|full| error(&planned.name, full))?;
        }
        Ok(())
    }

    fn group(&mut self, name: &'a str, planned: &PlannedMember) -> GroupId {
        let Self { pool, groups, .. } = self;
        *groups
            .entry(name)
            .or_insert_with(|| pool.add_group(limits_of(planned)))
    }
}

fn member_of(index: u32, planned: &PlannedMember) -> Member<u32> {
    let member = Member::new(index).weight(planned.weight).tier(planned.tier);
    match planned.max_calls {
        Some(max) => member.max_leases(max),
        None => member,
    }
}

fn limits_of(planned: &PlannedMember) -> LimitSet {
    let limits = planned.limits.as_ref().map(LimitSpecs::limits);
    limits.unwrap_or_default()
}

fn error(member: &str, problem: impl ToString) -> CapacityError {
    CapacityError::Member {
        member: member.to_owned(),
        problem: problem.to_string(),
    }
}
