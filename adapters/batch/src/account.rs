//! Accounts: keys that share limits, and the members of the pool that stand for them.
//!
//! Invariant: an account has at least one key, and no key is in two accounts of one URL.

use crate::batch::{Batch, Upstream};
use crate::error::BatchError;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::balance::{Policy, stable_hash};
use leasehold_core::health::BreakerConfig;
use leasehold_core::limit::{LimitSet, LimitSpecs, Unit};
use leasehold_core::pool::{Charge, Labels, Member, MemberId, Pool, PoolConfig};
use leasehold_sync::{Clock, SyncPool};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Keys of one URL that share their limits: those of a group, or a single one.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// Indices of its endpoints in the batch.
    pub(crate) upstreams: Vec<usize>,
    pub(crate) limits: Option<LimitSpecs>,
    /// The index of its URL among those of the batch.
    pub(crate) origin: usize,
}

impl Account {
    /// Groups the endpoints of a batch; `limits` are those of an account without any of its own.
    pub(crate) fn all(
        upstreams: &[Upstream],
        limits: Option<&LimitSpecs>,
    ) -> Result<Vec<Self>, BatchError> {
        if upstreams.is_empty() {
            return Err(BatchError::NoKeys);
        }
        let (mut accounts, mut seen) = (Vec::<Self>::new(), HashSet::new());
        let (mut origins, mut groups) = (HashMap::new(), HashMap::new());
        for (index, upstream) in upstreams.iter().enumerate() {
            let endpoint = &upstream.endpoint;
            // A service counts the calls of a key together, however its URL is written.
            if !seen.insert((endpoint.root(), endpoint.key())) {
                return Err(BatchError::DuplicateKey {
                    key: endpoint.key().to_string(),
                    url: endpoint.url().to_owned(),
                });
            }
            let next = origins.len();
            let origin = *origins.entry(endpoint.root()).or_insert(next);
            let known = upstream.group.as_deref().map(|group| (origin, group));
            let place = known.and_then(|known| groups.get(&known).copied());
            let Some(place) = place else {
                if let Some(known) = known {
                    groups.insert(known, accounts.len());
                }
                accounts.push(Self {
                    upstreams: vec![index],
                    limits: upstream.limits.clone(),
                    origin,
                });
                continue;
            };
            let account: &mut Self = &mut accounts[place];
            account.upstreams.push(index);
            match (&account.limits, &upstream.limits) {
                (Some(one), Some(other)) if one != other => {
                    return Err(BatchError::GroupLimits {
                        group: upstream.group.clone().unwrap_or_default(),
                    });
                }
                (None, Some(own)) => account.limits = Some(own.clone()),
                (None | Some(_), None) | (Some(_), Some(_)) => {}
            }
        }
        for account in &mut accounts {
            account.limits = account.limits.take().or_else(|| limits.cloned());
        }
        Ok(accounts)
    }
}

/// What a member of the pool stands for.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// The index of the account.
    pub(crate) account: usize,
    /// The only model that it serves; `None` for all.
    pub(crate) model: Option<usize>,
    /// The most tokens that a call may reserve; `None` where no limit counts tokens.
    pub(crate) token_cap: Option<u32>,
}

impl Slot {
    /// Whether the member serves a model.
    pub(crate) fn serves(&self, model: usize) -> bool {
        self.model.is_none_or(|own| own == model)
    }
}

/// A pool with what is needed to use it.
pub(crate) struct KeyPool {
    pub(crate) pool: SyncPool<Slot>,
    /// The members with their slots.
    pub(crate) members: Vec<(MemberId, Arc<Slot>)>,
    /// The labels that a request needs, by model; empty where all members serve all models.
    labels: Vec<Labels>,
    /// The logs of each member, by the hash of its name.
    logs: HashMap<u64, MemberLogs>,
    /// The least of the caps of all slots that serve a model, by model.
    token_caps: Vec<Option<u32>>,
}

/// The logs that a member's charges go to.
struct MemberLogs {
    first: usize,
    count: usize,
    /// The only model of the member.
    model: Option<usize>,
}

/// A charge of an account, for a model.
#[derive(Debug)]
pub(crate) struct AccountCharge {
    pub(crate) account: usize,
    /// The name of the model; empty if unknown.
    pub(crate) model: String,
    pub(crate) charge: Charge,
}

impl KeyPool {
    /// Builds the pool of a batch. `charges` are those of earlier runs, in order.
    ///
    /// Members are told apart by model only where that matters: where models have limits of their own, or where one
    /// of several URLs may lack a model.
    pub(crate) fn new(
        batch: &Batch,
        accounts: &[Account],
        clock: Clock,
        charges: Vec<AccountCharge>,
    ) -> Result<Self, BatchError> {
        let urls = accounts.iter().map(|account| account.origin).max();
        let by_model = !batch.model_limits.is_empty() || (urls > Some(0) && batch.models.len() > 1);
        let (config, now) = (pool_config(batch), clock.now());
        let mut pool: Pool<Arc<Slot>> = Pool::new(config);
        let mut labels = Vec::new();
        for (number, _) in (0u32..).zip(&batch.models) {
            let label = by_model.then(|| pool.labels([number]).ok()).flatten();
            labels.push(label.unwrap_or(Labels::NONE));
        }
        // Charges of models that this run does not call count in the limits that all models share, and in no others.
        let other = batch.models.len();
        let mut all_labels = labels.clone();
        all_labels.push(Labels::NONE);
        let (mut logs, mut first_log) = (HashMap::new(), 0_usize);
        for (index, account) in accounts.iter().enumerate() {
            let members = if by_model {
                members_by_model(batch, index, account, &mut pool, &all_labels)
            } else {
                vec![member_of_account(index, account)]
            };
            for (model, member) in members.into_iter().enumerate() {
                let name = name_of(index, model);
                pool.add(now, member.name(&name))?;
                let member_logs = MemberLogs {
                    first: first_log,
                    count: account.upstreams.len(),
                    model: by_model.then_some(model),
                };
                logs.insert(stable_hash(name.as_bytes()), member_logs);
            }
            first_log = first_log.saturating_add(account.upstreams.len());
        }
        let charges = charges.into_iter().map(|it| {
            let model = batch.models.iter().position(|name| *name == it.model);
            let model = if by_model { model.unwrap_or(other) } else { 0 };
            let name = name_of(it.account, model);
            moved(it.charge, stable_hash(name.as_bytes()))
        });
        let replayed = pool.replay(now, &charges.collect::<Vec<_>>());
        replayed.map_err(|error| BatchError::State {
            problem: error.to_string(),
        })?;
        let pool = SyncPool::from_core(pool, clock);
        Ok(Self::of_pool(batch, pool, labels, logs))
    }

    fn of_pool(
        batch: &Batch,
        pool: SyncPool<Slot>,
        labels: Vec<Labels>,
        logs: HashMap<u64, MemberLogs>,
    ) -> Self {
        let mut members = pool.members();
        members.retain(|(id, slot)| {
            let is_called = slot.model.is_none_or(|model| model < batch.models.len());
            if !is_called {
                // It has held the charges of models that are not called.
                let _ = pool.remove(*id);
            }
            is_called
        });
        let caps = |model: usize| {
            let serving = members.iter().map(|(_, slot)| slot);
            let serving = serving.filter(|slot| slot.serves(model));
            serving.filter_map(|slot| slot.token_cap).min()
        };
        let token_caps = (0..batch.models.len()).map(caps).collect();
        Self {
            pool,
            members,
            labels,
            logs,
            token_caps,
        }
    }

    /// Returns the log of a charge, as a number in the order of the keys by account, and the name of its model.
    ///
    /// The charges of an account go to the logs of its keys in turn.
    pub(crate) fn log_of(&self, charge: &Charge, batch: &Batch) -> Option<(usize, String)> {
        let (member, class, turn) = match charge {
            Charge::Granted {
                member,
                class,
                lease,
                ..
            } => (*member, *class, *lease),
            Charge::Observed { member, .. } => (*member, 0, 0),
            Charge::Arrived { .. }
            | Charge::Renewed { .. }
            | Charge::Ended { .. }
            | Charge::Block { .. } => return None,
        };
        let logs = self.logs.get(&member)?;
        let turn = usize::try_from(turn).ok()?.checked_rem(logs.count)?;
        let model = model_of(class).or(logs.model);
        let model = model.and_then(|model| batch.models.get(model));
        let model = model.cloned().unwrap_or_default();
        Some((logs.first.saturating_add(turn), model))
    }

    /// Returns the labels of the members that serve a model.
    pub(crate) fn labels(&self, model: usize) -> Labels {
        self.labels.get(model).copied().unwrap_or(Labels::NONE)
    }

    /// Returns the most tokens that a call of a model may reserve; `None` where no limit counts tokens.
    pub(crate) fn token_cap(&self, model: usize) -> Option<u32> {
        self.token_caps.get(model).copied().flatten()
    }
}

/// Returns the class of a model's calls, by which a charge tells its model; class 0 is that of no model.
pub(crate) fn class_of(model: usize) -> u32 {
    u32::try_from(model).unwrap_or(u32::MAX).saturating_add(1)
}

fn model_of(class: u32) -> Option<usize> {
    usize::try_from(class).ok()?.checked_sub(1)
}

/// Returns the name of a member, by which charges find it.
fn name_of(account: usize, model: usize) -> String {
    format!("{account}/{model}")
}

/// Makes the member of an account that serves all models.
fn member_of_account(index: usize, account: &Account) -> Member<Arc<Slot>> {
    let slot = Slot {
        account: index,
        model: None,
        token_cap: token_cap([account.limits.as_ref()]),
    };
    let limits = account.limits.as_ref().map(LimitSpecs::limits);
    Member::new(Arc::new(slot)).limits(limits.unwrap_or_default())
}

/// Makes the members of an account, one for each model, which share the account's limits; the last is for all models
/// that are not called.
fn members_by_model(
    batch: &Batch,
    index: usize,
    account: &Account,
    pool: &mut Pool<Arc<Slot>>,
    labels: &[Labels],
) -> Vec<Member<Arc<Slot>>> {
    let shared = account.limits.as_ref().map(LimitSpecs::limits);
    let group = pool.add_group(shared.unwrap_or_default());
    let members = labels.iter().enumerate().map(|(model, labels)| {
        let own = model_limits(batch, model);
        let slot = Slot {
            account: index,
            model: Some(model),
            token_cap: token_cap([account.limits.as_ref(), own]),
        };
        let limits = own.map(LimitSpecs::limits).unwrap_or_default();
        let member = Member::new(Arc::new(slot)).group(group);
        member.limits(limits).labels(*labels)
    });
    members.collect()
}

fn pool_config(batch: &Batch) -> PoolConfig {
    let builder = PoolConfig::builder(Policy::Fifo);
    let keeps_charges = batch.state.is_some() && batch.has_limits();
    // Blocks of no size: each call is written before it is sent, so that a kill costs no part of a limit.
    let builder = if keeps_charges {
        builder.log_charges(0)
    } else {
        builder
    };
    // A breaker opens only where the run trips it. A probe is a call, which has its own timeout.
    let (base, cap) = (Duration::from_secs(1), Duration::from_secs(30));
    let timeout = batch.client.timeout.max(Duration::from_secs(1));
    let breaker = BreakerConfig::builder(base, cap).probe_timeout(timeout);
    let builder = match breaker.probes(NonZeroU32::MIN).build() {
        Ok(breaker) => builder.breaker(breaker),
        Err(_) => builder,
    };
    builder
        .build()
        .unwrap_or_else(|_| PoolConfig::new(Policy::Fifo))
}

fn model_limits(batch: &Batch, model: usize) -> Option<&LimitSpecs> {
    let name = batch.models.get(model)?;
    let limits = batch.model_limits.iter();
    let mut limits = limits.filter(|(it, _)| it == name).map(|(_, it)| it);
    limits.next()
}

/// The most tokens that limits ever admit at once.
fn token_cap<'a>(limits: impl IntoIterator<Item = Option<&'a LimitSpecs>>) -> Option<u32> {
    let limits = limits.into_iter().flatten();
    let counting = limits.filter(|specs| specs.iter().any(|spec| spec.unit() == Unit::Tokens));
    counting
        .map(|specs| LimitSet::new().with_all(specs).capacity().tokens)
        .min()
}

/// The longest window of all limits of a batch.
pub(crate) fn longest_window(batch: &Batch, accounts: &[Account]) -> Duration {
    let of_accounts = accounts
        .iter()
        .filter_map(|account| account.limits.as_ref());
    let of_models = batch.model_limits.iter().map(|(_, specs)| specs);
    let windows = of_accounts.chain(of_models).map(LimitSpecs::longest_window);
    windows.max().unwrap_or_default()
}

/// Returns the charge as one of another member.
fn moved(mut charge: Charge, to: u64) -> Charge {
    if let Charge::Granted { member, .. }
    | Charge::Observed { member, .. }
    | Charge::Block { member, .. } = &mut charge
    {
        *member = to;
    }
    charge
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::items::Items;
    use leasehold_core::limit::Cost;
    use leasehold_core::pool::Request;
    use leasehold_core::time::Tick;
    use leasehold_protocol::{ApiKey, Endpoint};

    fn charges(model: &str, at: Tick) -> Vec<AccountCharge> {
        let (lease, cost) = (1, Cost::REQUEST);
        let granted = Charge::Granted {
            lease,
            member: 0,
            class: 1,
            flow: 0,
            cost,
            at,
            expires: None,
        };
        let charge = |charge| AccountCharge {
            account: 0,
            model: model.to_owned(),
            charge,
        };
        [granted, Charge::Ended { lease, cost, at }]
            .map(charge)
            .into()
    }

    #[test]
    fn charges_of_other_models_count_only_in_shared_limits() {
        let key = ApiKey::new("sk-secret-12345678").unwrap();
        let endpoint = Endpoint::new("http://h", key).unwrap();
        let models = vec!["a".to_owned(), "b".to_owned()];
        let mut batch = Batch::new(Items::default(), models, [endpoint]);
        batch.limits = Some("2/60s".parse().unwrap());
        batch.model_limits = vec![("a".to_owned(), "1/60s".parse().unwrap())];
        let accounts = batch.accounts().unwrap();
        let free = |earlier: &str| {
            let clock = Clock::starting_at(Tick::from_nanos(1_000_000_000));
            let charges = charges(earlier, clock.now());
            let keys = KeyPool::new(&batch, &accounts, clock, charges).unwrap();
            assert_eq!(keys.members.len(), 2);
            let now = keys.pool.now();
            let leases = [0, 1].map(|model| {
                let request = Request::new().labels(keys.labels(model)).deadline(now);
                keys.pool.enqueue(request)
            });
            leases.map(|lease| lease.is_ok())
        };
        assert_eq!(free("a"), [false, true], "its own limit is used up");
        assert_eq!(free("c"), [true, false], "one of two shared calls was left");
    }
}
