//! What the lease service tells of pools.

use crate::admin::{Choice, choose};
use crate::backend_pool::BackendPool;
use crate::shared::Table;
use serde::Serialize;

/// The answer to `GET /v1/pools`.
#[derive(Debug, Serialize)]
pub(super) struct Pools<'t> {
    pools: Vec<&'t str>,
}

/// The answer to `GET /v1/pools/{name}`.
#[derive(Debug, Serialize)]
pub(super) struct PoolView<'p> {
    pool: &'p str,
    /// Leases that are held.
    held: u64,
    /// Requests that wait.
    waiting: u32,
    members: Vec<MemberView>,
    /// What would become of a request now, and why.
    explain: Choice,
}

/// Figures of a member.
#[derive(Debug, Serialize)]
struct MemberView {
    member: String,
    held: u32,
    granted: u64,
    ok: u64,
    failed: u64,
    throttled: u64,
    unknown: u64,
    not_sent: u64,
    expired: u64,
}

/// Lists the pools.
pub(super) fn list(table: &Table) -> Pools<'_> {
    let pools = table.pools().iter();
    Pools {
        pools: pools.map(|pool| &*pool.settings().name).collect(),
    }
}

/// Tells of a pool.
pub(super) fn view(pool: &BackendPool) -> PoolView<'_> {
    let sync = pool.pool().blocking();
    let stats = sync.stats();
    let members = stats.members.iter().map(|one| {
        let name = sync.member_name(one.member);
        let counts = one.counts;
        MemberView {
            member: name
                .map(|name| name.as_ref().to_owned())
                .unwrap_or_default(),
            held: one.in_flight,
            granted: counts.granted,
            ok: counts.ok,
            failed: counts.failed,
            throttled: counts.throttled,
            unknown: counts.unknown,
            not_sent: counts.not_sent,
            expired: counts.expired,
        }
    });
    let members: Vec<_> = members.collect();
    PoolView {
        pool: &pool.settings().name,
        held: members.iter().map(|one| u64::from(one.held)).sum(),
        waiting: stats.waiting.waiting,
        members,
        explain: choose(pool, None),
    }
}
