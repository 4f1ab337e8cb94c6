//! Which key has made what a service keeps: files, batches, stored answers, conversations.
//!
//! Invariant: what is forgotten is the least recently used, and only beyond the bound or after 30 days without use.

use crate::backend_pool::BackendPool;
use crate::lock;
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
    /// The number of the pool and member that it was made by.
    holder: u64,
    at: Tick,
}

/// What services keep.
#[derive(Debug)]
pub(crate) struct Resources(Mutex<Affinity<u64>>);

impl Resources {
    /// Goes on from what an earlier process has left.
    pub(crate) fn restored(earlier: &[Resource]) -> Self {
        let mut known = Affinity::new(MAX_RESOURCES, KEPT).expect("a time above zero");
        let sessions = earlier.iter().map(|one| Session {
            key: one.id,
            value: one.holder,
            last_used: one.at,
        });
        known.restore(unix_tick(), sessions.collect());
        Self(Mutex::new(known))
    }

    /// Notes what a member has made.
    pub(crate) fn note(&self, shared: &Shared, pool: &BackendPool, member: &str, ids: &[String]) {
        let (now, holder) = (unix_tick(), holder(pool, member));
        let mut new = Vec::new();
        {
            let mut known = lock(&self.0);
            for id in ids {
                let id = stable_hash(id.as_bytes());
                if known.peek(now, id) != Some(holder) {
                    new.push(Resource {
                        id,
                        holder,
                        at: now,
                    });
                }
                known.assign(now, id, holder);
            }
        }
        if let (Some(state), false) = (shared.state(), new.is_empty())
            && let Err(error) = state.write_resources(new)
        {
            shared.report(format_args!("{error}"));
        }
    }

    /// Finds the member that has made something, if it is still there.
    pub(crate) fn find(
        &self,
        pools: &[Arc<BackendPool>],
        ids: &[String],
    ) -> Option<(Arc<BackendPool>, MemberId)> {
        let now = unix_tick();
        let numbers = ids.iter().map(|id| stable_hash(id.as_bytes()));
        let found = {
            let mut known = lock(&self.0);
            numbers
                .filter_map(|id| known.lookup(now, id, |_| true))
                .next()?
        };
        pools.iter().find_map(|pool| {
            let members = pool.pool().blocking().members();
            let member = members
                .into_iter()
                .find(|(_, backend)| holder(pool, backend.name()) == found);
            member.map(|(member, _)| (Arc::clone(pool), member))
        })
    }
}

/// The number of a pool and member; the same after a restart.
fn holder(pool: &BackendPool, member: &str) -> u64 {
    stable_hash(format!("{}\n{member}", pool.settings().name).as_bytes())
}
