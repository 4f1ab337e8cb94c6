//! Charges: a log of what was granted, has arrived and has ended, by which limits hold across a crash.
//!
//! Invariant: whatever was granted and is not among the charges taken so far is covered by a block among them, unless
//! charges are due.

use super::member_state::MemberState;
use crate::limit::{Cost, Unit};
use crate::time::Tick;
use alloc::vec::Vec;
use core::mem;

/// A change of what the limits of a pool hold, to be written to a log that outlives the process.
///
/// Leases go by their [fences](super::Grant::fence), members by the hash of their [names](super::Member::name).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Charge {
    /// A lease was granted.
    #[cfg_attr(feature = "serde", serde(rename = "g"))]
    Granted {
        /// The lease.
        #[cfg_attr(feature = "serde", serde(rename = "l"))]
        lease: u64,
        /// The member.
        #[cfg_attr(feature = "serde", serde(rename = "m"))]
        member: u64,
        /// The class of the request.
        #[cfg_attr(feature = "serde", serde(rename = "c"))]
        class: u32,
        /// The flow of the request.
        #[cfg_attr(feature = "serde", serde(rename = "f"))]
        flow: u64,
        /// The cost that was booked.
        #[cfg_attr(feature = "serde", serde(rename = "u"))]
        cost: Cost,
        /// The tick of the grant.
        #[cfg_attr(feature = "serde", serde(rename = "t"))]
        at: Tick,
        /// The tick at which the lease expires.
        #[cfg_attr(feature = "serde", serde(rename = "x"))]
        expires: Option<Tick>,
    },
    /// The call of a lease has arrived at the upstream.
    #[cfg_attr(feature = "serde", serde(rename = "a"))]
    Arrived {
        /// The lease.
        #[cfg_attr(feature = "serde", serde(rename = "l"))]
        lease: u64,
        /// The tick at which that was known.
        #[cfg_attr(feature = "serde", serde(rename = "t"))]
        at: Tick,
    },
    /// A lease was renewed.
    #[cfg_attr(feature = "serde", serde(rename = "r"))]
    Renewed {
        /// The lease.
        #[cfg_attr(feature = "serde", serde(rename = "l"))]
        lease: u64,
        /// The tick at which the lease expires.
        #[cfg_attr(feature = "serde", serde(rename = "x"))]
        expires: Tick,
        /// The tick of the renewal.
        #[cfg_attr(feature = "serde", serde(rename = "t"))]
        at: Tick,
    },
    /// A lease has ended.
    #[cfg_attr(feature = "serde", serde(rename = "e"))]
    Ended {
        /// The lease.
        #[cfg_attr(feature = "serde", serde(rename = "l"))]
        lease: u64,
        /// The real cost.
        #[cfg_attr(feature = "serde", serde(rename = "u"))]
        cost: Cost,
        /// The tick of the end.
        #[cfg_attr(feature = "serde", serde(rename = "t"))]
        at: Tick,
    },
    /// An upstream has told what it will serve until a tick.
    #[cfg_attr(feature = "serde", serde(rename = "o"))]
    Observed {
        /// The member.
        #[cfg_attr(feature = "serde", serde(rename = "m"))]
        member: u64,
        /// The unit.
        #[cfg_attr(feature = "serde", serde(rename = "k"))]
        unit: Unit,
        /// The units that it will serve.
        #[cfg_attr(feature = "serde", serde(rename = "n"))]
        remaining: u32,
        /// The tick until which that holds.
        #[cfg_attr(feature = "serde", serde(rename = "r"))]
        reset: Tick,
        /// The tick at which that was told.
        #[cfg_attr(feature = "serde", serde(rename = "t"))]
        at: Tick,
    },
    /// Leases of up to this cost may be granted on a member before the next charges are written.
    #[cfg_attr(feature = "serde", serde(rename = "b"))]
    Block {
        /// The member.
        #[cfg_attr(feature = "serde", serde(rename = "m"))]
        member: u64,
        /// The cost of all those leases together.
        #[cfg_attr(feature = "serde", serde(rename = "u"))]
        cost: Cost,
    },
}

/// The bound on charges that wait to be written, from which on they are due whatever the blocks hold.
const MAX_PENDING: usize = 1_024;

/// The requests of a block on a member without a limit of requests.
const UNLIMITED_BLOCK: u32 = 100;

/// The charges that were not taken yet.
#[derive(Clone, Debug)]
pub(super) struct ChargeLog {
    /// The size of a block, in thousandths of a member's limit.
    block_permille: u16,
    pending: Vec<Charge>,
    is_due: bool,
}

impl ChargeLog {
    pub(super) fn new(block_permille: u16) -> Self {
        Self {
            block_permille,
            pending: Vec::new(),
            is_due: false,
        }
    }

    pub(super) fn push(&mut self, charge: Charge) {
        self.pending.push(charge);
        self.is_due |= self.pending.len() >= MAX_PENDING;
    }

    /// Records a grant on a member. It is covered by the member's block, or charges are due, with the next block.
    /// `has_blocks` tells whether there may be one.
    pub(super) fn record_grant<T>(
        &mut self,
        charge: Charge,
        cost: Cost,
        member: &mut MemberState<T>,
        has_blocks: bool,
    ) {
        self.push(charge);
        if has_blocks && cost.requests > 0 && member.block.covers(cost) {
            member.block = less(member.block, cost);
            return;
        }
        self.is_due = true;
        member.block = Cost::default();
        if !has_blocks || self.block_permille == 0 {
            return;
        }
        let capacity = member.limits.capacity();
        let size = |capacity: u32, unlimited: u32, cost: u32| {
            let share = u64::from(capacity).saturating_mul(self.block_permille.into());
            let share = share.checked_div(1_000).unwrap_or(0);
            match capacity {
                u32::MAX => unlimited,
                _ => u32::try_from(share).unwrap_or(u32::MAX).max(cost),
            }
        };
        let block = Cost {
            requests: size(capacity.requests, UNLIMITED_BLOCK, cost.requests),
            // Tokens without a limit never fill a block.
            tokens: size(capacity.tokens, u32::MAX, cost.tokens),
        };
        let rest = less(block, cost);
        if rest.requests > 0 {
            member.block = rest;
            let member = member.identity;
            self.push(Charge::Block { member, cost: rest });
        }
    }

    /// Records a renewal, by which the holder goes once it is written.
    pub(super) fn record_renewal(&mut self, lease: u64, expires: Tick, at: Tick) {
        self.push(Charge::Renewed { lease, expires, at });
        self.is_due = true;
    }

    /// Records what a member's upstream has told.
    pub(super) fn record_observation(
        &mut self,
        at: Tick,
        member: u64,
        unit: Unit,
        remaining: u32,
        reset: Tick,
    ) {
        self.push(Charge::Observed {
            member,
            unit,
            remaining,
            reset,
            at,
        });
    }

    pub(super) fn is_due(&self) -> bool {
        self.is_due
    }

    pub(super) fn take(&mut self) -> Vec<Charge> {
        self.is_due = false;
        mem::take(&mut self.pending)
    }
}

/// A cost less another, in each unit.
pub(super) fn less(cost: Cost, other: Cost) -> Cost {
    Cost {
        requests: cost.requests.saturating_sub(other.requests),
        tokens: cost.tokens.saturating_sub(other.tokens),
    }
}
