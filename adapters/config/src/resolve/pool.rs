//! Joins a pool's table to its settings.
//!
//! Invariant: a pool without mistakes has a member that can serve, and members of one group have the same limits.

use super::{Resolver, set_shares};
use crate::error::Problem;
use crate::file::{BreakerTable, HealthTable, PoolTable, Text};
use crate::settings::{Kind, MemberSettings, PoolSettings};
use crate::source::{At, Source};
use leasehold_core::balance::Policy;
use leasehold_core::health::PanicThreshold;
use leasehold_core::limit::{LimitSpec, LimitSpecs, Unit};
use std::collections::HashMap;

impl Resolver<'_> {
    pub(super) fn pool(
        &mut self,
        source: &Source,
        at: &At<'_>,
        name: &str,
        table: PoolTable,
    ) -> PoolSettings {
        // The schema requires the kind.
        let kind = table.kind.map_or(Kind::Http, |kind| kind.0);
        let comfyui = self.comfyui(source, at, kind, table.comfyui);
        let is_comfyui = kind == Kind::Comfyui;
        let breaker = or_default(table.breaker, is_comfyui).map(|it: BreakerTable| it.build());
        let health = or_default(table.health, is_comfyui).map(|it: HealthTable| it.build(kind));
        let outlier = table.outlier.map(|table| table.build());
        let slow_start = table.slow_start.map(|table| table.build());
        let panic_threshold = PanicThreshold::new(table.panic_threshold.0.0);
        let affinity = table.affinity.map(|table| {
            let problem = "give either cookie = \"NAME\" or address = true";
            table.build().ok_or(problem)
        });
        let limits = self.limits(
            source,
            &at.key("limits"),
            table.limits,
            kind != Kind::Openai,
        );
        let at_members = at.key("members");
        let has_none = table.members.is_empty();
        self.check_servers(source, &at_members, kind, comfyui, &table.members);
        let mut members = self.members(source, &at_members, kind, table.members);
        if is_comfyui {
            set_shares(comfyui, members.iter_mut().map(|(_, member)| member));
        }
        let is_idle = !members.is_empty() && members.iter().all(|(_, it)| it.weight == 0);
        if has_none || is_idle {
            let problem = if has_none {
                "there must be at least one member"
            } else {
                "all members have weight 0, so that none can serve"
            };
            self.wrong(source, &at_members, Problem::Invalid(problem.to_owned()));
        }
        self.check_groups(source, &at_members, &members);
        PoolSettings {
            name: name.to_owned(),
            kind,
            policy: table.policy.map_or(default_policy(kind), |policy| policy.0),
            max_wait: table
                .max_wait
                .map_or(PoolSettings::default_max_wait(kind), |it| it.0),
            max_waiters: table.max_waiters,
            limits,
            breaker: self.built(source, &at.key("breaker"), breaker),
            health: self.built(source, &at.key("health"), health),
            outlier: self.built(source, &at.key("outlier"), outlier),
            panic_threshold: panic_threshold.unwrap_or(PanicThreshold::NEVER),
            slow_start: self.built(source, &at.key("slow_start"), slow_start),
            affinity: self.built(source, &at.key("affinity"), affinity),
            retry: table.retry.build(),
            upstream: table.upstream.build(kind),
            members: members.into_iter().map(|(_, member)| member).collect(),
            comfyui,
        }
    }

    /// Takes the configuration of a machine, or reports why it can't be built.
    fn built<T>(
        &mut self,
        source: &Source,
        at: &At<'_>,
        built: Option<Result<T, impl ToString>>,
    ) -> Option<T> {
        let built = built?.map_err(|error| Problem::Invalid(error.to_string()));
        built
            .map_err(|problem| self.wrong(source, at, problem))
            .ok()
    }

    /// Takes limits. Where requests have no tokens, a limit on tokens is a mistake.
    pub(super) fn limits(
        &mut self,
        source: &Source,
        at: &At<'_>,
        limits: Option<Text<LimitSpecs>>,
        has_no_tokens: bool,
    ) -> Option<LimitSpecs> {
        let Text(limits) = limits?;
        let counts_tokens = |limit: &LimitSpec| limit.unit() == Unit::Tokens;
        if has_no_tokens && limits.iter().any(counts_tokens) {
            let problem = "only requests to openai pools have tokens; limit requests instead";
            self.wrong(source, at, Problem::Invalid(problem.to_owned()));
        }
        Some(limits)
    }

    fn check_groups(&mut self, source: &Source, at: &At<'_>, members: &[(usize, MemberSettings)]) {
        let mut groups = HashMap::new();
        for (index, member) in members {
            let Some(group) = &member.group else {
                continue;
            };
            let first = groups.entry(group).or_insert((index, &member.limits));
            if *first.1 != member.limits {
                let first = source.place_at(&at.item(*first.0));
                let problem = format!(
                    "members of the group {group} share one set of limits; write the same as at {first}"
                );
                let item = at.item(*index);
                self.wrong(source, &item.key("limits"), Problem::Invalid(problem));
            }
        }
    }
}

/// Returns the table, or the defaults where a kind of pool has them without one.
fn or_default<T: Default>(table: Option<T>, has_default: bool) -> Option<T> {
    table.or_else(|| has_default.then(T::default))
}

pub(crate) const fn default_policy(kind: Kind) -> Policy {
    match kind {
        Kind::Http => Policy::RoundRobin,
        Kind::Openai => Policy::LeastUsed,
        Kind::Comfyui => Policy::LeastQueue,
    }
}
