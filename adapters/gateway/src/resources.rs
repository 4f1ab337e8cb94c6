//! Which key has made what a service keeps: files, batches, stored answers, conversations.
//!
//! Invariant: what was made for a caller with a key of its own is for no other. What is forgotten is the least recently used, and only beyond the bound or after 30 days without use.

use crate::backend_pool::BackendPool;
use crate::callers::Caller;
use crate::lock;
use crate::operator_log::target;
use crate::shared::Shared;
use crate::state::unix_tick;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::affinity::{Affinity, Session};
use leasehold_core::balance::stable_hash;
use leasehold_core::time::Tick;
use leasehold_sync::MemberId;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};

/// How many are remembered.
pub(crate) const MAX_RESOURCES: NonZeroU32 = NonZeroU32::new(100_000).unwrap();
/// How long one that is not used is remembered: services keep answers for as long.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What a service keeps, as the state file has it. Neither its id nor its key is in there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resource {
    /// The number of its id.
    id: u64,
    made: Made,
    at: Tick,
}

/// Where something was made, and for which caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    /// The number of the pool and member that has it.
    holder: u64,
    /// The number of its caller; `None` for one without a key of its own.
    caller: Option<u64>,
}

/// What is known of the things that a call needs.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing; they may be older than the gateway.
    Unknown,
    /// The member that has them.
    At(Arc<BackendPool>, MemberId),
    /// They are another caller's.
    OfAnother,
}

/// What services keep.
#[derive(Debug)]
pub(crate) struct Resources(Mutex<Affinity<Made>>);

impl Resources {
    /// Goes on from what an earlier process has left.
    pub(crate) fn restored(earlier: &[Resource]) -> Self {
        let mut known = Affinity::new(MAX_RESOURCES, KEPT).expect("a time above zero");
        let sessions = earlier.iter().map(|one| Session {
            key: one.id,
            value: one.made,
            last_used: one.at,
        });
        known.restore(unix_tick(), sessions.collect());
        Self(Mutex::new(known))
    }

    /// Notes what a member has, and the caller that it was made for if that is known. It stays that caller's.
    pub(crate) fn note(
        &self,
        shared: &Shared,
        (pool, member): (&BackendPool, &str),
        caller: Option<&Caller>,
        ids: &[String],
    ) {
        let (now, holder) = (unix_tick(), holder(pool, member));
        let mut new = Vec::new();
        {
            let mut known = lock(&self.0);
            for id in ids {
                let id = stable_hash(id.as_bytes());
                let before = known.peek(now, id);
                let owner = before.and_then(|before| before.caller);
                let made = Made {
                    holder,
                    caller: owner.or(caller.map(|caller| caller.flow)),
                };
                if before != Some(made) {
                    new.push(Resource { id, made, at: now });
                }
                known.assign(now, id, made);
            }
        }
        if let (Some(state), false) = (shared.state(), new.is_empty())
            && let Err(error) = state.write_resources(new)
        {
            tracing::error!(target: target::STATE, "{error}");
        }
    }

    /// Finds the member that has what a caller needs, if it is still there.
    pub(crate) fn find(
        &self,
        pools: &[Arc<BackendPool>],
        caller: Option<&Caller>,
        ids: &[String],
    ) -> Found {
        let now = unix_tick();
        let mut found = Vec::new();
        {
            let mut known = lock(&self.0);
            let numbers = ids.iter().map(|id| stable_hash(id.as_bytes()));
            found.extend(numbers.filter_map(|id| known.lookup(now, id, |_| true)));
        }
        let caller = caller.map(|caller| caller.flow);
        if found
            .iter()
            .any(|made| made.caller.is_some() && made.caller != caller)
        {
            return Found::OfAnother;
        }
        let Some(made) = found.first() else {
            return Found::Unknown;
        };
        let found = pools.iter().find_map(|pool| {
            let members = pool.pool().blocking().members();
            let member = members
                .into_iter()
                .find(|(_, backend)| holder(pool, backend.name()) == made.holder);
            member.map(|(member, _)| Found::At(Arc::clone(pool), member))
        });
        found.unwrap_or(Found::Unknown)
    }
}

/// The number of a pool and member; the same after a restart.
fn holder(pool: &BackendPool, member: &str) -> u64 {
    stable_hash(format!("{}\n{member}", pool.settings().name).as_bytes())
}
