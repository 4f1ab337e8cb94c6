//! The clients: tasks arrive, ask for a lease, back off, are cancelled and end.

use super::member::Membership;
use super::operators::label_set;
use super::{SimEvent, World};
use crate::schedule::{MS, Nanos, SEC};
use crate::settings::{MEMBERS, span, tick};
use core::num::NonZeroU32;
use leasehold_core::limit::Cost;
use leasehold_core::pool::{Acquired, Request, WaiterId};
use leasehold_core::retry::{AttemptFailure, Backoff, RetryState};

#[derive(Debug)]
pub(super) struct Task {
    pub(super) request: Request,
    pub(super) tokens: u32,
    pub(super) class: u32,
    /// Labels that its member must have; none if the request is pinned.
    pub(super) labels: u64,
    pub(super) deadline: Nanos,
    retry: RetryState,
    pub(super) stage: Stage,
    /// Whether the retry after this backoff has been taken out of the budget.
    has_budget: bool,
    pub(super) is_cancelled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting(WaiterId),
    Calling,
    BackingOff,
    Ended,
}

#[derive(Clone, Copy, Debug, Hash)]
pub(super) enum End {
    Served,
    Refused,
    TimedOut,
    Cancelled,
}

impl World {
    pub(super) fn begin_task(&mut self) {
        let busy = self.now / (60 * SEC) % 5 == 4;
        let mean = SEC / if busy { 85 } else { 45 };
        if self.now < self.plan.length {
            let gap = self.rng.u64(1..=2 * mean);
            self.after(gap, SimEvent::TaskArrival);
        }
        let task = self.draw_task();
        let number = self.tasks.len() as u32;
        if self.rng.u32(..100) == 0 {
            let delay = self.rng.u64(..10 * SEC);
            self.after(delay, SimEvent::Cancel(number));
        }
        self.tasks.push(task);
        self.sum.tasks += 1;
        self.budget.deposit(tick(self.now));
        self.attempt(number);
    }

    fn draw_task(&mut self) -> Task {
        let rng = &mut self.rng;
        let (class, labels, tokens) = match rng.u32(..100) {
            0..60 => (0, 0, 0),
            60..85 => (1, 1, rng.u32(100..=1_000)),
            _ => (2, 2, 0),
        };
        let wait = match rng.u32(..50) {
            0 => rng.u64(200 * MS..SEC),
            _ => rng.u64(5 * SEC..60 * SEC),
        };
        let deadline = self.now + wait;
        let label_set = label_set(&mut self.pool, labels);
        let mut request = Request::new()
            .class(class)
            .labels(label_set)
            .cost(Cost {
                requests: 1,
                tokens,
            })
            .priority(match rng.u32(..100) {
                0..10 => 64,
                10..85 => 128,
                _ => 200,
            })
            .flow(rng.u64(..6))
            .deadline(tick(deadline));
        if rng.u32(..10) < 7 {
            request = request.key(rng.u64(..1_000));
        }
        if rng.u32(..10) < 3 {
            request = request.session(rng.u64(..300));
        }
        let mut pinned = false;
        if rng.u32(..100) == 0
            && let Membership::Present(member) = self.members[rng.usize(..MEMBERS)].membership
        {
            request = request.pin(member);
            pinned = true;
        }
        let backoff = Backoff::new(span(SEC / 2), span(8 * SEC), rng.u64(..));
        Task {
            request,
            tokens,
            class,
            labels: if pinned { 0 } else { labels },
            deadline,
            retry: RetryState::new(NonZeroU32::MAX, u32::MAX, backoff),
            stage: Stage::BackingOff,
            has_budget: false,
            is_cancelled: false,
        }
    }

    fn attempt(&mut self, number: u32) {
        let request = self.tasks[number as usize].request;
        match self.pool.acquire(tick(self.now), request) {
            Ok(Acquired::Granted(grant)) => self.start_call(number, grant),
            Ok(Acquired::Waiting(waiter)) => {
                self.record(("waits", number));
                self.sum.queued += 1;
                self.waiting.insert(waiter, number);
                self.tasks[number as usize].stage = Stage::Waiting(waiter);
            }
            Err(error) => {
                self.record(("refused", number));
                self.queue.refused += 1;
                self.check_refusal(number, error);
                self.end(number, End::Refused);
            }
        }
    }

    /// Schedules another attempt. A failure takes a retry out of the budget; while that is empty, the
    /// task keeps backing off.
    pub(super) fn retry_later(&mut self, number: u32, failure: AttemptFailure) {
        let now = self.now;
        let task = &mut self.tasks[number as usize];
        if now >= task.deadline {
            self.end(number, End::TimedOut);
            return;
        }
        let delay = task
            .retry
            .delay_after(failure)
            .expect("attempts are unlimited");
        task.has_budget =
            failure != AttemptFailure::Failed || self.budget.try_retry(tick(now)).is_ok();
        if failure == AttemptFailure::Failed && task.has_budget {
            self.sum.retries += 1;
        }
        task.stage = Stage::BackingOff;
        let wait = u64::try_from(delay.as_nanos()).expect("it is short").max(1);
        let at = (now + wait).min(task.deadline);
        self.at(at, SimEvent::Retry(number));
    }

    pub(super) fn retry(&mut self, number: u32) {
        let task = &self.tasks[number as usize];
        if task.stage != Stage::BackingOff {
            return;
        }
        if self.now >= task.deadline {
            assert_eq!(self.now, task.deadline);
            self.end(number, End::TimedOut);
        } else if task.has_budget {
            self.attempt(number);
        } else {
            self.retry_later(number, AttemptFailure::Failed);
        }
    }

    pub(super) fn cancel(&mut self, number: u32) {
        let task = &mut self.tasks[number as usize];
        match task.stage {
            Stage::Ended => {}
            Stage::Calling => task.is_cancelled = true,
            Stage::BackingOff => self.end(number, End::Cancelled),
            Stage::Waiting(waiter) => {
                self.waiting.remove(&waiter);
                self.queue.cancelled += 1;
                let cancelled = self.pool.cancel(tick(self.now), waiter);
                assert_eq!(cancelled, Ok(()), "{number} waited");
                self.end(number, End::Cancelled);
            }
        }
    }

    pub(super) fn end(&mut self, number: u32, end: End) {
        let task = &mut self.tasks[number as usize];
        let before = core::mem::replace(&mut task.stage, Stage::Ended);
        assert_ne!(before, Stage::Ended, "{number} ended twice");
        let counter = match end {
            End::Served => &mut self.sum.served,
            End::Refused => &mut self.sum.refused,
            End::TimedOut => &mut self.sum.timed_out,
            End::Cancelled => &mut self.sum.cancelled,
        };
        *counter += 1;
        self.ended_tasks += 1;
        self.record((number, end));
    }
}
