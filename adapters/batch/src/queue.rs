//! The tasks of a batch: ready, delayed until their next attempt, or in flight.
//!
//! Invariant: each task taken is finished or requeued, and [`Queue::next`] returns `None` only once the queue is
//! closed or no task is left to be requeued.

use crate::batch::Batch;
use crate::input::Item;
use crate::lock;
use core::time::Duration;
use leasehold_core::retry::Backoff;
use leasehold_core::time::Tick;
use leasehold_sync::{Clock, MemberId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};

/// One item and one model, by their indices in the batch.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) item: usize,
    pub(crate) model: usize,
    pub(crate) backoff: Backoff,
    /// Attempts that failed, without those that do not count.
    pub(crate) attempts: u32,
    /// Members that another member is to be tried after; at most one an attempt and rejected key.
    pub(crate) tried: Vec<MemberId>,
    /// The error of the last attempt.
    pub(crate) last_error: Option<String>,
}

impl Task {
    /// Returns the item and the name of the model.
    pub(crate) fn names<'a>(&self, batch: &'a Batch) -> (&'a Item, &'a str) {
        (&batch.items[self.item], &batch.models[self.model])
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    clock: Clock,
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug)]
struct QueueState {
    ready: VecDeque<Task>,
    /// Delayed tasks by due time; the number keeps tasks with the same due time apart.
    delayed: BTreeMap<(Tick, u64), Task>,
    next_number: u64,
    in_flight: usize,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(tasks: impl IntoIterator<Item = Task>) -> Self {
        Self {
            clock: Clock::start(),
            state: Mutex::new(QueueState {
                ready: tasks.into_iter().collect(),
                delayed: BTreeMap::new(),
                next_number: 0,
                in_flight: 0,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Takes the next task; blocks while only delayed or in-flight tasks are left.
    pub(crate) fn next(&self) -> Option<Task> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            let now = self.clock.now();
            let due = state.delayed.first_key_value().map(|((due, _), _)| *due);
            let task = if due.is_some_and(|due| due <= now) {
                state.delayed.pop_first().map(|(_, task)| task)
            } else {
                state.ready.pop_front()
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
        let empty = state.in_flight == 0 && state.ready.is_empty() && state.delayed.is_empty();
        drop(state);
        if empty {
            self.changed.notify_all();
        }
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

    pub(crate) fn drain(&self) -> Vec<Task> {
        let mut state = lock(&self.state);
        let delayed = core::mem::take(&mut state.delayed);
        state.ready.drain(..).chain(delayed.into_values()).collect()
    }

    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }
}
