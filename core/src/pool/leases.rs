//! The leases that are held.
//!
//! Invariant: `expiries` holds exactly the leases that expire, and `estimated` counts those whose cost may
//! still turn out different.

use super::ids::GroupIndex;
use crate::health::Permit;
use crate::limit::{Booking, Cost};
use crate::time::Tick;
use crate::util::heap::IndexedHeap;
use crate::util::slab::{Handle, Slab};
#[cfg(feature = "serde")]
use alloc::vec::Vec;
use core::num::NonZeroU32;
use core::time::Duration;

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Lease {
    #[cfg_attr(feature = "serde", serde(skip, default = "Handle::nowhere"))]
    pub(super) member: Handle,
    pub(super) fence: u64,
    pub(super) granted: Tick,
    pub(super) class: u32,
    pub(super) flow: u64,
    pub(super) cost: Cost,
    /// The stride that the grant added to the member's pass.
    pub(super) stride: u64,
    pub(super) booked: Bookings,
    pub(super) permit: Option<Permit>,
    /// Its own time to live, in place of the pool's.
    pub(super) ttl: Option<Duration>,
}

/// The bookings of a lease's cost.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Bookings {
    pub(super) member: Booking,
    /// The group that the member was in at the grant.
    pub(super) group: Option<(GroupIndex, Booking)>,
    pub(super) pool: Option<Booking>,
    /// The tick of the booking with the flow, if that has a state.
    pub(super) flow: Option<Tick>,
}

impl Lease {
    /// Its booking with the flow, if that has a state. Flows have no reports.
    pub(super) fn flow_booking(&self) -> Option<Booking> {
        let mut booking = Booking::new(self.booked.flow?, 0, self.class);
        if self.booked.member.has_arrived() {
            booking.note_arrival();
        }
        Some(booking)
    }

    fn is_estimated(&self) -> bool {
        self.cost != Cost::REQUEST
    }
}

#[derive(Clone, Debug)]
pub(super) struct Leases {
    slab: Slab<Lease>,
    /// Ticks at which leases expire, in the order in which that was set.
    expiries: IndexedHeap<(Tick, u64)>,
    estimated: u32,
    /// The fence of the latest grant.
    last_fence: u64,
}

impl Leases {
    /// No leases, whose handles will be of this generation or later, and their fences above this one.
    pub(super) fn starting_at(generation: NonZeroU32, fence: u64) -> Self {
        Self {
            slab: Slab::starting_at_generation(generation),
            expiries: IndexedHeap::new(),
            estimated: 0,
            last_fence: fence,
        }
    }

    /// The fence of the next grant.
    #[inline]
    pub(super) fn next_fence(&mut self) -> u64 {
        self.last_fence = self.last_fence.saturating_add(1);
        self.last_fence
    }

    #[cfg(feature = "serde")]
    pub(super) fn last_fence(&self) -> u64 {
        self.last_fence
    }

    /// Makes the fences of later grants exceed this one.
    #[cfg(feature = "serde")]
    pub(super) fn raise_fence(&mut self, fence: u64) {
        self.last_fence = self.last_fence.max(fence);
    }

    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.slab.has_room()
    }

    #[inline]
    pub(super) fn insert(&mut self, lease: Lease) -> Option<Handle> {
        let is_estimated = lease.is_estimated();
        let handle = self.slab.insert(lease)?;
        if is_estimated {
            self.estimated = self.estimated.saturating_add(1);
        }
        Some(handle)
    }

    #[inline]
    pub(super) fn remove(&mut self, handle: Handle) -> Option<Lease> {
        let lease = self.slab.remove(handle)?;
        self.expiries.remove(handle.slot());
        if lease.is_estimated() {
            self.estimated = self.estimated.saturating_sub(1);
        }
        Some(lease)
    }

    pub(super) fn get(&self, handle: Handle) -> Option<&Lease> {
        self.slab.get(handle)
    }

    /// The leases, and the ticks at which they expire.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Handle, &Lease, Option<Tick>)> {
        let leases = self.slab.iter();
        leases.map(|(handle, lease)| {
            let expires = self.expiries.key(handle.slot());
            (handle, lease, expires.map(|(expires, _)| expires))
        })
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut Lease> {
        self.slab.get_mut(handle)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Lease> {
        self.slab.iter_mut().map(|(_, lease)| lease)
    }

    /// Whether a release may refund part of what was booked, so that no wait is certain.
    #[inline]
    pub(super) fn may_be_refunded(&self) -> bool {
        self.estimated > 0
    }

    #[inline]
    pub(super) fn set_expiry(&mut self, handle: Handle, expires: Tick, sequence: u64) {
        self.expiries.set(handle.slot(), (expires, sequence));
    }

    #[inline]
    pub(super) fn next_expiry(&self) -> Option<Tick> {
        self.expiries.peek().map(|((expires, _), _)| expires)
    }

    /// The lease that expires first, and its member, if that is due.
    #[inline]
    pub(super) fn due(&self, now: Tick) -> Option<(Handle, Handle)> {
        let ((expires, _), slot) = self.expiries.peek()?;
        let handle = self.slab.handle_at(slot).filter(|_| expires <= now)?;
        self.slab.get(handle).map(|lease| (handle, lease.member))
    }

    #[cfg(feature = "serde")]
    pub(super) fn next_generation(&self) -> NonZeroU32 {
        self.slab.next_generation()
    }

    /// The leases and when they expire, in the order in which they do.
    #[cfg(feature = "serde")]
    pub(super) fn by_expiry(&self) -> Vec<(Option<Tick>, Lease)> {
        let leases = self.slab.iter();
        let mut leases: Vec<_> = leases
            .map(|(handle, lease)| (self.expiries.key(handle.slot()), *lease))
            .collect();
        leases.sort_by_key(|(expiry, _)| *expiry);
        let leases = leases.into_iter();
        leases
            .map(|(expiry, lease)| (expiry.map(|(expires, _)| expires), lease))
            .collect()
    }
}
