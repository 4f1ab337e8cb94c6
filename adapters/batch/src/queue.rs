//! The tasks of a batch: ready, delayed until their next attempt, or in flight.
//!
//! Invariant: each task taken is finished or requeued, and [`Queue::next`] returns `None` only once the queue is
//! closed or no task is left to be requeued.

use crate::bits::Bits;
use crate::lock;
use core::time::Duration;
use leasehold_core::retry::Backoff;
use leasehold_core::time::Tick;
use leasehold_protocol::verdict::Kind;
use leasehold_sync::{Clock, MemberId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};

/// One answer that is asked for an item.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// Its number among all tasks of the batch.
    pub(crate) number: usize,
    /// Its model, as an index of those of the batch.
    pub(crate) model: usize,
    pub(crate) backoff: Backoff,
    /// Attempts that failed, without those that do not count.
    pub(crate) attempts: u32,
    /// Members that another member is to be tried after; at most one an attempt and rejected key.
    pub(crate) tried: Vec<MemberId>,
    /// The error of the last attempt.
    pub(crate) last_error: Option<String>,
    /// The kind of the last answer.
    pub(crate) last_kind: Option<Kind>,
}

/// A task that was taken.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A task that was never tried, by its number.
    First(usize),
    /// A task that is tried again.
    Again(Task),
}

#[derive(Debug)]
pub(crate) struct Queue {
    clock: Clock,
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug)]
struct QueueState {
    /// Tasks that were never tried, which are taken in the order of their numbers.
    first: Bits,
    /// The number below which `first` is empty.
    cursor: usize,
    /// Tasks that were never tried and go before those.
    added: VecDeque<usize>,
    ready: VecDeque<Task>,
    /// Delayed tasks by due time; the number keeps tasks with the same due time apart.
    delayed: BTreeMap<(Tick, u64), Task>,
    next_number: u64,
    in_flight: usize,
    closed: bool,
}

impl QueueState {
    /// Takes a task that need not wait.
    fn take(&mut self) -> Option<Taken> {
        if let Some(task) = self.ready.pop_front() {
            return Some(Taken::Again(task));
        }
        if let Some(number) = self.added.pop_front() {
            return Some(Taken::First(number));
        }
        let number = self.first.first_from(self.cursor)?;
        self.first.remove(number);
        self.cursor = number;
        Some(Taken::First(number))
    }

    fn is_empty(&self) -> bool {
        self.first.len() == 0
            && self.added.is_empty()
            && self.ready.is_empty()
            && self.delayed.is_empty()
    }
}

impl Queue {
    /// Makes a queue of tasks, by their numbers.
    pub(crate) fn new(first: Bits) -> Self {
        Self {
            clock: Clock::start(),
            state: Mutex::new(QueueState {
                first,
                cursor: 0,
                added: VecDeque::new(),
                ready: VecDeque::new(),
                delayed: BTreeMap::new(),
                next_number: 0,
                in_flight: 0,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Takes the next task; blocks while only delayed or in-flight tasks are left.
    pub(crate) fn next(&self) -> Option<Taken> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            let now = self.clock.now();
            let due = state.delayed.first_key_value().map(|((due, _), _)| *due);
            let task = if due.is_some_and(|due| due <= now) {
                state
                    .delayed
                    .pop_first()
                    .map(|(_, task)| Taken::Again(task))
            } else {
                state.take()
            };
            if task.is_some() {
                state.in_flight = state.in_flight.saturating_add(1);
                return task;
            }
            if due.is_none() && state.in_flight == 0 {
                return None;
            }
            let timeout = due.map_or(Duration::MAX, |due| due.since(now));
            let woken = self.changed.wait_timeout(state, timeout);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(crate) fn finish(&self) {
        let mut state = lock(&self.state);
        state.in_flight = state.in_flight.saturating_sub(1);
        let empty = state.in_flight == 0 && state.is_empty();
        drop(state);
        if empty {
            self.changed.notify_all();
        }
    }

    /// Adds a task that was never tried, before its last cause is finished.
    pub(crate) fn add(&self, number: usize) {
        lock(&self.state).added.push_back(number);
        self.changed.notify_one();
    }

    /// Returns a task that was taken, to be taken again after `delay`.
    pub(crate) fn requeue(&self, task: Task, delay: Duration) {
        let mut state = lock(&self.state);
        state.in_flight = state.in_flight.saturating_sub(1);
        if delay.is_zero() {
            state.ready.push_front(task);
        } else {
            let due = self.clock.now().saturating_add(delay);
            let key = (due, state.next_number);
            state.next_number = state.next_number.saturating_add(1);
            state.delayed.insert(key, task);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Takes any task that is left, though the queue is closed.
    pub(crate) fn take_left(&self) -> Option<Taken> {
        let mut state = lock(&self.state);
        let delayed = |state: &mut QueueState| state.delayed.pop_first();
        state
            .take()
            .or_else(|| delayed(&mut state).map(|(_, task)| Taken::Again(task)))
    }

    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }
}
