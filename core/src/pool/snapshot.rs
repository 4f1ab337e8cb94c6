//! A pool at rest.
//!
//! Invariant: what is restored admits no more than the pool would have that was saved. Leases come back
//! without holders, and are taken back at their deadlines.

use super::{Group, Lease, Pool, PoolConfig, State};
use crate::affinity;
use crate::balance::PeakEwma;
use crate::limit::{Cost, LimitSet};
use crate::pool::hold_times::Recent;
use crate::pool::member::{Entry, Watch};
use crate::pool::service_times::ServiceTimes;
use crate::pool::stats::{Histogram, LeaseCounts, QueueStats};
use crate::time::{ClockOffset, Tick};
use crate::util::slab::Slab;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// All that a pool remembers: its members with their limits, health and figures, the leases held on them,
/// and who served which session. Not the requests in line, nor whose turn it is in a rotation, nor
/// measured latencies, which are soon known again.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct PoolSnapshot<T> {
    now: Tick,
    limits: LimitSet,
    groups: Vec<LimitSet>,
    /// In the order of their slots.
    members: Vec<Entry<T>>,
    leases: Vec<Held>,
    sessions: Vec<Session>,
    service: ServiceTimes,
    added: u64,
    levels: BTreeMap<u8, u64>,
    total: LeaseCounts,
    waiting: QueueStats,
    held: Histogram,
    waited: Histogram,
    /// Handles of the pool that was saved are of earlier generations: of members, leases and waiters.
    generations: [NonZeroU32; 3],
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Held {
    /// By its place among the members.
    member: u32,
    expires: Option<Tick>,
    lease: Lease,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Session {
    key: u64,
    member: u32,
    used: Tick,
}

/// Why a pool was not restored: the snapshot names a member or group that it doesn't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot contradicts itself")]
pub struct RestoreError;

impl<T: Clone> Pool<T> {
    /// All that is to survive a restart. O(n log n).
    #[must_use]
    pub fn snapshot(&self) -> PoolSnapshot<T> {
        let places: BTreeMap<_, u32> = (0..)
            .zip(self.members.iter())
            .map(|(place, (member, _))| (member, place))
            .collect();
        let mut leases: Vec<_> = self
            .leases
            .iter()
            .filter_map(|(handle, lease)| {
                let expires = self.expiries.key(handle.slot());
                let held = Held {
                    member: *places.get(&lease.member)?,
                    expires: expires.map(|(deadline, _)| deadline),
                    lease: *lease,
                };
                Some((expires, held))
            })
            .collect();
        leases.sort_by_key(|(expires, _)| *expires);
        let sessions = self
            .affinity
            .iter()
            .flat_map(|affinity| affinity.sessions());
        PoolSnapshot {
            now: self.now,
            limits: self.limits.clone(),
            groups: self
                .groups
                .iter()
                .map(|group| group.limits.clone())
                .collect(),
            members: self
                .members
                .iter()
                .zip(self.spans_held())
                .map(|((_, entry), (_, held))| at_rest(entry, held))
                .collect(),
            leases: leases.into_iter().map(|(_, held)| held).collect(),
            sessions: sessions
                .filter_map(|entry| {
                    Some(Session {
                        key: entry.key,
                        member: *places.get(&entry.value)?,
                        used: entry.last_used,
                    })
                })
                .collect(),
            service: self.service.clone(),
            added: self.added,
            levels: self.levels.clone(),
            total: self.total,
            waiting: QueueStats {
                waiting: 0,
                // Who was in line has to come again.
                cancelled: self
                    .waiting
                    .cancelled
                    .saturating_add(self.waiters.len().into()),
                ..self.waiting
            },
            held: self.held.clone(),
            waited: self.waited.clone(),
            generations: [
                self.members.next_generation(),
                self.leases.next_generation(),
                self.waiters.next_generation(),
            ],
        }
    }
}

/// Without what is not saved, so that it is the same whether the snapshot is written and read or not.
fn at_rest<T: Clone>(entry: &Entry<T>, held: Histogram) -> Entry<T> {
    let mut entry = Entry {
        in_flight: 0,
        phantoms: 0,
        counted: None,
        recent: Recent::default(),
        ..entry.clone()
    };
    entry.details.held = held;
    entry.details.latency = None;
    if let Some(watch) = &mut entry.details.watch {
        watch.probe = None;
    }
    entry
}

impl<T> Pool<T> {
    /// A pool as it was saved, on a clock that shows `to` when that of the snapshot would show `from`.
    ///
    /// Members, groups and limits are those of the snapshot, and [`members`](Self::members) tells their
    /// names; all else is as `config` says. Leases end at their deadlines, or at once where they have
    /// none. Where the snapshot is of later than `from`, time has stood still since. O(n log n).
    ///
    /// # Errors
    /// [`RestoreError`] where the snapshot contradicts itself.
    pub fn restore(
        config: PoolConfig,
        snapshot: PoolSnapshot<T>,
        from: Tick,
        to: Tick,
    ) -> Result<Self, RestoreError> {
        let from = from.max(snapshot.now);
        let shift = ClockOffset { from, to };
        let [members, leases, waiters] = snapshot.generations;
        let mut pool = Self::new(config);
        pool.members = Slab::starting_at_generation(members);
        pool.leases = Slab::starting_at_generation(leases);
        pool.waiters.begin_at(waiters);
        pool.now = to;
        pool.as_of = to;
        if let (Some(outlier), Some(config)) = (&mut pool.outlier, &pool.config.outlier) {
            *outlier = crate::health::OutlierDetector::new(config, to);
        }
        let half_life = pool.config.policy.half_life();
        pool.latency = half_life.map(|half_life| PeakEwma::new(half_life, to));
        pool.service = snapshot.service;
        pool.added = snapshot.added;
        pool.levels = snapshot.levels;
        pool.total = snapshot.total;
        pool.waiting = snapshot.waiting;
        pool.held = snapshot.held;
        pool.waited = snapshot.waited;
        pool.limits = snapshot.limits;
        pool.limits.rebase(from, to);
        for mut limits in snapshot.groups {
            limits.rebase(from, to);
            pool.groups.push(Group {
                limits,
                members: Vec::new(),
                holds_back: false,
            });
        }
        let mut stamps: Vec<_> = (0u64..)
            .zip(&snapshot.members)
            .map(|(place, entry)| (entry.stamp, place))
            .collect();
        stamps.sort_unstable();
        let order: BTreeMap<u64, u64> = (1..)
            .zip(stamps)
            .map(|(rank, (_, place))| (place, rank))
            .collect();
        let mut handles = Vec::new();
        for (place, mut entry) in (0u64..).zip(snapshot.members) {
            pool.sequence = pool.sequence.saturating_add(1);
            entry.stamp = order.get(&place).copied().unwrap_or(0);
            entry.limits.rebase(from, to);
            entry.details.slow_start.rebase(from, to);
            let mut watch = Watch::new(&pool.config, to, place);
            if let Some(mut known) = entry.details.watch.take() {
                known.rests_until = shift.tick(known.rests_until);
                known.breaker.rebase(from, to);
                known.outcomes.rebase(from, to);
                if known.outcomes.uneject_if_due(to) {
                    entry.details.slow_start.begin(to);
                }
                known.told_open = known.told_open.map(|until| shift.tick(until));
                let new = watch.and_then(|new| new.health);
                known.health = new.map(|new| {
                    known.health.take().map_or(new, |mut health| {
                        health.rebase(from, to);
                        health
                    })
                });
                watch = Some(known);
            }
            entry.set_watch(watch);
            entry.details.latency = pool.latency.as_ref().map(PeakEwma::another);
            let group = entry.group;
            let handle = pool.members.insert(entry).ok_or(RestoreError)?;
            if let Some(group) = group {
                let group = pool.groups.get_mut(group.index()).ok_or(RestoreError)?;
                group.members.push(handle.slot());
            }
            handles.push(handle);
        }
        for held in snapshot.leases {
            let member = handles.get(held.member as usize).ok_or(RestoreError)?;
            let mut lease = held.lease;
            lease.member = *member;
            lease.granted = shift.tick(lease.granted);
            lease.booked.member = lease.booked.member.rebased(from, to);
            lease.booked.group = lease.booked.group.map(|group| group.rebased(from, to));
            lease.booked.pool = lease.booked.pool.map(|pool| pool.rebased(from, to));
            if let Some(permit) = &mut lease.permit {
                permit.rebase(from, to);
            }
            let entry = pool.members.get_mut(*member).ok_or(RestoreError)?;
            entry.in_flight = entry.in_flight.saturating_add(1);
            if lease.cost != Cost::REQUEST {
                pool.estimated = pool.estimated.saturating_add(1);
            }
            let handle = pool.leases.insert(lease).ok_or(RestoreError)?;
            let expires = held.expires.map_or(to, |expires| shift.tick(expires));
            let stamp = pool.next_stamp();
            pool.expiries.set(handle.slot(), (expires, stamp));
        }
        if let Some(table) = &mut pool.affinity {
            let entries = snapshot.sessions.into_iter().filter_map(|session| {
                Some(affinity::Session {
                    key: session.key,
                    value: *handles.get(session.member as usize)?,
                    last_used: shift.tick(session.used),
                })
            });
            table.restore(to, entries.collect());
        }
        for handle in handles {
            let entry = pool.members.get(handle);
            let gone =
                entry.is_some_and(|entry| entry.state == State::Removing && entry.in_flight == 0);
            if gone {
                pool.forget(handle);
            } else {
                pool.look_after(handle);
            }
        }
        Ok(pool)
    }
}
