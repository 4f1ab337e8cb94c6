//! A job in line: which servers may have it, and its wait for one of them.
//!
//! Invariant: a job that waits keeps its place as long as the servers that may have it are the same.

use super::drive::{Driver, Held};
use super::servers::ServerState;
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::trace::WaitSpan;
use core::time::Duration;
use leasehold_config::MemberSettings;
use leasehold_core::balance::stable_hash;
use leasehold_protocol::comfyui::{Prompt, ServerId};
use leasehold_sync::{AcquireError, Lease, MemberId, Request};
use std::collections::BTreeSet;
use tokio::time::{sleep, timeout};

/// The pause after the pool could not take a request.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause between two looks at which servers may have a waiting job.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a lease is waited for under which a job of an earlier process runs.
const FOR_RUNNING: Duration = Duration::from_secs(1);

/// What came of an attempt to have a server.
enum Got {
    Lease(Lease<Backend>),
    /// The job ended meanwhile, or servers have changed.
    Nothing,
    NoneLeft,
}

impl Driver {
    /// Takes the lease for a job of an earlier process that has a server already.
    pub(super) async fn lease_of_running(&self) -> Option<Held> {
        let server = self.tell(|record, _| record.machine.server())??;
        let (pool, name) = (self.pool()?, self.hub.state().servers.name(server)?);
        let pool = pool.pool();
        let member = pool.blocking().member(&name)?;
        let request = Request::new().pin(member).priority(0);
        let lease = timeout(FOR_RUNNING, pool.acquire_with(request)).await;
        Some(Held::new(lease.ok()?.ok()?, server))
    }

    /// Waits in line for a server.
    pub(super) async fn acquire(&self, wake: &tokio::sync::Notify) -> Option<Held> {
        let parent = self.tell(|record, _| record.parent.clone()).flatten();
        let wait = WaitSpan::begin(parent.as_ref(), &self.hub.pool);
        match self.wait_in_line(wake).await {
            Got::Lease(lease) => {
                wait.granted(lease.name());
                let server = self.hub.state().servers.number(lease.payload().name());
                self.tell(|record, now| record.machine.granted(now, server));
                Some(Held::new(lease, server))
            }
            Got::NoneLeft => {
                self.tell(|record, _| record.machine.none_left());
                None
            }
            Got::Nothing => None,
        }
    }

    async fn wait_in_line(&self, wake: &tokio::sync::Notify) -> Got {
        if let Some(lease) = self.lease_nearby().await {
            return Got::Lease(lease);
        }
        loop {
            let Some(pool) = self.pool() else {
                // The pool was taken away by a reload; its jobs wait until it is back.
                sleep(PAUSE).await;
                continue;
            };
            let names = match self.servers(&pool) {
                Some(names) if names.is_empty() => return Got::NoneLeft,
                Some(names) => names,
                None => return Got::Nothing,
            };
            let Some(request) = self.request(&pool, &names) else {
                return Got::Nothing;
            };
            let mut acquiring = core::pin::pin!(pool.pool().acquire_with(request));
            let refused = loop {
                tokio::select! {
                    biased;
                    acquired = &mut acquiring => match acquired {
                        Ok(lease) => return Got::Lease(lease),
                        Err(refused) => break Some(refused),
                    },
                    () = wake.notified() => {
                        let is_over = self.tell(|record, _| record.machine.end().is_some());
                        if is_over != Some(false) {
                            return Got::Nothing;
                        }
                    }
                    // Servers come, go and learn; a job whose servers are the same keeps its place.
                    () = sleep(LOOK_AGAIN) => {
                        let now = self.pool().and_then(|pool| self.servers(&pool));
                        if now.as_ref() != Some(&names) {
                            break None;
                        }
                    }
                }
            };
            match refused {
                None => {}
                Some(AcquireError::Closed) => {
                    self.shared.successor(&pool).await;
                }
                Some(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Takes a server of the caller's zone, if one is free.
    async fn lease_nearby(&self) -> Option<Lease<Backend>> {
        let pool = self.pool()?;
        let zone = self.tell(|record, _| record.choice.zone.clone())??;
        let mut names = self.servers(&pool)?;
        let members = &pool.settings().members;
        names.retain(|name| {
            let mut members = members.iter();
            members.any(|member| member.name == *name && member.zone.as_ref() == Some(&zone))
        });
        if names.is_empty() {
            return None;
        }
        let now = pool.pool().blocking().now();
        let request = self.request(&pool, &names)?.deadline(now);
        pool.pool().acquire_with(request).await.ok()
    }

    /// The servers that may have the job; `None` if it is over.
    ///
    /// These are those that have all that it needs, or else all that one of its outputs needs; if possible none that has
    /// lost it.
    fn servers(&self, pool: &BackendPool) -> Option<Vec<String>> {
        let up = up(pool);
        let state = self.hub.state();
        let record = state.jobs.get(&self.id)?;
        let is_among = |name: &str, ids: &[ServerId]| {
            let mut servers = ids.iter().filter_map(|id| state.server(*id));
            servers.any(|server| server.name == name)
        };
        let machine = &record.machine;
        let lost: Vec<ServerId> = machine.lost_at().iter().map(|(id, _)| *id).collect();
        let may = |member: &&MemberSettings| {
            record.choice.admits(member) && !is_among(&member.name, machine.refused_by())
        };
        let members = pool.settings().members.iter().filter(may);
        let all: Vec<String> = members.map(|member| member.name.clone()).collect();
        let of_those = |may_run: fn(&ServerState, &Prompt) -> bool| -> Vec<String> {
            let mut names = all.clone();
            names.retain(|name| {
                let server = state.servers.named(name);
                server.is_none_or(|server| may_run(server, &record.prompt))
            });
            names
        };
        let mut names = of_those(ServerState::may_run);
        if names.is_empty() {
            names = of_those(ServerState::may_run_part);
        }
        let is_other = |name: &&String| up.contains(*name) && !is_among(name, &lost);
        let others: Vec<String> = names.iter().filter(is_other).cloned().collect();
        Some(match others.is_empty() || lost.is_empty() {
            true => names,
            false => others,
        })
    }

    /// Makes the job's request for one of these servers; `None` if the job is over.
    fn request(&self, pool: &BackendPool, names: &[String]) -> Option<Request> {
        let state = self.hub.state();
        let record = state.jobs.get(&self.id)?;
        let prompt = &record.prompt;
        let client = prompt.client_id.as_deref().unwrap_or_default();
        let request = Request::new()
            .class(prompt.class())
            .priority(prompt.priority())
            .flow(record.owner ^ stable_hash(client.as_bytes()));
        Some(match names.len() == pool.settings().members.len() {
            true => request,
            false => restricted(pool, request, names),
        })
    }
}

/// The names of members that are not known to be down.
pub(super) fn up(pool: &BackendPool) -> BTreeSet<String> {
    let conditions = pool.conditions();
    let up = conditions
        .into_iter()
        .filter(|(_, _, condition)| condition.serves());
    up.map(|(_, backend, _)| backend.name().to_owned())
        .collect()
}

/// Restricts a request to some members.
fn restricted(pool: &BackendPool, request: Request, names: &[String]) -> Request {
    if let Some(labels) = pool.labels_of_set(names) {
        return request.labels(labels);
    }
    // Too many sets are in use: the best of them now has to do.
    let sync = pool.pool().blocking();
    let rest: Vec<MemberId> = sync
        .members()
        .into_iter()
        .filter(|(_, backend)| !names.iter().any(|name| name == backend.name()))
        .map(|(id, _)| id)
        .collect();
    let first = names.first().and_then(|name| sync.member(name));
    match sync.alternative(&request, &rest).or(first) {
        Some(member) => request.pin(member),
        None => request,
    }
}
