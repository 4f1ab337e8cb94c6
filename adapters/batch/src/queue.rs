//! The tasks of a batch: those to be done, those that wait for another try, and those under way.
//!
//! Invariant: a task that was taken is either finished or put back; [`Queue::next`] answers `None` only
//! when there is nothing left that could be put back.

use core::time::Duration;
use leasehold_core::retry::RetryState;
use leasehold_core::time::Tick;
use leasehold_sync::Clock;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// One item put to one model.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) item: usize,
    pub(crate) model: usize,
    pub(crate) tries: RetryState,
}

#[derive(Debug)]
struct Tasks {
    ready: VecDeque<Task>,
    /// Tasks that wait, by when they are due; the counter tells those of one tick apart.
    delayed: BTreeMap<(Tick, u64), Task>,
    delays: u64,
    under_way: usize,
    closed: bool,
}

#[derive(Debug)]
pub(crate) struct Queue {
    clock: Clock,
    tasks: Mutex<Tasks>,
    changed: Condvar,
}

impl Queue {
    pub(crate) fn new(tasks: impl IntoIterator<Item = Task>) -> Self {
        Self {
            clock: Clock::start(),
            tasks: Mutex::new(Tasks {
                ready: tasks.into_iter().collect(),
                delayed: BTreeMap::new(),
                delays: 0,
                under_way: 0,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// The next task; waits while there is none but may be one.
    pub(crate) fn next(&self) -> Option<Task> {
        let mut tasks = self.lock();
        loop {
            if tasks.closed {
                return None;
            }
            let now = self.clock.now();
            let due = tasks.delayed.first_key_value().map(|((due, _), _)| *due);
            let task = if due.is_some_and(|due| due <= now) {
                tasks.delayed.pop_first().map(|(_, task)| task)
            } else {
                tasks.ready.pop_front()
            };
            if task.is_some() {
                tasks.under_way = tasks.under_way.saturating_add(1);
                return task;
            }
            if due.is_none() && tasks.under_way == 0 {
                return None;
            }
            let timeout = due.map_or(Duration::MAX, |due| due.since(now));
            let woken = self.changed.wait_timeout(tasks, timeout);
            tasks = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Tells that a task that was taken has ended.
    pub(crate) fn finish(&self) {
        let mut tasks = self.lock();
        tasks.under_way = tasks.under_way.saturating_sub(1);
        let over = tasks.under_way == 0 && tasks.ready.is_empty() && tasks.delayed.is_empty();
        drop(tasks);
        if over {
            self.changed.notify_all();
        }
    }

    /// Puts a task back that was taken, to be taken again after `delay`.
    pub(crate) fn put_back(&self, task: Task, delay: Duration) {
        let mut tasks = self.lock();
        tasks.under_way = tasks.under_way.saturating_sub(1);
        if delay.is_zero() {
            tasks.ready.push_front(task);
        } else {
            let due = self.clock.now().saturating_add(delay);
            let place = (due, tasks.delays);
            tasks.delays = tasks.delays.saturating_add(1);
            tasks.delayed.insert(place, task);
        }
        drop(tasks);
        self.changed.notify_one();
    }

    /// What is left once no more tasks are handed out.
    pub(crate) fn drain(&self) -> Vec<Task> {
        let mut tasks = self.lock();
        let delayed = core::mem::take(&mut tasks.delayed);
        tasks.ready.drain(..).chain(delayed.into_values()).collect()
    }

    /// Hands out no more tasks.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
