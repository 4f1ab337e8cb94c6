//! Events of a pool, and the bounded inbox in which each subscriber receives them.
//!
//! Invariant: an inbox holds at most `capacity` events; dropped events are counted, and the count is delivered
//! before the events that came after them.

use crate::sync::Arc;
use leasehold_core::pool::{HealthChange, MemberId, ProbeId};
use std::collections::VecDeque;

/// A change in a pool that no command asked for.
#[derive(Debug)]
pub enum PoolEvent<T> {
    /// A lease expired and was taken back.
    Expired {
        /// The leased member.
        member: MemberId,
    },
    /// A draining member's last lease has ended.
    Drained {
        /// The drained member.
        member: MemberId,
    },
    /// A removed member's last lease has ended.
    Removed {
        /// The removed member.
        member: MemberId,
        /// The member's payload.
        payload: Arc<T>,
    },
    /// A probe is due, to be answered by [`SyncPool::answer_probe`](crate::SyncPool::answer_probe). A probe
    /// without an answer by its timeout counts as failed.
    Probe {
        /// The member to probe.
        member: MemberId,
        /// The probe's id.
        probe: ProbeId,
        /// The member's payload.
        payload: Arc<T>,
    },
    /// A member's health has changed.
    Changed {
        /// The member.
        member: MemberId,
        /// The change.
        change: HealthChange,
    },
    /// The inbox was full; its oldest events were dropped.
    Missed {
        /// The number of dropped events.
        count: u64,
    },
}

impl<T> Clone for PoolEvent<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Expired { member } => Self::Expired { member: *member },
            Self::Drained { member } => Self::Drained { member: *member },
            Self::Removed { member, payload } => Self::Removed {
                member: *member,
                payload: Arc::clone(payload),
            },
            Self::Probe {
                member,
                probe,
                payload,
            } => Self::Probe {
                member: *member,
                probe: *probe,
                payload: Arc::clone(payload),
            },
            Self::Changed { member, change } => Self::Changed {
                member: *member,
                change: *change,
            },
            Self::Missed { count } => Self::Missed { count: *count },
        }
    }
}

/// Events that a subscriber has not taken yet.
pub(crate) struct Inbox<T> {
    events: VecDeque<PoolEvent<T>>,
    capacity: usize,
    missed: u64,
}

impl<T> Inbox<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            events: VecDeque::new(),
            capacity,
            missed: 0,
        }
    }

    /// Adds an event; returns the oldest one if it had to make room.
    pub(crate) fn push(&mut self, event: PoolEvent<T>) -> Option<PoolEvent<T>> {
        let oldest = match self.events.len() >= self.capacity {
            true => self.events.pop_front(),
            false => None,
        };
        self.missed = self.missed.saturating_add(oldest.is_some().into());
        self.events.push_back(event);
        oldest
    }

    /// Takes the count of missed events, or else the oldest event.
    pub(crate) fn pop(&mut self) -> Option<PoolEvent<T>> {
        match core::mem::take(&mut self.missed) {
            0 => self.events.pop_front(),
            count => Some(PoolEvent::Missed { count }),
        }
    }
}
