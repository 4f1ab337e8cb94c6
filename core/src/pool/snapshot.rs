//! Snapshots of a pool.
//!
//! Invariant: the limits of a restored pool admit no more than those of the saved one would have. Leases come back without
//! holders, and expire at their ticks.

use super::backlog::Backlog;
use super::config::PoolConfig;
use super::drive::Pool;
use super::flows::FlowState;
use super::groups::SharedLimits;
use super::labels::LabelSets;
use super::leases::Lease;
use super::member::{MemberSetting, Settings};
use super::member_state::{MemberHealth, MemberState, Status, ToldBreaker};
use super::stats::{Figures, QueueStats};
use super::times::ServiceTimes;
use crate::affinity;
use crate::health::Breaker;
use crate::limit::{Cost, LimitSet};
use crate::time::{ClockOffset, Tick};
use crate::util::slab::Handle;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// The state of a pool that survives a restart: members with their limits, health and figures, leases, sessions.
///
/// Left out are queued requests, the turns of policies, fast failures, members' own settings of breaker and probes,
/// and measured latencies, which are soon known again.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct PoolSnapshot<T> {
    pub(super) now: Tick,
    pub(super) limits: LimitSet,
    pub(super) groups: Vec<LimitSet>,
    pub(super) flows: Vec<(u64, FlowState)>,
    /// The state of a flow without settings of its own, if it has bounds.
    pub(super) each_flow: Option<FlowState>,
    labels: Vec<Box<[u32]>>,
    /// Members by slot.
    pub(super) members: Vec<MemberState<T>>,
    /// Leases in the order of their expiries.
    pub(super) leases: Vec<SavedLease>,
    sessions: Vec<SavedSession>,
    service: ServiceTimes,
    added: u64,
    pass_floors: BTreeMap<u8, u64>,
    /// The fence of the latest grant.
    pub(super) fence: u64,
    pub(super) figures: Figures,
    /// Generations above those of all handles so far: of members, leases and waiters.
    generations: [NonZeroU32; 3],
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct SavedLease {
    /// The index of its member.
    pub(super) member: u32,
    pub(super) expires: Option<Tick>,
    pub(super) lease: Lease,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct SavedSession {
    key: u64,
    /// The index of its member.
    member: u32,
    used: Tick,
}

/// A snapshot that names a member or group which it doesn't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot contradicts itself")]
pub struct RestoreError;

impl<T: Clone> Pool<T> {
    /// All that is to survive a restart. O(n log n).
    #[must_use]
    pub fn snapshot(&self) -> PoolSnapshot<T> {
        let indexes: BTreeMap<_, u32> = self
            .members
            .iter()
            .map(|(handle, _)| handle)
            .zip(0..)
            .collect();
        let leases = self.leases.by_expiry().into_iter();
        let leases = leases.filter_map(|(expires, lease)| {
            Some(SavedLease {
                member: *indexes.get(&lease.member)?,
                expires,
                lease,
            })
        });
        let sessions = self.sessions.iter().flat_map(|table| table.sessions());
        let sessions = sessions.filter_map(|session| {
            Some(SavedSession {
                key: session.key,
                member: *indexes.get(&session.value)?,
                used: session.last_used,
            })
        });
        let queue = QueueStats {
            waiting: 0,
            // Queued requests have to come again.
            cancelled: self
                .figures
                .queue
                .cancelled
                .saturating_add(self.queue.len().into()),
            ..self.figures.queue
        };
        PoolSnapshot {
            now: self.clock.now,
            limits: self.shared.pool().clone(),
            groups: self.shared.groups().cloned().collect(),
            flows: self.flows.saved(),
            each_flow: self.flows.fresh(),
            labels: self.label_sets.saved(),
            members: self
                .members
                .iter()
                .map(|(_, one)| at_rest(one, self.clock.now))
                .collect(),
            leases: leases.collect(),
            sessions: sessions.collect(),
            service: self.times.service.clone(),
            added: self.members.added,
            pass_floors: self.members.pass_floors.clone(),
            fence: self.leases.last_fence(),
            figures: Figures {
                queue,
                ..self.figures.clone()
            },
            generations: [
                self.members.next_generation(),
                self.leases.next_generation(),
                self.queue.next_generation(),
            ],
        }
    }
}

/// A member without what is not saved, so that a snapshot is the same before it is written and after.
fn at_rest<T: Clone>(saved: &MemberState<T>, now: Tick) -> MemberState<T> {
    let mut member = MemberState {
        in_flight: 0,
        fast_failures: 0,
        untimed_failures: 0,
        backlog: Backlog::default(),
        counted: None,
        latency: None,
        settings: None,
        ..saved.clone()
    };
    member.figures.measure(now, saved.in_flight);
    let is_probed = |own: &Settings| own.probes != MemberSetting::Off;
    if let Some(health) = &mut member.health {
        health.probe = None;
        let settings = saved.settings.as_deref();
        health.prober = health
            .prober
            .take()
            .filter(|_| settings.is_none_or(is_probed));
    }
    member
}

impl<T> Pool<T> {
    /// The saved pool, on a clock that shows `to` when that of the snapshot would show `from`.
    ///
    /// Members, groups and limits are those of the snapshot, and [`members`](Self::members) tells their ids;
    /// everything else is as `config` says. Leases end at their ticks, or at once if they had none. If the
    /// snapshot is later than `from`, no time has passed since. O(n log n).
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
        let offset = ClockOffset { from, to };
        let mut pool = Self::at(config, to, snapshot.generations);
        pool.times.service = snapshot.service;
        pool.members.added = snapshot.added;
        pool.members.pass_floors = snapshot.pass_floors;
        pool.leases.raise_fence(snapshot.fence);
        pool.figures = snapshot.figures;
        let rebased = |mut limits: LimitSet| {
            limits.rebase(from, to);
            limits
        };
        pool.shared = SharedLimits::new(rebased(snapshot.limits));
        for limits in snapshot.groups {
            pool.shared.add_group(rebased(limits));
        }
        pool.flows.restore(snapshot.flows, from, to);
        pool.label_sets = LabelSets::restored(snapshot.labels).ok_or(RestoreError)?;
        let handles = pool.restore_members(snapshot.members, offset)?;
        for lease in snapshot.leases {
            pool.restore_lease(lease, &handles, offset)?;
        }
        if let Some(table) = &mut pool.sessions {
            let entries = snapshot.sessions.into_iter().filter_map(|session| {
                Some(affinity::Session {
                    key: session.key,
                    value: *handles.get(session.member as usize)?,
                    last_used: offset.tick(session.used),
                })
            });
            table.restore(to, entries.collect());
        }
        for handle in handles {
            let is_gone = pool
                .members
                .get(handle)
                .is_some_and(|member| member.status == Status::Removing && member.in_flight == 0);
            if is_gone {
                pool.forget_member(handle);
            } else {
                pool.refresh(handle);
            }
        }
        pool.by_class |= pool.counts_classes();
        Ok(pool)
    }

    /// Whether a limit is counted by class.
    fn counts_classes(&self) -> bool {
        let members = self.members.iter().map(|(_, member)| &member.limits);
        let mut limits = members
            .chain(self.shared.groups())
            .chain([self.shared.pool()]);
        self.flows.counts_classes() || limits.any(LimitSet::counts_classes)
    }

    fn restore_members(
        &mut self,
        members: Vec<MemberState<T>>,
        offset: ClockOffset,
    ) -> Result<Vec<Handle>, RestoreError> {
        let mut by_use: Vec<_> = (0u64..)
            .zip(&members)
            .map(|(index, member)| (member.last_used_seq, index))
            .collect();
        by_use.sort_unstable();
        let ranks: BTreeMap<u64, u64> = by_use
            .into_iter()
            .map(|(_, index)| index)
            .zip(1..)
            .collect();
        let mut handles = Vec::new();
        for (index, mut member) in (0u64..).zip(members) {
            self.clock.next_sequence();
            member.block = Cost::default();
            member.last_used_seq = ranks.get(&index).copied().unwrap_or(0);
            member.latency = self.times.member_latency();
            let (own, seed) = (Settings::default(), member.probe_seed);
            let fresh = MemberHealth::new(&self.config, &own, offset.to, seed);
            member.rebase(fresh, offset);
            if let (None, Some(health)) = (&self.config.breaker, &mut member.health) {
                health.breaker = Breaker::new();
                health.told = ToldBreaker::Closed;
            }
            self.label_sets.get(member.labels).ok_or(RestoreError)?;
            let group = member.group;
            let handle = self.members.insert(member).ok_or(RestoreError)?;
            if let Some(group) = group
                && !self.shared.join(group, handle.slot())
            {
                return Err(RestoreError);
            }
            handles.push(handle);
        }
        Ok(handles)
    }

    fn restore_lease(
        &mut self,
        saved: SavedLease,
        handles: &[Handle],
        offset: ClockOffset,
    ) -> Result<(), RestoreError> {
        let ClockOffset { from, to } = offset;
        let handle = *handles.get(saved.member as usize).ok_or(RestoreError)?;
        let mut lease = saved.lease;
        lease.member = handle;
        lease.granted = offset.tick(lease.granted);
        lease.booked.member = lease.booked.member.rebased(from, to);
        let group = lease.booked.group;
        lease.booked.group = group.map(|(group, booked)| (group, booked.rebased(from, to)));
        lease.booked.pool = lease.booked.pool.map(|pool| pool.rebased(from, to));
        lease.booked.flow = lease.booked.flow.map(|at| offset.tick(at));
        if lease.booked.flow.is_some() {
            self.flows.hold(lease.flow);
        }
        if let Some(permit) = &mut lease.permit {
            permit.rebase(from, to);
        }
        let member = self.members.get_mut(handle).ok_or(RestoreError)?;
        member.in_flight = member.in_flight.saturating_add(1);
        if self.config.weighs_by_time() {
            let expected = member.service.estimate(lease.class);
            member.backlog.push(lease.fence, lease.granted, expected);
        }
        let lease = self.leases.insert(lease).ok_or(RestoreError)?;
        let expires = saved.expires.map_or(to, |expires| offset.tick(expires));
        let sequence = self.clock.next_sequence();
        self.leases.set_expiry(lease, expires, sequence);
        Ok(())
    }
}

impl<T> MemberState<T> {
    /// Moves it to another clock. `fresh` is the health of a new member, whose prober is used where the saved one
    /// has none.
    fn rebase(&mut self, fresh: Option<Box<MemberHealth>>, offset: ClockOffset) {
        let ClockOffset { from, to } = offset;
        self.limits.rebase(from, to);
        self.slow_start.rebase(from, to);
        self.figures.measure_from(to);
        let Some(mut health) = self.health.take() else {
            self.health = fresh;
            return;
        };
        health.cooldown_until = offset.tick(health.cooldown_until);
        health.breaker.rebase(from, to);
        health.outcomes.rebase(from, to);
        if health.outcomes.uneject_if_due(to) {
            self.slow_start.begin(to);
        }
        if let ToldBreaker::Open { until } = &mut health.told {
            *until = offset.tick(*until);
        }
        let saved = health.prober.take();
        let fresh = fresh.and_then(|fresh| fresh.prober);
        health.prober = fresh.map(|fresh| {
            saved.map_or(fresh, |mut saved| {
                saved.rebase(from, to);
                saved
            })
        });
        self.health = Some(health);
    }
}
