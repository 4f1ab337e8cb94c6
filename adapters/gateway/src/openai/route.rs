//! Where a call goes: the pools of its model in their order, or the key that has what it needs.
//!
//! Invariant: a call that needs what one key has made goes to no other key, and what was made for one caller is there for
//! no other.

use super::call::Call;
use crate::backend_pool::BackendPool;
use crate::resources::Found;
use crate::service::Asked;
use http::StatusCode;
use leasehold_config::RouteTarget;
use leasehold_protocol::Refusal;
use leasehold_sync::MemberId;
use std::sync::Arc;

/// A pool that a call may go to.
#[derive(Clone, Debug)]
pub(super) struct PoolTarget {
    pub(super) pool: Arc<BackendPool>,
    /// The model's name there.
    pub(super) model: String,
    /// The only member that it may go to; `None` for any.
    pub(super) only: Option<MemberId>,
}

/// Finds where a call goes, in the order in which it is tried.
pub(super) fn targets(asked: &Asked<'_>, call: &Call) -> Result<Vec<PoolTarget>, Refusal> {
    let shared = asked.connection.worker.shared();
    let model = &call.asked.model;
    let listener = asked.listener;
    let host = listener
        .routes_by_host()
        .then(|| asked.target.host_name())
        .flatten();
    let named = (!model.is_empty()).then_some(model.as_str());
    let route = listener.route(host.as_deref(), asked.target.path.path(), named);
    let targets = route.map(|route| &route.targets[..]).unwrap_or_default();
    let target = |target: &RouteTarget| {
        let rename = target.rename.as_ref().filter(|_| named.is_some());
        Some(PoolTarget {
            pool: Arc::clone(asked.table.pool(target.pool)?),
            model: rename.unwrap_or(model).clone(),
            only: None,
        })
    };
    let targets: Vec<PoolTarget> = targets.iter().filter_map(target).collect();
    let needs = &call.asked.needs;
    if !needs.is_empty() {
        let resources = shared.resources();
        match resources.find(asked.table.pools(), call.identity.caller.as_deref(), needs) {
            Found::Unknown => {}
            Found::OfAnother => {
                let text = format!("no such resource: {}", needs.join(", "));
                return Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", text));
            }
            Found::At(pool, member) => {
                let known = targets.iter().find(|target| target.pool.is_same(&pool));
                return Ok(vec![PoolTarget {
                    model: known.map_or(model, |known| &known.model).clone(),
                    pool,
                    only: Some(member),
                }]);
            }
        }
    }
    if targets.is_empty() {
        let text = match named {
            Some(model) => format!("no route of this gateway serves the model {model:?}"),
            None => "no route of this gateway serves this host and path".to_owned(),
        };
        return Err(Refusal::new(StatusCode::NOT_FOUND, "model_not_found", text));
    }
    Ok(targets)
}
