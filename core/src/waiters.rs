//! The line of those who wait for a lease: first come, first served.
//!
//! Invariant: the list from `head` holds every waiter once, in order of arrival; `deadlines` holds
//! exactly those that have one.

use crate::heap::IndexedHeap;
use crate::slab::{Handle, Slab};
use crate::time::Tick;

#[derive(Clone, Copy, Debug)]
struct Waiter {
    since: Tick,
    previous: Option<Handle>,
    next: Option<Handle>,
}

/// Push, pop, cancel and expiry cost O(1), or O(log n) for waiters with a deadline.
#[derive(Clone, Debug)]
pub(crate) struct Waiters {
    waiters: Slab<Waiter>,
    head: Option<Handle>,
    tail: Option<Handle>,
    deadlines: IndexedHeap<(Tick, u64)>,
    arrivals: u64,
}

impl Waiters {
    pub(crate) fn new() -> Self {
        Self {
            waiters: Slab::new(),
            head: None,
            tail: None,
            deadlines: IndexedHeap::new(),
            arrivals: 0,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.waiters.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        self.deadlines.peek().map(|((deadline, _), _)| deadline)
    }

    pub(crate) fn push(&mut self, since: Tick, deadline: Option<Tick>) -> Option<Handle> {
        let handle = self.waiters.insert(Waiter {
            since,
            previous: self.tail,
            next: None,
        })?;
        match self.tail.and_then(|tail| self.waiters.get_mut(tail)) {
            Some(tail) => tail.next = Some(handle),
            None => self.head = Some(handle),
        }
        self.tail = Some(handle);
        if let Some(deadline) = deadline {
            self.deadlines.set(handle.slot(), (deadline, self.arrivals));
        }
        self.arrivals = self.arrivals.saturating_add(1);
        Some(handle)
    }

    /// Takes the one who came first, and tells since when it waited.
    pub(crate) fn pop(&mut self) -> Option<(Handle, Tick)> {
        let handle = self.head?;
        self.remove(handle).map(|since| (handle, since))
    }

    /// Takes the one whose deadline is due.
    pub(crate) fn pop_due(&mut self, now: Tick) -> Option<Handle> {
        let ((deadline, _), slot) = self.deadlines.peek()?;
        let handle = self.waiters.handle_at(slot).filter(|_| deadline <= now)?;
        self.remove(handle).map(|_| handle)
    }

    pub(crate) fn remove(&mut self, handle: Handle) -> Option<Tick> {
        let waiter = self.waiters.remove(handle)?;
        self.deadlines.remove(handle.slot());
        match waiter.previous.and_then(|at| self.waiters.get_mut(at)) {
            Some(previous) => previous.next = waiter.next,
            None => self.head = waiter.next,
        }
        match waiter.next.and_then(|at| self.waiters.get_mut(at)) {
            Some(next) => next.previous = waiter.previous,
            None => self.tail = waiter.previous,
        }
        Some(waiter.since)
    }
}
