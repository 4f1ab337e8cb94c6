//! How the tasks of a thread learn that it drains.
//!
//! Invariant: every task that waits is woken when the thread begins to drain, and one that asks later is told at once.

use core::cell::{Cell, RefCell};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::collections::BTreeMap;

/// Whether a thread drains, and the tasks that wait for it.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    has_begun: Cell<bool>,
    tasks: RefCell<BTreeMap<u64, Waker>>,
    /// The number of waits so far, which numbers the next one.
    waits: Cell<u64>,
}

impl Drain {
    /// Tells all tasks that the thread drains from now on.
    pub(crate) fn begin(&self) {
        self.has_begun.set(true);
        let tasks = self.tasks.take();
        tasks.into_values().for_each(Waker::wake);
    }

    /// Whether the thread drains.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.get()
    }

    /// Waits until the thread drains.
    pub(crate) fn begun(&self) -> Draining<'_> {
        let number = self.waits.get();
        self.waits.set(number.wrapping_add(1));
        Draining {
            drain: self,
            number,
            task: None,
        }
    }
}

/// A future of a thread's drain.
///
/// A poll by a task that it knows takes no lock and changes nothing.
#[derive(Debug)]
pub(crate) struct Draining<'d> {
    drain: &'d Drain,
    number: u64,
    /// The task that will be woken.
    task: Option<Waker>,
}

impl Future for Draining<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.drain.has_begun.get() {
            return Poll::Ready(());
        }
        let task = context.waker();
        if !self
            .task
            .as_ref()
            .is_some_and(|known| known.will_wake(task))
        {
            self.task = Some(task.clone());
            let mut tasks = self.drain.tasks.borrow_mut();
            tasks.insert(self.number, task.clone());
        }
        Poll::Pending
    }
}

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        let task = self.drain.tasks.borrow_mut().remove(&self.number);
        drop(task);
    }
}
