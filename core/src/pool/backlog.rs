//! The leases of a member as jobs that it does one after another.
//!
//! Invariant: `jobs` is in the order of the grants; `known` is the sum of the expected times, and `unknown` counts the jobs
//! that have none.

use crate::time::Tick;
use alloc::collections::VecDeque;

/// The jobs that a member has not done yet. It is kept where work is weighed by time, and empty elsewhere.
///
/// A server of one job at a time begins a job when the one granted before it ends, and so its service time is counted from
/// there. On a server of several at a time that is the time between ends, which times the jobs ahead gives the wait as well.
#[derive(Clone, Debug, Default)]
pub(super) struct Backlog {
    jobs: VecDeque<Job>,
    known: u128,
    unknown: u32,
    /// The tick at which the first job began.
    began: Tick,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    fence: u64,
    granted: Tick,
    /// The nanoseconds that it was expected to take at its grant.
    expected: Option<u64>,
}

impl Backlog {
    /// Adds a job at the place that its fence gives.
    pub(super) fn push(&mut self, fence: u64, granted: Tick, expected: Option<u64>) {
        let at = self.jobs.partition_point(|job| job.fence < fence);
        if at == 0 {
            self.began = granted;
        }
        match expected {
            Some(nanos) => self.known = self.known.saturating_add(nanos.into()),
            None => self.unknown = self.unknown.saturating_add(1),
        }
        let job = Job {
            fence,
            granted,
            expected,
        };
        self.jobs.insert(at, job);
    }

    /// Removes a job that has ended; returns the nanoseconds from its begin. A job that was not sent took no time of those
    /// behind it.
    pub(super) fn end(&mut self, fence: u64, now: Tick, was_sent: bool) -> Option<u64> {
        let at = self.jobs.binary_search_by_key(&fence, |job| job.fence);
        let at = at.ok()?;
        let job = self.jobs.remove(at)?;
        match job.expected {
            Some(nanos) => self.known = self.known.saturating_sub(nanos.into()),
            None => self.unknown = self.unknown.saturating_sub(1),
        }
        let began = self.began.max(job.granted);
        if at == 0 {
            self.began = match self.jobs.front() {
                Some(next) if !was_sent => self.began.max(next.granted),
                Some(_) | None => now,
            };
        }
        Some(now.nanos_since(began))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The nanoseconds that its jobs take in all; one without an expected time counts as `mean`.
    pub(super) fn nanos(&self, mean: u64) -> u64 {
        let unknown = u128::from(self.unknown).saturating_mul(mean.into());
        u64::try_from(self.known.saturating_add(unknown)).unwrap_or(u64::MAX)
    }

    /// The tick at which the first job began.
    pub(super) fn began(&self) -> Tick {
        self.began
    }

    /// The tick at which the first job is late: it has taken twice the expected time.
    pub(super) fn late_at(&self, mean: u64) -> Option<Tick> {
        let expected = self.jobs.front()?.expected.unwrap_or(mean);
        let twice = expected.max(1).saturating_mul(2);
        let late = self.began.as_nanos().saturating_add(twice);
        Some(Tick::from_nanos(late))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    #[test]
    fn a_job_counts_from_the_end_of_the_one_before_it() {
        let mut backlog = Backlog::default();
        backlog.push(1, tick(10), None);
        backlog.push(2, tick(11), Some(5));
        assert_eq!(backlog.nanos(7), 12);
        assert_eq!(backlog.late_at(7), Some(tick(24)));
        assert_eq!(backlog.end(1, tick(20), true), Some(10));
        assert_eq!(backlog.late_at(7), Some(tick(30)));
        assert_eq!(backlog.end(2, tick(24), true), Some(4));
        assert!(backlog.is_empty());
        assert_eq!(backlog.nanos(7), 0);
        assert_eq!(backlog.late_at(7), None);
        backlog.push(3, tick(30), Some(5));
        assert_eq!(backlog.end(3, tick(31), true), Some(1));
    }

    #[test]
    fn a_job_that_was_not_sent_took_no_time() {
        let mut backlog = Backlog::default();
        backlog.push(1, tick(10), None);
        backlog.push(2, tick(12), None);
        assert_eq!(backlog.end(1, tick(20), false), Some(10));
        assert_eq!(backlog.end(2, tick(22), true), Some(10));
    }

    #[test]
    fn a_job_that_overtakes_leaves_the_begin_of_the_first() {
        let mut backlog = Backlog::default();
        backlog.push(1, tick(10), Some(1));
        backlog.push(2, tick(12), Some(2));
        assert_eq!(backlog.end(2, tick(15), true), Some(3));
        assert_eq!(backlog.end(2, tick(15), true), None);
        assert_eq!(backlog.nanos(9), 1);
        assert_eq!(backlog.end(1, tick(17), true), Some(7));
    }

    #[test]
    fn leases_that_are_restored_in_any_order_are_jobs_in_the_order_of_their_grants() {
        let mut backlog = Backlog::default();
        backlog.push(2, tick(12), Some(2));
        backlog.push(1, tick(10), Some(1));
        assert_eq!(backlog.began(), tick(10));
        assert_eq!(backlog.late_at(9), Some(tick(12)));
    }
}
