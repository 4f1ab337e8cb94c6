//! Changes of the backends: made in the pool, recorded for the next start, and told to subscribers.
//!
//! Invariant: the record is locked from before the change until after it, so that it has the changes in their order.

use super::backends::{self, BackendView};
use super::body::{Change, NewBackend};
use super::changes::{AdminChanges, Held};
use super::error::AdminError;
use super::events::Told;
use super::routes::unknown_backend;
use crate::backend_pool::BackendPool;
use crate::lock;
use crate::names::is_made;
use crate::operator_log::target;
use crate::shared::{Shared, Table};
use leasehold_core::limit::LimitSpecs;
use leasehold_sync::{BreakerError, MemberId, StaleMember};

/// What a change is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'a> {
    /// The id in the path; empty for a new backend.
    pub(crate) id: &'a str,
    /// The pool that the query names.
    pub(crate) pool: Option<&'a str>,
}

/// Makes a change, and returns the backend as it is after that; as it was, if it is removed.
pub(crate) fn make(
    shared: &Shared,
    object: Object<'_>,
    change: Change,
) -> Result<BackendView, AdminError> {
    let mut record = lock(shared.changes());
    // A reload puts the table in force under the same lock.
    let table = shared.table();
    let told = Told::of(&change);
    let is_limits = matches!(change, Change::Limits(_));
    let breaker = match change {
        Change::Breaker(Some(_)) => Some("opened"),
        Change::Breaker(None) => Some("closed"),
        Change::Add(_)
        | Change::Disable
        | Change::Enable
        | Change::Drain
        | Change::Weight(_)
        | Change::Limits(_)
        | Change::Remove => None,
    };
    let (pool, view) = if let Change::Add(new) = change {
        add(&table, &mut record, object, new)?
    } else {
        let (pool, member) = find(&table, object)?;
        let before = view(pool, object.id)?;
        if let Change::Limits(limits) = &change {
            set_limits(shared, &mut record, pool, object.id, limits.clone())?;
        }
        apply(&table, &mut record, pool, member, object.id, &change)?;
        let after = match (change == Change::Remove, is_limits) {
            (true, _) => before,
            // Other limits may have put another pool in its place.
            (false, true) => view(find(&shared.table(), object)?.0, object.id)?,
            (false, false) => view(pool, object.id)?,
        };
        (pool, after)
    };
    if let Some(state) = breaker {
        tracing::info!(
            target: target::ADMIN,
            pool = &*view.pool,
            member = &*view.id,
            "breaker {state} by the admin interface"
        );
    }
    if let Some(told) = told {
        keep(shared, &record);
        tracing::info!(
            target: target::ADMIN,
            pool = &*view.pool,
            member = &*view.id,
            limits = is_limits.then(|| view.limits.as_deref().unwrap_or("none")),
            "{told} by the admin interface"
        );
        shared.events().tell(pool, &view.id, told);
    }
    Ok(view)
}

/// Writes all changes to the state file, if there is one.
fn keep(shared: &Shared, record: &AdminChanges) {
    let written = shared.state().map(|state| state.write_changes(record));
    if let Some(Err(error)) = written {
        tracing::error!(
            target: target::STATE,
            "{error}; the change is in force, and would not outlive a restart"
        );
    }
}

/// Returns the pool of a name; without a name the only one.
pub(crate) fn pool<'t>(
    table: &'t Table,
    name: Option<&str>,
) -> Result<&'t BackendPool, AdminError> {
    let names = || {
        let names = table.pools().iter();
        let names: Vec<_> = names.map(|pool| pool.settings().name.as_str()).collect();
        names.join(", ")
    };
    match (name, table.pools()) {
        (Some(name), pools) => {
            let pool = pools.iter().find(|pool| pool.settings().name == name);
            pool.map(|pool| &**pool).ok_or_else(|| {
                let text = format!("no pool has the name {name:?}; there are: {}", names());
                AdminError::not_found("unknown_pool", text)
            })
        }
        (None, [only]) => Ok(only),
        (None, _) => {
            let text = format!("name the pool, by ?pool=NAME; there are: {}", names());
            Err(AdminError::conflict("ambiguous_pool", text))
        }
    }
}

fn find<'t>(
    table: &'t Table,
    object: Object<'_>,
) -> Result<(&'t BackendPool, MemberId), AdminError> {
    let pools: Vec<&BackendPool> = match object.pool {
        Some(_) => vec![pool(table, object.pool)?],
        None => table.pools().iter().map(|pool| &**pool).collect(),
    };
    let member = |pool| Some((pool, BackendPool::pool(pool).blocking().member(object.id)?));
    let found: Vec<_> = pools.into_iter().filter_map(member).collect();
    match &found[..] {
        [] => Err(unknown(table, object.id)),
        [only] => Ok(*only),
        several => {
            let pools = several.iter();
            let pools: Vec<_> = pools
                .map(|(pool, _)| pool.settings().name.as_str())
                .collect();
            let text = format!(
                "several pools have a backend {:?}; add ?pool=NAME, one of: {}",
                object.id,
                pools.join(", ")
            );
            Err(AdminError::conflict("ambiguous_id", text))
        }
    }
}

/// Says that there is no such backend; of a name that stands for several, which there are.
fn unknown(table: &Table, id: &str) -> AdminError {
    let members = table
        .pools()
        .iter()
        .flat_map(|pool| &pool.settings().members);
    let made = members.filter(|member| {
        let rest = member.name.strip_prefix(id);
        is_made(member) && rest.is_some_and(|rest| rest.starts_with('@'))
    });
    let made: Vec<_> = made.map(|member| member.name.as_str()).collect();
    if made.is_empty() {
        return unknown_backend(id);
    }
    let text = format!(
        "{id:?} is a backend for each of its addresses; name one of: {}",
        made.join(", ")
    );
    AdminError::not_found("unknown_backend", text)
}

fn add<'t>(
    table: &'t Table,
    record: &mut AdminChanges,
    object: Object<'_>,
    new: NewBackend,
) -> Result<(&'t BackendPool, BackendView), AdminError> {
    let NewBackend {
        name,
        pool: named,
        backend,
    } = new;
    if let (Some(one), Some(other)) = (object.pool, &named)
        && one != other
    {
        let text = format!("the query names the pool {one:?}, the body {other:?}");
        return Err(AdminError::conflict("ambiguous_pool", text));
    }
    let pool = pool(table, object.pool.or(named.as_deref()))?;
    let pool_name = &pool.settings().name;
    if pool.pool().blocking().member(&name).is_some() {
        let text = format!("the pool {pool_name} has a backend {name:?} already");
        return Err(AdminError::conflict("duplicate_id", text));
    }
    pool.add(&backend.settings(&name))
        .map_err(|error| AdminError::conflict("not_added", error.to_string()))?;
    record.add(pool_name, &name, backend);
    Ok((pool, view(pool, &name)?))
}

fn apply(
    table: &Table,
    record: &mut AdminChanges,
    pool: &BackendPool,
    member: MemberId,
    name: &str,
    change: &Change,
) -> Result<(), AdminError> {
    let sync = pool.pool().blocking();
    let pool_name = &pool.settings().name;
    let stale = |StaleMember| unknown_backend(name);
    match change {
        Change::Disable => {
            sync.disable(member).map_err(stale)?;
            record.set_held(pool_name, name, Some(Held::Disabled));
        }
        Change::Drain => {
            sync.drain(member).map_err(stale)?;
            record.set_held(pool_name, name, Some(Held::Draining));
        }
        Change::Enable => {
            sync.enable(member).map_err(stale)?;
            record.set_held(pool_name, name, None);
        }
        Change::Weight(weight) => {
            sync.set_weight(member, *weight).map_err(stale)?;
            record.set_weight(pool_name, name, *weight);
        }
        Change::Breaker(open) => {
            let result = match open {
                Some(time) => sync.trip_breaker(member, *time),
                None => sync.reset_breaker(member),
            };
            result.map_err(|error| match error {
                BreakerError::NoBreaker => {
                    let text =
                        format!("the pool {pool_name} has no breaker; set one in its settings");
                    AdminError::conflict("no_breaker", text)
                }
                BreakerError::StaleMember(_) | _ => unknown_backend(name),
            })?;
        }
        Change::Remove if pool.is_made_from_name(name) => {
            let text = format!(
                "{name:?} is an address of a name, which DNS would bring back; disable it, or change the settings"
            );
            return Err(AdminError::conflict("made_from_name", text));
        }
        Change::Remove => {
            sync.remove(member).map_err(stale)?;
            let settings = table.settings.pool(pool_name);
            let mut members = settings.into_iter().flat_map(|pool| &pool.members);
            let is_configured = members.any(|member| member.name == name);
            record.remove(pool_name, name, is_configured);
        }
        // A new backend is no member yet; limits are part of the settings.
        Change::Add(_) | Change::Limits(_) => {}
    }
    Ok(())
}

/// Puts other limits of a member in force, as a reload does.
fn set_limits(
    shared: &Shared,
    record: &mut AdminChanges,
    pool: &BackendPool,
    name: &str,
    limits: Option<LimitSpecs>,
) -> Result<(), AdminError> {
    let settings = pool.settings();
    let mut members = settings.members.iter();
    let group = members.find(|member| member.name == name);
    if let Some(group) = group.and_then(|member| member.group.as_ref()) {
        let text = format!(
            "the limits of {name:?} are those of its group {group:?}, which are in the settings"
        );
        return Err(AdminError::conflict("in_a_group", text));
    }
    let mut changed = record.clone();
    changed.set_limits(&settings.name, name, limits);
    let table = shared.table();
    shared
        .put_in_force(table.settings.clone(), &changed)
        .map_err(|error| AdminError::conflict("not_changed", error.to_string()))?;
    *record = changed;
    Ok(())
}

fn view(pool: &BackendPool, name: &str) -> Result<BackendView, AdminError> {
    let mut views = backends::list(pool).into_iter();
    let found = views.find(|view| view.id == name);
    found.ok_or_else(|| unknown_backend(name))
}
