//! The replay of charges onto a snapshot.
//!
//! Invariant: the limits of the snapshot hold at least what the calls of the log hold at the upstream, wherever the log
//! was cut.

use super::charges::{Charge, less};
use super::drive::Pool;
use super::ids::GroupIndex;
use super::leases::{Bookings, Lease};
use super::snapshot::{PoolSnapshot, RestoreError, SavedLease};
use crate::limit::{Booking, Cost, LimitSet};
use crate::time::Tick;
use crate::util::slab::Handle;
use alloc::collections::BTreeMap;

/// What a replay has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Leases of the log without a recorded end, which count from the restart.
    pub open: u32,
    /// Charges of members that the snapshot doesn't hold, or of leases that ended before; they change nothing.
    pub ignored: u32,
    /// The cost that may have been granted without being recorded, over all members; it counts from the restart.
    pub unrecorded: Cost,
}

impl<T: Clone> Pool<T> {
    /// Enters the charges of earlier processes, in their order, into a pool that has granted nothing yet; the ids of its
    /// members change. O(n log n).
    ///
    /// What a log that was cut off means is told by [`PoolSnapshot::replay`].
    ///
    /// # Errors
    /// [`RestoreError`] if the pool's state contradicts itself.
    pub fn replay(&mut self, now: Tick, charges: &[Charge]) -> Result<Replayed, RestoreError> {
        let first = charges.iter().filter_map(Charge::at).min().unwrap_or(now);
        let config = self.config.clone();
        // The pool as it was before the first charge.
        let early = Self::restore(config.clone(), self.snapshot(), now, first.min(now))?;
        let mut snapshot = early.snapshot();
        let replayed = snapshot.replay(now, charges.iter().copied());
        *self = Self::restore(config, snapshot, now, now)?;
        Ok(replayed)
    }
}

/// The position of a lease among the snapshot's, or in the log.
type Open = BTreeMap<u64, SavedLease>;

impl<T> PoolSnapshot<T> {
    /// Enters the charges that were logged since this snapshot was taken, in their order; a log that was cut off
    /// at any point will do. `now` is the time of the restart on the clock of the log. O(n log n).
    ///
    /// Leases without a recorded end expire at their ticks, or end at the restart if they don't expire. What is left
    /// of the last block of each member counts as used at the restart. So a pool that is restored from the snapshot
    /// never admits more than its limits, and refuses at most what those blocks could hold, and the cost of calls
    /// whose end was not recorded, that it would not have refused without the crash.
    ///
    /// After a crash, replay even a log that holds nothing: blocks may have been open when the snapshot was taken. Before
    /// an orderly end, take the snapshot last; then there is nothing to replay.
    ///
    /// Members go by their names, which must differ. Figures don't count what is replayed.
    pub fn replay(&mut self, now: Tick, charges: impl IntoIterator<Item = Charge>) -> Replayed {
        let mut found = Replayed::default();
        let mut open: Open = BTreeMap::new();
        for saved in core::mem::take(&mut self.leases) {
            open.insert(saved.lease.fence, saved);
        }
        let members = self.members.iter().zip(0u32..);
        let members: BTreeMap<u64, u32> = members
            .map(|(member, index)| (member.identity, index))
            .collect();
        let left = self.members.iter_mut().zip(0u32..);
        let left = left.map(|(member, index)| (index, core::mem::take(&mut member.block)));
        let mut blocks: BTreeMap<u32, Cost> = left.collect();
        for charge in charges {
            if self
                .enter(charge, &members, &mut open, &mut blocks)
                .is_none()
            {
                found.ignored = found.ignored.saturating_add(1);
            }
        }
        for (member, rest) in blocks.into_iter().filter(|(_, rest)| rest.requests > 0) {
            found.unrecorded = Cost {
                requests: found.unrecorded.requests.saturating_add(rest.requests),
                tokens: found.unrecorded.tokens.saturating_add(rest.tokens),
            };
            self.fence = self.fence.saturating_add(rest.requests.into());
            let lease = self.fence;
            if let Some(saved) = self.grant(member, 0, 0, bounded(rest), now, None) {
                open.insert(lease, saved);
            }
        }
        found.open = u32::try_from(open.len()).unwrap_or(u32::MAX);
        self.leases = open.into_values().collect();
        self.leases.sort_by_key(|saved| saved.expires);
        found
    }

    /// Enters one charge; `None` if it changes nothing.
    fn enter(
        &mut self,
        charge: Charge,
        members: &BTreeMap<u64, u32>,
        open: &mut Open,
        blocks: &mut BTreeMap<u32, Cost>,
    ) -> Option<()> {
        match charge {
            Charge::Granted {
                lease,
                member,
                class,
                flow,
                cost,
                at,
                expires,
            } => {
                self.fence = self.fence.max(lease);
                let member = *members.get(&member)?;
                if let Some(block) = blocks.get_mut(&member) {
                    *block = less(*block, cost);
                }
                let mut saved = self.grant(member, class, flow, cost, at, expires)?;
                saved.lease.fence = lease;
                open.insert(lease, saved);
            }
            Charge::Arrived { lease, at } => {
                let saved = open.get_mut(&lease)?;
                let SavedLease { member, lease, .. } = saved;
                self.now = self.now.max(at);
                let cost = lease.cost;
                self.each(*member, lease, |limits, booking| {
                    limits.arrive(at, booking, cost);
                });
            }
            Charge::Renewed { lease, expires, at } => {
                let saved = open.get_mut(&lease)?;
                saved.expires = Some(expires);
                self.now = self.now.max(at);
            }
            Charge::Ended { lease, cost, at } => {
                let SavedLease {
                    member, mut lease, ..
                } = open.remove(&lease)?;
                self.now = self.now.max(at);
                let reserved = lease.cost;
                self.each(member, &mut lease, |limits, booking| {
                    limits.settle(at, *booking, reserved, cost);
                });
            }
            Charge::Observed {
                member,
                unit,
                remaining,
                reset,
                at,
            } => {
                let member = *members.get(&member)?;
                let member = self.members.get_mut(member as usize)?;
                self.now = self.now.max(at);
                member.limits.observe(at, unit, remaining, reset);
            }
            Charge::Block { member, cost } => {
                blocks.insert(*members.get(&member)?, cost);
            }
        }
        Some(())
    }

    /// Books a lease of the log.
    fn grant(
        &mut self,
        member: u32,
        class: u32,
        flow: u64,
        cost: Cost,
        at: Tick,
        expires: Option<Tick>,
    ) -> Option<SavedLease> {
        self.now = self.now.max(at);
        let state = self.members.get_mut(member as usize)?;
        let group = state.group;
        let booked = state.limits.charge(at, class, cost);
        let group = group.and_then(|index| {
            let limits = self.groups.get_mut(index.0 as usize)?;
            Some((index, limits.charge(at, class, cost)))
        });
        let pool = (!self.limits.is_empty()).then(|| self.limits.charge(at, class, cost));
        let flow_limits = self.flow_limits(flow);
        let booked = Bookings {
            member: booked,
            group,
            pool,
            flow: flow_limits.map(|limits| limits.charge(at, class, cost).at()),
        };
        self.figures.record_grant(0, false);
        Some(SavedLease {
            member,
            expires,
            lease: Lease {
                member: Handle::nowhere(),
                fence: self.fence,
                granted: at,
                class,
                flow,
                cost,
                stride: 0,
                booked,
                permit: None,
                ttl: expires.map(|expires| expires.since(at)),
            },
        })
    }

    /// The limits of a flow, if it has any.
    fn flow_limits(&mut self, flow: u64) -> Option<&mut LimitSet> {
        let at = self.flows.binary_search_by_key(&flow, |(flow, _)| *flow);
        let at = at.or_else(|at| {
            let fresh = self.each_flow.clone().ok_or(())?;
            self.flows.insert(at, (flow, fresh));
            Ok::<_, ()>(at)
        });
        let (_, state) = self.flows.get_mut(at.ok()?)?;
        Some(state.limits_mut())
    }

    /// Changes each limit set that a lease is booked in.
    fn each(
        &mut self,
        member: u32,
        lease: &mut Lease,
        mut change: impl FnMut(&mut LimitSet, &mut Booking),
    ) {
        let (flowing, flow) = (lease.flow_booking(), lease.flow);
        let booked = &mut lease.booked;
        if let Some(mut flowing) = flowing
            && let Some(limits) = self.flow_limits(flow)
        {
            change(limits, &mut flowing);
        }
        if let Some(member) = self.members.get_mut(member as usize) {
            change(&mut member.limits, &mut booked.member);
        }
        if let Some((GroupIndex(group), booking)) = &mut booked.group
            && let Some(limits) = self.groups.get_mut(*group as usize)
        {
            change(limits, booking);
        }
        if let Some(booking) = &mut booked.pool {
            change(&mut self.limits, booking);
        }
    }
}

/// The rest of a block. Tokens without a limit, which never fill one, count as none.
fn bounded(rest: Cost) -> Cost {
    Cost {
        requests: rest.requests,
        tokens: match rest.tokens {
            unlimited if unlimited > u32::MAX >> 1 => 0,
            tokens => tokens,
        },
    }
}
